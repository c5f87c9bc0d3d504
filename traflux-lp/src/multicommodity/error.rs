//! What can be wrong with a flow problem?

/// A flow problem that cannot be solved. A gap left at the deadline is a status, not an error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FlowError {
    /// Demand between nodes that no path joins.
    #[error("no path leads from node `{source_node}` to node `{target_node}`, which ask for {demand} bit/s")]
    Disconnected {
        /// Name of the source.
        source_node: String,
        /// Name of the target.
        target_node: String,
        /// bit/s.
        demand: f64,
    },
    /// A vector of the wrong length.
    #[error("{what} has {found} entries, expected {expected}")]
    Length {
        /// Which vector.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What fits.
        expected: usize,
    },
    /// A number that is NaN, infinite or negative.
    #[error("{what} {index} is {value}; it must be finite and not negative")]
    Value {
        /// Which quantity.
        what: &'static str,
        /// Position of the commodity or link.
        index: usize,
        /// The number.
        value: f64,
    },
    /// A problem on another network than the one the solver was made for.
    #[error("link {link} does not have the ends and the capacity it has in the network of the solver")]
    OtherNetwork {
        /// Position of the first link that differs.
        link: usize,
    },
    /// A commodity with an end outside the network, or with one end only.
    #[error("commodity {commodity} leads from node {source_node} to node {target_node} of {nodes}")]
    Ends {
        /// Position of the commodity.
        commodity: usize,
        /// Index of its source.
        source_node: usize,
        /// Index of its target.
        target_node: usize,
        /// How many nodes there are.
        nodes: usize,
    },
    /// A listed path that does not lead from the source of its commodity to the target.
    #[error("path {path} of commodity {commodity} does not lead from its source to its target")]
    BrokenPath {
        /// Position of the commodity.
        commodity: usize,
        /// Position of the path among those listed.
        path: usize,
    },
    /// A commodity with the ends of another, where each has its own list of paths.
    #[error("commodity {commodity} has the ends of an earlier one")]
    Repeated {
        /// Position of the later one.
        commodity: usize,
    },
    /// A pair that the network does not have.
    #[error("pair {pair} does not exist, there are {pairs}")]
    Pair {
        /// Its position.
        pair: usize,
        /// How many there are.
        pairs: usize,
    },
    /// Something that is not of the network.
    #[error(transparent)]
    Network(#[from] traflux_core::NetworkError),
    /// A solution that its checker does not confirm, which should not happen; the problem is worth a report.
    #[error("the solution does not pass its check: {0}")]
    Check(#[from] super::check::FlowCheckError),
    /// Rounding got the better of the solver, which should not happen; the problem is worth a report.
    #[error("the solver lost its accuracy after {pivots} pivots")]
    Accuracy {
        /// How many pivots it had made.
        pivots: usize,
    },
}

impl FlowError {
    /// A stable name for metrics and bindings.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disconnected { .. } => "flow_disconnected",
            Self::Length { .. } => "flow_length",
            Self::Value { .. } => "flow_value",
            Self::OtherNetwork { .. } => "flow_other_network",
            Self::Ends { .. } => "flow_ends",
            Self::BrokenPath { .. } => "flow_broken_path",
            Self::Repeated { .. } => "flow_repeated",
            Self::Pair { .. } => "flow_pair",
            Self::Network(error) => error.code(),
            Self::Check(error) => error.code(),
            Self::Accuracy { .. } => "flow_accuracy",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        false
    }
}
