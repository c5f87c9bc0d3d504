//! What does a link cost, and how far is it from node to node at these prices?

use traflux_core::{BaseRouting, GroupIx, LinkIx, Network, NodeIx};

use crate::distances::Distances;

/// Added to prices relative to the greatest: keeps paths short where nothing is full, and what rounding leaves of
/// distances smaller than any link, so that they can be walked along.
const FLOOR: f64 = 1e-5;
/// A gain of less, relative to the cost of the base, is none: distances are sums in another order.
const ROUNDING: f64 = 1e-9;

/// Slopes of the norm relative to the greatest, and distances under them.
#[derive(Debug, Clone)]
pub(super) struct Prices {
    pub(super) network: Network,
    pub(super) inverse_capacities: Vec<f64>,
    of_links: Vec<f64>,
    distances: Distances,
}

impl Prices {
    pub(super) fn new(network: &Network) -> Self {
        Self {
            network: network.clone(),
            inverse_capacities: network.links().iter().map(|l| 1.0 / l.capacity.get()).collect(),
            of_links: Vec::new(),
            distances: Distances::new(network),
        }
    }

    /// Sets them for loads of which the greatest utilisation is `worst`, positive.
    pub(super) fn set(&mut self, utilizations: &[f64], doublings: usize, worst: f64) {
        let per_worst = 1.0 / worst;
        let price = |(u, inverse): (&f64, &f64)| slope(u * per_worst, doublings) * inverse;
        self.of_links.clear();
        self.of_links.extend(utilizations.iter().zip(&self.inverse_capacities).map(price));
        let greatest = self.of_links.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        self.of_links.iter_mut().for_each(|price| *price = *price / greatest + FLOOR);
        self.distances.set(&self.of_links);
    }

    /// Calls `with` the relief of each pair that gains something.
    pub(super) fn reliefs(&self, base: &BaseRouting, demands: &[f64], mut with: impl FnMut(usize, f64)) {
        let others = self.network.nodes().len().saturating_sub(1).max(1);
        for (source, demands) in demands.chunks(others).enumerate() {
            let (distances, places) = self.distances.row(source);
            let (before, after) = places.split_at(source);
            let targets = before.iter().chain(after.get(1..).unwrap_or_default());
            for (at, (demand, place)) in demands.iter().zip(targets).enumerate() {
                if *demand > 0.0 {
                    let pair = source * others + at;
                    let entries = base.entries(GroupIx(pair as u32));
                    let cost: f64 = entries.iter().map(|(l, f)| f * self.of_links[l.ix()]).sum();
                    let gain = cost - distances[*place as usize];
                    if gain > ROUNDING * cost {
                        with(pair, demand * gain);
                    }
                }
            }
        }
    }

    /// Calls `with` each link of the cheapest path of a pair; gives whether there is one.
    pub(super) fn walk(&self, pair: usize, mut with: impl FnMut(LinkIx)) -> bool {
        let (mut node, target) = self.network.pair(GroupIx::from(pair));
        for _ in 0..self.network.nodes().len() {
            if node == target {
                return true;
            }
            let Some(link) = self.hop(node, target) else { return false };
            with(link);
            node = self.network.links()[link.ix()].head;
        }
        node == target
    }

    /// The first link of a cheapest path.
    fn hop(&self, node: NodeIx, target: NodeIx) -> Option<LinkIx> {
        let mut best: Option<(f64, LinkIx)> = None;
        for link in self.network.out_links(node) {
            let head = self.network.links()[link.ix()].head;
            let cost = self.of_links[link.ix()] + self.distances.between(head, target);
            if best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, *link));
            }
        }
        best.map(|(_, link)| link)
    }
}

/// `u^(2^doublings − 1)`.
#[inline]
pub(super) fn slope(u: f64, doublings: usize) -> f64 {
    let (mut product, mut square) = (u, u);
    for _ in 1..doublings {
        square *= square;
        product *= square;
    }
    product
}
