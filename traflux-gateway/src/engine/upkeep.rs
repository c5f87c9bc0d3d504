//! What does time alone bring?
//!
//! Off the path of requests, a few times a second: requests that have waited too long leave, endpoints that were
//! away come back, and weights follow what was observed or what a controller sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use traflux_core::Timestamp;
use traflux_core::plan::routing::Algorithm;

use super::backend::SetByController;
use super::compile::{Compiled, Place, RoutePool};
use super::waiting;
use super::{Engine, Registry};
use crate::balance::{AdaptiveWeights, BalanceSettings, Member, Reading, SetWeights};
use crate::decision_log::entry::Call;
use crate::error::GatewayError;

/// Weights that differ by less than this share stay as they are: every change makes new tables.
const DEAD_BAND: f64 = 0.01;

impl Engine {
    /// Looks after what time alone brings; call it a few times a second.
    pub fn upkeep(&self, now: Timestamp) {
        let _turn = self.shared.turn(now, || Call::Upkeep);
        let compiled = self.compiled.load_full();
        for pool in compiled.pools() {
            if let Some(health) = &pool.health {
                health.tick(now);
                pool.follow_health(now);
            }
        }
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(registry.adapted) >= compiled.plan.balance.adaptive.every {
            registry.adapted = now;
            self.adapt(&mut registry, now);
        }
        drop(registry);
        waiting::look_after(&compiled, now);
        self.watch(&compiled, now);
    }

    /// Takes weights that a controller computed for the backends of a rule under `adaptive`; they count while they are
    /// fresh (`balance.adaptive.fresh_for_ms`), so renew them.
    ///
    /// While they count, weights are shares of requests: turns go round by weight, and nothing that the engine observes
    /// weighs against them but health and room. A backend of positive weight carries traffic beside the others,
    /// whatever its tier, and spreads it over its endpoints as the plan has it; one of weight 0 and a higher tier stands
    /// by. Backends that are not named keep the weight of the plan. Weights that differ from those in force by less
    /// than a hundredth of themselves change nothing.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for a rule that the plan in force does not have, or a backend that the rule does not;
    /// nothing is set then.
    pub fn set_weights(
        &self,
        now: Timestamp,
        rule: &str,
        weights: &[(&str, u32)],
    ) -> Result<(), GatewayError> {
        self.compiled.load().has_backends(rule, weights.iter().map(|(name, _)| *name))?;
        let _turn = self.shared.turn(now, || Call::SetWeights {
            rule: rule.into(),
            weights: weights.iter().map(|(name, weight)| ((*name).into(), *weight)).collect(),
        });
        let mut registry = self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let weights: HashMap<String, u32> =
            weights.iter().map(|(name, w)| ((*name).to_owned(), *w)).collect();
        registry.set.insert(rule.to_owned(), SetByController { weights, at: now });
        self.adapt(&mut registry, now);
        Ok(())
    }

    /// Puts weights in force that follow latency, errors and price, or the controller.
    pub(super) fn adapt(&self, registry: &mut Registry, now: Timestamp) {
        let before = self.compiled.load_full();
        let mut next: Option<Compiled> = None;
        for (route_ix, route) in
            before.routes.iter().enumerate().filter(|(_, r)| r.algorithm == Algorithm::Adaptive)
        {
            for (model, pool) in route.pools.iter().enumerate() {
                let Some(pool) = pool else { continue };
                let Ok(Some(adapted)) = adapt_pool(registry, (&route.name, model), pool, now) else {
                    continue;
                };
                let next = next.get_or_insert_with(|| (*before).clone());
                next.routes[route_ix].pools[model] = Some(Arc::new(adapted));
            }
        }
        if let Some(next) = next {
            self.compiled.store(Arc::new(next));
        }
    }
}

impl Compiled {
    /// Checks that a rule has these backends.
    fn has_backends<'a>(
        &self,
        rule: &str,
        mut names: impl Iterator<Item = &'a str>,
    ) -> Result<(), GatewayError> {
        let listed = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
        let routes = || self.routes.iter().filter(|route| &*route.name == rule);
        if routes().next().is_none() {
            let rules = listed(self.routes.iter().map(|route| &*route.name).collect());
            return Err(GatewayError::Setting {
                setting: "rule".into(),
                value: format!("`{rule}`"),
                expected: format!("one of {rules}").into(),
            });
        }
        let members = routes().flat_map(|route| route.pools.iter().flatten()).flat_map(|pool| &*pool.members);
        let backends: BTreeSet<&str> = members.map(|member| &*member.state.name).collect();
        match names.find(|name| !backends.contains(name)) {
            Some(name) => Err(GatewayError::Setting {
                setting: format!("weights of {rule}").into(),
                value: format!("for `{name}`"),
                expected: format!("backends of the rule: {}", listed(backends)).into(),
            }),
            None => Ok(()),
        }
    }
}

/// The pool with other weights, where they differ enough.
fn adapt_pool(
    registry: &mut Registry,
    (rule, model): (&Arc<str>, usize),
    pool: &RoutePool,
    now: Timestamp,
) -> Result<Option<RoutePool>, GatewayError> {
    let readings: Vec<Reading> = (0..pool.members.len())
        .filter_map(|position| {
            let endpoint = pool.pool.endpoint(position)?;
            Some(Reading {
                price: pool.members[position].price.expected(1000, 0, 300),
                ..Reading::of(endpoint, pool.planned[position].weight, now)
            })
        })
        .collect();
    let set = registry.set.get(&**rule).map(|set| (pool.led_by(&set.weights), set.at));
    let key = (Arc::clone(rule), model);
    let adaptive = match registry.adaptive.entry(key) {
        std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(AdaptiveWeights::new(pool.pool.settings().adaptive)?)
        }
    };
    let weights_set: Option<(Vec<u32>, Timestamp)> =
        set.as_ref().map(|(places, at)| (places.iter().map(|place| place.weight).collect(), *at));
    let set_weights = weights_set.as_ref().map(|(weights, at)| SetWeights { weights, at: *at });
    let weights = adaptive.update(now, &readings, set_weights).to_vec();
    let (algorithm, places) = match set.filter(|_| adaptive.is_led()) {
        Some((places, _)) => (Algorithm::RoundRobin, places),
        None => {
            let tiers = pool.planned.iter().map(|place| place.tier);
            let places = weights.iter().zip(tiers).map(|(weight, tier)| Place { weight: *weight, tier });
            (Algorithm::Adaptive, places.collect())
        }
    };
    if pool.pool.settings().algorithm == algorithm && !differs(&pool.places(), &places) {
        return Ok(None);
    }
    let members = places.iter().enumerate().filter_map(|(position, place)| {
        let endpoint = Arc::clone(pool.pool.endpoint(position)?);
        let price = pool.members[position].price;
        Some(Member { endpoint, weight: place.weight, tier: place.tier, price })
    });
    let settings = BalanceSettings { algorithm, ..*pool.pool.settings() };
    Ok(Some(RoutePool {
        pool: pool.pool.reconfigured(settings, members)?,
        members: Arc::clone(&pool.members),
        health: pool.health.clone(),
        probed: pool.probed,
        hedge: pool.hedge.clone(),
        planned: Arc::clone(&pool.planned),
    }))
}

/// Whether some tier or, by more than the dead band, some share differs.
fn differs(before: &[Place], after: &[Place]) -> bool {
    let sum = |places: &[Place]| places.iter().map(|p| f64::from(p.weight)).sum::<f64>().max(1.0);
    let (old, new) = (sum(before), sum(after));
    before.iter().zip(after).any(|(b, a)| {
        let shares = (f64::from(b.weight) / old, f64::from(a.weight) / new);
        b.tier != a.tier || (shares.1 - shares.0).abs() > DEAD_BAND * shares.0.max(shares.1)
    })
}

impl RoutePool {
    /// Places in force, by position.
    fn places(&self) -> Vec<Place> {
        (0..self.members.len())
            .map(|position| Place {
                weight: self.pool.weight(position).unwrap_or(0),
                tier: self.pool.tier(position).unwrap_or(0),
            })
            .collect()
    }

    /// Places by a controller's weights of backends.
    fn led_by(&self, weights: &HashMap<String, u32>) -> Vec<Place> {
        let name = |position: usize| &*self.members[position].state.name;
        // By backend and tier: weight of the plan and members that have any.
        let mut parts: BTreeMap<(&str, u8), (u64, u32)> = BTreeMap::new();
        let mut first: BTreeMap<&str, u8> = BTreeMap::new();
        for (position, place) in self.planned.iter().enumerate().filter(|(_, place)| place.weight > 0) {
            let part = parts.entry((name(position), place.tier)).or_default();
            part.0 += u64::from(place.weight);
            part.1 += 1;
            let tier = first.entry(name(position)).or_insert(place.tier);
            *tier = place.tier.min(*tier);
        }
        // So that a backend's weight can be divided among its endpoints.
        let scale = f64::from(parts.values().map(|part| part.1).max().unwrap_or(1).min(64));
        self.planned
            .iter()
            .enumerate()
            .map(|(position, place)| {
                let (Some(first), Some(part)) =
                    (first.get(name(position)), parts.get(&(name(position), place.tier)))
                else {
                    return Place { weight: 0, ..*place };
                };
                match weights.get(name(position)) {
                    Some(0) if place.tier > 0 => *place,
                    Some(0) => Place { weight: 0, ..*place },
                    Some(weight) => {
                        let share = f64::from(place.weight) / part.0 as f64;
                        let weight = (f64::from(*weight) * share * scale).round() as u32;
                        let weight = if place.weight > 0 { weight.max(1) } else { 0 };
                        Place { weight, tier: place.tier.saturating_sub(*first) }
                    }
                    None => Place { weight: place.weight.saturating_mul(scale as u32), ..*place },
                }
            })
            .collect()
    }
}
