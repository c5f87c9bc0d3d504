//! Which limits hold for which keys?
//!
//! A [`Limiter`] holds all limits of a configuration and the key tables of their scopes. It is shared by all
//! threads through `&self`; a clone is the same limiter. A hierarchy (tenant within team within organisation)
//! is several limits in one [reservation](Limiter::reserve), each with the key of its own scope.
//!
//! Levels are those of this process: with four processes behind one address, each grants its own share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use traflux_core::Timestamp;

use super::bucket::Receipt;
use super::cells::{Counting, Limit, LimitLevel, Refused};
use super::keys::{Key, KeyTable};
use super::settings::{LimiterSettings, ScopeSettings, Unit};
use super::token_bucket::Check;
use super::{nanos, setting_error};
use crate::error::GatewayError;

/// Position of a limit in its [`LimiterSettings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitIx(pub u16);

/// Position of a scope in its [`LimiterSettings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeIx(pub u16);

/// All limits of a configuration.
#[derive(Debug, Clone)]
pub struct Limiter {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) limits: Vec<Limit>,
    pub(super) scopes: Vec<Scope>,
    pub(super) counters: Arc<Counters>,
    seed: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Scope {
    name: String,
    pub(super) keys: Arc<KeyTable>,
}

/// How reservations ended otherwise than by a settlement or cancellation of their owner.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) dropped: AtomicU64,
}

impl Limiter {
    /// A limiter with full levels. The seed keys the hashes of the key tables; take a secret one where clients choose
    /// their keys.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] as for [`LimiterSettings::validate`], and for a rate or burst that
    /// [`Meter::new`](super::Meter::new) refuses.
    pub fn new(settings: &LimiterSettings, now: Timestamp, seed: u64) -> Result<Self, GatewayError> {
        settings.validate()?;
        let blank = Inner { limits: Vec::new(), scopes: Vec::new(), counters: Arc::default(), seed };
        Self { inner: Arc::new(blank) }.reloaded(settings, now)
    }

    /// The limiter under new settings. Limits with the same name, scope, unit and way to count keep their levels,
    /// whatever the new rate or burst; reservations of either limiter end in both, save those of a limit whose rate
    /// grew out of scale ([`Meter::changed`](super::Meter::changed)), which stay as they were estimated. Limits that are
    /// new start full. Use the new one for all requests from then on.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] as for [`Limiter::new`], and for a scope that changes its `max_keys`.
    pub fn reloaded(&self, settings: &LimiterSettings, now: Timestamp) -> Result<Self, GatewayError> {
        settings.validate()?;
        let scopes = settings.scopes.iter().enumerate();
        let scopes = scopes.map(|(ix, s)| self.scope(ix, s)).collect::<Result<Vec<_>, _>>()?;
        let mut limits = Vec::with_capacity(settings.limits.len());
        for limit in &settings.limits {
            let scope = limit.scope.as_ref().and_then(|name| scopes.iter().position(|s| s.name == *name));
            let old = self.inner.limits.iter().find(|old| *old.name == *limit.name);
            let old =
                old.filter(|old| old.scope.map(|ix| &self.inner.scopes[ix].name) == limit.scope.as_ref());
            let kept = match old {
                Some(old) => old.changed(limit, scope.map(|ix| &scopes[ix].keys), nanos(now))?,
                None => None,
            };
            limits.push(match kept {
                Some(kept) => Limit { scope, ..kept },
                None => Limit::new(limit, scope, scope.map(|ix| &scopes[ix].keys), nanos(now))?,
            });
        }
        let counters = Arc::clone(&self.inner.counters);
        Ok(Self { inner: Arc::new(Inner { limits, scopes, counters, seed: self.inner.seed }) })
    }

    /// The limit of a name.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<LimitIx> {
        self.inner.limits.iter().position(|l| *l.name == *name).map(|ix| LimitIx(ix as u16))
    }

    /// The scope of a name.
    #[must_use]
    pub fn scope_of(&self, name: &str) -> Option<ScopeIx> {
        self.inner.scopes.iter().position(|s| s.name == name).map(|ix| ScopeIx(ix as u16))
    }

    /// Name, unit and scope of a limit.
    #[must_use]
    pub fn describe(&self, limit: LimitIx) -> Option<(&str, Unit, Option<ScopeIx>)> {
        let limit = self.inner.limits.get(usize::from(limit.0))?;
        Some((&limit.name, limit.unit, limit.scope.map(|ix| ScopeIx(ix as u16))))
    }

    /// The key of a string in a scope, a new one if there is none yet. `None` when the scope is full of keys in use
    /// (or unknown).
    #[must_use]
    pub fn key(&self, now: Timestamp, scope: ScopeIx, name: &str) -> Option<Key> {
        let table = &self.inner.scopes.get(usize::from(scope.0))?.keys;
        table.find(name).or_else(|| self.new_key(now, scope, name))
    }

    /// The key of a string in a scope, if there is one.
    #[must_use]
    pub fn find_key(&self, scope: ScopeIx, name: &str) -> Option<Key> {
        self.inner.scopes.get(usize::from(scope.0))?.keys.find(name)
    }

    /// Whether a key that was found before in a scope is still that of its string.
    #[inline]
    pub(crate) fn is_key(&self, scope: ScopeIx, key: Key) -> bool {
        self.inner.scopes.get(usize::from(scope.0)).is_some_and(|scope| scope.keys.find_again(key))
    }

    #[cold]
    fn new_key(&self, now: Timestamp, scope: ScopeIx, name: &str) -> Option<Key> {
        let scope = usize::from(scope.0);
        self.inner.scopes[scope].keys.insert(name, |slot| self.is_idle(scope, slot, nanos(now)))
    }

    /// Gives up idle keys of a scope; returns how many. Keys make room for each other without it; it saves memory of
    /// names, and keeps cells from ageing (see [`meter`](super::meter)) in a process that runs for years.
    pub fn sweep(&self, now: Timestamp, scope: ScopeIx) -> usize {
        let scope = usize::from(scope.0);
        let Some(keys) = self.inner.scopes.get(scope).map(|s| &s.keys) else { return 0 };
        keys.sweep(|slot| self.is_idle(scope, slot, nanos(now)))
    }

    /// Number of keys of a scope.
    #[must_use]
    pub fn keys(&self, scope: ScopeIx) -> usize {
        self.inner.scopes.get(usize::from(scope.0)).map_or(0, |s| s.keys.len())
    }

    /// Charges one limit for one key string, finally: no reservation, no refund. The fastest way for a limit that
    /// counts requests. For a limit without scope the string is ignored; what is in flight cannot be charged finally
    /// and is [`Check::Never`].
    #[inline]
    pub fn check(&self, now: Timestamp, limit: LimitIx, name: &str, units: u64) -> Check {
        let Some(limit) = self.inner.limits.get(usize::from(limit.0)) else { return Check::Never };
        if matches!(limit.counting, Counting::InFlight { .. }) {
            return Check::Never;
        }
        let now_ns = nanos(now);
        let Some(scope) = limit.scope else { return limit.charge(0, now_ns, units).into() };
        let keys = &self.inner.scopes[scope].keys;
        if let Some(key) = keys.find(name) {
            let charged = limit.charge(key.slot as usize, now_ns, units);
            if keys.is_owner(key) {
                return charged.into();
            }
            // At this very moment the slot passed to another key, which is not to pay for this one.
            if let Ok(receipt) = charged {
                limit.end(key.slot as usize, now_ns, receipt, units, 0);
            }
        }
        self.check_held(now, limit, scope, name, units)
    }

    /// The same for a key that is new or has lost its slot.
    #[cold]
    fn check_held(&self, now: Timestamp, limit: &Limit, scope: usize, name: &str, units: u64) -> Check {
        let keys = &self.inner.scopes[scope].keys;
        while let Some(key) = self.new_key(now, ScopeIx(scope as u16), name) {
            if keys.hold(key) {
                let charged = limit.charge(key.slot as usize, nanos(now), units);
                keys.release(key.slot);
                return charged.into();
            }
        }
        Check::NoRoom
    }

    /// Charges what has been used already, whatever the level: debt beyond the limit, which time repays. `false` for a
    /// key that is stale. Limits of what is in flight have no debt.
    pub fn debit(&self, now: Timestamp, limit: LimitIx, key: Key, units: u64) -> bool {
        let Some(limit) = self.inner.limits.get(usize::from(limit.0)) else { return false };
        match limit.scope {
            None => limit.debit(0, nanos(now), units),
            Some(scope) => {
                let keys = &self.inner.scopes[scope].keys;
                if !keys.hold(key) {
                    return false;
                }
                limit.debit(key.slot as usize, nanos(now), units);
                keys.release(key.slot);
            }
        }
        true
    }

    /// How full a limit is for a key: for metrics and rate-limit headers. `None` for a limit or key there is not.
    #[must_use]
    pub fn level(&self, now: Timestamp, limit: LimitIx, key: Key) -> Option<LimitLevel> {
        let limit = self.inner.limits.get(usize::from(limit.0))?;
        let Some(scope) = limit.scope else { return Some(limit.level(0, nanos(now))) };
        let keys = &self.inner.scopes[scope].keys;
        if !keys.hold(key) {
            return None;
        }
        let level = limit.level(key.slot as usize, nanos(now));
        keys.release(key.slot);
        Some(level)
    }

    /// The level of a key that has used nothing. `None` for a limit there is not.
    #[must_use]
    pub fn level_as_new(&self, limit: LimitIx) -> Option<LimitLevel> {
        let limit = self.inner.limits.get(usize::from(limit.0))?.most();
        Some(LimitLevel { limit, used: 0, remaining: limit, reset: Some(Duration::ZERO) })
    }

    /// How full a limit is for each of its keys, whose names are not told. For metrics: a key that comes or goes meanwhile
    /// may be left out.
    pub fn each_level(&self, now: Timestamp, limit: LimitIx, mut visit: impl FnMut(LimitLevel)) {
        let Some(limit) = self.inner.limits.get(usize::from(limit.0)) else { return };
        match limit.scope {
            None => visit(limit.level(0, nanos(now))),
            Some(scope) => {
                self.inner.scopes[scope].keys.taken().for_each(|slot| visit(limit.level(slot, nanos(now))));
            }
        }
    }

    /// Reservations that were dropped with neither settlement nor cancellation, and were cancelled by that.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.counters.dropped.load(Ordering::Relaxed)
    }

    fn is_idle(&self, scope: usize, slot: usize, now_ns: u64) -> bool {
        self.inner.limits.iter().filter(|l| l.scope == Some(scope)).all(|l| l.is_idle(slot, now_ns))
    }

    fn scope(&self, ix: usize, settings: &ScopeSettings) -> Result<Scope, GatewayError> {
        match self.inner.scopes.iter().find(|s| s.name == settings.name) {
            // Keys stay where they are, so a table may be larger than is asked for, and does not grow.
            Some(old) if old.keys.capacity() >= settings.max_keys => Ok(old.clone()),
            Some(_) => Err(setting_error(
                &settings.name,
                "max_keys",
                settings.max_keys,
                "at most what it was at the start",
            )),
            None => Ok(Scope {
                name: settings.name.clone(),
                keys: Arc::new(KeyTable::new(settings.max_keys, self.inner.seed.wrapping_add(ix as u64))),
            }),
        }
    }
}

impl From<Result<Receipt, Refused>> for Check {
    #[inline]
    fn from(charged: Result<Receipt, Refused>) -> Self {
        match charged {
            Ok(_) => Self::Allowed,
            Err(Refused::Wait(ns)) => Self::Wait(Duration::from_nanos(ns)),
            Err(Refused::Never | Refused::InFlight) => Self::Never,
        }
    }
}
