//! What does an endpoint do that can be told to be slow, to fail and to hang?

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{LiveError, Result};
use crate::fleet::Endpoint;
use crate::random::Random;
use crate::wire::Head;

/// Header by which the load generator says where a request comes from, so that a backend can wait for as long
/// as the network between them would take.
pub(crate) const SOURCE_HEADER: &str = "x-traflux-source";

/// Header by which a backend says who it is: its position in the service.
pub(crate) const ENDPOINT_HEADER: &str = "x-traflux-endpoint";

/// Spread of the service times.
const SIGMA: f64 = 0.35;

/// One endpoint: an HTTP/1.1 server in this process.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its port on loopback.
    pub port: u16,
    knobs: Arc<Knobs>,
    accepting: JoinHandle<()>,
}

/// What can be changed while it runs.
#[derive(Debug)]
struct Knobs {
    endpoint: Endpoint,
    position: usize,
    slots: Semaphore,
    random: Mutex<Random>,
    /// Factor on the service time, as bits.
    slowdown: AtomicU64,
    /// Share of requests that are never answered, as bits.
    hang: AtomicU64,
    /// Share of requests that are answered 503, as bits.
    errors: AtomicU64,
}

impl Knobs {
    fn draw(&self) -> (f64, f64, f64) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        (random.lognormal(SIGMA), random.uniform(), random.uniform())
    }
}

fn read(bits: &AtomicU64) -> f64 {
    f64::from_bits(bits.load(Ordering::Relaxed))
}

impl Backend {
    /// Starts to listen on a free port.
    pub(crate) async fn start(endpoint: Endpoint, position: usize, seed: u64) -> Result<Self> {
        let failed = |error| LiveError::program(endpoint.name, error);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        let knobs = Arc::new(Knobs {
            endpoint,
            position,
            slots: Semaphore::new(endpoint.concurrency),
            random: Mutex::new(Random::new(seed)),
            slowdown: AtomicU64::new(1f64.to_bits()),
            hang: AtomicU64::new(0f64.to_bits()),
            errors: AtomicU64::new(0f64.to_bits()),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&knobs)));
        Ok(Self { port, knobs, accepting })
    }

    /// Multiplies service times by a factor; 1 is healthy.
    pub(crate) fn slow_down(&self, factor: f64) {
        self.knobs.slowdown.store(factor.to_bits(), Ordering::Relaxed);
    }

    /// Lets a share of the requests hang for ever.
    pub(crate) fn hang(&self, share: f64) {
        self.knobs.hang.store(share.to_bits(), Ordering::Relaxed);
    }

    /// Answers a share of the requests with 503.
    pub(crate) fn fail(&self, share: f64) {
        self.knobs.errors.store(share.to_bits(), Ordering::Relaxed);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, knobs: Arc<Knobs>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let knobs = Arc::clone(&knobs);
                // A connection that breaks is the proxy's to notice.
                tokio::spawn(async move { serve(stream, &knobs).await.ok() });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn serve(mut stream: TcpStream, knobs: &Knobs) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(1024);
    while let Some(head) = Head::read(&mut stream, &mut buffer).await? {
        let (time, hangs, fails) = knobs.draw();
        if hangs < read(&knobs.hang) {
            // Never answers: the proxy gives up and closes the connection.
            let mut rest = [0; 64];
            while stream.read(&mut rest).await? > 0 {}
            return Ok(());
        }
        let source: usize = head.header(SOURCE_HEADER).and_then(|s| s.parse().ok()).unwrap_or(0);
        let network = knobs.endpoint.rtt_ms.get(source).copied().unwrap_or(0.0);
        let service = knobs.endpoint.median_ms * time * read(&knobs.slowdown);
        {
            let _slot = knobs.slots.acquire().await.map_err(std::io::Error::other)?;
            tokio::time::sleep(Duration::from_secs_f64(service * 1e-3)).await;
        }
        tokio::time::sleep(Duration::from_secs_f64(network * 1e-3)).await;
        let status = if fails < read(&knobs.errors) { "503 Service Unavailable" } else { "200 OK" };
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: 2\r\n{ENDPOINT_HEADER}: {}\r\n\r\nok",
            knobs.position
        );
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
