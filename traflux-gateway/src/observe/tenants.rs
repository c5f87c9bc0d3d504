//! Which tenants deserve a series of their own?
//!
//! Use is counted exactly for every tenant by index; [`TenantMetrics::expose`] then elects those of most use,
//! at most a configured number, and the rest is one series `other`. Counters keep the one promise Prometheus
//! needs, that they never go back: an elected tenant shows all it ever used, also when it is elected again
//! later, and `other` grows by what tenants used in intervals in which they were not shown at both ends. So each
//! request is in the rate of exactly one series.
//!
//! Use is measured as the sum of a tenant's shares of requests, tokens and dollars, each faded by half in
//! [`half_life`](TenantSettings::half_life); one that is shown stays unless another has half as much again, so
//! that series do not come and go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

use crate::error::GatewayError;
use crate::units::{PicoDollars, millis};

/// A shown tenant stays until another has this many times its use.
const STAY: f64 = 1.5;

/// Position of a tenant in the caller's table of tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantIx(pub u32);

/// How many tenants are counted and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantSettings {
    /// Tenants counted one by one, 32 bytes each and as many again; those beyond are counted together.
    pub capacity: usize,
    /// Tenants with series of their own.
    pub shown: usize,
    /// Time in which past use loses half its say in the election.
    #[serde(rename = "half_life_ms", with = "millis")]
    pub half_life: Duration,
}

impl Default for TenantSettings {
    /// 16,384 counted, 50 shown, half-life 15 minutes.
    fn default() -> Self {
        Self { capacity: 16_384, shown: 50, half_life: Duration::from_secs(900) }
    }
}

impl TenantSettings {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// [`GatewayError::Setting`].
    pub fn validate(&self) -> Result<(), GatewayError> {
        let wrong = |setting, value: String, expected| Err(GatewayError::setting(setting, value, expected));
        if self.capacity > 1 << 24 {
            return wrong("capacity", self.capacity.to_string(), "at most 16777216 tenants");
        }
        if self.shown > 10_000 {
            return wrong("shown", self.shown.to_string(), "at most 10000 tenants");
        }
        if self.half_life.is_zero() {
            return wrong("half_life_ms", "0".to_owned(), "a positive number");
        }
        Ok(())
    }
}

/// What a tenant, or all others together, used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TenantUse {
    /// Requests.
    pub requests: u64,
    /// Tokens, of prompts and answers.
    pub tokens: u64,
    /// Money.
    pub cost: PicoDollars,
}

impl TenantUse {
    /// What was used after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.wrapping_sub(earlier.requests),
            tokens: self.tokens.wrapping_sub(earlier.tokens),
            cost: PicoDollars::new(self.cost.get().wrapping_sub(earlier.cost.get())),
        }
    }

    fn plus(&self, more: &Self) -> Self {
        Self {
            requests: self.requests.wrapping_add(more.requests),
            tokens: self.tokens.wrapping_add(more.tokens),
            cost: PicoDollars::new(self.cost.get().wrapping_add(more.cost.get())),
        }
    }
}

/// The tenants to show, and the rest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TenantExposure {
    /// Elected tenants by position, with all they ever used.
    pub tenants: Vec<(TenantIx, TenantUse)>,
    /// What tenants used while they were not shown.
    pub other: TenantUse,
}

/// Counts what each tenant uses.
#[derive(Debug)]
pub struct TenantMetrics {
    settings: TenantSettings,
    /// One per tenant, and the last for all beyond the capacity.
    cells: Box<[TenantCells]>,
    election: Mutex<Election>,
}

/// Half a cache line, so that a tenant's counters are in one.
#[derive(Debug, Default)]
#[repr(align(32))]
struct TenantCells {
    requests: AtomicU64,
    tokens: AtomicU64,
    cost: AtomicU64,
    unserved: AtomicU64,
}

#[derive(Debug)]
struct Election {
    at: Timestamp,
    /// By tenant, and the last for all beyond the capacity.
    seen: Vec<TenantUse>,
    /// By tenant: faded requests, tokens and pico-dollars.
    faded: Vec<[f64; 3]>,
    shown: Vec<bool>,
    other: TenantUse,
}

impl TenantMetrics {
    /// Counters at zero.
    ///
    /// # Errors
    /// [`GatewayError::Setting`].
    pub fn new(settings: TenantSettings) -> Result<Self, GatewayError> {
        settings.validate()?;
        let capacity = settings.capacity;
        Ok(Self {
            settings,
            cells: (0..=capacity).map(|_| TenantCells::default()).collect(),
            election: Mutex::new(Election {
                at: Timestamp::ZERO,
                seen: vec![TenantUse::default(); capacity + 1],
                faded: vec![[0.0; 3]; capacity],
                shown: vec![false; capacity],
                other: TenantUse::default(),
            }),
        })
    }

    /// Counts one request of a tenant.
    #[inline]
    pub fn record(&self, tenant: TenantIx, tokens: u64, cost: PicoDollars) {
        let cells = &self.cells[(tenant.0 as usize).min(self.settings.capacity)];
        // Relaxed: three independent counters that only grow.
        cells.requests.fetch_add(1, Ordering::Relaxed);
        cells.tokens.fetch_add(tokens, Ordering::Relaxed);
        cells.cost.fetch_add(cost.get(), Ordering::Relaxed);
    }

    /// Counts a request of a tenant that was refused for want of capacity, by the tokens it may have used; one without
    /// tokens counts as one.
    pub fn refused(&self, tenant: TenantIx, tokens: u64) {
        let cells = &self.cells[(tenant.0 as usize).min(self.settings.capacity)];
        // Relaxed: an independent counter that only grows.
        cells.unserved.fetch_add(tokens.max(1), Ordering::Relaxed);
    }

    /// Tokens of a tenant's requests that were refused for want of capacity.
    #[must_use]
    pub fn unserved(&self, tenant: TenantIx) -> u64 {
        self.cells[(tenant.0 as usize).min(self.settings.capacity)].unserved.load(Ordering::Relaxed)
    }

    /// What a tenant used so far; beyond the capacity what all those beyond it used.
    #[must_use]
    pub fn used(&self, tenant: TenantIx) -> TenantUse {
        let cells = &self.cells[(tenant.0 as usize).min(self.settings.capacity)];
        TenantUse {
            requests: cells.requests.load(Ordering::Relaxed),
            tokens: cells.tokens.load(Ordering::Relaxed),
            cost: PicoDollars::new(cells.cost.load(Ordering::Relaxed)),
        }
    }

    /// Elects the tenants to show from what was used up to now. Linear in the capacity; for scrapes.
    pub fn expose(&self, now: Timestamp) -> TenantExposure {
        // An election that panicked half-way left numbers that the next one mends.
        let mut election = self.election.lock().unwrap_or_else(PoisonError::into_inner);
        let election = &mut *election;
        let elapsed = now.since(election.at).as_secs_f64();
        election.at = election.at.max(now);
        let fading = (-elapsed / self.settings.half_life.as_secs_f64()).exp2();
        let capacity = self.settings.capacity;
        let totals: Vec<TenantUse> = (0..=capacity).map(|ix| self.used(TenantIx(ix as u32))).collect();
        let mut sums = [0.0; 3];
        for (faded, (total, seen)) in election.faded.iter_mut().zip(totals.iter().zip(&election.seen)) {
            let new = total.since(seen);
            let new = [new.requests as f64, new.tokens as f64, new.cost.get() as f64];
            for ((faded, new), sum) in faded.iter_mut().zip(new).zip(&mut sums) {
                *faded = *faded * fading + new;
                *sum += *faded;
            }
        }
        let mut ranked: Vec<(f64, usize)> = Vec::new();
        for (ix, faded) in election.faded.iter().enumerate() {
            let score: f64 =
                faded.iter().zip(sums).map(|(f, sum)| if sum > 0.0 { f / sum } else { 0.0 }).sum();
            if score > 0.0 {
                ranked.push((if election.shown[ix] { score * STAY } else { score }, ix));
            }
        }
        ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        ranked.truncate(self.settings.shown);
        let mut elected = vec![false; capacity];
        for (_, ix) in &ranked {
            elected[*ix] = true;
        }
        for (ix, (total, seen)) in totals.iter().zip(&mut election.seen).enumerate() {
            let stays = ix < capacity && election.shown[ix] && elected[ix];
            if !stays {
                election.other = election.other.plus(&total.since(seen));
            }
            *seen = *total;
        }
        let shown = |(ix, _): &(usize, &bool)| TenantIx(*ix as u32);
        let tenants = elected.iter().enumerate().filter(|(_, elected)| **elected);
        let tenants = tenants.map(|entry| (shown(&entry), totals[entry.0])).collect();
        election.shown = elected;
        TenantExposure { tenants, other: election.other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn metrics(capacity: usize, shown: usize) -> TenantMetrics {
        TenantMetrics::new(TenantSettings { capacity, shown, ..TenantSettings::default() }).unwrap()
    }

    #[test]
    fn the_heaviest_tenants_are_shown_and_the_rest_is_one_series() {
        let metrics = metrics(1000, 2);
        for tenant in 0..1200u32 {
            metrics.record(
                TenantIx(tenant),
                if tenant == 7 || tenant == 9 { 1_000_000 } else { 10 },
                PicoDollars::ZERO,
            );
        }
        let exposure = metrics.expose(Timestamp::from_secs_f64(1.0));
        let shown: Vec<u32> = exposure.tenants.iter().map(|(ix, _)| ix.0).collect();
        assert_eq!(shown, [7, 9]);
        assert_eq!(
            exposure.tenants[0].1,
            TenantUse { requests: 1, tokens: 1_000_000, cost: PicoDollars::ZERO }
        );
        // Use before the first exposure is in nobody's rate; it starts the series `other`.
        assert_eq!(exposure.other.requests, 1200);
    }

    #[test]
    fn no_series_ever_goes_back_and_each_request_is_in_the_rate_of_one() {
        let metrics = metrics(40, 5);
        let mut rng = Rng::new(5);
        let mut before = metrics.expose(Timestamp::ZERO);
        let mut changes = 0;
        for step in 1..200u32 {
            // The heavy tenants drift over the table.
            let heavy = (step / 10) as usize;
            for _ in 0..300 {
                let tenant = if rng.uniform() < 0.7 { (heavy + rng.below(5)) % 40 } else { rng.below(50) };
                metrics.record(TenantIx(tenant as u32), rng.below(100) as u64, PicoDollars::new(3));
            }
            let now = metrics.expose(Timestamp::from_secs_f64(f64::from(step) * 60.0));
            assert!(now.tenants.len() <= 5);
            let mut counted = now.other.requests - before.other.requests;
            for (ix, used) in &now.tenants {
                match before.tenants.iter().find(|(old, _)| old == ix) {
                    Some((_, old)) => counted += used.requests - old.requests,
                    None => changes += 1,
                }
                assert_eq!(*used, metrics.used(*ix));
            }
            assert_eq!(counted, 300, "step {step}");
            before = now;
        }
        assert!((20..200).contains(&changes), "{changes}");
    }

    #[test]
    fn a_tenant_that_is_shown_is_not_displaced_by_an_equal() {
        let metrics = metrics(2, 1);
        metrics.record(TenantIx(1), 10, PicoDollars::ZERO);
        let at = |minute: u32| Timestamp::from_secs_f64(f64::from(minute) * 60.0);
        assert_eq!(metrics.expose(at(1)).tenants[0].0, TenantIx(1));
        metrics.record(TenantIx(0), 12, PicoDollars::ZERO);
        assert_eq!(metrics.expose(at(2)).tenants[0].0, TenantIx(1));
        metrics.record(TenantIx(0), 1200, PicoDollars::ZERO);
        assert_eq!(metrics.expose(at(3)).tenants[0].0, TenantIx(0));
    }
}
