//! What a plan's pool says of connections to backends.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use traflux_core::plan::backend::BackendTlsPlan;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::Outcome;
use traflux_gateway::server::Gateway;
use traflux_gateway::server::mock::{MockBackend, MockSettings};

use crate::common::{chat, gateway, open, plan, post, raw, slow_mock, streamed, to, until};
use crate::tls::certify;

/// A relay that counts connections to a mock: all of them, and the most at once.
async fn counted(mock: &MockBackend) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    relay(mock, None).await
}

/// The same, over TLS where that is given.
async fn relay(mock: &MockBackend, tls: Option<TlsAcceptor>) -> (String, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (all, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, peak, to) = (Arc::clone(&all), Arc::clone(&most), mock.address());
    let open = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            seen.fetch_add(1, SeqCst);
            let (open, tls) = (Arc::clone(&open), tls.clone());
            peak.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::spawn(async move {
                let mut other = tokio::net::TcpStream::connect(to).await.unwrap();
                let _ = match tls {
                    None => tokio::io::copy_bidirectional(&mut socket, &mut other).await,
                    Some(tls) => {
                        let mut socket = tls.accept(socket).await.unwrap();
                        tokio::io::copy_bidirectional(&mut socket, &mut other).await
                    }
                };
                open.fetch_sub(1, SeqCst);
            });
        }
    });
    (url, all, most)
}

/// A mock that takes a fifth of a second.
async fn slow() -> MockBackend {
    taking(Duration::from_millis(200)).await
}

/// A mock that takes so long.
async fn taking(first_token: Duration) -> MockBackend {
    MockBackend::start(MockSettings { first_token, ..MockSettings::default() }).await.unwrap()
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

/// What speaks only this over TLS, with the certificate in a folder.
fn speaking(protocol: &[u8], folder: &Path) -> TlsAcceptor {
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()],
                PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap(),
            )
            .unwrap();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn connections_are_bounded_whatever_is_negotiated() {
    let (mock, folder) = (taking(Duration::from_millis(500)).await, tempfile::tempdir().unwrap());
    certify(folder.path());
    for (protocol, connections, streams, served, opened) in [
        (&b"h2"[..], 1, 1, 1, 1),
        (b"h2", 2, 3, 6, 2),
        // Who comes while the first one is made waits for it.
        (b"h2", 100, 100, 6, 1),
        (b"h2", 100, 1, 6, 6),
        (b"http/1.1", 2, 1, 6, 2),
    ] {
        let (url, all, most) = relay(&mock, Some(speaking(protocol, folder.path()))).await;
        let mut plan = bare(&url);
        plan.backends.get_mut("only").unwrap().tls = Some(BackendTlsPlan {
            authority_file: Some(folder.path().join("cert.pem").to_str().unwrap().into()),
            server_name: Some("localhost".into()),
            ..BackendTlsPlan::default()
        });
        plan.pool.max_connections = connections;
        plan.pool.max_streams_per_connection = streams;
        let gateway = gateway(&plan).await;
        let answers = at_once(&gateway, 6).await;
        let (well, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
        assert_eq!(well.len(), served, "{protocol:?} {connections} {streams}: {answers:?}");
        assert!(refused.iter().all(|(_, code)| code == "pool_full"), "{refused:?}");
        let counts = (all.load(SeqCst), most.load(SeqCst));
        assert_eq!(counts, (opened, opened), "{protocol:?} {connections} {streams}");
        // It goes on over what is there.
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
        assert_eq!(all.load(SeqCst), opened);
    }
}

#[tokio::test]
async fn a_burst_has_a_connection_for_each_request_where_it_takes_no_more() {
    let mock = taking(Duration::from_millis(500)).await;
    for (streams, uses) in [(1, None), (100, Some(1))] {
        let (url, all, _) = counted(&mock).await;
        let mut plan = bare(&url);
        plan.backends.get_mut("only").unwrap().http2 = true;
        plan.pool.max_streams_per_connection = streams;
        plan.pool.max_requests_per_connection = uses;
        let gateway = gateway(&plan).await;
        let answers = at_once(&gateway, 10).await;
        assert!(answers.iter().all(|(status, _)| *status == 200), "{streams} {uses:?}: {answers:?}");
        assert_eq!(all.load(SeqCst), 10);
    }
}

#[tokio::test]
async fn who_waited_for_a_connection_in_vain_speaks_against_nobody() {
    // Its streams take three seconds.
    let mock = slow_mock(60, 20.0).await;
    let mut plan = bare(&mock.url());
    plan.pool.max_connections = 1;
    plan.server.request_timeout = Duration::from_millis(300);
    let gateway = gateway(&plan).await;
    let held = open(gateway.address(), false, &[], &streamed(600)).await;
    assert_eq!(held.status(), 200);
    let answer = post(gateway.address(), &[], &chat(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "pool_full"));
    let row = gateway.tally().row("default", "only");
    assert_eq!((row.failures(), row.of(Outcome::PoolFull)), (0, 1));
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
    // Whose turn is first is drawn.
    let held = loop {
        let held = tokio::spawn(async move { post(address, &[], &chat(1)).await.status });
        until(|| busy.requests() == 1 || held.is_finished()).await;
        if busy.requests() == 1 {
            break held;
        }
    };
    let before = other.requests();
    // In turn: the other one, then the busy one in vain.
    for _ in 0..2 {
        assert_eq!(post(address, &[], &chat(1)).await.status, 200);
    }
    assert_eq!((held.await.unwrap(), busy.requests(), other.requests()), (200, 1, before + 2));
    let row = gateway.tally().row("default", "only");
    assert_eq!(row.of(Outcome::PoolFull), 1);
}

/// A chat whose body passes as it comes, to the end of it.
async fn streaming(address: std::net::SocketAddr) -> String {
    let body = chat(1);
    let (first, second) = body.split_at(10);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         idempotency-key: 1\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    raw(address, request.as_bytes()).await
}

#[tokio::test]
async fn a_body_that_streams_goes_elsewhere_where_nothing_of_it_was_sent() {
    let other = crate::common::mock().await;
    let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let busy = slow_mock(60, 20.0).await;
    for first in [busy.url(), format!("http://{refusing}")] {
        let mut plan = plan(&format!(
            r#"{{"backends": {{"first": {{"url": "{first}"}}, "other": {{"url": "{}"}}}},
            "routing": {{"default": {{"backend": "first", "fallback": "other"}}}}}}"#,
            other.url()
        ));
        plan.pool.max_requests = 1;
        let gateway = gateway(&plan).await;
        let is_full = first == busy.url();
        let held =
            if is_full { Some(open(gateway.address(), false, &[], &streamed(600)).await) } else { None };
        let (before, outcome) =
            (other.requests(), if is_full { Outcome::PoolFull } else { Outcome::ConnectFailure });
        // The mock refuses what is no whole document.
        let answer = streaming(gateway.address()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{outcome:?}: {answer}");
        assert_eq!(other.requests(), before + 1, "{outcome:?}");
        assert_eq!(gateway.tally().row("default", "first").of(outcome), 1);
        drop(held);
    }
    // Of one that was sent in part, the rest is gone: the backend broke off after the head.
    let (breaks, _heads) = crate::common::scripted(b"").await;
    let mut plan = plan(&format!(
        r#"{{"backends": {{"first": {{"url": "http://{breaks}"}}, "other": {{"url": "{}"}}}},
        "routing": {{"default": {{"backend": "first", "fallback": "other"}}}}}}"#,
        other.url()
    ));
    plan.retry.max_attempts = 3;
    let gateway = gateway(&plan).await;
    let before = other.requests();
    let answer = streaming(gateway.address()).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("backend_reset"), "{answer}");
    assert_eq!(other.requests(), before);
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
