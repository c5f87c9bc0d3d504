//! Which row of shares within bounds is nearest, cheapest, or levels a cost?
//!
//! Each question has the form "find the level `t` at which `Σ clamp(f_r(t), lower_r, upper_r) = total`" with
//! rising `f_r`, answered exactly by walking the levels at which some `f_r` meets a bound.

/// Bounds of one row: the shares sum to `total`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) lower: &'a [f64],
    pub(crate) upper: &'a [f64],
    pub(crate) total: f64,
}

impl Row<'_> {
    /// The row nearest to `wanted` in the Euclidean sense.
    pub(crate) fn nearest(&self, wanted: &[f64]) -> Vec<f64> {
        self.level(wanted, &vec![1.0; wanted.len()]).0
    }

    /// `w_r = clamp(base_r + rate_r · t, lower_r, upper_r)` with `Σ w = total`; the shares and `t`.
    pub(crate) fn level(&self, base: &[f64], rate: &[f64]) -> (Vec<f64>, f64) {
        let count = base.len();
        let at = |t: f64| -> f64 {
            (0..count).map(|r| (base[r] + rate[r] * t).clamp(self.lower[r], self.upper[r])).sum()
        };
        let mut meets: Vec<f64> = (0..count)
            .flat_map(|r| [(self.lower[r] - base[r]) / rate[r], (self.upper[r] - base[r]) / rate[r]])
            .collect();
        meets.sort_by(f64::total_cmp);
        // The least level that reaches the total lies between two neighbours.
        let reach = meets.partition_point(|t| at(*t) < self.total);
        let t = if reach == 0 {
            meets.first().copied().unwrap_or(0.0)
        } else if reach == meets.len() {
            meets[reach - 1]
        } else {
            let (low, high) = (meets[reach - 1], meets[reach]);
            let (below, above) = (at(low), at(high));
            if above > below { low + (high - low) * (self.total - below) / (above - below) } else { high }
        };
        let mut shares: Vec<f64> =
            (0..count).map(|r| (base[r] + rate[r] * t).clamp(self.lower[r], self.upper[r])).collect();
        self.settle(&mut shares);
        (shares, t)
    }

    /// Removes what rounding left of `Σ w − total`, within the bounds.
    pub(crate) fn settle(&self, shares: &mut [f64]) {
        for (r, share) in shares.iter_mut().enumerate() {
            *share = share.clamp(self.lower[r], self.upper[r]);
        }
        for _ in 0..2 {
            let mut missing = self.total - shares.iter().sum::<f64>();
            for (r, share) in shares.iter_mut().enumerate() {
                let moved = missing.clamp(self.lower[r] - *share, self.upper[r] - *share);
                // A share that must stay is not touched by rounding.
                if self.upper[r] > self.lower[r] && moved != 0.0 {
                    *share = (*share + moved).clamp(self.lower[r], self.upper[r]);
                    missing -= moved;
                }
            }
        }
    }

    /// `min Σ cost_r w_r + churn Σ |w_r − previous_r|`, its value only.
    pub(crate) fn cheapest(&self, cost: &[f64], previous: &[f64], churn: f64) -> f64 {
        let mut value = 0.0;
        let mut left = self.total;
        let mut pieces: Vec<(f64, f64)> = Vec::with_capacity(2 * cost.len());
        for r in 0..cost.len() {
            value += cost[r] * self.lower[r] + churn * (self.lower[r] - previous[r]).abs();
            left -= self.lower[r];
            let kink = previous[r].clamp(self.lower[r], self.upper[r]);
            pieces.push((cost[r] - churn, kink - self.lower[r]));
            pieces.push((cost[r] + churn, self.upper[r] - kink));
        }
        pieces.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (slope, length) in pieces {
            let taken = length.min(left).max(0.0);
            value += slope * taken;
            left -= taken;
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_row_of_a_row_within_bounds_is_itself() {
        let row = Row { lower: &[0.1, 0.0, 0.0], upper: &[0.9, 0.9, 0.9], total: 1.0 };
        let nearest = row.nearest(&[0.2, 0.3, 0.5]);
        for (got, want) in nearest.iter().zip([0.2, 0.3, 0.5]) {
            assert!((got - want).abs() < 1e-15);
        }
    }

    #[test]
    fn the_nearest_row_moves_free_shares_equally() {
        let row = Row { lower: &[0.5, 0.0, 0.0], upper: &[0.5, 1.0, 1.0], total: 1.0 };
        let nearest = row.nearest(&[0.0, 0.6, 0.4]);
        for (got, want) in nearest.iter().zip([0.5, 0.35, 0.15]) {
            assert!((got - want).abs() < 1e-15, "{nearest:?}");
        }
    }

    #[test]
    fn the_cheapest_row_fills_the_cheapest_route_to_its_bound() {
        let row = Row { lower: &[0.0, 0.1], upper: &[0.6, 1.0], total: 1.0 };
        assert!((row.cheapest(&[1.0, 2.0], &[0.0, 1.0], 0.0) - 1.4).abs() < 1e-15);
        // Moving costs 2 × 0.6 per share in total, more than the unit it saves.
        assert!((row.cheapest(&[1.0, 2.0], &[0.0, 1.0], 0.6) - 2.0).abs() < 1e-15);
    }
}
