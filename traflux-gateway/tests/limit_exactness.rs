//! No window of any length grants more than its burst and rate, whatever is reserved, settled and cancelled.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::PicoDollars;
use traflux_gateway::limit::{
    BucketCell, Cost, Denial, DenialReason, Key, LimitIx, LimitRule, LimitSettings, Limiter, LimiterSettings,
    Meter, Receipt, Refill, Reservation, ScopeSettings, Unit,
};

fn at(nanos: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(nanos))
}

fn bucket(name: &str, unit: Unit, amount: u64, burst: u64) -> LimitSettings {
    let rule = LimitRule::TokenBucket { amount, period: Duration::from_secs(1), burst };
    LimitSettings { name: name.into(), scope: None, unit, rule, ..Default::default() }
}

fn limiter(limits: Vec<LimitSettings>) -> Limiter {
    Limiter::new(&LimiterSettings { limits, scopes: Vec::new() }, at(0), 1).unwrap()
}

fn requests(units: u64) -> Cost {
    Cost { requests: units, ..Cost::NOTHING }
}

fn used(limiter: &Limiter, limit: u16, now: u64) -> u64 {
    limiter.level(at(now), LimitIx(limit), Key::ONLY).unwrap().used
}

/// The most that any window holds beyond `rate · window`, by Kadane's sum over charges in order of time, in units.
fn most_beyond_the_rate(charges: &[(u64, u64)], rate: u64) -> f64 {
    let (mut best, mut level, mut last) = (0.0f64, 0.0f64, 0);
    for (time, units) in charges {
        level = (level - (time - last) as f64 * 1e-9 * rate as f64).max(0.0) + *units as f64;
        last = *time;
        best = best.max(level);
    }
    best
}

/// One step of a history: time since the last, units, and which open reservation ends (with which part used).
type Step = (u64, u64, usize, u8);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_is_kept_of_reservations_never_exceeds_burst_and_rate_in_any_window(
        rate in 1u64..2_000, burst in 1u64..60,
        steps in prop::collection::vec((0u64..8_000_000, 1u64..25, 0usize..6, 0u8..5), 1..150),
    ) {
        let limiter = limiter(vec![bucket("r", Unit::Requests, rate, burst)]);
        let steps: Vec<Step> = steps;
        let (mut now, mut kept, mut open) = (0u64, Vec::<(u64, u64)>::new(), Vec::<(usize, u64, Reservation)>::new());
        for (gap, units, which, part) in steps {
            now += gap;
            if let Ok(reservation) = limiter.reserve(at(now), &[(LimitIx(0), Key::ONLY)], &requests(units)) {
                open.push((kept.len(), units, reservation));
                kept.push((now, units));
            }
            if which < open.len() {
                let (ix, units, reservation) = open.swap_remove(which);
                let actual = units * u64::from(part) / 4;
                kept[ix].1 = actual;
                match part {
                    0 if gap.is_multiple_of(2) => drop(reservation),
                    0 => reservation.cancel(at(now)),
                    _ => reservation.settle(at(now), &requests(actual)),
                }
            }
        }
        // One tick flows in at most 64 ns.
        let slack = 1e-6 + rate as f64 * 64e-9;
        let beyond = most_beyond_the_rate(&kept, rate);
        prop_assert!(beyond <= burst as f64 + slack, "{beyond} of burst {burst}");
    }

    #[test]
    fn alone_in_the_bucket_settling_is_the_same_as_having_charged_the_truth(
        rate in 1u64..1_000, before in 0u64..500, units in 1u64..500, part in 0u64..=6, wait in 0u64..1_000_000_000,
    ) {
        let (one, two) = (
            limiter(vec![bucket("r", Unit::Requests, rate, 1_000)]),
            limiter(vec![bucket("r", Unit::Requests, rate, 1_000)]),
        );
        let actual = units * part / 4;
        let limit = [(LimitIx(0), Key::ONLY)];
        for l in [&one, &two] {
            l.reserve(at(0), &limit, &requests(before)).unwrap().keep();
        }
        one.reserve(at(0), &limit, &requests(units)).unwrap().settle(at(wait), &requests(actual));
        two.debit(at(0), LimitIx(0), Key::ONLY, actual);
        // Beyond the estimate is charged when it is known, so the level is what drained in between higher at most.
        let (level, exact) = (used(&one, 0, wait), used(&two, 0, wait));
        if actual <= units {
            prop_assert!(level.abs_diff(exact) <= 1, "{level} {exact}");
        } else {
            let drained = wait as f64 * 1e-9 * rate as f64 + 1.0;
            prop_assert!(level >= exact && (level - exact) as f64 <= drained, "{level} {exact}");
        }
    }

    #[test]
    fn the_wait_of_a_refusal_is_exact(
        rate in 1u64..700_000_000, burst in 1u64..1_000_000, spent in 1u64..3_000_000, now in 0u64..u64::MAX / 4,
    ) {
        let refill = Refill::Continuous { amount: rate, period: Duration::from_secs(1) };
        let meter = Meter::new(refill, burst, now).unwrap();
        prop_assume!(spent >= burst);
        let wait = meter.time_until(now, meter.ticks_of_any(spent)).unwrap();
        let units = |wait: u64| {
            let cell: BucketCell = BucketCell::default();
            cell.debit(meter.granted(now), meter.ticks_of_any(spent));
            cell.charge(&meter, meter.granted(now + wait), burst).is_ok()
        };
        prop_assert!(units(wait) && !units(wait - 1));
    }

    #[test]
    fn a_level_survives_any_change_of_rate_and_burst(
        rate in 1u64..1_000, burst in 10u64..1_000, new_rate in 1u64..10_000, new_burst in 1u64..5_000,
        spent in 0u64..1_000, moment in 0u64..100_000_000_000,
    ) {
        let settings = |rate, burst| LimiterSettings {
            limits: vec![bucket("r", Unit::Requests, rate, burst)],
            scopes: Vec::new(),
        };
        // As far as a rate may grow without a new start.
        let new_rate = new_rate.min(2_000 * rate);
        let old = Limiter::new(&settings(rate, burst), at(0), 1).unwrap();
        old.debit(at(moment), LimitIx(0), Key::ONLY, spent);
        let reservation = old.reserve(at(moment), &[(LimitIx(0), Key::ONLY)], &requests(burst.min(5)));
        let new = old.reloaded(&settings(new_rate, new_burst), at(moment)).unwrap();
        prop_assert_eq!(used(&new, 0, moment), used(&old, 0, moment));
        if let Ok(reservation) = reservation {
            reservation.cancel(at(moment));
        }
        prop_assert_eq!(used(&new, 0, moment), spent);
    }
}

/// Charges by eight threads, each with a clock of its own that runs through the same time.
fn grants_of_eight_threads(rate: u64, refunds: bool) -> (Vec<(u64, u64)>, u64) {
    const THREADS: u64 = 8;
    let burst = (rate / 100).max(3);
    let refill = Refill::Continuous { amount: rate, period: Duration::from_secs(1) };
    let meter = Meter::new(refill, burst, 0).unwrap();
    let (cell, clock) = (BucketCell::<AtomicU64>::default(), AtomicU64::new(0));
    // 4,000 ticks of the clock in all; a step lets a few units flow.
    let step = (3_000_000_000 / rate).clamp(50_000, 700_000_000);
    let units = (u128::from(rate) * u128::from(step) / 1_000_000_000 / 2).max(1) as u64;
    let run = |thread: u64| {
        let mut kept = Vec::new();
        loop {
            let tick = clock.fetch_add(1, Ordering::Relaxed);
            if tick >= 4_000 {
                return kept;
            }
            // Up to one step behind the others.
            let now = tick * step - (tick.min(1) * (thread * step / THREADS));
            let units = units.min(burst);
            let charged = meter.ticks(units).unwrap();
            for _ in 0..3 {
                let Ok(receipt) = cell.charge(&meter, meter.granted(now), units) else { break };
                if refunds && (tick + thread).is_multiple_of(3) {
                    let later = meter.granted(now + step / 3);
                    let back = cell.give_back(later, receipt, charged, charged);
                    // What was not given back was drained: kept or not, it is over. Count what the caller used: nothing.
                    assert!(back <= charged);
                } else {
                    kept.push((now, units));
                }
            }
        }
    };
    let run = &run;
    let mut kept: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    kept.sort_unstable();
    (kept, burst)
}

#[test]
fn eight_threads_are_never_granted_more_than_burst_and_rate_in_any_window() {
    for rate in [1, 10, 1_000, 1_000_000, 150_000_000, 600_000_000] {
        for refunds in [false, true] {
            let (kept, burst) = grants_of_eight_threads(rate, refunds);
            let beyond = most_beyond_the_rate(&kept, rate);
            // One tick, at most 64 ns of the rate or one unit at 600 M/s, and the rounding of the sum.
            let slack = 1e-3 + (rate as f64 * 64e-9).min(1.0);
            assert!(beyond <= burst as f64 + slack, "{beyond} of {burst} at {rate}/s, refunds {refunds}");
            assert!(kept.len() > 300, "{}", kept.len());
        }
    }
}

#[test]
fn eight_threads_that_reserve_and_cancel_leave_no_trace() {
    let mut limits = vec![
        bucket("requests", Unit::Requests, 1, 1_000),
        bucket("tokens", Unit::TotalTokens, 1, 1_000_000),
        bucket("money", Unit::PicoDollars, 1, 1_000_000_000),
    ];
    let rule = LimitRule::InFlight { amount: 6 };
    limits.push(LimitSettings { name: "in flight".into(), rule, ..Default::default() });
    let limiter = limiter(limits);
    let all: Vec<_> = (0..4).map(|ix| (LimitIx(ix), Key::ONLY)).collect();
    let cost = Cost { input_tokens: 300, output_tokens: 900, price: PicoDollars(77), ..Cost::REQUEST };
    let (most, now) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (limiter, all, most, now) = (&limiter, &all, &most, &now);
            scope.spawn(move || {
                for round in 0..5_000 {
                    match limiter.reserve(at(0), all, &cost) {
                        Ok(reservation) => {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            now.fetch_sub(1, Ordering::SeqCst);
                            match (round + thread) % 3 {
                                0 => drop(reservation),
                                1 => reservation.settle(at(0), &Cost::NOTHING),
                                _ => reservation.cancel(at(0)),
                            }
                        }
                        Err(Denial { limit, reason }) => {
                            assert_eq!((limit, reason), (LimitIx(3), DenialReason::InFlight));
                        }
                    }
                }
            });
        }
    });
    assert!(most.into_inner() <= 6);
    for ix in 0..4 {
        assert_eq!(used(&limiter, ix, 0), 0, "limit {ix}");
    }
    assert!(limiter.dropped() > 1_000);
}

#[test]
fn a_budget_is_exceeded_only_by_what_goes_beyond_the_estimates_in_flight() {
    // A budget that never refills: 1,000 tokens, estimates of 10, every fourth request takes 15.
    let limiter = limiter(vec![bucket("tokens", Unit::OutputTokens, 0, 1_000)]);
    let tokens = |output_tokens| Cost { output_tokens, ..Cost::NOTHING };
    let spent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (limiter, spent) = (&limiter, &spent);
            scope.spawn(move || {
                for round in 0..200 {
                    let actual = if (round + thread) % 4 == 0 { 15 } else { 7 };
                    let limit = [(LimitIx(0), Key::ONLY)];
                    if let Ok(reservation) = limiter.reserve(at(0), &limit, &tokens(10)) {
                        reservation.settle(at(0), &tokens(actual));
                        spent.fetch_add(actual, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let spent = spent.into_inner();
    assert!((991..=1_000 + 8 * 5).contains(&spent), "{spent}");
    assert_eq!(used(&limiter, 0, 0), spent, "settled with the truth, debt included");
}

#[test]
fn estimates_that_are_upper_bounds_never_exceed_a_budget() {
    let limiter = limiter(vec![bucket("money", Unit::PicoDollars, 0, 1_000_000)]);
    let price = |price| Cost { price: PicoDollars(price), ..Cost::NOTHING };
    let spent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (limiter, spent) = (&limiter, &spent);
            scope.spawn(move || {
                for round in 0..2_000u64 {
                    let limit = [(LimitIx(0), Key::ONLY)];
                    if let Ok(reservation) = limiter.reserve(at(0), &limit, &price(1_000)) {
                        let actual = 100 + (round * 37 + thread * 11) % 900;
                        spent.fetch_add(actual, Ordering::SeqCst);
                        reservation.settle(at(0), &price(actual));
                        assert!(spent.load(Ordering::SeqCst) <= 1_000_000);
                    }
                }
            });
        }
    });
    let spent = spent.into_inner();
    assert!((999_000..=1_000_000).contains(&spent), "{spent}");
    assert_eq!(used(&limiter, 0, 0), spent);
}

#[test]
fn a_clock_that_jumps_back_grants_nothing_more() {
    let refill = Refill::Continuous { amount: 10, period: Duration::from_secs(1) };
    let meter = Meter::new(refill, 10, 0).unwrap();
    let cell: BucketCell = BucketCell::default();
    let second = 1_000_000_000;
    let ten = meter.ticks(10).unwrap();
    let receipt: Receipt = cell.charge(&meter, meter.granted(5 * second), 10).unwrap();
    assert!(cell.charge(&meter, meter.granted(second), 1).is_err());
    assert!(cell.charge(&meter, meter.granted(0), 1).is_err());
    // The refund counts from the latest charge, not from the clock that is behind.
    assert!(cell.charge(&meter, meter.granted(6 * second), 9).is_ok());
    assert!(cell.give_back(meter.granted(0), receipt, ten, ten) <= meter.ticks(1).unwrap());
    let limiter = limiter(vec![bucket("r", Unit::Requests, 1, 1)]);
    assert!(limiter.reserve(at(9), &[(LimitIx(0), Key::ONLY)], &Cost::REQUEST).is_ok_and(|r| {
        r.keep();
        limiter.reserve(at(0), &[(LimitIx(0), Key::ONLY)], &Cost::REQUEST).is_err()
    }));
}

#[test]
fn a_key_in_debt_or_with_a_reservation_is_never_evicted() {
    let limits = vec![LimitSettings { scope: Some("tenant".into()), ..bucket("r", Unit::Requests, 1, 10) }];
    let scopes = vec![ScopeSettings { name: "tenant".into(), max_keys: 2 }];
    let limiter = Limiter::new(&LimiterSettings { limits, scopes }, at(0), 9).unwrap();
    let tenant = limiter.scope_of("tenant").unwrap();
    let second = 1_000_000_000;
    let debtor = limiter.key(at(0), tenant, "debtor").unwrap();
    limiter.debit(at(0), LimitIx(0), debtor, 100);
    let holder = limiter.key(at(0), tenant, "holder").unwrap();
    let reservation = limiter.reserve(at(0), &[(LimitIx(0), holder)], &Cost::REQUEST).unwrap();
    assert_eq!(limiter.key(at(50 * second), tenant, "third"), None);
    reservation.settle(at(50 * second), &requests(6));
    assert_eq!(
        limiter.key(at(51 * second), tenant, "third"),
        None,
        "five beyond the estimate are not drained yet"
    );
    let third = limiter.key(at(56 * second), tenant, "third").unwrap();
    assert_eq!(third.to_owned(), limiter.key(at(57 * second), tenant, "third").unwrap());
    assert!(limiter.level(at(57 * second), LimitIx(0), holder).is_none(), "the old key is stale");
    assert_eq!(limiter.level(at(60 * second), LimitIx(0), debtor).unwrap().used, 41, "40 and a tick");
    assert_eq!(limiter.sweep(at(200 * second), tenant), 2);
    assert_eq!(limiter.keys(tenant), 0);
}
