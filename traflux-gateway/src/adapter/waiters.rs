//! How does a request that waits learn that its turn has come?

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::engine::{Decision, Engine, Waiting};
use crate::queue::Ticket;

type Key = (usize, Ticket);

/// Requests that wait, by ticket.
#[derive(Debug, Default)]
pub struct Waiters {
    /// Entries of `places`, to be read without the lock. Relaxed: a request that registers looks for its decision
    /// itself, so that nobody who saw an older number leaves it waiting.
    count: AtomicUsize,
    places: Mutex<HashMap<Key, Place>>,
}

#[derive(Debug)]
enum Place {
    /// Somebody waits.
    Expected(oneshot::Sender<Decision>),
    /// The decision was there before its request had registered.
    Ready(Box<Decision>),
}

impl Waiters {
    /// Whether anybody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits for the decision. Dropping the future gives up the place; `None` when the engine has gone.
    pub async fn wait(self: &Arc<Self>, engine: &Engine, waiting: Waiting) -> Option<Decision> {
        let key = waiting.ticket();
        let _guard = Guard { waiters: Arc::clone(self), engine: engine.clone(), key, waiting: Some(waiting) };
        let receiver = self.register(key);
        // Its turn may have come before it was known here.
        self.pump(engine);
        receiver.await.ok()
    }

    /// Hands out all decisions that are ready. Call it after every end of a request and after upkeep.
    pub fn pump(&self, engine: &Engine) {
        if self.is_empty() {
            return;
        }
        loop {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that a request that leaves finds its decision either there or here.
            let Some((key, decision)) = engine.take_ready() else { return };
            let unwanted = match places.remove(&key) {
                Some(Place::Expected(sender)) => sender.send(decision).err(),
                Some(Place::Ready(_)) | None => {
                    places.insert(key, Place::Ready(Box::new(decision)));
                    None
                }
            };
            drop(places);
            // Giving a place back calls the next, which the loop then finds.
            drop(unwanted);
        }
    }

    fn register(&self, key: Key) -> oneshot::Receiver<Decision> {
        self.count.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        match places.remove(&key) {
            // The receiver is at hand, so that sending cannot fail.
            Some(Place::Ready(decision)) => drop(sender.send(*decision)),
            Some(Place::Expected(_)) | None => drop(places.insert(key, Place::Expected(sender))),
        }
        receiver
    }
}

/// The place of one request.
#[derive(Debug)]
struct Guard {
    waiters: Arc<Waiters>,
    engine: Engine,
    key: Key,
    waiting: Option<Waiting>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // First the ticket: from then on no decision for it can appear.
        self.waiting = None;
        let left = self.waiters.places.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        let gave_back = left.is_some();
        drop(left);
        self.waiters.count.fetch_sub(1, Ordering::Relaxed);
        if gave_back {
            self.waiters.pump(&self.engine);
        }
    }
}
