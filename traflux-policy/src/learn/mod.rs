//! How does a policy get better?
//!
//! [`Learner`] turns transitions into an update, synchronously; [`spawn_learner`] runs one on a thread of its own
//! behind a bounded channel; [`train()`] alternates between acting in simulated environments and learning. All
//! three change nothing but a [`SharedParameters`](crate::SharedParameters): acting never waits for learning.

mod batch;
mod convolution;
mod learner;
mod model;
mod service;
mod train;

pub use convolution::{
    ConvolutionBaseline, ConvolutionConfig, ConvolutionPolicy, ConvolutionProgress, train_convolution,
};
pub use learner::{LearnError, LearnStats, Learner, LearnerConfig};
pub use service::{ChannelRecorder, LearnerHandle, ServiceStatus, spawn_learner};
pub use train::{
    Baseline, CurvePoint, Evaluation, TrainConfig, TrainError, TrainProgress, TrainReport, evaluate, train,
};
