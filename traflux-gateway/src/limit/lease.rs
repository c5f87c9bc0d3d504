//! What if the owner of a reservation cannot hold a value?
//!
//! [`Leases`] keeps reservations under a number, for callers across a language boundary or in another process. A
//! lease ends exactly once: by its owner, or by its expiry. A number that was used before, or is made up, ends
//! nothing and says so. One short lock guards the slab; there is no allocation once it has its size.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use traflux_core::Timestamp;

use super::nanos;
use super::reservation::Reservation;
use super::settings::Cost;

/// The number of a lease: its place and how often the place was used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// What becomes of a lease whose owner does not end it in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseExpiry {
    /// The estimate stands: the request may have used it. Never lets too much through.
    #[default]
    Keep,
    /// All is given back: for owners that report every use.
    Cancel,
}

/// Answer to the end of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseEnd {
    /// It has ended now, as asked.
    Done,
    /// It expired before; nothing happened.
    Expired,
    /// Its owner ended it before; nothing happened.
    AlreadyEnded,
    /// There never was such a lease, or its place has been used again since.
    Unknown,
}

const NONE: u32 = u32::MAX;

/// Reservations by number, with an expiry.
#[derive(Debug)]
pub struct Leases {
    slab: Mutex<Slab>,
    lifetime_ns: u64,
    expiry: LeaseExpiry,
    expired: AtomicU64,
    late: AtomicU64,
}

#[derive(Debug)]
struct Slab {
    places: Vec<Place>,
    most: usize,
    /// Free places, linked by `next`.
    free: u32,
    /// Leases by age, linked by `next` and `previous`: all live equally long, so the oldest expires first.
    oldest: u32,
    newest: u32,
}

#[derive(Debug)]
struct Place {
    reservation: Option<Reservation>,
    uses: u32,
    expires_ns: u64,
    next: u32,
    previous: u32,
    /// How the use before this one ended.
    was_expired: bool,
}

impl Leases {
    /// Room for `most` leases at a time (at most 2³² − 1), each alive for `lifetime`.
    #[must_use]
    pub fn new(most: usize, lifetime: Duration, expiry: LeaseExpiry) -> Self {
        let slab = Slab {
            places: Vec::new(),
            most: most.min(NONE as usize),
            free: NONE,
            oldest: NONE,
            newest: NONE,
        };
        Self {
            slab: Mutex::new(slab),
            lifetime_ns: u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX),
            expiry,
            expired: AtomicU64::new(0),
            late: AtomicU64::new(0),
        }
    }

    /// Keeps a reservation and returns its number; ends leases that have expired on the way.
    ///
    /// # Errors
    /// The reservation itself when all places are taken.
    // The reservation goes back by value: boxing it would allocate on the hot path.
    #[allow(clippy::result_large_err)]
    pub fn lease(&self, now: Timestamp, reservation: Reservation) -> Result<LeaseId, Reservation> {
        let now_ns = nanos(now);
        let mut slab = self.lock();
        self.expire_in(&mut slab, now_ns);
        let Some(ix) = slab.take_place() else { return Err(reservation) };
        let newest = slab.newest;
        let place = &mut slab.places[ix as usize];
        place.reservation = Some(reservation);
        place.expires_ns = now_ns.saturating_add(self.lifetime_ns);
        place.next = NONE;
        place.previous = newest;
        let id = LeaseId(u64::from(place.uses) << 32 | u64::from(ix));
        match newest {
            NONE => slab.oldest = ix,
            newest => slab.places[newest as usize].next = ix,
        }
        slab.newest = ix;
        Ok(id)
    }

    /// Settles a lease.
    pub fn settle(&self, now: Timestamp, id: LeaseId, actual: &Cost) -> LeaseEnd {
        self.end(now, id, |reservation| reservation.settle(now, actual))
    }

    /// Cancels a lease.
    pub fn cancel(&self, now: Timestamp, id: LeaseId) -> LeaseEnd {
        self.end(now, id, |reservation| reservation.cancel(now))
    }

    /// Ends all leases that have expired; returns how many. Call it now and then where new leases are rare.
    pub fn expire(&self, now: Timestamp) -> usize {
        self.expire_in(&mut self.lock(), nanos(now))
    }

    /// Leases that expired so far.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Ends that came too late, twice or for no lease.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    fn end(&self, now: Timestamp, id: LeaseId, end: impl FnOnce(Reservation)) -> LeaseEnd {
        let mut slab = self.lock();
        self.expire_in(&mut slab, nanos(now));
        let (ix, uses) = (id.0 as u32, (id.0 >> 32) as u32);
        let outcome = match slab.places.get_mut(ix as usize) {
            Some(place) if place.uses == uses && place.reservation.is_some() => {
                if let Some(reservation) = slab.remove(ix, false) {
                    drop(slab);
                    end(reservation);
                }
                return LeaseEnd::Done;
            }
            Some(place) if place.uses == uses.wrapping_add(1) && place.was_expired => LeaseEnd::Expired,
            Some(place) if place.uses == uses.wrapping_add(1) => LeaseEnd::AlreadyEnded,
            _ => LeaseEnd::Unknown,
        };
        self.late.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn expire_in(&self, slab: &mut Slab, now_ns: u64) -> usize {
        let mut count = 0;
        while slab.oldest != NONE && slab.places[slab.oldest as usize].expires_ns <= now_ns {
            let ix = slab.oldest;
            let expires = slab.places[ix as usize].expires_ns;
            if let Some(reservation) = slab.remove(ix, true) {
                match self.expiry {
                    LeaseExpiry::Keep => reservation.keep(),
                    LeaseExpiry::Cancel => reservation.cancel(Timestamp::new(Duration::from_nanos(expires))),
                }
            }
            count += 1;
        }
        self.expired.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    fn lock(&self) -> MutexGuard<'_, Slab> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slab {
    fn take_place(&mut self) -> Option<u32> {
        if self.free != NONE {
            let ix = self.free;
            self.free = self.places[ix as usize].next;
            return Some(ix);
        }
        if self.places.len() >= self.most {
            return None;
        }
        self.places.push(Place {
            reservation: None,
            uses: 0,
            expires_ns: 0,
            next: NONE,
            previous: NONE,
            was_expired: false,
        });
        Some(self.places.len() as u32 - 1)
    }

    fn remove(&mut self, ix: u32, expired: bool) -> Option<Reservation> {
        let free = self.free;
        let place = &mut self.places[ix as usize];
        let reservation = place.reservation.take()?;
        place.uses = place.uses.wrapping_add(1);
        place.was_expired = expired;
        let (next, previous) = (place.next, place.previous);
        place.next = free;
        self.free = ix;
        match previous {
            NONE => self.oldest = next,
            previous => self.places[previous as usize].next = next,
        }
        match next {
            NONE => self.newest = previous,
            next => self.places[next as usize].previous = previous,
        }
        Some(reservation)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Key, LimitRule, LimitSettings, Limiter, LimiterSettings};
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(seconds))
    }

    fn limiter() -> Limiter {
        let limit = |name: &str, rule| LimitSettings { name: name.into(), rule, ..Default::default() };
        let never = LimitRule::TokenBucket { amount: 0, period: Duration::from_secs(1), burst: 100 };
        let limits = vec![limit("rate", never), limit("in flight", LimitRule::InFlight { amount: 3 })];
        Limiter::new(&LimiterSettings { limits, ..Default::default() }, at(0), 1).unwrap()
    }

    fn reserve(limiter: &Limiter, units: u64) -> Reservation {
        let limits = ["rate", "in flight"].map(|name| (limiter.limit(name).unwrap(), Key::ONLY));
        let cost = Cost { requests: units, ..Cost::NOTHING };
        limiter.reserve(at(0), &limits, &cost).unwrap()
    }

    fn used(limiter: &Limiter) -> [u64; 2] {
        ["rate", "in flight"]
            .map(|name| limiter.level(at(0), limiter.limit(name).unwrap(), Key::ONLY).unwrap().used)
    }

    #[test]
    fn a_lease_ends_exactly_once() {
        let (limiter, leases) = (limiter(), Leases::new(2, Duration::from_secs(10), LeaseExpiry::Keep));
        let a = leases.lease(at(0), reserve(&limiter, 1)).unwrap();
        let b = leases.lease(at(1), reserve(&limiter, 1)).unwrap();
        assert!(leases.lease(at(1), reserve(&limiter, 1)).is_err(), "no third place");
        assert_eq!(used(&limiter), [2, 2], "the one without a place was dropped");
        assert_eq!(leases.settle(at(2), a, &Cost::NOTHING), LeaseEnd::Done);
        assert_eq!(leases.settle(at(2), a, &Cost::NOTHING), LeaseEnd::AlreadyEnded);
        assert_eq!(used(&limiter), [1, 1]);
        assert_eq!(leases.cancel(at(11), b), LeaseEnd::Expired);
        assert_eq!(used(&limiter), [1, 0], "the estimate stands, nothing is in flight");
        assert_eq!(leases.cancel(at(11), LeaseId(77)), LeaseEnd::Unknown);
        assert_eq!((leases.expired(), leases.late(), limiter.dropped()), (1, 3, 1));
    }

    #[test]
    fn leases_expire_in_order_and_their_places_are_used_again() {
        let leases = Leases::new(3, Duration::from_secs(10), LeaseExpiry::Cancel);
        let limiter = limiter();
        let ids: Vec<_> = (0..3).map(|s| leases.lease(at(s), reserve(&limiter, 1)).unwrap()).collect();
        assert_eq!(leases.settle(at(3), ids[1], &Cost::REQUEST), LeaseEnd::Done);
        assert_eq!(leases.expire(at(9)), 0);
        assert_eq!(leases.expire(at(12)), 2);
        assert_eq!(used(&limiter), [1, 0]);
        for second in 13..16 {
            assert!(leases.lease(at(second), reserve(&limiter, 1)).is_ok());
        }
        assert_eq!(leases.cancel(at(16), ids[0]), LeaseEnd::Expired);
    }
}
