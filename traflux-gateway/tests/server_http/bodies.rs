//! What a body says to the gateway and to the backend is the same, or it is refused.

use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use traflux_gateway::congestion::ConcurrencyPlan;

use crate::common::{
    Answer, PATIENCE, chat, gateway, mock, open, plan, post, raw, read, scripted, slow_mock, streamed, to,
    until,
};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

/// Only models have prices, and a dollar is all there is.
fn priced(url: &str) -> traflux_core::plan::requests::RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{url}", "models": {{"m": {{"price": {{"output_dollars_per_million": 10}}}},
            "dear": {{"price": {{"request_dollars": 0.6}}}}}}}}}},
            "routing": {{"default": {{"backend": "only"}}}},
            "limits": [{{"name": "budget", "unit": "dollars", "amount": 1}}]}}"#
    ))
}

async fn send(address: std::net::SocketAddr, kinds: &[&str], more: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<bytes::Bytes>>();
    let mut request = Request::post(format!("http://{address}/v1/chat/completions"));
    for kind in kinds {
        request = request.header("content-type", *kind);
    }
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(body.into())).unwrap();
    read(tokio::time::timeout(PATIENCE, client.request(request)).await.unwrap().unwrap()).await
}

#[tokio::test]
async fn no_body_gets_around_what_goes_by_models_and_dollars() {
    let mock = mock().await;
    let gateway = gateway(&priced(&mock.url())).await;
    let json = ["application/json"];
    let twice = br#"{"model": "m", "model": "m", "messages": []}"#;
    let wide: Vec<u8> = chat(1).encode_utf16().flat_map(u16::to_le_bytes).collect();
    for kinds in [&json[..], &[], &["text/plain"], &["application/x-www-form-urlencoded"]] {
        for body in [&twice[..], &wide, b"{\"model\": \"m\", \"max_tokens\": \"9\"}", b"{\"model\": \"m\"} ]"]
        {
            let answer = send(gateway.address(), kinds, &[], body.to_vec()).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "request_body"), "{kinds:?} {body:?}");
        }
        let gzip = [("content-encoding", "gzip")];
        let answer = send(gateway.address(), kinds, &gzip, b"\x1f\x8b\x08".to_vec()).await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "content_encoding"), "{kinds:?}");
        assert_eq!(answer.headers["accept-encoding"], "identity");
    }
    let answer = send(gateway.address(), &["audio/wav", "application/json"], &[], chat(1).into()).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "content_type"));
    assert_eq!(mock.requests(), 0);
    // What can be read is, and paid for: with a mark before it, with numbers of any form.
    for body in [chat(16).replace("16", "16.0"), format!("\u{feff}{}", chat(16))] {
        assert_eq!(send(gateway.address(), &json, &[], body.clone().into()).await.status, 200);
        let other = body.replace("\"m\"", "\"other\"");
        assert_eq!(send(gateway.address(), &json, &[], other.into()).await.code(), "no_model");
    }
    assert!((gateway.tally().row("default", "only").dollars() - 2.0 * 160e-6).abs() < 1e-9);
}

#[tokio::test]
async fn an_object_under_another_name_is_refused() {
    let (address, _heads) = scripted(OK).await;
    let mut plan = priced(&format!("http://{address}"));
    plan.limits.clear();
    let gateway = gateway(&plan).await;
    for kind in ["application/octet-stream", "multipart/form-data; boundary=x", "audio/wav"] {
        let answer = send(gateway.address(), &[kind], &[], format!(" \n{}", chat(1)).into()).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "request_body"), "{kind}");
    }
}

#[tokio::test]
async fn uploads_forms_and_lists_pass_and_a_plan_that_goes_by_none_of_it_passes_all() {
    let (address, mut heads) = scripted(OK).await;
    let mut strict = priced(&format!("http://{address}"));
    strict.limits.clear();
    let strict = gateway(&strict).await;
    let many = |kind: &'static str, body: &[u8]| (kind, body.to_vec());
    for (kind, body) in [
        many("multipart/form-data; boundary=x", b"--x\r\n\r\n{\r\n--x--"),
        many("application/octet-stream", b"\x1f\x8b"),
        many("application/grpc", b"\0\0\0\0\x7b{}"),
        many("application/x-www-form-urlencoded", b"a=%7B&b={"),
        many("application/json", b"[1, 2]"),
        many("application/json", b""),
        many("text/csv", b"a,b\n"),
    ] {
        assert_eq!(send(strict.address(), &[kind], &[], body).await.status, 200, "{kind}");
        heads.recv().await.unwrap();
    }
    let protobuf =
        send(strict.address(), &["application/x-protobuf"], &[("content-encoding", "gzip")], vec![31]);
    assert_eq!(protobuf.await.status, 200);
    let open = gateway(&to(&format!("http://{address}"))).await;
    let lines = b"{\"index\": {}}\n{\"a\": 1}\n".to_vec();
    assert_eq!(send(open.address(), &["application/json"], &[], lines).await.status, 200);
    let packed = send(open.address(), &["application/json"], &[("content-encoding", "gzip")], vec![31]);
    assert_eq!(packed.await.status, 200);
}

#[tokio::test]
async fn what_names_no_model_reserves_and_pays_the_dearest_price() {
    let (address, _heads) = scripted(OK).await;
    let gateway = gateway(&priced(&format!("http://{address}"))).await;
    let upload = || send(gateway.address(), &["application/octet-stream"], &[], b"abc".to_vec());
    assert_eq!(upload().await.status, 200);
    // 60 cents of a dollar are gone.
    assert_eq!(upload().await.status, 429);
}

#[tokio::test]
async fn cookies_of_http2_are_one_field_for_rules_and_backends() {
    let (address, mut heads) = scripted(OK).await;
    let plan = plan(&format!(
        r#"{{"backends": {{"beta": {{"url": "http://{address}/beta"}}, "other": {{"url": "http://{address}/other"}}}},
        "routing": {{"rules": [{{"name": "beta", "match": {{"headers": {{"cookie": {{"regex": ".*beta=1.*"}}}}}},
            "route": {{"backend": "beta"}}}}], "default": {{"backend": "other"}}}}}}"#
    ));
    let gateway = gateway(&plan).await;
    let cookies = [("cookie", "a=1"), ("cookie", "beta=1")];
    assert_eq!(open(gateway.address(), true, &cookies, &chat(1)).await.status(), 200);
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("POST /beta/"), "{head}");
    assert!(head.contains("\r\ncookie: a=1; beta=1\r\n"), "{head}");
}

#[tokio::test]
async fn a_post_without_a_body_says_so_to_the_backend() {
    let (address, mut heads) = scripted(OK).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    for (method, says) in [("POST", true), ("PUT", true), ("PATCH", true), ("GET", false), ("DELETE", false)]
    {
        let length = if says { "content-length: 0\r\n" } else { "" };
        let request = format!("{method} /x HTTP/1.1\r\nhost: x\r\n{length}connection: close\r\n\r\n");
        assert!(raw(gateway.address(), request.as_bytes()).await.starts_with("HTTP/1.1 200"), "{method}");
        let head = heads.recv().await.unwrap();
        assert_eq!(head.contains("\r\ncontent-length: 0\r\n"), says, "{head}");
    }
}

#[tokio::test]
async fn websocket_is_refused_in_words_and_other_upgrades_are_left_alone() {
    let (address, mut heads) = scripted(OK).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    let ask = async |protocol: &str| {
        let head = format!(
            "GET /x HTTP/1.1\r\nhost: x\r\nconnection: close, Upgrade\r\nupgrade: {protocol}\r\n\r\n"
        );
        raw(gateway.address(), head.as_bytes()).await
    };
    let refused = ask("WebSocket").await;
    assert!(refused.starts_with("HTTP/1.1 501") && refused.contains("\"upgrade\""), "{refused}");
    assert!(heads.try_recv().is_err());
    assert!(ask("h2c").await.starts_with("HTTP/1.1 200"));
    let head = heads.recv().await.unwrap();
    assert!(!head.contains("upgrade"), "{head}");
}

#[tokio::test]
async fn a_peer_of_the_administrative_side_that_reads_nothing_loses_its_place() {
    let mut plan = to("http://127.0.0.1:1");
    plan.server.admin = Some("127.0.0.1:0".into());
    plan.server.stream_idle_timeout = std::time::Duration::from_millis(200);
    let gateway = gateway(&plan).await;
    let mut socket = TcpStream::connect(gateway.admin_address().unwrap()).await.unwrap();
    let many = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let asking = async { while socket.write_all(&many).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, asking).await.expect("it keeps its place");
}

#[tokio::test]
async fn who_is_refused_after_a_wait_is_told_of_limits_like_anybody() {
    let mock = slow_mock(20, 50.0).await;
    let mut plan = plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{}"}}}}, "routing": {{"default": {{"backend": "only"}}}},
            "limits": [{{"name": "few", "unit": "requests", "amount": 1}}]}}"#,
        mock.url()
    ));
    plan.congestion.concurrency = Some(ConcurrencyPlan::fixed(1));
    let gateway = gateway(&plan).await;
    let address = gateway.address();
    let first = open(address, false, &[], &streamed(20)).await;
    let second = tokio::spawn(async move { post(address, &[], &chat(1)).await });
    until(|| gateway.waiting() == 1).await;
    assert_eq!(read(first).await.status, 200);
    let refused = second.await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (429, "limited"));
    assert_eq!(refused.headers["x-ratelimit-limit-requests"], "1");
}
