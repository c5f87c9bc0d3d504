//! What may be put in force?

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::estimate::{Estimate, Health};
use crate::ladder::Rung;
use crate::split::Split;
use crate::topology::{RouteIx, Topology};

/// What the guard knows beside the proposal.
#[derive(Debug, Clone, Copy)]
pub struct GuardContext<'a> {
    /// The topology.
    pub topology: &'a Topology,
    /// The split in force.
    pub current: &'a Split,
    /// The static split that the ladder of failure ends in.
    pub fallback: &'a Split,
    /// Health by route.
    pub health: &'a [Health],
    /// Estimates, where there are any; needed for N−1.
    pub estimate: Option<&'a Estimate>,
    /// Where the ladder of failure stands.
    pub rung: Rung,
    /// Time since the split in force was decided; limits how far this one may go.
    pub elapsed: Duration,
}

/// Why a share differs from the proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardReason {
    /// The proposal was not a finite, non-negative number, or had the wrong length.
    NotFinite,
    /// The row did not sum to one.
    Sum,
    /// Raised to the floor.
    Floor,
    /// Lowered to the cap.
    Cap,
    /// Moved less than proposed: step limit.
    Step,
    /// Lowered because the endpoint is unhealthy.
    Unhealthy,
    /// Spread because too few healthy endpoints had traffic.
    MinHealthy,
    /// Spread because the loss of one domain would overload the rest.
    DomainLoss,
    /// Held because metrics are missing.
    Hold,
    /// On the way to the static split because metrics are missing for long.
    Ramp,
}

/// One change the guard made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GuardAction {
    /// The route, or `None` for the whole split.
    pub route: Option<RouteIx>,
    /// Why.
    pub reason: GuardReason,
    /// Share proposed (0 where it was not a number).
    pub proposed: f64,
    /// Share given.
    pub given: f64,
}

/// A split that may be put in force, and what was changed to make it so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guarded {
    /// The split.
    pub split: Split,
    /// The changes.
    pub actions: Vec<GuardAction>,
}
