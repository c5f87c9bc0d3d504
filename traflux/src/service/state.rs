//! What does the HTTP API see of the running service?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use traflux_prom::Exporter;

use super::command::{Command, CommandError, Reply};
use crate::controller::{DecisionLog, LearningStats};

/// Numbers of the training side.
#[derive(Debug, Clone, Default, PartialEq, Serialize, schemars::JsonSchema)]
pub struct TrainingView {
    /// What became of learning steps.
    pub steps: LearningStats,
    /// Version of the policy's parameters; 0 without one.
    pub parameters_version: u64,
    /// Transitions dropped because the learner did not keep up.
    pub dropped_by_learner: u64,
    /// Gradient updates made.
    pub updates: u64,
    /// Last loss of the policy.
    pub policy_loss: Option<f64>,
    /// Last loss of the critic.
    pub value_loss: Option<f64>,
    /// Last entropy of the policy.
    pub entropy: Option<f64>,
}

/// Shared between the loop, which writes, and the API, which reads and sends commands.
pub struct ServiceState {
    decisions: RwLock<DecisionLog>,
    training: RwLock<TrainingView>,
    exporter: Arc<Exporter>,
    commands: mpsc::Sender<Command>,
    /// Describes the data planes that are connected.
    data_plane: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    started: Instant,
    ready: AtomicBool,
    ticks: AtomicU64,
    /// When the last decision was added, in milliseconds since the start.
    last_tick_ms: AtomicU64,
}

/// A command not answered within this time is given up.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

impl ServiceState {
    /// A state whose commands go to `commands`.
    pub fn new(
        decisions_kept: usize,
        exporter: Arc<Exporter>,
        commands: mpsc::Sender<Command>,
        data_plane: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    ) -> Self {
        Self {
            decisions: RwLock::new(DecisionLog::new(decisions_kept)),
            training: RwLock::new(TrainingView::default()),
            exporter,
            commands,
            data_plane,
            started: Instant::now(),
            ready: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            last_tick_ms: AtomicU64::new(0),
        }
    }

    /// Reads the decisions.
    pub fn decisions<T>(&self, read: impl FnOnce(&DecisionLog) -> T) -> T {
        read(&self.decisions.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a decision.
    pub fn record(&self, decision: crate::controller::Decision) {
        let at = self.started.elapsed().as_millis() as u64;
        self.last_tick_ms.store(at, Ordering::Relaxed);
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.decisions.write().unwrap_or_else(PoisonError::into_inner).push(decision);
    }

    /// Numbers of the training side.
    pub fn training(&self) -> TrainingView {
        self.training.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the numbers of the training side.
    pub fn set_training(&self, view: TrainingView) {
        *self.training.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    /// Traflux's own metrics.
    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// The data planes that are connected.
    pub fn data_plane(&self) -> serde_json::Value {
        (self.data_plane)()
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ticks so far.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Time since the last tick, whatever the wall clock did meanwhile; `None` before the first.
    pub fn since_last_tick(&self) -> Option<Duration> {
        let at = Duration::from_millis(self.last_tick_ms.load(Ordering::Relaxed));
        (self.ticks() > 0).then(|| self.uptime().saturating_sub(at))
    }

    /// Whether the first plan was handed over and a tick has been made.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Sets readiness.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Sends a command and waits for the reply.
    ///
    /// # Errors
    /// The controller's refusal, or [`CommandError::NoAnswer`].
    pub async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, CommandError> {
        let no_answer = || CommandError::NoAnswer { limit_ms: COMMAND_LIMIT.as_millis() as u64 };
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(command(reply)).await.map_err(|_| no_answer())?;
            answer.await.map_err(|_| no_answer())?
        };
        tokio::time::timeout(COMMAND_LIMIT, asked).await.unwrap_or_else(|_| Err(no_answer()))
    }
}
