//! Connections to backends: used again, closed, broken, bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use traflux_gateway::server::{Gateway, ServerSettings};

use crate::common::{PATIENCE, chat, gateway, open, plan, post, raw, read, to, until};

/// What a backend does with a request.
#[derive(Clone, Copy)]
enum Then {
    Answer,
    /// In chunks, after a while.
    AnswerLate,
    /// And says nothing of the end of the connection.
    AnswerAndClose,
    Fail,
    Reset,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
}

/// A backend of HTTP/1.1 that does so with the nth request of each connection.
async fn backend(then: fn(usize) -> Then) -> (SocketAddr, Arc<Counts>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.connections.fetch_add(1, SeqCst);
            counted.open.fetch_add(1, SeqCst);
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                for nth in 0.. {
                    if !whole_request(&mut socket).await {
                        break;
                    }
                    counted.requests.fetch_add(1, SeqCst);
                    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    match then(nth) {
                        Then::Answer => socket.write_all(whole).await.unwrap(),
                        Then::AnswerLate => {
                            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n";
                            socket.write_all(head).await.unwrap();
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            socket.write_all(b"0\r\n\r\n").await.unwrap();
                        }
                        Then::Fail => {
                            let failure = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}";
                            socket.write_all(failure).await.unwrap();
                        }
                        Then::AnswerAndClose => {
                            socket.write_all(whole).await.unwrap();
                            break;
                        }
                        Then::Reset => {
                            socket.set_zero_linger().unwrap();
                            break;
                        }
                    }
                }
                drop(socket);
                counted.open.fetch_sub(1, SeqCst);
            });
        }
    });
    (address, counts)
}

/// Reads a request with its body; `false` at the end of the connection.
async fn whole_request(socket: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&seen).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return true;
            }
        }
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(read) => seen.extend_from_slice(&buffer[..read]),
        }
    }
}

#[tokio::test]
async fn requests_one_after_another_share_a_connection_over_reloads_too() {
    for then in [|_| Then::Answer, |_| Then::AnswerLate] as [fn(usize) -> Then; 2] {
        let (address, counts) = backend(then).await;
        let mut plan = to(&format!("http://{address}"));
        let gateway = gateway(&plan).await;
        for round in 0..8 {
            assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
            // Without a body, too.
            let get = b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            assert!(raw(gateway.address(), get).await.starts_with("HTTP/1.1 200"));
            plan.server.max_body_bytes = 1_000_000 + round;
            gateway.reload(&plan).unwrap();
        }
        assert_eq!((counts.connections.load(SeqCst), counts.requests.load(SeqCst)), (1, 16));
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_is_not_used_again() {
    let (address, counts) = backend(|_| Then::AnswerAndClose).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    for _ in 0..5 {
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
        until(|| counts.open.load(SeqCst) == 0).await;
    }
    assert_eq!((counts.connections.load(SeqCst), counts.requests.load(SeqCst)), (5, 5));
    assert_eq!(gateway.tally().row("default", "only").retries(), 0);
}

#[tokio::test]
async fn what_may_have_been_done_is_not_sent_again_when_a_used_connection_resets() {
    let (address, counts) = backend(|nth| if nth == 0 { Then::Answer } else { Then::Reset }).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    let answer = post(gateway.address(), &[], r#"{"order": "one book"}"#).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "backend_reset"));
    assert_eq!(counts.requests.load(SeqCst), 2, "it was sent again");
    // A model may be asked twice: the first attempt meets a connection that resets, the second a new one.
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    assert_eq!(counts.requests.load(SeqCst), 5);
}

#[tokio::test]
async fn a_failure_that_is_tried_again_keeps_its_connection() {
    let (address, counts) = backend(|nth| if nth < 2 { Then::Fail } else { Then::Answer }).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    assert_eq!((counts.connections.load(SeqCst), counts.requests.load(SeqCst)), (1, 3));
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    let (address, counts) = backend(|_| Then::AnswerLate).await;
    let settings = ServerSettings { max_idle_per_host: 2, ..ServerSettings::default() };
    let mut plan = to(&format!("http://{address}"));
    plan.pool.idle_timeout = Duration::from_millis(1500);
    let gateway = Gateway::start(&plan, settings).await.unwrap();
    let at_once: Vec<_> = (0..6)
        .map(|_| {
            let address = gateway.address();
            tokio::spawn(async move { post(address, &[], &chat(1)).await.status })
        })
        .collect();
    for one in at_once {
        assert_eq!(one.await.unwrap(), 200);
    }
    assert_eq!(counts.connections.load(SeqCst), 6);
    until(|| counts.open.load(SeqCst) <= 2).await;
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    assert_eq!(counts.connections.load(SeqCst), 6, "an idle one was there");
    until(|| counts.open.load(SeqCst) == 0).await;
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
    assert_eq!(counts.connections.load(SeqCst), 7);
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_connection_along() {
    let (address, counts) = backend(|_| Then::AnswerLate).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    let response = open(gateway.address(), false, &[], &chat(1)).await;
    drop(response);
    until(|| counts.open.load(SeqCst) == 0).await;
    assert_eq!(gateway.tally().row("default", "only").of(traflux_gateway::Outcome::Cancelled), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_send_all_before_it_reads_while_the_answer_comes() {
    const MANY: usize = 32 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let head = move |what: &str| format!("{what}\r\ncontent-length: {MANY}\r\n\r\n");
    tokio::spawn(async move {
        let (mut read, mut write) = listener.accept().await.unwrap().0.into_split();
        let mut first = [0; 1024];
        assert!(read.read(&mut first).await.unwrap() > 0);
        tokio::spawn(async move {
            write.write_all(head("HTTP/1.1 200 OK").as_bytes()).await.unwrap();
            write.write_all(&vec![b'b'; MANY]).await.unwrap();
            std::future::pending::<()>().await;
        });
        tokio::io::copy(&mut read, &mut tokio::io::sink()).await.unwrap();
    });
    let mut plan = to(&format!("http://{address}"));
    plan.server.max_body_bytes = 2 * MANY;
    let gateway = gateway(&plan).await;
    let exchange = async {
        let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
        let request = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream";
        socket.write_all(head(request).as_bytes()).await.unwrap();
        socket.write_all(&vec![b'a'; MANY]).await.unwrap();
        let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
        while read < MANY {
            let piece = socket.read(&mut buffer).await.unwrap();
            assert!(piece > 0, "it ended after {read} bytes");
            read += piece;
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("both wait for each other");
}

/// A backend of HTTP/2 that ends each connection after so many requests, and how many connections it had.
async fn http2_backend(each: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            tokio::spawn(async move {
                let served = Arc::new(AtomicUsize::new(0));
                let seen = Arc::clone(&served);
                let service = hyper::service::service_fn(move |_| {
                    seen.fetch_add(1, SeqCst);
                    async {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from("{}"))))
                    }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service);
                let mut connection = std::pin::pin!(connection);
                let mut told = false;
                loop {
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        () = tokio::time::sleep(Duration::from_millis(5)), if !told => {
                            if served.load(SeqCst) >= each {
                                told = true;
                                connection.as_mut().graceful_shutdown();
                            }
                        }
                    }
                }
            });
        }
    });
    (address, connections)
}

fn to_http2(address: SocketAddr) -> traflux_core::plan::requests::RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"only": {{"url": "http://{address}", "http2": true}}}},
            "routing": {{"default": {{"backend": "only"}}}}}}"#
    ))
}

#[tokio::test]
async fn requests_over_http2_share_one_connection_from_the_first_on() {
    let (address, connections) = http2_backend(usize::MAX).await;
    let gateway = gateway(&to_http2(address)).await;
    for _ in 0..2 {
        let at_once: Vec<_> = (0..20)
            .map(|_| {
                let address = gateway.address();
                tokio::spawn(async move { read(open(address, false, &[], &chat(1)).await).await.status })
            })
            .collect();
        for one in at_once {
            assert_eq!(one.await.unwrap(), 200);
        }
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_connection_of_http2_that_says_goodbye_is_followed_by_another_and_no_request_is_lost() {
    let (address, connections) = http2_backend(5).await;
    let gateway = gateway(&to_http2(address)).await;
    for _ in 0..30 {
        assert_eq!(post(gateway.address(), &[], r#"{"order": "one book"}"#).await.status, 200);
    }
    let connections = connections.load(SeqCst);
    assert!((2..=10).contains(&connections), "{connections}");
}

#[tokio::test]
async fn a_connection_of_http2_that_nobody_uses_is_closed() {
    let (address, connections) = http2_backend(usize::MAX).await;
    let mut plan = to_http2(address);
    plan.pool.idle_timeout = Duration::from_millis(500);
    let gateway = gateway(&plan).await;
    for expected in [1, 2] {
        assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
        assert_eq!(connections.load(SeqCst), expected);
        tokio::time::sleep(Duration::from_millis(3_200)).await;
    }
}

#[tokio::test]
async fn a_backend_that_takes_connections_and_speaks_no_http2_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = to_http2(silent.local_addr().unwrap());
    plan.routing.default.as_mut().unwrap().timeout = Some(Duration::from_millis(300));
    let gateway = gateway(&plan).await;
    let answer = tokio::time::timeout(PATIENCE, post(gateway.address(), &[], &chat(1))).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_timeout"));
}
