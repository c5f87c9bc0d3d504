//! Networks, traffic matrices, paths, and the choice of the pairs that matter.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod format;
