//! Which share of each flow takes each of its routes?
//!
//! A [`Split`] holds fractions for the optimiser, [`WeightTable`] the integers that a data plane takes, and
//! [`quantize`] leads from one to the other.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::PlanError;
use crate::topology::{FlowIx, Generation, Topology};

/// How far the sum of a row may be from one.
pub const ROW_TOLERANCE: f64 = 1e-9;

/// Shares of each flow over its routes: flat, in route order, each row finite, not negative, summing to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Split {
    generation: Generation,
    offsets: Vec<usize>,
    shares: Vec<f64>,
}

impl Split {
    /// Takes flat shares with flow offsets (flow count + 1 numbers, the last the number of routes).
    ///
    /// Rows within [`ROW_TOLERANCE`] of one are normalised.
    ///
    /// # Errors
    /// [`PlanError::Shape`] for offsets that do not fit, [`PlanError::Row`] for a share that is NaN, infinite
    /// or negative, or a row that does not sum to 1.
    pub fn new(generation: Generation, offsets: Vec<usize>, mut shares: Vec<f64>) -> Result<Self, PlanError> {
        if offsets.first() != Some(&0)
            || offsets.last() != Some(&shares.len())
            || offsets.windows(2).any(|w| w[0] >= w[1])
        {
            return Err(PlanError::Shape {
                what: "shares",
                expected: offsets.last().copied().unwrap_or(0),
                found: shares.len(),
            });
        }
        for flow in 0..offsets.len() - 1 {
            let row = &mut shares[offsets[flow]..offsets[flow + 1]];
            if let Some(bad) = row.iter().find(|s| !s.is_finite() || **s < 0.0) {
                return Err(PlanError::Row { flow, problem: format!("share {bad}") });
            }
            let sum: f64 = row.iter().sum();
            if (sum - 1.0).abs() > ROW_TOLERANCE {
                return Err(PlanError::Row { flow, problem: format!("sums to {sum}") });
            }
            for share in row {
                *share /= sum;
            }
        }
        Ok(Self { generation, offsets, shares })
    }

    /// Normalises non-negative amounts (capacities, loads) into shares; a row of zeros, or with a value that
    /// is not finite, becomes uniform over the finite positive ones, or over all.
    ///
    /// # Panics
    /// When there is not one amount per route.
    #[must_use]
    pub fn proportional(topology: &Topology, amounts: &[f64]) -> Self {
        assert_eq!(amounts.len(), topology.routes().len(), "one amount per route");
        let offsets = topology.flow_offsets().to_vec();
        let mut shares: Vec<f64> =
            amounts.iter().map(|a| if a.is_finite() && *a > 0.0 { *a } else { 0.0 }).collect();
        for w in offsets.windows(2) {
            let row = &mut shares[w[0]..w[1]];
            let largest = row.iter().copied().fold(0.0, f64::max);
            if largest > 0.0 {
                // Scale first: the sum of large amounts must not overflow.
                row.iter_mut().for_each(|s| *s /= largest);
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|s| *s /= sum);
            } else {
                let even = 1.0 / row.len() as f64;
                row.iter_mut().for_each(|s| *s = even);
            }
        }
        Self { generation: topology.generation(), offsets, shares }
    }

    /// The same share for every route of a flow.
    #[must_use]
    pub fn uniform(topology: &Topology) -> Self {
        Self::proportional(topology, &vec![1.0; topology.routes().len()])
    }

    /// The topology that its indices belong to.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// All shares in route order.
    #[must_use]
    pub fn shares(&self) -> &[f64] {
        &self.shares
    }

    /// Flow offsets: flow count + 1 numbers.
    #[must_use]
    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    /// Number of flows.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Positions of one flow's routes.
    #[must_use]
    pub fn range(&self, flow: FlowIx) -> Range<usize> {
        self.offsets[flow.ix()]..self.offsets[flow.ix() + 1]
    }

    /// Shares of one flow.
    #[must_use]
    pub fn row(&self, flow: FlowIx) -> &[f64] {
        &self.shares[self.range(flow)]
    }

    /// Half the L1 distance to another split, averaged over flows: the fraction of traffic that moved, in [0, 1].
    ///
    /// # Panics
    /// When the shapes differ.
    #[must_use]
    pub fn churn(&self, other: &Self) -> f64 {
        assert_eq!(self.offsets, other.offsets, "splits of one shape");
        let moved: f64 = self.shares.iter().zip(&other.shares).map(|(a, b)| (a - b).abs()).sum();
        0.5 * moved / self.flows() as f64
    }

    /// The split `weight` of the way from this one to another, `weight` in [0, 1].
    ///
    /// # Panics
    /// When the shapes differ.
    #[must_use]
    pub fn blend(&self, other: &Self, weight: f64) -> Self {
        assert_eq!(self.offsets, other.offsets, "splits of one shape");
        let weight = if weight.is_nan() { 0.0 } else { weight.clamp(0.0, 1.0) };
        let shares = self.shares.iter().zip(&other.shares).map(|(a, b)| a + (b - a) * weight).collect();
        Self { generation: self.generation, offsets: self.offsets.clone(), shares }
    }

    /// Carries shares over to a changed topology by route name: routes that stay keep their proportions; a
    /// flow that lost routes spreads their share over those that stay in proportion; new routes start at
    /// zero. A flow that is new or kept nothing gets its row of `fallback`, a split of the new topology.
    #[must_use]
    pub fn carried_to(&self, old: &Topology, new: &Topology, fallback: &Self) -> Self {
        let mut amounts: Vec<f64> =
            new.routes().iter().map(|r| old.route(&r.name).map_or(0.0, |ix| self.shares[ix.ix()])).collect();
        for range in new.flow_offsets().windows(2).map(|w| w[0]..w[1]) {
            if amounts[range.clone()].iter().all(|a| *a == 0.0) {
                amounts[range.clone()].copy_from_slice(&fallback.shares[range]);
            }
        }
        Self::proportional(new, &amounts)
    }
}

/// Integer weights of each flow's routes: what goes to the data plane. Weight 0 means "not in the set".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightTable {
    /// The topology that its indices belong to.
    pub generation: Generation,
    /// Flow offsets: flow count + 1 numbers.
    pub offsets: Vec<usize>,
    /// Weights in route order.
    pub weights: Vec<u32>,
}

impl WeightTable {
    /// Weights of one flow.
    #[must_use]
    pub fn row(&self, flow: FlowIx) -> &[u32] {
        &self.weights[self.offsets[flow.ix()]..self.offsets[flow.ix() + 1]]
    }

    /// The shares that these weights give.
    ///
    /// # Errors
    /// [`PlanError`] when a row sums to zero or the shape is wrong.
    pub fn shares(&self) -> Result<Split, PlanError> {
        let mut shares = Vec::with_capacity(self.weights.len());
        for w in self.offsets.windows(2) {
            let row = self.weights.get(w[0]..w[1]).unwrap_or(&[]);
            let sum: f64 = row.iter().map(|w| f64::from(*w)).sum();
            shares.extend(row.iter().map(|w| f64::from(*w) / sum));
        }
        Split::new(self.generation, self.offsets.clone(), shares)
    }
}

/// Rounds shares to integers by largest remainder: every row sums to `total` exactly, and a positive share
/// never becomes weight 0 (Envoy refuses weight 0, and a probe share must survive rounding). Ties go to
/// the earlier route, so equal inputs give equal outputs on every replica.
///
/// # Errors
/// [`PlanError::Total`] when `total` is smaller than the number of routes of a flow, so that some positive
/// share might have to be 0.
pub fn quantize(split: &Split, total: u32) -> Result<WeightTable, PlanError> {
    let mut weights = vec![0u32; split.shares.len()];
    let mut order: Vec<usize> = Vec::new();
    for w in split.offsets.windows(2) {
        let row = &split.shares[w[0]..w[1]];
        let positive = row.iter().filter(|s| **s > 0.0).count();
        if (total as usize) < positive {
            return Err(PlanError::Total { total: u64::from(total), needed: positive as u64 });
        }
        let out = &mut weights[w[0]..w[1]];
        let mut given = 0u64;
        for (weight, share) in out.iter_mut().zip(row) {
            if *share > 0.0 {
                *weight = ((share * f64::from(total)).floor() as u32).clamp(1, total);
                given += u64::from(*weight);
            }
        }
        let remainder = |ix: usize| row[ix] * f64::from(total) - (row[ix] * f64::from(total)).floor();
        order.clear();
        order.extend((0..row.len()).filter(|ix| row[*ix] > 0.0));
        if given < u64::from(total) {
            order.sort_by(|a, b| remainder(*b).total_cmp(&remainder(*a)).then(a.cmp(b)));
            let mut missing = u64::from(total) - given;
            while missing > 0 {
                for ix in &order {
                    if missing == 0 {
                        break;
                    }
                    out[*ix] += 1;
                    missing -= 1;
                }
            }
        } else {
            // Lifting small shares to 1 overdrew the row: take it back from the largest weights.
            let mut excess = given - u64::from(total);
            while excess > 0 {
                let Some(largest) = order.iter().copied().filter(|ix| out[*ix] > 1).max_by(|a, b| {
                    // The largest overshoot over its exact share first, then the larger, then the earlier.
                    let over = |ix: usize| f64::from(out[ix]) - row[ix] * f64::from(total);
                    over(*a).total_cmp(&over(*b)).then(out[*a].cmp(&out[*b])).then(b.cmp(a))
                }) else {
                    break;
                };
                out[largest] -= 1;
                excess -= 1;
            }
        }
    }
    Ok(WeightTable { generation: split.generation, offsets: split.offsets.clone(), weights })
}
