//! The core of Traflux: one model of traffic, and the stages of the loop that controls it.
//!
//! Start with [`stages`]: it shows the whole loop, one trait per stage, in order. The types that pass
//! between the stages each have a module: [`topology`], [`telemetry`], [`estimate`](mod@estimate), [`observation`],
//! [`action`], [`problem`], [`split`], [`guard`], [`plan`], [`reward`].
//!
//! There is no I/O here, no clock and no global randomness: time and seeds are arguments, so the same
//! inputs give bit-identical decisions.

pub mod action;
pub mod assemble;
pub mod bounds;
pub mod curve;
pub mod environment;
pub mod error;
pub mod estimate;
pub mod estimator;
pub mod guard;
pub mod ladder;
pub mod network;
pub mod observation;
pub mod plan;
pub mod problem;
pub mod reward;
pub mod shortest;
pub mod split;
pub mod stages;
pub mod telemetry;
pub mod topology;
pub mod transition;
pub mod units;
pub mod vector;

pub use action::{Action, ActionBounds};
pub use assemble::{AssembleConfig, Assembled, CriticalReason, assemble};
pub use bounds::{GuardConfig, RowBounds};
pub use curve::{LatencyCurve, Tangent};
pub use environment::{Environment, Step};
pub use error::{
    ActuateError, EncodeError, EnvironmentError, EstimateError, NetworkError, ObserveError, PlanError,
    PolicyError, SolveError, TopologyError,
};
pub use estimate::{Attribution, Estimate, FlowEstimate, Health, ResourceEstimate, RouteEstimate};
pub use estimator::{EstimatorConfig, FleetEstimator, RawEstimator};
pub use guard::{GuardAction, GuardContext, GuardReason, Guarded, WeightGuard};
pub use ladder::{Ladder, LadderConfig, Rung};
pub use network::{
    BaseRouting, Link, LinkIx, Network, Node, NodeIx, PathShare, Rerouting, Routing, TrafficMatrix,
};
pub use observation::{Observation, ObservationSpace};
pub use plan::{
    EndpointPlan, HostPlan, InForce, ListenerPlan, NodeGroup, PlanVersion, Receipt, ServicePlan, TrafficPlan,
    WeightRow,
};
pub use problem::{
    Explanation, Objective, ProblemResource, ProblemRoute, SolverStatus, SplitProblem, SplitSolution,
    TwoStage,
};
pub use reward::{FleetReward, Reward, RewardWeights};
pub use shortest::ShortestPaths;
pub use split::{Split, WeightTable, quantize};
pub use stages::{
    Actuator, BoxFuture, Estimator, Guard, MetricsSource, Policy, Recorder, RewardFunction, StateEncoder,
    WeightSolver, Window,
};
pub use telemetry::{Measurements, Reading, ResourceTelemetry, RouteTelemetry, Telemetry};
pub use topology::{
    Consumption, Flow, FlowIx, Generation, Group, GroupIx, Resource, ResourceIx, Route, RouteIx, Topology,
    TopologyBuilder,
};
pub use transition::Transition;
pub use units::{BitRate, HourlyPrice, Latency, Rate, Timestamp, UnitError, UnitPrice};
pub use vector::VectorEnvironment;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
