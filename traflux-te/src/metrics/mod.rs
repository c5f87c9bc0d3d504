//! What is a routing worth, and what does it disturb?
//!
//! Measures of one matrix are those of Zhang et al. (2020): [`performance_ratio`] and [`delay_ratio`] compare
//! with the optimum, [`selected_share`] is their rerouting disturbance. It counts all traffic of the chosen pairs, whether
//! it moved or not; [`routing_change`] counts what really moves from one routing to the next. [`Summary`] and
//! [`PairedDifference`] say what many matrices have in common, with intervals.

mod statistics;

pub use statistics::{BootstrapConfig, Interval, PairedDifference, Summary};

use traflux_core::{
    BaseRouting, GroupIx, LinkIx, Network, NetworkError, PathShare, Rerouting, Routing, TrafficMatrix,
};

use crate::ecmp::check_nodes;

/// Utilisation of ECMP at which delays are compared (Zhang et al. 2020, section V).
pub const DELAY_UTILIZATION: f64 = 0.9;

/// `PR_U = u_optimal / u_achieved`: 1 at the optimum, less the worse; 1 without any load.
///
/// Both are maximum link utilisations of one matrix.
#[must_use]
pub fn performance_ratio(optimal: f64, achieved: f64) -> f64 {
    if achieved == 0.0 && optimal == 0.0 { 1.0 } else { optimal / achieved }
}

/// The share of all traffic that belongs to the chosen pairs, in [0, 1]: the rerouting disturbance of the paper.
/// A pair named twice counts once; 0 without traffic.
///
/// # Panics
/// When a pair is none of the network, or the matrix is for another number of nodes.
#[must_use]
pub fn selected_share(network: &Network, demands: &TrafficMatrix, pairs: &[GroupIx]) -> f64 {
    let mut pairs = pairs.to_vec();
    pairs.sort_unstable();
    pairs.dedup();
    let of = |pair: GroupIx| {
        let (source, target) = network.pair(pair);
        demands.demand(source, target)
    };
    let total = demands.total();
    if total > 0.0 { (pairs.into_iter().map(of).sum::<f64>() / total).min(1.0) } else { 0.0 }
}

/// End-to-end delay in a model of queues, `Ω = Σ_l y_l / (c_l − y_l)` with load `y` and capacity `c`
/// (dimensionless; in proportion to the mean number of packets in the network). Infinite where a link is full.
#[must_use]
pub fn delay(network: &Network, loads: &[f64]) -> f64 {
    delay_at(network, loads, 1.0)
}

fn delay_at(network: &Network, loads: &[f64], scale: f64) -> f64 {
    let of = |(link, load): (&traflux_core::Link, &f64)| {
        let (load, capacity) = (load * scale, link.capacity.get());
        if load < capacity { load / (capacity - load) } else { f64::INFINITY }
    };
    network.links().iter().zip(loads).map(of).sum()
}

/// `PR_Ω = Ω_reference / Ω_achieved` with all loads scaled so that those of ECMP have a maximum utilisation of
/// [`DELAY_UTILIZATION`].
///
/// The reference is usually the routing of least delay. One of least utilisation is no substitute: there are
/// many, of different delay. 1 without load, or where both are infinite; 0 where only the achieved delay is.
#[must_use]
pub fn delay_ratio(network: &Network, ecmp: &[f64], reference: &[f64], achieved: &[f64]) -> f64 {
    let utilization = network.max_utilization(ecmp);
    if utilization <= 0.0 {
        return 1.0;
    }
    let scale = DELAY_UTILIZATION / utilization;
    let (reference, achieved) = (delay_at(network, reference, scale), delay_at(network, achieved, scale));
    if reference == achieved { 1.0 } else { reference / achieved }
}

/// What changes from one routing to the next.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RoutingChange {
    /// How many pairs take another set of paths, whether they send anything or not.
    pub pairs: usize,
    /// Traffic that leaves the path it was on, as a share of all traffic, in [0, 1]. Counts changes of shares
    /// too.
    pub moved_share: f64,
}

/// Compares two routings over one base.
///
/// Of a pair that stays explicit, `Σ_paths max(0, share before − share after)` moves. Of a pair that leaves the base
/// or returns to it, all but what the explicit paths and the base have in common: the paths, largest share first,
/// take from the fractions of the base what is there along all of their links. A pair whose base is a single path and
/// whose explicit path is the same does not change.
///
/// # Errors
/// [`NetworkError::Length`] for a matrix of another number of nodes.
///
/// # Panics
/// When a routing or the base is one of another network.
pub fn routing_change(
    network: &Network,
    base: &BaseRouting,
    previous: &Routing,
    current: &Routing,
    demands: &TrafficMatrix,
) -> Result<RoutingChange, NetworkError> {
    check_nodes(network, demands)?;
    let (mut before, mut after) =
        (previous.reroutings().iter().peekable(), current.reroutings().iter().peekable());
    let (mut change, mut moved) = (RoutingChange::default(), 0.0);
    loop {
        let next = match (before.peek(), after.peek()) {
            (Some(a), Some(b)) => a.pair.min(b.pair),
            (Some(a), None) => a.pair,
            (None, Some(b)) => b.pair,
            (None, None) => break,
        };
        let old = before.next_if(|rerouting| rerouting.pair == next);
        let new = after.next_if(|rerouting| rerouting.pair == next);
        let (kept, same) = match (old, new) {
            (Some(old), Some(new)) => (kept(old, new), path_set(old) == path_set(new)),
            (Some(one), None) | (None, Some(one)) => kept_of_base(base, one),
            (None, None) => (1.0, true),
        };
        let (source, target) = network.pair(next);
        change.pairs += usize::from(!same);
        moved += demands.demand(source, target) * (1.0 - kept).max(0.0);
    }
    let total = demands.total();
    change.moved_share = if total > 0.0 { (moved / total).min(1.0) } else { 0.0 };
    Ok(change)
}

fn path_set(rerouting: &Rerouting) -> Vec<&[LinkIx]> {
    let mut paths: Vec<&[LinkIx]> = rerouting.paths.iter().map(|path| path.links.as_slice()).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// The share of a pair that stays on its paths.
fn kept(old: &Rerouting, new: &Rerouting) -> f64 {
    let share = |rerouting: &Rerouting, links: &[LinkIx]| -> f64 {
        rerouting.paths.iter().filter(|path| path.links == links).map(|path| path.share).sum()
    };
    path_set(old).into_iter().map(|links| share(old, links).min(share(new, links))).sum()
}

/// The share of a pair that its base and its paths have in common, and whether their sets of paths are the same.
fn kept_of_base(base: &BaseRouting, rerouting: &Rerouting) -> (f64, bool) {
    let mut left: Vec<(LinkIx, f64)> = base.of(rerouting.pair).collect();
    let mut paths: Vec<&PathShare> = rerouting.paths.iter().collect();
    paths.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.links.cmp(&b.links)));
    let mut kept = 0.0;
    let mut inside = true;
    for path in paths {
        let along = |link: &LinkIx| left.iter().position(|(other, _)| other == link);
        match path.links.iter().map(along).collect::<Option<Vec<usize>>>() {
            Some(places) => {
                let common = places.iter().map(|at| left[*at].1).fold(path.share, f64::min);
                places.iter().for_each(|at| left[*at].1 -= common);
                kept += common;
            }
            None => inside = false,
        }
    }
    // Every path is one of the base, and none of the base is missing, when no link of it is without one.
    let covered = left.iter().all(|(link, _)| rerouting.paths.iter().any(|path| path.links.contains(link)));
    (kept, inside && covered)
}
