//! Who is chosen?
//!
//! Every algorithm sees only members that are open, not draining and not excluded. In slow start a member
//! is admitted to a choice with the probability of its share of weight.
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
//!     succeeds. With [`Estimate::Peak`] the first term is that of Finagle's Peak-EWMA.
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

use std::ops::Deref;
use std::sync::atomic::Ordering::Relaxed;

use traflux_core::Timestamp;
use traflux_core::plan::balance::{BalancePlan, Estimate, LoadUnit, Objective};
use traflux_core::plan::routing::Algorithm;

use super::endpoint::nanos;
use super::estimator::Tick;
use super::pool::{Pool, Slot};
use super::tier::{Tier, drawn};
use crate::affinity::AffinityKey;
use crate::rng::split_mix;

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
        let requests = |position: u32| loads.requests(self, position) as f32;
        match self.settings.algorithm {
            Algorithm::RoundRobin => self.next_turn(tier, request, draws),
            Algorithm::Weighted => self.sample(tier, request, draws),
            Algorithm::LeastConnections => self.least(tier, request, draws, |position, slot| {
                let load = match self.settings.load {
                    LoadUnit::Requests => requests(position),
                    LoadUnit::Tokens => slot.endpoint.in_flight_tokens() as f32,
                };
                (load + 1.0) * slot.inverse_weight
            }),
            Algorithm::LeastLatency | Algorithm::Adaptive => {
                if let Some(probed) = self.probe(tier, request, draws, requests) {
                    return Some(probed);
                }
                let view = self.view(request);
                self.least(tier, request, draws, |position, slot| view.latency_cost(slot, requests(position)))
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
                    let load = requests(position);
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
                let load = |position| loads.requests(self, position);
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
            if self.admits(position, request, draws) {
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
            if self.admits(position, request, draws) {
                return Some(position);
            }
        }
        self.any(tier, request, draws)
    }

    /// Whoever may be chosen, looking through all from a random one on.
    #[cold]
    fn any(&self, tier: &Tier, request: &Gated<'_>, draws: &mut Draws) -> Option<u32> {
        let positions = &tier.positions;
        let start = draws.below(positions.len().max(1));
        let rotated = positions[start.min(positions.len())..].iter().chain(&positions[..start]);
        rotated.copied().find(|position| self.may_take(*position, request))
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
        let positions = &tier.positions;
        // The cost above, the turn below: the least of such numbers is found without a branch to predict.
        // Costs are positive, and bits of positive floats are ordered as they are.
        let mut best = u64::MAX;
        let rank = |position: u32, turn: u32| {
            let cost = cost(position, &self.slots[position as usize]);
            u64::from(cost.to_bits()) << 32 | u64::from(turn)
        };
        if positions.len() <= self.settings.compare_all_up_to as usize {
            // From a random one on, so that ties fall evenly.
            let start = draws.below(positions.len().max(1));
            for turn in 0..positions.len() {
                let at = start + turn;
                let at = if at >= positions.len() { at - positions.len() } else { at };
                if self.admits(positions[at], request, draws) {
                    best = best.min(rank(positions[at], turn as u32));
                }
            }
            if best == u64::MAX {
                return self.any(tier, request, draws);
            }
            return Some(positions[(start + (best & 0xffff_ffff) as usize) % positions.len()]);
        }
        let mut drawn = [0u32; MOST_CHOICES];
        let choices = (self.settings.choices as usize).clamp(1, MOST_CHOICES);
        let (mut turn, mut tried) = (0, false);
        while turn < choices {
            drawn[turn] = self.sample(tier, request, draws)?;
            // With two choices a second draw of the same would waste the comparison.
            if turn == 1 && drawn[1] == drawn[0] && !tried {
                tried = true;
                continue;
            }
            best = best.min(rank(drawn[turn], turn as u32));
            turn += 1;
        }
        Some(drawn[(best & 0xffff_ffff) as usize])
    }

    /// The cheapest member whose expected latency, errors and quota are within limits.
    ///
    /// Looks at no more than the first [`CHEAPEST_OF`] open members by typical price.
    fn cheapest(
        &self,
        tier: &Tier,
        request: &Gated<'_>,
        draws: &mut Draws,
        load: impl Fn(u32) -> f32,
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
            let load = load(*position);
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
        load: impl Fn(u32) -> f32,
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
            load(*position) == 0.0
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
        let Some(slot) = self.slots.get(position) else { return false };
        let Some(tier) = self.tiers.iter().find(|tier| tier.number == self.terms[position].tier) else {
            return false;
        };
        let total = self.shared.in_flight.load(Relaxed);
        f64::from(slot.endpoint.in_flight()) + 1.0 <= self.bound(position as u32, total, tier.total_weight)
    }

    /// Whether a member may be chosen and its slow start lets it into this choice.
    #[inline(always)]
    fn admits(&self, position: u32, request: &Gated<'_>, draws: &mut Draws) -> bool {
        self.may_take(position, request) && self.is_warm_enough(position, request, draws)
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
    fn is_warm_enough(&self, position: u32, request: &Gated<'_>, draws: &mut Draws) -> bool {
        !request.some_warming || self.is_ramped(position, request, draws)
    }

    #[inline(never)]
    fn is_ramped(&self, position: u32, request: &Gated<'_>, draws: &mut Draws) -> bool {
        let now = request.now;
        let age = now.since(self.slots[position as usize].endpoint.started_at());
        let share = self.settings.slow_start.share(age) as f32;
        share >= 1.0 || (draws.next() >> 40) as f32 * (1.0 / (1u32 << 24) as f32) < share
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
        View {
            now: Tick::of(request.now),
            estimate: self.estimate,
            prompt_factor: first.map_or(1.0, |slot| slot.endpoint.prompt_factor(request.fresh_tokens())),
            output_tokens,
            awaited_tokens: if first_only { 0.0 } else { output_tokens },
            pool_latency,
            failure_latencies: self.settings.failure_latencies as f32,
        }
    }
}

/// Who counts what is in flight.
trait Loads {
    fn requests(&self, pool: &Pool, position: u32) -> u32;
    fn total(&self, pool: &Pool) -> i64;
}

/// The endpoints themselves.
struct Counted;

impl Loads for Counted {
    #[inline]
    fn requests(&self, pool: &Pool, position: u32) -> u32 {
        pool.slots[position as usize].endpoint.in_flight()
    }

    #[inline]
    fn total(&self, pool: &Pool) -> i64 {
        pool.shared.in_flight.load(Relaxed)
    }
}

impl Loads for &[u32] {
    #[inline]
    fn requests(&self, _pool: &Pool, position: u32) -> u32 {
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
    /// To expect in the answer.
    output_tokens: f32,
    /// Of these, what latency counts.
    awaited_tokens: f32,
    pool_latency: f32,
    failure_latencies: f32,
}

impl View {
    #[inline(always)]
    fn unit_latency(&self, slot: &Slot) -> f32 {
        let unit =
            slot.endpoint.unit_latency_by(self.now, self.estimate, self.prompt_factor, self.awaited_tokens);
        if unit > 0.0 { unit } else { self.pool_latency * UNKNOWN }
    }

    #[inline]
    fn expected_latency(&self, slot: &Slot, load: f32) -> f32 {
        let crowding = if self.estimate == Estimate::Peak { 1.0 } else { (load + 1.0).sqrt() };
        self.unit_latency(slot) * crowding
    }

    /// Whether an endpoint has as many requests in flight as one so little known may have.
    #[inline]
    fn is_crowded_unknown(&self, slot: &Slot, load: f32) -> bool {
        let samples = slot.endpoint.samples();
        samples < KNOWN_AFTER && load > 2.0 * samples as f32
    }

    /// The expected latency and what errors cost.
    #[inline]
    fn weighed_latency(&self, slot: &Slot, load: f32) -> f32 {
        self.weigh(slot, load, self.expected_latency(slot, load))
    }

    /// The same with load counted once more. Always inlined, as all that is done once for each choice.
    #[inline(always)]
    fn latency_cost(&self, slot: &Slot, load: f32) -> f32 {
        self.weigh(slot, load, self.unit_latency(slot) * (load + 1.0))
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
