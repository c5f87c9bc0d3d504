//! Which band may send next?
//!
//! The first band that waits, except that a band with a minimum share `σ` that is owed tokens goes before. With
//! every request of `c` tokens that leaves, a waiting band is owed `σ·c` more; a request that it sends because it
//! was owed is paid from that (and may overdraw); a request that it sends because no better band waits is free. An
//! empty band is owed nothing, but keeps its overdraft.
//!
//! Costs are estimates, and tokens are not time: requests of one band may take longer than those of others. So that its
//! share of the work holds too, a band counts as having a sixteenth more than its minimum share, as far as all shares
//! together stay at most 1.
//!
//! **Bound.** With `Σσ ≤ 1`, `B` bands and `M` the largest cost, a band that waits all the time while `W` tokens
//! leave the queue sends at least
//!
//! ```text
//! σ·W − (B + 1)·M   tokens.
//! ```
//!
//! *Proof.* Let `o_b` be what band `b` is owed. While some `o_b > 0`, an owed band sends, so `Σ o` does not grow:
//! at most `c·Σσ` comes in and `c` goes out. While no `o_b > 0`, one step brings each at most `σ_b·M`. As an
//! overdraft is less than `M`, `o_b < M + (B − 1)·M = B·M` always. The band sends `σ·W` less the growth of `o_b`,
//! which is below `B·M + M`. Nothing is held back for an empty band, so the order is work-conserving.

const ONE: i64 = 1 << 16;
/// What a share counts as, for the error of estimates.
const MORE: f64 = 17.0 / 16.0;

/// What each band is owed, in tokens / 2¹⁶.
#[derive(Debug)]
pub(super) struct BandOrder {
    shares: Vec<i64>,
    owed: Vec<i64>,
}

impl BandOrder {
    pub(super) fn new(shares: impl Iterator<Item = f64>) -> Self {
        let shares: Vec<f64> = shares.collect();
        let more = MORE.min(1.0 / shares.iter().sum::<f64>()).max(1.0);
        let shares: Vec<i64> = shares.iter().map(|s| (s * more * ONE as f64).floor() as i64).collect();
        Self { owed: vec![0; shares.len()], shares }
    }

    /// The band to send from; bit `b` of `waiting` says that band `b` waits.
    #[inline]
    pub(super) fn choose(&self, waiting: u32) -> Option<usize> {
        if waiting == 0 {
            return None;
        }
        // The first is chosen whether it is owed or not.
        let first = waiting.trailing_zeros() as usize;
        let mut rest = if self.owed[first] > 0 { 0 } else { waiting & (waiting - 1) };
        while rest != 0 {
            let band = rest.trailing_zeros() as usize;
            if self.owed[band] > 0 {
                return Some(band);
            }
            rest &= rest - 1;
        }
        Some(first)
    }

    /// Band `band` sent `tokens`; `waiting` as it was when it was chosen.
    #[inline]
    pub(super) fn sent(&mut self, band: usize, tokens: u64, waiting: u32) {
        let tokens = tokens as i64;
        let was_owed = self.owed[band] > 0;
        for (b, (owed, share)) in self.owed.iter_mut().zip(&self.shares).enumerate() {
            *owed += share * tokens;
            if waiting & (1 << b) == 0 {
                *owed = (*owed).min(0);
            }
        }
        if was_owed {
            self.owed[band] -= ONE * tokens;
        } else {
            self.owed[band] = self.owed[band].min(0);
        }
    }

    /// Nothing waits in `band` any more.
    #[inline]
    pub(super) fn emptied(&mut self, band: usize) {
        self.owed[band] = self.owed[band].min(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn a_waiting_band_gets_its_share_over_every_window_up_to_the_stated_bound() {
        let mut rng = Rng::new(5);
        for shares in [vec![0.0, 0.3, 0.1], vec![0.2, 0.2, 0.2, 0.2, 0.2], vec![0.9, 0.05, 0.05]] {
            let mut order = BandOrder::new(shares.iter().copied());
            let all = (1u32 << shares.len()) - 1;
            let largest = 1_000;
            // sent − σ·W since the start, whose largest drop is the worst window.
            let (mut balance, mut peak, mut worst) = (vec![0.0; 5], vec![0.0f64; 5], vec![0.0f64; 5]);
            for _ in 0..50_000 {
                let cost = if rng.below(2) == 0 { largest } else { 1 + rng.below(largest) };
                let band = order.choose(all).unwrap();
                order.sent(band, cost as u64, all);
                for b in 0..shares.len() {
                    balance[b] += if b == band { cost as f64 } else { 0.0 } - shares[b] * cost as f64;
                    peak[b] = peak[b].max(balance[b]);
                    worst[b] = worst[b].max(peak[b] - balance[b]);
                }
            }
            let bound = ((shares.len() + 1) * largest) as f64;
            for b in 0..shares.len() {
                // Shares are rounded down to 2⁻¹⁶: 25 M tokens × 2⁻¹⁶ < 400.
                assert!(worst[b] <= bound + 400.0, "{shares:?} band {b}: {} > {bound}", worst[b]);
            }
        }
    }

    #[test]
    fn a_share_is_exceeded_by_a_sixteenth_where_there_is_room_for_it() {
        for (shares, expected) in
            [([0.5, 0.2, 0.05], [0.734_375, 0.2125, 0.053_125]), ([0.5, 0.3, 0.2], [0.5, 0.3, 0.2])]
        {
            let mut order = BandOrder::new(shares.into_iter());
            let mut sent = [0u32; 3];
            for _ in 0..100_000 {
                let band = order.choose(0b111).unwrap();
                order.sent(band, 10, 0b111);
                sent[band] += 1;
            }
            for (sent, expected) in sent.into_iter().zip(expected) {
                assert!(
                    (f64::from(sent) / 1e5 - expected).abs() < 1e-4,
                    "{shares:?}: {sent}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn without_shares_the_order_is_strict() {
        let mut order = BandOrder::new([0.0, 0.0].into_iter());
        for _ in 0..100 {
            assert_eq!(order.choose(0b11), Some(0));
            order.sent(0, 10, 0b11);
        }
        assert_eq!(order.choose(0b10), Some(1));
        assert_eq!(order.choose(0), None);
    }

    #[test]
    fn a_band_that_was_empty_has_saved_nothing() {
        let mut order = BandOrder::new([0.0, 0.5].into_iter());
        for _ in 0..1_000 {
            order.sent(0, 10, 0b01);
        }
        assert_eq!(order.choose(0b11), Some(0));
    }
}
