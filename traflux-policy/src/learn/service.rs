//! How does learning run beside control without ever holding it up?
//!
//! On a thread of its own, behind a bounded channel. Recording never blocks: a transition that finds the
//! channel full is dropped and counted. Nobody waits for an update; policies see it in their shared parameters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use traflux_core::{Recorder, Transition};

use super::learner::{LearnError, LearnStats, Learner};
use crate::buffer::ExperienceBuffer;
use crate::shared::SharedParameters;

/// What a learner on its own thread has done so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Whether the thread runs.
    pub running: bool,
    /// Whether learning is frozen.
    pub frozen: bool,
    /// Transitions taken in.
    pub received: u64,
    /// Transitions dropped because the channel was full or closed.
    pub dropped: u64,
    /// Transitions passed over because learning was frozen.
    pub ignored: u64,
    /// Updates published.
    pub updates: u64,
    /// Updates refused: diverged, or nothing to learn.
    pub rejected: u64,
    /// Step size in use.
    pub learning_rate: f64,
    /// The last update.
    pub last: Option<LearnStats>,
    /// The last refusal, in words.
    pub last_error: Option<String>,
}

enum Message {
    Transition(Box<Transition>),
    LearnNow(SyncSender<Result<LearnStats, LearnError>>),
    Stop,
}

#[derive(Debug)]
struct Counts {
    received: AtomicU64,
    dropped: AtomicU64,
    ignored: AtomicU64,
    stopping: AtomicBool,
    /// Bits of an `f64`.
    learning_rate: AtomicU64,
    outcome: Mutex<Outcome>,
}

#[derive(Debug, Default)]
struct Outcome {
    updates: u64,
    rejected: u64,
    last: Option<LearnStats>,
    last_error: Option<String>,
}

/// Hands transitions to a learner's thread; clones feed the same one.
#[derive(Clone)]
pub struct ChannelRecorder {
    sender: SyncSender<Message>,
    counts: Arc<Counts>,
}

impl std::fmt::Debug for ChannelRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelRecorder").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl ChannelRecorder {
    /// How many transitions were dropped because the channel was full or closed.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Recorder for ChannelRecorder {
    fn record(&mut self, transition: Transition) {
        match self.sender.try_send(Message::Transition(Box::new(transition))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The owner's end of a learner's thread. Dropping it ends the thread after the update in progress.
#[derive(Debug)]
pub struct LearnerHandle {
    recorder: ChannelRecorder,
    shared: SharedParameters,
    thread: Option<JoinHandle<Learner>>,
}

/// Moves a learner to its own thread. It learns from every `batch` transitions; the channel holds at most
/// `capacity` (at least 1).
///
/// # Errors
/// [`LearnError::NotRunning`] when no thread can be started.
pub fn spawn_learner(learner: Learner, batch: usize, capacity: usize) -> Result<LearnerHandle, LearnError> {
    let (sender, receiver) = sync_channel(capacity.max(1));
    let counts = Arc::new(Counts {
        received: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        ignored: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
        learning_rate: AtomicU64::new(learner.config().learning_rate.to_bits()),
        outcome: Mutex::new(Outcome::default()),
    });
    let shared = learner.shared().clone();
    let of_thread = Arc::clone(&counts);
    let thread = std::thread::Builder::new()
        .name("traflux-learner".to_owned())
        .spawn(move || run(learner, &receiver, &of_thread, batch.max(1)))
        .map_err(|error| LearnError::NotRunning { reason: error.to_string() })?;
    Ok(LearnerHandle { recorder: ChannelRecorder { sender, counts }, shared, thread: Some(thread) })
}

impl LearnerHandle {
    /// A recorder that feeds this learner.
    #[must_use]
    pub fn recorder(&self) -> ChannelRecorder {
        self.recorder.clone()
    }

    /// The parameters it publishes to.
    #[must_use]
    pub fn shared(&self) -> &SharedParameters {
        &self.shared
    }

    /// What it has done so far.
    #[must_use]
    pub fn status(&self) -> ServiceStatus {
        let counts = &self.recorder.counts;
        let outcome = counts.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        ServiceStatus {
            running: self.thread.as_ref().is_some_and(|thread| !thread.is_finished()),
            frozen: self.shared.is_frozen(),
            received: counts.received.load(Ordering::Relaxed),
            dropped: counts.dropped.load(Ordering::Relaxed),
            ignored: counts.ignored.load(Ordering::Relaxed),
            updates: outcome.updates,
            rejected: outcome.rejected,
            learning_rate: f64::from_bits(counts.learning_rate.load(Ordering::Relaxed)),
            last: outcome.last.clone(),
            last_error: outcome.last_error.clone(),
        }
    }

    /// Changes the step size from the next update on.
    ///
    /// # Errors
    /// [`LearnError::Setting`] outside (0, 1].
    pub fn set_learning_rate(&self, rate: f64) -> Result<(), LearnError> {
        super::learner::check_learning_rate(rate)?;
        self.recorder.counts.learning_rate.store(rate.to_bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Stops learning, and the exploration of every policy on the same parameters.
    pub fn freeze(&self) {
        self.shared.freeze();
    }

    /// Resumes learning and exploration.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Learns now from what was recorded so far, without waiting for a whole batch. Blocks until it is done.
    ///
    /// # Errors
    /// Those of [`Learner::learn`], and [`LearnError::NotRunning`].
    pub fn learn_now(&self) -> Result<LearnStats, LearnError> {
        let gone = || LearnError::NotRunning { reason: "its thread has ended".to_owned() };
        let (reply, answer) = sync_channel(1);
        self.recorder.sender.send(Message::LearnNow(reply)).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Ends the thread after the update in progress and gives the learner back.
    ///
    /// # Errors
    /// [`LearnError::NotRunning`] when the thread had already died.
    pub fn stop(mut self) -> Result<Learner, LearnError> {
        self.join().ok_or_else(|| LearnError::NotRunning { reason: "its thread has panicked".to_owned() })
    }

    fn join(&mut self) -> Option<Learner> {
        let thread = self.thread.take()?;
        self.recorder.counts.stopping.store(true, Ordering::Release);
        // Wakes the thread where it waits; when it is gone there is nothing to wake.
        let _ = self.recorder.sender.send(Message::Stop);
        thread.join().ok()
    }
}

impl Drop for LearnerHandle {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(mut learner: Learner, receiver: &Receiver<Message>, counts: &Counts, batch: usize) -> Learner {
    let mut buffer = ExperienceBuffer::new(batch);
    while let Ok(message) = receiver.recv() {
        if counts.stopping.load(Ordering::Acquire) {
            break;
        }
        match message {
            Message::Stop => break,
            Message::Transition(_) if learner.shared().is_frozen() => {
                counts.ignored.fetch_add(1, Ordering::Relaxed);
            }
            Message::Transition(transition) => {
                buffer.push(*transition);
                counts.received.fetch_add(1, Ordering::Relaxed);
                if buffer.len() == batch {
                    // Its outcome is in the status; nobody waits for this one.
                    let _ = update(&mut learner, &mut buffer, counts);
                }
            }
            Message::LearnNow(reply) => {
                let outcome = update(&mut learner, &mut buffer, counts);
                // Whoever asked may have gone.
                let _ = reply.send(outcome);
            }
        }
    }
    learner
}

fn update(
    learner: &mut Learner,
    buffer: &mut ExperienceBuffer,
    counts: &Counts,
) -> Result<LearnStats, LearnError> {
    let rate = f64::from_bits(counts.learning_rate.load(Ordering::Relaxed));
    let result = learner.set_learning_rate(rate).and_then(|()| learner.learn(&buffer.drain()));
    let mut outcome = counts.outcome.lock().unwrap_or_else(PoisonError::into_inner);
    match &result {
        Ok(stats) => {
            outcome.updates += 1;
            outcome.last = Some(stats.clone());
        }
        Err(error) => {
            outcome.rejected += 1;
            outcome.last_error = Some(error.to_string());
        }
    }
    result
}
