//! How is a connection of HTTP/1.1 to a backend used?
//!
//! One request has it at a time, so it has no task of its own: whoever waits for the answer moves the connection
//! forward. What arrives wakes the task that needs it, without a hop between tasks, which may be threads apart.
//! While nobody has it, it stands still; whether the other side has closed it shows when it is
//! [looked at](Http1::is_idle).
//!
//! A request whose body comes as the client sends it is different. Its client may not read before all is sent, so that
//! its answer is not waited for while there is still something to send: such a connection gets a task.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{TrySendError, http1};
use tokio::task::{AbortHandle, unconstrained};

use super::hosts::Socket;
use super::passing::RequestBody;

/// How often a connection is moved forward for one wake before others have their turn.
const MOST_ROUNDS: usize = 32;

/// A connection of HTTP/1.1.
pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    runs: Runs,
    relay: Arc<Relay>,
    /// That of the relay.
    waker: Waker,
    /// Requests that were sent over it.
    uses: u32,
}

/// Who moves a connection forward.
#[expect(clippy::large_enum_variant, reason = "it lies in a box, and is nearly always the largest")]
enum Runs {
    /// Whoever has it.
    Here(http1::Connection<Socket, RequestBody>),
    /// A task.
    Apart(AbortHandle),
    /// Nobody: it has ended.
    Over,
}

/// Hands wakes of a connection on to the task that has it, except those that the task itself causes while it moves
/// the connection forward: it goes on by itself.
#[derive(Debug, Default)]
struct Relay {
    task: AtomicWaker,
    /// [`MOVING`] and [`AGAIN`].
    state: AtomicU8,
}

/// The connection is being moved forward.
const MOVING: u8 = 1;
/// It was woken since.
const AGAIN: u8 = 2;

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever set a flag before has woken the task or looks at the flags again.
        if self.state.fetch_or(AGAIN, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }
}

impl Http1 {
    /// Begins to speak HTTP/1.1.
    pub(super) async fn new(socket: Socket) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(socket).await?;
        let relay = Arc::new(Relay::default());
        let waker = Waker::from(Arc::clone(&relay));
        Ok(Self { sender, runs: Runs::Here(connection), relay, waker, uses: 0 })
    }

    /// Sends a request and waits for the head of its answer. Dropped before that, the connection closes.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.uses = self.uses.saturating_add(1);
        if matches!(request.body(), RequestBody::Stream { .. }) {
            self.run_apart();
        }
        // Without a budget for cooperation: the waker for the next turn would be the one that wakes nobody.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        std::future::poll_fn(|cx| self.advance(cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// The next piece of the body of its answer.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<bytes::Bytes>>>> {
        self.advance(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Requests that were sent over it.
    pub(super) const fn uses(&self) -> u32 {
        self.uses
    }

    /// Whether it takes another request now.
    pub(super) fn is_idle(&mut self) -> bool {
        self.relay.task.take();
        self.relay.state.store(0, Ordering::Release);
        self.step();
        !matches!(self.runs, Runs::Over) && !self.sender.is_closed() && self.sender.is_ready()
    }

    /// Asks what the connection may bring until that is there, or nothing moves any more.
    fn advance<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut ask: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !matches!(self.runs, Runs::Here(_)) {
            return ask(cx);
        }
        self.relay.task.register(cx.waker());
        for _ in 0..MOST_ROUNDS {
            self.relay.state.store(MOVING, Ordering::Release);
            self.step();
            // What it brings, it brings within a step: no waker is needed.
            if let Poll::Ready(brought) = ask(&mut Context::from_waker(Waker::noop())) {
                self.relay.state.store(0, Ordering::Release);
                return Poll::Ready(brought);
            }
            let unmoved = self.relay.state.compare_exchange(MOVING, 0, Ordering::AcqRel, Ordering::Acquire);
            if unmoved.is_ok() {
                return Poll::Pending;
            }
        }
        self.relay.state.store(0, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves it forward as far as it goes.
    fn step(&mut self) {
        if let Runs::Here(connection) = &mut self.runs
            && Pin::new(connection).poll(&mut Context::from_waker(&self.waker)).is_ready()
        {
            // What went wrong is told to whoever waits for an answer; dropped, it tells them.
            self.runs = Runs::Over;
        }
    }

    /// Gives it a task.
    fn run_apart(&mut self) {
        if let Runs::Here(connection) = std::mem::replace(&mut self.runs, Runs::Over) {
            // However it ends, whoever waits for an answer is told.
            let task = tokio::spawn(async move { connection.await.unwrap_or_default() });
            self.runs = Runs::Apart(task.abort_handle());
        }
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if let Runs::Apart(task) = &self.runs {
            task.abort();
        }
    }
}

impl std::fmt::Debug for Http1 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1").finish_non_exhaustive()
    }
}
