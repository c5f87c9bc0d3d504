//! How a process says how it is, and limits of its listener that change.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{PATIENCE, chat, gateway, mock, post, raw, to, until};

/// Asks over a connection that stays open.
async fn ask(socket: &mut TcpStream, header: &str) -> Option<String> {
    let request = format!("GET /health HTTP/1.1\r\nhost: x\r\nx-more: {header}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut buffer = [0; 1000];
    let read = tokio::time::timeout(Duration::from_millis(300), socket.read(&mut buffer)).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
}

#[tokio::test]
async fn limits_of_connections_that_change_hold_for_those_that_come_then() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.max_connections = 1;
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    let open = async || TcpStream::connect(gateway.address()).await.unwrap();
    let mut first = open().await;
    assert!(ask(&mut first, "").await.unwrap().starts_with("HTTP/1.1 200"));
    let mut second = open().await;
    assert_eq!(ask(&mut second, "").await, None, "it waits to be accepted");
    // More room, while one waits for it.
    plan.server.max_connections = 2;
    gateway.reload(&plan).unwrap();
    let mut buffer = [0; 1000];
    let read = tokio::time::timeout(PATIENCE, second.read(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    let get = b"GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let status = raw(gateway.admin_address().unwrap(), get).await;
    assert!(status.contains("connections: 2 open, at most 2\n"), "{status}");
    // Less: those that are open go on, and one that ends makes no room.
    plan.server.max_connections = 1;
    plan.server.max_header_bytes = 8192;
    gateway.reload(&plan).unwrap();
    assert!(ask(&mut first, "").await.unwrap().starts_with("HTTP/1.1 200"));
    drop(second);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut third = open().await;
    assert_eq!(ask(&mut third, "").await, None);
    drop(first);
    let read = tokio::time::timeout(PATIENCE, third.read(&mut buffer)).await.unwrap().unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    // A head of 10,000 bytes was fine before.
    let answer = ask(&mut third, &"x".repeat(10_000)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn no_family_of_metrics_is_told_twice() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    let get = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let metrics = raw(gateway.admin_address().unwrap(), get).await;
    let mut families: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(families.len() > 30, "{metrics}");
    families.sort_unstable();
    let names = || families.iter().map(|family| family.split(' ').next().unwrap());
    let twice: Vec<_> = names().zip(names().skip(1)).filter(|(a, b)| a == b).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test]
async fn a_plan_that_is_refused_is_told_until_another_is_in_force() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.admin = Some("127.0.0.1:0".into());
    let gateway = gateway(&plan).await;
    let get = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        raw(gateway.admin_address().unwrap(), request.as_bytes()).await
    };
    assert!(get("/status").await.contains("\nplan: the latest\n"));
    let mut elsewhere = plan.clone();
    elsewhere.server.listen = "127.0.0.1:1".into();
    gateway.reload(&elsewhere).unwrap_err();
    let status = get("/status").await;
    assert!(status.contains("plan: an earlier one, the latest was refused: `server.listen`"), "{status}");
    let metrics = get("/metrics").await;
    assert!(metrics.contains("\ntraflux_gateway_reloads_total{result=\"failure\"} 1\n"), "{metrics}");
    assert!(metrics.contains("\ntraflux_gateway_reload_failing 1\n"));
    gateway.reload(&plan).unwrap();
    assert!(get("/metrics").await.contains("\ntraflux_gateway_reload_failing 0\n"));
    assert!(gateway.reload_problem().is_none());
}

#[tokio::test]
async fn files_that_cannot_be_renewed_are_told_and_those_in_use_go_on() {
    let mock = mock().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, "first").unwrap();
    let mut plan = to(&mock.url());
    plan.server.admin = Some("127.0.0.1:0".into());
    plan.backends.get_mut("only").unwrap().key =
        Some(traflux_core::plan::backend::KeySource::File(file.to_str().unwrap().into()));
    let settings = ServerSettings { watch_interval: Duration::from_millis(20), ..ServerSettings::default() };
    let gateway = Gateway::start(&plan, settings).await.unwrap();
    let get = async |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        raw(gateway.admin_address().unwrap(), request.as_bytes()).await
    };
    assert!(get("/status").await.contains("certificates and keys: those of their files"));
    std::fs::write(&file, "").unwrap();
    until(|| gateway.renewal_problem().is_some_and(|problem| problem.code() == "gateway_secret")).await;
    assert!(get("/metrics").await.contains("\ntraflux_gateway_renewal_failing 1\n"));
    let status = get("/status").await;
    assert!(status.contains("certificates and keys: older than their files: backends.only.key"), "{status}");
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    std::fs::write(&file, "second").unwrap();
    until(|| gateway.renewal_problem().is_none()).await;
    assert!(get("/metrics").await.contains("\ntraflux_gateway_renewal_failing 0\n"));
}
