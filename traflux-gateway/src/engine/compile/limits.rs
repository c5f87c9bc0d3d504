//! Which limits hold for a request, and under which keys?

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;
use traflux_core::Timestamp;
use traflux_core::plan::limit::{
    CalendarPlan, CalendarWindow, LimitPlan, LimitScope, LimitShape, LimitUnit, WarmUpPlan,
};
use traflux_core::plan::limit_key;
use traflux_core::plan::requests::RequestPlan;

use super::Compiled;
use crate::engine::admission::Kept;
use crate::engine::decision::Reason;
use crate::error::GatewayError;
use crate::limit::{
    Key, LimitIx, LimitLevel, LimitRule, LimitSettings, Limiter, LimiterSettings, MOST_LIMITS, ScopeIx,
    ScopeSettings, Unit,
};
use crate::request::Request;
use crate::rule::excludes;

/// A limit with its keys.
#[derive(Debug)]
pub(in crate::engine) struct CompiledLimit {
    pub(in crate::engine) name: Arc<str>,
    pub(in crate::engine) ix: LimitIx,
    scope: Option<ScopeIx>,
    by: Vec<LimitScope>,
    by_backend: bool,
    /// Limits of their own for some keys: their levels are carried over by hand, see [`Compiled::take_over`].
    overrides: FxHashMap<Box<str>, LimitIx>,
}

/// Keys found for a request: limits of one scope share one.
pub(super) struct Found<'a> {
    /// Where the key of the tenant is that was found at its last request.
    pub(super) seen: Option<&'a AtomicU64>,
    pub(super) last: Option<(ScopeIx, Key)>,
}

thread_local! {
    /// Room to put keys together without allocating for each.
    static KEY: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Compiled {
    /// Adds a limit that holds.
    pub(super) fn add_limit(
        &self,
        admission: &mut Kept,
        found: &mut Found<'_>,
        ix: usize,
        request: &Request<'_>,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let limit = &self.limits[ix];
        if limit.by.is_empty() {
            return admission.limits.try_push((limit.ix, Key::ONLY)).map_err(|_| Reason::TooManyKeys);
        }
        let same = found.last.filter(|(scope, _)| limit.scope == Some(*scope) && limit.overrides.is_empty());
        if let (Some((_, key)), false) = (same, limit.by_backend) {
            return admission.limits.try_push((limit.ix, key)).map_err(|_| Reason::TooManyKeys);
        }
        if let [scope] = &limit.by[..]
            && !limit.by_backend
        {
            let seen = found.seen.filter(|_| *scope == LimitScope::Tenant && limit.overrides.is_empty());
            if let (Some(seen), Some(scope)) = (seen, limit.scope) {
                let key = Key::unpacked(seen.load(Ordering::Relaxed));
                if self.limiter.is_key(scope, key) {
                    found.last = Some((scope, key));
                    return admission.limits.try_push((limit.ix, key)).map_err(|_| Reason::TooManyKeys);
                }
            }
            self.add_key(admission, found, limit, scope_value(scope, request), now)?;
            if let (Some(seen), Some((_, key))) = (seen, found.last) {
                seen.store(key.packed(), Ordering::Relaxed);
            }
            return Ok(());
        }
        KEY.with_borrow_mut(|key| {
            limit.write_key(key, request);
            if limit.by_backend {
                let prefix = (limit.by.len() > 1).then(|| key.as_str().into());
                return admission.by_backend.try_push((ix as u16, prefix)).map_err(|_| Reason::TooManyKeys);
            }
            self.add_key(admission, found, limit, key, now)
        })
    }

    fn add_key(
        &self,
        admission: &mut Kept,
        found: &mut Found<'_>,
        limit: &CompiledLimit,
        name: &str,
        now: Timestamp,
    ) -> Result<(), Reason> {
        let (ix, key) = self.limit_key(limit, name, now).ok_or(Reason::TooManyKeys)?;
        if ix == limit.ix {
            found.last = limit.scope.map(|scope| (scope, key));
        }
        admission.limits.try_push((ix, key)).map_err(|_| Reason::TooManyKeys)
    }

    fn limit_key(&self, limit: &CompiledLimit, name: &str, now: Timestamp) -> Option<(LimitIx, Key)> {
        if !limit.overrides.is_empty()
            && let Some(own) = limit.overrides.get(name)
        {
            return Some((*own, Key::ONLY));
        }
        match limit.scope {
            Some(scope) => self.limiter.key(now, scope, name).map(|key| (limit.ix, key)),
            None => Some((limit.ix, Key::ONLY)),
        }
    }

    /// The limits of a request at one backend, where some count each backend apart.
    pub(in crate::engine) fn limits_at(
        &self,
        admission: &Kept,
        backend: &str,
        now: Timestamp,
    ) -> Result<ArrayVec<(LimitIx, Key), MOST_LIMITS>, Reason> {
        let mut limits = admission.limits.clone();
        for (ix, prefix) in &admission.by_backend {
            let limit = &self.limits[usize::from(*ix)];
            let found = KEY.with_borrow_mut(|key| {
                key.clear();
                if let Some(prefix) = prefix {
                    key.push_str(prefix);
                    key.push('/');
                }
                key.push_str(backend);
                self.limit_key(limit, key, now)
            });
            let found = found.ok_or(Reason::TooManyKeys)?;
            limits.try_push(found).map_err(|_| Reason::TooManyKeys)?;
        }
        Ok(limits)
    }

    /// How full a limit is for the key of a request, at a backend where each is counted apart; as new for a key that is
    /// not known, and stays so.
    pub(in crate::engine) fn level_of(
        &self,
        ix: usize,
        request: &Request<'_>,
        backend: Option<&str>,
        now: Timestamp,
    ) -> Option<LimitLevel> {
        let limit = &self.limits[ix];
        let mut key = String::new();
        limit.write_key(&mut key, request);
        if let Some(backend) = backend {
            if limit.by.len() > 1 {
                key.push('/');
            }
            key.push_str(backend);
        }
        let level = |ix, key| self.limiter.level(now, ix, key);
        match (limit.overrides.get(key.as_str()), limit.scope) {
            (Some(own), _) => level(*own, Key::ONLY),
            (None, None) => level(limit.ix, Key::ONLY),
            (None, Some(scope)) => {
                let known = self.limiter.find_key(scope, &key).and_then(|key| level(limit.ix, key));
                known.or_else(|| self.limiter.level_as_new(limit.ix))
            }
        }
    }

    /// The name of a limit, that of the plan also for an override.
    pub(in crate::engine) fn limit_name(&self, ix: LimitIx) -> Option<Arc<str>> {
        self.limit_position(ix).map(|at| Arc::clone(&self.limits[at].name))
    }

    /// The position of a limit in the plan, by its own or that of an override.
    pub(in crate::engine) fn limit_position(&self, ix: LimitIx) -> Option<usize> {
        self.limits.iter().position(|l| l.ix == ix || l.overrides.values().any(|own| *own == ix))
    }

    /// Limits whose levels are kept over a restart, by their names and those of their overrides, with the key of these.
    pub(in crate::engine) fn persistent(&self) -> FxHashMap<String, (&LimitPlan, Option<&str>)> {
        let mut places = FxHashMap::default();
        for plan in self.plan.limits.iter().filter(|plan| plan.persistent) {
            places.insert(plan.name.clone(), (plan, None));
            let own = plan.overrides.keys();
            places.extend(own.map(|key| (override_name(&plan.name, key), (plan, Some(key.as_str())))));
        }
        places
    }

    /// The name of the limit that a key has of its own.
    pub(in crate::engine) fn override_of(&self, limit: &str, key: &str) -> Option<String> {
        let limit = self.limits.iter().find(|one| *one.name == *limit)?;
        limit.overrides.contains_key(key).then(|| override_name(&limit.name, key))
    }

    /// Charges what keys had used under the plan before to the limits that they have from now on, where they begin or
    /// cease to have an amount of their own.
    pub(in crate::engine) fn take_over(&self, before: &Self, now: Timestamp) {
        for (ix, limit) in self.limits.iter().enumerate() {
            let Some(old_ix) = before.limits.iter().position(|old| old.name == limit.name) else { continue };
            let old = &before.limits[old_ix];
            if old.by != limit.by || before.plan.limits[old_ix].unit != self.plan.limits[ix].unit {
                continue;
            }
            let (Some(scope), Some(old_scope)) = (limit.scope, old.scope) else { continue };
            for (key, own) in limit.overrides.iter().filter(|(key, _)| !old.overrides.contains_key(*key)) {
                let general = before.limiter.find_key(old_scope, key);
                let used = general.and_then(|general| before.limiter.level(now, old.ix, general));
                self.limiter.debit(now, *own, Key::ONLY, used.map_or(0, |level| level.used));
            }
            for (key, own) in old.overrides.iter().filter(|(key, _)| !limit.overrides.contains_key(*key)) {
                let used = before.limiter.level(now, *own, Key::ONLY).map_or(0, |level| level.used);
                let Some(general) = self.limiter.key(now, scope, key).filter(|_| used > 0) else { continue };
                // What it had used before it had an amount of its own is part of both.
                let known = self.limiter.level(now, limit.ix, general).map_or(0, |level| level.used);
                self.limiter.debit(now, limit.ix, general, used.saturating_sub(known));
            }
        }
    }

    /// Whether a limit counts each backend apart, so that another backend may do.
    pub(in crate::engine) fn is_by_backend(&self, ix: LimitIx) -> bool {
        self.limits.iter().any(|l| l.by_backend && (l.ix == ix || l.overrides.values().any(|own| *own == ix)))
    }
}

impl CompiledLimit {
    /// Writes the key of a request, up to the name of a backend.
    fn write_key(&self, key: &mut String, request: &Request<'_>) {
        key.clear();
        for (at, scope) in self.by.iter().filter(|s| **s != LimitScope::Backend).enumerate() {
            if at > 0 {
                key.push('/');
            }
            let is_last = at + 1 == self.by.len();
            limit_key::push_part(key, scope_value(scope, request), is_last);
        }
    }

    /// Whether it has one level for all.
    pub(in crate::engine) fn is_one(&self) -> bool {
        self.by.is_empty()
    }

    /// Limits of their own for some keys, by their names.
    pub(in crate::engine) fn overrides(&self) -> impl Iterator<Item = (String, LimitIx)> {
        self.overrides.iter().map(|(key, ix)| (override_name(&self.name, key), *ix))
    }

    pub(super) fn new(plan: &LimitPlan, limiter: &Limiter) -> Self {
        let ix = |name: &str| limiter.limit(name).unwrap_or(LimitIx(u16::MAX));
        Self {
            name: plan.name.as_str().into(),
            ix: ix(&plan.name),
            scope: (!plan.by.is_empty()).then(|| limiter.scope_of(&scope_name(&plan.by))).flatten(),
            by: plan.by.clone(),
            by_backend: plan.by.contains(&LimitScope::Backend),
            overrides: plan
                .overrides
                .keys()
                .map(|key| (key.as_str().into(), ix(&override_name(&plan.name, key))))
                .collect(),
        }
    }
}

fn scope_value<'a>(scope: &LimitScope, request: &Request<'a>) -> &'a str {
    match scope {
        LimitScope::Tenant => request.client.tenant,
        LimitScope::Key => request.client.key,
        LimitScope::User => request.client.user,
        LimitScope::UserTier => request.client.user_tier,
        LimitScope::Model => request.model,
        LimitScope::Header(name) => request.headers.value(name).unwrap_or(""),
        LimitScope::Backend => "",
    }
}

fn override_name(limit: &str, key: &str) -> String {
    format!("{limit} of {key}")
}

fn scope_name(by: &[LimitScope]) -> String {
    let names: Vec<_> = by.iter().map(LimitScope::name).collect();
    names.join("/")
}

pub(super) fn limiter_settings(plan: &RequestPlan) -> Result<LimiterSettings, GatewayError> {
    // Only limits that may hold for one request together count against the room of a reservation.
    for limit in &plan.limits {
        let together = plan.limits.iter().filter(|other| !excludes(&limit.matches, &other.matches)).count();
        if together > MOST_LIMITS {
            return Err(GatewayError::TooManyLimits {
                limit: limit.name.clone(),
                together,
                most: MOST_LIMITS,
            });
        }
    }
    let mut scopes: BTreeMap<String, ScopeSettings> = BTreeMap::new();
    let mut limits = Vec::new();
    for limit in &plan.limits {
        let scope = (!limit.by.is_empty()).then(|| scope_name(&limit.by));
        if let Some(name) = &scope {
            let max_keys = limit.max_keys.unwrap_or(LimitPlan::USUAL_MAX_KEYS) as usize;
            let scope = scopes.entry(name.clone());
            let scope = scope.or_insert_with(|| ScopeSettings { name: name.clone(), max_keys });
            scope.max_keys = scope.max_keys.max(max_keys);
        }
        limits.push(LimitSettings {
            name: limit.name.clone(),
            scope,
            unit: unit(limit.unit),
            rule: limit_rule(limit, limit.amount, limit.burst),
            max_wait: limit.max_wait.unwrap_or_default(),
        });
        limits.extend(limit.overrides.iter().map(|(key, amount)| LimitSettings {
            name: override_name(&limit.name, key),
            scope: None,
            unit: unit(limit.unit),
            rule: limit_rule(limit, *amount, limit.burst.map(|burst| burst * amount / limit.amount)),
            max_wait: limit.max_wait.unwrap_or_default(),
        }));
    }
    Ok(LimiterSettings { scopes: scopes.into_values().collect(), limits })
}

fn unit(unit: LimitUnit) -> Unit {
    match unit {
        LimitUnit::Requests | LimitUnit::Concurrency => Unit::Requests,
        LimitUnit::InputTokens => Unit::InputTokens,
        LimitUnit::OutputTokens => Unit::OutputTokens,
        LimitUnit::Tokens => Unit::TotalTokens,
        LimitUnit::Dollars => Unit::PicoDollars,
    }
}

fn limit_rule(limit: &LimitPlan, amount: f64, burst: Option<f64>) -> LimitRule {
    let scale = if limit.unit == LimitUnit::Dollars { 1e12 } else { 1.0 };
    let units = |amount: f64| (amount * scale).round().max(1.0) as u64;
    let (amount, burst, period) = (units(amount), units(burst.unwrap_or(amount)), limit.period);
    if limit.unit == LimitUnit::Concurrency {
        return LimitRule::InFlight { amount };
    }
    match limit.shape {
        LimitShape::TokenBucket => LimitRule::TokenBucket { amount, period, burst },
        LimitShape::FixedWindow => {
            LimitRule::FixedWindow { amount, period, offset: limit.offset.unwrap_or_default() }
        }
        LimitShape::Calendar(calendar) => calendar_rule(amount, calendar),
        LimitShape::SlidingWindow => LimitRule::SlidingWindow { amount, period },
        LimitShape::Pacing => LimitRule::Pacing { amount, period },
        LimitShape::WarmUp(WarmUpPlan { ramp, cold_factor }) => {
            LimitRule::WarmUp { amount, period, ramp, cold_factor }
        }
    }
}

/// Days and weeks all have one length, months have not.
fn calendar_rule(amount: u64, calendar: CalendarPlan) -> LimitRule {
    let CalendarPlan { every, utc_offset_minutes } = calendar;
    let period = every.mean_length();
    // 1970 began on a Thursday, so the first Monday was its fifth day.
    let first_day = match every {
        CalendarWindow::Month => return LimitRule::CalendarMonth { amount, utc_offset_minutes },
        CalendarWindow::Week => 4,
        CalendarWindow::Day => 0,
    };
    let first_minute = first_day * 1_440 - i64::from(utc_offset_minutes);
    let offset_minutes = first_minute.rem_euclid(period.as_secs() as i64 / 60) as u64;
    LimitRule::FixedWindow { amount, period, offset: Duration::from_secs(offset_minutes * 60) }
}
