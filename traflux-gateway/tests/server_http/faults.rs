//! Clients and backends that are slow, malformed or gone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use traflux_gateway::Outcome;

use crate::common::{
    PATIENCE, chat, gateway, mock, open, post, raw, scripted, slow_mock, streamed, to, until,
};

#[tokio::test]
async fn a_client_that_trickles_its_head_or_says_nothing_is_cut_off() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.header_timeout = Duration::from_millis(200);
    let gateway = gateway(&plan).await;
    let begun = Instant::now();
    assert_eq!(raw(gateway.address(), b"").await, "");
    // One byte that could be the beginning of HTTP/2, too.
    assert_eq!(raw(gateway.address(), b"P").await, "");
    let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
    let trickle = async {
        for byte in b"GET / HTTP/1.1\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
            if socket.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trickle).await.expect("it was let go on");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    assert_eq!(mock.requests(), 0);
    assert_eq!(post(gateway.address(), &[], &chat(1)).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_408() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.body_timeout = Duration::from_millis(100);
    let gateway = gateway(&plan).await;
    let answer = raw(gateway.address(), b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("\"request_timeout\""), "{answer}");
    assert_eq!(mock.requests(), 0);
}

#[tokio::test]
async fn a_body_that_trickles_is_408_whether_or_not_it_is_read_first() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.body_timeout = Duration::from_millis(200);
    let gateway = gateway(&plan).await;
    for kind in ["application/json", "application/octet-stream"] {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let (mut read, mut write) = TcpStream::connect(gateway.address()).await.unwrap().into_split();
        write.write_all(head.as_bytes()).await.unwrap();
        let trickle = tokio::spawn(async move {
            while write.write_all(b"1\r\n{\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = Vec::new();
        let _ =
            tokio::time::timeout(PATIENCE, read.read_to_end(&mut answer)).await.expect("it was let go on");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 408") && answer.contains("\"request_timeout\""),
            "{kind}: {answer}"
        );
        trickle.abort();
    }
    assert_eq!(gateway.tally().row("default", "only").of(Outcome::Success), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut_off() {
    let mock = slow_mock(1_000_000, 0.0).await;
    let mut plan = to(&mock.url());
    plan.server.stream_idle_timeout = Duration::from_millis(300);
    let gateway = gateway(&plan).await;
    let body = streamed(1_000_000);
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(gateway.address()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let row = gateway.tally().row("default", "only");
    until(|| mock.open() == 1).await;
    // More than any buffer between holds, none of which is read.
    until(|| row.of(Outcome::Cancelled) == 1).await;
    until(|| mock.open() == 0).await;
}

#[tokio::test]
async fn a_head_beyond_the_bound_ends_a_request_of_http2_alone() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.max_header_bytes = 16 * 1024;
    let gateway = gateway(&plan).await;
    let long = "a".repeat(40_000);
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<http_body_util::Full<bytes::Bytes>>();
    let request = |long: &str| {
        http::Request::post(format!("http://{}/v1/chat/completions", gateway.address()))
            .header("x-long", long)
            .body(http_body_util::Full::new(bytes::Bytes::from(chat(1))))
            .unwrap()
    };
    let answer = tokio::time::timeout(PATIENCE, client.request(request(&long))).await.unwrap();
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(mock.requests(), 0);
    let answer = tokio::time::timeout(PATIENCE, client.request(request("short"))).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_backend_that_resets_its_connection_is_502_before_the_answer_and_torn_within() {
    let head: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    // There the end of the connection is that of the answer.
    let old: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nhalf";
    for answer in [&b""[..], head, old] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                let _ = socket.read(&mut buffer).await;
                let _ = socket.write_all(answer).await;
                // Long enough for what was written to be read before the reset.
                tokio::time::sleep(Duration::from_millis(50)).await;
                socket.set_zero_linger().unwrap();
            }
        });
        let gateway = gateway(&to(&format!("http://{address}"))).await;
        if answer.is_empty() {
            let answer = post(gateway.address(), &[], &chat(1)).await;
            assert_eq!((answer.status, answer.code().as_str()), (502, "backend_reset"));
        } else {
            let mut body = open(gateway.address(), false, &[], &chat(1)).await.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"half");
            assert!(body.frame().await.unwrap().is_err(), "the torn answer looked complete");
        }
        until(|| gateway.tally().row("default", "only").of(Outcome::Reset) > 0).await;
    }
}

#[tokio::test]
async fn a_backend_that_sends_malformed_chunks_or_a_head_without_end_is_a_clean_error() {
    let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnot-a-size\r\nabc";
    let (address, _heads) = scripted(chunks).await;
    let torn = gateway(&to(&format!("http://{address}"))).await;
    let mut body = open(torn.address(), false, &[], &chat(1)).await.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"abc");
    assert!(body.frame().await.unwrap().is_err(), "the malformed answer looked complete");
    let endless = [b"HTTP/1.1 200 OK\r\nx-long: ".to_vec(), vec![b'a'; 2_000_000]].concat().leak();
    let (address, _heads) = scripted(endless).await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    let answer = post(gateway.address(), &[], &chat(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "backend_reset"));
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_431() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.max_header_bytes = 16 * 1024;
    let gateway = gateway(&plan).await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(40_000));
    let answer = raw(gateway.address(), long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = "x: y\r\n".repeat(2000);
    let answer = raw(gateway.address(), format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(mock.requests(), 0);
}

#[tokio::test]
async fn a_malformed_or_torn_body_is_400_and_a_long_one_413() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.max_body_bytes = 1000;
    let gateway = gateway(&plan).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n";
    for kind in ["application/json", "application/octet-stream"] {
        let request = format!("{head}content-type: {kind}\r\n\r\nnot-a-size\r\n{{}}\r\n0\r\n\r\n");
        let answer = raw(gateway.address(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{kind}: {answer}");
    }
    let long = format!("{head}\r\n400\r\n{}\r\n0\r\n\r\n", "a".repeat(0x400));
    let answer = raw(gateway.address(), long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"request_too_large\""), "{answer}");
    let stated = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n";
    assert!(raw(gateway.address(), stated.as_bytes()).await.starts_with("HTTP/1.1 413"));
    // What HTTP does not allow is told apart from what the gateway does not take.
    assert!(raw(gateway.address(), b"BOGUS\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert_eq!(mock.requests(), 0);
}

#[tokio::test]
async fn a_request_with_length_and_chunks_cannot_smuggle_another() {
    let (address, mut heads) = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let gateway = gateway(&to(&format!("http://{address}"))).await;
    let request = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = raw(gateway.address(), request.as_bytes()).await;
    if answer.starts_with("HTTP/1.1 200") {
        let head = heads.recv().await.unwrap().to_ascii_lowercase();
        assert!(head.contains("content-length: 2\r\n") && !head.contains("transfer-encoding"), "{head}");
    } else {
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_backend_that_breaks_off_before_its_answer_is_502() {
    for answer in [&b""[..], b"HTTP/1.1 2", b"nonsense\r\n\r\n"] {
        let (address, _heads) = scripted(answer).await;
        let gateway = gateway(&to(&format!("http://{address}"))).await;
        let answer = post(gateway.address(), &[], &chat(1)).await;
        assert_eq!((answer.status, answer.code().as_str()), (502, "backend_reset"));
        // A model may be asked again: three attempts in all.
        assert_eq!(gateway.tally().row("default", "only").of(Outcome::Reset), 3);
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_502_and_one_that_does_not_answer_504() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gateway_to_gone = gateway(&to(&format!("http://{gone}"))).await;
    let answer = post(gateway_to_gone.address(), &[], &chat(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "connect_failure"));
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut plan = to(&format!("http://{}", silent.local_addr().unwrap()));
    plan.routing.default.as_mut().unwrap().timeout = Some(Duration::from_millis(100));
    let gateway = gateway(&plan).await;
    let answer = post(gateway.address(), &[], &chat(1)).await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "backend_timeout"));
}

#[tokio::test]
async fn a_backend_that_breaks_off_within_its_answer_never_looks_like_an_end() {
    let answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    for http2 in [false, true] {
        let (address, _heads) = scripted(answer).await;
        let gateway = gateway(&to(&format!("http://{address}"))).await;
        let mut body = open(gateway.address(), http2, &[], &streamed(9)).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap().as_ref(), b"data: 1\n\n");
        assert!(body.frame().await.unwrap().is_err(), "the torn stream looked complete");
        until(|| gateway.tally().row("default", "only").of(Outcome::Reset) == 1).await;
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_is_ended() {
    let mock = slow_mock(10, 0.5).await;
    let mut plan = to(&mock.url());
    plan.server.stream_idle_timeout = Duration::from_millis(150);
    let gateway = gateway(&plan).await;
    let mut body = open(gateway.address(), false, &[], &streamed(9)).await.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.frame().await.unwrap().is_err());
    until(|| mock.open() == 0).await;
    assert_eq!(gateway.tally().row("default", "only").of(Outcome::Timeout), 1);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_one_to_end() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.max_connections = 1;
    let gateway = gateway(&plan).await;
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut first = TcpStream::connect(gateway.address()).await.unwrap();
    first.write_all(request).await.unwrap();
    let mut buffer = [0; 1000];
    assert!(first.read(&mut buffer).await.unwrap() > 0);
    let mut second = TcpStream::connect(gateway.address()).await.unwrap();
    second.write_all(request).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read(&mut buffer)).await;
    assert!(early.is_err(), "it was served beside the first");
    drop(first);
    assert!(tokio::time::timeout(PATIENCE, second.read(&mut buffer)).await.unwrap().unwrap() > 0);
}

/// A connection of HTTP/2 that goes on by itself, so that pings are answered whatever becomes of its streams, each of
/// which takes a thousand bytes before somebody has to read them.
async fn http2(address: std::net::SocketAddr) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1_000)
        .handshake(TokioIo::new(socket))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_stream_of_http2_whose_client_takes_nothing_ends_while_pings_are_answered() {
    let mock = slow_mock(1_000, 0.0).await;
    let mut plan = to(&mock.url());
    plan.server.stream_idle_timeout = Duration::from_millis(300);
    let gateway = gateway(&plan).await;
    let mut client = http2(gateway.address()).await;
    let request = |body: String| {
        http::Request::post(format!("http://{}/v1/chat/completions", gateway.address()))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap()
    };
    let response = tokio::time::timeout(PATIENCE, client.send_request(request(streamed(1_000)))).await;
    // Its head is here and of its body nothing is taken.
    let response = response.unwrap().unwrap();
    let row = gateway.tally().row("default", "only");
    until(|| row.of(Outcome::Cancelled) == 1).await;
    until(|| mock.open() == 0).await;
    // Others on the same connection go on.
    let answer =
        tokio::time::timeout(PATIENCE, client.send_request(request(chat(1)))).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    drop(response);
}

#[tokio::test]
async fn a_stream_of_http2_that_is_slow_but_moves_is_let_go_on() {
    // Longer by far than the patience for one of its pieces.
    let mock = slow_mock(20, 20.0).await;
    let mut plan = to(&mock.url());
    plan.server.stream_idle_timeout = Duration::from_millis(300);
    let gateway = gateway(&plan).await;
    let mut body = open(gateway.address(), true, &[], &streamed(20)).await.into_body();
    let mut pieces = 0;
    while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap() {
        frame.unwrap();
        pieces += 1;
    }
    assert!(pieces >= 20, "{pieces}");
    assert_eq!(gateway.tally().row("default", "only").of(Outcome::Success), 1);
}

#[tokio::test]
async fn a_connection_of_http2_without_streams_does_not_stay() {
    let mock = mock().await;
    let mut plan = to(&mock.url());
    plan.server.stream_idle_timeout = Duration::from_millis(200);
    plan.server.header_timeout = Duration::from_millis(200);
    let gateway = gateway(&plan).await;
    let mut client = http2(gateway.address()).await;
    let request = http::Request::get(format!("http://{}/health", gateway.address()));
    let answer = client.send_request(request.body(Full::default()).unwrap());
    assert_eq!(tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
    until(|| client.is_closed()).await;
}

#[tokio::test]
async fn a_client_cannot_have_the_head_that_backends_are_sent_reflected() {
    let mock = mock().await;
    let gateway = gateway(&to(&mock.url())).await;
    let answer = raw(gateway.address(), b"TRACE / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(mock.requests(), 0);
}

#[tokio::test]
async fn backends_are_told_the_host_of_the_request_line_and_none_that_a_client_made_up() {
    for (request, told) in [
        (
            "GET http://line.example/x HTTP/1.1\r\nhost: header.example\r\n",
            Some("x-forwarded-host: line.example\r\n"),
        ),
        (
            "GET http://me@line.example:8080/ HTTP/1.1\r\nhost: x\r\n",
            Some("x-forwarded-host: line.example:8080\r\n"),
        ),
        ("GET /x HTTP/1.1\r\nhost: header.example\r\n", Some("x-forwarded-host: header.example\r\n")),
        ("GET /x HTTP/1.0\r\nx-forwarded-host: made.up\r\n", None),
    ] {
        let (address, mut heads) = scripted(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let gateway = gateway(&to(&format!("http://{address}"))).await;
        raw(gateway.address(), format!("{request}connection: close\r\n\r\n").as_bytes()).await;
        let head = heads.recv().await.unwrap().to_ascii_lowercase();
        match told {
            Some(told) => assert!(head.contains(told), "{head}"),
            None => assert!(!head.contains("x-forwarded-host"), "{head}"),
        }
        assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    }
}
