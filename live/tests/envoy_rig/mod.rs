//! An Envoy with a compiled plan, and backends that say who they are.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
use traflux_core::plan::requests::RequestPlan;
use traflux_xds::requests::{RequestOptions, compile};

const PATIENCE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) method: &'static str,
    pub(crate) host: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Default for Sent {
    fn default() -> Self {
        Self { method: "GET", host: "x".into(), target: "/".into(), headers: Vec::new(), body: String::new() }
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In lower case.
    pub(crate) head: String,
    /// What a session is given, as it is written.
    pub(crate) cookie: Option<String>,
    pub(crate) body: String,
}

/// A server that answers with its name, the request line, host and authorization. A path that ends in `slow` is
/// answered after a second, `held` after seven, `drip` in ten parts over a second, `stalled` so far and no further for
/// three, `flaky` every other time with 502, `broken` always with
/// 502 and after half a second. Backends whose name begins with `bad` fail where the path ends in `bad` (500), `gone`
/// (502) or `half` (500, every other time), and hang up where it ends in `cut`; `sick` fails its probes, `late` those of
/// its first four seconds. `torn` hangs up every other time, and `told` says what load it has.
pub(crate) struct Backend {
    pub(crate) name: String,
    port: u16,
    counts: Arc<Counts>,
}

/// What a backend counted.
#[derive(Debug)]
struct Counts {
    connections: AtomicUsize,
    requests: AtomicUsize,
    flaky: AtomicUsize,
    since: Instant,
}

impl Default for Counts {
    fn default() -> Self {
        let [connections, requests, flaky] = [0; 3].map(AtomicUsize::new);
        Self { connections, requests, flaky, since: Instant::now() }
    }
}

impl Backend {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_tls(name, None)
    }

    pub(crate) fn start_tls(name: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (name, counts) = (name.to_owned(), Arc::new(Counts::default()));
        let (own, counted) = (name.clone(), Arc::clone(&counts));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counted.connections.fetch_add(1, Ordering::Relaxed);
                let (name, counts, tls) = (own.clone(), Arc::clone(&counted), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &name, &counts),
                    Some(config) => {
                        let session = ServerConnection::new(config).ok()?;
                        serve(StreamOwned::new(session, stream), &name, &counts)
                    }
                });
            }
        });
        Self { name, port, counts }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Connections that were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Requests that came.
    pub(crate) fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn serve(mut stream: impl Read + Write, name: &str, counts: &Counts) -> Option<()> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        let end = loop {
            if let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
            seen.extend_from_slice(&buffer[..read]);
        };
        let head = String::from_utf8_lossy(&seen[..end]).into_owned();
        let header = |name: &str| {
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
            lines
                .filter(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.to_owned())
                .next()
                .unwrap_or_default()
        };
        let whole = end + header("content-length").parse::<usize>().unwrap_or(0);
        let chunked = !header("transfer-encoding").is_empty();
        while seen.len() < whole || (chunked && !seen.ends_with(b"0\r\n\r\n")) {
            let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
            seen.extend_from_slice(&buffer[..read]);
        }
        seen.drain(..if chunked { seen.len() } else { whole });
        let line = head.lines().next()?.trim_end_matches(" HTTP/1.1").to_owned();
        counts.requests.fetch_add(1, Ordering::Relaxed);
        if line.ends_with("slow") {
            std::thread::sleep(Duration::from_secs(1));
        }
        if line.ends_with("held") {
            std::thread::sleep(Duration::from_secs(7));
        }
        if line.ends_with("broken") {
            std::thread::sleep(Duration::from_millis(500));
        }
        let fails = |of: &AtomicUsize| of.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let ill = name == "sick" || (name == "late" && counts.since.elapsed() < Duration::from_secs(4));
        let bad = |how: &str| name.starts_with("bad") && line.ends_with(how);
        if bad("cut") || (line.ends_with("torn") && fails(&counts.flaky)) {
            return None;
        }
        let broken = line.ends_with("broken") || bad("gone");
        let status = if broken || (line.ends_with("flaky") && fails(&counts.flaky)) {
            "502 Bad Gateway"
        } else if bad("bad") || (bad("half") && fails(&counts.flaky)) || (ill && line.ends_with("/health")) {
            "500 Internal Server Error"
        } else {
            "200 OK"
        };
        let mut body = format!("{name}\n{line}\n{}\n{}\n", header("host"), header("authorization"));
        if !header("x-api-key").is_empty() {
            body.push_str(&format!("x-api-key {}\n", header("x-api-key")));
        }
        let more = if line.ends_with("drip") { 10 } else { usize::from(line.ends_with("stalled")) };
        let pause = Duration::from_millis(if line.ends_with("drip") { 100 } else { 3000 });
        let length = body.len() + more;
        // In one write: small ones wait for each other's acknowledgement.
        let load =
            if line.ends_with("told") { "endpoint-load-metrics: TEXT cpu_utilization=0.5\r\n" } else { "" };
        let answer = format!("HTTP/1.1 {status}\r\n{load}content-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).ok()?;
        for _ in body.len()..length {
            stream.flush().ok()?;
            std::thread::sleep(pause);
            stream.write_all(b".").ok()?;
        }
    }
}

/// A running Envoy.
pub(crate) struct Envoy {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Envoy {
    pub(crate) fn start(plan: RequestPlan) -> Self {
        Self::start_with(plan, &[])
    }

    pub(crate) fn start_with(plan: RequestPlan, environment: &[(&str, &str)]) -> Self {
        Self::start_by(plan, environment, &RequestOptions::default())
    }

    pub(crate) fn start_by(
        mut plan: RequestPlan,
        environment: &[(&str, &str)],
        options: &RequestOptions,
    ) -> Self {
        let binary = std::env::var("ENVOY").expect("ENVOY is the path of an Envoy");
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        plan.server.listen = format!("127.0.0.1:{port}");
        plan.server.admin = Some(format!("127.0.0.1:{}", free_port()));
        let compiled = compile(&plan, options).unwrap();
        let path = folder.path().join("envoy.yaml");
        std::fs::write(&path, compiled.static_config().unwrap()).unwrap();
        let log = path.with_extension("log");
        let process = Command::new(binary)
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"])
            .arg(&path)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let envoy = Self { process, port, _folder: folder };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(&log).unwrap();
            assert!(start.elapsed() < PATIENCE, "Envoy does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        envoy
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.send(&Sent { target: target.to_owned(), ..Sent::default() })
    }

    pub(crate) fn in_background(&self, target: &str) -> JoinHandle<Answer> {
        self.send_in_background(Sent { target: target.to_owned(), ..Sent::default() })
    }

    pub(crate) fn send_in_background(&self, sent: Sent) -> JoinHandle<Answer> {
        let port = self.port;
        std::thread::spawn(move || send(port, &sent))
    }

    pub(crate) fn send(&self, sent: &Sent) -> Answer {
        send(self.port, sent)
    }

    /// Begins a request and never ends its head: the status, and when it came.
    pub(crate) fn never_finish_head(&self) -> (u16, Duration) {
        let start = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nhost: x\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), start.elapsed())
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn send(port: u16, sent: &Sent) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head =
        format!("{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", sent.method, sent.target, sent.host);
    for (name, value) in &sent.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !sent.body.is_empty() || sent.method != "GET" {
        head.push_str(&format!("content-length: {}\r\n", sent.body.len()));
    }
    // A refusal may come before all is sent.
    let _ = stream.write_all(format!("{head}\r\n{}", sent.body).as_bytes());
    // Envoy waits for the client to close; the length tells when the answer is complete.
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16_384]);
    while !is_complete(&bytes)
        && let Ok(read @ 1..) = stream.read(&mut buffer)
    {
        bytes.extend_from_slice(&buffer[..read]);
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let cookie = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("set-cookie")
            .then(|| value.split(';').next().unwrap_or_default().to_owned())
    });
    Answer { status, head: head.to_ascii_lowercase(), cookie, body: body.to_owned() }
}

/// Whether an answer is there to its last byte, as far as its length says.
fn is_complete(bytes: &[u8]) -> bool {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| bytes.len() >= end + 4 + length)
}
