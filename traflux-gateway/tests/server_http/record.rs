//! What a gateway decided, on disk.

use traflux_gateway::decision_log::{LogFileSettings, LogReader, Trace, replay, what_if};
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{PATIENCE, chat, mock, plan, post, raw};

#[tokio::test]
async fn what_a_gateway_decided_replays_to_the_bit_and_answers_what_if() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let (one, two) = (mock().await, mock().await);
    let of = |limit: u32, backend: &str| {
        plan(&format!(
            r#"{{"server": {{"admin": "127.0.0.1:0"}},
                "backends": {{"one": {{"url": "{}"}}, "two": {{"url": "{}"}}}},
                "routing": {{"default": {{"backend": {backend}}}}},
                "limits": [{{"name": "few", "unit": "requests", "amount": {limit}, "period_ms": 3600000}}]}}"#,
            one.url(),
            two.url()
        ))
    };
    let recorded = of(16, r#"["one", "two"]"#);
    let settings =
        ServerSettings { decision_log: Some(LogFileSettings::new(&path)), ..ServerSettings::default() };
    let gateway = Gateway::start(&recorded, settings).await.unwrap();
    let mut served = 0;
    for _ in 0..20 {
        served += u64::from(post(gateway.address(), &[], &chat(5)).await.status == 200);
    }
    assert_eq!(served, 16);
    let ask = b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    let metrics = raw(gateway.admin_address().unwrap(), ask).await;
    assert!(metrics.contains("traflux_gateway_decision_log_entries_total{result=\"dropped\"} 0"));
    tokio::time::timeout(PATIENCE, gateway.drain()).await.unwrap();

    let done = replay(&mut LogReader::open(&path).unwrap()).unwrap();
    assert_eq!(done.difference, None);
    assert!(done.answers >= 20 && !done.is_cut);
    let trace = Trace::read(&mut LogReader::open(&path).unwrap()).unwrap();
    assert_eq!(trace.requests.len(), 20);

    let result = what_if(&trace, &of(18, r#""two""#)).unwrap();
    assert_eq!((result.recorded.succeeded, result.modelled.succeeded), (16, 16));
    assert_eq!(result.other.succeeded, 18);
    assert_eq!(result.other.refused.get("limited"), Some(&2));
    assert!(!result.other.backends.contains_key("one"));
}
