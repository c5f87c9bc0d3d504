//! How is a gateway looked into while it runs?
//!
//! | path | what |
//! |---|---|
//! | `GET /healthz` | 200 while it runs |
//! | `GET /readyz` | 200, and 503 once it drains |
//! | `GET /metrics` | counters in the text format of Prometheus |
//! | `GET /status` | connections, requests that wait, and whether certificates and keys are those of their files |
//! | `GET /queue` | who waits, how long, at which place and when they start, as JSON; `?limit=` requests of each queue |
//! | `GET /probes` | what endpoints answered when they were asked how they are |
//! | `GET /anomalies` | what is unusual, how fairly the last minute was shared, how long limits last |
//! | `POST /explain` | why a request goes where it goes; the request as JSON |
//! | `GET /levels` | the same for limits alone |
//! | `POST /reload` | a plan as JSON to put in force; needs the token |
//!
//! It listens beyond this machine only when there is a token (`server.admin_key`). Then everything but health needs it,
//! as `authorization: Bearer`; on this machine only what changes something does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use traflux_core::plan::requests::RequestPlan;

use super::gateway::State;
use super::lingering::Lingering;
use super::queues;
use crate::engine::{Explanation, ProbeStatus};
use crate::observe::Format;
use crate::observe::exposition::Escaped;
use crate::request::{self, Client, TokenEstimate};

/// Connections at once.
const MOST_CONNECTIONS: usize = 64;
/// Bytes of a plan or of a description.
const MOST_BYTES: usize = 4 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn serve(listener: TcpListener, state: Arc<State>) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Of an address that cannot be told, the worst is thought.
    let beyond = listener.local_addr().map_or(true, |address| !address.ip().is_loopback());
    let mut connections = tokio::task::JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        // Whoever reads no answer loses the place, as clients do.
        let patience = state.live.load().plan.server.stream_idle_timeout.min(PATIENCE);
        let socket = Lingering::new(socket, permit, patience);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(&state, beyond, request).await) }
            });
            // A connection that breaks concerns nobody else.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

/// A request as `/explain` reads it; every field may be absent.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Description {
    method: String,
    host: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    claims: BTreeMap<String, String>,
    tenant: String,
    key: String,
    user: String,
    user_tier: String,
    model: String,
    input_tokens: u64,
    output_tokens: u64,
    stream: bool,
}

impl Default for Description {
    fn default() -> Self {
        Self {
            method: "POST".into(),
            host: String::new(),
            path: "/".into(),
            query: String::new(),
            headers: BTreeMap::new(),
            claims: BTreeMap::new(),
            tenant: String::new(),
            key: String::new(),
            user: String::new(),
            user_tier: String::new(),
            model: String::new(),
            input_tokens: 0,
            output_tokens: 0,
            stream: false,
        }
    }
}

impl Description {
    fn explain(mut self, state: &State) -> Explanation {
        self.headers =
            self.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        let request = request::Request {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            claims: &self.claims,
            client: Client {
                tenant: &self.tenant,
                key: &self.key,
                user: &self.user,
                user_tier: &self.user_tier,
            },
            model: &self.model,
            tokens: TokenEstimate { input: self.input_tokens, output: self.output_tokens },
            stream: self.stream,
            ..request::Request::default()
        };
        state.engine.explain(&request, state.clock.now())
    }
}

async fn answer(state: &Arc<State>, beyond: bool, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    if needs_token(parts.uri.path(), beyond)
        && let Some(refused) = unauthorized(state, &parts.headers)
    {
        return refused;
    }
    match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") if *state.draining.borrow() => {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        }
        (&Method::GET, "/readyz") => text(StatusCode::OK, "ready\n"),
        (&Method::GET, "/metrics") => {
            let counted = state.engine.scrape(state.clock.now(), Format::Prometheus);
            let kept = state.keeper.as_ref().map(|keeper| keeper.exposition()).unwrap_or_default();
            let asked = exposition(&state.engine.probe_statuses()) + &state.scrapes.exposition();
            let recorded =
                state.recording.as_ref().map(|recording| recording.exposition()).unwrap_or_default();
            let own = state.tally.exposition()
                + &state.renewals.exposition()
                + &kept
                + &asked
                + &recorded
                + &state.shown.text();
            let mut response = text(StatusCode::OK, counted + &own);
            let kind = HeaderValue::from_static("text/plain; version=0.0.4");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        (&Method::GET, "/probes") => text(StatusCode::OK, table(&state.engine.probe_statuses())),
        (&Method::GET, "/status") => text(StatusCode::OK, status(state)),
        (&Method::GET, "/queue") => {
            let query = parts.uri.query().unwrap_or_default();
            match queues::answer(&state.engine, state.clock.now(), query) {
                Ok(queues) => {
                    let mut response = text(StatusCode::OK, queues);
                    let kind = HeaderValue::from_static("application/json");
                    response.headers_mut().insert(CONTENT_TYPE, kind);
                    response
                }
                Err(problem) => text(StatusCode::BAD_REQUEST, problem),
            }
        }
        (&Method::GET, "/anomalies") => text(StatusCode::OK, unusual(state)),
        (&Method::GET, "/levels") => {
            let query = parts.uri.query().unwrap_or_default();
            let mut asked = Description::default();
            for (name, value) in form_urlencoded::parse(query.as_bytes()) {
                match name.as_ref() {
                    "tenant" => asked.tenant = value.into_owned(),
                    "key" => asked.key = value.into_owned(),
                    "user" => asked.user = value.into_owned(),
                    "user_tier" => asked.user_tier = value.into_owned(),
                    "model" => asked.model = value.into_owned(),
                    "path" => asked.path = value.into_owned(),
                    _ => return text(StatusCode::BAD_REQUEST, format!("unknown parameter `{name}`\n")),
                }
            }
            let limits = asked.explain(state).limits;
            let limits = Explanation {
                rules: Vec::new(),
                algorithm: None,
                candidates: Vec::new(),
                limits,
                refusal: None,
            };
            text(StatusCode::OK, limits.to_string())
        }
        (&Method::POST, "/explain") => match read::<Description>(body).await {
            Ok(asked) => text(StatusCode::OK, asked.explain(state).to_string()),
            Err(problem) => text(StatusCode::BAD_REQUEST, problem),
        },
        (&Method::POST, "/reload") => match read::<RequestPlan>(body).await {
            Ok(plan) => match state.reload(&plan) {
                Ok(()) => text(StatusCode::OK, "in force\n"),
                Err(error) => text(StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")),
            },
            Err(problem) => text(StatusCode::BAD_REQUEST, problem),
        },
        _ => text(StatusCode::NOT_FOUND, "no such path\n"),
    }
}

/// One line per endpoint.
fn table(statuses: &[ProbeStatus]) -> String {
    let mut table = String::new();
    for status in statuses {
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{} {}: {}, {} passed, {} failed",
            status.backend,
            status.url,
            status.state.name(),
            status.passed,
            status.failed
        );
    }
    table
}

/// The same in the text format of Prometheus.
fn exposition(statuses: &[ProbeStatus]) -> String {
    let mut text = String::new();
    if statuses.is_empty() {
        return text;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# TYPE traflux_gateway_probe_healthy gauge");
    for ProbeStatus { backend, url, usable, .. } in statuses {
        let (backend, url) = (Escaped(backend), Escaped(url));
        let _ = writeln!(
            text,
            "traflux_gateway_probe_healthy{{backend=\"{backend}\",url=\"{url}\"}} {}",
            u8::from(*usable)
        );
    }
    let _ = writeln!(text, "# TYPE traflux_gateway_probes_total counter");
    for ProbeStatus { backend, url, passed, failed, .. } in statuses {
        let (backend, url) = (Escaped(backend), Escaped(url));
        for (result, count) in [("passed", passed), ("failed", failed)] {
            let _ = writeln!(
                text,
                "traflux_gateway_probes_total{{backend=\"{backend}\",url=\"{url}\",result=\"{result}\"}} {count}"
            );
        }
    }
    text
}

/// What is unusual, how fairly the last minute was shared and how long limits last.
fn unusual(state: &State) -> String {
    let mut shown = String::new();
    let mut line = |text: String| {
        shown.push_str(&text);
        shown.push('\n');
    };
    let anomalies = state.engine.anomalies();
    if anomalies.is_empty() {
        line("nothing is unusual".to_owned());
    }
    for anomaly in anomalies {
        line(format!("unusual: {anomaly}"));
    }
    if let Some(fairness) = state.engine.fairness() {
        line(format!("Jain's index among {} tenants: {:.3}", fairness.tenants, fairness.jain));
    }
    for (limit, exhaustion) in state.engine.exhaustion() {
        let days = |within: Option<Duration>| {
            within.map_or_else(
                || "not in sight".to_owned(),
                |w| format!("{:.1} days", w.as_secs_f64() / 86_400.0),
            )
        };
        line(format!(
            "limit `{limit}` is reached: {} (earliest: {})",
            days(exhaustion.within),
            days(exhaustion.earliest)
        ));
    }
    shown
}

/// Whether a path is for holders of the token, seen from this machine or from beyond it.
fn needs_token(path: &str, beyond: bool) -> bool {
    if beyond { !matches!(path, "/healthz" | "/readyz") } else { path == "/reload" }
}

/// How the process is.
fn status(state: &State) -> String {
    let renewal = match state.renewals.problem() {
        None => "those of their files".to_owned(),
        Some(error) => format!("older than their files: {error}"),
    };
    format!(
        "connections: {} open, at most {}\nrequests that wait: {}\nbodies that are held: {} bytes\ncertificates and keys: {renewal}\n",
        state.connections.load(Ordering::Relaxed),
        state.live.load().plan.server.max_connections,
        state.waiters.len(),
        state.buffers.bytes(),
    )
}

/// Why the sender may change nothing; `None` for the holder of the token. Hashes are compared, so that the time it
/// takes says nothing about the token.
fn unauthorized(state: &State, headers: &http::HeaderMap) -> Option<Response<Full<Bytes>>> {
    let live = state.live.load();
    let Some(key) = &live.admin_key else {
        let off = "this is off: the gateway has no administrative token\n";
        return Some(text(StatusCode::FORBIDDEN, off));
    };
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if shown.is_some_and(|shown| Sha256::digest(shown) == Sha256::digest(key.as_bytes())) {
        return None;
    }
    Some(text(StatusCode::UNAUTHORIZED, "the administrative token is missing or wrong\n"))
}

async fn read<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, String> {
    let body = tokio::time::timeout(PATIENCE, Limited::new(body, MOST_BYTES).collect());
    let body = match body.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Err(format!("the body broke off or is beyond {MOST_BYTES} bytes\n")),
        Err(_) => return Err(format!("the body did not come within {PATIENCE:?}\n")),
    };
    serde_json::from_slice(&body).map_err(|error| format!("{error}\n"))
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_beyond_this_machine_only_health_is_open() {
        for (path, here, beyond) in [
            ("/healthz", false, false),
            ("/readyz", false, false),
            ("/metrics", false, true),
            ("/explain", false, true),
            ("/queue", false, true),
            ("/no-such-path", false, true),
            ("/reload", true, true),
        ] {
            assert_eq!((needs_token(path, false), needs_token(path, true)), (here, beyond), "{path}");
        }
    }
}
