//! Clients, backends and plans for the tests.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::server::mock::{MockBackend, MockSettings};
use traflux_gateway::server::{Gateway, ServerSettings};

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A plan on a free port, from JSON without its `server`.
pub(crate) fn plan(json: &str) -> RequestPlan {
    let mut plan: RequestPlan = serde_json::from_str(json).unwrap();
    plan.server.listen = "127.0.0.1:0".into();
    plan
}

/// A plan with one backend, which takes everything.
pub(crate) fn to(url: &str) -> RequestPlan {
    plan(&format!(
        r#"{{"backends": {{"only": {{"url": "{url}"}}}}, "routing": {{"default": {{"backend": "only"}}}}}}"#
    ))
}

pub(crate) async fn gateway(plan: &RequestPlan) -> Gateway {
    Gateway::start(plan, ServerSettings::default()).await.unwrap()
}

pub(crate) async fn mock() -> MockBackend {
    MockBackend::start(MockSettings::default()).await.unwrap()
}

/// A mock of `tokens` tokens, so many a second.
pub(crate) async fn slow_mock(tokens: u64, per_second: f64) -> MockBackend {
    let settings =
        MockSettings { output_tokens: tokens, tokens_per_second: per_second, ..MockSettings::default() };
    MockBackend::start(settings).await.unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    /// The code in the body of an error.
    pub(crate) fn code(&self) -> String {
        let json: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert!(json["error"]["message"].is_string() && json["error"]["type"].is_string(), "{}", self.body);
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn open(
    address: SocketAddr,
    http2: bool,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Incoming> {
    let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http::<Full<Bytes>>();
    let mut request = Request::post(format!("http://{address}/v1/chat/completions"))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    tokio::time::timeout(PATIENCE, client.request(request)).await.unwrap().unwrap()
}

pub(crate) async fn post(address: SocketAddr, headers: &[(&str, &str)], body: &str) -> Answer {
    read(open(address, false, headers, body).await).await
}

pub(crate) async fn read(response: Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// A chat with at most so many tokens of answer.
pub(crate) fn chat(most: u64) -> String {
    format!(r#"{{"model": "m", "max_tokens": {most}, "messages": [{{"role": "user", "content": "hello"}}]}}"#)
}

/// The same as a stream that ends with its usage.
pub(crate) fn streamed(most: u64) -> String {
    chat(most).replace("\"model\"", r#""stream": true, "stream_options": {"include_usage": true}, "model""#)
}

/// Sends bytes and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // An end by reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A backend that reads a request's head and writes these bytes, then closes; and the heads that it read.
pub(crate) async fn scripted(
    answer: &'static [u8],
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                let read = socket.read(&mut buffer).await.unwrap_or(0);
                if read == 0 {
                    break;
                }
                head.extend_from_slice(&buffer[..read]);
            }
            let _ = sender.send(String::from_utf8_lossy(&head).into_owned());
            let _ = socket.write_all(answer).await;
            // Long enough for what was written to be read before the end.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    (address, heads)
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never came to hold");
}
