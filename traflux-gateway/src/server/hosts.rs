//! How do requests find a connection to a host?
//!
//! A [`Host`] keeps connections of HTTP/1.1 that are idle, the one used last first, and one of HTTP/2 that all requests
//! share. A request takes one that is there or opens one, and waits for another only where no more may be open. The number of idle ones and their
//! time are bounded, and those that the other side has closed are found out when they are taken and
//! [once a second](Host::sweep).
//!
//! Connections, requests and those that wait for a connection are bounded as the plan's `pool` says, at each host. Who
//! finds an idle connection opens none, so there are never more of them than requests at once; with HTTP/2 a connection
//! whose streams are as many as may be is followed by another one, and none of them wait. [Questions](Host::ask) about
//! the host itself go past these bounds, for a host that is busy is not ill.
//!
//! Which HTTP a host speaks over TLS shows with its first connection. Until then, and where it speaks HTTP/2, one
//! connection at a time is made, and all who need one wait for that.
//!
//! A connection that was idle may close in the very moment in which it is taken. A request of which nothing was sent
//! then goes over another one; where something may have been sent, the failure is the request's, and whether it is
//! tried again is for the retry policy to say.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::Shared;
use http::header::{HOST, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{TrySendError, http2};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;
use traflux_core::plan::backend::BackendPlan;
use traflux_core::plan::pool::PoolPlan;

use super::http1::Http1;
use super::passing::{Broken, RequestBody};
use super::tls;

/// What connections are made of.
pub(super) type Socket = MaybeHttpsStream<TokioIo<TcpStream>>;
/// What makes them.
pub(super) type Connector = HttpsConnector<HttpConnector>;
/// The head of an answer to come.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response<Received>, Unanswered>> + Send>>;

/// How many connections may turn out closed before a request opens its own.
const MOST_CLOSED: usize = 4;
/// How often a connection of HTTP/2 with streams is asked whether it is alive.
const PING_EVERY: Duration = Duration::from_secs(20);

/// No answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) why: Failed,
    /// The body, where nothing of the request was sent.
    pub(super) unsent: Option<RequestBody>,
}

impl Unanswered {
    fn unsent(why: Failed, request: Request<RequestBody>) -> Self {
        Self { why, unsent: Some(request.into_body()) }
    }

    fn after(mut failure: TrySendError<Request<RequestBody>>) -> Self {
        let unsent = failure.take_message().map(Request::into_body);
        Self { why: Failed::exchange(failure.into_error()), unsent }
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Failed {
    /// There is no connection.
    #[error("no connection: {0}")]
    Connect(Arc<str>),
    /// There may be no more requests, connections or waiting for one.
    #[error("{0}")]
    Full(&'static str),
    /// It broke.
    #[error("{0}")]
    Exchange(Arc<hyper::Error>),
}

impl Failed {
    fn connect(reason: impl std::fmt::Display) -> Self {
        Self::Connect(reason.to_string().into())
    }

    fn exchange(error: hyper::Error) -> Self {
        Self::Exchange(Arc::new(error))
    }

    /// Whether nothing was sent, for want of a connection.
    pub(super) const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    /// Whether the pool is full, which says nothing about the host.
    pub(super) const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }

    /// What was wrong with the body of the request, where that is the reason.
    pub(super) fn of_body(&self) -> Option<&Broken> {
        let Self::Exchange(error) = self else { return None };
        let mut source = std::error::Error::source(&**error);
        while let Some(error) = source {
            match error.downcast_ref::<Broken>() {
                Some(broken) => return Some(broken),
                None => source = error.source(),
            }
        }
        None
    }
}

/// What connections to a host are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) connect_timeout: Duration,
    /// Whether HTTP/2 is spoken without asking.
    pub(super) http2: bool,
    /// Connections that are kept idle.
    pub(super) most_idle: usize,
    /// How long.
    pub(super) idle_timeout: Duration,
    /// Connections at once.
    pub(super) most_connections: usize,
    /// Requests that wait for one.
    pub(super) most_waiting: usize,
    /// Requests at once.
    pub(super) most_requests: usize,
    /// Requests after which a connection takes no more.
    pub(super) most_uses: Option<u32>,
    /// Streams at once over a connection of HTTP/2.
    pub(super) most_streams: usize,
    /// Of the files of its TLS: others need other connections.
    pub(super) tls: Option<[u8; 32]>,
}

impl Bounds {
    pub(super) fn new(backend: &BackendPlan, pool: &PoolPlan, most_idle: usize) -> Self {
        let most = |number: u32| (number as usize).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            connect_timeout: backend.connect_timeout,
            http2: backend.http2,
            most_idle,
            idle_timeout: pool.idle_timeout,
            most_connections: most(pool.max_connections),
            most_waiting: pool.max_pending as usize,
            most_requests: most(pool.max_requests),
            most_uses: pool.max_requests_per_connection.map(|most| most.max(1)),
            most_streams: most(pool.max_streams_per_connection),
            tls: backend.tls.as_ref().map(tls::fingerprint),
        }
    }
}

/// A host and the connections to it.
pub(super) struct Host {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    /// What HTTP/1.1 calls it.
    host: HeaderValue,
    pub(super) bounds: Bounds,
    connector: Connector,
    free: Mutex<Free>,
    /// Places of requests.
    requests: Arc<Semaphore>,
    /// Places of connections: of HTTP/1.1 while a request has one, of HTTP/2 for as long as it lives.
    connections: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The places that a request takes, until its answer is there.
struct Places {
    _request: OwnedSemaphorePermit,
    connection: Option<OwnedSemaphorePermit>,
}

struct Free {
    /// The one used last is the last.
    idle: Vec<Idle>,
    /// Those of HTTP/2.
    shared: Vec<SharedLine>,
    /// A connection that is being made for all who need one.
    joining: Option<Joining>,
    /// Whether its last connection speaks HTTP/2; not known before the first, where that is negotiated.
    http2: Option<bool>,
    /// How often a connection of HTTP/2 was taken.
    taken: u64,
}

struct Idle {
    line: Box<Http1>,
    /// When it was first seen idle; not known before somebody looks.
    since: Option<Instant>,
}

struct SharedLine {
    line: Arc<Http2>,
    /// When it was first seen without streams.
    since: Option<Instant>,
}

/// A connection of HTTP/2. Each stream holds it.
struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    uses: AtomicU32,
    /// `None` where it ends with the request for which it was made.
    _place: Option<OwnedSemaphorePermit>,
}

type Joining = Shared<Pin<Box<dyn Future<Output = Result<(), Failed>> + Send>>>;

/// A connection for one request.
enum Line {
    Own(Box<Http1>),
    Shared(Arc<Http2>),
    /// One of HTTP/2, where the stream does not count.
    Past(http2::SendRequest<RequestBody>),
}

impl Host {
    pub(super) fn new(
        scheme: Scheme,
        authority: Authority,
        host: HeaderValue,
        bounds: Bounds,
        connector: Connector,
    ) -> Self {
        let places = |most| Arc::new(Semaphore::new(most));
        let (requests, connections) = (places(bounds.most_requests), places(bounds.most_connections));
        let http2 = if scheme == Scheme::HTTPS && !bounds.http2 { None } else { Some(bounds.http2) };
        let free = Mutex::new(Free { idle: Vec::new(), shared: Vec::new(), joining: None, http2, taken: 0 });
        let waiting = AtomicUsize::new(0);
        Self { scheme, authority, host, bounds, connector, free, requests, connections, waiting }
    }

    /// Sends a request whose URI is a path. Where it still waits for others to give back a connection when it is polled
    /// at `until` or later, it has found the pool full.
    pub(super) fn request(
        self: &Arc<Self>,
        request: Request<RequestBody>,
        until: tokio::time::Instant,
    ) -> Answering {
        Box::pin(Arc::clone(self).exchange(request, until))
    }

    /// Sends a question about the host itself, past the places of requests.
    pub(super) fn ask(self: &Arc<Self>, question: Request<RequestBody>) -> Answering {
        Box::pin(Arc::clone(self).exchange_past(question))
    }

    async fn exchange(
        self: Arc<Self>,
        mut request: Request<RequestBody>,
        until: tokio::time::Instant,
    ) -> Result<Response<Received>, Unanswered> {
        let Ok(request_place) = Arc::clone(&self.requests).try_acquire_owned() else {
            let full = Failed::Full("as many requests as pool.max_requests are under way there");
            return Err(Unanswered::unsent(full, request));
        };
        let mut places = Places { _request: request_place, connection: None };
        let mut closed = 0;
        loop {
            let line = match self.line(&mut places, closed >= MOST_CLOSED, until).await {
                Ok(line) => line,
                Err(why) => return Err(Unanswered::unsent(why, request)),
            };
            match self.send(line, request).await {
                Ok(response) => return Ok(response.map(|body| body.holding(places))),
                Err(mut failure) if closed < MOST_CLOSED => match failure.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Unanswered::after(failure)),
                },
                Err(failure) => return Err(Unanswered::after(failure)),
            }
            closed += 1;
        }
    }

    async fn exchange_past(
        self: Arc<Self>,
        mut question: Request<RequestBody>,
    ) -> Result<Response<Received>, Unanswered> {
        for _ in 0..MOST_CLOSED {
            let Some(line) = self.take_past() else { break };
            match self.send(line, question).await {
                Ok(response) => return Ok(response),
                Err(mut failure) => match failure.take_message() {
                    Some(unsent) => question = unsent,
                    None => return Err(Unanswered::after(failure)),
                },
            }
        }
        match self.line_past().await {
            Ok(line) => self.send(line, question).await.map_err(Unanswered::after),
            Err(why) => Err(Unanswered::unsent(why, question)),
        }
    }

    /// A new connection for a question.
    async fn line_past(&self) -> Result<Line, Failed> {
        let socket = self.open().await?;
        // Requests find the connection if there is a place for it, which is not kept from them while it is made.
        let mut place = Arc::clone(&self.connections).try_acquire_owned().ok();
        Ok(match self.speak(socket, &mut place).await? {
            // Its stream keeps it.
            Line::Shared(line) => Line::Past(line.sender.clone()),
            line => line,
        })
    }

    /// A connection for a request: one that is there unless it has to be `fresh`, or a new one.
    async fn line(
        self: &Arc<Self>,
        places: &mut Places,
        fresh: bool,
        until: tokio::time::Instant,
    ) -> Result<Line, Failed> {
        // A connection that has come about may close before it is taken.
        let mut closed = 0;
        loop {
            let (shared, http2, taken) = self.look();
            if let Some(line) = shared {
                places.connection = None;
                return Ok(line);
            }
            if http2 != Some(false) {
                places.connection = None;
                if closed == MOST_CLOSED {
                    return Err(Failed::connect("it closes at once"));
                }
                self.join().await?;
                let free = self.lock();
                // Where others were quicker, this one goes on.
                closed += usize::from(free.shared.is_empty() && free.taken == taken);
                continue;
            }
            if places.connection.is_none() {
                let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                    places.connection = Some(self.connection_place(until).await?);
                    // Much may have changed since.
                    continue;
                };
                places.connection = Some(place);
            }
            return match self.take_idle().filter(|_| !fresh) {
                Some(line) => Ok(line),
                // In a box: most requests find a connection.
                None => Box::pin(self.connect()).await,
            };
        }
    }

    async fn connect(&self) -> Result<Line, Failed> {
        self.speak(self.open().await?, &mut None).await
    }

    /// A place for a connection, once there is one.
    async fn connection_place(&self, until: tokio::time::Instant) -> Result<OwnedSemaphorePermit, Failed> {
        /// One that waits, whether or not it gets what it waits for.
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        if before >= self.bounds.most_waiting {
            return Err(Failed::Full("as many requests as pool.max_pending wait for a connection there"));
        }
        let mut place = pin!(Arc::clone(&self.connections).acquire_owned());
        poll_fn(|cx| match place.as_mut().poll(cx) {
            Poll::Ready(Ok(place)) => Poll::Ready(Ok(place)),
            // Who waits for the answer polls at that time. The semaphore is never closed.
            Poll::Pending if tokio::time::Instant::now() < until => Poll::Pending,
            _ => Poll::Ready(Err(Failed::Full("no connection there came free in time"))),
        })
        .await
    }

    async fn send(
        self: &Arc<Self>,
        line: Line,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Received>, TrySendError<Request<RequestBody>>> {
        if let (Line::Shared(_) | Line::Past(_), Some(uri)) = (&line, self.absolute(request.uri())) {
            *request.uri_mut() = uri;
        }
        match line {
            Line::Own(mut line) => {
                if !request.headers().contains_key(HOST) {
                    request.headers_mut().insert(HOST, self.host.clone());
                }
                let response = line.send(request).await?;
                Ok(response.map(|body| Received::over(body, line, self)))
            }
            Line::Shared(line) => {
                let uses = line.uses.fetch_add(1, Ordering::Relaxed) + 1;
                if self.bounds.most_uses.is_some_and(|most| uses >= most) {
                    self.forget(&line);
                }
                match line.sender.clone().try_send_request(request).await {
                    Ok(response) => Ok(response
                        .map(|body| Received { body, from: From::Shared { _line: line, places: None } })),
                    Err(failure) => {
                        if failure.message().is_some() {
                            self.forget(&line);
                        }
                        Err(failure)
                    }
                }
            }
            Line::Past(mut sender) => {
                let response = sender.try_send_request(request).await?;
                Ok(response.map(|body| Received { body, from: From::Done }))
            }
        }
    }

    /// What HTTP/2 has in its head.
    fn absolute(&self, path: &Uri) -> Option<Uri> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path.path_and_query()?.clone())
            .build()
            .ok()
    }

    /// A connection of HTTP/2 that is there and has room for another stream; whether the host speaks that; and how
    /// often one was taken.
    fn look(&self) -> (Option<Line>, Option<bool>, u64) {
        let mut free = self.lock();
        free.shared.retain(|shared| !shared.line.sender.is_closed());
        let with_room = free.shared.iter().find(|shared| self.has_room(shared));
        let line = with_room.map(|shared| Line::Shared(Arc::clone(&shared.line)));
        free.taken += u64::from(line.is_some());
        (line, free.http2, free.taken)
    }

    fn has_room(&self, shared: &SharedLine) -> bool {
        // Each stream holds it, and so does the list.
        Arc::strong_count(&shared.line) <= self.bounds.most_streams
    }

    /// A connection that is there, whether or not it has room.
    fn take_past(&self) -> Option<Line> {
        let open = |shared: &&SharedLine| !shared.line.sender.is_closed();
        let sender = self.lock().shared.iter().find(open).map(|shared| shared.line.sender.clone());
        sender.map(Line::Past).or_else(|| self.take_idle())
    }

    fn take_idle(&self) -> Option<Line> {
        loop {
            let mut idle = self.lock().idle.pop()?;
            if idle.line.is_idle() {
                return Some(Line::Own(idle.line));
            }
        }
    }

    /// Keeps a connection for the next request, if it takes one and there is room.
    fn give_back(&self, mut line: Box<Http1>) {
        let is_worn = self.bounds.most_uses.is_some_and(|most| line.uses() >= most);
        if !is_worn && line.is_idle() {
            let mut free = self.lock();
            if free.idle.len() < self.bounds.most_idle.min(self.bounds.most_connections) {
                free.idle.push(Idle { line, since: None });
            }
        }
    }

    fn forget(&self, line: &Arc<Http2>) {
        let mut free = self.lock();
        free.shared.retain(|shared| !Arc::ptr_eq(&shared.line, line));
    }

    /// Begins to speak over a new connection. Others find one of HTTP/2 that is given a place; without, it ends with
    /// its request.
    async fn speak(&self, socket: Socket, place: &mut Option<OwnedSemaphorePermit>) -> Result<Line, Failed> {
        let speaks_http2 = self.bounds.http2 || socket.connected().is_negotiated_h2();
        if !speaks_http2 {
            self.lock().http2 = Some(false);
            return Ok(Line::Own(Box::new(Http1::new(socket).await.map_err(Failed::exchange)?)));
        }
        let has_place = place.is_some();
        let line = http2(socket, place.take()).await?;
        let mut free = self.lock();
        free.http2 = Some(true);
        if has_place {
            free.shared.push(SharedLine { line: Arc::clone(&line), since: None });
        }
        drop(free);
        Ok(Line::Shared(line))
    }

    /// Makes the connection that is there for all, once however many wait for it.
    async fn join(self: &Arc<Self>) -> Result<(), Failed> {
        let joining = {
            let mut free = self.lock();
            match free.joining.clone().filter(|joining| joining.peek().is_none()) {
                Some(under_way) => under_way,
                // It has come about in between.
                None if free.shared.iter().any(|shared| self.has_room(shared)) => return Ok(()),
                None => {
                    let full = |_| {
                        Failed::Full("as many connections as pool.max_connections have all their streams")
                    };
                    let place = Arc::clone(&self.connections).try_acquire_owned().map_err(full)?;
                    let host = Arc::clone(self);
                    // In a task, so that it goes on when the request that began it is gone.
                    let made = tokio::spawn(async move {
                        let mut place = Some(place);
                        let socket = host.open().await?;
                        if let Line::Own(line) = host.speak(socket, &mut place).await? {
                            // Before its place is free for others.
                            host.give_back(line);
                        }
                        Ok(())
                    });
                    let made = made.map(|made| made.unwrap_or_else(|e| Err(Failed::connect(e))));
                    let joining = made.boxed().shared();
                    free.joining = Some(joining.clone());
                    joining
                }
            }
        };
        joining.await
    }

    /// A socket, with TLS where that is spoken.
    async fn open(&self) -> Result<Socket, Failed> {
        let to = Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query("/")
            .build()
            .map_err(Failed::connect)?;
        let mut connector = self.connector.clone();
        let opening = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(to).await
        };
        match tokio::time::timeout(self.bounds.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(Failed::connect),
            Err(_) => Err(Failed::connect("it took too long")),
        }
    }

    /// Closes what was idle for too long and lets go what the other side has closed.
    pub(super) fn sweep(&self, now: Instant) {
        let too_long = |since: &mut Option<Instant>| {
            now.saturating_duration_since(*since.get_or_insert(now)) >= self.bounds.idle_timeout
        };
        let mut free = self.lock();
        // Closed once the lock is free.
        let gone: Vec<Idle> =
            free.idle.extract_if(.., |idle| too_long(&mut idle.since) || !idle.line.is_idle()).collect();
        let shared: Vec<SharedLine> = free
            .shared
            .extract_if(.., |shared| {
                if Arc::strong_count(&shared.line) > 1 {
                    shared.since = None;
                }
                shared.line.sender.is_closed()
                    || Arc::strong_count(&shared.line) == 1 && too_long(&mut shared.since)
            })
            .collect();
        drop(free);
        drop((gone, shared));
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// Begins to speak HTTP/2.
async fn http2(socket: Socket, place: Option<OwnedSemaphorePermit>) -> Result<Arc<Http2>, Failed> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .keep_alive_interval(PING_EVERY)
        .handshake(socket)
        .await
        .map_err(Failed::exchange)?;
    // However it ends, its streams are told. It ends when nobody holds it any more.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    Ok(Arc::new(Http2 { sender, uses: AtomicU32::new(0), _place: place }))
}

/// The body of an answer, with the connection over which it comes.
pub(super) struct Received {
    // Before the connection: who drops it unread lets go of it first.
    body: Incoming,
    from: From,
}

enum From {
    Own(Lease),
    /// Held, so that the connection is not idle and the places are taken.
    Shared {
        _line: Arc<Http2>,
        places: Option<Places>,
    },
    /// It has come.
    Done,
}

/// A connection in use. Dropped, it is kept for the next request where all of the answer is there, read or not; else it
/// closes.
struct Lease {
    /// `None` only while it is dropped.
    line: Option<Box<Http1>>,
    host: Arc<Host>,
    /// Free for others once the connection is given back, so that they find it.
    places: Option<Places>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            self.host.give_back(line);
        }
    }
}

impl Received {
    fn over(body: Incoming, line: Box<Http1>, host: &Arc<Host>) -> Self {
        let lease = Lease { line: Some(line), host: Arc::clone(host), places: None };
        let from = if body.is_end_stream() { From::Done } else { From::Own(lease) };
        Self { body, from }
    }

    /// Keeps places until it has come.
    fn holding(mut self, held: Places) -> Self {
        match &mut self.from {
            From::Own(Lease { places, .. }) | From::Shared { places, .. } => *places = Some(held),
            From::Done => {}
        }
        self
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = match &mut this.from {
            From::Own(Lease { line: Some(line), .. }) => line.poll_frame(&mut this.body, cx),
            From::Own(_) | From::Shared { .. } | From::Done => Pin::new(&mut this.body).poll_frame(cx),
        };
        let goes_on = match &polled {
            Poll::Ready(Some(Ok(_))) => !this.body.is_end_stream(),
            Poll::Ready(_) => false,
            Poll::Pending => true,
        };
        if !goes_on {
            this.from = From::Done;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("body", &self.body).finish_non_exhaustive()
    }
}
