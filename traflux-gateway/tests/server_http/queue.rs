//! Who waits, as the administrative side tells it.

use serde_json::{Value, json};

use crate::common::{chat, gateway, open, plan, post, raw, slow_mock, streamed, until};

#[tokio::test]
async fn who_waits_is_told_with_place_and_time() {
    // A stream of it takes three seconds.
    let mock = slow_mock(60, 20.0).await;
    let mut plan = plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{}"}}}},
        "identity": {{"trusted_headers": {{"tenant": "x-tenant", "user_tier": "x-tier"}}}},
        "congestion": {{"concurrency": {{"initial": 1, "min": 1, "max": 1}}}},
        "queue": {{"expected_tokens_per_second": 100, "bands": [
            {{"name": "best", "user_tier": "gold", "min_share": 0.5, "order": "fcfs"}},
            {{"name": "rest", "min_share": 0.5, "order": "fcfs"}}]}},
        "routing": {{"rules": [{{"name": "chats", "match": {{"path": "/v1/chat"}}, "route": {{"backend": "only"}}}}]}}}}"#,
        mock.url()
    ));
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    let get = async |query: &str| {
        let request = format!("GET /queue{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = raw(gateway.admin_address().unwrap(), request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    };
    let queues = async |query: &str| -> Value {
        let (head, body) = get(query).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    };
    let empty = queues("").await;
    let idle = json!({"backends": ["only"], "former": false, "waiting": 0, "tokens": 0, "oldest_ms": null,
        "bands": [{"band": "best", "waiting": 0, "tokens": 0, "oldest_ms": null},
            {"band": "rest", "waiting": 0, "tokens": 0, "oldest_ms": null}],
        "tenants": [], "requests": []});
    assert_eq!(empty, json!({"queues": [idle]}));

    let held = open(gateway.address(), false, &[], &streamed(600)).await;
    assert_eq!(held.status(), 200);
    let mut asked = Vec::new();
    for (tenant, tier) in [("acme", ""), ("acme", ""), ("bolt", "gold")] {
        let address = gateway.address();
        asked.push(tokio::spawn(async move {
            post(address, &[("x-tenant", tenant), ("x-tier", tier)], &chat(1)).await.status
        }));
        until(|| gateway.waiting() == asked.len()).await;
    }
    let found = queues("").await;
    let queue = &found["queues"][0];
    assert_eq!((&queue["waiting"], &queue["backends"]), (&json!(3), &json!(["only"])), "{found}");
    let counts = |list: &Value, name: &str| -> Vec<(String, u64)> {
        let of = |one: &Value| (one[name].as_str().unwrap().to_owned(), one["waiting"].as_u64().unwrap());
        list.as_array().unwrap().iter().map(of).collect()
    };
    assert_eq!(counts(&queue["bands"], "band"), [("best".into(), 1), ("rest".into(), 2)]);
    assert_eq!(counts(&queue["tenants"], "tenant"), [("acme".into(), 2), ("bolt".into(), 1)]);
    let requests = queue["requests"].as_array().unwrap();
    let shown: Vec<_> = requests
        .iter()
        .map(|r| (r["rule"].as_str().unwrap(), r["band"].as_str().unwrap(), r["tenant"].as_str().unwrap()))
        .collect();
    assert_eq!(shown, [("chats", "rest", "acme"), ("chats", "rest", "acme"), ("chats", "best", "bolt")]);
    let positions: Vec<_> = requests.iter().map(|r| r["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, [1, 2, 0], "the better band goes first: {found}");
    let waited: Vec<_> = requests.iter().map(|r| r["waited_ms"].as_f64().unwrap()).collect();
    assert!(waited.is_sorted_by(|a, b| a > b) && waited[2] > 0.0, "{waited:?}");
    assert_eq!(queue["oldest_ms"], requests[0]["waited_ms"]);
    let etas: Vec<_> = requests.iter().map(|r| r["eta_ms"].as_f64().unwrap()).collect();
    assert!(etas[2] < etas[0] && etas[0] < etas[1], "{etas:?}");
    let ids: std::collections::BTreeSet<_> = requests.iter().map(|r| r["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3);

    let first = queues("?limit=1").await;
    assert_eq!(first["queues"][0]["waiting"], 3, "all count, however few are shown");
    let only = first["queues"][0]["requests"].as_array().unwrap();
    assert_eq!((only.len(), &only[0]["id"]), (1, &requests[0]["id"]));
    assert_eq!(counts(&first["queues"][0]["tenants"], "tenant"), [("acme".into(), 2)]);
    for wrong in ["?limit=1001", "?limit=-1", "?limit=many", "?most=1"] {
        let (head, body) = get(wrong).await;
        assert!(head.starts_with("HTTP/1.1 400") && body.contains(&wrong[1..5]), "{wrong}: {head} {body}");
    }

    // A plan with another queue: those who wait do so in the former one.
    plan.queue.bands[1].max_wait *= 2;
    gateway.reload(&plan).unwrap();
    let after = queues("").await;
    let lists = after["queues"].as_array().unwrap();
    let kept: Vec<_> = lists.iter().map(|q| (&q["former"], &q["waiting"])).collect();
    assert_eq!(kept, [(&json!(false), &json!(0)), (&json!(true), &json!(3))]);
    drop(held);
    for one in asked {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(queues("").await["queues"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_waited_in_vain_is_told_when_to_come_back() {
    let mock = slow_mock(60, 20.0).await;
    for (queue, code) in [
        (r#"{"bands": [{"name": "only", "max_wait_ms": 50}]}"#, "queue_waited_too_long"),
        (r#"{"max_waiting": 0}"#, "saturated"),
    ] {
        let plan = plan(&format!(
            r#"{{"backends": {{"only": {{"url": "{}"}}}}, "queue": {queue},
            "congestion": {{"concurrency": {{"initial": 1, "min": 1, "max": 1}}}},
            "routing": {{"default": {{"backend": "only"}}}}}}"#,
            mock.url()
        ));
        let gateway = gateway(&plan).await;
        let _held = open(gateway.address(), false, &[], &streamed(600)).await;
        let refused = post(gateway.address(), &[], &chat(1)).await;
        assert_eq!((refused.status, refused.code().as_str()), (503, code));
        assert_eq!(refused.headers["retry-after"], "1", "{code}");
    }
}
