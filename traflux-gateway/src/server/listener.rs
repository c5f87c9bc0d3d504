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

/// Listens where a plan says.
pub(super) async fn bind(address: &str) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let wrong =
        |e: std::io::Error| GatewayError::Listen { address: address.to_owned(), reason: e.to_string() };
    let found: Vec<_> = tokio::net::lookup_host(address).await.map_err(wrong)?.collect();
    let mut last = std::io::Error::other("the name has no address");
    for address in found {
        match listen(address).and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((address, listener)) => return Ok((listener, address)),
            Err(error) => last = error,
        }
    }
    Err(wrong(last))
}

/// Serves until it is told to drain, then until the last connection has ended.
pub(super) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    mut draining: watch::Receiver<bool>,
) -> Drained {
    let server = state.live.load().plan.server.clone();
    let builder = Arc::new(builder(&server));
    let room = Arc::new(Semaphore::new(server.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Its sender lives as long as the gateway.
            _ = draining.wait_for(|draining| *draining) => break,
            accepted = accept(&listener, &room) => accepted,
        };
        while connections.try_join_next().is_some() {}
        if let Some((socket, address, permit)) = accepted {
            let (state, builder) = (Arc::clone(&state), Arc::clone(&builder));
            // Pieces of a stream are small and must not wait for each other. A socket that refuses is only slower.
            let _ = socket.set_nodelay(true);
            let socket = Lingering::new(socket, permit, server.stream_idle_timeout);
            connections
                .spawn(async move { streams::counted(connection(state, &builder, socket, address)).await });
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
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
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
            let handshake = TlsAcceptor::from(Arc::clone(config)).accept(socket);
            drop(live);
            // Whoever does not finish the handshake is told nothing, for there is no way to.
            if let Ok(Ok(stream)) = tokio::time::timeout(patience, handshake).await {
                http(state, builder, stream, Peer::new(address, true), patience).await;
            }
        }
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
