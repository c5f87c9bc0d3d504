//! May this request take from all its limits at once, and what of it did it use?
//!
//! [`Limiter::reserve`] takes an estimate from up to [`MOST_LIMITS`] limits, all or none. When the request has ended,
//! [`settle`](Reservation::settle) replaces the estimate by the truth and [`cancel`](Reservation::cancel) by nothing;
//! both consume the reservation, so it ends exactly once. One that is dropped is cancelled and counted.
//!
//! The limits are looked at first, and a refusal, which writes nothing, names the one with the longest wait. Then each
//! is charged by its own atomic step; when another thread was faster at one of them, those charged before are given
//! back. Between the two, such a hold may refuse a third thread that would have fitted, for some tens of
//! nanoseconds; it never lets one through that would not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;
use traflux_core::Timestamp;

use super::bucket::Receipt;
use super::cells::{Limit, Refused};
use super::keys::Key;
use super::limiter::{Inner, LimitIx, Limiter};
use super::nanos;
use super::settings::{Cost, Unit};

/// The most limits of one reservation.
pub const MOST_LIMITS: usize = 8;

/// Why a reservation was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denial {
    /// The limit that refused; of several the one with the longest wait.
    pub limit: LimitIx,
    /// Why.
    pub reason: DenialReason,
}

/// Why a limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenialReason {
    /// All limits have room after this time if nothing else is charged, and not a nanosecond earlier. A limit that
    /// also has too much in flight does not count here.
    Wait(Duration),
    /// Too much is in flight; there is room when a reservation ends.
    InFlight,
    /// The cost is above what the limit ever allows.
    TooLarge,
    /// The key has passed to another name: look it up again.
    StaleKey,
    /// More than [`MOST_LIMITS`] limits, or one that there is not.
    NoSuchLimit,
}

impl DenialReason {
    /// A stable name for metrics.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Wait(_) => "limit_wait",
            Self::InFlight => "limit_in_flight",
            Self::TooLarge => "limit_too_large",
            Self::StaleKey => "limit_stale_key",
            Self::NoSuchLimit => "limit_unknown",
        }
    }

    /// How hard it is to cure, for the choice of the one to name.
    fn rank(self) -> (u8, Duration) {
        match self {
            Self::Wait(wait) => (0, wait),
            Self::InFlight => (1, Duration::ZERO),
            Self::StaleKey | Self::NoSuchLimit => (2, Duration::ZERO),
            Self::TooLarge => (3, Duration::ZERO),
        }
    }
}

/// What a request holds of its limits until it ends.
#[derive(Debug)]
#[must_use = "a reservation that is dropped is cancelled"]
pub struct Reservation {
    inner: Arc<Inner>,
    /// None once it has ended.
    holds: Holds,
}

/// What a request holds of the limits of a limiter that its owner knows. To be ended, by that limiter; dropping it does
/// nothing.
#[derive(Debug, Default)]
pub(crate) struct Holds(ArrayVec<Hold, MOST_LIMITS>);

#[derive(Debug)]
struct Hold {
    units: u64,
    receipt: Receipt,
    slot: u32,
    limit: u16,
    /// The scope in whose key table this one holds the slot; [`NO_SCOPE`] where none, or another limit does.
    scope: u16,
}

const NO_SCOPE: u16 = u16::MAX;

impl Holds {
    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Limiter {
    /// Takes `cost` from all limits given, each for its key ([`Key::ONLY`] for a limit without scope), or from none.
    ///
    /// # Errors
    /// The [`Denial`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use traflux_core::Timestamp;
    /// use traflux_gateway::limit::{Cost, Key, LimitRule, LimitSettings, Limiter, LimiterSettings, Unit};
    ///
    /// let rule = LimitRule::TokenBucket { amount: 1_000, period: Duration::from_secs(60), burst: 1_000 };
    /// let limit = LimitSettings { name: "tokens".into(), unit: Unit::TotalTokens, rule, ..Default::default() };
    /// let settings = LimiterSettings { limits: vec![limit], ..Default::default() };
    /// let limiter = Limiter::new(&settings, Timestamp::ZERO, 1)?;
    /// let tokens = limiter.limit("tokens").ok_or("no such limit")?;
    ///
    /// let estimate = Cost { input_tokens: 200, output_tokens: 700, ..Cost::REQUEST };
    /// let reservation = limiter.reserve(Timestamp::ZERO, &[(tokens, Key::ONLY)], &estimate).map_err(|d| d.reason.code())?;
    /// reservation.settle(Timestamp::ZERO, &Cost { output_tokens: 100, ..estimate });
    /// assert_eq!(limiter.level(Timestamp::ZERO, tokens, Key::ONLY).map(|l| l.used), Some(300));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn reserve(
        &self,
        now: Timestamp,
        limits: &[(LimitIx, Key)],
        cost: &Cost,
    ) -> Result<Reservation, Denial> {
        let mut holds = Holds::default();
        self.inner.reserve(now, limits, cost, &mut holds)?;
        Ok(Reservation { inner: Arc::clone(&self.inner), holds })
    }

    /// The same, ahead of time: where a limit has a [`max_wait`](super::LimitSettings::max_wait), a turn within it is
    /// taken now, and the request may go after the time returned (zero: now). Turns come in the order of calls, so nobody
    /// overtakes; a reservation that is cancelled meanwhile makes room for those who come later, not for those who have
    /// their turn already. Counted by the moments at which turns come, a limit holds as ever.
    ///
    /// # Errors
    /// The [`Denial`], also where the turn would come after the longest wait.
    pub fn reserve_ahead(
        &self,
        now: Timestamp,
        limits: &[(LimitIx, Key)],
        cost: &Cost,
    ) -> Result<(Reservation, Duration), Denial> {
        let mut holds = Holds::default();
        let wait = self.inner.reserve_ahead(now, limits, cost, &mut holds)?;
        Ok((Reservation { inner: Arc::clone(&self.inner), holds }, wait))
    }

    /// The same into a place that there is already.
    pub(crate) fn reserve_ahead_into(
        &self,
        now: Timestamp,
        limits: &[(LimitIx, Key)],
        cost: &Cost,
        holds: &mut Holds,
    ) -> Result<Duration, Denial> {
        self.inner.reserve_ahead(now, limits, cost, holds)
    }

    /// [`reserve`](Self::reserve) into a place that there is already.
    #[inline]
    pub(crate) fn reserve_into(
        &self,
        now: Timestamp,
        limits: &[(LimitIx, Key)],
        cost: &Cost,
        holds: &mut Holds,
    ) -> Result<(), Denial> {
        self.inner.reserve(now, limits, cost, holds)
    }

    /// [`Reservation::settle`] of what [`reserve_into`](Self::reserve_into) took.
    #[inline]
    pub(crate) fn settle(&self, now: Timestamp, holds: &mut Holds, actual: &Cost) {
        self.inner.close(holds, |unit, _| actual.amount(unit), nanos(now));
    }

    /// [`Reservation::keep`] of what [`reserve_into`](Self::reserve_into) took.
    pub(crate) fn keep(&self, holds: &mut Holds) {
        self.inner.close(holds, |_, units| units, 0);
    }
}

impl Reservation {
    /// Replaces the estimate by what was used: gives back what is left, charges what is beyond as debt.
    #[inline]
    pub fn settle(mut self, now: Timestamp, actual: &Cost) {
        self.inner.close(&mut self.holds, |unit, _| actual.amount(unit), nanos(now));
    }

    /// Gives everything back.
    #[inline]
    pub fn cancel(mut self, now: Timestamp) {
        self.inner.close(&mut self.holds, |_, _| 0, nanos(now));
    }

    /// Lets the estimate stand, where what was used is not known. What is in flight ends.
    pub fn keep(mut self) {
        self.inner.close(&mut self.holds, |_, units| units, 0);
    }

    /// The limits that it holds of and the units of each.
    pub fn limits(&self) -> impl Iterator<Item = (LimitIx, u64)> + '_ {
        self.holds.0.iter().map(|hold| (LimitIx(hold.limit), hold.units))
    }
}

/// Cancelled, as of the last charge of each limit: what drained since has drained either way.
impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.holds.0.is_empty() {
            self.inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
            self.inner.close(&mut self.holds, |_, _| 0, 0);
        }
    }
}

impl Inner {
    #[inline]
    fn reserve(
        &self,
        now: Timestamp,
        limits: &[(LimitIx, Key)],
        cost: &Cost,
        holds: &mut Holds,
    ) -> Result<(), Denial> {
        let now_ns = nanos(now);
        if limits.len() > MOST_LIMITS {
            return Err(Denial { limit: limits[MOST_LIMITS].0, reason: DenialReason::NoSuchLimit });
        }
        // The first needs no look ahead: when its charge is refused, nothing has been written either.
        for (ix, key) in limits.iter().skip(1) {
            let limit = self.limits.get(usize::from(ix.0));
            let fits = limit.is_some_and(|limit| {
                limit.fits(self.slot(limit.scope, *key), now_ns, cost.amount(limit.unit)).is_ok()
            });
            if !fits && let Some(denial) = self.worst(now_ns, limits, cost) {
                return Err(denial);
            }
        }
        for (ix, key) in limits {
            let charge = |limit: &Limit, slot, units| limit.charge(slot, now_ns, units).map(|it| (it, 0));
            if let Err(reason) = self.take(*ix, *key, cost, holds, charge) {
                self.close(holds, |_, _| 0, now_ns);
                return Err(self.worst(now_ns, limits, cost).unwrap_or(Denial { limit: *ix, reason }));
            }
        }
        Ok(())
    }

    #[cold]
    fn reserve_ahead(
        &self,
        now: Timestamp,
        limits: &[(LimitIx, Key)],
        cost: &Cost,
        holds: &mut Holds,
    ) -> Result<Duration, Denial> {
        let now_ns = nanos(now);
        if limits.len() > MOST_LIMITS {
            return Err(Denial { limit: limits[MOST_LIMITS].0, reason: DenialReason::NoSuchLimit });
        }
        let mut longest = 0;
        for (ix, key) in limits {
            let charge = |limit: &Limit, slot, units| limit.charge_ahead(slot, now_ns, units);
            match self.take(*ix, *key, cost, holds, charge) {
                Ok(wait) => longest = longest.max(wait),
                Err(reason) => {
                    self.close(holds, |_, _| 0, now_ns);
                    return Err(self.worst(now_ns, limits, cost).unwrap_or(Denial { limit: *ix, reason }));
                }
            }
        }
        Ok(Duration::from_nanos(longest))
    }

    /// Charges one limit; what `charge` says of a wait is passed on.
    #[inline]
    fn take(
        &self,
        ix: LimitIx,
        key: Key,
        cost: &Cost,
        holds: &mut Holds,
        charge: impl FnOnce(&Limit, usize, u64) -> Result<(Receipt, u64), Refused>,
    ) -> Result<u64, DenialReason> {
        let Some(limit) = self.limits.get(usize::from(ix.0)) else {
            return Err(DenialReason::NoSuchLimit);
        };
        let slot = self.slot(limit.scope, key);
        let mut held = NO_SCOPE;
        if let Some(scope) = limit.scope {
            // Several limits of one scope share one hold.
            let scope_ix = scope as u16;
            if !holds.0.iter().any(|hold| hold.scope == scope_ix && hold.slot == key.slot) {
                if !self.scopes[scope].keys.hold(key) {
                    return Err(DenialReason::StaleKey);
                }
                held = scope_ix;
            }
        }
        let units = cost.amount(limit.unit);
        match charge(limit, slot, units) {
            Ok((receipt, wait)) => {
                // Never more than the most limits, so that there is room.
                holds.0.push(Hold { units, receipt, slot: slot as u32, limit: ix.0, scope: held });
                Ok(wait)
            }
            Err(refused) => {
                if held != NO_SCOPE {
                    self.scopes[usize::from(held)].keys.release(key.slot);
                }
                Err(refused.into())
            }
        }
    }

    #[inline]
    fn close(&self, holds: &mut Holds, actual: impl Fn(Unit, u64) -> u64, now_ns: u64) {
        for hold in &holds.0 {
            let limit = &self.limits[usize::from(hold.limit)];
            let actual = actual(limit.unit, hold.units);
            limit.end(hold.slot as usize, now_ns, hold.receipt, hold.units, actual);
        }
        // Only now: until its last cell is settled, the key is not evicted.
        for hold in holds.0.iter().filter(|hold| hold.scope != NO_SCOPE) {
            self.scopes[usize::from(hold.scope)].keys.release(hold.slot);
        }
        holds.0.clear();
    }

    /// The refusal that is hardest to cure; `None` when all fit (now).
    #[cold]
    fn worst(&self, now_ns: u64, limits: &[(LimitIx, Key)], cost: &Cost) -> Option<Denial> {
        let mut worst: Option<Denial> = None;
        for (ix, key) in limits {
            let reason = match self.limits.get(usize::from(ix.0)) {
                Some(limit) => {
                    match limit.fits(self.slot(limit.scope, *key), now_ns, cost.amount(limit.unit)) {
                        Ok(()) => continue,
                        Err(refused) => refused.into(),
                    }
                }
                None => DenialReason::NoSuchLimit,
            };
            if worst.is_none_or(|w| w.reason.rank() < reason.rank()) {
                worst = Some(Denial { limit: *ix, reason });
            }
        }
        worst
    }

    /// The slot of a key, as far as there are cells: a key of another scope is found stale later.
    #[inline]
    fn slot(&self, scope: Option<usize>, key: Key) -> usize {
        match scope {
            None => 0,
            Some(scope) => (key.slot as usize).min(self.scopes[scope].keys.capacity() - 1),
        }
    }
}

impl From<Refused> for DenialReason {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wait(ns) => Self::Wait(Duration::from_nanos(ns)),
            Refused::Never => Self::TooLarge,
            Refused::InFlight => Self::InFlight,
        }
    }
}
