//! How is load made that does not wait for the system under test?
//!
//! Arrivals are a Poisson process at a given rate. Each request is started when it is due, whatever became of
//! those before, and its latency counts from then: a slow answer cannot hide the requests behind it
//! (coordinated omission).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::backend::{ENDPOINT_HEADER, SOURCE_HEADER};
use crate::random::Random;
use crate::timeline::{Outcome, Sample, Timeline};
use crate::wire::Head;

/// A request without an answer after this time is lost. Longer than any timeout of a service.
const PATIENCE: Duration = Duration::from_secs(8);

/// More requests than this are not kept waiting at a time; what exceeds it is recorded as lost.
const MOST_IN_FLIGHT: usize = 2000;

/// Load of one source on one service.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    pacing: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    source: usize,
    service: &'static str,
    /// Requests per second, as bits.
    rate: AtomicU64,
    idle: Mutex<Vec<Connection>>,
    in_flight: AtomicUsize,
    timeline: Arc<Timeline>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    peer: SocketAddr,
}

impl Load {
    /// Load on a listener, at a rate of 0 until told.
    pub(crate) fn start(
        target: SocketAddr,
        source: usize,
        service: &'static str,
        seed: u64,
        timeline: Arc<Timeline>,
    ) -> Self {
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            source,
            service,
            rate: AtomicU64::new(0f64.to_bits()),
            idle: Mutex::new(Vec::new()),
            in_flight: AtomicUsize::new(0),
            timeline,
        });
        let pacing = tokio::spawn(pace(Arc::clone(&shared), Random::new(seed)));
        Self { shared, pacing }
    }

    /// Sets the rate, requests/s.
    pub(crate) fn set_rate(&self, rate_rps: f64) {
        self.shared.rate.store(rate_rps.to_bits(), Ordering::Relaxed);
    }

    /// Sends later requests to another listener.
    pub(crate) fn set_target(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.pacing.abort();
    }
}

async fn pace(shared: Arc<Shared>, mut random: Random) {
    let mut due = Instant::now();
    loop {
        let rate = f64::from_bits(shared.rate.load(Ordering::Relaxed));
        if rate <= 0.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            due = Instant::now();
            continue;
        }
        due += Duration::from_secs_f64(random.exponential() / rate);
        tokio::time::sleep_until(due.into()).await;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let (outcome, endpoint) = if shared.in_flight.fetch_add(1, Ordering::Relaxed) < MOST_IN_FLIGHT {
                let answer = tokio::time::timeout(PATIENCE, shared.request()).await;
                answer.unwrap_or((Outcome::Lost("no answer within 8 s"), None))
            } else {
                (Outcome::Lost("too many in flight"), None)
            };
            shared.in_flight.fetch_sub(1, Ordering::Relaxed);
            shared.timeline.record(Sample {
                due,
                latency_ms: due.elapsed().as_secs_f64() * 1e3,
                source: shared.source,
                service: shared.service,
                endpoint,
                outcome,
            });
        });
    }
}

impl Shared {
    async fn request(&self) -> (Outcome, Option<usize>) {
        let target = *self.target.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (mut connection, reused) = match idle {
                Some(connection) if connection.peer == target => (connection, true),
                Some(_) => continue,
                None => match TcpStream::connect(target).await {
                    Ok(stream) => {
                        // Delay matters, throughput does not; without the option it is merely slower.
                        stream.set_nodelay(true).ok();
                        (Connection { stream, buffer: Vec::new(), peer: target }, false)
                    }
                    Err(_) => return (Outcome::Lost("connection refused"), None),
                },
            };
            match self.exchange(&mut connection).await {
                Ok(Some((head, reusable))) => {
                    if reusable {
                        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
                    }
                    let endpoint = head.header(ENDPOINT_HEADER).and_then(|e| e.parse().ok());
                    return match head.status() {
                        Some(status) => (Outcome::Status(status), endpoint),
                        None => (Outcome::Lost("no status"), None),
                    };
                }
                // The proxy closed an idle connection before it saw the request: any client asks again.
                Ok(None) if reused => {}
                Ok(None) => return (Outcome::Lost("connection closed"), None),
                Err(_) if reused && connection.buffer.is_empty() => {}
                Err(_) => return (Outcome::Lost("connection broken"), None),
            }
        }
    }

    /// `None`: closed before the first byte of an answer.
    async fn exchange(&self, connection: &mut Connection) -> std::io::Result<Option<(Head, bool)>> {
        let request =
            format!("GET / HTTP/1.1\r\nhost: {}\r\n{SOURCE_HEADER}: {}\r\n\r\n", self.service, self.source);
        connection.stream.write_all(request.as_bytes()).await?;
        let Some(head) = Head::read(&mut connection.stream, &mut connection.buffer).await? else {
            return Ok(None);
        };
        let Some(length) = head.length() else { return Ok(Some((head, false))) };
        while connection.buffer.len() < length {
            if connection.stream.read_buf(&mut connection.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        connection.buffer.drain(..length);
        let stays = !head.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        Ok(Some((head, stays)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::fleet::WEB;
    use crate::timeline::Stretch;

    /// Real sockets on loopback, so the numbers have wide tolerances.
    #[tokio::test]
    async fn load_is_answered_by_a_backend_whose_name_is_recorded() {
        let backend = Backend::start(WEB.endpoints[0], 3, 1).await.unwrap();
        let timeline = Arc::new(Timeline::default());
        let target = SocketAddr::from(([127, 0, 0, 1], backend.port));
        let from = Instant::now();
        let load = Load::start(target, 1, "web", 2, Arc::clone(&timeline));
        load.set_rate(200.0);
        let seen =
            || timeline.summary(Stretch { service: Some("web"), source: Some(1), from, to: Instant::now() });
        while seen().count < 50 {
            tokio::task::yield_now().await;
        }
        let summary = seen();
        assert_eq!(summary.failed, 0, "{}", summary.describe_failures());
        assert_eq!(summary.by_endpoint.get(&3), Some(&summary.count));
        // Median 20 ms and 30 ms of network from source 1.
        assert!(summary.percentile_ms(50.0) > 40.0);
    }

    #[tokio::test]
    async fn a_backend_that_fails_is_recorded_with_its_status() {
        let backend = Backend::start(WEB.endpoints[0], 0, 1).await.unwrap();
        backend.fail(1.0);
        let timeline = Arc::new(Timeline::default());
        let from = Instant::now();
        let target = SocketAddr::from(([127, 0, 0, 1], backend.port));
        let load = Load::start(target, 0, "web", 2, Arc::clone(&timeline));
        load.set_rate(100.0);
        let seen = || timeline.summary(Stretch { service: None, source: None, from, to: Instant::now() });
        while seen().count < 5 {
            tokio::task::yield_now().await;
        }
        let summary = seen();
        assert_eq!(summary.failures.keys().next(), Some(&Outcome::Status(503)));
        assert_eq!(summary.failed, summary.count);
    }
}
