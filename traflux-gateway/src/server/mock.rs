//! What does an AI backend look like that costs nothing and needs no key?
//!
//! An HTTP server on this machine that answers chat completions in the common form, in one piece or as a stream,
//! with the latencies, rate limits and failures that it is told, and shows its queue and the use of its cache at
//! `/metrics` as vLLM does. For demonstrations, tests and benches; the text that it writes is always the same.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{RequestFacts, Rng};

/// How a mock behaves.
#[derive(Debug, Clone, PartialEq)]
pub struct MockSettings {
    /// Its name, which it writes into its answers.
    pub name: String,
    /// Median time to the first token.
    pub first_token: Duration,
    /// Spread of that time: standard deviation of its logarithm.
    pub spread: f64,
    /// Tokens per second of one answer; as fast as possible at 0.
    pub tokens_per_second: f64,
    /// Tokens of an answer, where the request asks for no fewer.
    pub output_tokens: u64,
    /// Requests that it works on at once; more wait.
    pub slots: usize,
    /// Requests per minute that it takes, beyond which it answers 429; no limit at 0.
    pub requests_per_minute: u64,
    /// Share of requests that it answers with 500.
    pub failure_share: f64,
    /// Share of requests whose first token comes later by [`stall`](Self::stall).
    pub stall_share: f64,
    /// How much later.
    pub stall: Duration,
    /// Seed of its latencies and failures.
    pub seed: u64,
}

impl Default for MockSettings {
    fn default() -> Self {
        Self {
            name: "mock".into(),
            first_token: Duration::ZERO,
            spread: 0.0,
            tokens_per_second: 0.0,
            output_tokens: 16,
            slots: 1 << 20,
            requests_per_minute: 0,
            failure_share: 0.0,
            stall_share: 0.0,
            stall: Duration::ZERO,
            seed: 1,
        }
    }
}

/// A mock that runs until it is dropped.
#[derive(Debug)]
pub struct MockBackend {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    settings: MockSettings,
    slots: Arc<Semaphore>,
    requests: AtomicU64,
    probes: AtomicU64,
    scrapes: AtomicU64,
    /// Requests that wait for a slot.
    waiting: AtomicUsize,
    open: AtomicUsize,
    /// Requests of the minute at hand: minute in the upper half, count in the lower.
    minute: AtomicU64,
    started: Instant,
    /// Whether it fails everything, for demonstrations.
    down: AtomicBool,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl MockBackend {
    /// Starts on a free port of this machine.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(settings: MockSettings) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            slots: Arc::new(Semaphore::new(settings.slots.min(Semaphore::MAX_PERMITS))),
            settings,
            requests: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            scrapes: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            minute: AtomicU64::new(0),
            started: Instant::now(),
            down: AtomicBool::new(false),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { address, state, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests so far, refused ones among them.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Questions so far whether it is well.
    #[must_use]
    pub fn probes(&self) -> u64 {
        self.state.probes.load(Ordering::Relaxed)
    }

    /// Looks so far at its metrics.
    #[must_use]
    pub fn scrapes(&self) -> u64 {
        self.state.scrapes.load(Ordering::Relaxed)
    }

    /// Requests that wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::Relaxed)
    }

    /// Answers that are being written.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::Relaxed)
    }

    /// Makes it fail everything, or work again.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::Relaxed);
    }
}

impl Drop for MockBackend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // No file left: wait for one to be closed.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Tokens are small and must not wait for each other.
        let _ = socket.set_nodelay(true);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(answer(&state, request).await) }
            });
            // A client that goes away in the middle is nothing to a mock.
            let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            builder.http2().max_concurrent_streams(None);
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let mut response = route(state, request).await;
    state.tell_limits(response.headers_mut());
    response
}

async fn route(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() == "/health" {
        state.probes.fetch_add(1, Ordering::Relaxed);
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/health") if state.down.load(Ordering::Relaxed) => {
            plain(StatusCode::SERVICE_UNAVAILABLE, "down")
        }
        (&Method::GET, "/health") => plain(StatusCode::OK, "ok"),
        (&Method::GET, "/metrics") => {
            state.scrapes.fetch_add(1, Ordering::Relaxed);
            let text = Full::new(Bytes::from(state.metrics()));
            respond(StatusCode::OK, "text/plain; version=0.0.4", text.boxed_unsync())
        }
        (&Method::POST, _) => complete(state, request).await,
        _ => plain(StatusCode::NOT_FOUND, "no such path"),
    }
}

async fn complete(state: &Arc<State>, request: Request<Incoming>) -> Response<Body> {
    let embeds = request.uri().path().ends_with("/embeddings");
    let number = state.requests.fetch_add(1, Ordering::Relaxed);
    let settings = &state.settings;
    let Ok(body) = Limited::new(request.into_body(), 64 * 1024 * 1024).collect().await else {
        return error(StatusCode::BAD_REQUEST, "the body did not come");
    };
    let body = body.to_bytes();
    let Ok(facts) = RequestFacts::read(&body) else {
        return error(StatusCode::BAD_REQUEST, "the body is no JSON object");
    };
    if let Err(wait) = state.admit() {
        let mut refused = error(StatusCode::TOO_MANY_REQUESTS, "rate limit reached");
        let seconds = wait.as_secs().max(1).into();
        refused.headers_mut().insert(hyper::header::RETRY_AFTER, seconds);
        return refused;
    }
    let mut rng = Rng::stream(settings.seed, number);
    if state.down.load(Ordering::Relaxed) || rng.uniform() < settings.failure_share {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the mock fails as it was told");
    }
    let Some(slot) = state.slot().await else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "closed");
    };
    let mut first = settings.first_token.mul_f64((settings.spread * normal(&mut rng)).exp());
    if settings.stall_share > 0.0 && rng.uniform() < settings.stall_share {
        first += settings.stall;
    }
    if !first.is_zero() {
        tokio::time::sleep(first).await;
    }
    let input = facts.prompt.len().div_ceil(4) as u64;
    let output =
        facts.max_output.map_or(settings.output_tokens, |most| most.min(settings.output_tokens)).max(1);
    let model = facts.model.replace(['"', '\\'], "");
    if embeds {
        let json = format!(
            r#"{{"object":"list","model":"{model}","data":[{{"object":"embedding","index":0,"embedding":[0.6,0.8]}}],"usage":{{"prompt_tokens":{input},"total_tokens":{input}}}}}"#
        );
        return respond(StatusCode::OK, "application/json", Full::new(json.into()).boxed_unsync());
    }
    let usage = format!(
        r#"{{"prompt_tokens":{input},"completion_tokens":{output},"total_tokens":{}}}"#,
        input + output
    );
    if facts.stream {
        return state.stream(&model, facts.stream_usage.then_some(usage), output, slot);
    }
    if settings.tokens_per_second > 0.0 {
        tokio::time::sleep(Duration::from_secs_f64(output as f64 / settings.tokens_per_second)).await;
    }
    let text = "word ".repeat(usize::try_from(output).unwrap_or(0));
    let json = format!(
        r#"{{"id":"{name}-{number}","object":"chat.completion","model":"{model}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"usage":{usage}}}"#,
        name = settings.name,
    );
    respond(StatusCode::OK, "application/json", Full::new(json.into()).boxed_unsync())
}

impl State {
    /// A place to work in, once there is one. The semaphore is never closed.
    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        /// One that waits, also where its client goes away.
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// Its load in the words of vLLM. Each request fills as much of the cache as each slot has.
    fn metrics(&self) -> String {
        let slots = self.settings.slots.min(Semaphore::MAX_PERMITS);
        let running = slots - self.slots.available_permits().min(slots);
        format!(
            "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{engine=\"0\"}} {running}\n\
             # TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{{engine=\"0\"}} {}\n\
             # TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{{engine=\"0\"}} {}\n",
            self.waiting.load(Ordering::Relaxed),
            running as f64 / slots.max(1) as f64,
        )
    }

    /// Counts a request of this minute, or says how long until the next.
    fn admit(&self) -> Result<(), Duration> {
        let limit = self.settings.requests_per_minute;
        if limit == 0 {
            return Ok(());
        }
        let elapsed = self.started.elapsed();
        let minute = elapsed.as_secs() / 60;
        let counted = self.minute.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let count = if word >> 32 == minute { word & 0xffff_ffff } else { 0 };
            (count < limit).then_some(minute << 32 | (count + 1))
        });
        counted.map(|_| ()).map_err(|_| Duration::from_secs((minute + 1) * 60).saturating_sub(elapsed))
    }

    /// Where its clients stand with its limit, as providers say it.
    fn tell_limits(&self, headers: &mut hyper::HeaderMap) {
        let limit = self.settings.requests_per_minute;
        if limit == 0 {
            return;
        }
        let elapsed = self.started.elapsed();
        let minute = elapsed.as_secs() / 60;
        let word = self.minute.load(Ordering::Relaxed);
        let used = if word >> 32 == minute { word & 0xffff_ffff } else { 0 };
        let reset = Duration::from_secs((minute + 1) * 60).saturating_sub(elapsed);
        headers.insert("x-ratelimit-limit-requests", limit.into());
        headers.insert("x-ratelimit-remaining-requests", limit.saturating_sub(used).into());
        // Seconds without a unit: all comes back at once.
        headers.insert("x-ratelimit-reset-requests", reset.as_secs().max(1).into());
    }

    fn stream(
        self: &Arc<Self>,
        model: &str,
        usage: Option<String>,
        output: u64,
        slot: OwnedSemaphorePermit,
    ) -> Response<Body> {
        let pause = if self.settings.tokens_per_second > 0.0 {
            Duration::from_secs_f64(1.0 / self.settings.tokens_per_second)
        } else {
            Duration::ZERO
        };
        let token = Bytes::from(format!(
            "data: {{\"object\":\"chat.completion.chunk\",\"model\":\"{model}\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"word \"}}}}]}}\n\n"
        ));
        let mut end = String::new();
        if let Some(usage) = usage {
            end = format!(
                "data: {{\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":{usage}}}\n\n"
            );
        }
        end.push_str("data: [DONE]\n\n");
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = Open { state: Arc::clone(self), _slot: slot };
        let frames = stream::unfold((0, open), move |(sent, open)| {
            let (token, end) = (token.clone(), end.clone());
            async move {
                if sent > output {
                    return None;
                }
                if sent > 0 && !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let frame = if sent < output { token } else { Bytes::from(end) };
                Some((Ok(Frame::data(frame)), (sent + 1, open)))
            }
        });
        respond(StatusCode::OK, "text/event-stream", StreamBody::new(frames).boxed_unsync())
    }
}

/// An answer that is being written.
struct Open {
    state: Arc<State>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.state.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A standard normal number (Box and Muller 1958).
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.uniform()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.uniform()).cos()
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    respond(status, "text/plain", Full::new(Bytes::from_static(text.as_bytes())).boxed_unsync())
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    let json = format!(r#"{{"error":{{"message":"{message}","type":"mock","code":"{}"}}}}"#, status.as_u16());
    respond(status, "application/json", Full::new(json.into()).boxed_unsync())
}
