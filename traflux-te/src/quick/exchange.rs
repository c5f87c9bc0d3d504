//! Which chosen pair would rather be another?
//!
//! Pairs are chosen while the fullest links change, and the last of them settle which links are full in the end: some
//! chosen early then relieve the wrong ones. A pair outside of the greatest relief takes the place of one inside of
//! less relief, if the norm really falls; prices are set anew after a few. When no exchange is found `β` is doubled,
//! since then only links that balance each other are left, and the exact amounts count.

use traflux_core::BaseRouting;

use super::prices::slope;
use super::{Chooser, Key, LEAST_SHIFT, REVISITED, greatest};

/// Binary logarithm of `β` at first and at last.
const DOUBLINGS: [usize; 2] = [5, 7];
/// So many pairs at most are tried on each side in a round.
const TRIED: usize = 8;
/// So many exchanges at most in a round: each makes the prices less true.
const PER_ROUND: usize = 4;
/// The most rounds.
const ROUNDS: usize = 24;

impl Chooser {
    /// Exchanges pairs; gives the number of rounds.
    pub(super) fn exchange(&mut self, base: &BaseRouting, demands: &[f64]) -> usize {
        let tried = TRIED.min(self.chosen.len().div_ceil(6));
        let [mut doublings, last] = DOUBLINGS;
        let mut revisit = 0;
        for round in 0..ROUNDS {
            let worst = greatest(&self.utilizations);
            self.measure(base, demands, doublings, worst);
            self.keep_outside(tried);
            let reliefs = &self.reliefs;
            let inside = self.chosen.iter().enumerate();
            self.least.clear();
            self.least.extend(inside.map(|(at, pair)| Key::new(reliefs[*pair as usize], at)));
            if tried < self.least.len() {
                self.least.select_nth_unstable(tried);
                self.least.truncate(tried);
            }
            self.least.sort_unstable();
            if self.exchange_some(base, demands, doublings, worst) == 0 {
                if doublings == last {
                    return round + 1;
                }
                doublings += 1;
            }
            for _ in 0..self.chosen.len().min(REVISITED) {
                revisit = (revisit + 1) % self.chosen.len();
                self.shift_again(revisit, demands, doublings, worst);
            }
        }
        ROUNDS
    }

    /// Tries pairs of `keys` in the places of `least`; gives how many stay.
    fn exchange_some(&mut self, base: &BaseRouting, demands: &[f64], doublings: usize, worst: f64) -> usize {
        let (keys, mut least) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.least));
        let mut exchanged = 0;
        for key in &keys {
            if exchanged == PER_ROUND {
                break;
            }
            let relief = self.reliefs[key.pair()];
            let promising = least.iter().take_while(|other| other.relief() < relief).count();
            let mut places = (0..promising).map(|place| (place, least[place].pair()));
            let found = places.find(|(_, at)| self.replace(*at, key.pair(), base, demands, doublings, worst));
            if let Some((place, _)) = found {
                least.remove(place);
                exchanged += 1;
            }
        }
        (self.keys, self.least) = (keys, least);
        exchanged
    }

    /// Puts a pair in the place of a chosen one if the norm falls; gives whether it does.
    fn replace(
        &mut self,
        at: usize,
        pair: usize,
        base: &BaseRouting,
        demands: &[f64],
        doublings: usize,
        worst: f64,
    ) -> bool {
        let other = self.chosen[at] as usize;
        self.saved.clone_from(&self.utilizations);
        self.put_on_base(base, other, demands[other]);
        for (link, amount) in &self.flow {
            self.utilizations[link.ix()] += amount;
        }
        for (link, amount) in &self.flows[at] {
            self.utilizations[link.ix()] -= amount;
        }
        self.put_on_base(base, pair, demands[pair]);
        let length = self.shift(pair, demands[pair], doublings, worst);
        if length <= LEAST_SHIFT || !self.falls(doublings, worst) {
            self.utilizations.clone_from(&self.saved);
            return false;
        }
        (self.fractions[other], self.fractions[pair]) = (0.0, length as f32);
        self.flows[at].clone_from(&self.flow);
        self.chosen[at] = pair as u32;
        true
    }

    /// Whether the norm is less than at the loads saved.
    fn falls(&self, doublings: usize, worst: f64) -> bool {
        let power = |u: f64| {
            let u = (u / worst).max(0.0);
            slope(u, doublings) * u
        };
        let changed = self.utilizations.iter().zip(&self.saved).filter(|(now, before)| now != before);
        changed.map(|(now, before)| power(*now) - power(*before)).sum::<f64>() < 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ecmp;
    use traflux_core::{BitRate, Latency, Link, LinkIx, Network, Node, NodeIx};

    #[test]
    fn a_pair_that_relieves_the_wrong_link_is_exchanged() {
        // a over b, or by a detour over c, to d; and one link from b to c that is nearly empty.
        let nodes = ["a", "b", "c", "d"].map(|name| Node { name: name.into(), position: None });
        let link = |(tail, head, weight): (u32, u32, f64)| Link {
            tail: NodeIx(tail),
            head: NodeIx(head),
            capacity: BitRate::bits_per_second(1.0),
            weight,
            delay: Latency::ZERO,
        };
        let ends = [(0, 1, 1.0), (1, 3, 1.0), (0, 2, 2.0), (2, 3, 2.0), (1, 2, 1.0)];
        let network = Network::new(nodes.to_vec(), ends.map(link).to_vec()).unwrap();
        let base = ecmp(&network).unwrap();
        let (long, short) = (network.pair_ix(NodeIx(0), NodeIx(3)), network.pair_ix(NodeIx(1), NodeIx(2)));
        let mut demands = vec![0.0; network.pair_count()];
        (demands[long.ix()], demands[short.ix()]) = (0.8, 0.1);
        let utilizations = [0.8, 0.8, 0.0, 0.0, 0.1];

        let mut chooser = Chooser::new(&network);
        chooser.begin(demands.len(), &utilizations);
        chooser.chosen.push(short.0);
        chooser.flows.push(vec![(LinkIx(4), 0.1)]);
        chooser.fractions[short.ix()] = 1.0;
        assert!(chooser.exchange(&base, &demands) > 1);

        assert_eq!(chooser.chosen, [long.0]);
        assert_eq!(chooser.fractions[short.ix()], 0.0);
        // Half of it, and what it saves is saved indeed.
        assert!((chooser.fractions[long.ix()] - 0.5).abs() < 0.02);
        assert!((chooser.reached(&utilizations) - 0.5).abs() < 0.02);
        assert!((chooser.utilizations[4] - 0.1).abs() < 1e-12, "the other is back on the base");
    }
}
