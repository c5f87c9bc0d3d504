//! Networks, traffic matrices, paths, and the choice of the pairs that matter.

pub mod ecmp;
pub mod encode;
mod error;
pub mod failure;
pub mod format;
pub mod generate;
pub mod paths;
pub mod select;
mod shortest;

pub use ecmp::{NextHops, TIE_TOLERANCE, check_served, ecmp, ecmp_loads};
pub use encode::NetworkEncoder;
pub use error::TeError;
pub use failure::{Cut, Failure, RiskGroup, group_failures, link_failures, node_failures};
pub use paths::{Path, PathFinder};
pub use select::{EcmpOnly, FixedSet, TopK, TopKCritical, share_of_pairs};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
