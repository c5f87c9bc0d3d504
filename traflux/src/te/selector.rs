//! Who may choose the pairs?

use std::fmt;
use std::str::FromStr;

use traflux_core::{BaseRouting, Network, Policy};
use traflux_lp::multicommodity::select::{DualGuidedGreedy, GreedyOracle, LeastMoved, RelaxAndRound};
use traflux_te::select::{GreedyRelief, TopKRelief};
use traflux_te::{EcmpOnly, QuickSelector, TopK, TopKCritical};

/// A way to choose pairs that needs neither history nor training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SelectorKind {
    /// None: everything follows ECMP.
    Ecmp,
    /// The largest demands.
    TopK,
    /// The largest demands across the fullest links.
    TopKCritical,
    /// The largest first-order gain by link prices.
    TopKRelief,
    /// The same, one pair after the other.
    GreedyRelief,
    /// Pairs chosen in rounds by link prices, then exchanged while that helps.
    Quick,
    /// The largest shares of the fractional optimum: one linear program.
    RelaxAndRound,
    /// What the optimum over all pairs moves most, when it moves as little as it can: one linear program.
    LeastMoved,
    /// The largest gains under the prices of four small linear programs.
    DualGuided,
    /// The best of these with exchanges, up to 120 linear programs: a reference, not for real time.
    Oracle,
}

impl SelectorKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ecmp,
        Self::TopK,
        Self::TopKCritical,
        Self::TopKRelief,
        Self::GreedyRelief,
        Self::Quick,
        Self::RelaxAndRound,
        Self::LeastMoved,
        Self::DualGuided,
        Self::Oracle,
    ];

    /// Those that solve no linear program, for large networks.
    pub const WITHOUT_PROGRAM: [Self; 6] =
        [Self::Ecmp, Self::TopK, Self::TopKCritical, Self::TopKRelief, Self::GreedyRelief, Self::Quick];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ecmp => "ecmp",
            Self::TopK => "top-k",
            Self::TopKCritical => "top-k-critical",
            Self::TopKRelief => "top-k-relief",
            Self::GreedyRelief => "greedy-relief",
            Self::Quick => "quick",
            Self::RelaxAndRound => "relax-and-round",
            Self::LeastMoved => "least-moved",
            Self::DualGuided => "dual-guided",
            Self::Oracle => "oracle",
        }
    }

    /// The selector for one network, of at most `count` pairs.
    #[must_use]
    pub fn policy(self, network: &Network, base: &BaseRouting, count: usize) -> Box<dyn Policy> {
        match self {
            Self::Ecmp => Box::new(EcmpOnly),
            Self::TopK => Box::new(TopK::new(count)),
            Self::TopKCritical => Box::new(TopKCritical::new(network, base, count)),
            Self::TopKRelief => Box::new(TopKRelief::new(network, base, count)),
            Self::GreedyRelief => Box::new(GreedyRelief::new(network, base, count)),
            Self::Quick => Box::new(QuickSelector::new(network, base, count)),
            Self::RelaxAndRound => Box::new(RelaxAndRound::new(network, base, count)),
            Self::LeastMoved => Box::new(LeastMoved::new(network, base, count)),
            Self::DualGuided => Box::new(DualGuidedGreedy::new(network, base, count)),
            Self::Oracle => Box::new(GreedyOracle::new(network, base, count)),
        }
    }
}

impl fmt::Display for SelectorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SelectorKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            let history = if text == "fixed-set" { "; a fixed set is found with --history" } else { "" };
            format!("`{text}` is no selector; there are {}{history}", known.join(", "))
        })
    }
}
