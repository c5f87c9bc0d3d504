//! The whole loop, one trait per stage, in the order in which a tick calls them.
//!
//! ```text
//! observe ─► estimate ─► encode ─► act ─► optimise ─► guard ─► (quantise) ─► control ─► reward ─► record
//! ```
//!
//! Each stage is values in, values out. Only *observe* and *control* touch the network, so only they are
//! async; they return boxed futures, and every stage can be a `Box<dyn …>`. Boxing is per tick, never per
//! request.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::action::Action;
use crate::error::{ActuateError, EncodeError, EstimateError, ObserveError, PolicyError, SolveError};
use crate::estimate::Estimate;
use crate::guard::{GuardContext, Guarded};
use crate::observation::{Observation, ObservationSpace};
use crate::plan::{InForce, NodeGroup, Receipt, TrafficPlan};
use crate::problem::{SplitProblem, SplitSolution};
use crate::reward::Reward;
use crate::split::Split;
use crate::telemetry::Telemetry;
use crate::topology::Topology;
use crate::transition::Transition;
use crate::units::Timestamp;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The span a collection covers: rates and latencies are averages over `[at − length, at]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its end: now.
    pub at: Timestamp,
    /// Its length.
    pub length: Duration,
}

/// Observe: where measurements come from.
pub trait MetricsSource: Send + Sync {
    /// Collects what can be had for this topology. A part that is missing is `None` with a warning; an error
    /// means that nothing could be had.
    ///
    /// # Errors
    /// [`ObserveError`], transient or not.
    fn collect<'a>(
        &'a self,
        topology: &'a Topology,
        window: Window,
    ) -> BoxFuture<'a, Result<Telemetry, ObserveError>>;
}

/// Estimate: from measurements to demand, capacity, latency curves and health.
pub trait Estimator: Send {
    /// Takes in one collection and gives the state as known after it.
    ///
    /// # Errors
    /// [`EstimateError`] when telemetry and topology do not belong together.
    fn estimate(&mut self, topology: &Topology, telemetry: &Telemetry) -> Result<Estimate, EstimateError>;

    /// The topology changed: keep what is known of everything that stays.
    fn rebuild(&mut self, old: &Topology, new: &Topology);
}

/// Encode: the state as tensors.
pub trait StateEncoder: Send {
    /// Shape of the observations.
    fn space(&self) -> ObservationSpace;

    /// Encodes one state.
    ///
    /// # Errors
    /// [`EncodeError`] when the inputs do not belong together.
    fn encode(
        &mut self,
        topology: &Topology,
        telemetry: &Telemetry,
        estimate: &Estimate,
        current: &Split,
    ) -> Result<Observation, EncodeError>;
}

/// Act: which groups may move, and under which parameters.
pub trait Policy: Send {
    /// Chooses an action. Top-K, "all", a fixed set and a learned actor are all policies.
    ///
    /// # Errors
    /// [`PolicyError`]; the controller then acts as if there were no policy, or chooses nothing
    /// ([`freezes_when_it_fails`](Self::freezes_when_it_fails)).
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError>;

    /// Whether its action is held for a whole learning step, so that a reward belongs to one action. One that
    /// does not learn from rewards need not wait and acts at every tick.
    fn holds(&self) -> bool {
        true
    }

    /// Whether nothing but what must may move while it fails, rather than everything. One that is written by somebody
    /// else had a reason for what it let move, which nobody knows when it is silent.
    fn freezes_when_it_fails(&self) -> bool {
        false
    }
}

/// Optimise: the exact shares.
pub trait WeightSolver: Send {
    /// Solves one problem. `&mut`: a solver may keep a basis from one call to the next; the answer must not
    /// depend on it beyond the solver's tolerance.
    ///
    /// # Errors
    /// [`SolveError`]; outcomes such as a gap left at the deadline are in the solution's status.
    fn solve(&mut self, problem: &SplitProblem) -> Result<SplitSolution, SolveError>;
}

/// Guard: what may be put in force.
pub trait Guard: Send {
    /// Makes a proposal safe and says what it changed and why. Total: any proposal, NaN included, ends in a
    /// valid split.
    fn constrain(&mut self, context: &GuardContext<'_>, proposed: &[f64]) -> Guarded;
}

/// Control: puts a plan in force.
pub trait Actuator: Send + Sync {
    /// Takes a plan. Returns when it is queued for every node group, not when it is acknowledged. The same
    /// version again is not a change.
    ///
    /// # Errors
    /// [`ActuateError`].
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>>;

    /// What a node group acknowledged last; `None` when nobody of it is connected.
    fn in_force(&self, group: &NodeGroup) -> Option<InForce>;

    /// Whether anybody of a node group is there to follow, whatever it acknowledged.
    fn is_connected(&self, group: &NodeGroup) -> bool {
        self.in_force(group).is_some()
    }
}

/// Reward: what a step earned.
pub trait RewardFunction: Send {
    /// Compares the windows before and after a held action.
    fn reward(&self, before: &Telemetry, after: &Telemetry) -> Reward;
}

/// Record: the only way back from traffic to policy.
pub trait Recorder: Send {
    /// Takes one transition. Never blocks: when the learner does not keep up, transitions are dropped and
    /// counted.
    fn record(&mut self, transition: Transition);
}
