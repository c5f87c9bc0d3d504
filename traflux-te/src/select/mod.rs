//! Which pairs may leave the base, without anything learned?
//!
//! A selector is a [`Policy`]: it reads column [`DEMAND`] of an observation and chooses at most `count`
//! pairs, best first. [`EcmpOnly`] is the floor, [`TopK`] and [`TopKCritical`] are the rules that learned
//! selectors are usually compared with. [`TopKRelief`], [`GreedyRelief`] and [`QuickSelector`] follow prices of links
//! and are better and disturb less; [`FixedSet`] asks whether anything has to be chosen anew at all.

mod fixed;
mod quick;
mod relief;

pub use fixed::{FixedSet, FixedSetSearch, SearchConfig};
pub use quick::QuickSelector;
pub use relief::{GreedyRelief, TopKRelief};

use traflux_core::network::column::DEMAND;
use traflux_core::{Action, BaseRouting, GroupIx, Network, Observation, Policy, PolicyError};

use crate::relief::keep;

/// How many pairs a share of all pairs is, rounded down: 10 % of the 132 pairs of 12 nodes are 13. A positive
/// share is at least 1 pair; 0, a negative number and NaN are none.
#[must_use]
pub fn share_of_pairs(network: &Network, share: f64) -> usize {
    let pairs = network.pair_count();
    // 0.07 · 100 is 7.000000000000001, and 0.29 · 100 is 28.999999999999996.
    let count = (share * pairs as f64 + 1e-9).floor();
    if share > 0.0 { (count as usize).clamp(1, pairs.max(1)).min(pairs) } else { 0 }
}

/// Nothing leaves the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EcmpOnly;

impl Policy for EcmpOnly {
    fn act(&mut self, _: &Observation) -> Result<Action, PolicyError> {
        Ok(Action::choose(Vec::new()))
    }
}

/// The pairs that send the most.
#[derive(Debug, Clone)]
pub struct TopK {
    count: usize,
    candidates: Vec<(f32, u32)>,
}

impl TopK {
    /// Chooses `count` pairs.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { count, candidates: Vec::new() }
    }
}

impl Policy for TopK {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        check(observation)?;
        self.candidates.clear();
        for (pair, open) in observation.mask.iter().enumerate() {
            if *open {
                self.candidates.push((demand(observation, pair), pair as u32));
            }
        }
        Ok(Action::choose(largest(&mut self.candidates, self.count)))
    }
}

/// The pairs that send the most of those that cross the fullest links under the base (Top-K Critical of Zhang
/// et al. 2020).
///
/// The paper takes pairs from the five fullest links. Where these carry fewer than `count` pairs, more links
/// are added, fullest first, until there are enough. Links are ordered by utilisation and then by position,
/// pairs by demand and then by position.
#[derive(Debug, Clone)]
pub struct TopKCritical {
    count: usize,
    critical_links: usize,
    base: BaseRouting,
    inverse_capacities: Vec<f64>,
    /// The pairs that cross each link.
    crossing_offsets: Vec<u32>,
    crossing: Vec<u32>,
    utilizations: Vec<f64>,
    links: Vec<u32>,
    seen: Vec<bool>,
    candidates: Vec<(f32, u32)>,
}

impl TopKCritical {
    /// The number of links of the paper.
    pub const CRITICAL_LINKS: usize = 5;

    /// Chooses `count` pairs from the five fullest links.
    ///
    /// # Panics
    /// When the base is one of another network.
    #[must_use]
    pub fn new(network: &Network, base: &BaseRouting, count: usize) -> Self {
        let base = keep(network, base);
        let all = (0..network.pair_count()).map(GroupIx::from);
        let links = network.links().len();
        let mut offsets = vec![0u32; links + 1];
        for (link, _) in all.clone().flat_map(|pair| base.of(pair)) {
            offsets[link.ix() + 1] += 1;
        }
        for link in 0..links {
            offsets[link + 1] += offsets[link];
        }
        let mut next = offsets.clone();
        let mut crossing = vec![0; offsets[links] as usize];
        for pair in all {
            for (link, _) in base.of(pair) {
                crossing[next[link.ix()] as usize] = pair.0;
                next[link.ix()] += 1;
            }
        }
        Self {
            count,
            critical_links: Self::CRITICAL_LINKS,
            base,
            inverse_capacities: network.links().iter().map(|l| 1.0 / l.capacity.get()).collect(),
            crossing_offsets: offsets,
            crossing,
            utilizations: Vec::new(),
            links: (0..links as u32).collect(),
            seen: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Takes pairs from another number of links than five.
    #[must_use]
    pub fn with_critical_links(mut self, links: usize) -> Self {
        self.critical_links = links;
        self
    }
}

impl Policy for TopKCritical {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        check(observation)?;
        let pairs = self.base.pair_count();
        check_pairs(observation, pairs)?;
        self.utilizations.clear();
        self.utilizations.resize(self.inverse_capacities.len(), 0.0);
        for pair in 0..pairs {
            let demand = f64::from(demand(observation, pair));
            for (link, fraction) in self.base.of(GroupIx::from(pair)) {
                self.utilizations[link.ix()] += demand * fraction * self.inverse_capacities[link.ix()];
            }
        }
        let utilizations = &self.utilizations;
        self.links.sort_unstable_by(|a, b| {
            utilizations[*b as usize].total_cmp(&utilizations[*a as usize]).then(a.cmp(b))
        });
        self.seen.clear();
        self.seen.resize(pairs, false);
        self.candidates.clear();
        for (at, link) in self.links.iter().enumerate() {
            if at >= self.critical_links && self.candidates.len() >= self.count {
                break;
            }
            let range = self.crossing_offsets[*link as usize]..self.crossing_offsets[*link as usize + 1];
            for &pair in &self.crossing[range.start as usize..range.end as usize] {
                let open = observation.mask[pair as usize];
                if open && !std::mem::replace(&mut self.seen[pair as usize], true) {
                    self.candidates.push((demand(observation, pair as usize), pair));
                }
            }
        }
        Ok(Action::choose(largest(&mut self.candidates, self.count)))
    }
}

fn check(observation: &Observation) -> Result<(), PolicyError> {
    if observation.groups.ncols() == 0 && !observation.is_empty() {
        return Err(PolicyError::Shape { expected: DEMAND + 1, found: observation.groups.ncols() });
    }
    if observation.mask.len() != observation.len() {
        return Err(PolicyError::Failed {
            reason: format!("{} pairs, but {} in the mask", observation.len(), observation.mask.len()),
        });
    }
    Ok(())
}

fn check_pairs(observation: &Observation, pairs: usize) -> Result<(), PolicyError> {
    if observation.len() == pairs {
        return Ok(());
    }
    let reason = format!("{} pairs in the observation, {pairs} in the network", observation.len());
    Err(PolicyError::Failed { reason })
}

/// The demand of a pair; what is not a number counts as none.
fn demand(observation: &Observation, pair: usize) -> f32 {
    let demand = observation.groups[[pair, DEMAND]];
    if demand.is_finite() && demand > 0.0 { demand } else { 0.0 }
}

/// The `count` largest, largest first; equal ones by position.
fn largest(candidates: &mut Vec<(f32, u32)>, count: usize) -> Vec<GroupIx> {
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, order);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(order);
    candidates.iter().map(|(_, pair)| GroupIx(*pair)).collect()
}
