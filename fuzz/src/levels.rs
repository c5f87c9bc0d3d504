//! Are levels that were kept read as they were, and is anything else an error?

use traflux_core::Timestamp;
use traflux_gateway::limit::{
    Levels, LimitRule, LimitSettings, Limiter, LimiterSettings, ScopeSettings, Unit,
};

/// The text of a file, with its last line or without: a right last line is added, so that the others are looked at.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let as_it_is = Levels::from_text(text);
    let body = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    let lines = body.lines().count().saturating_sub(1);
    let whole = format!("{body}end {lines} {:016x}\n", checksum(body.as_bytes()));
    for levels in [as_it_is, Levels::from_text(&whole)] {
        match levels {
            Ok(levels) => use_levels(&levels),
            Err(error) => assert_eq!(error.code(), "gateway_level_store_damaged", "{error}"),
        }
    }
}

fn use_levels(levels: &Levels) {
    let text = levels.to_text();
    assert_eq!(Levels::from_text(&text).as_ref(), Ok(levels), "{text}");
    let period = std::time::Duration::from_secs(60);
    let rules = [
        LimitRule::TokenBucket { amount: 7, period, burst: 100 },
        LimitRule::FixedWindow { amount: 10, period, offset: std::time::Duration::ZERO },
        LimitRule::SlidingWindow { amount: 10, period },
        LimitRule::CalendarMonth { amount: 1 << 40, utc_offset_minutes: 60 },
        LimitRule::InFlight { amount: 3 },
    ];
    // The limits have the names that occur, so that most levels find a place.
    let mut limits: Vec<LimitSettings> = Vec::new();
    for level in &levels.levels {
        if limits.len() < 20 && !level.limit.is_empty() && !limits.iter().any(|l| l.name == level.limit) {
            limits.push(LimitSettings {
                name: level.limit.clone(),
                scope: level.key.as_ref().map(|_| "key".to_owned()),
                unit: Unit::Requests,
                rule: rules[limits.len() % rules.len()],
                ..LimitSettings::default()
            });
        }
    }
    let settings =
        LimiterSettings { scopes: vec![ScopeSettings { name: "key".into(), max_keys: 4 }], limits };
    let at = Timestamp::new(std::time::Duration::from_nanos(levels.at_ns));
    for now in [Timestamp::ZERO, at, Timestamp::new(std::time::Duration::MAX)] {
        let limiter = Limiter::new(&settings, now, 1).unwrap_or_else(|error| panic!("{error}"));
        assert!(limiter.restore(now, levels) <= levels.levels.len());
        let kept = limiter.levels(now);
        assert!(kept.levels.len() <= levels.levels.len());
        assert_eq!(Levels::from_text(&kept.to_text()), Ok(kept));
    }
}

/// FNV-1a, as the file has it.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
