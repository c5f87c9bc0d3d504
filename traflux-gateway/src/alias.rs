//! How to draw by weight in constant time?
//!
//! The alias method (A. J. Walker 1977; M. D. Vose, "A linear algorithm for generating random numbers with a
//! given distribution", IEEE TSE 17, 1991): a column and a coin, one 64-bit number for both.

use crate::rng::Rng;

/// Draws indices in proportion to integer weights.
#[derive(Debug, Clone, Default)]
pub struct AliasTable {
    /// Per column: below this threshold (of 2³²) the column's own index, else its alias.
    columns: Vec<(u64, u32, u32)>,
    small: Vec<usize>,
    large: Vec<usize>,
    scaled: Vec<u64>,
}

impl AliasTable {
    /// Rebuilds the table for `(index, weight)` pairs; zero weights are left out.
    pub fn rebuild(&mut self, weights: impl Iterator<Item = (u32, u32)>) {
        self.columns.clear();
        self.scaled.clear();
        self.small.clear();
        self.large.clear();
        let mut total = 0u64;
        for (ix, weight) in weights.filter(|(_, weight)| *weight > 0) {
            total += u64::from(weight);
            self.columns.push((0, ix, ix));
            self.scaled.push(u64::from(weight));
        }
        let n = self.columns.len() as u64;
        for (column, scaled) in self.scaled.iter_mut().enumerate() {
            // weight × n: a column of exactly average weight holds `total`. Weights are 32-bit and columns
            // are counted in u32, so the product fits.
            *scaled *= n;
            if *scaled < total { self.small.push(column) } else { self.large.push(column) }
        }
        const ONE: u128 = 1 << 32;
        while let (Some(small), Some(large)) = (self.small.pop(), self.large.last().copied()) {
            self.columns[small].0 = (u128::from(self.scaled[small]) * ONE / u128::from(total)) as u64;
            self.columns[small].2 = self.columns[large].1;
            self.scaled[large] -= total - self.scaled[small];
            if self.scaled[large] < total {
                self.large.pop();
                self.small.push(large);
            }
        }
        for column in self.small.drain(..).chain(self.large.drain(..)) {
            self.columns[column].0 = ONE as u64;
        }
    }

    /// How many indices may be drawn.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether nothing may be drawn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Draws one; `None` from an empty table.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> Option<usize> {
        if self.columns.is_empty() {
            return None;
        }
        self.draw_by(rng.next_u64()).map(|ix| ix as usize)
    }

    /// The index that 64 random bits fall to; `None` from an empty table.
    #[inline]
    #[must_use]
    pub fn draw_by(&self, bits: u64) -> Option<u32> {
        if self.columns.is_empty() {
            return None;
        }
        let column = ((bits >> 32) * self.columns.len() as u64) >> 32;
        let (threshold, own, alias) = self.columns[column as usize];
        Some(if (bits & 0xffff_ffff) < threshold { own } else { alias })
    }

    /// Draws two that differ wherever two can be drawn. Where one has nearly all the weight, the second is
    /// after a few tries simply another.
    #[inline]
    pub fn draw_two(&self, rng: &mut Rng) -> Option<(usize, usize)> {
        const TRIES: usize = 4;
        let first = self.draw(rng)?;
        if self.len() > 2 {
            for _ in 0..TRIES {
                match self.draw(rng) {
                    Some(second) if second != first => return Some((first, second)),
                    _ => {}
                }
            }
        }
        let another = self.columns.iter().map(|(_, own, _)| *own as usize).take(2).find(|own| *own != first);
        Some((first, another.unwrap_or(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights_within_four_standard_deviations() {
        let weights = [0u32, 1, 10, 100, 1000, 889];
        let mut table = AliasTable::default();
        table.rebuild(weights.iter().enumerate().map(|(ix, w)| (ix as u32, *w)));
        let mut rng = Rng::new(3);
        let n = 200_000;
        let mut counts = [0u32; 6];
        for _ in 0..n {
            counts[table.draw(&mut rng).unwrap()] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let p = f64::from(weight) / 2000.0;
            let sigma = (f64::from(n) * p * (1.0 - p)).sqrt();
            assert!((f64::from(*count) - f64::from(n) * p).abs() <= 4.0 * sigma, "{counts:?}");
        }
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let mut table = AliasTable::default();
        table.rebuild((0..1000).map(|ix| (ix, u32::MAX)));
        assert!(table.draw(&mut Rng::new(1)).is_some());
    }
}
