//! Who is chosen?
//!
//! Every algorithm sees only members that are open, not draining and not excluded. In slow start a member
//! is admitted to a choice with the probability of its share of weight, over that of the open member of its tier that
//! came first: where all are as new, nobody holds back. Where nobody was admitted, one is drawn by weight and share.
//!
//! - Round robin: by weight, the next turn of a [precomputed order](super::schedule), by an atomic counter.
//! - Weighted: the alias method.
//! - The load-aware ones compare up to `compare_all_up_to` members all, beyond that `choices` drawn by
//!   weight (M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12, 2001), and take
//!   the least *cost*. With `q` requests (or tokens) in flight, `w` the weight, `ℓ` the unit latency of
//!   [`Endpoint::expected_latency`](super::Endpoint::expected_latency), `L` its mean over the pool, `e` the error
//!   ratio and `F` the latencies that a failure costs:
//!   - least connections: `(q + 1) / w`,
//!   - least latency and, with the weights of [`adaptive`](super::adaptive) in which prices count, adaptive:
//!     `(ℓ·(q + 1) + e·F·L) / (1 − e) / w`: the expected latency `ℓ·√(q + 1)` once more by
//!     `√(q + 1)`, so that load counts before it shows in latency, and what failed attempts cost until one
//!     succeeds. Here `ℓ·(q + 1)` is `ℓ` of a request with the pool's mean prompt for each that is ahead and `ℓ` of this
//!     request for itself: who brings a long prompt looks for a fast endpoint, who brings a short one for an idle one.
//!     Of a stream a second before the first token counts as four after it, since it is what somebody waits for. With
//!     [`Estimate::Peak`] and prompts alike the first term is that of Finagle's Peak-EWMA.
//!   - hot-cold: those whose load by weight is above the quantile of loads are hot; the cold one of least latency, else the
//!     hot one of least load (B. Wydrowski, R. Kleinberg, S. M. Rumble and A. Archer, "Load is not what you
//!     should balance: introducing Prequal", NSDI 2024, arXiv 2312.10172). Departure: loads are the requests in flight
//!     from here, known without probes.
//! - Least cost: of the 16 open members that are cheapest for a typical request, the one whose
//!   [expected cost](super::Price::expected) for this request is least among those within the limits of
//!   [`CostPlan`](super::CostPlan); of equally cheap ones the one of least latency cost; where none is within
//!   limits, the one of least latency cost. Load counts at once through the expected latency, so that the cheapest
//!   passes its surplus on before it is slow. Weights solved elsewhere go with [`Algorithm::Weighted`] or
//!   [`Algorithm::Adaptive`] and [`Pool::with_weights`].
//! - Consistent hash: see [`crate::affinity`].
//!
//! Who is unknown counts as half the mean of the pool, so as to be tried, and may have two requests in flight for each answer so far
//! and one more, so that no herd meets a cold endpoint. One in `probe_one_in` requests goes to a member that is idle and
//! was silent for `probe_after`, where there is one: so a slow endpoint that got better is found, for a
//! bounded share of requests.

use std::hint::select_unpredictable;
use std::ops::Deref;
use std::sync::atomic::Ordering::Relaxed;

use arrayvec::ArrayVec;
use traflux_core::Timestamp;
use traflux_core::plan::balance::{BalancePlan, Estimate, LoadUnit, Objective};
use traflux_core::plan::routing::Algorithm;

use super::endpoint::nanos;
use super::estimator::Tick;
use super::pool::{Pool, Slot};
use super::tier::{Tier, drawn};
use crate::affinity::AffinityKey;
use crate::rng::split_mix;
use crate::units::unit_draw;

/// What a choice gets to know of its request.
#[derive(Debug, Clone, Copy)]
pub struct PickRequest<'a> {
    /// The time.
    pub now: Timestamp,
    /// A uniformly random number, all the randomness that the choice has.
    pub draw: u64,
    /// Positions that must not be chosen, as those already tried; looked through one by one.
    pub excluded: &'a [u32],
    /// Tokens of the prompt, cached ones among them.
    pub prompt_tokens: u32,
    /// Tokens of the prompt that are cached.
    pub cached_tokens: u32,
    /// The most tokens that the answer may have. It is expected to be as long, in proportion, as answers were.
    pub output_tokens: u32,
    /// Whether the answer is streamed, for [`Objective::FirstToken`].
    pub stream: bool,
    /// What [`Algorithm::ConsistentHash`] goes by; without one the draw stands in.
    pub key: Option<AffinityKey>,
}

impl PickRequest<'_> {
    /// A request without tokens, key or exclusions.
    #[must_use]
    pub const fn new(now: Timestamp, draw: u64) -> Self {
        Self {
            now,
            draw,
            excluded: &[],
            prompt_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            stream: false,
            key: None,
        }
    }

    /// Prompt tokens that are to be computed.
    #[inline]
    fn fresh_tokens(&self) -> u32 {
        self.prompt_tokens.saturating_sub(self.cached_tokens)
    }
}

/// A request with what is asked of the pool once for each pick.
pub(crate) struct Gated<'a> {
    request: &'a PickRequest<'a>,
    /// Whether any member is closed or excluded.
    some_shut: bool,
    /// Whether any member may be in slow start.
    some_warming: bool,
}

impl<'a> Deref for Gated<'a> {
    type Target = PickRequest<'a>;

    #[inline]
    fn deref(&self) -> &PickRequest<'a> {
        self.request
    }
}

/// Random numbers of one pick.
pub(crate) struct Draws(u64);

impl Draws {
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    #[inline]
    fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound as u64) >> 32) as usize
    }
}

/// Draws until a member is admitted, before all are looked through.
const TRIES: usize = 8;
/// The most choices that are drawn.
const MOST_CHOICES: usize = BalancePlan::MOST_CHOICES as usize;
/// The search for the cheapest looks at this many members that are open.
const CHEAPEST_OF: usize = 16;
/// Members that a probe looks at.
const PROBED: usize = 8;
/// Errors never weigh more than this ratio, so that among failing members the least failing is still found.
const MOST_ERRORS: f32 = 0.98;
/// What the unknown count as, in means of the pool: less than one, so that they are tried even where nobody is busy.
const UNKNOWN: f32 = 0.5;
/// Answers after which an endpoint is known.
const KNOWN_AFTER: u32 = 8;
/// How much less time after the first token of a stream counts than time before it.
pub(crate) const AFTER_FIRST_TOKEN: f32 = 0.25;

impl Pool {
    /// Chooses a position; `None` where nobody may be chosen. The request is not counted as in flight before
    /// [`start`](Self::start).
    #[inline]
    #[must_use]
    pub fn pick(&self, request: &PickRequest<'_>) -> Option<usize> {
        self.pick_with(request, &Counted)
    }

    /// The same with the caller's own count of what is in flight by position.
    ///
    /// # Panics
    /// When `in_flight` is shorter than the members.
    #[must_use]
    pub fn pick_by(&self, request: &PickRequest<'_>, in_flight: &[u32]) -> Option<usize> {
        self.pick_with(request, &in_flight)
    }

    #[inline]
    fn pick_with(&self, request: &PickRequest<'_>, loads: &impl Loads) -> Option<usize> {
        let mut draws = Draws(request.draw);
        let request = &self.gate(request);
        let first = if self.tiers.len() > 1 { drawn(&self.tiers, draws.next()) } else { 0 };
        let tier = self.tiers.get(first)?;
        let picked = self.pick_in(tier, request, &mut draws, loads);
        if picked.is_some() || self.tiers.len() == 1 {
            return picked.map(|position| position as usize);
        }
        let others = self.tiers.iter().enumerate().filter(|(ix, _)| *ix != first);
        let picked = others.into_iter().find_map(|(_, tier)| self.pick_in(tier, request, &mut draws, loads));
        picked.map(|position| position as usize)
    }

    #[inline]
    fn pick_in(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        draws: &mut Draws,
        loads: &impl Loads,
    ) -> Option<u32> {
        let requests = |position: u32, slot: &Slot| loads.requests(position, slot) as f32;
        match self.settings.algorithm {
            Algorithm::RoundRobin => self.next_turn(tier, request, draws),
            Algorithm::Weighted => self.sample(tier, request, draws),
            Algorithm::LeastConnections => self.least(tier, request, draws, |position, slot| {
                let load = match self.settings.load {
                    LoadUnit::Requests => requests(position, slot),
                    LoadUnit::Tokens => slot.endpoint.in_flight_tokens() as f32,
                };
                (load + 1.0) * slot.inverse_weight
            }),
            Algorithm::LeastLatency | Algorithm::Adaptive => {
                if let Some(probed) = self.probe(tier, request, draws, requests) {
                    return Some(probed);
                }
                let view = self.view(request);
                self.least(tier, request, draws, |position, slot| {
                    view.latency_cost(slot, requests(position, slot))
                })
            }
            Algorithm::HotCold => {
                if let Some(probed) = self.probe(tier, request, draws, requests) {
                    return Some(probed);
                }
                let view = self.view(request);
                // Half a request above the estimate, which moves about whole numbers.
                let hot = self.shared.hot.value().unwrap_or(1.0) - 0.5;
                let learn = draws.next() & 7 == 0;
                self.least(tier, request, draws, |position, slot| {
                    let load = requests(position, slot);
                    let relative = load * slot.inverse_weight;
                    if learn {
                        self.shared.hot.record(relative + 1.0, self.settings.hot_quantile as f32);
                    }
                    // Latencies are far below 10⁶ s, so every hot one comes after every cold one.
                    if relative > hot { 1e6 + relative } else { view.weighed_latency(slot, load).min(1e6) }
                })
            }
            Algorithm::LeastCost => self.cheapest(tier, request, draws, requests),
            Algorithm::ConsistentHash => {
                let key = request.key.map_or_else(|| draws.next(), |key| key.0);
                let load = |position| loads.requests(position, &self.slots[position as usize]);
                self.pick_hashed(tier, request, key, load, loads.total(self))
            }
        }
    }

    /// The next turn that may be taken.
    ///
    /// A turn of one who may not be chosen goes to the next in order; until the pool is reconfigured, that is
    /// nearly by weight, since orders are interleaved.
    fn next_turn(&self, tier: &Tier, request: &Gated<'_>, draws: &mut Draws) -> Option<u32> {
        let len = tier.order.len() as u64;
        if len == 0 {
            return None;
        }
        for _ in 0..TRIES.max(request.excluded.len() + 1) {
            // Relaxed: turns need to differ, not to order other memory.
            let turn = tier.turn.fetch_add(1, Relaxed) % len;
            let position = tier.order[turn as usize];
            if self.admits(tier, position, request, draws) {
                return Some(position);
            }
        }
        self.any(tier, request, draws)
    }

    /// One drawn by weight.
    #[inline(always)]
    fn sample(&self, tier: &Tier, request: &Gated<'_>, draws: &mut Draws) -> Option<u32> {
        for _ in 0..TRIES {
            let position = tier.table.draw_by(draws.next())?;
            if self.admits(tier, position, request, draws) {
                return Some(position);
            }
        }
        self.any(tier, request, draws)
    }

    /// One of those who may be chosen, drawn by weight and by its share of it in slow start, looking through all.
    #[cold]
    fn any(&self, tier: &Tier, request: &Gated<'_>, draws: &mut Draws) -> Option<u32> {
        let weighed = |position: &u32| {
            let weight = f64::from(self.slots[*position as usize].weight);
            if request.some_warming { weight * self.ramp(tier, *position, request) } else { weight }
        };
        let open = || tier.positions.iter().filter(|position| self.may_take(**position, request));
        let mut left = unit_draw(draws.next()) * open().map(weighed).sum::<f64>();
        let mut last = None;
        for position in open() {
            last = Some(*position);
            left -= weighed(position);
            if left < 0.0 {
                break;
            }
        }
        last
    }

    /// The least cost of all, or of several drawn by weight.
    #[inline]
    fn least(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        draws: &mut Draws,
        cost: impl Fn(u32, &Slot) -> f32,
    ) -> Option<u32> {
        let compares_all = tier.positions.len() <= self.settings.compare_all_up_to as usize;
        let mut drawn: ArrayVec<u32, MOST_CHOICES> = ArrayVec::new();
        let (candidates, mut at) = if compares_all {
            // From a random one on, so that ties fall evenly.
            (&tier.positions[..], draws.below(tier.positions.len().max(1)))
        } else {
            // All are drawn before any is judged: their cache lines then come side by side.
            let choices = (self.settings.choices as usize).clamp(1, MOST_CHOICES);
            let mut tried = false;
            while drawn.len() < choices {
                let position = self.sample(tier, request, draws)?;
                // With two choices a second draw of the same would waste the comparison.
                if drawn.len() == 1 && drawn[0] == position && !tried {
                    tried = true;
                    continue;
                }
                drawn.push(position);
            }
            (&drawn[..], 0)
        };
        let (mut least, mut chosen) = (u64::MAX, None);
        for _ in 0..candidates.len() {
            let position = candidates[at];
            at = if at + 1 == candidates.len() { 0 } else { at + 1 };
            if compares_all && !self.admits(tier, position, request, draws) {
                continue;
            }
            // Costs are positive, and bits of positive floats are ordered as they are. Whose cost is least is not to be
            // predicted, so that is found without a branch; of equal ones it is the first.
            let cost = u64::from(cost(position, &self.slots[position as usize]).to_bits());
            chosen = select_unpredictable(cost < least, Some(position), chosen);
            least = least.min(cost);
        }
        chosen.or_else(|| self.any(tier, request, draws))
    }

    /// The cheapest member whose expected latency, errors and quota are within limits.
    ///
    /// Looks at no more than the first [`CHEAPEST_OF`] open members by typical price.
    fn cheapest(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        draws: &mut Draws,
        load: impl Fn(u32, &Slot) -> f32,
    ) -> Option<u32> {
        let limits = self.settings.least_cost;
        let limit = limits.latency_limit.as_secs_f32();
        let view = self.view(request);
        let mut cheapest: Option<(u64, f32, u32)> = None;
        let mut fastest: Option<(f32, u32)> = None;
        let in_tier = |position: &&u32| tier.positions.binary_search(position).is_ok();
        let open = |position: &&u32| self.may_take(**position, request);
        let by_price = self.by_price.iter().filter(|p| self.tiers.len() == 1 || in_tier(p));
        for position in by_price.filter(open).take(CHEAPEST_OF) {
            let slot = &self.slots[*position as usize];
            let terms = &self.terms[*position as usize];
            let load = load(*position, slot);
            let weighed = view.latency_cost(slot, load);
            let within = view.expected_latency(slot, load) <= limit
                && f64::from(slot.endpoint.error_ratio(view.now)) <= limits.error_limit
                && f64::from(terms.quota_left()) >= limits.quota_reserve
                && !view.is_crowded_unknown(slot, load);
            let cost = terms
                .price
                .expected(request.prompt_tokens, request.cached_tokens, view.output_tokens as u32)
                .0;
            if within && cheapest.is_none_or(|(c, w, _)| (cost, weighed) < (c, w)) {
                cheapest = Some((cost, weighed, *position));
            }
            if fastest.is_none_or(|(w, _)| weighed < w) {
                fastest = Some((weighed, *position));
            }
        }
        let picked = cheapest.map(|(_, _, position)| position).or(fastest.map(|(_, position)| position));
        picked.or_else(|| self.any(tier, request, draws))
    }

    /// A member that is idle and was long silent, for one in so many requests.
    #[inline]
    fn probe(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        draws: &mut Draws,
        load: impl Fn(u32, &Slot) -> f32,
    ) -> Option<u32> {
        let one_in = u64::from(self.settings.probe_one_in);
        // A multiplication in place of a division: true for one of `one_in` draws.
        if one_in == 0 || ((draws.next() >> 32) * one_in) >> 32 != 0 || tier.positions.is_empty() {
            return None;
        }
        let now = Tick::of(request.now);
        let after = self.settings.probe_after.as_secs_f32();
        let positions = &tier.positions;
        let start = draws.below(positions.len());
        let rotated = positions[start..].iter().chain(&positions[..start]).take(PROBED).copied();
        rotated.into_iter().find(|position| {
            let slot = &self.slots[*position as usize];
            load(*position, slot) == 0.0
                && (slot.endpoint.samples() == 0 || slot.endpoint.silent_for(now) > after)
                && self.may_take(*position, request)
        })
    }

    /// Whether a request may go to a member.
    #[inline]
    #[must_use]
    pub fn is_open_to(&self, position: usize, request: &PickRequest<'_>) -> bool {
        position < self.slots.len()
            && self.slots[position].weight > 0
            && self.may_take(position as u32, &self.gate(request))
    }

    /// Whether a member is within its bounded share of what is in flight; always, in pools that do not count
    /// ([`BalancePlan::bounded`]).
    #[inline]
    #[must_use]
    pub fn has_room(&self, position: usize) -> bool {
        if !self.counts_total {
            return true;
        }
        let Some(tier_weight) = self.tier_weight(position) else { return false };
        let total = self.shared.in_flight.load(Relaxed);
        let in_flight = self.slots[position].endpoint.in_flight();
        f64::from(in_flight) + 1.0 <= self.bound(position as u32, total, tier_weight)
    }

    /// What a request to a member would cost by latency, load and errors, in seconds by weight.
    pub(crate) fn latency_cost(&self, position: usize, request: &PickRequest<'_>) -> f32 {
        let slot = &self.slots[position];
        self.view(request).latency_cost(slot, slot.endpoint.in_flight() as f32)
    }

    /// Whether a member has no more in flight than its share of all that is; always, in pools that do not count.
    pub(crate) fn is_below_mean(&self, position: usize) -> bool {
        if !self.counts_total {
            return true;
        }
        let Some(tier_weight) = self.tier_weight(position) else { return false };
        let slot = &self.slots[position];
        let total = self.shared.in_flight.load(Relaxed) as f64;
        f64::from(slot.endpoint.in_flight()) * tier_weight as f64 <= total * f64::from(slot.weight)
    }

    /// The weight of all that are in the tier of a member.
    fn tier_weight(&self, position: usize) -> Option<u64> {
        let number = self.terms.get(position)?.tier;
        self.tiers.iter().find(|tier| tier.number == number).map(|tier| tier.total_weight)
    }

    /// Whether a member may be chosen and its slow start lets it into this choice.
    #[inline(always)]
    fn admits(&self, tier: &Tier, position: u32, request: &Gated<'_>, draws: &mut Draws) -> bool {
        self.may_take(position, request) && self.is_warm_enough(tier, position, request, draws)
    }

    /// Whether a member may be chosen at all.
    #[inline(always)]
    pub(crate) fn may_take(&self, position: u32, request: &Gated<'_>) -> bool {
        !(self.slots[position as usize].endpoint.is_draining()
            || request.some_shut && self.is_shut(position, request))
    }

    /// Whether a member is closed, or excluded by a request.
    #[inline(never)]
    fn is_shut(&self, position: u32, request: &Gated<'_>) -> bool {
        !self.eligibility.is_open(position as usize) || request.excluded.contains(&position)
    }

    #[inline]
    fn gate<'a>(&self, request: &'a PickRequest<'a>) -> Gated<'a> {
        let warming_until = self.warming_until.load(Relaxed);
        Gated {
            request,
            some_shut: self.eligibility.any_closed() || !request.excluded.is_empty(),
            some_warming: warming_until != 0 && nanos(request.now) < warming_until,
        }
    }

    #[inline(always)]
    fn is_warm_enough(&self, tier: &Tier, position: u32, request: &Gated<'_>, draws: &mut Draws) -> bool {
        !request.some_warming || self.is_ramped(tier, position, request, draws)
    }

    #[inline(never)]
    fn is_ramped(&self, tier: &Tier, position: u32, request: &Gated<'_>, draws: &mut Draws) -> bool {
        let share = self.ramp(tier, position, request);
        share >= 1.0 || unit_draw(draws.next()) < share
    }

    /// The share of its weight that a member has in slow start, over that of the open member of its tier that came first.
    fn ramp(&self, tier: &Tier, position: u32, request: &Gated<'_>) -> f64 {
        let slow_start = &self.settings.slow_start;
        let share = |started| slow_start.share(request.now.since(started));
        let most = share(tier.oldest());
        let own = share(self.slots[position as usize].endpoint.started_at());
        if own < most { own / most } else { 1.0 }
    }

    #[inline]
    fn view(&self, request: &PickRequest<'_>) -> View {
        let pool_latency = self.shared.latency.value();
        let pool_latency = if pool_latency > 0.0 { pool_latency } else { 1.0 };
        let written = self.shared.written.value();
        let written = if written > 0.0 { written } else { 1.0 };
        let first = self.slots.first();
        let output_tokens = request.output_tokens as f32 * written;
        let first_only = request.stream && self.settings.objective == Objective::FirstToken;
        let prompt_factor = first.map_or(1.0, |slot| slot.endpoint.prompt_factor(request.fresh_tokens()));
        let mean_prompt = self.shared.prompt.value();
        let awaited_tokens = if first_only { 0.0 } else { output_tokens };
        View {
            now: Tick::of(request.now),
            estimate: self.estimate,
            prompt_factor,
            mean_prompt_factor: if mean_prompt > 0.0 { mean_prompt } else { prompt_factor },
            output_tokens,
            awaited_tokens,
            counted_tokens: if request.stream { awaited_tokens * AFTER_FIRST_TOKEN } else { awaited_tokens },
            pool_latency,
            failure_latencies: self.settings.failure_latencies as f32,
        }
    }
}

/// Who counts what is in flight.
trait Loads {
    fn requests(&self, position: u32, slot: &Slot) -> u32;
    fn total(&self, pool: &Pool) -> i64;
}

/// The endpoints themselves.
struct Counted;

impl Loads for Counted {
    #[inline]
    fn requests(&self, _position: u32, slot: &Slot) -> u32 {
        slot.endpoint.in_flight()
    }

    #[inline]
    fn total(&self, pool: &Pool) -> i64 {
        pool.shared.in_flight.load(Relaxed)
    }
}

impl Loads for &[u32] {
    #[inline]
    fn requests(&self, position: u32, _slot: &Slot) -> u32 {
        self[position as usize]
    }

    fn total(&self, _pool: &Pool) -> i64 {
        self.iter().map(|n| i64::from(*n)).sum()
    }
}

/// What a request sees of the pool.
struct View {
    now: Tick,
    estimate: Estimate,
    /// One for all endpoints, which are of one table.
    prompt_factor: f32,
    /// The same of what was answered lately.
    mean_prompt_factor: f32,
    /// To expect in the answer.
    output_tokens: f32,
    /// Of these, what latency counts.
    awaited_tokens: f32,
    /// The same by what they count beside the first token.
    counted_tokens: f32,
    pool_latency: f32,
    failure_latencies: f32,
}

impl View {
    #[inline(always)]
    fn latency(&self, slot: &Slot, prompt_factor: f32, tokens: f32, unknown: f32) -> f32 {
        let latency = slot.endpoint.unit_latency_by(self.now, self.estimate, prompt_factor, tokens);
        if latency > 0.0 { latency } else { self.pool_latency * UNKNOWN * unknown }
    }

    #[inline]
    fn crowding(&self, load: f32) -> f32 {
        if self.estimate == Estimate::Peak { 1.0 } else { (load + 1.0).sqrt() }
    }

    /// In seconds.
    #[inline]
    fn expected_latency(&self, slot: &Slot, load: f32) -> f32 {
        self.latency(slot, self.prompt_factor, self.awaited_tokens, 1.0) * self.crowding(load)
    }

    /// Whether an endpoint has as many requests in flight as one so little known may have.
    #[inline]
    fn is_crowded_unknown(&self, slot: &Slot, load: f32) -> bool {
        let samples = slot.endpoint.samples();
        samples < KNOWN_AFTER && load > 2.0 * samples as f32
    }

    /// The expected latency, as its parts count, and what errors cost.
    #[inline]
    fn weighed_latency(&self, slot: &Slot, load: f32) -> f32 {
        let latency = self.latency(slot, self.prompt_factor, self.counted_tokens, 1.0);
        self.weigh(slot, load, latency * self.crowding(load))
    }

    /// The same with load counted once more, and as requests of the usual size. Always inlined, as all that is done once
    /// for each choice.
    #[inline(always)]
    fn latency_cost(&self, slot: &Slot, load: f32) -> f32 {
        let prompts = self.mean_prompt_factor * load + self.prompt_factor;
        let requests = load + 1.0;
        let latencies = self.latency(slot, prompts, self.counted_tokens * requests, requests);
        self.weigh(slot, load, latencies)
    }

    #[inline(always)]
    fn weigh(&self, slot: &Slot, load: f32, mut cost: f32) -> f32 {
        if self.is_crowded_unknown(slot, load) {
            cost *= 1000.0;
        }
        let errors = slot.endpoint.error_ratio(self.now).min(MOST_ERRORS);
        if errors >= 1e-3 {
            cost = (cost + errors * self.failure_latencies * self.pool_latency) / (1.0 - errors);
        }
        cost * slot.inverse_weight
    }
}
