//! How are connections taken, bounded and ended?

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::server::ServerPlan;

use super::gateway::{Drained, State, listen};
use super::lingering::Lingering;
use super::proxy::{self, Peer};
use super::streams::{self, Streams};
use crate::error::GatewayError;

/// Streams of one HTTP/2 connection at once.
const MOST_STREAMS: u32 = 256;
/// Fewer bytes of head than this HTTP/1.1 cannot be bounded by.
const LEAST_HEAD: usize = 8192;

/// Listens where a plan says: at the first of the addresses that can be had.
pub(super) fn bind(written: &str, found: &[SocketAddr]) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let mut last = std::io::Error::other("the name has no address");
    for address in found {
        match listen(*address).and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((address, listener)) => return Ok((listener, address)),
            Err(error) => last = error,
        }
    }
    Err(GatewayError::Listen { address: written.to_owned(), reason: last.to_string() })
}

/// Room for so many connections at once, which a reload may change.
struct Room {
    permits: Arc<Semaphore>,
    /// How many may be open.
    most: usize,
    /// Of those that are open, how many must end before another one may come.
    beyond: usize,
}

impl Room {
    fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        Self { permits: Arc::new(Semaphore::new(most)), most, beyond: 0 }
    }

    /// Makes it larger or smaller; nothing that is open ends for that.
    fn resize(&mut self, most: usize) {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let more = most.saturating_sub(self.most);
        let forgiven = more.min(self.beyond);
        self.beyond = self.beyond - forgiven + self.most.saturating_sub(most);
        self.permits.add_permits(more - forgiven);
        self.most = most;
        self.shrink();
    }

    /// A place, once there is one.
    async fn place(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            // The semaphore is never closed.
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            if self.beyond == 0 {
                return Some(permit);
            }
            permit.forget();
            self.beyond -= 1;
        }
    }

    /// Takes away what has become free and is too many.
    fn shrink(&mut self) {
        self.beyond -= self.permits.forget_permits(self.beyond);
    }
}

/// What a plan says of connections that come from now on.
struct Manner {
    plan: Arc<RequestPlan>,
    builder: Arc<auto::Builder<Streams>>,
}

impl Manner {
    fn of(state: &State) -> Self {
        let plan = Arc::clone(&state.live.load().plan);
        Self { builder: Arc::new(builder(&plan.server)), plan }
    }
}

/// A connection of a client, counted while it is open.
struct Counted(Arc<State>);

impl Counted {
    fn new(state: &Arc<State>) -> Self {
        state.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves until it is told to drain, then until the last connection has ended.
pub(super) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    mut draining: watch::Receiver<bool>,
) -> Drained {
    let mut manner = Manner::of(&state);
    let mut room = Room::new(manner.plan.server.max_connections);
    let mut connections = JoinSet::new();
    loop {
        room.shrink();
        let accepted = tokio::select! {
            // Its sender lives as long as the gateway.
            _ = draining.wait_for(|draining| *draining) => break,
            () = state.changed.notified() => {
                manner = Manner::of(&state);
                room.resize(manner.plan.server.max_connections);
                continue;
            }
            accepted = accept(&listener, &mut room) => accepted,
        };
        while connections.try_join_next().is_some() {}
        if let Some((socket, address, permit)) = accepted {
            let (counted, builder) = (Counted::new(&state), Arc::clone(&manner.builder));
            // Pieces of a stream are small and must not wait for each other. A socket that refuses is only slower.
            let _ = socket.set_nodelay(true);
            let socket = Lingering::new(socket, permit, manner.plan.server.stream_idle_timeout);
            connections.spawn(async move {
                streams::counted(connection(Arc::clone(&counted.0), &builder, socket, address)).await;
            });
        }
    }
    drop(listener);
    let mut drained = Drained::default();
    let timeout = state.live.load().plan.server.drain_timeout;
    let ended = tokio::time::timeout(timeout, async {
        while connections.join_next().await.is_some() {
            drained.finished += 1;
        }
    });
    if ended.await.is_err() {
        drained.cut_off = connections.len();
    }
    connections.shutdown().await;
    drained
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &mut Room,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = room.place().await?;
    match listener.accept().await {
        Ok((socket, address)) => Some((socket, address, permit)),
        Err(_) => {
            // Most often no file is left: another connection must end first.
            tokio::time::sleep(Duration::from_millis(10)).await;
            None
        }
    }
}

fn builder(server: &ServerPlan) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams { patience: server.stream_idle_timeout });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(server.header_timeout)
        .max_buf_size(server.max_header_bytes.max(LEAST_HEAD));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(server.max_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MOST_STREAMS)
        .adaptive_window(true)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(server.header_timeout);
    builder
}

async fn connection(
    state: Arc<State>,
    builder: &auto::Builder<Streams>,
    socket: Lingering,
    address: SocketAddr,
) {
    let live = state.live.load_full();
    let patience = live.plan.server.header_timeout;
    match &live.tls {
        None => {
            drop(live);
            http(state, builder, socket, Peer::new(address, false), patience).await;
        }
        Some(config) => {
            let acceptor = TlsAcceptor::from(Arc::clone(config));
            drop(live);
            // In a box: connections without TLS would have room for it otherwise.
            Box::pin(https(state, builder, acceptor, socket, address, patience)).await;
        }
    }
}

async fn https(
    state: Arc<State>,
    builder: &auto::Builder<Streams>,
    acceptor: TlsAcceptor,
    socket: Lingering,
    address: SocketAddr,
    patience: Duration,
) {
    // Whoever does not finish the handshake is told nothing, for there is no way to.
    if let Ok(Ok(stream)) = tokio::time::timeout(patience, acceptor.accept(socket)).await {
        http(state, builder, stream, Peer::new(address, true), patience).await;
    }
}

async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    state: Arc<State>,
    builder: &auto::Builder<Streams>,
    stream: S,
    peer: Peer,
    patience: Duration,
) {
    let seen = Arc::new(Seen::default());
    let mut draining = state.draining.clone();
    let idle = state.live.load().plan.server.stream_idle_timeout;
    let service = service_fn({
        let seen = Arc::clone(&seen);
        move |request: Request<Incoming>| {
            // Relaxed, as below: they are read on the same task.
            seen.requests.fetch_add(1, Ordering::Relaxed);
            seen.http2.store(request.version() == Version::HTTP_2, Ordering::Relaxed);
            let state = Arc::clone(&state);
            // In a box of its own, which goes when the head of the answer is there: what a connection holds for its
            // whole life would otherwise have room for all of it.
            let answer = Box::pin(proxy::serve(state, peer.clone(), request));
            async move {
                let answer = answer.await;
                streams::wait_for_client();
                Ok::<_, Infallible>(answer)
            }
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // Until the first bytes tell the version of HTTP, no timeout of either holds; afterwards HTTP/1.1 looks after itself,
    // and HTTP/2 lets a connection without streams stay for ever.
    let mut look = pin!(tokio::time::sleep(patience));
    let (mut looks, mut before) = (true, 0);
    let mut told = false;
    loop {
        tokio::select! {
            // Most of what happens is the connection's.
            biased;
            // Whatever went wrong, the connection has ended, and its requests were settled by their bodies.
            _ = connection.as_mut() => return,
            () = look.as_mut(), if looks => {
                let requests = seen.requests.load(Ordering::Relaxed);
                if requests == 0 {
                    return;
                }
                looks = seen.http2.load(Ordering::Relaxed);
                if requests == before && streams::open() == 0 {
                    // What it still has to send nobody has taken since it was told.
                    if told {
                        return;
                    }
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                before = requests;
                look.as_mut().reset(Instant::now() + idle);
            }
            _ = draining.wait_for(|draining| *draining), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// What was seen of a connection.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicUsize,
    http2: AtomicBool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a connection's task, by the functions that make it.
    fn task_bytes<F, G>(
        _: impl FnOnce(Arc<State>, &'static auto::Builder<Streams>, Lingering, SocketAddr) -> F,
        _: impl FnOnce(F) -> G,
    ) -> usize {
        size_of::<G>()
    }

    #[test]
    fn a_connection_has_no_room_for_what_few_need() {
        let bytes = task_bytes(connection, streams::counted);
        assert!(bytes < 3_000, "{bytes} bytes for each stream that is open");
    }

    #[test]
    fn room_that_changes_counts_what_is_open() {
        let mut room = Room::new(3);
        let take = |room: &Room| Arc::clone(&room.permits).try_acquire_owned().ok();
        let mut open: Vec<_> = (0..3).map(|_| take(&room)).collect();
        assert!(open.iter().all(Option::is_some) && take(&room).is_none());
        room.resize(1);
        open.truncate(2);
        room.shrink();
        assert!(take(&room).is_none(), "two are open, one may be");
        room.resize(2);
        assert!(take(&room).is_none(), "two are open, two may be");
        room.resize(3);
        let third = take(&room);
        assert!(third.is_some() && take(&room).is_none());
        drop((open, third));
        room.shrink();
        let all: Vec<_> = std::iter::from_fn(|| take(&room)).collect();
        assert_eq!(all.len(), 3);
    }
}
