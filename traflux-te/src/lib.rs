//! Networks, traffic matrices, paths, and the choice of the pairs that matter.

pub mod ecmp;
mod error;
pub mod format;
pub mod generate;
mod shortest;

pub use ecmp::{NextHops, TIE_TOLERANCE, check_served, ecmp, ecmp_loads};
pub use error::TeError;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
