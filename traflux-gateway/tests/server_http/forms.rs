//! Paths in one form, bodies that are held, and how the gateway names itself.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::{PATIENCE, chat, gateway, mock, plan, post, raw, scripted, slow_mock, to, until};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

#[tokio::test]
async fn no_way_of_writing_a_path_leads_around_a_rule() {
    let (address, mut heads) = scripted(OK).await;
    let plan = plan(&format!(
        r#"{{"backends": {{"guarded": {{"url": "http://{address}/guarded"}}, "other": {{"url": "http://{address}/other"}}}},
        "routing": {{"rules": [{{"name": "guard", "match": {{"path": "/admin"}}, "route": {{"backend": "guarded"}}}}],
            "default": {{"backend": "other"}}}}}}"#
    ));
    let gateway = gateway(&plan).await;
    for (path, expected) in [
        ("/admin/x?a=/../b", "/guarded/admin/x?a=/../b"),
        ("/public/../admin", "/guarded/admin"),
        ("/public/%2e%2E/admin", "/guarded/admin"),
        ("/./%61dmin/x", "/guarded/admin/x"),
        ("/../../admin/./x?%61=1", "/guarded/admin/x?%61=1"),
        ("http://any.example/public/../admin", "/guarded/admin"),
        ("/admin/../public", "/other/public"),
        ("/public%2Fadmin", "/other/public%2Fadmin"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        assert!(raw(gateway.address(), request.as_bytes()).await.starts_with("HTTP/1.1 200"), "{path}");
        let head = heads.recv().await.unwrap();
        assert_eq!(head.split(' ').nth(1), Some(expected), "{path}");
    }
    // Over HTTP/2, too.
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<bytes::Bytes>>();
    let request =
        Request::builder().method(Method::GET).uri(format!("http://{}/x/%2e./admin", gateway.address()));
    let answer = client.request(request.body(Full::default()).unwrap()).await.unwrap();
    answer.into_body().collect().await.unwrap();
    let head = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /guarded/admin "), "{head}");
    assert!(head.contains("\r\nvia: 2.0 traflux\r\n"), "{head}");
}

#[tokio::test]
async fn backends_learn_which_way_a_request_came() {
    let (address, mut heads) = scripted(OK).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    assert_eq!(post(gateway.address(), &[("via", "1.1 front")], &chat(1)).await.status, 200);
    let head = heads.recv().await.unwrap();
    let via: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("via: ")).collect();
    assert_eq!(via, ["1.1 front", "1.1 traflux"]);
}

#[tokio::test]
async fn bodies_beyond_what_may_be_held_together_are_refused_until_others_are_gone() {
    // Half a second for an answer.
    let mock = slow_mock(16, 32.0).await;
    let mut plan = to(&mock.url());
    plan.server.max_buffered_bytes = 100_000;
    plan.server.admin = Some("127.0.0.1:0".into());
    plan.retry.max_attempts = 1;
    let gateway = gateway(&plan).await;
    let held = async || {
        let get = b"GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let status = raw(gateway.admin_address().unwrap(), get).await;
        let line =
            status.lines().find_map(|line| line.strip_prefix("bodies that are held: ")).unwrap().to_owned();
        line.trim_end_matches(" bytes").parse::<usize>().unwrap()
    };
    let long = chat(16).replace("hello", &"word ".repeat(16_000));
    let address = gateway.address();
    let first = tokio::spawn({
        let long = long.clone();
        async move { post(address, &[], &long).await.status }
    });
    until(|| mock.requests() == 1).await;
    let refused = post(address, &[], &long).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "buffers_full"));
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(post(address, &[], &chat(1)).await.status, 200, "a short one has room");
    assert_eq!(first.await.unwrap(), 200);
    // Whoever announces much and sends little keeps nobody out, and what it sent is let go with it.
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"POST /v1/chat HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 90000\r\n\r\n").await.unwrap();
    idle.write_all(&[b' '; 5000]).await.unwrap();
    while held().await != 5000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(post(address, &[], &long).await.status, 200);
    drop(idle);
    let gone = async {
        while held().await != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let fast = mock_after_reload(&gateway, plan).await;
    assert_eq!(fast, 200);
}

/// More may be held after a reload.
async fn mock_after_reload(
    gateway: &traflux_gateway::server::Gateway,
    mut plan: traflux_core::plan::requests::RequestPlan,
) -> u16 {
    let mock = mock().await;
    plan.backends.insert("only".into(), to(&mock.url()).backends.remove("only").unwrap());
    plan.server.max_buffered_bytes = 1_000_000;
    gateway.reload(&plan).unwrap();
    post(gateway.address(), &[], &chat(16).replace("hello", &"word ".repeat(100_000))).await.status
}
