//! What holds for a queue whatever comes?
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::Rng;
use traflux_gateway::queue::{
    Admission, BandPlan, Bound, Dequeued, DropReason, Dropped, Item, Order, QueuePlan, Refusal, RequestQueue,
    Ticket,
};

const ORDERS: [Order; 5] =
    [Order::Fcfs, Order::AdaptiveLifo, Order::EarliestDeadline, Order::LeastLaxity, Order::ValueDensity];

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Timestamp {
    Timestamp::new(ms(millis))
}

fn one_band(order: Order, fair: bool) -> QueuePlan {
    QueuePlan {
        bands: vec![BandPlan { order, fair, ..BandPlan::default() }],
        refuse_hopeless: false,
        tenant_threshold: None,
        ..QueuePlan::default()
    }
}

fn waits(queue: &mut RequestQueue, now: Timestamp, item: &Item) -> Ticket {
    let mut dropped = Vec::new();
    let admission = queue.enqueue(now, item, &mut dropped);
    assert!(dropped.is_empty());
    admission.ticket().unwrap_or_else(|| panic!("{admission:?}"))
}

fn next(queue: &mut RequestQueue, now: Timestamp) -> Option<u64> {
    queue.dequeue(now, u64::MAX, &mut Vec::new()).request().map(|r| r.payload)
}

/// A queue of two to four small bands in which everything happens.
fn crowded(seed: u64) -> QueuePlan {
    let mut rng = Rng::new(seed);
    let count = 2 + rng.below(3);
    let bands = (0..count).map(|b| BandPlan {
        name: format!("band {b}"),
        min_share: rng.uniform() / count as f64,
        order: ORDERS[rng.below(5)],
        fair: rng.below(3) > 0,
        max_wait: ms(50 + rng.below(1_000) as u64),
        standing_after: ms(rng.below(200) as u64),
        shed_target: (rng.below(2) == 0).then_some(ms(20)),
        ..BandPlan::default()
    });
    QueuePlan {
        bands: bands.collect(),
        max_waiting: 40,
        max_bytes: 4_000,
        max_tokens: 30_000,
        quantum_tokens: 1 + rng.below(3_000) as u64,
        tenant_threshold: (rng.below(2) == 0).then_some(1.0),
        refuse_hopeless: rng.below(2) == 0,
        ..QueuePlan::default()
    }
}

struct Waiting {
    item: Item,
    since: Timestamp,
}

impl Waiting {
    /// Whether the deadline or the longest wait is over.
    fn is_late(&self, now: Timestamp, settings: &QueuePlan) -> bool {
        let band = &settings.bands[usize::from(self.item.band)];
        now.since(self.since) > band.max_wait
            || self.item.deadline.is_some_and(|d| now + self.item.service > d)
    }
}

fn settle_drops(waiting: &mut HashMap<Ticket, Waiting>, dropped: &mut Vec<Dropped>, now: Timestamp) {
    for drop in dropped.drain(..) {
        let left = waiting.remove(&drop.ticket).expect("dropped once");
        assert_eq!(left.item.payload, drop.payload);
        assert_eq!(drop.waited, now.since(left.since));
    }
}

/// Runs `steps` random operations against a plain model; gives everything that came out, in order.
fn run(seed: u64, steps: usize) -> Vec<u64> {
    let settings = crowded(seed);
    let mut queue = RequestQueue::new(&settings).unwrap();
    let mut rng = Rng::stream(seed, 1);
    if seed.is_multiple_of(2) {
        for (tenant, parent) in [(0, 20), (1, 20), (2, 21), (3, 21), (20, 22), (21, 22)] {
            queue.set_tenant(tenant, Some(parent), 1 + rng.below(4) as u32).unwrap();
        }
    }
    let mut waiting: HashMap<Ticket, Waiting> = HashMap::new();
    let (mut dropped, mut log, mut millis, mut admitted) = (Vec::new(), Vec::new(), 1_000u64, 0);
    for step in 0..steps {
        millis += [0, 0, 0, 1, 5, 60][rng.below(6)];
        if rng.below(500) == 0 {
            millis += 3_000;
        }
        let now = at(millis);
        match rng.below(10) {
            0..=5 => {
                let item = Item {
                    tenant: rng.below(7) as u32,
                    band: rng.below(settings.bands.len()) as u8,
                    cost_tokens: rng.below(2_500) as u64,
                    bytes: rng.below(300) as u64,
                    deadline: (rng.below(2) == 0).then(|| at(millis + rng.below(400) as u64)),
                    service: ms(rng.below(20) as u64),
                    value: rng.below(100) as u32,
                    payload: step as u64,
                };
                let admission = queue.enqueue(now, &item, &mut dropped);
                log.extend(dropped.iter().map(|d| d.payload << 8 | 1));
                settle_drops(&mut waiting, &mut dropped, now);
                match admission {
                    Admission::Waits { ticket, .. } => {
                        admitted += 1;
                        assert!(waiting.insert(ticket, Waiting { item, since: now }).is_none());
                    }
                    Admission::Refused { reason, .. } => {
                        assert!(!matches!(reason, Refusal::UnknownBand | Refusal::UnknownTenant));
                    }
                }
            }
            6..=7 => {
                let could = waiting.values().any(|w| !w.is_late(now, &settings));
                let next = queue.dequeue(now, u64::MAX, &mut dropped);
                let shed = dropped.iter().any(|d| d.reason == DropReason::Shed);
                log.extend(dropped.iter().map(|d| d.payload << 8 | 2));
                settle_drops(&mut waiting, &mut dropped, now);
                match next {
                    Dequeued::Request(request) => {
                        let left = waiting.remove(&request.ticket).expect("dispatched once");
                        assert!(!left.is_late(now, &settings), "late work is never sent");
                        assert_eq!(left.item.payload, request.payload);
                        log.push(request.payload << 8);
                    }
                    Dequeued::Empty => assert!(waiting.is_empty() && (!could || shed)),
                    Dequeued::OverBudget { .. } => panic!("the budget has no end"),
                }
            }
            8 => {
                // The model's order depends on the hasher of this run: choose by payload.
                let mut tickets: Vec<_> = waiting.iter().map(|(t, w)| (w.item.payload, *t)).collect();
                tickets.sort_unstable();
                if !tickets.is_empty() {
                    let (_, ticket) = tickets[rng.below(tickets.len())];
                    let outlook = queue.outlook(now, ticket).unwrap();
                    assert!((outlook.position as usize) < waiting.len());
                    assert!(queue.cancel(ticket) && !queue.cancel(ticket));
                    assert!(queue.outlook(now, ticket).is_none());
                    waiting.remove(&ticket);
                }
            }
            _ => {
                queue.expire(now, &mut dropped);
                log.extend(dropped.iter().map(|d| d.payload << 8 | 3));
                settle_drops(&mut waiting, &mut dropped, now);
                assert!(waiting.values().all(|w| !w.is_late(now, &settings)));
                assert_eq!(queue.next_expiry().is_none(), waiting.is_empty());
                assert!(queue.next_expiry().is_none_or(|t| t >= now));
            }
        }
        let load = queue.load();
        assert_eq!(load.items, waiting.len() as u64);
        assert_eq!(load.tokens, waiting.values().map(|w| w.item.cost_tokens.max(1)).sum::<u64>());
        assert_eq!(load.bytes, waiting.values().map(|w| w.item.bytes).sum::<u64>());
        assert!(load.items <= 40 && load.bytes <= 4_000 && load.tokens <= 30_000);
    }
    assert!(admitted > steps / 100, "{admitted} of {steps} steps");
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_leaves_once_bounds_hold_and_nothing_waits_for_nothing(seed in any::<u64>()) {
        run(seed, 1_500);
    }

    #[test]
    fn deadlines_come_out_in_order_across_all_tenants_of_a_band_that_is_not_fair(
        deadlines in prop::collection::vec(1_000u64..20_000, 1..200)
    ) {
        let mut queue = RequestQueue::new(&one_band(Order::EarliestDeadline, false)).unwrap();
        for (i, deadline) in deadlines.iter().enumerate() {
            let item = Item { tenant: i as u32 % 5, deadline: Some(at(*deadline)), payload: *deadline, ..Item::default() };
            waits(&mut queue, at(0), &item);
        }
        let mut sorted = deadlines.clone();
        sorted.sort_unstable();
        let served: Vec<u64> = std::iter::from_fn(|| next(&mut queue, at(1))).collect();
        prop_assert_eq!(served, sorted);
    }

    #[test]
    fn between_tenants_that_wait_all_the_time_the_lag_stays_below_the_stated_bound(
        seed in any::<u64>(), quantum in 1u64..5_000, order in 0usize..5
    ) {
        let mut rng = Rng::new(seed);
        let mut queue = RequestQueue::new(&QueuePlan {
            quantum_tokens: quantum,
            ..one_band(ORDERS[order], true)
        }).unwrap();
        let largest = 1 + rng.below(4_000);
        let weights: Vec<u32> = (0..6).map(|_| 1 + rng.below(5) as u32).collect();
        // A tenant sends small or large requests, so that equal turns are not equal tokens.
        let sizes: Vec<usize> = (0..6).map(|_| 1 + rng.below(largest)).collect();
        let add = |queue: &mut RequestQueue, tenant: usize, rng: &mut Rng| {
            let cost_tokens = 1 + rng.below(sizes[tenant]) as u64;
            let deadline = (rng.below(2) == 0).then(|| at(1_000 + rng.below(20_000) as u64));
            let value = rng.below(9) as u32;
            let item = Item { tenant: tenant as u32, cost_tokens, deadline, value, ..Item::default() };
            waits(queue, at(0), &item);
        };
        for (tenant, weight) in weights.iter().enumerate() {
            queue.set_tenant(tenant as u32, None, *weight).unwrap();
            for _ in 0..3 {
                add(&mut queue, tenant, &mut rng);
            }
        }
        let mut sent = [0u64; 6];
        let mut range = [[(0f64, 0f64); 6]; 6];
        for _ in 0..3_000 {
            let request = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
            sent[request.tenant as usize] += request.cost_tokens;
            add(&mut queue, request.tenant as usize, &mut rng);
            for i in 0..6 {
                for j in 0..6 {
                    let of = |t: usize| sent[t] as f64 / f64::from(weights[t]);
                    let (low, high) = &mut range[i][j];
                    (*low, *high) = (low.min(of(i) - of(j)), high.max(of(i) - of(j)));
                    let most = |t: usize| sizes[t] as f64 / f64::from(weights[t]);
                    // Over any window: the whole range that the difference ever went through.
                    prop_assert!(*high - *low < 2.0 * quantum as f64 + most(i) + most(j) + 1e-6);
                }
            }
        }
    }
}

#[test]
fn equal_inputs_give_equal_outcomes() {
    for seed in 0..10 {
        assert_eq!(run(seed, 3_000), run(seed, 3_000));
    }
}

#[test]
fn a_lower_band_gets_its_share_while_better_bands_never_run_dry() {
    let shares = [0.0, 0.2, 0.1];
    let band = |b: usize| BandPlan { name: b.to_string(), min_share: shares[b], ..BandPlan::default() };
    let mut queue = RequestQueue::new(&QueuePlan {
        bands: (0..3).map(band).collect(),
        refuse_hopeless: false,
        tenant_threshold: None,
        ..QueuePlan::default()
    })
    .unwrap();
    let mut rng = Rng::new(11);
    let mut item = |band: u8| Item { band, cost_tokens: 1 + rng.below(1_000) as u64, ..Item::default() };
    for band in [0, 1, 2, 0, 1, 2] {
        let item = item(band);
        waits(&mut queue, at(0), &item);
    }
    let mut sent = [0u64; 3];
    for _ in 0..30_000 {
        let request = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
        sent[usize::from(request.band)] += request.cost_tokens;
        let all = sent.iter().sum::<u64>() as f64;
        for b in 0..3 {
            // Bound of the module: σ·W − (B + 1)·M; shares are rounded down to 2⁻¹⁶.
            assert!(sent[b] as f64 >= (shares[b] - 2e-5) * all - 4.0 * 1_000.0, "{sent:?}");
        }
        let item = item(request.band);
        waits(&mut queue, at(0), &item);
    }
    // The rest goes to the best band: 1 − 0.3 · 17/16.
    let all = sent.iter().sum::<u64>() as f64;
    assert!((sent[0] as f64 / all - 0.681).abs() < 0.005, "{sent:?}");
}

#[test]
fn a_tenant_that_used_beyond_all_bounds_has_its_turn_again_after_a_million_rounds() {
    let mut settings = one_band(Order::Fcfs, true);
    settings.quantum_tokens = 1;
    let mut queue = RequestQueue::new(&settings).unwrap();
    let item = |tenant| Item { tenant, cost_tokens: 1_000, ..Item::default() };
    waits(&mut queue, at(0), &item(0));
    waits(&mut queue, at(0), &item(1));
    queue.settle(0, 0, 0, u64::MAX);
    // 2^20 rounds of one token, and what the other is ahead.
    for sent in 0..1_060 {
        let next = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
        if next.tenant == 0 {
            assert!(sent > 1_000, "{sent}");
            return;
        }
        waits(&mut queue, at(0), &item(1));
    }
    panic!("it never has its turn");
}

#[test]
fn what_takes_longer_than_until_its_deadline_is_refused_at_time_zero_too() {
    let mut queue = RequestQueue::new(&one_band(Order::EarliestDeadline, false)).unwrap();
    let item = Item { deadline: Some(at(400)), service: Duration::MAX, ..Item::default() };
    let admission = queue.enqueue(at(0), &item, &mut Vec::new());
    assert!(matches!(admission, Admission::Refused { reason: Refusal::Deadline, .. }), "{admission:?}");
}

#[test]
fn teams_share_equally_however_many_keys_they_have() {
    let mut queue = RequestQueue::new(&one_band(Order::Fcfs, true)).unwrap();
    // Team 10 has keys 0 to 3, team 11 key 4; organisation 20 owns both, organisation 21 owns key 5 directly.
    for (tenant, parent) in [(10, 20), (11, 20), (0, 10), (1, 10), (2, 10), (3, 10), (4, 11), (5, 21)] {
        queue.set_tenant(tenant, Some(parent), 1).unwrap();
    }
    let add = |queue: &mut RequestQueue, tenant| {
        waits(queue, at(0), &Item { tenant, cost_tokens: 1_000, ..Item::default() });
    };
    for tenant in [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5] {
        add(&mut queue, tenant);
    }
    let mut sent = [0f64; 6];
    for _ in 0..16_000 {
        let request = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
        sent[request.tenant as usize] += 1.0;
        add(&mut queue, request.tenant);
    }
    for (tenant, share) in [1.0 / 16.0; 4].into_iter().chain([0.25, 0.5]).enumerate() {
        assert!((sent[tenant] / 16_000.0 - share).abs() < 0.002, "{sent:?}");
    }
    let refused = queue.enqueue(at(0), &Item { tenant: 20, ..Item::default() }, &mut Vec::new());
    assert!(matches!(refused, Admission::Refused { reason: Refusal::UnknownTenant, .. }));
    assert_eq!(queue.set_tenant(20, Some(4), 1).unwrap_err().code(), "gateway_queue_tenant");
    assert_eq!(queue.set_tenant(5, Some(20), 1).unwrap_err().code(), "gateway_queue_tenant_busy");
}

#[test]
fn a_new_weight_counts_at_once_while_requests_wait() {
    let mut queue = RequestQueue::new(&one_band(Order::EarliestDeadline, true)).unwrap();
    for tenant in [0, 1, 0, 1] {
        waits(&mut queue, at(0), &Item { tenant, cost_tokens: 1_000, ..Item::default() });
    }
    for weight in [1, 5, 2] {
        queue.set_tenant(1, None, weight).unwrap();
        let mut sent = [0u32; 2];
        for _ in 0..6_000 {
            let request = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
            sent[request.tenant as usize] += 1;
            let item = Item { tenant: request.tenant, cost_tokens: 1_000, ..Item::default() };
            waits(&mut queue, at(0), &item);
        }
        let ratio = f64::from(sent[1]) / f64::from(sent[0]);
        assert!((ratio / f64::from(weight) - 1.0).abs() < 0.02, "{weight}: {sent:?}");
    }
}

#[test]
fn a_hundred_thousand_tenants_in_a_tree_are_set_up_quickly() {
    let plan = QueuePlan { max_tenants: 1 << 20, ..QueuePlan::default() };
    let mut queue = RequestQueue::new(&plan).unwrap();
    for key in 2_000..100_000u32 {
        queue.set_tenant(key, Some(key % 1_000), 1).unwrap();
    }
    for team in 0..1_000 {
        queue.set_tenant(team, Some(1_000 + team % 10), 1).unwrap();
    }
    // A chain of nine: the last would be below the 8th level.
    for level in 100_001..100_008 {
        queue.set_tenant(level, Some(level - 1), 1).unwrap();
    }
    assert!(queue.set_tenant(100_008, Some(100_007), 1).is_err());
    assert!(queue.set_tenant(100_000, Some(100_010), 1).is_err());
    assert!(queue.set_tenant(100_000, Some(100_005), 1).is_err());
}

#[test]
fn a_tenant_that_cost_more_than_expected_pays_later() {
    let mut queue = RequestQueue::new(&one_band(Order::Fcfs, true)).unwrap();
    let mut sent = [0u64; 2];
    for _ in 0..2 {
        for tenant in 0..2 {
            waits(&mut queue, at(0), &Item { tenant, cost_tokens: 1_000, ..Item::default() });
        }
    }
    for _ in 0..4_000 {
        let request = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
        // Tenant 0 always needs three times what was expected.
        let true_tokens = if request.tenant == 0 { 3_000 } else { 1_000 };
        queue.settle(0, request.tenant, request.cost_tokens, true_tokens);
        sent[request.tenant as usize] += true_tokens;
        waits(&mut queue, at(0), &Item { tenant: request.tenant, cost_tokens: 1_000, ..Item::default() });
    }
    assert!((sent[0] as f64 / sent[1] as f64 - 1.0).abs() < 0.01, "{sent:?}");
}

#[test]
fn a_debt_of_thousands_of_rounds_is_paid_in_full() {
    let mut queue =
        RequestQueue::new(&QueuePlan { quantum_tokens: 1, ..one_band(Order::Fcfs, true) }).unwrap();
    let mut sent = [0u64; 2];
    for (tenant, cost_tokens) in [(0, 50_000), (1, 10), (0, 50_000), (1, 10)] {
        waits(&mut queue, at(0), &Item { tenant, cost_tokens, ..Item::default() });
    }
    for _ in 0..50_000 {
        let request = *queue.dequeue(at(0), u64::MAX, &mut Vec::new()).request().unwrap();
        sent[request.tenant as usize] += request.cost_tokens;
        let item = Item { tenant: request.tenant, cost_tokens: request.cost_tokens, ..Item::default() };
        waits(&mut queue, at(0), &item);
    }
    assert!(sent[0].abs_diff(sent[1]) < 50_000 + 10 + 2, "{sent:?}");
}

#[test]
fn in_a_fair_band_the_deadline_decides_among_tenants_of_the_same_round() {
    let mut queue = RequestQueue::new(&one_band(Order::EarliestDeadline, true)).unwrap();
    for (tenant, deadline) in [(0, 9_000), (1, 3_000), (2, 6_000), (1, 4_000)] {
        let item = Item {
            tenant,
            cost_tokens: 2_000,
            deadline: Some(at(deadline)),
            payload: deadline,
            ..Item::default()
        };
        waits(&mut queue, at(0), &item);
    }
    // Quantum 4096: both of tenant 1 fit into the round.
    let order: Vec<u64> = std::iter::from_fn(|| next(&mut queue, at(1))).collect();
    assert_eq!(order, [3_000, 4_000, 6_000, 9_000]);
}

#[test]
fn value_per_token_goes_first_and_age_wins_in_the_end() {
    let mut queue = RequestQueue::new(&one_band(Order::ValueDensity, true)).unwrap();
    // Head starts: 1 s per unit per 1000 tokens, at most 30 s.
    for (now, value, cost_tokens, payload) in
        [(0, 0, 1_000, 1), (1_000, 4, 2_000, 2), (1_000, 4, 500, 3), (2_000, 1, 1_000, 4)]
    {
        let item = Item { value, cost_tokens, payload, ..Item::default() };
        waits(&mut queue, at(now), &item);
    }
    // As if they had come at 0, −1, −7 and 1 s.
    let order: Vec<u64> = std::iter::from_fn(|| next(&mut queue, at(2_000))).collect();
    assert_eq!(order, [3, 2, 1, 4]);
}

#[test]
fn a_standing_band_serves_the_newest_first_and_sheds_at_its_target() {
    let mut settings = one_band(Order::AdaptiveLifo, false);
    settings.bands[0].standing_after = ms(100);
    settings.bands[0].shed_target = Some(ms(30));
    let mut queue = RequestQueue::new(&settings).unwrap();
    for payload in 0..6 {
        waits(&mut queue, at(10 * payload), &Item { payload, ..Item::default() });
    }
    assert_eq!(next(&mut queue, at(60)), Some(0));
    let late = waits(&mut queue, at(150), &Item { payload: 6, ..Item::default() });
    waits(&mut queue, at(160), &Item { payload: 7, ..Item::default() });
    assert!(queue.is_standing(at(160), 0));
    assert_eq!(next(&mut queue, at(160)), Some(7));
    // 150 + 30 ms is over; what came before the band was standing may still wait.
    let mut dropped = Vec::new();
    assert_eq!(queue.dequeue(at(190), u64::MAX, &mut dropped).request().unwrap().payload, 5);
    assert_eq!((dropped[0].ticket, dropped[0].reason), (late, DropReason::Shed));
    while next(&mut queue, at(200)).is_some() {}
    // Empty: no longer standing.
    waits(&mut queue, at(210), &Item { payload: 8, ..Item::default() });
    waits(&mut queue, at(220), &Item { payload: 9, ..Item::default() });
    assert_eq!(next(&mut queue, at(220)), Some(8));
}

#[test]
fn a_better_band_pushes_out_the_youngest_of_the_lowest_beyond_its_own_part() {
    let band = |name: &str, min_share| BandPlan { name: name.into(), min_share, ..BandPlan::default() };
    let mut queue = RequestQueue::new(&QueuePlan {
        bands: vec![band("high", 0.0), band("low", 0.2)],
        max_waiting: 10,
        tenant_threshold: None,
        ..QueuePlan::default()
    })
    .unwrap();
    for payload in 0..10 {
        waits(&mut queue, at(1_000 * payload), &Item { band: 1, payload, ..Item::default() });
    }
    let (now, mut dropped) = (at(10_000), Vec::new());
    let full = queue.enqueue(now, &Item { band: 1, ..Item::default() }, &mut dropped);
    assert!(matches!(full, Admission::Refused { reason: Refusal::Full(Bound::Items), .. }));
    for _ in 0..8 {
        assert!(queue.enqueue(now, &Item::default(), &mut dropped).ticket().is_some());
    }
    let pushed: Vec<u64> = dropped.iter().map(|d| d.payload).collect();
    assert_eq!(pushed, [9, 8, 7, 6, 5, 4, 3, 2]);
    assert!(dropped.iter().all(|d| d.reason == DropReason::PushedOut));
    // A fifth of ten places is the lower band's own.
    let full = queue.enqueue(now, &Item::default(), &mut dropped);
    assert!(matches!(full, Admission::Refused { reason: Refusal::Full(Bound::Items), .. }));
    assert_eq!((queue.band_load(0).items, queue.band_load(1).items), (8, 2));
}

#[test]
fn a_band_that_has_no_request_yet_finds_its_own_part_of_the_queue_free() {
    let band = |name: &str, min_share| BandPlan { name: name.into(), min_share, ..BandPlan::default() };
    let mut queue = RequestQueue::new(&QueuePlan {
        bands: vec![band("high", 0.5), band("low", 0.3)],
        max_waiting: 10,
        tenant_threshold: None,
        ..QueuePlan::default()
    })
    .unwrap();
    let mut counts = [0; 2];
    for band in [0, 1] {
        while queue.enqueue(at(0), &Item { band, ..Item::default() }, &mut Vec::new()).ticket().is_some() {
            counts[usize::from(band)] += 1;
        }
    }
    assert_eq!(counts, [7, 3]);
    let large = Item { band: 0, cost_tokens: (1 << 30) - 1, ..Item::default() };
    let refused = queue.enqueue(at(0), &large, &mut Vec::new());
    let never = Refusal::TooLarge(Bound::Tokens);
    assert_eq!(refused, Admission::Refused { reason: never, retry_after: None });
}

#[test]
fn a_greedy_tenant_leaves_room_for_others() {
    let mut settings = one_band(Order::EarliestDeadline, true);
    settings.max_waiting = 1_000;
    settings.tenant_threshold = Some(4.0);
    let mut queue = RequestQueue::new(&settings).unwrap();
    let mut fill = |tenant| {
        let item = Item { tenant, ..Item::default() };
        let mut count = 0;
        while queue.enqueue(at(0), &item, &mut Vec::new()).ticket().is_some() {
            count += 1;
        }
        count
    };
    // 4 / (1 + 4) of the queue, then of the rest.
    assert_eq!([fill(0), fill(1)], [800, 160]);
}

#[test]
fn a_tenant_of_a_better_band_pushes_out_though_the_queue_is_full_and_it_waits_already() {
    let band = |name: &str| BandPlan { name: name.into(), ..BandPlan::default() };
    let mut queue = RequestQueue::new(&QueuePlan {
        bands: vec![band("high"), band("low")],
        max_waiting: 10,
        tenant_threshold: Some(1.0),
        ..QueuePlan::default()
    })
    .unwrap();
    for tenant in 0..10 {
        waits(&mut queue, at(0), &Item { band: 1, tenant, ..Item::default() });
    }
    let mut count = 0;
    while queue.enqueue(at(0), &Item::default(), &mut Vec::new()).ticket().is_some() {
        count += 1;
    }
    // Half, as in an empty queue.
    assert_eq!(count, 5);
    let mut dropped = Vec::new();
    queue.close(at(0), &mut dropped);
    assert_eq!((queue.load().items, dropped.len()), (0, 10));
    assert!(dropped.iter().all(|d| d.reason == DropReason::Closed));
    assert_eq!(queue.dequeue(at(0), u64::MAX, &mut dropped), Dequeued::Empty);
}

#[test]
fn what_cannot_start_in_time_is_refused_with_the_time_to_retry_after() {
    let mut settings = one_band(Order::EarliestDeadline, false);
    settings.refuse_hopeless = true;
    settings.expected_tokens_per_second = Some(1_000.0);
    settings.bands[0].max_wait = ms(20_000);
    let mut queue = RequestQueue::new(&settings).unwrap();
    let item = |deadline: u64| Item {
        cost_tokens: 1_000,
        deadline: Some(at(deadline)),
        service: ms(500),
        ..Item::default()
    };
    let mut enqueue = |deadline| queue.enqueue(at(0), &item(deadline), &mut Vec::new());
    for place in 0..5 {
        // Starts at 0, 1, 2, 3, 4 s, done half a second later.
        let Admission::Waits { outlook, .. } = enqueue(10_000) else { panic!("{place}") };
        assert_eq!((outlook.position, outlook.starts_in), (place, Some(ms(1_000 * u64::from(place)))));
    }
    // It would start at once, and delays the others by a second of the five that they have.
    assert!(enqueue(2_000).ticket().is_some());
    assert!(enqueue(2_500).ticket().is_some());
    // Behind those two (2.0 s is in the bucket of 1.95 s) it would start at 2 s.
    let Admission::Refused { reason, retry_after } = enqueue(2_450) else { panic!() };
    assert_eq!((reason, retry_after), (Refusal::Deadline, Some(ms(50))));
    assert_eq!(queue.enqueue(at(9_000), &item(9_400), &mut Vec::new()).ticket(), None);
}

#[test]
fn a_request_that_would_make_an_earlier_promise_late_is_refused() {
    let mut settings = one_band(Order::EarliestDeadline, false);
    settings.refuse_hopeless = true;
    settings.expected_tokens_per_second = Some(1_000.0);
    settings.bands[0].max_wait = ms(20_000);
    let mut queue = RequestQueue::new(&settings).unwrap();
    let item =
        |cost_tokens, deadline: u64| Item { cost_tokens, deadline: Some(at(deadline)), ..Item::default() };
    waits(&mut queue, at(0), &item(4_000, 3_000));
    waits(&mut queue, at(0), &item(100, 5_000));
    // 4 s + 2 s > 5 s for the second.
    let refused = queue.enqueue(at(0), &item(2_000, 1_000), &mut Vec::new());
    assert!(matches!(refused, Admission::Refused { reason: Refusal::Deadline, .. }));
    assert!(queue.enqueue(at(0), &item(500, 1_000), &mut Vec::new()).ticket().is_some());
}

#[test]
fn position_and_time_to_start_are_exact_first_come_first_served() {
    let mut queue = RequestQueue::new(&QueuePlan {
        expected_tokens_per_second: Some(100.0),
        ..QueuePlan::first_come_first_served()
    })
    .unwrap();
    let tickets: Vec<Ticket> =
        (0..20).map(|_| waits(&mut queue, at(0), &Item { cost_tokens: 50, ..Item::default() })).collect();
    for served in 0..15u32 {
        let outlook = queue.outlook(at(0), tickets[15]).unwrap();
        assert_eq!((outlook.position, outlook.tokens_before), (15 - served, 50 * u64::from(15 - served)));
        assert_eq!(outlook.starts_in, Some(ms(500 * u64::from(15 - served))));
        next(&mut queue, at(0)).unwrap();
    }
    next(&mut queue, at(0)).unwrap();
    assert_eq!(queue.outlook(at(0), tickets[15]), None);
    assert_eq!(queue.outlook(at(0), Ticket::from_number(u64::MAX)), None);
}

#[test]
fn what_costs_more_than_the_budget_keeps_its_place() {
    let mut queue = RequestQueue::new(&QueuePlan::first_come_first_served()).unwrap();
    let large = waits(&mut queue, at(0), &Item { cost_tokens: 100, payload: 1, ..Item::default() });
    waits(&mut queue, at(0), &Item { cost_tokens: 10, payload: 2, ..Item::default() });
    let blocked = queue.dequeue(at(0), 50, &mut Vec::new());
    assert_eq!(blocked, Dequeued::OverBudget { ticket: large, cost_tokens: 100, payload: 1 });
    assert_eq!([next(&mut queue, at(0)), next(&mut queue, at(0))], [Some(1), Some(2)]);
    assert_eq!(queue.dequeue(at(0), 50, &mut Vec::new()), Dequeued::Empty);
}

#[test]
fn a_clock_that_jumps_back_stands_still() {
    let mut queue = RequestQueue::new(&one_band(Order::EarliestDeadline, true)).unwrap();
    waits(&mut queue, at(50_000), &Item { payload: 1, ..Item::default() });
    waits(&mut queue, at(10), &Item { payload: 2, ..Item::default() });
    let mut dropped = Vec::new();
    let request = *queue.dequeue(at(20), u64::MAX, &mut dropped).request().unwrap();
    assert_eq!((request.payload, request.waited), (1, Duration::ZERO));
    queue.expire(at(80_001), &mut dropped);
    assert_eq!((dropped[0].payload, dropped[0].waited), (2, ms(30_001)));
    queue.expire(Timestamp::new(Duration::MAX), &mut dropped);
}

#[test]
fn nonsense_is_refused_and_never_panics() {
    let mut queue = RequestQueue::new(&QueuePlan::default()).unwrap();
    let mut refused = |item: Item| match queue.enqueue(at(5), &item, &mut Vec::new()) {
        Admission::Refused { reason, .. } => reason.code(),
        Admission::Waits { .. } => "waits",
    };
    assert_eq!(refused(Item { band: 200, ..Item::default() }), "queue_unknown_band");
    assert_eq!(refused(Item { tenant: u32::MAX, ..Item::default() }), "queue_unknown_tenant");
    assert_eq!(refused(Item { cost_tokens: u64::MAX, ..Item::default() }), "queue_too_large");
    assert_eq!(refused(Item { bytes: u64::MAX, ..Item::default() }), "queue_too_large");
    assert_eq!(refused(Item { deadline: Some(at(4)), ..Item::default() }), "queue_deadline_infeasible");
    let far = Some(Timestamp::new(Duration::MAX));
    assert_eq!(refused(Item { deadline: far, service: ms(1), ..Item::default() }), "waits");
    queue.settle(0, 0, u64::MAX, 0);
    queue.settle(0, 0, 0, u64::MAX);
    queue.settle(99, u32::MAX, 0, u64::MAX);
    assert!(!queue.is_standing(at(0), 255));
    assert_eq!(queue.set_tenant(3, None, 0).unwrap_err().code(), "gateway_queue_tenant");
    assert_eq!(queue.set_tenant(3, Some(3), 1).unwrap_err().code(), "gateway_queue_tenant");
}
