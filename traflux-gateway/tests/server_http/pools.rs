//! What a plan's pool says of connections to backends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::net::TcpListener;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::Outcome;
use traflux_gateway::server::Gateway;
use traflux_gateway::server::mock::{MockBackend, MockSettings};

use crate::common::{chat, gateway, plan, post, to, until};

/// A relay that counts connections to a mock.
async fn counted(mock: &MockBackend) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (all, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, peak, to) = (Arc::clone(&all), Arc::clone(&most), mock.address());
    let open = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            seen.fetch_add(1, SeqCst);
            let open = Arc::clone(&open);
            peak.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::spawn(async move {
                let mut other = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut other).await;
                open.fetch_sub(1, SeqCst);
            });
        }
    });
    (url, all, most)
}

/// A mock that takes a fifth of a second.
async fn slow() -> MockBackend {
    let settings = MockSettings { first_token: Duration::from_millis(200), ..MockSettings::default() };
    MockBackend::start(settings).await.unwrap()
}

/// Nothing but the pool bounds it, and nothing is tried again.
fn bare(url: &str) -> RequestPlan {
    let mut plan = to(url);
    plan.congestion.concurrency =
        Some(serde_json::from_str(r#"{"initial": 500, "min": 500, "max": 500}"#).unwrap());
    plan.retry.max_attempts = 1;
    plan.queue.max_waiting = 0;
    plan
}

async fn at_once(gateway: &Gateway, requests: usize) -> Vec<(u16, String)> {
    let asked: Vec<_> = (0..requests)
        .map(|_| {
            let address = gateway.address();
            tokio::spawn(async move {
                let answer = post(address, &[], &chat(1)).await;
                (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
            })
        })
        .collect();
    let mut answers = Vec::new();
    for one in asked {
        answers.push(one.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn requests_wait_for_a_connection_where_no_more_may_be_open() {
    let mock = slow().await;
    for http2 in [false, true] {
        let (url, all, most) = counted(&mock).await;
        let mut plan = bare(&url);
        plan.backends.get_mut("only").unwrap().http2 = http2;
        plan.pool.max_connections = 2;
        plan.pool.max_streams_per_connection = 3;
        let gateway = gateway(&plan).await;
        let answers = at_once(&gateway, 6).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        assert_eq!((all.load(SeqCst), most.load(SeqCst)), (2, 2), "{http2}");
    }
}

#[tokio::test]
async fn what_is_beyond_a_pool_is_refused_at_once_and_speaks_against_nobody() {
    let mock = slow().await;
    let (url, _, most) = counted(&mock).await;
    for (connections, pending, requests, served) in [(1, 1, 100, 2), (100, 100, 3, 3)] {
        let mut plan = bare(&url);
        (plan.pool.max_connections, plan.pool.max_pending, plan.pool.max_requests) =
            (connections, pending, requests);
        let gateway = gateway(&plan).await;
        let answers = at_once(&gateway, 8).await;
        assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), served, "{answers:?}");
        let refused: Vec<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
        assert!(refused.iter().all(|(status, code)| *status == 503 && code == "pool_full"), "{refused:?}");
        let row = gateway.tally().row("default", "only");
        assert_eq!((row.failures(), row.of(Outcome::PoolFull)), (0, 8 - served as u64));
        // What was under way has ended: there is room at once.
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    }
    assert!(most.load(SeqCst) <= 4);
}

#[tokio::test]
async fn another_address_serves_while_one_is_full() {
    let (busy, other) = (slow().await, crate::common::mock().await);
    let mut plan = plan(&format!(
        r#"{{"backends": {{"only": {{"url": ["{}", "{}"]}}}},
        "routing": {{"default": {{"backend": "only", "algorithm": "round-robin"}}}}}}"#,
        busy.url(),
        other.url()
    ));
    plan.pool.max_requests = 1;
    let gateway = gateway(&plan).await;
    let address = gateway.address();
    let held = tokio::spawn(async move { post(address, &[], &chat(1)).await.status });
    until(|| busy.requests() == 1).await;
    // In turn: the other one, then the busy one in vain.
    for _ in 0..2 {
        assert_eq!(post(address, &[], &chat(1)).await.status, 200);
    }
    assert_eq!((held.await.unwrap(), busy.requests(), other.requests()), (200, 1, 2));
    let row = gateway.tally().row("default", "only");
    assert_eq!(row.of(Outcome::PoolFull), 1);
}

#[tokio::test]
async fn a_connection_ends_after_the_requests_that_it_may_serve() {
    let mock = crate::common::mock().await;
    for (http2, expected) in [(false, 4), (true, 4)] {
        let (url, all, _) = counted(&mock).await;
        let mut plan = bare(&url);
        plan.backends.get_mut("only").unwrap().http2 = http2;
        plan.pool.max_requests_per_connection = Some(3);
        let gateway = gateway(&plan).await;
        for _ in 0..10 {
            assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
        }
        until(|| all.load(SeqCst) == expected).await;
    }
}
