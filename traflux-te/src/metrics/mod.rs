//! What is a routing worth, and what does it disturb?
//!
//! Measures of one matrix are those of Zhang et al. (2020): [`performance_ratio`] and [`delay_ratio`] compare
//! with the optimum, [`selected_share`] is their rerouting disturbance. It counts all traffic of the chosen
//! pairs, whether it moved or not, [`Routing::rerouted_share`] what of it leaves the base; [`routing_change`] counts
//! what really moves from one routing to the next.
//! [`Summary`] and [`PairedDifference`] say what many matrices have in common, with intervals.

mod statistics;

pub use statistics::{BootstrapConfig, Interval, PairedDifference, Summary};

use std::collections::{BTreeMap, BTreeSet};

use traflux_core::{BaseRouting, GroupIx, LinkIx, Network, NetworkError, Rerouting, Routing, TrafficMatrix};

/// Utilisation of ECMP at which delays are compared (Zhang et al. 2020).
pub const DELAY_UTILIZATION: f64 = 0.9;

/// `PR_U = u_optimal / u_achieved`: 1 at the optimum, less the worse; 1 without any load.
///
/// Both are maximum link utilisations of one matrix.
#[must_use]
pub fn performance_ratio(optimal: f64, achieved: f64) -> f64 {
    if achieved == 0.0 && optimal == 0.0 { 1.0 } else { optimal / achieved }
}

/// The share of all traffic that belongs to the chosen pairs, in [0, 1]: the rerouting disturbance of the
/// paper. A pair named twice counts once; 0 without traffic.
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
    // An empty sum is −0.
    if total > 0.0 { (pairs.into_iter().map(of).sum::<f64>() / total + 0.0).min(1.0) } else { 0.0 }
}

/// End-to-end delay in a model of queues, `Ω = Σ_l y_l / (c_l − y_l)` with load `y` and capacity `c`
/// (dimensionless; in proportion to the mean number of packets in the network). Infinite where a link is
/// full.
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

/// `PR_Ω = Ω_reference / Ω_achieved` with all loads scaled so that those of ECMP have a maximum utilisation
/// of [`DELAY_UTILIZATION`].
///
/// The reference is usually the routing of least delay. One of least utilisation is no substitute: there are
/// many, of different delay. Where it minimises the convex delay by linear pieces (chords), as a linear
/// program does, it is above the true optimum by up to the error of the pieces, and the ratio of a good
/// routing may exceed 1 by as much. 1 without load, or where both are infinite; 0 where only the achieved
/// delay is.
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
    /// How many pairs use another set of links, whether they send anything or not.
    pub pairs: usize,
    /// Traffic that leaves the path it was on, as a share of all traffic, in [0, 1]. Counts changes of shares
    /// too.
    pub moved_share: f64,
}

/// Compares two routings over one base.
///
/// Of a pair stays what both have in common: of each explicit path and of the base the lesser share. Where
/// one has more on the base than the other, the other's remaining paths, largest share first, take from the
/// fractions of the base what is there along all of their links: to spell out the base is no change. All else
/// moves.
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
    network.check_matrix(demands)?;
    let (mut before, mut after) =
        (previous.reroutings().iter().peekable(), current.reroutings().iter().peekable());
    let (mut change, mut moved) = (RoutingChange::default(), 0.0);
    while let Some(pair) = before.peek().into_iter().chain(after.peek()).map(|r| r.pair).min() {
        let old = Spread::new(before.next_if(|rerouting| rerouting.pair == pair));
        let new = Spread::new(after.next_if(|rerouting| rerouting.pair == pair));
        change.pairs += usize::from(old.links(base, pair) != new.links(base, pair));
        let (source, target) = network.pair(pair);
        moved += demands.demand(source, target) * (1.0 - old.common(&new, base, pair)).max(0.0);
    }
    let total = demands.total();
    change.moved_share = if total > 0.0 { (moved / total).min(1.0) } else { 0.0 };
    Ok(change)
}

/// Where a pair's traffic is: by path, and the rest on the base.
struct Spread<'a> {
    base_share: f64,
    paths: BTreeMap<&'a [LinkIx], f64>,
}

impl<'a> Spread<'a> {
    fn new(rerouting: Option<&'a Rerouting>) -> Self {
        let mut paths = BTreeMap::new();
        for path in rerouting.iter().flat_map(|rerouting| &rerouting.paths) {
            *paths.entry(path.links.as_slice()).or_insert(0.0) += path.share;
        }
        Self { base_share: rerouting.map_or(1.0, |rerouting| rerouting.base_share), paths }
    }

    fn links(&self, base: &BaseRouting, pair: GroupIx) -> BTreeSet<LinkIx> {
        let of_base = base.of(pair).map(|(link, _)| link).filter(|_| self.base_share > 0.0);
        of_base.chain(self.paths.keys().copied().flatten().copied()).collect()
    }

    /// The share of the pair that is in the same place in both.
    fn common(&self, other: &Self, base: &BaseRouting, pair: GroupIx) -> f64 {
        let lesser =
            |(path, share): (&&[LinkIx], &f64)| share.min(other.paths.get(path).copied().unwrap_or(0.0));
        let spelled_out = if self.base_share > other.base_share {
            other.on_base(self, base, pair)
        } else {
            self.on_base(other, base, pair)
        };
        self.base_share.min(other.base_share) + self.paths.iter().map(lesser).sum::<f64>() + spelled_out
    }

    /// The share on paths that `more` has not as paths but within what it has more on the base.
    fn on_base(&self, more: &Self, base: &BaseRouting, pair: GroupIx) -> f64 {
        let surplus = more.base_share - self.base_share;
        let mut left: Vec<(LinkIx, f64)> = base.of(pair).map(|(link, part)| (link, part * surplus)).collect();
        let rest = |(path, share): (&&'a [LinkIx], &f64)| {
            (*path, (share - more.paths.get(path).copied().unwrap_or(0.0)).max(0.0))
        };
        let mut paths: Vec<(&[LinkIx], f64)> = self.paths.iter().map(rest).collect();
        paths.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        let mut found = 0.0;
        for (path, share) in paths {
            let place = |link: &LinkIx| left.iter().position(|(other, _)| other == link);
            if let Some(places) = path.iter().map(place).collect::<Option<Vec<usize>>>() {
                let common = places.iter().map(|at| left[*at].1).fold(share, f64::min);
                places.iter().for_each(|at| left[*at].1 -= common);
                found += common;
            }
        }
        found
    }
}
