//! What backends say of their load, and where requests go then.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::server::Gateway;
use traflux_gateway::server::mock::{MockBackend, MockSettings};

use crate::common::{chat, gateway, mock, open, plan, post, raw, scripted, streamed, until};

/// Two backends in turn, of which the first may be asked for its load.
fn in_turn(a: &str, b: &str, load: &str) -> RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"a": {{"url": "{a}"{load}}}, "b": {{"url": "{b}"}}}},
        "routing": {{"default": {{"backend": ["a", "b"], "algorithm": "round-robin"}}}}}}"#
    ))
}

/// Sends so many streams through a gateway and tells how many the mock got meanwhile.
async fn shares(gateway: &Gateway, mock: &MockBackend, requests: u64) -> u64 {
    let before = mock.requests();
    for _ in 0..requests {
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    }
    mock.requests() - before
}

#[tokio::test]
async fn requests_leave_a_server_whose_queue_is_long_and_come_back_when_it_is_short() {
    // 16 tokens in a third of a second, two at a time.
    let slow = MockSettings { slots: 2, tokens_per_second: 48.0, ..MockSettings::default() };
    let (a, b) = (MockBackend::start(slow).await.unwrap(), mock().await);
    let mut plan = in_turn(&a.url(), &b.url(), r#", "load": {"interval_ms": 20}"#);
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    until(|| a.scrapes() > 1).await;
    assert_eq!(b.scrapes(), 0, "asked though its plan does not say so");
    // Others use the same server: two are served and eight wait.
    let others: Vec<_> = (0..10)
        .map(|_| {
            let address = a.address();
            tokio::spawn(async move { post(address, &[], &chat(16)).await.status })
        })
        .collect();
    until(|| a.waiting() >= 8).await;
    let scraped = a.scrapes();
    // One of ours that waits there too, for a backend with nothing of ours is always tried.
    let ours: Vec<_> = (0..2)
        .map(|_| {
            let address = gateway.address();
            tokio::spawn(async move { post(address, &[], &chat(1)).await.status })
        })
        .collect();
    until(|| a.requests() == 11 && b.requests() == 1 && a.scrapes() > scraped + 1).await;
    assert_eq!(shares(&gateway, &a, 6).await, 0, "six went to a queue of nine");
    assert_eq!(b.requests(), 7);
    for one in others.into_iter().chain(ours) {
        assert_eq!(one.await.unwrap(), 200);
    }
    let scraped = a.scrapes();
    until(|| a.scrapes() > scraped + 1).await;
    assert_eq!(shares(&gateway, &a, 6).await, 3, "its queue is empty");

    let metrics = raw(
        gateway.admin_address().unwrap(),
        b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(
        metrics.contains(r#"traflux_gateway_load_scrapes_total{backend="a",result="failure"} 0"#),
        "{metrics}"
    );
}

/// A backend that answers whatever it is asked but for its load.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                    if !buffer[..read].starts_with(b"GET /metrics") {
                        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_server_that_does_not_tell_its_load_is_used_as_before() {
    let (silent, well) = (silent().await, mock().await);
    let load = r#", "load": {"interval_ms": 20, "timeout_ms": 50}"#;
    let mut plan = in_turn(&format!("http://{silent}"), &well.url(), load);
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    let failures = async || {
        let admin = gateway.admin_address().unwrap();
        let metrics = raw(admin, b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        let line = r#"traflux_gateway_load_scrapes_total{backend="a",result="failure"} "#;
        metrics.split_once(line).and_then(|(_, rest)| rest.split('\n').next()?.trim().parse::<u64>().ok())
    };
    while failures().await.is_none_or(|failed| failed < 3) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(shares(&gateway, &well, 4).await, 2);
    // Another plan, and it is asked no more.
    plan.backends.get_mut("a").unwrap().load = None;
    gateway.reload(&plan).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = failures().await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(failures().await, before);
}

/// A backend that says how long its queue is, and never ends its answers.
async fn endless(report: &'static str) -> (SocketAddr, tokio::sync::watch::Receiver<u32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            seen.send_modify(|seen| *seen += 1);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while !matches!(socket.read(&mut buffer).await, Ok(0) | Err(_)) {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{report}\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n"
                    );
                    let _ = socket.write_all(head.as_bytes()).await;
                }
            });
        }
    });
    (address, requests)
}

#[tokio::test]
async fn what_a_backend_reports_with_its_answers_counts_and_clients_do_not_see_it() {
    for (report, is_full) in [
        ("endpoint-load-metrics: TEXT named_metrics.num_requests_waiting=50", true),
        ("endpoint-load-metrics: JSON {\"application_utilization\": 1.5}", true),
        // Field 9, application_utilization, 1.5.
        ("endpoint-load-metrics-bin: SQAAAAAAAPg/", true),
        ("endpoint-load-metrics: TEXT cpu_utilization=0.1", false),
    ] {
        let ((a, requests), b) = (endless(report).await, mock().await);
        let gateway = gateway(&in_turn(&format!("http://{a}"), &b.url(), "")).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut stream = open(gateway.address(), false, &[], &streamed(3)).await;
            assert!(!stream.headers().keys().any(|name| name.as_str().starts_with("endpoint-load")));
            stream.body_mut().frame().await.unwrap().unwrap();
            streams.push(stream);
        }
        assert_eq!(*requests.borrow(), 1, "one each");
        for _ in 0..4 {
            streams.push(open(gateway.address(), false, &[], &streamed(1)).await);
        }
        assert_eq!(*requests.borrow(), if is_full { 1 } else { 3 }, "{report}");
    }
}

#[tokio::test]
async fn clients_get_load_reports_where_the_plan_says_so() {
    let answer = b"HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT cpu_utilization=0.5\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    for pass in [false, true] {
        let (address, _heads) = scripted(answer).await;
        let mut plan = crate::common::to(&format!("http://{address}"));
        plan.congestion.pass_load_reports = pass;
        let answer = post(gateway(&plan).await.address(), &[], &chat(1)).await;
        assert_eq!(answer.headers.contains_key("endpoint-load-metrics"), pass);
    }
}
