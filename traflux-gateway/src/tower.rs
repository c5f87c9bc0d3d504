//! How does a Tower service get a backend chosen for each request?
//!
//! [`TrafluxLayer`] asks the [`Engine`] about each request, lets it wait where the engine says so, puts
//! the [`Chosen`] backend into the request's extensions, calls the inner service, and settles when the body of the
//! answer has ended, failed or been dropped. Usage is read from bodies of JSON and of server-sent events as they pass.
//!
//! Where a limit has a `max_wait_ms`, requests wait by tokio's timer: the layer then has to be called within a runtime of
//! tokio whose time is enabled, and panics elsewhere. All else runs on any executor.
//!
//! Rules see paths in their one form ([`normal_path`]); the inner service gets the request as it was written. Load
//! reports of backends (ORCA) are not read: the inner service tells them by [`Engine::report_load`].
//!
//! A request that is refused never reaches the inner service: the outcome is an `Err(`[`Refused`]`)`, to be turned
//! into an answer by whoever stands outside. The layer never tries again, for it cannot send a body twice; put a retry
//! layer outside, and each try is decided anew.
//!
//! ```
//! use http::{Request, Response};
//! use tower_layer::Layer;
//! use tower_service::Service;
//! use traflux_gateway::adapter::Clock;
//! use traflux_gateway::tower::{Chosen, TrafluxLayer};
//! use traflux_gateway::{Engine, EngineSettings};
//! # use std::convert::Infallible;
//! # use std::future::{Ready, ready};
//! # use std::task::{Context, Poll};
//!
//! # #[derive(Clone)]
//! struct Send;
//!
//! impl Service<Request<String>> for Send {
//!     # type Response = Response<String>;
//!     # type Error = Infallible;
//!     # type Future = Ready<Result<Response<String>, Infallible>>;
//!     # fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> { Poll::Ready(Ok(())) }
//!     // ...
//!     fn call(&mut self, request: Request<String>) -> Self::Future {
//!         let chosen = request.extensions().get::<Chosen>().expect("the layer has put it there");
//!         ready(Ok(Response::new(format!("sent to {}", chosen.url))))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = serde_json::from_str(
//!     r#"{"backends": {"a": {"url": "http://10.0.0.1"}}, "routing": {"default": {"backend": "a"}}}"#,
//! )?;
//! let clock = Clock::start();
//! let engine = Engine::new(&plan, &EngineSettings::default(), clock.now())?;
//! let mut service = TrafluxLayer::new(engine, clock).layer(Send);
//! let answer = service.call(Request::post("/v1/chat").body(String::new())?);
//! # let answer = tokio::runtime::Builder::new_current_thread().build()?.block_on(answer)?;
//! assert_eq!(answer.body().inner(), "sent to http://10.0.0.1");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use traflux_core::Timestamp;

use crate::adapter::{self, Claims, Clock, Headers, Waiters};
use crate::congestion::Feedback;
use crate::engine::{Decision, End, Engine, Forward, Refusal};
use crate::outcome::Outcome;
use crate::request::{self, Client, TokenEstimate};
use crate::retry::Idempotence;
use crate::rule::normal_path;
use crate::wire::{BodyKind, UsageReader};

/// Where a request goes; among the extensions of the request that the inner service gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Name of the backend.
    pub backend: String,
    /// Its base URL.
    pub url: String,
    /// The rule that decided.
    pub rule: String,
}

/// What is known of a request beside its head; put it into the extensions of the request before the layer sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Whose limits and fair share it draws on.
    pub tenant: String,
    /// Name of the API key.
    pub key: String,
    /// End user.
    pub user: String,
    /// Tier.
    pub user_tier: String,
    /// Model asked for.
    pub model: String,
    /// Tokens that it will use.
    pub tokens: TokenEstimate,
    /// Whether the answer is asked for as a stream.
    pub stream: bool,
    /// What kind of request it is, for bands of the queue.
    pub kind: String,
    /// Claims of its token, verified.
    pub claims: Claims,
    /// The most tokens of one answer, where the request says so.
    pub max_answer: Option<u64>,
    /// The prompt, or its beginning, of which backends may have a cache; empty where that is not wanted.
    pub prompt: Bytes,
    /// For how long an answer is of use, from the moment at which the layer sees the request.
    pub deadline: Option<Duration>,
}

/// Decides for each request of the services that it wraps.
#[derive(Debug, Clone)]
pub struct TrafluxLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    clock: Clock,
    waiters: Arc<Waiters>,
}

impl TrafluxLayer {
    /// A layer on an engine. The engine's time must be this clock's.
    #[must_use]
    pub fn new(engine: Engine, clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { engine, clock, waiters: Arc::default() }) }
    }

    /// Does what time alone brings: call it every 10 ms to 1 s, the oftener the shorter requests may wait.
    pub fn upkeep(&self) {
        self.shared.engine.upkeep(self.shared.clock.now());
        self.shared.waiters.pump(&self.shared.engine);
    }
}

impl<S> Layer<S> for TrafluxLayer {
    type Service = TrafluxService<S>;

    fn layer(&self, inner: S) -> TrafluxService<S> {
        TrafluxService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// What [`TrafluxLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct TrafluxService<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused<E> {
    /// The engine refused.
    Engine(Refusal),
    /// The inner service failed.
    Inner(E),
}

impl<E: fmt::Display> fmt::Display for Refused<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(refusal) => refusal.fmt(f),
            Self::Inner(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Refused<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Engine(_) => None,
            Self::Inner(error) => error.source(),
        }
    }
}

type Answer<S, B, A> = Result<http::Response<Settling<A>>, Refused<<S as Service<http::Request<B>>>::Error>>;

impl<S, B, A> Service<http::Request<B>> for TrafluxService<S>
where
    S: Service<http::Request<B>, Response = http::Response<A>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    A: Body,
{
    type Response = http::Response<Settling<A>>;
    type Error = Refused<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Answer<S, B, A>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(Refused::Inner)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        // The one that was found ready is used; its clone, which may not be, waits for the next call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        let decision = shared.decide(&request);
        Box::pin(async move {
            let forward = shared.settle_on(decision).await.map_err(Refused::Engine)?;
            request.extensions_mut().insert(Chosen {
                backend: forward.backend().to_owned(),
                url: forward.url().to_owned(),
                rule: forward.rule().to_owned(),
            });
            // If this future is dropped meanwhile, so is the forward, which counts as cancelled.
            match inner.call(request).await {
                Ok(response) => Ok(shared.settling(forward, response)),
                Err(error) => {
                    forward.finish(shared.clock.now(), &End::of(Outcome::ConnectFailure));
                    shared.waiters.pump(&shared.engine);
                    Err(Refused::Inner(error))
                }
            }
        })
    }
}

impl Shared {
    fn decide<B>(&self, request: &http::Request<B>) -> Decision {
        let now = self.clock.now();
        let headers = request.headers();
        let unknown = Described::default();
        let described = request.extensions().get::<Described>().unwrap_or(&unknown);
        let asked = request::Request {
            method: request.method().as_str(),
            host: &adapter::host(request.uri(), headers),
            path: &normal_path(request.uri().path()),
            query: request.uri().query().unwrap_or_default(),
            headers: &Headers(headers),
            claims: &described.claims,
            client: Client {
                tenant: &described.tenant,
                key: &described.key,
                user: &described.user,
                user_tier: &described.user_tier,
            },
            model: &described.model,
            tokens: described.tokens,
            stream: described.stream,
            kind: &described.kind,
            max_answer: described.max_answer,
            prompt: &described.prompt,
            deadline: described
                .deadline
                .and_then(|within| now.since_epoch().checked_add(within))
                .map(Timestamp::new),
            // A model may be asked twice; of anything else the method and the client say whether it may.
            idempotence: if described.model.is_empty() {
                Idempotence::of_method(request.method().as_str(), headers.contains_key("idempotency-key"))
            } else {
                Idempotence::Idempotent
            },
            ..request::Request::default()
        };
        self.engine.decide(&asked, now)
    }

    async fn settle_on(&self, mut decision: Decision) -> Result<Forward, Refusal> {
        loop {
            decision = match decision {
                Decision::Forward(forward) => return Ok(forward),
                Decision::Refuse(refusal) => return Err(refusal),
                Decision::Later(later) => {
                    tokio::time::sleep(later.after(self.clock.now())).await;
                    later.go_on(self.clock.now())
                }
                Decision::Wait(waiting) => match self.waiters.wait(&self.engine, waiting).await {
                    Some(decision) => decision,
                    None => Decision::Refuse(Refusal {
                        reason: crate::engine::Reason::Saturated,
                        rule: None,
                        limit: None,
                        retry_after: None,
                    }),
                },
            };
        }
    }

    fn settling<A: Body>(
        self: &Arc<Self>,
        forward: Forward,
        response: http::Response<A>,
    ) -> http::Response<Settling<A>> {
        let headers = response.headers();
        let pairs = headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        let feedback = Feedback::read(pairs, self.clock.now().since_epoch(), forward.feedback_plan());
        let outcome = Outcome::of_status(response.status().as_u16(), headers.contains_key(RETRY_AFTER));
        let kind = headers.get(CONTENT_TYPE).and_then(|v| BodyKind::of_content_type(v.to_str().ok()?));
        let plain = headers.get(CONTENT_ENCODING).is_none_or(|value| value == "identity");
        let reader = kind.filter(|_| plain && outcome == Outcome::Success).map(UsageReader::new);
        let meter = Meter { shared: Arc::clone(self), forward, outcome, feedback, reader };
        response.map(|body| {
            let mut settling = Settling { body, meter: Some(meter) };
            if settling.body.is_end_stream() {
                settle(&mut settling.meter, None);
            }
            settling
        })
    }
}

#[derive(Debug)]
struct Meter {
    shared: Arc<Shared>,
    forward: Forward,
    outcome: Outcome,
    feedback: Feedback,
    reader: Option<UsageReader>,
}

fn settle(meter: &mut Option<Meter>, broken: Option<Outcome>) {
    let Some(meter) = meter.take() else { return };
    let usage = meter.reader.as_ref().and_then(UsageReader::usage);
    let end = End { outcome: broken.unwrap_or(meter.outcome), usage, feedback: &meter.feedback };
    meter.forward.finish(meter.shared.clock.now(), &end);
    meter.shared.waiters.pump(&meter.shared.engine);
}

pin_project! {
    /// The body of an answer, which settles its request when it ends, fails or is dropped.
    #[derive(Debug)]
    pub struct Settling<A> {
        #[pin]
        body: A,
        meter: Option<Meter>,
    }

    impl<A> PinnedDrop for Settling<A> {
        fn drop(this: Pin<&mut Self>) {
            settle(this.project().meter, Some(Outcome::Cancelled));
        }
    }
}

impl<A> Settling<A> {
    /// The body within.
    #[must_use]
    pub fn inner(&self) -> &A {
        &self.body
    }
}

impl<A: Body> Body for Settling<A> {
    type Data = A::Data;
    type Error = A::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<A::Data>, A::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(meter), Some(data)) = (this.meter.as_mut(), frame.data_ref()) {
                    meter.forward.first_byte(meter.shared.clock.now());
                    if let Some(reader) = &mut meter.reader {
                        // Of a body in several pieces at once only the first can be seen; all common ones are one.
                        reader.push(data.chunk());
                    }
                }
                if this.body.is_end_stream() {
                    settle(this.meter, None);
                }
            }
            Some(Err(_)) => settle(this.meter, Some(Outcome::Reset)),
            None => settle(this.meter, None),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
