//! The layer around a service that answers as it is told.
#![cfg(feature = "tower")]
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tower_layer::Layer;
use tower_service::Service;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::adapter::{Claims, Clock};
use traflux_gateway::congestion::ConcurrencyPlan;
use traflux_gateway::tower::{Chosen, Described, Refused, TrafluxLayer, TrafluxService};
use traflux_gateway::{Engine, EngineSettings, Reason, TokenEstimate};

/// A body of given pieces.
#[derive(Debug, Default)]
struct Pieces(VecDeque<&'static str>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

#[derive(Clone)]
struct Backend;

impl Service<Request<()>> for Backend {
    type Response = Response<Pieces>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Pieces>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert_eq!(request.extensions().get::<Chosen>().unwrap().url, "http://127.0.0.1:1");
        let pieces =
            Pieces(VecDeque::from([r#"{"usage": {"prompt_tokens": 10,"#, r#""completion_tokens": 5}}"#]));
        ready(Ok(Response::builder().header("content-type", "application/json").body(pieces).unwrap()))
    }
}

fn layer(concurrency: Option<ConcurrencyPlan>) -> TrafluxLayer {
    let mut plan: RequestPlan = serde_json::from_str(
        r#"{"backends": {"a": {"url": "http://127.0.0.1:1"}}, "routing": {"default": {"backend": "a"}},
            "limits": [{"name": "tpm", "unit": "tokens", "amount": 1000, "by": "tenant"}]}"#,
    )
    .unwrap();
    plan.congestion.concurrency = concurrency;
    let clock = Clock::start();
    TrafluxLayer::new(Engine::new(&plan, &EngineSettings::default(), clock.now()).unwrap(), clock)
}

fn request(output: u64) -> Request<()> {
    let mut request = Request::post("/v1/chat/completions").body(()).unwrap();
    let tokens = TokenEstimate { input: 0, output };
    request.extensions_mut().insert(Described { tenant: "acme".into(), tokens, ..Described::default() });
    request
}

async fn read<A: Body + Unpin>(response: Response<A>) -> usize
where
    A::Error: std::fmt::Debug,
{
    let mut body = response.into_body();
    let mut pieces = 0;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        frame.unwrap();
        pieces += 1;
    }
    pieces
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn a_body_that_ends_settles_by_its_usage_and_one_that_is_dropped_by_what_was_seen() {
    block_on(async {
        let mut service: TrafluxService<Backend> = layer(None).layer(Backend);
        for _ in 0..5 {
            // Each reserves 900 of 1000 and uses 15.
            assert_eq!(read(service.call(request(900)).await.unwrap()).await, 2);
        }
        drop(service.call(request(900)).await.unwrap());
        assert!(service.call(request(900)).await.is_ok());
        let refused = service.call(request(2000)).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, Refused::Engine(refusal) if refusal.reason == Reason::TooLarge));
    });
}

#[test]
fn a_request_beyond_the_room_waits_for_the_body_before_it() {
    block_on(async {
        let mut service = layer(Some(ConcurrencyPlan::fixed(1))).layer(Backend);
        let first = service.call(request(1)).await.unwrap();
        let mut second = service.call(request(1));
        let waits = std::future::poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx).is_pending())).await;
        assert!(waits);
        assert_eq!(read(first).await, 2);
        assert_eq!(read(second.await.unwrap()).await, 2);
    });
}

#[test]
fn what_is_described_and_the_host_of_the_header_decide() {
    let plan: RequestPlan = serde_json::from_str(
        r#"{"backends": {"a": {"url": "http://127.0.0.1:1"}, "b": {"url": "http://127.0.0.1:2"}},
        "routing": {"rules": [
            {"name": "host", "match": {"host": "api.example"}, "route": {"backend": "a"}},
            {"name": "claim", "match": {"claims": {"plan.tier": "gold"}}, "route": {"backend": "a"}}]}}"#,
    )
    .unwrap();
    let clock = Clock::start();
    let engine = Engine::new(&plan, &EngineSettings::default(), clock.now()).unwrap();
    let mut service = TrafluxLayer::new(engine, clock).layer(Backend);
    block_on(async {
        let mut named = request(1);
        named.headers_mut().insert("host", "API.example:8080".parse().unwrap());
        assert!(service.call(named).await.is_ok());
        let claims = Claims::from_json(br#"{"plan": {"tier": "gold"}}"#).unwrap();
        let mut golden = request(1);
        golden.extensions_mut().insert(Described { claims, ..Described::default() });
        assert!(service.call(golden).await.is_ok());
        let refused = service.call(request(1)).await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, Refused::Engine(refusal) if refusal.reason == Reason::NoRoute));
    });
}

#[test]
fn a_path_is_one_to_rules_however_it_is_written() {
    let plan: RequestPlan = serde_json::from_str(
        r#"{"backends": {"a": {"url": "http://127.0.0.1:1"}},
        "routing": {"rules": [{"name": "public", "match": {"path": "/public"}, "route": {"backend": "a"}}]}}"#,
    )
    .unwrap();
    let clock = Clock::start();
    let engine = Engine::new(&plan, &EngineSettings::default(), clock.now()).unwrap();
    let mut service = TrafluxLayer::new(engine, clock).layer(Backend);
    block_on(async {
        assert!(service.call(Request::get("/%70ublic/x").body(()).unwrap()).await.is_ok());
        for path in ["/public/../admin", "/public/%2e%2e/admin"] {
            assert!(service.call(Request::get(path).body(()).unwrap()).await.is_err(), "{path}");
        }
    });
}

#[test]
fn a_request_whose_answer_is_of_no_more_use_is_not_sent() {
    block_on(async {
        let mut service = layer(Some(ConcurrencyPlan::fixed(1))).layer(Backend);
        let first = service.call(request(1)).await.unwrap();
        let mut hasty = request(1);
        let deadline = Some(Duration::from_millis(1));
        hasty.extensions_mut().insert(Described { deadline, ..Described::default() });
        let mut hasty = service.call(hasty);
        assert!(std::future::poll_fn(|cx| Poll::Ready(hasty.as_mut().poll(cx).is_pending())).await);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(read(first).await, 2);
        let refused = hasty.await.map(|_| ()).unwrap_err();
        assert!(matches!(refused, Refused::Engine(_)), "{refused:?}");
    });
}
