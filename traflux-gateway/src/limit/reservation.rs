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

use traflux_core::Timestamp;

use super::bucket::Receipt;
use super::cells::Refused;
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
    /// Zero once it has ended.
    count: u8,
    holds: [Hold; MOST_LIMITS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Hold {
    units: u64,
    receipt: Receipt,
    slot: u32,
    limit: u16,
    /// Whether this one holds the slot in its key table.
    holds_key: bool,
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
        let now_ns = nanos(now);
        let inner = &self.inner;
        if limits.len() > MOST_LIMITS {
            return Err(Denial { limit: limits[MOST_LIMITS].0, reason: DenialReason::NoSuchLimit });
        }
        // The first needs no look ahead: when its charge is refused, nothing has been written either.
        for (ix, key) in limits.iter().skip(1) {
            let limit = inner.limits.get(usize::from(ix.0));
            let fits = limit.is_some_and(|limit| {
                limit.fits(inner.slot(limit.scope, *key), now_ns, cost.amount(limit.unit)).is_ok()
            });
            if !fits && let Some(denial) = inner.worst(now_ns, limits, cost) {
                return Err(denial);
            }
        }
        let mut reservation =
            Reservation { inner: Arc::clone(inner), count: 0, holds: [Hold::default(); MOST_LIMITS] };
        for (ix, key) in limits {
            if let Err(reason) = reservation.take(now_ns, *ix, *key, cost) {
                reservation.end(now_ns, &Cost::NOTHING);
                return Err(inner.worst(now_ns, limits, cost).unwrap_or(Denial { limit: *ix, reason }));
            }
        }
        Ok(reservation)
    }
}

impl Reservation {
    /// Replaces the estimate by what was used: gives back what is left, charges what is beyond as debt.
    #[inline]
    pub fn settle(mut self, now: Timestamp, actual: &Cost) {
        self.end(nanos(now), actual);
    }

    /// Gives everything back.
    #[inline]
    pub fn cancel(mut self, now: Timestamp) {
        self.end(nanos(now), &Cost::NOTHING);
    }

    /// Lets the estimate stand, where what was used is not known. What is in flight ends.
    pub fn keep(mut self) {
        self.close(|_, units| units, 0);
    }

    /// The limits that it holds of and the units of each.
    pub fn limits(&self) -> impl Iterator<Item = (LimitIx, u64)> + '_ {
        self.holds[..usize::from(self.count)].iter().map(|hold| (LimitIx(hold.limit), hold.units))
    }

    #[inline]
    fn take(&mut self, now_ns: u64, ix: LimitIx, key: Key, cost: &Cost) -> Result<(), DenialReason> {
        let Some(limit) = self.inner.limits.get(usize::from(ix.0)) else {
            return Err(DenialReason::NoSuchLimit);
        };
        let slot = self.inner.slot(limit.scope, key);
        let mut holds_key = false;
        if let Some(scope) = limit.scope {
            // Several limits of one scope share one hold.
            let held = self.holds[..usize::from(self.count)].iter().any(|hold| {
                hold.holds_key
                    && hold.slot == key.slot
                    && self.inner.limits[usize::from(hold.limit)].scope == limit.scope
            });
            if !held && !self.inner.scopes[scope].keys.hold(key) {
                return Err(DenialReason::StaleKey);
            }
            holds_key = !held;
        }
        let units = cost.amount(limit.unit);
        match limit.charge(slot, now_ns, units) {
            Ok(receipt) => {
                self.holds[usize::from(self.count)] =
                    Hold { units, receipt, slot: slot as u32, limit: ix.0, holds_key };
                self.count += 1;
                Ok(())
            }
            Err(refused) => {
                if let (true, Some(scope)) = (holds_key, limit.scope) {
                    self.inner.scopes[scope].keys.release(key.slot);
                }
                Err(refused.into())
            }
        }
    }

    #[inline]
    fn end(&mut self, now_ns: u64, actual: &Cost) {
        self.close(|unit, _| actual.amount(unit), now_ns);
    }

    #[inline]
    fn close(&mut self, actual: impl Fn(Unit, u64) -> u64, now_ns: u64) {
        let count = usize::from(std::mem::take(&mut self.count));
        for hold in &self.holds[..count] {
            let limit = &self.inner.limits[usize::from(hold.limit)];
            let actual = actual(limit.unit, hold.units);
            limit.end(hold.slot as usize, now_ns, hold.receipt, hold.units, actual);
        }
        // Only now: until its last cell is settled, the key is not evicted.
        for hold in self.holds[..count].iter().filter(|hold| hold.holds_key) {
            if let Some(scope) = self.inner.limits[usize::from(hold.limit)].scope {
                self.inner.scopes[scope].keys.release(hold.slot);
            }
        }
    }
}

/// Cancelled, as of the last charge of each limit: what drained since has drained either way.
impl Drop for Reservation {
    fn drop(&mut self) {
        if self.count > 0 {
            self.inner.counters.dropped.fetch_add(1, Ordering::Relaxed);
            self.close(|_, _| 0, 0);
        }
    }
}

impl Inner {
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
