//! Is no limit ever exceeded, and is a wait that is named the right one?

use std::time::Duration;

use libfuzzer_sys::arbitrary::Unstructured;
use traflux_core::Timestamp;
use traflux_gateway::limit::{
    Cost, DenialReason, Key, Levels, LimitIx, LimitRule, LimitSettings, Limiter, LimiterSettings,
    Reservation, ScopeIx, ScopeSettings, Unit,
};

use crate::{coin, number, one};

/// What was taken from one limit for one key.
#[derive(Debug)]
struct Taken {
    limit: usize,
    name: u8,
    at: u64,
    units: u64,
    /// Whether it still counts against what is in flight.
    in_flight: bool,
}

/// Counters may wrap after 4.6 years without a charge (`limit::meter`): no run lasts longer than that.
const MOST_NANOS: u64 = 4 * 366 * 86_400 * 1_000_000_000;

struct Model {
    rules: Vec<LimitRule>,
    /// When the run ends, in nanoseconds.
    until: u64,
    taken: Vec<Taken>,
    held: Vec<(Reservation, Cost, Vec<usize>)>,
}

/// Bytes from which limits and operations are made.
pub fn check(data: &[u8]) {
    let bytes = &mut Unstructured::new(data);
    let settings = settings(bytes);
    let mut now_ns = one(bytes, &[0, 1, 1_700_000_000_000_000_000]) + number(bytes, 1_000_000_000);
    let Ok(limiter) = Limiter::new(&settings, at(now_ns), 7) else { return };
    let rules = settings.limits.iter().map(|limit| limit.rule).collect();
    let mut model = Model { rules, until: now_ns + MOST_NANOS, taken: Vec::new(), held: Vec::new() };
    while !bytes.is_empty() && model.taken.len() < 300 && now_ns < model.until {
        match number(bytes, 9) {
            0..=3 => now_ns = model.reserve(bytes, &limiter, &settings, now_ns),
            4 => now_ns += one(bytes, &[1, 999, 62_500_000, 1_000_000_000, 59_999_999_999, 1 << 45]),
            5 | 6 => model.end(bytes, now_ns),
            7 => {
                let limit = LimitIx(number(bytes, 4) as u16);
                // Also a moment before, as from a thread that was late.
                let then = at(now_ns.saturating_sub(number(bytes, 2_000_000_000)));
                if let Some(level) = limiter.level(then, limit, Key::ONLY) {
                    assert!(
                        level.remaining <= level.limit
                            && level.used.saturating_add(level.remaining) >= level.limit
                    );
                }
            }
            8 => {
                let text = limiter.levels(at(now_ns)).to_text();
                let levels = Levels::from_text(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                let fresh = Limiter::new(&settings, at(now_ns), 8).expect("they were right before");
                assert_eq!(fresh.restore(at(now_ns), &levels), 0, "{text}");
            }
            _ => {
                limiter.sweep(at(now_ns), ScopeIx(number(bytes, 1) as u16));
            }
        }
        model.check_bounds(now_ns);
    }
    for (reservation, ..) in model.held.drain(..) {
        reservation.cancel(at(now_ns));
    }
    assert_eq!(limiter.dropped(), 0);
}

impl Model {
    /// Tries to take; gives the time after.
    fn reserve(
        &mut self,
        bytes: &mut Unstructured<'_>,
        limiter: &Limiter,
        settings: &LimiterSettings,
        now: u64,
    ) -> u64 {
        let (mut places, mut names) = (Vec::new(), Vec::new());
        for (ix, limit) in settings.limits.iter().enumerate() {
            if !coin(bytes) {
                continue;
            }
            let name = if limit.scope.is_some() { number(bytes, 3) as u8 } else { 0 };
            let key = match &limit.scope {
                None => Some(Key::ONLY),
                Some(scope) => {
                    let scope = limiter.scope_of(scope).expect("a scope of the settings");
                    limiter.key(at(now), scope, ["", "ann", "bob", "é\t\n"][usize::from(name)])
                }
            };
            let Some(key) = key else { continue };
            places.push((LimitIx(ix as u16), key));
            names.push((ix, name));
        }
        let cost = cost(bytes);
        match limiter.reserve(at(now), &places, &cost) {
            Ok(reservation) => {
                let indices = names.iter().zip(reservation.limits()).map(|((limit, name), (ix, units))| {
                    assert_eq!(usize::from(ix.0), *limit);
                    self.taken.push(Taken { limit: *limit, name: *name, at: now, units, in_flight: true });
                    self.taken.len() - 1
                });
                let indices = indices.collect();
                self.held.push((reservation, cost, indices));
                now
            }
            Err(denial) => match denial.reason {
                DenialReason::Wait(wait) if coin(bytes) => {
                    // In flight is no matter of time.
                    if places
                        .iter()
                        .any(|(ix, _)| matches!(self.rules[usize::from(ix.0)], LimitRule::InFlight { .. }))
                    {
                        return now;
                    }
                    let Some(later) =
                        u64::try_from(wait.as_nanos()).ok().and_then(|wait| now.checked_add(wait))
                    else {
                        return now;
                    };
                    if later > self.until {
                        return now;
                    }
                    assert!(!wait.is_zero(), "a wait of nothing");
                    if let Ok(early) = limiter.reserve(at(later - 1), &places, &cost) {
                        early.cancel(at(later - 1));
                        panic!(
                            "{wait:?} named at {now} for {cost:?} of {:?}, but it fits a nanosecond earlier",
                            self.rules
                        );
                    }
                    match limiter.reserve(at(later), &places, &cost) {
                        Ok(reservation) => reservation.cancel(at(later)),
                        // A second name of the same scope took the place of the first in a full table.
                        Err(again) if again.reason == DenialReason::StaleKey => {}
                        Err(again) => {
                            panic!("{wait:?} at {now} for {cost:?} of {:?}, then {again:?}", self.rules)
                        }
                    }
                    later
                }
                _ => now,
            },
        }
    }

    /// Ends one of what is held, with no more than was reserved.
    fn end(&mut self, bytes: &mut Unstructured<'_>, now: u64) {
        if self.held.is_empty() {
            return;
        }
        let ix = number(bytes, self.held.len() as u64 - 1) as usize;
        let (reservation, cost, indices) = self.held.swap_remove(ix);
        let divisor = match number(bytes, 2) {
            0 => {
                reservation.keep();
                1
            }
            1 => {
                reservation.cancel(at(now));
                u64::MAX
            }
            _ => {
                let (divisor, mut actual) = (1 + number(bytes, 3), cost);
                actual.requests /= divisor;
                actual.input_tokens /= divisor;
                actual.output_tokens = 0;
                reservation.settle(at(now), &actual);
                // Tokens in all are those of input alone; more than that is not given back.
                divisor
            }
        };
        for ix in indices {
            let taken = &mut self.taken[ix];
            taken.in_flight = false;
            taken.units = if divisor == u64::MAX { 0 } else { taken.units / divisor };
        }
        let _ = cost;
    }

    fn check_bounds(&self, now: u64) {
        for (limit, rule) in self.rules.iter().enumerate() {
            for name in 0..4 {
                let taken: Vec<&Taken> =
                    self.taken.iter().filter(|t| t.limit == limit && t.name == name).collect();
                match *rule {
                    LimitRule::InFlight { amount } => {
                        let held =
                            taken.iter().filter(|t| t.in_flight).map(|t| u128::from(t.units)).sum::<u128>();
                        assert!(held <= u128::from(amount), "{held} of {amount} in flight");
                    }
                    LimitRule::TokenBucket { amount, period, burst } => {
                        for first in 0..taken.len() {
                            let mut sum = 0;
                            for last in first..taken.len() {
                                sum += u128::from(taken[last].units);
                                let width = u128::from(taken[last].at - taken[first].at);
                                // One unit more for what a fraction of a unit rounds up to.
                                let refilled = (width * u128::from(amount)).div_ceil(period.as_nanos());
                                let most = u128::from(burst) + refilled;
                                assert!(sum <= most, "{sum} within {width} ns of {rule:?}: {taken:?}");
                            }
                        }
                    }
                    LimitRule::SlidingWindow { amount, period } => {
                        for first in 0..taken.len() {
                            let within = |t: &&&Taken| u128::from(t.at - taken[first].at) < period.as_nanos();
                            let sum = taken[first..]
                                .iter()
                                .filter(within)
                                .map(|t| u128::from(t.units))
                                .sum::<u128>();
                            assert!(sum <= u128::from(amount), "{sum} in a period of {rule:?}: {taken:?}");
                        }
                    }
                    LimitRule::FixedWindow { amount, period, offset } => {
                        let window = |at: u64| {
                            (i128::from(at) - offset.as_nanos() as i128).div_euclid(period.as_nanos() as i128)
                        };
                        let current = taken.iter().filter(|t| window(t.at) == window(now));
                        let sum = current.map(|t| u128::from(t.units)).sum::<u128>();
                        assert!(sum <= u128::from(amount), "{sum} in a window of {rule:?}: {taken:?}");
                    }
                    // Turns are checked where they are waited for.
                    LimitRule::CalendarMonth { .. } | LimitRule::Pacing { .. } | LimitRule::WarmUp { .. } => {
                    }
                }
            }
        }
    }
}

fn at(ns: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(ns))
}

fn cost(bytes: &mut Unstructured<'_>) -> Cost {
    Cost {
        requests: one(bytes, &[1, 0, 2, 7, 100, u64::MAX]),
        input_tokens: one(bytes, &[0, 1, 9, 500, 1 << 40]),
        output_tokens: 0,
        price: traflux_gateway::PicoDollars(0),
    }
}

fn settings(bytes: &mut Unstructured<'_>) -> LimiterSettings {
    let periods = [
        Duration::from_secs(60),
        Duration::from_secs(1),
        Duration::from_millis(1),
        Duration::from_nanos(1),
        Duration::from_nanos(999_999_937),
        Duration::from_secs(86_400 * 365),
    ];
    let amounts = [1, 2, 10, 1_000, 999_983, 1 << 40];
    let count = 1 + number(bytes, 3);
    let limits = (0..count).map(|ix| {
        let (amount, period) = (one(bytes, &amounts), one(bytes, &periods));
        let rule = match number(bytes, 5) {
            0 => LimitRule::InFlight { amount },
            1 => LimitRule::SlidingWindow { amount, period },
            2 => LimitRule::FixedWindow {
                amount,
                period,
                offset: one(bytes, &[Duration::ZERO, period / 3, period * 2]),
            },
            3 => LimitRule::CalendarMonth { amount, utc_offset_minutes: one(bytes, &[0, -720, 840]) },
            4 => LimitRule::TokenBucket { amount: 0, period, burst: one(bytes, &amounts) },
            _ => LimitRule::TokenBucket { amount, period, burst: one(bytes, &amounts) },
        };
        LimitSettings {
            name: format!("limit {ix}"),
            scope: coin(bytes).then(|| "key".to_owned()),
            unit: one(bytes, &[Unit::Requests, Unit::InputTokens, Unit::TotalTokens]),
            rule,
            ..LimitSettings::default()
        }
    });
    let limits = limits.collect();
    LimiterSettings { scopes: vec![ScopeSettings { name: "key".into(), max_keys: 3 }], limits }
}
