//! Limits: one bucket, a bucket per key, three limits at once, and how exact a rate is.
//!
//! Both sides read the same clock (`quanta`) at every operation and every charge is allowed.

use std::cell::Cell;
use std::collections::HashMap;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use limitador::RateLimiter as Limitador;
use limitador::limit::{Context, Limit, Namespace};
use traflux_core::Timestamp;
use traflux_gateway::limit::{
    Check, Cost, Key, LimitIx, LimitRule, LimitSettings, Limiter, LimiterSettings, ScopeSettings,
    TokenBucket, Unit,
};
use traflux_gateway::{PicoDollars, Rng};

use crate::harness::{Clock, alone, compare, header};

const KEYS: usize = 10_000;

/// So many at a time where threads are started for them.
const CHECKS: usize = 1 << 20;

/// Runs the part.
pub(crate) fn run() {
    header();
    direct();
    keyed();
    hot_key();
    reservation();
    println!();
    exactness();
}

fn quota() -> Quota {
    let most = NonZeroU32::new(100_000_000).unwrap();
    Quota::per_second(most).allow_burst(NonZeroU32::MAX)
}

fn rule() -> LimitRule {
    LimitRule::TokenBucket { amount: 100_000_000, period: Duration::from_secs(1), burst: 1 << 32 }
}

fn direct() {
    let clock = Clock::new();
    let ours = TokenBucket::new(100_000_000, Duration::from_secs(1), 1 << 32, clock.now()).unwrap();
    let rival = RateLimiter::direct(quota());
    compare(
        "one bucket, with clock; governor direct",
        "≤ 1",
        &mut |count| {
            for _ in 0..count {
                assert_eq!(black_box(&ours).check_at(clock.nanos(), 1), Check::Allowed);
            }
        },
        &mut |count| {
            for _ in 0..count {
                assert!(black_box(&rival).check().is_ok());
            }
        },
    );
    let moment = clock.now();
    alone("one bucket, clock not read", "", &mut |count| {
        for _ in 0..count {
            assert_eq!(black_box(&ours).check(black_box(moment), 1), Check::Allowed);
        }
    });
}

fn limiter(limits: Vec<LimitSettings>) -> Limiter {
    let scopes = vec![ScopeSettings { name: "tenant".into(), max_keys: KEYS }];
    Limiter::new(&LimiterSettings { scopes, limits }, Timestamp::ZERO, 7).unwrap()
}

fn per_tenant(name: &str, unit: Unit) -> LimitSettings {
    LimitSettings { name: name.into(), scope: Some("tenant".into()), unit, rule: rule(), ..LimitSettings::default() }
}

/// Names of keys, with digits that look random, and an order without pattern.
fn names(keys: usize, name: fn(u64) -> String) -> (Vec<String>, Vec<usize>) {
    let mut rng = Rng::new(5);
    let names = (0..keys).map(|_| name(rng.next_u64())).collect();
    (names, (0..1 << 16).map(|_| rng.below(keys)).collect())
}

/// `tenant-` and ten digits.
fn short(number: u64) -> String {
    format!("tenant-{:010}", number % 10_000_000_000)
}

/// As long as a UUID.
fn long(number: u64) -> String {
    format!("{number:016x}-{:019x}", number.rotate_left(17))
}

fn keyed() {
    for (keys, kind, name) in
        [(KEYS, "17-byte", short as fn(u64) -> String), (KEYS, "36-byte", long), (500, "17-byte", short)]
    {
        let clock = Clock::new();
        let (names, order) = names(keys, name);
        let ours = limiter(vec![per_tenant("requests", Unit::Requests)]);
        let rival = RateLimiter::<String, _, _, _>::dashmap(quota());
        let (mut at, mut rival_at) = (0, 0);
        // All keys are there before the first round.
        for name in &names {
            assert_eq!(ours.check(clock.now(), LimitIx(0), name, 1), Check::Allowed);
            assert!(rival.check_key(name).is_ok());
        }
        compare(
            &format!("{keys} keys, {kind} strings, with clock; governor keyed"),
            "≤ 0.5",
            &mut |count| {
                for _ in 0..count {
                    at = (at + 1) % order.len();
                    assert_eq!(ours.check(clock.now(), LimitIx(0), &names[order[at]], 1), Check::Allowed);
                }
            },
            &mut |count| {
                for _ in 0..count {
                    rival_at = (rival_at + 1) % order.len();
                    assert!(rival.check_key(&names[order[rival_at]]).is_ok());
                }
            },
        );
    }
}

fn hot_key() {
    let clock = Clock::new();
    let ours = TokenBucket::new(100_000_000, Duration::from_secs(1), 1 << 32, clock.now()).unwrap();
    let rival = RateLimiter::direct(quota());
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    let all = |count: usize, one: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(move || (0..count * CHECKS / threads).for_each(|_| one()));
            }
        });
    };
    compare(
        &format!("{CHECKS} checks of one hot bucket by {threads} threads, wall time; governor direct"),
        "≤ 1",
        &mut |count| all(count, &|| assert_eq!(ours.check_at(clock.nanos(), 1), Check::Allowed)),
        &mut |count| all(count, &|| assert!(rival.check().is_ok())),
    );
}

fn reservation() {
    let clock = Clock::new();
    let (names, order) = names(KEYS, short);
    let limits = vec![
        per_tenant("requests", Unit::Requests),
        per_tenant("tokens", Unit::TotalTokens),
        per_tenant("money", Unit::PicoDollars),
    ];
    let ours = limiter(limits);
    let tenant = ours.scope_of("tenant").unwrap();
    let keys: Vec<Key> = names.iter().map(|name| ours.key(clock.now(), tenant, name).unwrap()).collect();
    let estimate = Cost { input_tokens: 10, output_tokens: 40, price: PicoDollars(50), ..Cost::REQUEST };
    let actual = Cost { output_tokens: 7, price: PicoDollars(17), ..estimate };
    let once = |key: Key| {
        let limits = [(LimitIx(0), key), (LimitIx(1), key), (LimitIx(2), key)];
        let reservation = ours.reserve(clock.now(), &limits, &estimate);
        reservation.unwrap().settle(clock.now(), &actual);
    };

    let space = Namespace::from("bench");
    let rival = Limitador::new(100_000);
    for (ix, most) in [u64::MAX / 4, u64::MAX / 4 - 1, u64::MAX / 4 - 2].into_iter().enumerate() {
        let seconds = 60 + ix as u64;
        let tenant = "tenant".try_into().unwrap();
        assert!(rival.add_limit(Limit::new("bench", most, seconds, vec![], vec![tenant])));
    }
    let contexts: Vec<Context<'_>> = names
        .iter()
        .map(|name| Context::from(HashMap::from([("tenant".to_owned(), name.clone())])))
        .collect();
    let rival_once = |ix: usize| {
        let held = rival.reserve(&space, &contexts[ix], 50, None).unwrap();
        assert!(!held.limited && held.counters.len() == 3);
        let ended =
            rival.commit_reservation(&space, &contexts[ix], held.reservation_id.as_ref(), 17).unwrap();
        assert!(ended.reservation_released);
    };

    let (mut at, mut rival_at) = (0, 0);
    compare(
        "3 limits of one of 100 tenants reserved and settled, 2 clock readings, key known; limitador",
        "ours ≤ 120 ns",
        &mut |count| {
            for _ in 0..count {
                at = (at + 1) % order.len();
                once(keys[order[at] % 100]);
            }
        },
        &mut |count| {
            for _ in 0..count {
                rival_at = (rival_at + 1) % order.len();
                rival_once(order[rival_at] % 100);
            }
        },
    );
    alone("the same, one of 10,000 tenants", "", &mut |count| {
        for _ in 0..count {
            at = (at + 1) % order.len();
            once(keys[order[at]]);
        }
    });
    alone("the same, one of 10,000 tenants by string", "", &mut |count| {
        for _ in 0..count {
            at = (at + 1) % order.len();
            once(ours.key(clock.now(), tenant, &names[order[at]]).unwrap());
        }
    });
    // A clock that costs nothing and moves on, as the engine sees it: it reads the time once for all its parts.
    let virtual_clock = Cell::new(clock.nanos());
    let fixed = |estimate: &Cost, actual: &Cost, key: Key| {
        let now = virtual_clock.get() + 500;
        virtual_clock.set(now + 500);
        let limits = [(LimitIx(0), key), (LimitIx(1), key), (LimitIx(2), key)];
        let reservation = ours.reserve(Timestamp::new(Duration::from_nanos(now)), &limits, estimate);
        reservation.unwrap().settle(Timestamp::new(Duration::from_nanos(now + 500)), actual);
    };
    alone("the same, one of 100 tenants, virtual clock", "≤ 120 ns", &mut |count| {
        for _ in 0..count {
            at = (at + 1) % order.len();
            fixed(&estimate, &actual, keys[order[at] % 100]);
        }
    });
    alone("the same, settled at the estimate, virtual clock", "", &mut |count| {
        for _ in 0..count {
            at = (at + 1) % order.len();
            fixed(&actual, &actual, keys[order[at] % 100]);
        }
    });
}

/// What one virtual second grants beyond burst and rate.
fn exactness() {
    println!(
        "| rate per second | ours granted beyond burst + rate, units | share | governor, units | share |"
    );
    println!("|---|---|---|---|---|");
    for rate in [1_000_000u32, 6_666_667, 150_000_000, 300_000_000, 600_000_000] {
        let (burst, step) = (rate / 100, Duration::from_micros(100));
        let ours =
            TokenBucket::new(rate.into(), Duration::from_secs(1), burst.into(), Timestamp::ZERO).unwrap();
        let clock = Arc::new(FakeRelativeClock::default());
        let quota =
            Quota::per_second(NonZeroU32::new(rate).unwrap()).allow_burst(NonZeroU32::new(burst).unwrap());
        let rival = RateLimiter::direct_with_clock(quota, (*clock).clone());
        let (mut granted, mut rival_granted) = (0u64, 0u64);
        for tick in 0..=10_000u32 {
            let now = Timestamp::new(step * tick);
            let mut batch = burst;
            while batch > 0 {
                while ours.check(now, batch.into()) == Check::Allowed {
                    granted += u64::from(batch);
                }
                let many = NonZeroU32::new(batch).unwrap();
                while matches!(rival.check_n(many), Ok(Ok(()))) {
                    rival_granted += u64::from(batch);
                }
                batch /= 2;
            }
            clock.advance(step);
        }
        let allowed = i128::from(rate) + i128::from(burst);
        let (ours, rival) = (i128::from(granted) - allowed, i128::from(rival_granted) - allowed);
        let share = |beyond: i128| 100.0 * beyond as f64 / f64::from(rate);
        println!("| {rate} | {ours} | {:.4} % | {rival} | {:.2} % |", share(ours), share(rival));
    }
}
