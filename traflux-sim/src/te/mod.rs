//! A network whose pairs a policy chooses: what is a choice worth on real or generated traffic?
//!
//! A [`TrafficSeries`] is a network, what its routers do by themselves, and a series of traffic matrices with
//! the least maximum utilisation of each. It judges any set of pairs exactly, by the linear program over all paths
//! of the pairs chosen. [`NetworkEnvironment`] plays a series step by step; [`evaluate()`] goes through it with a policy.

mod environment;
mod evaluate;
mod judge;
mod series;

pub use environment::{EnvironmentSettings, NetworkEnvironment};
pub use evaluate::{Evaluation, evaluate, scenes_of};
pub use judge::{Judgement, judge};
pub use series::{SelectionReward, TrafficSeries, Worth};
