//! Where did a key go last?
//!
//! A table of fixed size, of sets of eight pins: a key may be in one set only, so finding, pinning and forgetting cost
//! eight comparisons and nothing is ever scanned or allocated. In a full set the pin that would expire first makes
//! room, an expired one before all. 16 bytes a pin.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use traflux_core::Timestamp;

use super::key::AffinityKey;

const WAYS: usize = 8;
const SHARDS: usize = 64;

/// Milliseconds, modulo 2³².
type Millis = u32;

#[derive(Debug, Clone, Copy, Default)]
struct Way {
    /// 0 where there is none.
    key: u64,
    endpoint: u32,
    expires: Millis,
}

type Sets = Box<[[Way; WAYS]]>;

/// Keys pinned to endpoints, from any thread.
#[derive(Debug)]
pub struct PinTable {
    shards: Box<[Mutex<Sets>]>,
    sets_per_shard: usize,
}

impl PinTable {
    /// The longest time to live: half of the turn of a 32-bit clock of milliseconds, 24.8 days.
    pub const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

    /// A table for at least `pins` pins. With keys hashed to sets, some sets are full before the table is: at three
    /// quarters of it, some per cent of new pins push out another.
    #[must_use]
    pub fn new(pins: usize) -> Self {
        let sets_per_shard = pins.div_ceil(WAYS * SHARDS).max(1);
        let shards =
            (0..SHARDS).map(|_| Mutex::new(vec![[Way::default(); WAYS]; sets_per_shard].into())).collect();
        Self { shards, sets_per_shard }
    }

    /// How many pins fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.sets_per_shard * SHARDS * WAYS
    }

    /// The endpoint id that a key is pinned to; its time to live begins anew where `renew` is given.
    #[must_use]
    pub fn find(&self, key: AffinityKey, now: Timestamp, renew: Option<Duration>) -> Option<u32> {
        let millis = millis(now);
        self.with_set(key, |set, key| {
            let way = set.iter_mut().find(|way| way.key == key && !way.is_expired(millis))?;
            if let Some(ttl) = renew {
                way.expires = expiry(millis, ttl);
            }
            Some(way.endpoint)
        })
    }

    /// Pins a key to an endpoint id; returns the one it was pinned to before.
    pub fn pin(&self, key: AffinityKey, endpoint: u32, now: Timestamp, ttl: Duration) -> Option<u32> {
        let millis = millis(now);
        let pinned = |key| Way { key, endpoint, expires: expiry(millis, ttl) };
        self.with_set(key, |set, key| {
            if let Some(way) = set.iter_mut().find(|way| way.key == key) {
                let before = (!way.is_expired(millis)).then_some(way.endpoint);
                *way = pinned(key);
                return before;
            }
            if let Some(way) = set.iter_mut().min_by_key(|way| way.left(millis)) {
                *way = pinned(key);
            }
            None
        })
    }

    /// Forgets a key.
    pub fn unpin(&self, key: AffinityKey) {
        self.with_set(key, |set, key| {
            if let Some(way) = set.iter_mut().find(|way| way.key == key) {
                *way = Way::default();
            }
        });
    }

    fn with_set<R>(&self, key: AffinityKey, act: impl FnOnce(&mut [Way; WAYS], u64) -> R) -> R {
        // 0 marks an empty way.
        let key = key.0.max(1);
        let shard = (key >> 32) as usize % SHARDS;
        let set = ((key & 0xffff_ffff) * self.sets_per_shard as u64) >> 32;
        // The lock is held for eight comparisons.
        let mut sets = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut sets[set as usize], key)
    }
}

impl Way {
    fn is_expired(&self, now: Millis) -> bool {
        self.key == 0 || (self.expires.wrapping_sub(now) as i32) < 0
    }

    /// Milliseconds left; the least for an empty way.
    fn left(&self, now: Millis) -> i32 {
        if self.key == 0 { i32::MIN } else { self.expires.wrapping_sub(now) as i32 }
    }
}

fn millis(now: Timestamp) -> Millis {
    let since = now.since_epoch();
    since.as_secs().wrapping_mul(1000).wrapping_add(u64::from(since.subsec_millis())) as Millis
}

fn expiry(now: Millis, ttl: Duration) -> Millis {
    now.wrapping_add(ttl.min(PinTable::LONGEST).as_millis() as Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(seconds))
    }

    fn key(ix: u64) -> AffinityKey {
        AffinityKey::of(&ix.to_le_bytes())
    }

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn a_pin_holds_for_its_time_to_live_and_longer_when_renewed() {
        let pins = PinTable::new(1000);
        assert_eq!(pins.pin(key(1), 7, at(0), TTL), None);
        assert_eq!(pins.find(key(1), at(59), None), Some(7));
        assert_eq!(pins.find(key(1), at(61), None), None);
        pins.pin(key(1), 7, at(100), TTL);
        assert_eq!(pins.find(key(1), at(150), Some(TTL)), Some(7));
        assert_eq!(pins.find(key(1), at(205), None), Some(7));
        assert_eq!(pins.pin(key(1), 8, at(206), TTL), Some(7));
        pins.unpin(key(1));
        assert_eq!(pins.find(key(1), at(206), None), None);
    }

    #[test]
    fn a_flood_of_pins_stays_within_the_table_and_pushes_out_the_oldest() {
        let pins = PinTable::new(5000);
        for ix in 0..100_000 {
            pins.pin(key(ix), ix as u32, at(ix / 100), 20 * TTL);
        }
        let held = (0..100_000).filter(|ix| pins.find(key(*ix), at(1000), None).is_some()).count();
        assert_eq!(held, pins.capacity());
        let newest = (99_000..100_000).filter(|ix| pins.find(key(*ix), at(1000), None) == Some(*ix as u32));
        assert!(newest.count() > 950);
    }

    #[test]
    fn three_quarters_full_holds_nearly_all() {
        let pins = PinTable::new(64 * 8 * 16);
        let n = pins.capacity() as u64 * 3 / 4;
        for ix in 0..n {
            pins.pin(key(ix), 1, at(0), TTL);
        }
        let held = (0..n).filter(|ix| pins.find(key(*ix), at(0), None).is_some()).count();
        assert!(held as f64 > 0.9 * n as f64, "{held} of {n}");
    }

    #[test]
    fn a_clock_that_wraps_or_goes_backwards_changes_nothing() {
        let wrap = (1u64 << 32) / 1000;
        let pins = PinTable::new(100);
        pins.pin(key(1), 3, at(wrap - 10), TTL);
        assert_eq!(pins.find(key(1), at(wrap + 10), None), Some(3));
        assert_eq!(pins.find(key(1), at(wrap - 20), None), Some(3));
        assert_eq!(pins.find(key(1), at(wrap + 100), None), None);
    }
}
