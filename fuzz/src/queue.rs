//! Does everything that enters a queue leave it once, and is no bound exceeded?

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::arbitrary::Unstructured;
use traflux_core::Timestamp;
use traflux_gateway::queue::{
    Admission, BandPlan, Dequeued, Dropped, Item, Order, QueuePlan, RequestQueue, Ticket,
};

use crate::{coin, number, one};

const ORDERS: [Order; 5] =
    [Order::Fcfs, Order::AdaptiveLifo, Order::EarliestDeadline, Order::LeastLaxity, Order::ValueDensity];

struct Waiting {
    item: Item,
    since: Timestamp,
}

struct Model {
    settings: QueuePlan,
    waiting: BTreeMap<Ticket, Waiting>,
    dropped: Vec<Dropped>,
}

/// Bytes from which settings and operations are made.
pub fn check(data: &[u8]) {
    let bytes = &mut Unstructured::new(data);
    let settings = settings(bytes);
    let Ok(mut queue) = RequestQueue::new(&settings) else { return };
    let mut model = Model { settings, waiting: BTreeMap::new(), dropped: Vec::new() };
    let mut now = Timestamp::new(Duration::from_millis(number(bytes, 1_000_000)));
    let (mut payload, mut clock) = (0, Timestamp::ZERO);
    while !bytes.is_empty() {
        if number(bytes, 3) == 0 {
            now = now + Duration::from_nanos(one(bytes, &[1, 1_000_000, 40_000_000, 3_000_000_000, 1 << 50]));
        }
        match number(bytes, 10) {
            0..=4 => {
                payload += 1;
                let item = item(bytes, now, payload);
                // A clock that jumps back stands still.
                let early = Timestamp::new(
                    now.since_epoch().saturating_sub(Duration::from_millis(number(bytes, 90))),
                );
                let given = if coin(bytes) { now } else { early };
                clock = clock.max(given);
                let admission = queue.enqueue(given, &item, &mut model.dropped);
                model.settle_drops(now);
                if let Admission::Waits { ticket, .. } = admission {
                    assert!(usize::from(item.band) < model.settings.bands.len());
                    let twin = model.waiting.insert(ticket, Waiting { item, since: clock });
                    assert!(twin.is_none(), "a ticket names two requests");
                }
            }
            5 | 6 => {
                clock = now;
                let budget = one(bytes, &[u64::MAX, 0, 10, 2_000]);
                let next = queue.dequeue(now, budget, &mut model.dropped);
                model.settle_drops(now);
                match next {
                    Dequeued::Request(sent) => {
                        let left = model.waiting.remove(&sent.ticket).expect("dispatched once");
                        assert_eq!(left.item.payload, sent.payload);
                        assert!(sent.cost_tokens <= budget);
                        assert!(!model.is_late(&left, now), "late work is never sent");
                    }
                    Dequeued::OverBudget { ticket, cost_tokens, .. } => {
                        assert!(model.waiting.contains_key(&ticket) && cost_tokens > budget);
                    }
                    Dequeued::Empty => assert!(model.waiting.is_empty()),
                }
            }
            7 => {
                let ix = number(bytes, model.waiting.len() as u64) as usize;
                let ticket = model
                    .waiting
                    .keys()
                    .nth(ix)
                    .copied()
                    .unwrap_or(Ticket::from_number(number(bytes, u64::MAX)));
                assert_eq!(queue.outlook(now, ticket).is_some(), model.waiting.contains_key(&ticket));
                assert_eq!(queue.cancel(ticket), model.waiting.remove(&ticket).is_some());
                assert!(!queue.cancel(ticket));
            }
            8 => {
                clock = now;
                queue.expire(now, &mut model.dropped);
                model.settle_drops(now);
                assert!(queue.next_expiry().is_none_or(|at| at >= now), "what is late has left");
            }
            9 => {
                let (tenant, parent) = (number(bytes, 9) as u32, number(bytes, 9) as u32);
                let _ =
                    queue.set_tenant(tenant, coin(bytes).then_some(parent), number(bytes, 1 << 21) as u32);
            }
            _ => {
                let amounts = [0, 1, 5_000, 1 << 41, u64::MAX];
                queue.settle(
                    number(bytes, 9) as u8,
                    number(bytes, 9) as u32,
                    one(bytes, &amounts),
                    one(bytes, &amounts),
                );
            }
        }
        model.compare(&queue, now);
    }
    queue.close(now, &mut model.dropped);
    model.settle_drops(now);
    assert!(model.waiting.is_empty(), "a closed queue holds nothing");
    model.compare(&queue, now);
}

impl Model {
    fn settle_drops(&mut self, now: Timestamp) {
        for drop in self.dropped.drain(..) {
            let left = self.waiting.remove(&drop.ticket).expect("dropped once");
            assert_eq!(left.item.payload, drop.payload);
            assert!(drop.waited <= now.since(left.since));
        }
    }

    fn is_late(&self, waiting: &Waiting, now: Timestamp) -> bool {
        let band = &self.settings.bands[usize::from(waiting.item.band)];
        now.since(waiting.since) > band.max_wait
            || waiting.item.deadline.is_some_and(|deadline| now + waiting.item.service > deadline)
    }

    fn compare(&self, queue: &RequestQueue, now: Timestamp) {
        let load = queue.load();
        let limits = &self.settings;
        assert_eq!(load.items, self.waiting.len() as u64);
        assert!(
            load.items <= u64::from(limits.max_waiting)
                && load.tokens <= limits.max_tokens
                && load.bytes <= limits.max_bytes
        );
        assert_eq!(load.bytes, self.waiting.values().map(|w| w.item.bytes).sum::<u64>());
        assert_eq!(load.tokens, self.waiting.values().map(|w| w.item.cost_tokens.max(1)).sum::<u64>());
        let bands = 0..self.settings.bands.len() as u8;
        assert_eq!(bands.map(|band| queue.band_load(band).items).sum::<u64>(), load.items);
        assert!(queue.tokens_per_second(now).is_none_or(|rate| rate > 0.0));
    }
}

fn item(bytes: &mut Unstructured<'_>, now: Timestamp, payload: u64) -> Item {
    let millis = Duration::from_millis;
    Item {
        tenant: one(bytes, &[0, 1, 2, 3, 4, 5, u32::MAX]),
        band: number(bytes, 4) as u8,
        cost_tokens: one(bytes, &[0, 1, 10, 700, 2_500, (1 << 32) - 1, 1 << 32, u64::MAX]),
        bytes: one(bytes, &[0, 1, 300, (1 << 32) - 1, u64::MAX]),
        deadline: coin(bytes).then(|| now + millis(number(bytes, 400))),
        service: one(bytes, &[Duration::ZERO, millis(20), Duration::MAX]),
        value: one(bytes, &[0, 1, 100, u32::MAX]),
        payload,
    }
}

fn settings(bytes: &mut Unstructured<'_>) -> QueuePlan {
    let millis = |bytes: &mut Unstructured<'_>, most| Duration::from_millis(number(bytes, most));
    let count = 1 + number(bytes, 3);
    let bands = (0..count).map(|band| {
        let target = millis(bytes, 30);
        BandPlan {
            name: format!("band {band}"),
            min_share: number(bytes, 100) as f64 / 100.0 / count as f64,
            order: one(bytes, &ORDERS),
            fair: coin(bytes),
            max_wait: millis(bytes, 1_000),
            standing_after: millis(bytes, 200),
            shed_target: coin(bytes).then_some(target),
            ..BandPlan::default()
        }
    });
    QueuePlan {
        bands: bands.collect(),
        max_waiting: one(bytes, &[40, 1, 3]),
        max_bytes: one(bytes, &[4_000, 0, 1 << 62]),
        max_tokens: one(bytes, &[30_000, 1, 1 << 40]),
        quantum_tokens: one(bytes, &[1, 100, 1 << 40]),
        tenant_threshold: one(bytes, &[None, Some(1.0), Some(1.0 / 256.0), Some(4_096.0)]),
        max_tenants: one(bytes, &[1 << 20, 1, 4]),
        refuse_hopeless: coin(bytes),
        expected_tokens_per_second: one(bytes, &[None, Some(f64::MIN_POSITIVE), Some(1_000.0), Some(1e300)]),
        rate_memory: one(bytes, &[Duration::from_secs(10), Duration::from_nanos(1), Duration::MAX]),
        ..QueuePlan::default()
    }
}
