//! How long may a client of HTTP/2 take nothing of its answer?
//!
//! Over HTTP/1.1 a client that reads nothing shows in a socket that takes nothing. A connection of HTTP/2 goes on: it
//! answers pings while one of its streams has no window left, and nobody asks for the rest of that stream's answer. So
//! each stream notes since when its answer waits for the client, and ends after as long as a stream may be silent.
//!
//! A stream is one task; what is noted stands beside it, where the answer's body finds it.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

tokio::task_local! {
    /// Since when the answer of this stream waits for its client.
    static WAITS: Cell<Option<Instant>>;
    /// How many streams this connection has.
    static OPEN: Arc<AtomicUsize>;
}

/// Runs a connection, so that it is known how [many streams](open) it has. No `async fn`: that has room for its argument
/// twice.
pub(super) fn counted(connection: impl Future<Output = ()>) -> impl Future<Output = ()> {
    OPEN.scope(Arc::default(), connection)
}

/// How many streams the connection has whose task this is.
pub(super) fn open() -> usize {
    OPEN.try_with(|open| open.load(Ordering::Relaxed)).unwrap_or(0)
}

/// There is something of the answer for the client to take.
pub(super) fn wait_for_client() {
    // Outside of such a task there is nothing to note.
    let _ = WAITS.try_with(|waits| waits.set(Some(Instant::now())));
}

/// The client has taken what there was.
pub(super) fn wait_for_backend() {
    let _ = WAITS.try_with(|waits| waits.set(None));
}

/// Runs streams. One for all connections: each would have room for a builder of its own otherwise.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    /// How long each may wait for its client.
    pub(super) patience: Duration,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        // Streams are begun on the task of their connection.
        let open = OPEN.try_with(Arc::clone).unwrap_or_default();
        open.fetch_add(1, Ordering::Relaxed);
        let open = Open(open);
        let patience = self.patience;
        // In a box: pinned inside, it would have room twice.
        let mut stream = Box::pin(stream);
        tokio::spawn(WAITS.scope(Cell::new(None), async move {
            let _open = open;
            // Made when the answer waits for the first time.
            let mut alarm: Option<Pin<Box<Sleep>>> = None;
            poll_fn(|cx| {
                if stream.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                late(&mut alarm, patience, cx)
            })
            .await;
        }));
    }
}

/// Ready when the answer has waited for too long.
fn late(alarm: &mut Option<Pin<Box<Sleep>>>, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        let Some(since) = WAITS.with(Cell::get) else { return Poll::Pending };
        let until = since + patience;
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        // Set for an earlier piece it rings early, and is set again.
        if alarm.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if Instant::now() >= until {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(until);
    }
}

/// One of the open streams.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
