//! Until when is there any use in starting each waiting request?
//!
//! A ring of 64 buckets over the longest possible wait, each with a list of the requests whose latest start falls
//! into it and the sum of their tokens. So what expired is found without looking at what did not, the request with
//! the most patience is known, and the work that is due before a moment is a sum of at most 30 numbers: the
//! feasibility test of earliest deadline first.

use super::link::{Around, NIL, last, push_back, unlink};

const BUCKETS: u64 = 64;
/// Slots whose sum is kept too, so that a prefix is a sum of few numbers.
const GROUP: usize = 8;

/// The latest starts of one band, in nanoseconds.
#[derive(Debug)]
pub(super) struct Patience {
    /// A bucket is 2^this nanoseconds wide.
    shift: u32,
    /// The oldest bucket that may hold something, counted from time zero.
    base: u64,
    /// Bit `b mod 64`: bucket `b` is not empty.
    occupied: u64,
    first: [u32; BUCKETS as usize],
    sums: [Sum; BUCKETS as usize],
    groups: [Sum; BUCKETS as usize / GROUP],
}

/// Items and tokens in one number, `items · 2⁴² + tokens`, so that one addition adds both: at most 2²² items and 2⁴⁰
/// tokens wait in a queue.
type Sum = u64;

#[inline]
fn one(tokens: u64) -> Sum {
    1 << 42 | tokens
}

#[inline]
fn split(sum: Sum) -> (u32, u64) {
    ((sum >> 42) as u32, sum & ((1 << 42) - 1))
}

impl Patience {
    /// For latest starts at most `longest` ahead of the clock.
    pub(super) fn new(longest: u64) -> Self {
        Self {
            // 62 widths hold the longest wait, one more each for the begun first and last bucket. A power of two
            // needs no division; so between 31 and 62 are in use.
            shift: (longest / (BUCKETS - 2) + 1).next_power_of_two().trailing_zeros(),
            base: 0,
            occupied: 0,
            first: [NIL; BUCKETS as usize],
            sums: [0; BUCKETS as usize],
            groups: [0; BUCKETS as usize / GROUP],
        }
    }

    #[inline]
    fn bucket(&self, start_by: u64) -> u64 {
        start_by >> self.shift
    }

    #[inline]
    pub(super) fn insert(&mut self, links: &mut [Around], ix: u32, start_by: u64, tokens: u64) {
        let slot = (self.bucket(start_by) % BUCKETS) as usize;
        self.occupied |= 1 << slot;
        self.sums[slot] += one(tokens);
        self.groups[slot / GROUP] += one(tokens);
        push_back(links, &mut self.first[slot], ix);
    }

    #[inline]
    pub(super) fn remove(&mut self, links: &mut [Around], ix: u32, start_by: u64, tokens: u64) {
        let slot = (self.bucket(start_by) % BUCKETS) as usize;
        self.sums[slot] -= one(tokens);
        self.groups[slot / GROUP] -= one(tokens);
        unlink(links, &mut self.first[slot], ix);
        if self.first[slot] == NIL {
            self.occupied &= !(1 << slot);
        }
    }

    /// A request that can surely not start in time any more, one call after the other until there is none.
    #[inline]
    pub(super) fn expired(&mut self, now: u64) -> Option<u32> {
        let current = self.bucket(now);
        let skip = u64::from(self.occupied.rotate_right((self.base % BUCKETS) as u32).trailing_zeros());
        if self.occupied == 0 || self.base + skip >= current {
            self.base = self.base.max(current);
            return None;
        }
        self.base += skip;
        Some(self.first[(self.base % BUCKETS) as usize])
    }

    /// When the next bucket ends: before, [`expired`](Self::expired) finds nothing new.
    #[inline]
    pub(super) fn next_sweep(&self, now: u64) -> u64 {
        ((self.bucket(now) + 1) << self.shift).max(now.saturating_add(1))
    }

    /// The first request of the earliest bucket with any, and how many follow it in the list.
    pub(super) fn earliest(&self) -> (u32, u32) {
        if self.occupied == 0 {
            return (NIL, 0);
        }
        let skip = u64::from(self.occupied.rotate_right((self.base % BUCKETS) as u32).trailing_zeros());
        let slot = ((self.base + skip) % BUCKETS) as usize;
        (self.first[slot], split(self.sums[slot]).0)
    }

    /// The youngest request of the latest bucket: the most patient one, but for the width of a bucket.
    pub(super) fn most_patient(&self, links: &[Around]) -> u32 {
        if self.occupied == 0 {
            return NIL;
        }
        let back = u64::from(self.occupied.rotate_right((self.base % BUCKETS) as u32).leading_zeros());
        last(links, self.first[((self.base + BUCKETS - 1 - back) % BUCKETS) as usize])
    }

    /// Items and tokens that must start before `start_by`, or in the same bucket.
    #[inline]
    pub(super) fn due_before(&self, start_by: u64) -> (u32, u64) {
        // Ring order from `base` is one range of slots, or all but one.
        let (from, to) = ((self.base % BUCKETS) as usize, (self.bucket(start_by) % BUCKETS) as usize + 1);
        let (before, through) = (self.sum_to(from), self.sum_to(to));
        if from < to {
            return split(through - before);
        }
        split(self.sum_to(BUCKETS as usize) - (before - through))
    }

    /// The sum over the slots `0..to`.
    #[inline]
    fn sum_to(&self, to: usize) -> Sum {
        let whole = to / GROUP;
        self.groups[..whole].iter().sum::<Sum>() + self.sums[whole * GROUP..to].iter().sum::<Sum>()
    }

    /// Whether `tokens` more work with this latest start makes nobody late who was in time before. `wait` gives the
    /// seconds until a request starts that has this much work of the band before it.
    ///
    /// The processor demand criterion (S. Baruah, A. Mok, L. Rosier, "Preemptively scheduling hard-real-time
    /// sporadic tasks on one processor", RTSS 1990) at the ends of the buckets.
    pub(super) fn keeps_promises(
        &self,
        now: u64,
        start_by: u64,
        tokens: u64,
        wait: impl Fn(u64) -> f64,
    ) -> bool {
        let (own, mut before, mut kept) = (self.bucket(start_by), 0, true);
        self.walk(|bucket, (items, sum)| {
            if bucket > own {
                // The last of the bucket starts when all but itself are through.
                let ahead = before + sum - sum / u64::from(items.max(1));
                let limit = ((bucket + 1) << self.shift).saturating_sub(now) as f64 * 1e-9;
                kept &= wait(ahead) > limit || wait(ahead + tokens) <= limit;
            }
            before += sum;
        });
        kept
    }

    fn walk(&self, mut visit: impl FnMut(u64, (u32, u64))) {
        let mut rest = self.occupied.rotate_right((self.base % BUCKETS) as u32);
        while rest != 0 {
            let bucket = self.base + u64::from(rest.trailing_zeros());
            visit(bucket, split(self.sums[(bucket % BUCKETS) as usize]));
            rest &= rest - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expired_is_found_and_what_did_not_is_left() {
        let mut links = vec![Around::LOOSE; 100];
        let mut ring = Patience::new(6_200);
        for ix in 0..50 {
            assert_eq!(ring.expired(1_000), None);
            ring.insert(&mut links, ix, 1_000 + u64::from(ix) * 120, 10);
        }
        assert_eq!(ring.most_patient(&links), 49);
        for ix in 0..50 {
            let due = ring.due_before(1_000 + u64::from(ix) * 120);
            // Those of the same bucket count too, at most one more.
            assert!(
                due == (ix + 1, 10 * u64::from(ix + 1)) || due == (ix + 2, 10 * u64::from(ix + 2)),
                "{due:?}"
            );
        }
        let mut gone = 0;
        while let Some(ix) = ring.expired(4_000) {
            ring.remove(&mut links, ix, 1_000 + u64::from(ix) * 120, 10);
            gone += 1;
        }
        // Start before 4000: the first 25; buckets are 128 ns wide, so one may wait for the end of its bucket.
        assert!((24..=25).contains(&gone), "{gone}");
        assert!(ring.earliest().0 == gone);
    }

    #[test]
    fn a_promise_is_kept_when_there_is_slack_and_broken_when_there_is_none() {
        let mut links = vec![Around::LOOSE; 10];
        let mut ring = Patience::new(62_000_000_000);
        // At 1 token/s, 20 s of work, the last of it due to start within 30 s.
        ring.insert(&mut links, 0, 20_000_000_000, 10);
        ring.insert(&mut links, 1, 30_000_000_000, 10);
        let wait = |tokens: u64| tokens as f64;
        assert!(ring.keeps_promises(0, 5_000_000_000, 9, wait));
        assert!(!ring.keeps_promises(0, 5_000_000_000, 25, wait));
        // What starts after both breaks nothing.
        assert!(ring.keeps_promises(0, 40_000_000_000, 1_000, wait));
    }
}
