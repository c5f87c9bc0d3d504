//! Which endpoints may move this tick, and under which parameters?
//!
//! [`encode`] turns telemetry and estimates into tensors; [`network`] scores every endpoint with one shared
//! encoder and a pooled context, so endpoints come and go without retraining; [`distribution`] turns scores
//! into an [`Action`](traflux_core::Action): an ordered set of K groups, a headroom and cost multipliers,
//! with the exact log-probability that a learner needs.
//!
//! [`LearnedPolicy`] joins the three, and falls back to [`TopK`] outside of what it was trained on. Policies
//! without a network are in [`heuristics`] and [`random`]. A [`checkpoint`] is a checked, versioned file.
//!
//! Inference needs no machine-learning framework. With the feature `learn`, module `learn` trains on burn: a
//! learner apart from inference, fed through a bounded channel, publishing through [`SharedParameters`].

pub mod bandit;
pub mod buffer;
pub mod checkpoint;
pub mod distribution;
pub mod encode;
pub mod heuristics;
#[cfg(feature = "learn")]
pub mod learn;
pub mod learned;
pub mod network;
pub mod parameters;
pub mod random;
pub mod range;
pub mod shared;

pub use buffer::{ExperienceBuffer, Targets, advantages};
pub use checkpoint::{Checkpoint, CheckpointError, Provenance};
pub use distribution::ActionSpace;
pub use encode::{EncoderConfig, FleetEncoder, SignalFeature};
pub use heuristics::{AllCritical, CriticalCount, FixedSet, TopK};
#[cfg(feature = "learn")]
pub use learn::{
    ChannelRecorder, LearnError, LearnStats, Learner, LearnerConfig, LearnerHandle, TrainConfig, TrainError,
    TrainProgress, TrainReport, spawn_learner, train,
};
pub use learned::{LearnedPolicy, Mode, PolicyStatus};
pub use network::{Outputs, Workspace};
pub use parameters::{NetworkShape, Parameters};
pub use random::RandomActor;
pub use range::{InputRange, OutOfRange};
pub use shared::SharedParameters;

/// Runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeDoctests;
