//! Which share of each flow should take each route?
//!
//! Solvers of [`SplitProblem`](traflux_core::SplitProblem), all behind
//! [`WeightSolver`]:
//!
//! * [`TransportSolver`], the default: a network simplex made for this problem, with exact duals.
//! * [`GoodLpSolver`]: the same problem as a linear program for any back end of good_lp that is compiled in.
//!
//! [`check`] recomputes everything a solution claims without looking at how it was found.
//!
//! # What is solved
//!
//! The mathematics is that of [`traflux_core::problem`]. Where it leaves a choice:
//!
//! * **Given load.** A resource that background and lower bounds alone fill beyond what all others need gets
//!   nothing more, and the cap of the others does not follow it: the cap is `max(ρ_max, (1+ε) θ°)` with `θ°`
//!   the least maximum over the resources that shares still decide about. `θ*` is reported over all of them.
//! * **No capacity.** A resource with capacity 0 keeps what lower bounds force on it. A flow whose other
//!   routes cannot take the rest sends them as much as bounds allow and leaves what remains as it was; the
//!   status is then `Overloaded` and `softened` says how much. `θ*` counts resources with capacity only.
//! * **Budget and N−1** that cannot be met are softened to the least possible excess, in words.
//! * **Deadline.** When it passes in stage 2, the transport solver gives the best split so far with a proven
//!   gap; in stage 1, and with the back ends, it is [`SolveError::Deadline`].
//! * **Duals** are those of stage 2 with its caps held. Where the optimum has several, any one is given.
//!   `demand_duals` include what the bounds cost, which are shares and so grow with demand.
//!
//! Equal problems give bit-identical answers: no solver carries anything from one call to the next, and the
//! split in force, from which a search may start, is part of the problem.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod backend;
mod bounded;
pub mod check;
mod convex;
mod domain_loss;
mod literal;
mod lp;
pub mod multicommodity;
mod portable;
pub mod sample;
mod simplex;
mod stage;
pub mod table;
mod transport;
mod two_stage;
mod validate;

use traflux_core::{SolveError, WeightSolver};

pub use portable::GoodLpSolver;
pub use table::{EndpointTable, TableError, TabledProblem};
pub use transport::TransportSolver;

/// Names that [`by_name`] takes, the default first.
#[must_use]
pub fn available() -> Vec<&'static str> {
    let mut names = vec![TransportSolver::NAME];
    names.extend(backend::NAMES);
    names
}

/// A solver by its name in the configuration: `transport`, or a back end that is compiled in.
///
/// # Errors
/// [`SolveError::UnknownSolver`] that lists the names there are.
pub fn by_name(name: &str) -> Result<Box<dyn WeightSolver>, SolveError> {
    if name == TransportSolver::NAME {
        return Ok(Box::new(TransportSolver::new()));
    }
    Ok(Box::new(GoodLpSolver::new(name)?))
}

pub(crate) fn unknown_solver(name: &str) -> SolveError {
    SolveError::UnknownSolver { name: name.to_owned(), available: available().join(", ") }
}
