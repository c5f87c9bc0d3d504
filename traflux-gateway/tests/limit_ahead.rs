//! Limits that are waited for: whose turn is when?
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::limit::{
    Cost, DenialReason, Key, LimitIx, LimitRule, LimitSettings, Limiter, LimiterSettings, Reservation,
};

const SECOND: Duration = Duration::from_secs(1);

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_millis(1_000_000 + milliseconds))
}

fn cost(requests: u64) -> Cost {
    Cost { requests, ..Cost::NOTHING }
}

fn limiter(limits: &[(LimitRule, u64)]) -> Limiter {
    let limits = limits.iter().enumerate().map(|(ix, (rule, max_wait_ms))| LimitSettings {
        name: format!("l{ix}"),
        rule: *rule,
        max_wait: Duration::from_millis(*max_wait_ms),
        ..Default::default()
    });
    let settings = LimiterSettings { limits: limits.collect(), ..Default::default() };
    Limiter::new(&settings, at(0), 1).unwrap()
}

fn ahead(
    limiter: &Limiter,
    now: Timestamp,
    count: u16,
    units: u64,
) -> Result<(Reservation, u128), DenialReason> {
    let limits: Vec<_> = (0..count).map(|ix| (LimitIx(ix), Key::ONLY)).collect();
    let turn = limiter.reserve_ahead(now, &limits, &cost(units)).map_err(|denial| denial.reason)?;
    Ok((turn.0, turn.1.as_millis()))
}

#[test]
fn turns_of_a_bucket_come_in_order_once_the_burst_is_gone() {
    let bucket = LimitRule::TokenBucket { amount: 10, period: SECOND, burst: 2 };
    let limiter = limiter(&[(bucket, 250)]);
    let mut kept = Vec::new();
    for expected in [0, 0, 100, 200] {
        let (reservation, wait) = ahead(&limiter, at(0), 1, 1).unwrap();
        assert!(wait.abs_diff(expected) <= 1, "{wait} ms, expected {expected}");
        kept.push(reservation);
    }
    // The next turn would come after 300 ms, beyond what anybody waits.
    let Err(DenialReason::Wait(wait)) = ahead(&limiter, at(0), 1, 1) else { panic!("too late") };
    assert!(wait.as_millis().abs_diff(300) <= 1, "{wait:?}");
    // Nobody overtakes: who does not want to wait is refused while others do.
    let now = limiter.reserve(at(150), &[(LimitIx(0), Key::ONLY)], &cost(1)).unwrap_err();
    assert!(matches!(now.reason, DenialReason::Wait(_)), "{now:?}");
    // Who leaves makes room for those who come later.
    kept.pop().unwrap().cancel(at(0));
    assert!(ahead(&limiter, at(0), 1, 1).unwrap().1.abs_diff(200) <= 1);
}

#[test]
fn pacing_spaces_requests_by_their_size_however_large() {
    let limiter = limiter(&[(LimitRule::Pacing { amount: 10, period: SECOND }, 60_000)]);
    let mut waits = Vec::new();
    for units in [1, 50, 1] {
        let (reservation, wait) = ahead(&limiter, at(0), 1, units).unwrap();
        reservation.keep();
        waits.push(wait);
    }
    for (wait, expected) in waits.into_iter().zip([0, 100, 5100]) {
        assert!(wait.abs_diff(expected) <= 1, "{wait} ms, expected {expected}");
    }
    let strict = limiter.reserve(at(0), &[(LimitIx(0), Key::ONLY)], &cost(1)).unwrap_err();
    assert!(matches!(strict.reason, DenialReason::Wait(wait) if wait.as_millis().abs_diff(5200) <= 1));
    assert!(
        limiter.reserve(at(5202), &[(LimitIx(0), Key::ONLY)], &cost(1)).is_ok(),
        "all before it have flowed"
    );
}

#[test]
fn a_fixed_window_is_waited_for_until_it_begins() {
    let window = LimitRule::FixedWindow { amount: 2, period: SECOND, offset: Duration::ZERO };
    let limiter = limiter(&[(window, 1_500)]);
    let waits: Vec<_> = (0..4)
        .map(|_| {
            let (reservation, wait) = ahead(&limiter, at(400), 1, 1).unwrap();
            reservation.keep();
            wait
        })
        .collect();
    assert_eq!(waits, [0, 0, 600, 600]);
    assert!(ahead(&limiter, at(400), 1, 1).is_err(), "the window after the next begins after 1,600 ms");
}

#[test]
fn of_several_limits_the_longest_wait_counts_and_one_that_refuses_costs_nothing() {
    let (slow, fast) = (
        LimitRule::Pacing { amount: 1, period: SECOND },
        LimitRule::TokenBucket { amount: 10, period: SECOND, burst: 1 },
    );
    let limiter = limiter(&[(slow, 10_000), (fast, 10_000), (LimitRule::InFlight { amount: 2 }, 0)]);
    let first = ahead(&limiter, at(0), 3, 1).unwrap();
    let second = ahead(&limiter, at(0), 3, 1).unwrap();
    assert_eq!((first.1, second.1), (0, 1000));
    let levels =
        || (0..3).map(|ix| limiter.level(at(0), LimitIx(ix), Key::ONLY).unwrap().used).collect::<Vec<_>>();
    let before = levels();
    assert_eq!(ahead(&limiter, at(0), 3, 1).unwrap_err(), DenialReason::InFlight);
    assert_eq!(levels(), before);
}

#[test]
fn what_does_not_say_whose_turn_is_when_is_not_waited_for() {
    for rule in [LimitRule::InFlight { amount: 1 }, LimitRule::SlidingWindow { amount: 1, period: SECOND }] {
        let limits = vec![LimitSettings { name: "l".into(), rule, max_wait: SECOND, ..Default::default() }];
        let settings = LimiterSettings { limits, ..Default::default() };
        let error = Limiter::new(&settings, at(0), 1).unwrap_err();
        assert_eq!(error.code(), "gateway_setting", "{error}");
    }
}

proptest! {
    /// The promise of a token bucket holds for the moments at which turns come, whoever comes when and leaves.
    #[test]
    fn in_no_window_do_more_turns_come_than_burst_and_rate_allow(
        rate in 1u64..50,
        burst in 1u64..10,
        arrivals in prop::collection::vec((0u64..200, 1u64..4, any::<bool>()), 1..80),
    ) {
        let bucket = LimitRule::TokenBucket { amount: rate, period: SECOND, burst };
        let limiter = limiter(&[(bucket, 5_000)]);
        let (mut now, mut turns) = (0, Vec::new());
        for (gap, units, stays) in arrivals {
            now += gap;
            let taken = limiter.reserve_ahead(at(now), &[(LimitIx(0), Key::ONLY)], &cost(units.min(burst)));
            let Ok((reservation, wait)) = taken else { continue };
            if stays {
                reservation.keep();
                turns.push((now as f64 / 1e3 + wait.as_secs_f64(), units.min(burst)));
            } else {
                reservation.cancel(at(now));
            }
        }
        prop_assert!(turns.is_sorted_by(|a, b| a.0 <= b.0 + 1e-6), "turns come in the order of arrival");
        for (ix, (from, _)) in turns.iter().enumerate() {
            let mut sum = 0;
            for (to, units) in &turns[ix..] {
                sum += units;
                let allowed = burst as f64 + rate as f64 * (to - from);
                prop_assert!(sum as f64 <= allowed + 1e-3, "{sum} units in {} s, {allowed} allowed", to - from);
            }
        }
    }
}
