//! What does Prometheus see?

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use traflux_core::Timestamp;

use super::Engine;
use super::backend::BackendState;
use super::compile::Compiled;
use super::watch::{Watch, keeps_to_weights};
use crate::limit::{Key, LimitIx, Unit};
use crate::observe::{Format, Level, Levels, SHARES_OF_KEYS, Scrape, Snapshot, TenantIx};

/// Series of one metric in one answer, at most.
const MOST_SERIES: usize = 10_000;

impl Engine {
    /// The answer to a scrape: counters, histograms, the heaviest tenants and levels now.
    #[must_use]
    pub fn scrape(&self, now: Timestamp, format: Format) -> String {
        let compiled = self.compiled.load_full();
        let registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let backends: Vec<Arc<BackendState>> = registry.backends().map(Arc::clone).collect();
        drop(registry);
        let mut tenants = HashMap::new();
        compiled.tenants.for_each(|name, slot| {
            tenants.insert(slot as u32, name.to_owned());
        });
        let watch = self.shared.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let levels = LevelsNow { compiled: &compiled, backends: &backends, tenants, watch: &watch, now };
        Scrape {
            snapshot: &compiled.counters.metrics.snapshot(),
            tenants: &compiled.used.expose(now),
            levels: &levels,
            series_limit: MOST_SERIES,
        }
        .to_text(format)
    }

    /// What was counted so far, by the names of the plan in force.
    #[must_use]
    pub fn counted(&self) -> Snapshot {
        self.compiled.load().counters.metrics.snapshot()
    }
}

struct LevelsNow<'a> {
    compiled: &'a Compiled,
    backends: &'a [Arc<BackendState>],
    tenants: HashMap<u32, String>,
    watch: &'a Watch,
    now: Timestamp,
}

impl Levels for LevelsNow<'_> {
    fn levels(&self, visit: &mut dyn FnMut(Level<'_>)) {
        for (ix, band) in self.compiled.plan.queue.bands.iter().enumerate() {
            let (mut requests, mut tokens) = (0, 0);
            for room in &self.compiled.rooms {
                let load = room.band_load(ix as u8);
                requests += load.items;
                tokens += load.tokens;
            }
            visit(Level::Queue { band: &band.name, requests, tokens });
        }
        for limit in self.compiled.limits.iter() {
            if limit.is_one() {
                self.limiter(&limit.name, limit.ix, visit);
            } else {
                self.keys(&limit.name, limit.ix, visit);
            }
            // As many as the plan names.
            limit.overrides().for_each(|(name, ix)| self.limiter(&name, ix, visit));
        }
        let mut in_flight: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for state in self.backends {
            let sum = in_flight.entry(&state.name).or_default();
            sum.0 += u64::from(state.concurrency.in_flight());
            sum.1 += u64::from(state.concurrency.limit());
        }
        for (backend, (in_flight, limit)) in in_flight {
            visit(Level::Concurrency { backend, in_flight, limit });
        }
        self.shares(visit);
        for (limit, exhaustion) in self.watch.forecasts() {
            visit(Level::Exhaustion { limit, within: exhaustion.within });
        }
        for alarm in self.watch.alarms() {
            visit(Level::Anomaly(&alarm.signal));
        }
        if let Some(fairness) = self.watch.last_fairness() {
            visit(Level::Fairness { scope: "tenants", jain: fairness.jain });
        }
    }

    fn tenant_name(&self, tenant: TenantIx) -> Option<Cow<'_, str>> {
        self.tenants.get(&tenant.0).map(|name| Cow::Borrowed(name.as_str()))
    }
}

impl LevelsNow<'_> {
    /// The level of a limit that has one.
    fn limiter(&self, name: &str, ix: LimitIx, visit: &mut dyn FnMut(Level<'_>)) {
        let Some((unit, scale)) = self.unit(ix) else { return };
        let Some(level) = self.compiled.limiter.level(self.now, ix, Key::ONLY) else { return };
        let (used, limit) = (level.used as f64 * scale, level.limit as f64 * scale);
        visit(Level::Limiter { limiter: name, unit, used, limit });
    }

    /// Limits with keys have as many levels as keys, too many to be shown one by one.
    fn keys(&self, name: &str, ix: LimitIx, visit: &mut dyn FnMut(Level<'_>)) {
        let Some((unit, _)) = self.unit(ix) else { return };
        let (mut above, mut fullest) = ([0; SHARES_OF_KEYS.len()], 0.0f64);
        self.compiled.limiter.each_level(self.now, ix, |level| {
            let used = level.used as f64 / level.limit.max(1) as f64;
            fullest = fullest.max(used);
            for (share, keys) in SHARES_OF_KEYS.iter().zip(&mut above) {
                *keys += u64::from(used > *share);
            }
        });
        visit(Level::Keys { limiter: name, unit, above, fullest });
    }

    /// The unit of a limit, and what one of it is in that.
    fn unit(&self, ix: LimitIx) -> Option<(&'static str, f64)> {
        let (_, unit, _) = self.compiled.limiter.describe(ix)?;
        Some(match unit {
            Unit::Requests => ("requests", 1.0),
            Unit::InputTokens => ("input_tokens", 1.0),
            Unit::OutputTokens => ("output_tokens", 1.0),
            Unit::TotalTokens => ("tokens", 1.0),
            Unit::PicoDollars => ("dollars", 1e-12),
        })
    }

    /// Shares that weights give, and backends of which nothing is open.
    fn shares(&self, visit: &mut dyn FnMut(Level<'_>)) {
        let mut open: BTreeMap<&str, bool> = BTreeMap::new();
        let mut shown: Vec<&str> = Vec::new();
        for route in &self.compiled.routes {
            // The pool of requests without a model stands for the route, where it has one.
            let first =
                route.pools.iter().rev().skip(1).chain(route.pools.iter().rev().take(1)).flatten().next();
            let Some(pool) = first else { continue };
            for (position, member) in pool.members.iter().enumerate() {
                *open.entry(&member.state.name).or_default() |= pool.pool.is_open(position);
            }
            // What a rule falls back to has its name but no share of its own.
            if !shown.contains(&&*route.name) {
                shown.push(&route.name);
                // Where the algorithm looks at more than weights, these plan no share.
                for (backend, share) in
                    pool.shares().into_iter().filter(|_| keeps_to_weights(route.algorithm))
                {
                    visit(Level::PlanShare { rule: &route.name, backend, share });
                }
            }
        }
        for (backend, open) in open {
            visit(Level::Ejection { backend, ejected: !open });
        }
    }
}
