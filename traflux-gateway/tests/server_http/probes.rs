//! Endpoints that are asked how they are.

use std::time::Duration;

use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::health::ProbeState;
use traflux_gateway::server::mock::{MockBackend, MockSettings};
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{chat, gateway, mock, plan, post, raw, to, until};

/// Two backends in turn, asked often.
fn asked(a: &MockBackend, b: &MockBackend, health_check: &str) -> RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"a": {{"url": "{}"}}, "b": {{"url": "{}"}}}},
        "health": {{"probe": {{"interval_ms": 40, "unhealthy_interval_ms": 30, "timeout_ms": 1000, "unhealthy_threshold": 2}}}},
        "routing": {{"default": {{"backend": ["a", "b"], "algorithm": "round-robin"{health_check}}}}}}}"#,
        a.url(),
        b.url()
    ))
}

/// What is known of a backend.
fn state(gateway: &Gateway, backend: &str) -> Option<ProbeState> {
    let statuses = gateway.engine().probe_statuses();
    statuses.iter().find(|status| &*status.backend == backend).map(|status| status.state)
}

#[tokio::test]
async fn an_endpoint_that_goes_ill_and_comes_back_is_left_out_and_used_again_without_a_request() {
    let (a, b) = (mock().await, mock().await);
    let mut plan = asked(&a, &b, r#", "health_check": true"#);
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    until(|| state(&gateway, "a") == Some(ProbeState::Healthy)).await;
    a.set_down(true);
    until(|| state(&gateway, "a") == Some(ProbeState::Unhealthy)).await;
    for _ in 0..10 {
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (0, 10), "an ill endpoint was asked for work");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let admin = gateway.admin_address().unwrap();
    let metrics = raw(admin, get("/metrics").as_bytes()).await;
    let labels = format!(r#"{{backend="a",url="{}"}}"#, a.url());
    assert!(metrics.contains(&format!("traflux_gateway_probe_healthy{labels} 0\n")), "{metrics}");
    assert!(raw(admin, get("/probes").as_bytes()).await.contains(&format!("a {}: unhealthy", a.url())));
    a.set_down(false);
    until(|| state(&gateway, "a") == Some(ProbeState::Healthy)).await;
    for _ in 0..10 {
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (5, 15));
}

#[tokio::test]
async fn questions_go_past_a_pool_that_is_full() {
    for http2 in [false, true] {
        let settings = MockSettings { first_token: Duration::from_secs(2), ..MockSettings::default() };
        let mock = MockBackend::start(settings).await.unwrap();
        let mut plan = plan(&format!(
            r#"{{"backends": {{"a": {{"url": "{}", "http2": {http2}, "load": {{"interval_ms": 50}}}}}},
            "health": {{"probe": {{"interval_ms": 40, "unhealthy_interval_ms": 40, "timeout_ms": 1000, "unhealthy_threshold": 2}}}},
            "pool": {{"max_connections": 1, "max_streams_per_connection": 1, "max_requests": 1}},
            "routing": {{"default": {{"backend": "a", "health_check": true}}}}}}"#,
            mock.url()
        ));
        plan.retry.max_attempts = 1;
        let gateway = gateway(&plan).await;
        until(|| state(&gateway, "a") == Some(ProbeState::Healthy)).await;
        let address = gateway.address();
        let held = tokio::spawn(async move { post(address, &[], &chat(1)).await.status });
        until(|| mock.requests() == 1).await;
        let (probes, scrapes) = (mock.probes(), mock.scrapes());
        until(|| mock.probes() >= probes + 5 && mock.scrapes() >= scrapes + 5).await;
        assert!(!held.is_finished(), "they waited for it");
        assert_eq!(state(&gateway, "a"), Some(ProbeState::Healthy));
        assert_eq!(held.await.unwrap(), 200, "{http2}");
    }
}

#[tokio::test]
async fn what_is_asked_follows_the_plan() {
    let (a, b) = (mock().await, mock().await);
    let gateway = gateway(&asked(&a, &b, "")).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        (a.probes(), gateway.engine().probe_statuses().len()),
        (0, 0),
        "asked though nobody wanted it"
    );
    gateway.reload(&asked(&a, &b, r#", "health_check": true"#)).unwrap();
    a.set_down(true);
    until(|| state(&gateway, "a") == Some(ProbeState::Unhealthy)).await;
    // What is known stays when something else changes.
    let mut slower = asked(&a, &b, r#", "health_check": true"#);
    slower.health.probe.interval = Duration::from_millis(60);
    gateway.reload(&slower).unwrap();
    assert_eq!(state(&gateway, "a"), Some(ProbeState::Unhealthy));
    // Without questions it is as well as its answers.
    gateway.reload(&asked(&a, &b, "")).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let probes = a.probes();
    a.set_down(false);
    for _ in 0..4 {
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((a.probes(), a.requests()), (probes, 2));
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_or_as_expected_is_ill() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let well = mock().await;
    for (probe, expected) in [
        (r#"{"kind": "http", "path": "/health"}"#, ProbeState::Unhealthy),
        (r#"{"kind": "tcp"}"#, ProbeState::Healthy),
    ] {
        let json = format!(
            r#"{{"backends": {{"silent": {{"url": "http://{}"}}, "well": {{"url": "{}"}}}},
            "health": {{"probe": {{"probe": {probe}, "unhealthy_interval_ms": 20, "timeout_ms": 100}}}},
            "routing": {{"default": {{"backend": ["silent", "well"], "health_check": true}}}}}}"#,
            silent.local_addr().unwrap(),
            well.url()
        );
        let gateway = gateway(&plan(&json)).await;
        until(|| state(&gateway, "silent") == Some(expected)).await;
        until(|| state(&gateway, "well") == Some(ProbeState::Healthy)).await;
    }
    // A status that is not among those expected.
    let mut plan = to(&well.url());
    plan.routing.default.as_mut().unwrap().health_check = Some(true);
    plan.health.probe.unhealthy_interval = Duration::from_millis(20);
    plan.health.probe.probe = traflux_core::plan::health::ProbeKind::Http {
        path: "/health".into(),
        method: String::new(),
        host: String::new(),
        expected_statuses: vec![(204, 204)],
    };
    let gateway = Gateway::start(&plan, ServerSettings::default()).await.unwrap();
    until(|| state(&gateway, "only") == Some(ProbeState::Unhealthy)).await;
    // The only one there is is used all the same.
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
}
