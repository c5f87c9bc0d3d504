//! What does time alone bring?
//!
//! Off the path of requests, a few times a second: requests that have waited too long leave, endpoints that were
//! away come back, and weights follow what was observed or what a controller sent.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use traflux_core::Timestamp;
use traflux_core::plan::routing::Algorithm;

use super::backend::SetByController;
use super::compile::{Compiled, RoutePool};
use super::waiting;
use super::{Engine, Registry};
use crate::balance::{AdaptiveWeights, Reading, SetWeights};
use crate::error::GatewayError;

/// Weights that differ by less than this share stay as they are: every change makes new tables.
const DEAD_BAND: f64 = 0.01;

impl Engine {
    /// Looks after what time alone brings; call it a few times a second.
    pub fn upkeep(&self, now: Timestamp) {
        let compiled = self.shared.compiled.load_full();
        for pool in compiled.pools() {
            if let Some(health) = &pool.health {
                health.tick(now);
                pool.follow_health(now);
            }
        }
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(registry.adapted) >= compiled.settings.adapt_every {
            registry.adapted = now;
            self.adapt(&mut registry, now);
        }
        drop(registry);
        waiting::look_after(&self.shared, &compiled, now);
    }

    /// Takes weights that a controller computed for the backends of a rule under `adaptive`; they count while they are
    /// fresh. Backends that are not named keep the weight of the plan.
    pub fn set_weights(&self, now: Timestamp, rule: &str, weights: &[(&str, u32)]) {
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let weights: HashMap<String, u32> =
            weights.iter().map(|(name, w)| ((*name).to_owned(), *w)).collect();
        registry.set.insert(rule.to_owned(), SetByController { weights, at: now });
        self.adapt(&mut registry, now);
    }

    /// Puts weights in force that follow latency, errors and price, or the controller.
    fn adapt(&self, registry: &mut Registry, now: Timestamp) {
        let before = self.shared.compiled.load_full();
        let mut next: Option<Compiled> = None;
        for (route_ix, route) in
            before.routes.iter().enumerate().filter(|(_, r)| r.algorithm == Algorithm::Adaptive)
        {
            for (model, pool) in route.pools.iter().enumerate() {
                let Some(pool) = pool else { continue };
                let Ok(Some(adapted)) = adapt_pool(registry, &before, (&route.name, model), pool, now) else {
                    continue;
                };
                let next = next.get_or_insert_with(|| (*before).clone());
                next.routes[route_ix].pools[model] = Some(Arc::new(adapted));
            }
        }
        if let Some(next) = next {
            self.shared.compiled.store(Arc::new(next));
        }
    }
}

/// The pool with other weights, where they differ enough.
fn adapt_pool(
    registry: &mut Registry,
    compiled: &Compiled,
    (rule, model): (&Arc<str>, usize),
    pool: &RoutePool,
    now: Timestamp,
) -> Result<Option<RoutePool>, GatewayError> {
    let readings: Vec<Reading> = (0..pool.members.len())
        .filter_map(|position| {
            let endpoint = pool.pool.endpoint(position)?;
            Some(Reading {
                price: pool.members[position].price.expected(1000, 0, 300),
                ..Reading::of(endpoint, pool.planned[position], now)
            })
        })
        .collect();
    let set = registry.set.get(&**rule).map(|set| {
        let weights: Vec<u32> = pool
            .members
            .iter()
            .zip(pool.planned.iter())
            .map(|(member, planned)| set.weights.get(&*member.state.name).copied().unwrap_or(*planned))
            .collect();
        (weights, set.at)
    });
    let key = (Arc::clone(rule), model);
    let adaptive = match registry.adaptive.entry(key) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(AdaptiveWeights::new(compiled.settings.adaptive)?)
        }
    };
    let set = set.as_ref().map(|(weights, at)| SetWeights { weights, at: *at });
    let weights = adaptive.update(now, &readings, set);
    if !differs(&pool.pool_weights(), weights) {
        return Ok(None);
    }
    Ok(Some(RoutePool {
        pool: pool.pool.with_weights(weights)?,
        members: Arc::clone(&pool.members),
        health: pool.health.clone(),
        probed: pool.probed,
        hedge: pool.hedge.clone(),
        planned: Arc::clone(&pool.planned),
    }))
}

/// Whether some share differs by more than the dead band.
fn differs(before: &[u32], after: &[u32]) -> bool {
    let sum = |weights: &[u32]| weights.iter().map(|w| f64::from(*w)).sum::<f64>().max(1.0);
    let (old, new) = (sum(before), sum(after));
    before.iter().zip(after).any(|(b, a)| {
        let (b, a) = (f64::from(*b) / old, f64::from(*a) / new);
        (a - b).abs() > DEAD_BAND * a.max(b)
    })
}

impl RoutePool {
    /// Weights in force, by position.
    fn pool_weights(&self) -> Vec<u32> {
        (0..self.members.len()).map(|position| self.pool.weight(position).unwrap_or(0)).collect()
    }
}
