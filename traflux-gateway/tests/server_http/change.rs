//! Plans that change and gateways that end.

use std::time::Duration;

use http_body_util::BodyExt;
use traflux_gateway::server::load::{Load, LoadClass, LoadSettings};
use traflux_gateway::server::{DemoSettings, demo};

use crate::common::{PATIENCE, chat, gateway, mock, open, plan, post, slow_mock, streamed, to};

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_nothing_new() {
    let mock = slow_mock(20, 50.0).await;
    let gateway = gateway(&to(&mock.url())).await;
    let address = gateway.address();
    let mut body = open(address, false, &[], &streamed(20)).await.into_body();
    body.frame().await.unwrap().unwrap();
    let draining = tokio::spawn(gateway.drain());
    let rest = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    let drained = tokio::time::timeout(PATIENCE, draining).await.unwrap().unwrap();
    assert_eq!((drained.finished, drained.cut_off), (1, 0));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let mock = slow_mock(10_000, 50.0).await;
    let mut plan = to(&mock.url());
    plan.server.drain_timeout = Duration::from_millis(100);
    let gateway = gateway(&plan).await;
    let mut body = open(gateway.address(), false, &[], &streamed(9_000)).await.into_body();
    body.frame().await.unwrap().unwrap();
    let drained = tokio::time::timeout(PATIENCE, gateway.drain()).await.unwrap();
    assert_eq!((drained.finished, drained.cut_off), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_nothing() {
    let (a, b) = (mock().await, slow_mock(5, 200.0).await);
    // Backends come and go with the plans, and whoever is on the way to one that goes still gets there.
    let plan_to = |backends: &str, name: &str| {
        let mut plan = plan(&format!(
            r#"{{"backends": {{"a": {{"url": "{}"}}, "b": {{"url": "{}"}}}},
            "routing": {{"rules": [{{"name": "{name}", "route": {{"backend": {backends}}}}}]}},
            "limits": [{{"name": "{name}", "unit": "tokens", "amount": 1e12, "by": "tenant"}}]}}"#,
            a.url(),
            b.url()
        ));
        plan.backends.retain(|name, _| backends.contains(name.as_str()));
        plan
    };
    let plans = [plan_to(r#"["a", "b"]"#, "x"), plan_to(r#"["b"]"#, "y"), plan_to(r#"["a"]"#, "x")];
    let gateway = gateway(&plans[0]).await;
    let settings = LoadSettings {
        url: format!("http://{}", gateway.address()),
        requests_per_second: 200.0,
        duration: Duration::from_secs(2),
        classes: vec![
            LoadClass::chat("whole", "m", 10, 5, false),
            LoadClass::chat("stream", "m", 10, 5, true),
        ],
        most_in_flight: 1000,
        timeout: PATIENCE,
        seed: 7,
    };
    let mut load = Load::start(&settings).unwrap();
    for round in 1..30 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        gateway.reload(&plans[round % 3]).unwrap();
    }
    tokio::time::timeout(PATIENCE, load.finish()).await.unwrap();
    let statuses: Vec<_> = load.reports().iter().map(|report| report.statuses()).collect();
    assert_eq!(load.errors(), 0, "{statuses:?} {:?}", gateway.tally().refusals());
    assert!(load.total().count() > 200, "{statuses:?}");
    assert!(a.requests() > 0 && b.requests() > 0);
}

#[tokio::test]
async fn a_plan_that_does_not_hold_together_changes_nothing() {
    let mock = mock().await;
    let good = to(&mock.url());
    let gateway = gateway(&good).await;
    let mut elsewhere = good.clone();
    elsewhere.server.listen = "127.0.0.1:1".into();
    let mut homeless = good.clone();
    homeless.backends.clear();
    let mut keyless = good.clone();
    keyless.backends.get_mut("only").unwrap().key =
        Some(traflux_core::plan::backend::KeySource::File("/nowhere/at/all".into()));
    for (plan, code) in
        [(elsewhere, "gateway_needs_restart"), (homeless, "plan_key"), (keyless, "gateway_secret")]
    {
        let error = gateway.reload(&plan).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    }
}

#[test]
fn the_demonstration_runs_to_its_end_and_says_what_was_seen() {
    let settings = DemoSettings {
        duration: Duration::from_secs(2),
        interval: Duration::from_millis(900),
        ..DemoSettings::default()
    };
    let mut told = Vec::new();
    demo(&settings, |text| told.push(text.to_owned())).unwrap();
    let told = told.join("\n");
    for expected in
        ["rule       backend", "basic is back", "what was seen", "free tier, by least cost: basic", "drained"]
    {
        assert!(told.contains(expected), "{expected:?} is not in\n{told}");
    }
}
