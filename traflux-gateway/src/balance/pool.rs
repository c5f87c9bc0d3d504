//! Among whom is chosen, and with what weights?

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};

use traflux_core::Timestamp;
use traflux_core::plan::balance::{Estimate, Objective};
use traflux_core::plan::routing::Algorithm;

use super::choice::AFTER_FIRST_TOKEN;
use super::eligibility::Eligibility;
use super::endpoint::{Answer, Endpoint, nanos};
use super::estimator::{DecayingMean, Forgetting, StreamingQuantile, Tick};
use super::settings::BalanceSettings;
use super::tier::{Tier, split_load};
use crate::affinity::Maglev;
use crate::error::GatewayError;
use crate::rng::Rng;
use crate::units::PicoDollars;

/// What tokens cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Price {
    /// A prompt token that was not cached.
    pub input: PicoDollars,
    /// A prompt token that was cached.
    pub cached: PicoDollars,
    /// A token of the answer.
    pub output: PicoDollars,
    /// A request, whatever its tokens.
    pub request: PicoDollars,
}

impl Price {
    /// What a request is expected to cost:
    /// `request + (prompt − cached)·p_in + cached·p_cache + output·p_out`, saturating.
    #[inline]
    #[must_use]
    pub fn expected(&self, prompt_tokens: u32, cached_tokens: u32, output_tokens: u32) -> PicoDollars {
        let cached = cached_tokens.min(prompt_tokens);
        let times = |price: PicoDollars, tokens: u32| price.0.saturating_mul(u64::from(tokens));
        PicoDollars(
            self.request
                .0
                .saturating_add(times(self.input, prompt_tokens - cached))
                .saturating_add(times(self.cached, cached))
                .saturating_add(times(self.output, output_tokens)),
        )
    }
}

/// One endpoint in a pool.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its state.
    pub endpoint: Arc<Endpoint>,
    /// Integer weight; 0 leaves it out.
    pub weight: u32,
    /// Priority: 0 serves first, the next where that is not whole.
    pub tier: u8,
    /// What its tokens cost.
    pub price: Price,
}

impl Member {
    /// A member of the first tier, without a price.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>, weight: u32) -> Self {
        Self { endpoint, weight, tier: 0, price: Price::default() }
    }
}

/// What outlives a change of weights.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Requests started and not finished through pools of this line; counted for bounded load only.
    pub(crate) in_flight: AtomicI64,
    /// Mean unit latency of the pool, as choices count it: the prior of who is unknown, and the scale of what a failure
    /// costs.
    pub(crate) latency: DecayingMean,
    /// Mean of how many times as long the first token took as that of an empty prompt.
    pub(crate) prompt: DecayingMean,
    /// Mean length of answers over what they could have had.
    pub(crate) written: DecayingMean,
    /// Load + 1 at the hot quantile.
    pub(crate) hot: StreamingQuantile,
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: u32,
    /// In mean weights of the pool.
    pub(crate) inverse_weight: f32,
}

/// What only some algorithms read, apart from [`Slot`] so that slots are dense.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) price: Price,
    pub(crate) tier: u8,
    /// The share of its quota that is left, in millionths.
    quota: AtomicU32,
}

impl Terms {
    #[inline]
    pub(crate) fn quota_left(&self) -> f32 {
        self.quota.load(Relaxed) as f32 * 1e-6
    }
}

/// An immutable choice over endpoints; see the [module](super).
#[derive(Debug)]
pub struct Pool {
    pub(crate) settings: BalanceSettings,
    pub(crate) slots: Box<[Slot]>,
    pub(crate) terms: Box<[Terms]>,
    pub(crate) estimate: Estimate,
    pub(crate) tiers: Box<[Tier]>,
    pub(crate) eligibility: Eligibility,
    pub(crate) shared: Arc<Shared>,
    /// Positions by blended price, for the search of the cheapest.
    pub(crate) by_price: Box<[u32]>,
    /// Until when some member is in slow start, in nanoseconds since the epoch.
    pub(crate) warming_until: AtomicU64,
    positions_by_id: Box<[u32]>,
    /// Whether [`Shared::in_flight`] is counted: it is one word for all threads, so only where it is needed.
    pub(crate) counts_total: bool,
    forgetting: Forgetting,
    seed: u64,
}

/// Tokens of the request by whose cost members are ordered; the search looks at the exact cost among the first.
const TYPICAL_TOKENS: (u32, u32, u32) = (1000, 300, 300);

impl Pool {
    /// A pool of members, addressed by their position. The seed sets the phase of round robin, so that
    /// several gateways do not walk in step.
    ///
    /// # Errors
    /// [`GatewayError::Plan`] as [`BalancePlan::validate`](super::BalancePlan::validate), and [`GatewayError::Setting`]
    /// for more than 2²⁴ members.
    pub fn new(
        settings: BalanceSettings,
        members: impl IntoIterator<Item = Member>,
        seed: u64,
    ) -> Result<Self, GatewayError> {
        Self::build(settings, members.into_iter().collect(), seed, Arc::default())
    }

    /// The same line of pools with other settings and members: learned state goes on, as does eligibility of
    /// endpoints that stay.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn reconfigured(
        &self,
        settings: BalanceSettings,
        members: impl IntoIterator<Item = Member>,
    ) -> Result<Self, GatewayError> {
        let seed = Rng::stream(self.seed, 1).next_u64();
        let next = Self::build(settings, members.into_iter().collect(), seed, Arc::clone(&self.shared))?;
        for (position, slot) in next.slots.iter().enumerate() {
            if let Some(before) = self.position_of(slot.endpoint.id()) {
                next.terms[position].quota.store(self.terms[before].quota.load(Relaxed), Relaxed);
                next.eligibility.set(position, self.eligibility.is_open(before));
            }
        }
        next.split_load();
        Ok(next)
    }

    /// The same with other weights, by position.
    ///
    /// # Errors
    /// [`GatewayError::Shape`] for weights of another number.
    pub fn with_weights(&self, weights: &[u32]) -> Result<Self, GatewayError> {
        if weights.len() != self.slots.len() {
            return Err(GatewayError::Shape {
                what: "weights",
                len: weights.len(),
                expected: self.slots.len(),
            });
        }
        let members = self.slots.iter().zip(&self.terms).zip(weights).map(|((slot, terms), weight)| Member {
            endpoint: Arc::clone(&slot.endpoint),
            weight: *weight,
            tier: terms.tier,
            price: terms.price,
        });
        self.reconfigured(self.settings, members)
    }

    fn build(
        settings: BalanceSettings,
        members: Vec<Member>,
        seed: u64,
        shared: Arc<Shared>,
    ) -> Result<Self, GatewayError> {
        settings.validate()?;
        if members.len() > 1 << 24 {
            return Err(GatewayError::setting("members", members.len(), "at most 16777216"));
        }
        let terms: Box<[Terms]> = members
            .iter()
            .map(|m| Terms { price: m.price, tier: m.tier, quota: AtomicU32::new(1_000_000) })
            .collect();
        let total: f64 = members.iter().map(|m| f64::from(m.weight)).sum();
        let mean_weight = total / members.iter().filter(|m| m.weight > 0).count().max(1) as f64;
        let slots: Box<[Slot]> = members
            .into_iter()
            .map(|member| Slot {
                inverse_weight: (mean_weight / f64::from(member.weight.max(1))) as f32,
                endpoint: member.endpoint,
                weight: member.weight,
            })
            .collect();
        let mut tier_numbers: Vec<u8> =
            slots.iter().zip(&terms).filter(|(s, _)| s.weight > 0).map(|(_, t)| t.tier).collect();
        tier_numbers.sort_unstable();
        tier_numbers.dedup();
        let mut rng = Rng::new(seed);
        let mut tiers = Vec::with_capacity(tier_numbers.len());
        for number in tier_numbers {
            let of_tier: Vec<(u32, u32)> = slots
                .iter()
                .enumerate()
                .filter(|(position, slot)| terms[*position].tier == number && slot.weight > 0)
                .map(|(position, slot)| (position as u32, slot.weight))
                .collect();
            let turns = match settings.algorithm {
                Algorithm::RoundRobin => Some(of_tier.iter().map(|(_, weight)| *weight).collect()),
                _ => None,
            };
            let maglev = (settings.algorithm == Algorithm::ConsistentHash).then(|| {
                let names = of_tier.iter().map(|(position, weight)| {
                    (*position, slots[*position as usize].endpoint.name(), *weight)
                });
                Maglev::new(names, settings.table_slots as usize)
            });
            tiers.push(Tier::new(number, &of_tier, turns, rng.next_u64(), maglev));
        }
        let mut by_price: Vec<u32> =
            (0..slots.len() as u32).filter(|ix| slots[*ix as usize].weight > 0).collect();
        let (prompt, cached, output) = TYPICAL_TOKENS;
        by_price.sort_by_key(|ix| (terms[*ix as usize].price.expected(prompt, cached, output), *ix));
        let ids = slots.iter().map(|slot| slot.endpoint.id() as usize + 1).max().unwrap_or(0);
        let mut positions_by_id = vec![u32::MAX; ids];
        for (position, slot) in slots.iter().enumerate() {
            positions_by_id[slot.endpoint.id() as usize] = position as u32;
        }
        let pool = Self {
            eligibility: Eligibility::new(slots.len()),
            warming_until: AtomicU64::new(0),
            counts_total: settings.bounded || settings.algorithm == Algorithm::ConsistentHash,
            forgetting: Forgetting::new(std::time::Duration::from_secs(10), 256),
            positions_by_id: positions_by_id.into(),
            by_price: by_price.into(),
            tiers: tiers.into(),
            estimate: slots.first().map(|slot| slot.endpoint.estimate()).unwrap_or_default(),
            settings,
            slots,
            terms,
            shared,
            seed,
        };
        for slot in &pool.slots {
            pool.warm(slot.endpoint.started_at());
        }
        pool.split_load();
        Ok(pool)
    }

    /// How many members there are, of any weight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Its settings.
    #[must_use]
    pub fn settings(&self) -> &BalanceSettings {
        &self.settings
    }

    /// The endpoint at a position.
    #[must_use]
    pub fn endpoint(&self, position: usize) -> Option<&Arc<Endpoint>> {
        self.slots.get(position).map(|slot| &slot.endpoint)
    }

    /// The weight at a position.
    #[must_use]
    pub fn weight(&self, position: usize) -> Option<u32> {
        self.slots.get(position).map(|slot| slot.weight)
    }

    /// The tier at a position.
    #[must_use]
    pub fn tier(&self, position: usize) -> Option<u8> {
        self.terms.get(position).map(|terms| terms.tier)
    }

    /// The position of an endpoint, by its id.
    #[inline]
    #[must_use]
    pub fn position_of(&self, endpoint_id: u32) -> Option<usize> {
        let position = *self.positions_by_id.get(endpoint_id as usize)?;
        (position != u32::MAX).then_some(position as usize)
    }

    /// Opens or closes a member, as health says. With a [`SlowStartPlan`](super::SlowStartPlan) an opened one ramps up from
    /// `now`.
    pub fn set_eligible(&self, position: usize, eligible: bool, now: Timestamp) {
        if self.eligibility.set(position, eligible) {
            if eligible {
                self.slots[position].endpoint.restart(now);
                self.warm(now);
            }
            self.split_load();
        }
    }

    /// Opens a member without slow start, because its share grows by other means.
    pub fn reopen(&self, position: usize) {
        if self.eligibility.set(position, true) {
            self.slots[position].endpoint.forgive();
            self.split_load();
        }
    }

    /// Whether a member may be chosen: open, not draining, of positive weight.
    #[inline]
    #[must_use]
    pub fn is_open(&self, position: usize) -> bool {
        self.slots.get(position).is_some_and(|slot| slot.weight > 0 && !slot.endpoint.is_draining())
            && self.eligibility.is_open(position)
    }

    /// Sets the share of its quota that a member has left, in [0, 1].
    pub fn set_quota_left(&self, position: usize, share: f64) {
        if let Some(terms) = self.terms.get(position) {
            terms.quota.store((share.clamp(0.0, 1.0) * 1e6).round() as u32, Relaxed);
        }
    }

    /// Counts a request as in flight at a position, with its tokens; returns how many it met there.
    ///
    /// # Panics
    /// When there is no such position.
    #[inline]
    pub fn start(&self, position: usize, tokens: u64) -> u32 {
        if self.counts_total {
            self.shared.in_flight.fetch_add(1, Relaxed);
        }
        self.slots[position].endpoint.start(tokens)
    }

    /// Takes a request out of flight and learns from its answer; once for each [`start`](Self::start), by this pool
    /// or by one [`reconfigured`](Self::reconfigured) from it.
    ///
    /// # Panics
    /// When there is no such position.
    #[inline]
    pub fn finish(&self, now: Timestamp, position: usize, answer: &Answer) {
        if self.counts_total {
            self.shared.in_flight.fetch_sub(1, Relaxed);
        }
        self.slots[position].endpoint.finish(now, answer);
        self.learn(now, position, answer);
    }

    /// Learns from an answer without counting it out of flight, for callers that count by themselves.
    ///
    /// # Panics
    /// When there is no such position.
    #[inline]
    pub fn observe(&self, now: Timestamp, position: usize, answer: &Answer) {
        self.slots[position].endpoint.observe(now, answer);
        self.learn(now, position, answer);
    }

    #[inline]
    fn learn(&self, now: Timestamp, position: usize, answer: &Answer) {
        let endpoint = &self.slots[position].endpoint;
        let samples = endpoint.samples();
        // The pool's mean is one word for all threads: after the first answers one in eight is enough.
        if !answer.outcome.is_healthy() || samples > 32 && samples & 7 != 0 {
            return;
        }
        let tick = Tick::of(now);
        let (prompt, output) = (answer.prompt_tokens, answer.output_tokens);
        let first_only = self.settings.objective == Objective::FirstToken && answer.first_token.is_some();
        let counts = if answer.first_token.is_some() { AFTER_FIRST_TOKEN } else { 1.0 };
        let awaited = if first_only { 0.0 } else { output as f32 * counts };
        let prompt_factor = endpoint.prompt_factor(prompt);
        let unit = endpoint.unit_latency_by(tick, self.estimate, prompt_factor, awaited);
        if unit > 0.0 {
            self.shared.latency.record(tick, unit, self.forgetting);
            self.shared.prompt.record(tick, prompt_factor, self.forgetting);
        }
        if output > 0 && answer.output_limit > 0 {
            let share = output as f32 / answer.output_limit as f32;
            self.shared.written.record(tick, share.min(1.0), self.forgetting);
        }
    }

    fn warm(&self, started: Timestamp) {
        let window = nanos(Timestamp::new(self.settings.slow_start.window));
        let until = nanos(started).saturating_add(window);
        if window > 0 {
            self.warming_until.fetch_max(until, Relaxed);
        }
    }

    /// Takes in who is open: how load splits over tiers, and whom slow start is measured by.
    fn split_load(&self) {
        for tier in &self.tiers {
            let open = tier.positions.iter().filter(|position| self.is_open(**position as usize));
            let started = open.map(|position| self.slots[*position as usize].endpoint.started_at());
            tier.set_oldest(started.min().unwrap_or(Timestamp::ZERO));
        }
        let open: Vec<f64> = self
            .tiers
            .iter()
            .map(|tier| {
                let weight = |position: &u32| u64::from(self.slots[*position as usize].weight);
                let is_open = |position: &&u32| self.is_open(**position as usize);
                let open: u64 = tier.positions.iter().filter(is_open).map(weight).sum();
                open as f64 / tier.total_weight.max(1) as f64
            })
            .collect();
        split_load(&self.tiers, &open, self.settings.overprovisioning as f32);
    }

    /// Drains or undrains a member; what is in flight goes on.
    pub fn set_draining(&self, position: usize, draining: bool) {
        if let Some(slot) = self.slots.get(position) {
            slot.endpoint.set_draining(draining);
            self.split_load();
        }
    }
}
