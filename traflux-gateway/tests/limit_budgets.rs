//! Budgets over hierarchies, windows, reloads and restarts.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_gateway::limit::{
    Check, Cost, DenialReason, Key, Levels, LimitIx, LimitRule, LimitSettings, Limiter, LimiterSettings,
    ScopeSettings, Unit,
};
use traflux_gateway::{GatewayError, PicoDollars};

const DAY: u64 = 86_400;

fn at(seconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_secs(seconds))
}

fn limit(name: &str, scope: &str, unit: Unit, rule: LimitRule) -> LimitSettings {
    LimitSettings {
        name: name.into(),
        scope: (!scope.is_empty()).then(|| scope.into()),
        unit,
        rule,
        ..Default::default()
    }
}

fn bucket(amount: u64, seconds: u64, burst: u64) -> LimitRule {
    LimitRule::TokenBucket { amount, period: Duration::from_secs(seconds), burst }
}

fn settings(limits: Vec<LimitSettings>) -> LimiterSettings {
    let scopes = ["tenant", "team"].map(|name| ScopeSettings { name: name.into(), max_keys: 100 });
    LimiterSettings { scopes: scopes.into(), limits }
}

fn dollars(dollars: u64) -> Cost {
    Cost { price: PicoDollars::dollars(dollars), ..Cost::REQUEST }
}

fn used(limiter: &Limiter, now: u64, limit: u16, key: Key) -> u64 {
    limiter.level(at(now), LimitIx(limit), key).unwrap().used
}

#[test]
fn a_hierarchy_takes_from_all_levels_or_none() {
    let limiter = Limiter::new(
        &settings(vec![
            limit("tenant", "tenant", Unit::Requests, bucket(0, 1, 5)),
            limit("team", "team", Unit::Requests, bucket(0, 1, 8)),
            limit("all", "", Unit::Requests, bucket(1, 10, 9)),
        ]),
        at(0),
        3,
    )
    .unwrap();
    let key = |scope: &str, name: &str| limiter.key(at(0), limiter.scope_of(scope).unwrap(), name).unwrap();
    let team = key("team", "red");
    let limits = |tenant| [(LimitIx(0), tenant), (LimitIx(1), team), (LimitIx(2), Key::ONLY)];
    let (ann, bob) = (key("tenant", "ann"), key("tenant", "bob"));
    let granted = |tenant| {
        (0..9)
            .filter(|_| limiter.reserve(at(0), &limits(tenant), &Cost::REQUEST).map(|r| r.keep()).is_ok())
            .count()
    };
    assert_eq!(granted(ann), 5, "her own limit");
    assert_eq!(granted(bob), 3, "that of the team");
    assert_eq!(
        [used(&limiter, 0, 0, ann), used(&limiter, 0, 1, team), used(&limiter, 0, 2, Key::ONLY)],
        [5, 8, 8]
    );
    let denial = limiter.reserve(at(0), &limits(ann), &Cost::REQUEST).unwrap_err();
    assert_eq!(denial.reason, DenialReason::TooLarge, "never refilled, no waiting helps");
    // Of several that refuse, the one with the longest wait is named.
    let two = [(LimitIx(2), Key::ONLY)];
    let denial = limiter.reserve(at(0), &two, &Cost { requests: 3, ..Cost::NOTHING }).unwrap_err();
    assert!(
        matches!(denial.reason, DenialReason::Wait(wait) if wait.abs_diff(Duration::from_secs(20)).as_micros() <= 1)
    );
    assert!(limiter.reserve(at(21), &two, &Cost { requests: 3, ..Cost::NOTHING }).map(|r| r.keep()).is_ok());
}

#[test]
fn aligned_windows_and_months_begin_anew_and_carry_debt() {
    let rule =
        LimitRule::FixedWindow { amount: 10, period: Duration::from_secs(DAY), offset: Duration::ZERO };
    let limiter = Limiter::new(
        &settings(vec![
            limit("day", "", Unit::Requests, rule),
            limit(
                "month",
                "",
                Unit::PicoDollars,
                LimitRule::CalendarMonth { amount: PicoDollars::dollars(100).0, utc_offset_minutes: 0 },
            ),
        ]),
        at(3 * DAY + 100),
        3,
    )
    .unwrap();
    let (day, month) = (LimitIx(0), LimitIx(1));
    let both = [(day, Key::ONLY), (month, Key::ONLY)];
    let reservation = limiter.reserve(at(3 * DAY + 100), &both, &dollars(60)).unwrap();
    reservation.settle(at(3 * DAY + 200), &Cost { requests: 14, ..dollars(90) });
    let level = limiter.level(at(3 * DAY + 200), day, Key::ONLY).unwrap();
    assert_eq!((level.used, level.debt(), level.remaining), (14, 4, 0));
    assert_eq!(used(&limiter, 4 * DAY, 0, Key::ONLY), 4, "the debt goes over into the next day");
    assert_eq!(used(&limiter, 5 * DAY, 0, Key::ONLY), 0);
    // January 1970 has 31 days.
    let denial = limiter.reserve(at(5 * DAY), &both, &dollars(11)).unwrap_err();
    assert_eq!((denial.limit, denial.reason), (month, DenialReason::Wait(Duration::from_secs(26 * DAY))));
    assert!(limiter.reserve(at(31 * DAY), &both, &dollars(100)).map(|r| r.keep()).is_ok());
    // What was reserved yesterday and is unused does not come back to a window that is over.
    let reservation =
        limiter.reserve(at(31 * DAY), &both[..1], &Cost { requests: 9, ..Cost::NOTHING }).unwrap();
    assert!(
        limiter
            .reserve(at(32 * DAY), &both[..1], &Cost { requests: 10, ..Cost::NOTHING })
            .map(|r| r.keep())
            .is_ok()
    );
    reservation.cancel(at(32 * DAY));
    assert_eq!(used(&limiter, 32 * DAY, 0, Key::ONLY), 10);
}

#[test]
fn a_reservation_made_before_a_reload_ends_in_the_new_limiter() {
    let before = settings(vec![
        limit("rpm", "tenant", Unit::Requests, bucket(10, 60, 10)),
        limit("running", "tenant", Unit::Requests, LimitRule::InFlight { amount: 2 }),
    ]);
    let old = Limiter::new(&before, at(0), 3).unwrap();
    let tenant = old.scope_of("tenant").unwrap();
    let key = old.key(at(0), tenant, "ann").unwrap();
    let reservation = old.reserve(at(0), &[(LimitIx(0), key), (LimitIx(1), key)], &Cost::REQUEST).unwrap();
    // Another order, a limit more, another rate.
    let after = settings(vec![
        limit("running", "tenant", Unit::Requests, LimitRule::InFlight { amount: 1 }),
        limit("new", "", Unit::Requests, bucket(1, 1, 1)),
        limit("rpm", "tenant", Unit::Requests, bucket(100, 60, 50)),
    ]);
    let new = old.reloaded(&after, at(1)).unwrap();
    assert_eq!((used(&new, 1, 0, key), used(&new, 1, 2, key)), (1, 1));
    assert!(new.reserve(at(1), &[(LimitIx(0), key)], &Cost::REQUEST).is_err());
    reservation.cancel(at(1));
    assert_eq!((used(&new, 1, 0, key), used(&new, 1, 2, key)), (0, 0));
    let wrong = settings(vec![limit("rpm", "nobody", Unit::Requests, bucket(1, 1, 1))]);
    assert!(
        matches!(new.reloaded(&wrong, at(1)), Err(GatewayError::Setting { setting, .. }) if setting.ends_with(".scope"))
    );
    assert_eq!(new.check(at(1), LimitIx(0), "ann", 1), Check::Never, "in flight is reserved, not charged");
}

#[test]
fn budgets_survive_a_restart_less_what_has_drained() {
    let window = LimitRule::SlidingWindow { amount: 50, period: Duration::from_secs(3_600) };
    let month = LimitRule::CalendarMonth { amount: PicoDollars::dollars(100).0, utc_offset_minutes: 0 };
    let settings = settings(vec![
        limit("month", "tenant", Unit::PicoDollars, month),
        limit("rpm", "tenant", Unit::Requests, bucket(60, 60, 600)),
        limit("hour", "", Unit::Requests, window),
        limit("running", "", Unit::Requests, LimitRule::InFlight { amount: 9 }),
    ]);
    let first = Limiter::new(&settings, at(DAY), 3).unwrap();
    let tenant = first.scope_of("tenant").unwrap();
    let key = first.key(at(DAY), tenant, "ann\t1").unwrap();
    let limits = [(LimitIx(0), key), (LimitIx(1), key), (LimitIx(2), Key::ONLY), (LimitIx(3), Key::ONLY)];
    let _open = first.reserve(at(DAY), &limits, &dollars(70)).unwrap();
    first.debit(at(DAY), LimitIx(1), key, 499);
    first.debit(at(DAY), LimitIx(0), key, PicoDollars::dollars(50).0);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("levels");
    assert_eq!(Levels::load(&path).unwrap(), None, "there is none yet");
    first.levels(at(DAY)).save(&path).unwrap();

    let second = Limiter::new(&settings, at(DAY + 100), 8).unwrap();
    assert_eq!(second.restore(at(DAY + 100), &Levels::load(&path).unwrap().unwrap()), 0);
    let key = second.key(at(DAY + 100), tenant, "ann\t1").unwrap();
    assert_eq!(used(&second, DAY + 100, 0, key), PicoDollars::dollars(120).0, "debt of twenty dollars too");
    assert!(used(&second, DAY + 100, 1, key).abs_diff(400) <= 1, "{}", used(&second, DAY + 100, 1, key));
    assert_eq!((used(&second, DAY + 100, 2, Key::ONLY), used(&second, DAY + 100, 3, Key::ONLY)), (1, 0));
    // In the next month twenty dollars of debt are left, in the month after nothing.
    for (day, left) in [(32, 20), (60, 0)] {
        let third = Limiter::new(&settings, at(day * DAY), 8).unwrap();
        third.restore(at(day * DAY), &Levels::load(&path).unwrap().unwrap());
        let key = third.key(at(day * DAY), tenant, "ann\t1").unwrap();
        assert_eq!(used(&third, day * DAY, 0, key), PicoDollars::dollars(left).0);
    }

    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert_eq!(Levels::load(&path).unwrap_err().code(), "gateway_level_store_damaged");
    assert!(
        matches!(Levels::load(folder.path()), Err(GatewayError::LevelStore { .. })),
        "a folder is no file"
    );
}

#[test]
fn a_full_table_refuses_new_keys_and_nothing_else() {
    let mut settings = settings(vec![limit("r", "tenant", Unit::Requests, bucket(1, 1, 1))]);
    settings.scopes[0].max_keys = 50;
    let limiter = Limiter::new(&settings, at(0), 3).unwrap();
    let checks: Vec<_> = (0..80).map(|ix| limiter.check(at(0), LimitIx(0), &format!("t{ix}"), 1)).collect();
    assert_eq!(checks.iter().filter(|c| **c == Check::Allowed).count(), 50);
    assert!(checks[50..].iter().all(|c| *c == Check::NoRoom));
    assert!(matches!(limiter.check(at(0), LimitIx(0), "t3", 1), Check::Wait(_)));
    // Two seconds later all are idle, and thirty others come in.
    let checks = (80..110).map(|ix| limiter.check(at(2), LimitIx(0), &format!("t{ix}"), 1));
    assert!(checks.into_iter().all(|c| c == Check::Allowed));
    assert_eq!(limiter.keys(limiter.scope_of("tenant").unwrap()), 50);
}
