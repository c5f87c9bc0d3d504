//! How much of a key's crowd does its endpoint take?
//!
//! Consistent hashing with bounded loads (V. Mirrokni, M. Thorup and M. Zadimoghaddam, SODA 2018): with `T`
//! requests in flight and the new one, an endpoint of weight `w` of `W` holds at most `⌈c·(T + 1)·w/W⌉`. A key
//! whose endpoint is full goes to its next choice: the table again by the hash of its hash. Since `c > 1`, somebody always
//! has room.

use crate::balance::choice::Gated;
use crate::balance::pool::Pool;
use crate::balance::tier::Tier;
use crate::rng::split_mix;

/// Choices of a key before all endpoints are looked through. Each misses with a probability of at most `1/c`
/// when all that are full are just full: 3 % of keys get that far in the worst case of `c` = 1.25.
const CHOICES: usize = 16;

impl Pool {
    /// The most requests that a position may have in flight when one more comes to `total`.
    #[inline]
    pub(crate) fn bound(&self, position: u32, total: i64, total_weight: u64) -> f64 {
        let share = f64::from(self.slots[position as usize].weight) / total_weight.max(1) as f64;
        (self.settings.load_factor * (total.max(0) as f64 + 1.0) * share).ceil()
    }

    /// The first of a key's choices that has room.
    #[inline]
    pub(crate) fn pick_hashed(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        key: u64,
        load: impl Fn(u32) -> u32,
        total: i64,
    ) -> Option<u32> {
        let maglev = tier.maglev.as_ref()?;
        let has_room =
            |position: u32| f64::from(load(position)) + 1.0 <= self.bound(position, total, tier.total_weight);
        let mut walk = key;
        let mut hash = key;
        for _ in 0..CHOICES {
            let position = maglev.position(hash)?;
            if self.may_take(position, request) && has_room(position) {
                return Some(position);
            }
            hash = split_mix(&mut walk);
        }
        self.first_with_room(tier, request, key, &load, has_room)
    }

    /// The first from the key's place on that has room; where none that may be chosen has any, the one with the
    /// least load for its weight.
    #[cold]
    fn first_with_room(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        key: u64,
        load: impl Fn(u32) -> u32,
        has_room: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let positions = &tier.positions;
        let start = ((u128::from(key) * positions.len() as u128) >> 64) as usize;
        let rotated = || positions[start..].iter().chain(&positions[..start]).copied();
        let open = || rotated().filter(|position| self.may_take(*position, request));
        let relative = |position: u32| {
            f64::from(load(position)) / f64::from(self.slots[position as usize].weight.max(1))
        };
        open()
            .find(|position| has_room(*position))
            .or_else(|| open().min_by(|a, b| relative(*a).total_cmp(&relative(*b))))
    }
}
