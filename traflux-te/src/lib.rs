//! Networks, traffic matrices, paths, and the choice of the pairs that matter.
//!
//! Few of all pairs of nodes decide how full the fullest link of a network is. This crate prepares that
//! choice and judges it: [`ecmp`](mod@ecmp) says what routers do by themselves, [`encode`] shows it to a
//! policy, [`select`] holds policies without learning, [`metrics`] says what a routing is worth. [`paths`]
//! and [`failure`] ask what else there is and what may go, [`generate`] makes networks and traffic,
//! [`format`](mod@format) reads and writes the files people have.
//!
//! The types they share (`Network`, `TrafficMatrix`, `BaseRouting`, `Routing`) are those of `traflux-core`;
//! the optimum itself is a linear program and not here. There is no I/O besides [`format`](mod@format), no
//! clock and no global randomness: equal arguments give bit-identical results.

mod distances;
pub mod ecmp;
pub mod encode;
mod error;
pub mod failure;
pub mod format;
pub mod generate;
pub mod metrics;
pub mod paths;
mod quick;
mod relief;
pub mod select;
pub mod selection;

pub use ecmp::{NextHops, TIE_TOLERANCE, check_served, ecmp, ecmp_loads};
pub use encode::NetworkEncoder;
pub use error::TeError;
pub use failure::{Cut, Failure, RiskGroup, group_failures, link_failures, node_failures};
pub use metrics::{delay_ratio, performance_ratio, routing_change, selected_share};
pub use paths::{Path, PathFinder};
pub use select::{
    EcmpOnly, FixedSet, GreedyRelief, QuickSelector, TopK, TopKCritical, TopKRelief, share_of_pairs,
};
pub use selection::{QuickChoice, SelectionEncoder};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
