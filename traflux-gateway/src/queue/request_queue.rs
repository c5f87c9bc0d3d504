//! How do the parts of the queue work together?

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::queue::{Order, QueuePlan};

use super::bands::BandOrder;
use super::fair::FairTree;
use super::forecast::Forecast;
use super::link::{Around, Link, NIL, Shape, behind};
use super::patience::Patience;
use super::rate::RateMeter;
use super::room::{Bound, Load, Room};
use super::ticket::{
    Admission, Dequeued, Dispatched, DropReason, Dropped, Item, Outlook, QueueLoad, Refusal, Ticket, Waits,
};
use crate::error::GatewayError;

/// Levels of organisation, team, key, ... at most.
const LEVELS: usize = 8;

/// Requests that wait, and who of them goes next.
///
/// Memory grows with the most requests that ever waited at a time; a tenant that is seen for the first time may allocate.
/// Time is an argument; a clock that jumps back counts as standing still.
#[derive(Debug)]
pub struct RequestQueue {
    bands: Vec<Band>,
    order: BandOrder,
    room: Room,
    meter: RateMeter,
    slots: Vec<Slot>,
    /// Links of each slot in the list or heap of its tenant.
    turns: Vec<Link>,
    /// Links of each slot in the list of its latest start.
    ends: Vec<Around>,
    free: Vec<u32>,
    /// Bit `b`: band `b` waits.
    waiting: u32,
    sequence: u32,
    clock: u64,
    next_sweep: u64,
    /// Of each tenant: its parent, and how many tenants have it as parent.
    family: Vec<(Option<u32>, u32)>,
    /// In 1/256.
    tenant_threshold: Option<u64>,
    max_tenants: u32,
    refuse_hopeless: bool,
    expected_seconds_per_token: Option<f64>,
}

#[derive(Debug)]
struct Band {
    order: Order,
    fair: bool,
    tree: FairTree,
    patience: Patience,
    meter: RateMeter,
    /// 1 / minimum share.
    inverse_share: f64,
    max_wait: u64,
    standing_after: u64,
    shed_target: Option<u64>,
    head_start: f64,
    max_head_start: u64,
    /// Since when it has not been empty.
    busy_since: u64,
}

/// One line of the cache.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Slot {
    payload: u64,
    enqueued: u64,
    start_by: u64,
    /// What had joined its tenant before it, modulo the width.
    tokens_before: u64,
    items_before: u32,
    cost: u32,
    bytes: u32,
    generation: u32,
    tenant: u32,
    /// `NIL` while the slot is free.
    leaf: u32,
    band: u8,
    /// What `start_by` comes from.
    limit: DropReason,
}

impl Slot {
    const VACANT: Self = Self {
        payload: 0,
        enqueued: 0,
        start_by: 0,
        tokens_before: 0,
        items_before: 0,
        cost: 0,
        bytes: 0,
        generation: 0,
        tenant: 0,
        leaf: NIL,
        band: 0,
        limit: DropReason::MaxWait,
    };
}

impl RequestQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// [`GatewayError::Plan`] as [`QueuePlan::validate`].
    pub fn new(plan: &QueuePlan) -> Result<Self, GatewayError> {
        plan.validate()?;
        let memory = plan.rate_memory.as_secs_f64();
        let bands = plan.bands.iter().map(|band| {
            let shape = match band.order {
                Order::Fcfs | Order::AdaptiveLifo => Shape::List,
                Order::EarliestDeadline | Order::LeastLaxity | Order::ValueDensity => Shape::Heap,
            };
            Band {
                order: band.order,
                fair: band.fair,
                tree: FairTree::new(plan.quantum_tokens, shape),
                patience: Patience::new(nanos(band.max_wait)),
                meter: RateMeter::new(memory),
                inverse_share: 1.0 / band.min_share,
                max_wait: nanos(band.max_wait),
                standing_after: nanos(band.standing_after),
                shed_target: band.shed_target.map(nanos),
                head_start: nanos(band.value.head_start) as f64,
                max_head_start: nanos(band.value.max_head_start),
                busy_since: 0,
            }
        });
        Ok(Self {
            bands: bands.collect(),
            order: BandOrder::new(plan.bands.iter().map(|b| b.min_share)),
            room: Room::new(plan),
            meter: RateMeter::new(memory),
            slots: Vec::new(),
            turns: Vec::new(),
            ends: Vec::new(),
            free: Vec::new(),
            waiting: 0,
            sequence: 0,
            clock: 0,
            next_sweep: 0,
            family: Vec::new(),
            tenant_threshold: plan.tenant_threshold.map(|a| (a * 256.0) as u64),
            max_tenants: plan.max_tenants,
            refuse_hopeless: plan.refuse_hopeless,
            expected_seconds_per_token: plan.expected_tokens_per_second.map(|r| 1.0 / r),
        })
    }

    /// Sets weight and parent of a tenant: organisation, team and key are tenants, each with the one above as parent.
    /// Only tenants that never were a parent send requests. A tenant that was never set has weight 1 and no parent.
    ///
    /// The weight may change at any time; it counts from the next round on.
    ///
    /// # Errors
    /// [`GatewayError::QueueTenant`] where the weight is 0 or more than 2²⁰, the number is beyond `max_tenants`, or
    /// the tenants would form a circle or more than 8 levels; [`GatewayError::QueueTenantBusy`] where requests wait
    /// that a new parent would move.
    pub fn set_tenant(&mut self, tenant: u32, parent: Option<u32>, weight: u32) -> Result<(), GatewayError> {
        let wrong = |problem| Err(GatewayError::QueueTenant { tenant, problem });
        if weight == 0 || weight > 1 << 20 {
            return wrong("has a weight outside 1 to 2^20");
        }
        if tenant.max(parent.unwrap_or(0)) >= self.max_tenants {
            return wrong("or its parent is not below max_tenants");
        }
        let before = self.family(tenant).0;
        if parent != before {
            let (mut above, mut levels) = (parent, 1);
            while let Some(p) = above {
                levels += 1;
                if p == tenant {
                    return wrong("would be above itself");
                }
                above = self.family(p).0;
            }
            if levels + self.levels_below(tenant) > LEVELS {
                return wrong("would be below the 8th level");
            }
            // A tenant that becomes a group must not have requests of its own.
            let becomes_group = |p: &u32| self.family(*p).1 == 0;
            let busy = |t: u32| self.bands.iter().any(|b| b.fair && b.tree.is_active(t));
            if busy(tenant) || parent.filter(becomes_group).is_some_and(busy) {
                return Err(GatewayError::QueueTenantBusy { tenant });
            }
        }
        let count = tenant.max(parent.unwrap_or(0)) as usize + 1;
        if self.family.len() < count {
            self.family.resize(count, (None, 0));
        }
        self.family[tenant as usize].0 = parent;
        if let Some(p) = before {
            self.family[p as usize].1 -= 1;
        }
        if let Some(p) = parent {
            self.family[p as usize].1 += 1;
        }
        for band in self.bands.iter_mut().filter(|b| b.fair) {
            band.tree.set_tenant(tenant, parent, weight);
        }
        Ok(())
    }

    fn family(&self, tenant: u32) -> (Option<u32>, u32) {
        self.family.get(tenant as usize).copied().unwrap_or((None, 0))
    }

    /// Most tenants have none below them; only for the others all are looked at.
    fn levels_below(&self, tenant: u32) -> usize {
        if self.family(tenant).1 == 0 {
            return 0;
        }
        let children = self.family.iter().enumerate().filter(|(_, (p, _))| *p == Some(tenant));
        children.map(|(c, _)| 1 + self.levels_below(c as u32)).max().unwrap_or(0)
    }

    /// Lets a request wait, or says why not. Requests that leave for it (late ones, and those that it pushes out) are
    /// added to `dropped`.
    pub fn enqueue(&mut self, now: Timestamp, item: &Item, dropped: &mut Vec<Dropped>) -> Admission {
        let refused = |reason, retry_after| Admission::Refused { reason, retry_after };
        let now = self.advance(now);
        self.sweep(now, dropped);
        let b = usize::from(item.band);
        let Some(band) = self.bands.get_mut(b) else { return refused(Refusal::UnknownBand, None) };
        if item.tenant >= self.max_tenants {
            return refused(Refusal::UnknownTenant, None);
        }
        let Some(leaf) = band.tree.leaf(if band.fair { item.tenant } else { 0 }) else {
            return refused(Refusal::UnknownTenant, None);
        };
        if self.waiting & (1 << b) == 0 {
            band.busy_since = now;
        }
        let cost = item.cost_tokens.max(1);
        let load = [1, item.bytes, cost];
        if let Some(bound) = self.room.never(b, &load) {
            return refused(Refusal::TooLarge(bound), None);
        }
        let (Ok(slot_cost), Ok(slot_bytes)) = (u32::try_from(cost), u32::try_from(item.bytes)) else {
            let bound = if cost > u64::from(u32::MAX) { Bound::Tokens } else { Bound::Bytes };
            return refused(Refusal::TooLarge(bound), None);
        };

        let standing = band.is_standing(now);
        let (wait, mut limit) = match band.shed_target {
            Some(target) if standing => (target.min(band.max_wait), DropReason::Shed),
            _ => (band.max_wait, DropReason::MaxWait),
        };
        let mut start_by = now.saturating_add(wait);
        let service = nanos(item.service);
        if let Some(deadline) = item.deadline {
            // A service that takes longer than all time until the deadline starts before the epoch: never.
            let latest = nanos(deadline.since_epoch()).checked_sub(service).filter(|latest| *latest >= now);
            let Some(latest) = latest else { return refused(Refusal::Deadline, None) };
            if latest < start_by {
                (start_by, limit) = (latest, DropReason::Deadline);
            }
        }

        let flow = *band.tree.flow(leaf);
        let own = match band.order {
            Order::Fcfs | Order::ValueDensity => (flow.items, flow.tokens),
            Order::AdaptiveLifo if standing => (0, 0),
            Order::AdaptiveLifo => (flow.items, flow.tokens),
            Order::EarliestDeadline | Order::LeastLaxity => {
                // Nothing of its own is before the first of a tenant.
                let (items, tokens) =
                    if flow.items == 0 { (0, 0) } else { band.patience.due_before(start_by) };
                (items.min(flow.items), tokens.min(flow.tokens))
            }
        };
        let (outlook, forecast) = self.outlook_behind(now, b, leaf, own, cost, false);
        if self.refuse_hopeless
            && let (Some(starts_in), Some(forecast)) = (outlook.starts_in, forecast)
        {
            let reason = match limit {
                DropReason::Deadline => Refusal::Deadline,
                DropReason::Shed => Refusal::Shed,
                _ => Refusal::MaxWait,
            };
            let late = nanos(starts_in).saturating_sub(start_by - now);
            if late > 0 {
                return refused(reason, Some(Duration::from_nanos(late)));
            }
            let band = &self.bands[b];
            let by_deadline = matches!(band.order, Order::EarliestDeadline | Order::LeastLaxity);
            if by_deadline
                && !band.fair
                && !band.patience.keeps_promises(now, start_by, cost, |before| forecast.wait(before, cost))
            {
                return refused(Refusal::Deadline, self.time_for(now, cost));
            }
        }
        if self.bands[b].fair
            && let Some(bound) = self.tenant_is_full(b, flow.items, flow.tokens, cost)
        {
            return refused(Refusal::TenantFull(bound), self.time_for(now, cost));
        }
        if let Some(dimension) = self.room.missing(b, &load)
            && !self.push_out(now, b, &load, dropped)
        {
            return refused(Refusal::Full(Room::bound(dimension)), self.time_for(now, cost));
        }
        let ticket = self.insert(
            now,
            b,
            leaf,
            item,
            Fate { cost: slot_cost, bytes: slot_bytes, start_by, limit, service },
        );
        Admission::Waits { ticket, outlook }
    }

    /// The request whose turn it is, if it costs at most `budget_tokens`. What is too late for is dropped first and
    /// added to `dropped`. A budget of 0 tells who is next and leaves it where it is.
    pub fn dequeue(&mut self, now: Timestamp, budget_tokens: u64, dropped: &mut Vec<Dropped>) -> Dequeued {
        let now = self.advance(now);
        self.sweep(now, dropped);
        loop {
            let Some(b) = self.order.choose(self.waiting) else { return Dequeued::Empty };
            let band = &mut self.bands[b];
            let newest = band.order == Order::AdaptiveLifo && band.is_standing(now);
            let Some((leaf, ix)) = band.tree.head(newest, &self.turns) else {
                // A band whose bit is set has a request; if that ever fails, go on without the band.
                debug_assert!(false, "band {b} waits and has no head");
                self.waiting &= !(1 << b);
                continue;
            };
            let slot = &self.slots[ix as usize];
            if slot.start_by < now {
                let reason = slot.limit;
                self.drop_slot(now, ix, reason, dropped);
                continue;
            }
            let (cost, tenant) = (u64::from(slot.cost), slot.tenant);
            let ticket = Ticket::new(ix, slot.generation);
            if cost > budget_tokens {
                return Dequeued::OverBudget { ticket, cost_tokens: cost, payload: slot.payload };
            }
            let request = Dispatched {
                ticket,
                payload: slot.payload,
                tenant,
                band: b as u8,
                cost_tokens: cost,
                waited: Duration::from_nanos(now.saturating_sub(slot.enqueued)),
            };
            self.meter.leave(now, cost);
            self.bands[b].meter.leave(now, cost);
            self.order.sent(b, cost, self.waiting);
            self.bands[b].tree.send(leaf, ix, cost, &mut self.turns);
            self.release(now, ix);
            return Dequeued::Request(request);
        }
    }

    /// Takes a request out; `false` where it no longer waits. Gives nothing back to its tenant: what did not leave
    /// was not charged.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(ix) = self.find(ticket) else { return false };
        self.remove(self.clock, ix);
        true
    }

    /// What is before a waiting request now; `None` where it no longer waits.
    #[must_use]
    pub fn outlook(&self, now: Timestamp, ticket: Ticket) -> Option<Outlook> {
        let now = nanos(now.since_epoch()).max(self.clock);
        let slot = &self.slots[self.find(ticket)? as usize];
        let (b, band) = (usize::from(slot.band), &self.bands[usize::from(slot.band)]);
        let flow = band.tree.flow(slot.leaf);
        // What left from behind counts as if it had been before, so the differences may be too small.
        let items = (slot.items_before.wrapping_sub(flow.left_items) as i32).max(0) as u32;
        let tokens = (slot.tokens_before.wrapping_sub(flow.left_tokens) as i64).max(0) as u64;
        let cost = u64::from(slot.cost);
        let (others, other_tokens) = (flow.items - 1, flow.tokens - cost);
        let (items, tokens) = (items.min(others), tokens.min(other_tokens));
        let own = match band.order {
            Order::Fcfs => (items, tokens),
            Order::AdaptiveLifo if band.is_standing(now) => (others - items, other_tokens - tokens),
            Order::AdaptiveLifo => (items, tokens),
            Order::ValueDensity => (others, other_tokens),
            Order::EarliestDeadline | Order::LeastLaxity => {
                let (items, tokens) = band.patience.due_before(slot.start_by);
                ((items - 1).min(others), (tokens - cost).min(other_tokens))
            }
        };
        Some(self.outlook_behind(now, b, slot.leaf, own, cost, true).0)
    }

    /// Drops all that cannot start in time any more. [`enqueue`](Self::enqueue) and [`dequeue`](Self::dequeue) do
    /// that too, for those still waiting in their place with a delay of up to 1/31 of the longest wait; call this
    /// from a timer set to [`next_expiry`](Self::next_expiry) where clients are to hear at once.
    pub fn expire(&mut self, now: Timestamp, dropped: &mut Vec<Dropped>) {
        let now = self.advance(now);
        self.sweep(now, dropped);
        for b in 0..self.bands.len() {
            let (mut ix, count) = self.bands[b].patience.earliest();
            for _ in 0..count {
                let next = behind(&self.ends, ix);
                if self.slots[ix as usize].start_by < now {
                    let reason = self.slots[ix as usize].limit;
                    self.drop_slot(now, ix, reason, dropped);
                }
                ix = next;
            }
        }
    }

    /// The last moment at which all that waits can still start in time; `None` when nothing waits. O(n/31) per band.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let mut least: Option<u64> = None;
        for band in &self.bands {
            let (mut ix, count) = band.patience.earliest();
            for _ in 0..count {
                let start_by = self.slots[ix as usize].start_by;
                least = Some(least.map_or(start_by, |l| l.min(start_by)));
                ix = behind(&self.ends, ix);
            }
        }
        least.map(|l| Timestamp::new(Duration::from_nanos(l)))
    }

    /// Takes out all that waits, in no particular order, because the queue closes or its successor takes over.
    pub fn close(&mut self, now: Timestamp, dropped: &mut Vec<Dropped>) {
        let now = self.advance(now);
        for ix in 0..self.slots.len() {
            if self.slots[ix].leaf != NIL {
                self.drop_slot(now, ix as u32, DropReason::Closed, dropped);
            }
        }
    }

    /// Corrects what a tenant was charged, once the true cost of a request is known.
    pub fn settle(&mut self, band: u8, tenant: u32, charged_tokens: u64, true_tokens: u64) {
        let Some(band) = self.bands.get_mut(usize::from(band)) else { return };
        if !band.fair || tenant >= self.max_tenants {
            return;
        }
        if let Some(leaf) = band.tree.leaf(tenant) {
            let most = 1 << 40;
            let more = true_tokens.min(most) as i64 - charged_tokens.min(most) as i64;
            band.tree.charge(leaf, more, &self.turns);
        }
    }

    /// How much waits.
    #[must_use]
    pub fn load(&self) -> QueueLoad {
        let [items, bytes, tokens] = self.room.used();
        QueueLoad { items, bytes, tokens }
    }

    /// How much waits in a band; nothing where there is no such band.
    #[must_use]
    pub fn band_load(&self, band: u8) -> QueueLoad {
        if usize::from(band) >= self.bands.len() {
            return QueueLoad::default();
        }
        let [items, bytes, tokens] = self.room.used_by(usize::from(band));
        QueueLoad { items, bytes, tokens }
    }

    /// All that waits, in no particular order.
    pub fn each(&self, now: Timestamp) -> impl Iterator<Item = Waits> {
        let now = nanos(now.since_epoch()).max(self.clock);
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.leaf != NIL);
        taken.map(move |(ix, slot)| Waits {
            ticket: Ticket::new(ix as u32, slot.generation),
            payload: slot.payload,
            tenant: slot.tenant,
            band: slot.band,
            cost_tokens: u64::from(slot.cost),
            waited: Duration::from_nanos(now.saturating_sub(slot.enqueued)),
        })
    }

    /// Whether a band has not been empty for its `standing_after`.
    #[must_use]
    pub fn is_standing(&self, now: Timestamp, band: u8) -> bool {
        let b = usize::from(band);
        let now = nanos(now.since_epoch()).max(self.clock);
        self.waiting.checked_shr(u32::from(band)).is_some_and(|w| w & 1 == 1)
            && self.bands.get(b).is_some_and(|band| band.is_standing(now))
    }

    /// Tokens per second that leave while something waits: measured, or as expected before that is known.
    #[must_use]
    pub fn tokens_per_second(&self, now: Timestamp) -> Option<f64> {
        self.seconds_per_token(nanos(now.since_epoch()).max(self.clock)).map(|s| 1.0 / s)
    }

    #[inline]
    fn advance(&mut self, now: Timestamp) -> u64 {
        self.clock = self.clock.max(nanos(now.since_epoch()));
        self.clock
    }

    #[inline]
    fn seconds_per_token(&self, now: u64) -> Option<f64> {
        self.meter.seconds_per_token(now).or(self.expected_seconds_per_token)
    }

    fn find(&self, ticket: Ticket) -> Option<u32> {
        let slot = self.slots.get(ticket.slot())?;
        (slot.leaf != NIL && slot.generation == ticket.generation()).then_some(ticket.slot() as u32)
    }

    /// The time in which so many tokens leave.
    fn time_for(&self, now: u64, tokens: u64) -> Option<Duration> {
        Some(seconds(tokens as f64 * self.seconds_per_token(now)?))
    }

    /// What is before a request that has `own` items and tokens of its tenant before it, and may wait already.
    #[inline]
    fn outlook_behind(
        &self,
        now: u64,
        b: usize,
        leaf: u32,
        own: (u32, u64),
        cost: u64,
        waits: bool,
    ) -> (Outlook, Option<Forecast>) {
        let band = &self.bands[b];
        let [mut band_items, _, mut band_tokens] = self.room.used_by(b);
        if waits {
            (band_items, band_tokens) = (band_items - 1, band_tokens - cost);
        }
        let (mut items, mut tokens) = (u64::from(own.0), own.1);
        if band.fair {
            // While the tenant sends its own, the others send in proportion, as far as they have any.
            let (dilution, debt) = band.tree.dilution(leaf);
            let diluted = |own: u64| (own as i64 as f64 * dilution) as i64 as u64;
            items = diluted(items).min(band_items);
            tokens = diluted(tokens.saturating_add(debt)).min(band_tokens);
        }
        let (mut better_items, mut better_tokens) = (0, 0);
        for better in 0..b {
            let [items, _, tokens] = self.room.used_by(better);
            (better_items, better_tokens) = (better_items + items, better_tokens + tokens);
        }
        let forecast = self.seconds_per_token(now).map(|seconds_per_token| Forecast {
            seconds_per_token,
            band_seconds_per_token: band.meter.seconds_per_token(now).unwrap_or(0.0),
            guaranteed_seconds_per_token: seconds_per_token * band.inverse_share,
            better_tokens,
        });
        let starts_in = forecast.map(|f| seconds(f.wait(tokens, cost)));
        let position = u32::try_from(items + better_items).unwrap_or(u32::MAX);
        (Outlook { position, tokens_before: tokens + better_tokens, starts_in }, forecast)
    }

    /// The bound of which the tenant has more than its multiple of what is free for it. One request may always wait.
    #[inline]
    fn tenant_is_full(&self, b: usize, items: u32, tokens: u64, cost: u64) -> Option<Bound> {
        let threshold = self.tenant_threshold?;
        if items == 0 {
            return None;
        }
        let [free_items, _, free_tokens] = self.room.reach(b);
        if u64::from(items) << 8 >= threshold * free_items {
            return Some(Bound::Items);
        }
        ((tokens + cost) << 8 > threshold * free_tokens).then_some(Bound::Tokens)
    }

    /// Pushes out requests of lower bands, from the lowest up, the most patient and youngest first, as far as they
    /// are beyond the part of the queue that is their own; nothing where that would not make enough room.
    fn push_out(&mut self, now: u64, b: usize, load: &Load, dropped: &mut Vec<Dropped>) -> bool {
        if !self.room.could_push_out(b, load) {
            return false;
        }
        while let Some(dimension) = self.room.missing(b, load) {
            let lower = (b + 1..self.bands.len()).rev();
            let Some(victim) = lower.into_iter().find(|l| self.room.excess(*l, dimension) > 0) else {
                return false;
            };
            let ix = self.bands[victim].patience.most_patient(&self.ends);
            self.drop_slot(now, ix, DropReason::PushedOut, dropped);
        }
        true
    }

    #[inline]
    fn insert(&mut self, now: u64, b: usize, leaf: u32, item: &Item, fate: Fate) -> Ticket {
        let Fate { cost, bytes, start_by, limit, service } = fate;
        let ix = self.free.pop().unwrap_or_else(|| self.add_slot());
        let band = &mut self.bands[b];
        let flow = band.tree.flow(leaf);
        let slot = &mut self.slots[ix as usize];
        *slot = Slot {
            payload: item.payload,
            enqueued: now,
            start_by,
            tokens_before: flow.left_tokens.wrapping_add(flow.tokens),
            items_before: flow.left_items.wrapping_add(flow.items),
            cost,
            bytes,
            generation: slot.generation.wrapping_add(1),
            tenant: item.tenant,
            leaf,
            band: item.band,
            limit,
        };
        let generation = slot.generation;
        let (cost, load) = (u64::from(cost), [1, u64::from(bytes), u64::from(cost)]);
        let turn = &mut self.turns[ix as usize];
        turn.key = band.key(now, start_by, service, cost, item.value);
        turn.sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        band.tree.join(leaf, ix, cost, &mut self.turns);
        band.patience.insert(&mut self.ends, ix, start_by, cost);
        self.room.take(b, &load);
        if self.waiting & (1 << b) == 0 {
            self.waiting |= 1 << b;
            band.meter.begin(now);
            self.meter.begin(now);
        }
        Ticket::new(ix, generation)
    }

    /// A slot more; the limit in items bounds how many there are.
    #[cold]
    fn add_slot(&mut self) -> u32 {
        self.slots.push(Slot::VACANT);
        self.turns.push(Link::LOOSE);
        self.ends.push(Around::LOOSE);
        self.slots.len() as u32 - 1
    }

    /// Takes a slot out of everything.
    fn remove(&mut self, now: u64, ix: u32) {
        let slot = &self.slots[ix as usize];
        let tree = &mut self.bands[usize::from(slot.band)].tree;
        tree.leave(slot.leaf, ix, u64::from(slot.cost), &mut self.turns);
        self.release(now, ix);
    }

    /// Frees a slot that its tenant no longer holds.
    #[inline]
    fn release(&mut self, now: u64, ix: u32) {
        let slot = &mut self.slots[ix as usize];
        let (b, cost) = (usize::from(slot.band), u64::from(slot.cost));
        slot.leaf = NIL;
        let load = [1, u64::from(slot.bytes), cost];
        let band = &mut self.bands[b];
        band.patience.remove(&mut self.ends, ix, slot.start_by, cost);
        self.room.give(b, &load);
        self.free.push(ix);
        if self.room.used_by(b)[0] == 0 {
            self.waiting &= !(1 << b);
            band.meter.end(now);
            self.order.emptied(b);
            if self.waiting == 0 {
                self.meter.end(now);
            }
        }
    }

    fn drop_slot(&mut self, now: u64, ix: u32, reason: DropReason, dropped: &mut Vec<Dropped>) {
        let slot = &self.slots[ix as usize];
        dropped.push(Dropped {
            ticket: Ticket::new(ix, slot.generation),
            payload: slot.payload,
            tenant: slot.tenant,
            band: slot.band,
            reason,
            waited: Duration::from_nanos(now.saturating_sub(slot.enqueued)),
        });
        self.remove(now, ix);
    }

    /// Drops what expired in the buckets that ended.
    #[inline]
    fn sweep(&mut self, now: u64, dropped: &mut Vec<Dropped>) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = u64::MAX;
        for b in 0..self.bands.len() {
            while let Some(ix) = self.bands[b].patience.expired(now) {
                let reason = self.slots[ix as usize].limit;
                self.drop_slot(now, ix, reason, dropped);
            }
            self.next_sweep = self.next_sweep.min(self.bands[b].patience.next_sweep(now));
        }
    }
}

/// What was worked out about a request before it joins.
struct Fate {
    cost: u32,
    bytes: u32,
    start_by: u64,
    limit: DropReason,
    service: u64,
}

impl Band {
    #[inline]
    fn is_standing(&self, now: u64) -> bool {
        now.saturating_sub(self.busy_since) > self.standing_after
    }

    #[inline]
    fn key(&self, now: u64, start_by: u64, service: u64, cost: u64, value: u32) -> u64 {
        match self.order {
            Order::Fcfs | Order::AdaptiveLifo => 0,
            Order::EarliestDeadline => start_by.saturating_add(service),
            Order::LeastLaxity => start_by,
            Order::ValueDensity => {
                let density = f64::from(value) * 1e3 / cost as f64;
                let head_start = ((density * self.head_start) as u64).min(self.max_head_start);
                // The offset keeps the key of an early request positive.
                now.saturating_add(self.max_head_start) - head_start
            }
        }
    }
}

/// So many seconds, to the nanosecond below; what does not fit saturates.
#[inline]
fn seconds(seconds: f64) -> Duration {
    Duration::from_nanos((seconds * 1e9) as i64 as u64)
}

/// Nanoseconds; what does not fit saturates.
#[inline]
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}
