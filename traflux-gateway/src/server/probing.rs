//! How are endpoints asked whether they are well?
//!
//! The engine says which questions are due; they go out through the connections, and with the TLS and the key, that
//! requests use. No endpoint has two questions at a time, and all together no more than [`MOST_AT_ONCE`].

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use traflux_core::PlanError;
use traflux_core::plan::health::ProbeKind as PlannedKind;
use traflux_core::plan::requests::RequestPlan;

use super::gateway::State;
use super::hosts::Received;
use super::passing::RequestBody;
use super::upstream::Upstream;
use crate::engine::ProbeQuestion;
use crate::health::{ProbeKind, ProbeResult};

/// Open questions.
const MOST_AT_ONCE: usize = 256;
/// How often it is looked whether a question is due.
const TICK: Duration = Duration::from_millis(20);
/// Bytes of an answer that are read, so that its connection can be used again.
const MOST_BYTES: usize = 64 * 1024;
/// The path of `grpc.health.v1.Health/Check`.
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse { status: SERVING }`: field 1, varint 1.
const GRPC_SERVING: [u8; 2] = [0x08, 0x01];

/// Asks, for as long as the gateway lives.
pub(super) async fn probe(state: Arc<State>) {
    let mut asking = JoinSet::new();
    loop {
        while asking.try_join_next().is_some() {}
        let room = MOST_AT_ONCE - asking.len().min(MOST_AT_ONCE);
        for question in state.engine.probes(state.clock.now(), room) {
            let state = Arc::clone(&state);
            asking.spawn(async move {
                let left = question.give_up.since(state.clock.now());
                let well = tokio::time::timeout(left, ask(&state, &question)).await.unwrap_or(false);
                let result = if well { ProbeResult::Passed } else { ProbeResult::Failed };
                state.engine.on_probe(state.clock.now(), &question, result);
            });
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn ask(state: &State, question: &ProbeQuestion) -> bool {
    let live = state.settled();
    let Some(upstream) = live.upstreams.find(&question.backend) else { return false };
    match &question.kind {
        ProbeKind::Http { path, method, host, .. } => {
            let Some(parts) = Parts::read(path, method, host) else { return false };
            let Some(response) = parts.send(upstream, &question.url, None).await else { return false };
            let well = question.kind.expects(response.status().as_u16());
            // How the body ends says nothing about health.
            let _ = Limited::new(response.into_body(), MOST_BYTES).collect().await;
            well
        }
        ProbeKind::Tcp => match upstream.host_and_port(&question.url) {
            Some(address) => TcpStream::connect(address).await.is_ok(),
            None => false,
        },
        ProbeKind::Grpc { service } => {
            let Some(mut parts) = Parts::read(GRPC_CHECK, "POST", "") else { return false };
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            parts.headers.insert(TE, HeaderValue::from_static("trailers"));
            let body = grpc_question(service);
            let Some(response) = parts.send(upstream, &question.url, Some(body)).await else { return false };
            if !response.status().is_success() {
                return false;
            }
            let Ok(body) = Limited::new(response.into_body(), MOST_BYTES).collect().await else {
                return false;
            };
            let fine = |trailers: &HeaderMap| {
                trailers.get(HeaderName::from_static("grpc-status")).is_some_and(|status| status == "0")
            };
            body.trailers().is_some_and(fine) && body.to_bytes().get(5..) == Some(&GRPC_SERVING[..])
        }
    }
}

/// `HealthCheckRequest { service }` as one uncompressed message.
fn grpc_question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    // Checked when the plan was read to fit one byte of length.
    if let (false, Ok(length)) = (service.is_empty(), u8::try_from(service.len())) {
        message.extend_from_slice(&[0x0a, length]);
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = BytesMut::from(&[0][..]);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// The head of a question.
struct Parts {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
}

impl Parts {
    /// `None` for what HTTP does not allow.
    fn read(path: &str, method: &str, host: &str) -> Option<Self> {
        let method = if method.is_empty() { "GET" } else { method };
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("traflux-probe"));
        if !host.is_empty() {
            headers.insert(HOST, HeaderValue::from_str(host).ok()?);
        }
        Some(Self {
            method: Method::from_bytes(method.as_bytes()).ok()?,
            path: PathAndQuery::try_from(path).ok()?,
            headers,
        })
    }

    async fn send(
        self,
        upstream: &Upstream,
        url: &str,
        body: Option<Bytes>,
    ) -> Option<http::Response<Received>> {
        let mut request = Request::new(RequestBody::Whole(body));
        *request.method_mut() = self.method;
        // A path of the host, whatever path the address has.
        *request.uri_mut() = Uri::from(self.path);
        *request.headers_mut() = self.headers;
        upstream.authorize(request.headers_mut(), false);
        upstream.host(url)?.ask(request).await.ok()
    }
}

/// Checks that the questions of a plan can be asked.
///
/// # Errors
/// [`PlanError::Key`] for a method, path or host that HTTP does not allow, and for gRPC without HTTP/2.
pub(super) fn check(plan: &RequestPlan) -> Result<(), PlanError> {
    let wrong = |problem: String| Err(PlanError::Key { path: "health.probe.probe".into(), problem });
    let probed = plan.routes().filter(|(_, route)| route.health_check == Some(true));
    match &plan.health.probe.probe {
        PlannedKind::Http { path, method, host, .. } if Parts::read(path, method, host).is_none() => {
            wrong(format!("`{method} {path}` to host `{host}` is no request of HTTP"))
        }
        PlannedKind::Grpc { service } if service.len() > 127 => {
            wrong(format!("a service of {} bytes, at most 127", service.len()))
        }
        PlannedKind::Grpc { .. } => {
            let names = probed.flat_map(|(_, route)| route.backend_names());
            let old = |name: &&str| plan.backends.get(*name).is_some_and(|backend| !backend.http2);
            match names.into_iter().find(old) {
                Some(name) => wrong(format!("gRPC needs `http2: true` of backend `{name}`")),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_of_grpc_is_framed_as_its_protocol_says() {
        assert_eq!(grpc_question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_question("ab").as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
    }

    #[test]
    fn a_question_that_cannot_be_asked_is_refused_with_its_path() {
        let plan = |probe: &str, http2: bool| {
            let json = format!(
                r#"{{"backends": {{"a": {{"url": "http://h", "http2": {http2}}}}}, "health": {{"probe": {{"probe": {probe}}}}},
                "routing": {{"default": {{"backend": "a", "health_check": true}}}}}}"#
            );
            serde_json::from_str::<RequestPlan>(&json).unwrap_or_else(|e| panic!("{e}"))
        };
        let problem = |probe, http2| check(&plan(probe, http2)).err().map(|error| error.to_string());
        assert_eq!(problem(r#"{"kind": "http", "path": "/x"}"#, false), None);
        assert_eq!(
            problem(r#"{"kind": "http", "path": "/x", "method": "A B"}"#, false).as_deref(),
            Some("health.probe.probe: `A B /x` to host `` is no request of HTTP")
        );
        assert_eq!(problem(r#"{"kind": "grpc"}"#, true), None);
        assert_eq!(
            problem(r#"{"kind": "grpc"}"#, false).as_deref(),
            Some("health.probe.probe: gRPC needs `http2: true` of backend `a`")
        );
    }
}
