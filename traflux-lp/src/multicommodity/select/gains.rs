//! What is it worth to let a pair leave the base, as the prices of links have it?

use traflux_core::{BaseRouting, GroupIx, Network, ShortestPaths, TrafficMatrix};

use super::super::graph::Graph;

/// Computes gains, in memory that is kept.
#[derive(Debug, Clone)]
pub(super) struct Gains {
    graph: Graph,
    shortest: ShortestPaths,
}

impl Gains {
    pub(super) fn new(network: &Network) -> Self {
        Self { graph: Graph::new(network), shortest: ShortestPaths::default() }
    }

    /// `g_p = d_p (Σ_l f_pl y_l − dist_p(y))` of every pair, at least 0.
    ///
    /// With `θ` and `y` of an optimum for the set `S`, weak duality proves for any `p ∈ S` and `q ∉ S` that
    /// `θ(S − p + q) ≥ θ(S) + g_p − g_q`: an exchange can only help where `g_q > g_p`.
    pub(super) fn of(
        &mut self,
        network: &Network,
        base: &BaseRouting,
        demands: &TrafficMatrix,
        prices: &[f64],
    ) -> Vec<f64> {
        let mut gains = vec![0.0; network.pair_count()];
        for (pair, gain) in gains.iter_mut().enumerate() {
            let pair = GroupIx::from(pair);
            let (source, target) = network.pair(pair);
            if pair.ix() % (network.nodes().len() - 1) == 0 {
                self.graph.search(source.0, prices, &mut self.shortest);
            }
            let demand = demands.demand(source, target);
            if demand > 0.0 {
                let along: f64 = base.of(pair).map(|(link, part)| part * prices[link.ix()]).sum();
                *gain = demand * (along - self.shortest.distance(target)).max(0.0);
            }
        }
        gains
    }
}
