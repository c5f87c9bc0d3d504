//! Budgets of calendar days, weeks and months, and windows with an offset, as plans write them.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::{Client, Decision, End, Engine, EngineSettings, Outcome, Reason, Request};

const HOUR: u64 = 3_600;
/// Thursday, 29 February 2024, 12:00Z: `date -u -d 2024-02-29T12:00Z +%s`.
const NOON: u64 = 1_709_208_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_secs(seconds))
}

/// Two requests in each window.
fn plan(shape: &str) -> RequestPlan {
    let plan = format!(
        r#"{{"routing": {{"default": {{"backend": "x"}}}}, "queue": {{"max_waiting": 0}},
            "limits": [{{"name": "two", "unit": "requests", "amount": 2, "by": "tenant", "persistent": true, {shape}}}]}}"#
    );
    serde_json::from_str(&plan).unwrap()
}

fn engine(shape: &str, now: u64) -> Engine {
    Engine::new(&plan(shape), &EngineSettings::default(), at(now)).unwrap()
}

/// Whether a request is let through, or else the seconds after which the next is.
fn ask(engine: &Engine, now: u64) -> Result<(), f64> {
    let client = Client { tenant: "acme", ..Client::default() };
    match engine.decide(&Request { client, ..Request::default() }, at(now)) {
        Decision::Forward(forward) => {
            forward.finish(at(now), &End::of(Outcome::Success));
            Ok(())
        }
        Decision::Refuse(refusal) => {
            assert_eq!(refusal.reason, Reason::Limited);
            Err(refusal.retry_after.unwrap().as_secs_f64())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_window_begins_with_the_day_week_or_month_of_its_clock() {
    for (shape, begins) in [
        (r#""shape": {"calendar": "day"}"#, NOON + 12 * HOUR),
        (r#""shape": {"calendar": {"every": "day", "utc_offset_minutes": 120}}"#, NOON + 10 * HOUR),
        (r#""shape": {"calendar": {"every": "day", "utc_offset_minutes": -720}}"#, NOON + 24 * HOUR),
        // Monday is 4 March.
        (r#""shape": {"calendar": "week"}"#, NOON + (12 + 3 * 24) * HOUR),
        (
            r#""shape": {"calendar": {"every": "week", "utc_offset_minutes": -300}}"#,
            NOON + (17 + 3 * 24) * HOUR,
        ),
        // A leap year: February has a day more, which is this one.
        (r#""shape": {"calendar": "month"}"#, NOON + 12 * HOUR),
        (
            r#""shape": {"calendar": {"every": "month", "utc_offset_minutes": 330}}"#,
            NOON + 6 * HOUR + HOUR / 2,
        ),
        // In Auckland it is March already: the next window is April's, which begins at 11:00Z on 31 March.
        (
            r#""shape": {"calendar": {"every": "month", "utc_offset_minutes": 780}}"#,
            NOON + 31 * 24 * HOUR - HOUR,
        ),
        // Days that begin at nine.
        (r#""shape": "fixed_window", "period_ms": 86400000, "offset_ms": 32400000"#, NOON + 21 * HOUR),
    ] {
        let engine = engine(shape, NOON);
        assert_eq!((ask(&engine, NOON), ask(&engine, NOON)), (Ok(()), Ok(())), "{shape}");
        assert_eq!(ask(&engine, NOON), Err((begins - NOON) as f64), "{shape}");
        assert_eq!(ask(&engine, begins - 1), Err(1.0), "{shape}");
        let next = [begins, begins, begins].map(|now| ask(&engine, now).is_ok());
        assert_eq!(next, [true, true, false], "all of it at once, and no more: {shape}");
    }
}

#[test]
fn a_budget_of_a_month_outlives_a_reload_and_a_restart() {
    let month = r#""shape": {"calendar": "month"}"#;
    let first = engine(month, NOON - 24 * HOUR);
    assert_eq!(ask(&first, NOON - 24 * HOUR), Ok(()));
    // Another clock, and a plan that is otherwise the same: one is left.
    let moved = plan(r#""shape": {"calendar": {"every": "month", "utc_offset_minutes": -60}}"#);
    first.reload(&moved, &EngineSettings::default(), at(NOON)).unwrap();
    assert_eq!((ask(&first, NOON), ask(&first, NOON)), (Ok(()), Err((13 * HOUR) as f64)));
    let levels = first.levels(at(NOON));
    assert_eq!(levels.levels.len(), 1);
    // Within the month nothing comes back; in the next all does.
    for (now, left) in [(NOON + HOUR, 0), (NOON + 13 * HOUR, 2)] {
        let second = Engine::new(&moved, &EngineSettings::default(), at(now)).unwrap();
        assert_eq!(second.restore(at(now), &levels), 0);
        let granted = (0..3).filter(|_| ask(&second, now).is_ok()).count();
        assert_eq!(granted, left, "at {now}");
    }
}
