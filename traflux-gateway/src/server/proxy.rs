//! What happens to one request, from its head to the head of its answer?

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, RETRY_AFTER, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;
use traflux_core::Timestamp;

use super::answer;
use super::gateway::State;
use super::hosts::{Answering, Failed, Host, Received};
use super::intake::{ENCODED, LATE_BODY, in_one_form, read_facts, take_body, wants_websocket};
use super::live::Live;
use super::passing::{AnswerBody, Broken, Meter, Passing, RequestBody};
use super::racing::Runner;
use super::tokens::Shown;
use super::upstream::Upstream;
use crate::adapter::{self, Claims, Headers};
use crate::congestion::Feedback;
use crate::congestion::orca::load_report;
use crate::engine::{Decision, End, Forward, LimitTrace, Refusal};
use crate::outcome::Outcome;
use crate::request::{self, Client, TokenEstimate};
use crate::retry::Idempotence;
use crate::wire::{BodyKind, UsageReader};

/// Headers that belong to one connection (RFC 9110, section 7.6.1), beside those that `connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TRAILER,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
];
/// Where backends report their load (ORCA), also among the trailers of gRPC.
pub(super) const LOAD_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("endpoint-load-metrics"), HeaderName::from_static("endpoint-load-metrics-bin")];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its address, as backends are told.
    forwarded_for: HeaderValue,
    tls: bool,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, tls: bool) -> Self {
        // An address is visible ASCII.
        let forwarded_for = HeaderValue::try_from(address.ip().to_string());
        Self { forwarded_for: forwarded_for.unwrap_or(HeaderValue::from_static("unknown")), tls }
    }
}

/// What an answer of the gateway's own is made of before it is one.
pub(super) struct Wrong {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
}

pub(super) const fn wrong(status: StatusCode, code: &'static str, message: &'static str) -> Wrong {
    Wrong { status, code, message: Cow::Borrowed(message) }
}

pub(super) const BUFFERS_FULL: Wrong = wrong(
    StatusCode::SERVICE_UNAVAILABLE,
    "buffers_full",
    "the gateway holds as many bytes of bodies as it may; try again later",
);
const POOL_FULL: Wrong = wrong(
    StatusCode::SERVICE_UNAVAILABLE,
    "pool_full",
    "as much is under way to the backend as its pool allows",
);
const UNREACHABLE: Wrong = wrong(StatusCode::BAD_GATEWAY, "connect_failure", "the backend cannot be reached");
const BROKEN_OFF: Wrong =
    wrong(StatusCode::BAD_GATEWAY, "backend_reset", "the backend broke off before its answer");
const INVALID_TOKEN: Wrong =
    wrong(StatusCode::UNAUTHORIZED, "invalid_token", "the token is not valid, or not valid any more");

impl Live {
    /// What whoever has shown nothing that is known is told.
    fn unknown_client(&self) -> Wrong {
        if self.plan.identity.api_keys.is_empty() {
            wrong(StatusCode::UNAUTHORIZED, "missing_token", "no token was sent")
        } else {
            wrong(StatusCode::UNAUTHORIZED, "invalid_api_key", "no known API key was sent")
        }
    }
}

/// Answers one request.
pub(super) async fn serve(state: Arc<State>, peer: Peer, request: Request<Incoming>) -> Response<AnswerBody> {
    let version = request.version();
    match pass(&state, peer, request).await {
        Ok(response) => response,
        Err(wrong) => {
            state.tally.refused(wrong.code);
            let mut response = answer::error(wrong.status, wrong.code, &wrong.message);
            if wrong.status == StatusCode::SERVICE_UNAVAILABLE {
                // What is full is so until a request or a body has passed.
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            if wrong.code == ENCODED.code {
                // RFC 9110, section 12.5.3.
                response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            // What is left of the body is not read: the connection cannot go on (RFC 9112, section 9.3).
            let unread = matches!(
                wrong.status,
                StatusCode::PAYLOAD_TOO_LARGE
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::BAD_REQUEST
                    | StatusCode::UNSUPPORTED_MEDIA_TYPE
            ) || wrong.code == BUFFERS_FULL.code;
            if unread && version < Version::HTTP_2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

async fn pass(
    state: &Arc<State>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Wrong> {
    let live = state.live.load_full();
    let server = &live.plan.server;
    let deadline = Instant::now() + server.request_timeout;
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Err(wrong(StatusCode::METHOD_NOT_ALLOWED, "method", "this is no forward proxy"));
    }
    // It would show a client the head that backends are sent, with the key in it (RFC 9110, section 9.3.8).
    if parts.method == Method::TRACE {
        return Err(wrong(StatusCode::METHOD_NOT_ALLOWED, "method", "requests are not traced"));
    }
    if wants_websocket(&parts) {
        return Err(wrong(StatusCode::NOT_IMPLEMENTED, "upgrade", "this gateway passes no WebSocket"));
    }
    if parts.headers.get_all(CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(wrong(StatusCode::BAD_REQUEST, "content_type", "there is more than one content type"));
    }
    in_one_form(&mut parts);
    let shown = live.tokens.read(&mut parts.headers, &live.identity).map_err(|_| INVALID_TOKEN)?;
    let headers = Headers(&parts.headers);
    let (claims, client) = match &shown {
        Shown::Token(claims) => (&**claims, Some(live.identity.of_token(&headers, &**claims))),
        Shown::Claims(claims) => (claims, live.identity.resolve(&headers, claims)),
    };
    let Some(client) = client else { return Err(live.unknown_client()) };
    let body = take_body(state, &live, &parts, body).await?;
    let facts = match &body {
        RequestBody::Whole(Some(bytes)) => Some(read_facts(bytes, live.goes_by_bodies)?),
        _ => None,
    };
    let tokens = match &facts {
        // A body that could not be read is estimated as if all of it were the prompt.
        Some(facts) => facts.estimate(&live.plan.tokens),
        None => TokenEstimate::default(),
    };
    let asked = Asked {
        parts: &parts,
        client,
        claims,
        model: facts.as_ref().map_or("", |facts| facts.model.as_ref()),
        stream: facts.as_ref().is_some_and(|facts| facts.stream),
        prompt: facts.as_ref().map_or(&[], |facts| facts.prompt),
        bytes: match &body {
            RequestBody::Whole(Some(bytes)) => bytes.len() as u64,
            _ => 0,
        },
        max_answer: facts.as_ref().and_then(|facts| facts.max_answer),
        tokens,
        deadline: server.request_timeout,
    };
    // What was for this gateway is not for backends.
    let passes = live.tokens.passes(&shown);
    let (keyed, tokened) = (!client.key.is_empty() || passes == Some(false), passes == Some(true));
    let decision = decide(state, &live, &asked);
    let (model, stream) = (asked.model.to_owned(), asked.stream);
    let forward = match decision {
        Ok(Decision::Forward(forward)) => forward,
        // In boxes, here and below, is what few requests need: all of them would have room for it otherwise.
        Ok(other) => match Box::pin(settle_on(state, other, deadline)).await {
            Ok(forward) => forward,
            Err(refusal) => return Ok(refused(state, &live, &asked, refusal).answer(state, &live)),
        },
        Err(refused) => return Ok(refused.answer(state, &live)),
    };
    prepare(&mut parts, &peer, !model.is_empty() || stream);
    let Parts { method, uri, mut headers, .. } = parts;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut way = Way { state, live: &live, forward, deadline, model, stream, tokens };
    // A body that is gone once some of it was sent is given to one attempt, and comes back where nothing was.
    let (again, mut once) = match body {
        RequestBody::Whole(bytes) => {
            // It is written anew from what was read, whatever the client said.
            headers.remove(CONTENT_LENGTH);
            // Of methods that have a body, some backends refuse one whose length nobody states (RFC 9110, section 8.6).
            if bytes.is_none() && [Method::POST, Method::PUT, Method::PATCH].contains(&method) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            (Some(bytes), None)
        }
        stream => (None, Some(stream)),
    };
    let outgoing = Outgoing { live: &live, method, path, headers, keyed, tokened, body: again };
    loop {
        let until = way.until(&outgoing);
        let response = match once.take() {
            Some(body) => outgoing.send(state, &way.forward, body, until),
            None => outgoing.send_again(state, &way.forward, until),
        };
        let Some(response) = response else {
            return Err(wrong(StatusCode::BAD_GATEWAY, "unknown_backend", "the backend has left the plan"));
        };
        match way.attempt(response, until, &outgoing, &mut once).await {
            Attempt::Answered(response) => return Ok(response),
            Attempt::Again(next) => way = *next,
            Attempt::Failed(problem) => return Err(problem),
        }
    }
}

/// A request as it is sent to backends.
pub(super) struct Outgoing<'a> {
    live: &'a Live,
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    /// Whether the client has shown what was for this gateway.
    keyed: bool,
    /// Whether its token was verified and goes on.
    tokened: bool,
    /// What may be sent again; `None` for a body that is gone once it was sent.
    body: Option<Option<Bytes>>,
}

impl Outgoing<'_> {
    /// Sends it with a body; `None` when the plan in force does not know the backend.
    fn send(&self, state: &State, forward: &Forward, body: RequestBody, until: Instant) -> Option<Answering> {
        if let Some(target) = target(self.live, forward, &self.path) {
            return Some(self.send_to(target, body, until));
        }
        // Decided by a plan that came after this request.
        Some(self.send_to(target(&state.settled(), forward, &self.path)?, body, until))
    }

    /// Sends it as often as wanted; `None` also where that cannot be done.
    pub(super) fn send_again(&self, state: &State, forward: &Forward, until: Instant) -> Option<Answering> {
        self.send(state, forward, RequestBody::Whole(self.body.clone()?), until)
    }

    fn send_to(&self, (upstream, host, uri): Target<'_>, body: RequestBody, until: Instant) -> Answering {
        let mut headers = self.headers.clone();
        if self.tokened {
            upstream.pass_token(&mut headers);
        } else {
            upstream.authorize(&mut headers, self.keyed);
        }
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        host.request(request, until)
    }
}

/// The backend of an attempt, and where there the attempt goes.
type Target<'a> = (&'a Upstream, &'a Arc<Host>, Uri);

/// Where an attempt goes, if a plan knows that.
fn target<'a>(live: &'a Live, forward: &Forward, path: &PathAndQuery) -> Option<Target<'a>> {
    let upstream = live.upstreams.find(forward.backend())?;
    let (host, uri) = upstream.target(forward.url(), path)?;
    Some((upstream, host, uri))
}

/// What a request asks for.
struct Asked<'a> {
    parts: &'a Parts,
    client: Client<'a>,
    claims: &'a Claims,
    model: &'a str,
    stream: bool,
    prompt: &'a [u8],
    bytes: u64,
    max_answer: Option<u64>,
    tokens: TokenEstimate,
    deadline: Duration,
}

/// A refusal, with the limits that it is about.
struct Refused {
    refusal: Refusal,
    limits: Vec<LimitTrace>,
}

impl Refused {
    fn answer(&self, state: &State, live: &Live) -> Response<AnswerBody> {
        state.tally.refused(self.refusal.reason.code());
        answer::refusal(&self.refusal, &self.limits, &live.plan)
    }
}

impl Asked<'_> {
    /// Puts it to the engine.
    fn put<T>(&self, state: &State, put: impl FnOnce(&request::Request<'_>, Timestamp) -> T) -> T {
        let Self { parts, client, claims, .. } = *self;
        let now = state.clock.now();
        let host = adapter::host(&parts.uri, &parts.headers);
        let path = parts.uri.path();
        let request = request::Request {
            method: parts.method.as_str(),
            host: &host,
            path,
            query: parts.uri.query().unwrap_or_default(),
            headers: &Headers(&parts.headers),
            claims,
            client,
            model: self.model,
            tokens: self.tokens,
            max_answer: self.max_answer,
            stream: self.stream,
            // A model may be asked twice; of anything else the method and the client say whether it may.
            idempotence: if self.model.is_empty() {
                Idempotence::of_method(parts.method.as_str(), parts.headers.contains_key("idempotency-key"))
            } else {
                Idempotence::Idempotent
            },
            kind: kind(path, self.stream),
            prompt: self.prompt,
            bytes: self.bytes,
            deadline: Some(now + self.deadline),
        };
        put(&request, now)
    }
}

/// Asks the engine.
fn decide(state: &State, live: &Live, asked: &Asked<'_>) -> Result<Decision, Refused> {
    match asked.put(state, |request, now| state.engine.decide(request, now)) {
        Decision::Refuse(refusal) => Err(refused(state, live, asked, refusal)),
        decision => Ok(decision),
    }
}

/// A refusal with the limits that hold for the request, where it is one of them that refuses.
fn refused(state: &State, live: &Live, asked: &Asked<'_>, refusal: Refusal) -> Refused {
    let limits = if refusal.limit.is_some() && !live.plan.limits.is_empty() {
        asked.put(state, |request, now| state.engine.explain(request, now).limits)
    } else {
        Vec::new()
    };
    Refused { refusal, limits }
}

/// What kind of request it is: a person waits for a stream, nobody for a batch.
fn kind(path: &str, stream: bool) -> &'static str {
    if stream {
        "interactive"
    } else if path.contains("/batch") {
        "batch"
    } else if path.ends_with("/embeddings") {
        "embedding"
    } else {
        ""
    }
}

/// Waits in the queue where that was decided.
async fn settle_on(
    state: &Arc<State>,
    mut decision: Decision,
    deadline: Instant,
) -> Result<Forward, Refusal> {
    loop {
        decision = match decision {
            Decision::Forward(forward) => return Ok(forward),
            Decision::Refuse(refusal) => return Err(refusal),
            // The engine lets nobody wait beyond the request's deadline, which is this one.
            Decision::Later(later) => {
                tokio::time::sleep(later.after(state.clock.now())).await;
                later.go_on(state.clock.now())
            }
            Decision::Wait(waiting) => {
                let turn = state.waiters.wait(&state.engine, waiting);
                match tokio::time::timeout_at(deadline, turn).await {
                    Ok(Some(decision)) => decision,
                    Ok(None) | Err(_) => Decision::Refuse(Refusal {
                        reason: crate::engine::Reason::Saturated,
                        rule: None,
                        limit: None,
                        retry_after: None,
                    }),
                }
            }
        };
    }
}

/// A request on its way.
struct Way<'a> {
    state: &'a Arc<State>,
    live: &'a Arc<Live>,
    forward: Forward,
    deadline: Instant,
    model: String,
    stream: bool,
    tokens: TokenEstimate,
}

enum Attempt<'a> {
    Answered(Response<AnswerBody>),
    Again(Box<Way<'a>>),
    Failed(Wrong),
}

impl<'a> Way<'a> {
    /// When an attempt that begins now is given up.
    fn until(&self, outgoing: &Outgoing<'_>) -> Instant {
        let limit = self.live.timeout(self.forward.rule());
        let per_try = self.live.plan.retry.per_try_timeout.filter(|_| outgoing.body.is_some());
        let now = Instant::now();
        limit.into_iter().chain(per_try).map(|limit| now + limit).fold(self.deadline, Instant::min)
    }

    /// Waits for the head of a backend's answer, and decides what becomes of it. What cannot be sent again is given back
    /// in `once` where nothing of it was sent.
    async fn attempt(
        self,
        response: Answering,
        until: Instant,
        outgoing: &Outgoing<'_>,
        once: &mut Option<RequestBody>,
    ) -> Attempt<'a> {
        let Self { state, live, forward, deadline, model, stream, tokens } = self;
        let again = outgoing.body.is_some();
        let limit = live.timeout(forward.rule());
        let first = Runner::new(state, forward, response);
        let (Runner { forward, sent, row, .. }, head) = match first.forward.hedge_at().filter(|_| again) {
            None => first.alone(until).await,
            Some(_) => Box::pin(first.race(state, outgoing, until)).await,
        };
        let way = Self { state, live, forward, deadline, model, stream, tokens };
        let (outcome, problem) = match head {
            Some(Ok(response)) => {
                let (feedback, outcome) = read_head(&way.forward, &response);
                report_load(state, &way.forward, &way.model, response.headers());
                let may = again
                    && (outcome.is_failure() || outcome == Outcome::Limited)
                    && feedback.should_retry != Some(false);
                if !may {
                    return Attempt::Answered(way.answer(response, outcome, feedback, sent, limit, row));
                }
                row.ended(outcome);
                return match Box::pin(way.retry(outcome, &feedback)).await {
                    Ok(next) => {
                        row.retried();
                        Attempt::Again(Box::new(next))
                    }
                    // Nobody else can do it: the client gets what the backend said.
                    Err((way, _)) => Attempt::Answered(way.unmetered(response, limit, sent)),
                };
            }
            Some(Err(none)) => {
                if let Some(fault) = clients_fault(&none.why) {
                    row.ended(Outcome::ClientError);
                    way.forward.finish(state.clock.now(), &End::of(Outcome::Cancelled));
                    state.pump();
                    return Attempt::Failed(fault);
                }
                if !again {
                    *once = none.unsent;
                }
                if none.why.is_full() {
                    (Outcome::PoolFull, POOL_FULL)
                } else if none.why.is_connect() {
                    (Outcome::ConnectFailure, UNREACHABLE)
                } else {
                    (Outcome::Reset, BROKEN_OFF)
                }
            }
            None => (
                Outcome::Timeout,
                wrong(StatusCode::GATEWAY_TIMEOUT, "backend_timeout", "the backend did not answer in time"),
            ),
        };
        row.ended(outcome);
        if !again && once.is_none() || Instant::now() >= deadline {
            way.forward.finish(state.clock.now(), &End::of(outcome));
            state.pump();
            return Attempt::Failed(problem);
        }
        match Box::pin(way.retry(outcome, &Feedback::NONE)).await {
            Ok(next) => {
                row.retried();
                Attempt::Again(Box::new(next))
            }
            Err(_) => Attempt::Failed(problem),
        }
    }

    /// Settles this attempt and finds another, or says that there is none.
    async fn retry(self, outcome: Outcome, feedback: &Feedback) -> Result<Self, (Rest<'a>, Refusal)> {
        let Self { state, live, forward, deadline, model, stream, tokens } = self;
        let decision = forward.retry(state.clock.now(), &End { outcome, usage: None, feedback });
        state.pump();
        match settle_on(state, decision, deadline).await {
            Ok(forward) => {
                let left = deadline.saturating_duration_since(Instant::now());
                tokio::time::sleep(forward.send_after().min(left)).await;
                Ok(Self { state, live, forward, deadline, model, stream, tokens })
            }
            Err(refusal) => Err((Rest { live }, refusal)),
        }
    }

    fn answer(
        self,
        response: Response<Received>,
        outcome: Outcome,
        feedback: Feedback,
        sent: Instant,
        limit: Option<Duration>,
        row: Arc<super::tally::Row>,
    ) -> Response<AnswerBody> {
        let (parts, body) = taken_over(response, self.live);
        let kind =
            parts.headers.get(CONTENT_TYPE).and_then(|value| BodyKind::of_content_type(value.to_str().ok()?));
        let plain = parts.headers.get(CONTENT_ENCODING).is_none_or(|value| value == "identity");
        let streams = kind == Some(BodyKind::Stream);
        let meter = Meter {
            state: Arc::clone(self.state),
            live: Arc::clone(self.live),
            forward: self.forward,
            row,
            sent,
            outcome,
            feedback,
            reader: kind.filter(|_| plain && outcome == Outcome::Success).map(UsageReader::new),
            model: self.model,
            estimated_input: self.tokens.input,
            stream: streams,
            begun: false,
        };
        let until = limit.filter(|_| !streams).map(|limit| (sent + limit, limit));
        let idle = self.live.plan.server.stream_idle_timeout;
        let passing = Passing::new(body, Some(meter), idle, until);
        Response::from_parts(parts, AnswerBody::Passing(Box::new(passing)))
    }
}

/// What is left of a way when its forward has gone.
struct Rest<'a> {
    live: &'a Live,
}

impl Rest<'_> {
    fn unmetered(
        self,
        response: Response<Received>,
        limit: Option<Duration>,
        sent: Instant,
    ) -> Response<AnswerBody> {
        let (parts, body) = taken_over(response, self.live);
        let until = limit.map(|limit| (sent + limit, limit));
        let passing = Passing::new(body, None, self.live.plan.server.stream_idle_timeout, until);
        Response::from_parts(parts, AnswerBody::Passing(Box::new(passing)))
    }
}

/// Makes the client's head one for backends.
fn prepare(parts: &mut Parts, peer: &Peer, metered: bool) {
    // Whoever names the host twice means the one in the request line (RFC 9112, section 3.2.2), by which rules went too.
    let own = parts.uri.authority().map(|a| a.as_str().rsplit('@').next().unwrap_or_default());
    let own = own.and_then(|host| HeaderValue::from_str(host).ok());
    let headers = &mut parts.headers;
    // Trailers are the one thing that a hop may announce for the next (gRPC needs it).
    let trailers = headers.get(TE).is_some_and(|te| te == "trailers");
    remove_hop_by_hop(headers);
    headers.remove(TE);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(EXPECT);
    // RFC 9110, section 7.6.3: the version is that in which the request came here.
    let via = if parts.version == Version::HTTP_2 {
        "2.0 traflux"
    } else if parts.version == Version::HTTP_10 {
        "1.0 traflux"
    } else {
        "1.1 traflux"
    };
    headers.append(VIA, HeaderValue::from_static(via));
    let host = headers.remove(HOST);
    match own.or(host) {
        Some(host) => drop(headers.insert(X_FORWARDED_HOST, host)),
        // What a client says of itself there does not count.
        None => drop(headers.remove(X_FORWARDED_HOST)),
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if peer.tls { "https" } else { "http" }));
    let own = peer.forwarded_for.clone();
    if headers.contains_key(&X_FORWARDED_FOR) {
        let mut through = Vec::new();
        for value in headers.get_all(&X_FORWARDED_FOR) {
            through.extend_from_slice(value.as_bytes());
            through.extend_from_slice(b", ");
        }
        through.extend_from_slice(own.as_bytes());
        if let Ok(value) = HeaderValue::from_bytes(&through) {
            headers.insert(X_FORWARDED_FOR, value);
        }
    } else {
        headers.insert(X_FORWARDED_FOR, own);
    }
    if metered {
        // Usage cannot be read from what is compressed.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// Makes a backend's head one for clients.
fn taken_over(response: Response<Received>, live: &Live) -> (http::response::Parts, Received) {
    let (mut parts, body) = response.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    if !live.plan.congestion.pass_load_reports {
        for name in LOAD_HEADERS {
            parts.headers.remove(name);
        }
    }
    // The version is that of the hop (RFC 9112, section 2.3): where HTTP/1.0 was passed on, the end of the connection
    // would be that of the answer, and one that was torn would look whole.
    parts.version = Version::HTTP_11;
    (parts, body)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

pub(super) fn read_head(forward: &Forward, response: &Response<Received>) -> (Feedback, Outcome) {
    let pairs = response.headers().iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let feedback = Feedback::read(pairs, unix_now, forward.feedback_plan());
    let has_retry_after = response.headers().contains_key(RETRY_AFTER);
    (feedback, Outcome::of_status(response.status().as_u16(), has_retry_after))
}

/// Tells the engine what a backend says of its load.
pub(super) fn report_load(state: &State, forward: &Forward, model: &str, headers: &HeaderMap) {
    let report = LOAD_HEADERS
        .iter()
        .filter_map(|name| headers.get(name))
        .find_map(|value| load_report(value.as_bytes()));
    if let Some(report) = report {
        forward.report_load(state.clock.now(), model, report);
    }
}

/// What the client did wrong, where an attempt failed because of the body that it sent.
fn clients_fault(failed: &Failed) -> Option<Wrong> {
    Some(match failed.of_body()? {
        Broken::RequestLate => LATE_BODY,
        Broken::Undeclared => {
            let message = "the body is an object of JSON: its content type has to say so";
            wrong(StatusCode::BAD_REQUEST, "request_body", message)
        }
        _ => {
            let message = "the body of the request is too long, malformed or broke off";
            wrong(StatusCode::BAD_REQUEST, "request_body", message)
        }
    })
}
