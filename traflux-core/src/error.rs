//! What went wrong, by stage, in variants that a caller can act on.
//!
//! Every error has a stable [`code`](ObserveError::code) (a metric label, an exception class) and says
//! whether trying again may help ([`is_transient`](ObserveError::is_transient)).

use crate::topology::Generation;

macro_rules! codes {
    ($name:ident { $($variant:pat => $code:literal, $transient:literal;)+ }) => {
        impl $name {
            /// A stable name for metrics and bindings.
            #[must_use]
            pub fn code(&self) -> &'static str {
                match self { $($variant => $code,)+ }
            }

            /// Whether the same call may succeed later with nothing changed here.
            #[must_use]
            pub fn is_transient(&self) -> bool {
                match self { $($variant => $transient,)+ }
            }
        }
    };
}

/// A topology that does not hold together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TopologyError {
    /// Two items of one kind share a name.
    #[error("{kind} `{name}` is named twice")]
    Duplicate {
        /// flow, route, resource or group.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// An item without a name.
    #[error("a {kind} has an empty name")]
    EmptyName {
        /// flow, route, resource or group.
        kind: &'static str,
    },
    /// An index that points outside.
    #[error("`{owner}` refers to a {kind} that does not exist")]
    UnknownIndex {
        /// What the index should point to.
        kind: &'static str,
        /// Who holds it.
        owner: String,
    },
    /// A flow that nothing can serve.
    #[error("flow `{flow}` has no route")]
    NoRoute {
        /// The flow.
        flow: String,
    },
    /// A consumption that is not a positive number.
    #[error("route `{route}` consumes {value} units per request; it must be finite and positive")]
    Consumption {
        /// The route.
        route: String,
        /// The number.
        value: f64,
    },
    /// Too many routes to index.
    #[error("{count} routes, limit {}", u32::MAX)]
    TooManyRoutes {
        /// How many.
        count: usize,
    },
}

codes!(TopologyError {
    Self::Duplicate { .. } => "topology_duplicate", false;
    Self::EmptyName { .. } => "topology_empty_name", false;
    Self::UnknownIndex { .. } => "topology_unknown_index", false;
    Self::NoRoute { .. } => "topology_no_route", false;
    Self::Consumption { .. } => "topology_consumption", false;
    Self::TooManyRoutes { .. } => "topology_too_many_routes", false;
});

/// A network, a traffic matrix or a routing that does not hold together.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// Two nodes share a name.
    #[error("node `{name}` is named twice")]
    DuplicateNode {
        /// The name.
        name: String,
    },
    /// A link from or to a node that does not exist.
    #[error("link {link} refers to node {node}, but there are {nodes} nodes")]
    UnknownNode {
        /// Position of the link.
        link: usize,
        /// The index.
        node: usize,
        /// How many there are.
        nodes: usize,
    },
    /// A link from a node to itself.
    #[error("link {link} leads from node `{node}` to itself")]
    SelfLoop {
        /// Position of the link.
        link: usize,
        /// The node.
        node: String,
    },
    /// A capacity of zero, or a weight that is not finite and positive.
    #[error("link {link} has {quantity} {value}; it must be finite and positive")]
    LinkValue {
        /// Position of the link.
        link: usize,
        /// capacity or weight.
        quantity: &'static str,
        /// The number.
        value: f64,
    },
    /// A vector of the wrong length.
    #[error("{what} has {got} entries, expected {expected}")]
    Length {
        /// What has it.
        what: &'static str,
        /// Its length.
        got: usize,
        /// What fits.
        expected: usize,
    },
    /// A demand that is NaN, infinite or negative.
    #[error(
        "demand from node {source_node} to node {target_node} is {value}; it must be finite and not negative"
    )]
    Demand {
        /// Row of the matrix.
        source_node: usize,
        /// Column of the matrix.
        target_node: usize,
        /// The number.
        value: f64,
    },
    /// Demand between nodes that no path joins.
    #[error("no path leads from node `{source_node}` to node `{target_node}`, which ask for {demand} bit/s")]
    Disconnected {
        /// Name of the source.
        source_node: String,
        /// Name of the target.
        target_node: String,
        /// The demand.
        demand: f64,
    },
    /// A path that does not lead from the source of its pair to the target.
    #[error("a path of pair {pair} does not lead from its source to its target")]
    BrokenPath {
        /// Position of the pair.
        pair: usize,
    },
    /// Shares of a pair that are negative or do not sum to 1.
    #[error("shares of pair {pair} sum to {sum}; they must be positive and sum to 1")]
    Shares {
        /// Position of the pair.
        pair: usize,
        /// Their sum.
        sum: f64,
    },
    /// A base routing over a link that does not exist.
    #[error("pair {pair} refers to link {link}, but there are {links} links")]
    UnknownLink {
        /// Position of the pair.
        pair: usize,
        /// The index.
        link: usize,
        /// How many there are.
        links: usize,
    },
    /// A fraction of a base routing that is NaN or outside [0, 1].
    #[error("fraction of pair {pair} on link {link} is {value}; it must be from 0 to 1")]
    Fraction {
        /// Position of the pair.
        pair: usize,
        /// Position of the link.
        link: usize,
        /// The number.
        value: f64,
    },
    /// More of something than can be indexed or held.
    #[error("{count} {what}, limit {limit}")]
    TooLarge {
        /// nodes, links or entries of the base routing.
        what: &'static str,
        /// How many.
        count: usize,
        /// The most there may be.
        limit: usize,
    },
}

codes!(NetworkError {
    Self::DuplicateNode { .. } => "network_duplicate_node", false;
    Self::UnknownNode { .. } => "network_unknown_node", false;
    Self::SelfLoop { .. } => "network_self_loop", false;
    Self::LinkValue { .. } => "network_link_value", false;
    Self::Length { .. } => "network_length", false;
    Self::Demand { .. } => "network_demand", false;
    Self::Disconnected { .. } => "network_disconnected", false;
    Self::BrokenPath { .. } => "network_broken_path", false;
    Self::Shares { .. } => "network_shares", false;
    Self::UnknownLink { .. } => "network_unknown_link", false;
    Self::Fraction { .. } => "network_fraction", false;
    Self::TooLarge { .. } => "network_too_large", false;
});

/// Metrics could not be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ObserveError {
    /// The source cannot be reached.
    #[error("{source_name} is unreachable: {reason}")]
    Unreachable {
        /// Which source.
        source_name: String,
        /// What the transport said.
        reason: String,
    },
    /// The source did not answer in time.
    #[error("{source_name} did not answer within {limit_ms} ms")]
    Timeout {
        /// Which source.
        source_name: String,
        /// The limit.
        limit_ms: u64,
    },
    /// The source refused the credentials.
    #[error("{source_name} refused the credentials ({status})")]
    Unauthorized {
        /// Which source.
        source_name: String,
        /// The HTTP status.
        status: u16,
    },
    /// The source is there but cannot serve now.
    #[error("{source_name} is unavailable ({status}): {reason}")]
    Unavailable {
        /// Which source.
        source_name: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
    },
    /// The source refused the question.
    #[error("{source_name} refused the query ({status}): {reason}; query: {query}")]
    BadQuery {
        /// Which source.
        source_name: String,
        /// The HTTP status.
        status: u16,
        /// Its words.
        reason: String,
        /// The query.
        query: String,
    },
    /// The answer cannot be understood.
    #[error("{source_name} gave an answer that cannot be read: {reason}")]
    BadAnswer {
        /// Which source.
        source_name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The indices belong to another topology.
    #[error("metrics belong to topology generation {}, expected {}", .found.0, .expected.0)]
    StaleGeneration {
        /// What was asked for.
        expected: Generation,
        /// What came.
        found: Generation,
    },
}

codes!(ObserveError {
    Self::Unreachable { .. } => "observe_unreachable", true;
    Self::Timeout { .. } => "observe_timeout", true;
    Self::Unauthorized { .. } => "observe_unauthorized", false;
    Self::Unavailable { .. } => "observe_unavailable", true;
    Self::BadQuery { .. } => "observe_bad_query", false;
    Self::BadAnswer { .. } => "observe_bad_answer", true;
    Self::StaleGeneration { .. } => "observe_stale_generation", true;
});

/// Telemetry that cannot be turned into an estimate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EstimateError {
    /// The vectors do not have the lengths of the topology.
    #[error("telemetry has {found} {what}, the topology {expected}")]
    Shape {
        /// routes or resources.
        what: &'static str,
        /// Length expected.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// The indices belong to another topology.
    #[error("telemetry belongs to topology generation {}, expected {}", .found.0, .expected.0)]
    StaleGeneration {
        /// Generation of the estimator.
        expected: Generation,
        /// Generation of the telemetry.
        found: Generation,
    },
}

codes!(EstimateError {
    Self::Shape { .. } => "estimate_shape", false;
    Self::StaleGeneration { .. } => "estimate_stale_generation", true;
});

/// State that cannot be encoded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// The vectors do not have the lengths of the topology.
    #[error("encoder expects {expected} {what}, got {found}")]
    Shape {
        /// What was counted.
        what: &'static str,
        /// Length expected.
        expected: usize,
        /// Length found.
        found: usize,
    },
}

codes!(EncodeError { Self::Shape { .. } => "encode_shape", false; });

/// A policy that cannot act.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// The observation does not have the shape the policy was made for.
    #[error("policy expects {expected} features per group, got {found}")]
    Shape {
        /// Features expected.
        expected: usize,
        /// Features found.
        found: usize,
    },
    /// A feature that the policy was made for is not observed.
    #[error("policy was made for the feature `{name}`, which is not observed")]
    Feature {
        /// Its name.
        name: String,
    },
    /// The policy produced a number that is not finite.
    #[error("policy produced {value} as {what}")]
    NotFinite {
        /// Which output.
        what: &'static str,
        /// The number.
        value: f64,
    },
    /// A stage outside this process failed or took too long.
    #[error("policy failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

codes!(PolicyError {
    Self::Shape { .. } => "policy_shape", false;
    Self::Feature { .. } => "policy_feature", false;
    Self::NotFinite { .. } => "policy_not_finite", false;
    Self::Failed { .. } => "policy_failed", true;
});

/// A split that could not be computed. A gap left at the deadline is a status, not an error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// The problem contradicts itself or holds a number that is not valid.
    #[error("invalid problem: {what} is {value}")]
    Invalid {
        /// Which number, with its index.
        what: String,
        /// The number.
        value: f64,
    },
    /// The bounds of a flow cannot sum to one.
    #[error("flow {flow} has shares bounded to [{lower}, {upper}] in sum, which excludes 1")]
    InfeasibleBounds {
        /// Position of the flow.
        flow: usize,
        /// Sum of the lower bounds.
        lower: f64,
        /// Sum of the upper bounds.
        upper: f64,
    },
    /// No split meets the constraints.
    #[error("infeasible: {reason}")]
    Infeasible {
        /// Which constraint.
        reason: String,
    },
    /// The objective has no minimum.
    #[error("unbounded")]
    Unbounded,
    /// The deadline passed before there was any feasible split.
    #[error("no feasible split within {limit_ms} ms")]
    Deadline {
        /// The limit.
        limit_ms: u64,
    },
    /// The solver does not offer what the problem asks for.
    #[error("solver {solver} does not support {what}")]
    Unsupported {
        /// Which solver.
        solver: &'static str,
        /// What was asked.
        what: &'static str,
    },
    /// The solver failed in a way of its own.
    #[error("solver {solver} failed: {reason}")]
    Failed {
        /// Which solver.
        solver: &'static str,
        /// Its words.
        reason: String,
    },
    /// No solver of that name is compiled in.
    #[error("there is no solver `{name}`; available: {available}")]
    UnknownSolver {
        /// The name asked for.
        name: String,
        /// The names there are, separated by commas.
        available: String,
    },
}

codes!(SolveError {
    Self::Invalid { .. } => "solve_invalid", false;
    Self::InfeasibleBounds { .. } => "solve_infeasible_bounds", false;
    Self::Infeasible { .. } => "solve_infeasible", false;
    Self::Unbounded => "solve_unbounded", false;
    Self::Deadline { .. } => "solve_deadline", true;
    Self::Unsupported { .. } => "solve_unsupported", false;
    Self::Failed { .. } => "solve_failed", true;
    Self::UnknownSolver { .. } => "solve_unknown_solver", false;
});

/// A split or plan that cannot be expressed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// A vector has the wrong length.
    #[error("{what} has {found} entries, expected {expected}")]
    Shape {
        /// Which vector.
        what: &'static str,
        /// Length expected.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// A row of shares that is no row of shares.
    #[error("row {flow}: {problem}")]
    Row {
        /// Position of the flow.
        flow: usize,
        /// What is wrong.
        problem: String,
    },
    /// A key of a plan has a value that it cannot have.
    #[error("{path}: {problem}")]
    Key {
        /// Path of the key, such as `routing.rules[0].route.backend`.
        path: String,
        /// What is wrong, with the value and its limits.
        problem: String,
    },
    /// A weight total that cannot give every positive share at least 1.
    #[error("weight total {total} is outside [{needed}, 4294967295]")]
    Total {
        /// The total asked for.
        total: u64,
        /// The least that works.
        needed: u64,
    },
}

impl PlanError {
    /// The same error of a key that lies below `path`.
    #[must_use]
    pub fn under(self, path: &str) -> Self {
        match self {
            Self::Key { path: key, problem } => Self::Key { path: format!("{path}.{key}"), problem },
            other => other,
        }
    }
}

codes!(PlanError {
    Self::Shape { .. } => "plan_shape", false;
    Self::Row { .. } => "plan_row", false;
    Self::Key { .. } => "plan_key", false;
    Self::Total { .. } => "plan_total", false;
});

/// A plan that could not be put in force.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ActuateError {
    /// The plan cannot be expressed for this actuator.
    #[error("plan {version} cannot be compiled: {reason}")]
    Compile {
        /// Version of the plan.
        version: String,
        /// Why.
        reason: String,
    },
    /// The receiver refused it; the version is parked.
    #[error("node group `{group}` refused plan {version}: {reason}")]
    Refused {
        /// The group.
        group: String,
        /// Version of the plan.
        version: String,
        /// The receiver's words, cut to a bounded length.
        reason: String,
    },
    /// Nobody to send it to, or the channel is closed.
    #[error("actuator is unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

codes!(ActuateError {
    Self::Compile { .. } => "actuate_compile", false;
    Self::Refused { .. } => "actuate_refused", false;
    Self::Unavailable { .. } => "actuate_unavailable", true;
});

/// An environment that cannot be stepped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EnvironmentError {
    /// `step` before `reset`, or after the end of an episode.
    #[error("call reset before step")]
    NeedsReset,
    /// An action of the wrong shape or outside its bounds.
    #[error("invalid action: {reason}")]
    Action {
        /// Why.
        reason: String,
    },
    /// A stage inside the environment failed.
    #[error("environment failed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

codes!(EnvironmentError {
    Self::NeedsReset => "environment_needs_reset", false;
    Self::Action { .. } => "environment_action", false;
    Self::Failed { .. } => "environment_failed", false;
});
