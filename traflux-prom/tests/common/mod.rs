//! A small HTTP server on loopback that answers what a test tells it to.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use traflux_core::{
    Consumption, Flow, HourlyPrice, Latency, Rate, Resource, Route, Timestamp, Topology, UnitPrice, Window,
};
use traflux_prom::{HttpOptions, PromClient};

/// What a client sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Request {
    /// A field of the form in the body, decoded.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let pairs = self.body.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| decode(value)).next()
    }
}

/// What the server does.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status and body.
    Plain(u16, String),
    /// With more header lines.
    With(u16, Vec<(&'static str, String)>, String),
    /// Announces the whole body, sends half of it and closes.
    Truncated(String),
    /// Sends the headers and the first byte, then nothing.
    Stuck,
    /// Never answers.
    Silent,
}

impl Reply {
    pub(crate) fn json(body: impl Into<String>) -> Self {
        Self::Plain(200, body.into())
    }

    pub(crate) fn vector(result: &str) -> Self {
        Self::json(format!(r#"{{"status":"success","data":{{"resultType":"vector","result":{result}}}}}"#))
    }
}

/// A running server; it ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(None, answer).await
    }

    pub(crate) async fn start_tls(
        config: ServerConfig,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch(Some(TlsAcceptor::from(Arc::new(config))), answer).await
    }

    async fn launch(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let answer: Arc<dyn Fn(&Request) -> Reply + Send + Sync> = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answer, seen) = (tls.clone(), Arc::clone(&answer), Arc::clone(&seen));
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, answer, seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, answer, seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn client(&self) -> PromClient {
        PromClient::new(self.options()).unwrap()
    }

    pub(crate) fn options(&self) -> HttpOptions {
        HttpOptions::new(self.url())
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: Arc<dyn Fn(&Request) -> Reply + Send + Sync>,
    seen: Arc<Mutex<Vec<Request>>>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        let reply = answer(&request);
        seen.lock().unwrap().push(request);
        let (status, headers, body) = match reply {
            Reply::Plain(status, body) => (status, Vec::new(), body),
            Reply::With(status, headers, body) => (status, headers, body),
            Reply::Truncated(body) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body.as_bytes()[..body.len() / 2]).await;
                let _ = stream.shutdown().await;
                return;
            }
            Reply::Stuck => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await;
                let _ = stream.flush().await;
                std::future::pending().await
            }
            Reply::Silent => std::future::pending().await,
        };
        let mut head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        if stream.write_all(head.as_bytes()).await.is_err()
            || stream.write_all(body.as_bytes()).await.is_err()
        {
            return;
        }
        let _ = stream.flush().await;
    }
}

async fn read_request(stream: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, path, headers, body: String::from_utf8(body).ok()? })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// A recorded file: either a bare answer or one with its query around it.
pub(crate) fn recorded(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/data/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The body of a recorded answer.
pub(crate) fn recorded_body(name: &str) -> String {
    let mut file = recorded(name);
    match file.get_mut("response") {
        Some(response) => response.take().to_string(),
        None => file.to_string(),
    }
}

/// Flows `(source, service)`, each over all endpoints.
pub(crate) fn topology(flows: &[(&str, &str)], endpoints: &[&str]) -> Topology {
    let mut builder = Topology::builder();
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|name| {
            let resource = Resource {
                name: (*name).into(),
                capacity: Rate::per_second(100.0),
                concurrency: None,
                service_time: None,
                domain: None,
                hourly_price: HourlyPrice::ZERO,
            };
            (*name, builder.add_endpoint(resource, 0))
        })
        .collect();
    for (source, service) in flows {
        let flow = builder.add_flow(Flow {
            name: format!("{source}/{service}"),
            source: (*source).into(),
            service: (*service).into(),
        });
        for (name, (resource, group)) in &endpoints {
            builder.add_route(Route {
                name: format!("{source}/{service}/{name}"),
                flow,
                group: *group,
                consumption: vec![Consumption { resource: *resource, per_request: 1.0 }],
                delay: Latency::ZERO,
                price: UnitPrice::ZERO,
            });
        }
    }
    builder.build().unwrap()
}

/// Ten seconds that end now, whenever that is.
pub(crate) fn window() -> Window {
    Window { at: Timestamp::from_secs_f64(1000.0), length: Duration::from_secs(10) }
}
