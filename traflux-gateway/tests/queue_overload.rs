//! What does the queue make of twice the load that the service can do? Seeded simulations with a virtual clock.
#![allow(clippy::unwrap_used)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_gateway::Rng;
use traflux_gateway::queue::{BandPlan, Item, Order, QueuePlan, RequestQueue};

const SECOND: u64 = 1_000_000_000;
/// Requests that the service runs at a time, and how fast each.
const SLOTS: usize = 16;
const TOKENS_PER_SECOND: f64 = 100.0;

/// What one simulated run came to.
#[derive(Debug, Default, Clone)]
struct Outcome {
    arrived: usize,
    in_time: usize,
    /// Tokens of requests done in time, as a fraction of what the service can do.
    goodput: f64,
    /// Tokens sent per tenant and per band.
    tenants: Vec<f64>,
    bands: Vec<f64>,
    tokens: f64,
}

/// A stream of requests.
struct Source {
    tenants: u32,
    bands: u8,
    /// Times what the service can do.
    load: f64,
    /// The first tenant asks this many times as often as each other one.
    greed: f64,
    /// Seconds from arrival to deadline, beyond the service time: uniform.
    slack: (f64, f64),
    /// The true cost is the expected one times a uniform number this far from 1.
    surprise: f64,
}

fn time(nanos: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(nanos))
}

/// Runs `seconds` of arrivals through a queue. `blind`: the queue is told no deadline.
fn simulate(seed: u64, settings: &QueuePlan, source: &Source, seconds: u64, blind: bool) -> Outcome {
    let mut queue = RequestQueue::new(settings).unwrap();
    let (mut arrivals, mut sizes) = (Rng::stream(seed, 1), Rng::stream(seed, 2));
    let mut surprises = Rng::stream(seed, 3);
    let mut outcome = Outcome {
        tenants: vec![0.0; source.tenants as usize],
        bands: vec![0.0; usize::from(source.bands)],
        ..Outcome::default()
    };
    let mean_tokens = 200.0;
    let rate = source.load * SLOTS as f64 * TOKENS_PER_SECOND / mean_tokens;
    let mut busy: BinaryHeap<Reverse<u64>> = BinaryHeap::new();
    let (mut dropped, mut deadlines) = (Vec::new(), Vec::<u64>::new());
    let (mut next, end) = (0u64, seconds * SECOND);
    loop {
        let finish = busy.peek().map_or(u64::MAX, |Reverse(t)| *t);
        let now = next.min(finish);
        if now >= end {
            break;
        }
        if finish <= next {
            busy.pop();
        } else {
            next += (arrivals.exponential() / rate * 1e9) as u64;
            // Half small, half large, mean 200; the odd tenants have the large ones.
            let draw = sizes.uniform() * (f64::from(source.tenants) - 1.0 + source.greed);
            let tenant = if draw < source.greed { 0 } else { 1 + (draw - source.greed) as u32 };
            let tenant = tenant.min(source.tenants - 1);
            let cost = if tenant % 2 == 0 { 20 + sizes.below(160) } else { 40 + sizes.below(520) } as u64;
            let service = Duration::from_secs_f64(cost as f64 / TOKENS_PER_SECOND);
            let slack = Duration::from_secs_f64(sizes.between(source.slack.0, source.slack.1));
            let deadline = time(now) + service + slack;
            outcome.arrived += 1;
            let item = Item {
                tenant,
                band: sizes.below(usize::from(source.bands)) as u8,
                cost_tokens: cost,
                deadline: (!blind).then_some(deadline),
                service,
                payload: deadlines.len() as u64,
                ..Item::default()
            };
            deadlines.push(deadline.since_epoch().as_nanos() as u64);
            queue.enqueue(time(now), &item, &mut dropped);
        }
        while busy.len() < SLOTS
            && let Some(request) = queue.dequeue(time(now), u64::MAX, &mut dropped).request().copied()
        {
            let surprise = surprises.between(1.0 - source.surprise, 1.0 + source.surprise + 1e-12);
            let cost = request.cost_tokens as f64 * surprise;
            let charged = request.cost_tokens;
            queue.settle(request.band, request.tenant, charged, cost.round() as u64);
            let done = now + (cost / TOKENS_PER_SECOND * 1e9) as u64;
            busy.push(Reverse(done));
            outcome.tenants[request.tenant as usize] += cost;
            outcome.bands[usize::from(request.band)] += cost;
            outcome.tokens += cost;
            // What runs over the end does not count.
            if done <= deadlines[request.payload as usize].min(end) {
                outcome.in_time += 1;
                outcome.goodput += cost;
            }
        }
    }
    outcome.goodput /= seconds as f64 * SLOTS as f64 * TOKENS_PER_SECOND;
    outcome
}

fn one_band(order: Order, fair: bool, refuse_hopeless: bool) -> QueuePlan {
    QueuePlan {
        bands: vec![BandPlan { order, fair, ..BandPlan::default() }],
        refuse_hopeless,
        ..QueuePlan::default()
    }
}

/// R. Jain, D. Chiu, W. Hawe, "A quantitative measure of fairness", DEC TR-301, 1984.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(s, q), x| (s + x, q + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

#[test]
fn at_twice_the_load_nine_tenths_of_the_capacity_do_useful_work() {
    let source = Source { tenants: 10, bands: 1, load: 2.0, greed: 1.0, slack: (1.0, 10.0), surprise: 0.0 };
    for seed in 0..5 {
        for (name, order, fair) in [
            ("deadlines, fair", Order::EarliestDeadline, true),
            ("deadlines, band-wide", Order::EarliestDeadline, false),
            ("least laxity, fair", Order::LeastLaxity, true),
            ("value density, fair", Order::ValueDensity, true),
            ("adaptive lifo, fair", Order::AdaptiveLifo, true),
            ("first come, fair", Order::Fcfs, true),
        ] {
            let ours = simulate(seed, &one_band(order, fair, true), &source, 300, false);
            println!("seed {seed}, {name}: goodput {:.3}, in time {}", ours.goodput, ours.in_time);
            assert!(ours.goodput >= 0.9, "{name}, seed {seed}: {ours:?}");
        }
        let blind = simulate(seed, &one_band(Order::Fcfs, false, false), &source, 300, true);
        println!("seed {seed}, first come without deadlines: goodput {:.3}", blind.goodput);
    }
}

#[test]
fn wrong_expectations_cost_less_than_they_are_wrong() {
    let source = Source { tenants: 10, bands: 1, load: 2.0, greed: 1.0, slack: (1.0, 10.0), surprise: 0.5 };
    for seed in 0..3 {
        for fair in [true, false] {
            let settings = one_band(Order::EarliestDeadline, fair, true);
            let ours = simulate(seed, &settings, &source, 300, false);
            println!("seed {seed}, costs ±50 %, fair {fair}: goodput {:.3}", ours.goodput);
            assert!(ours.goodput >= 0.75, "{ours:?}");
        }
    }
}

#[test]
fn deadlines_with_admission_meet_at_least_as_many_as_first_come_first_served() {
    for load in [0.8, 1.0, 1.2, 1.5, 2.0] {
        let source = Source { tenants: 10, bands: 1, load, greed: 1.0, slack: (0.5, 10.0), surprise: 0.0 };
        for seed in 0..3 {
            let run = |order, fair, admission, blind| {
                let settings = one_band(order, fair, admission);
                let outcome = simulate(seed, &settings, &source, 300, blind);
                (outcome.in_time, outcome.arrived)
            };
            let (band_wide, arrived) = run(Order::EarliestDeadline, false, true, false);
            let (fair, _) = run(Order::EarliestDeadline, true, true, false);
            let (dropping, _) = run(Order::Fcfs, false, false, false);
            let (admitted, _) = run(Order::Fcfs, false, true, false);
            let (blind, _) = run(Order::Fcfs, false, false, true);
            println!(
                "load {load}, seed {seed}: of {arrived} in time: deadlines band-wide {band_wide}, fair {fair}; \
                 first come, with admission {admitted}, late dropped {dropping}, \
                 blind {blind}"
            );
            assert!(band_wide >= blind && fair >= blind, "{load} {seed}");
            assert!(band_wide >= admitted, "{load} {seed}: {band_wide} < {admitted}");
            assert!(band_wide >= dropping, "{load} {seed}: {band_wide} < {dropping}");
        }
    }
}

#[test]
fn equal_tenants_that_always_wait_get_equal_tokens_however_they_ask() {
    // Large and small requests, one tenant asks ten times as often.
    let source = Source { tenants: 10, bands: 1, load: 6.0, greed: 10.0, slack: (8.0, 30.0), surprise: 0.0 };
    for order in [Order::Fcfs, Order::EarliestDeadline, Order::ValueDensity] {
        for seed in 0..3 {
            let fair = simulate(seed, &one_band(order, true, true), &source, 300, false);
            let unfair = simulate(seed, &one_band(order, false, true), &source, 300, false);
            let (index, without) = (jain(&fair.tenants), jain(&unfair.tenants));
            println!("{order:?}, seed {seed}: Jain {index:.4}, without fairness {without:.4}");
            assert!(index >= 0.98, "{:?}", fair.tenants);
            assert!(without < 0.8, "{:?}", unfair.tenants);
        }
    }
}

#[test]
fn every_band_gets_at_least_its_share_and_nothing_is_idle() {
    let shares = [0.0, 0.25, 0.1];
    let band = |b: usize| BandPlan { name: b.to_string(), min_share: shares[b], ..BandPlan::default() };
    let settings = QueuePlan { bands: (0..3).map(band).collect(), ..QueuePlan::default() };
    // Each band alone asks for twice what there is.
    let source = Source { tenants: 10, bands: 3, load: 6.0, greed: 1.0, slack: (1.0, 20.0), surprise: 0.0 };
    for seed in 0..3 {
        let outcome = simulate(seed, &settings, &source, 300, false);
        let got: Vec<f64> = outcome.bands.iter().map(|t| t / outcome.tokens).collect();
        println!("seed {seed}: bands get {got:.3?}, goodput {:.3}", outcome.goodput);
        for b in 0..3 {
            // 4 requests of 560 tokens of the bound, in 480,000.
            assert!(got[b] >= shares[b] - 0.005, "{got:?}");
        }
        assert!(got[0] > 0.6 && outcome.goodput >= 0.9, "{got:?} {}", outcome.goodput);
        let sent = outcome.tokens / (300.0 * SLOTS as f64 * TOKENS_PER_SECOND);
        assert!(sent > 0.99, "a slot was idle while requests waited: {sent}");
    }
}
