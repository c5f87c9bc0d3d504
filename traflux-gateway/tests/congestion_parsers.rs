//! Parsers of headers and metrics against arbitrary bytes, and against the calendar.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use traflux_gateway::congestion::date::{http_date, rfc3339};
use traflux_gateway::congestion::duration_text::{duration_with_units, milliseconds, seconds};
use traflux_gateway::congestion::exposition::server_metrics;
use traflux_gateway::congestion::feedback::{MAX_QUOTAS, retry_delay_in_body};
use traflux_gateway::congestion::orca::load_report;
use traflux_gateway::congestion::{ClientHint, Feedback, FeedbackPlan, HeaderStyle, Level, Resource};

/// True texts, from which the interesting false ones are a few edits away.
const SEEDS: [&str; 24] = [
    "Sun, 06 Nov 1994 08:49:37 GMT",
    "Sunday, 06-Nov-94 08:49:37 GMT",
    "Sun Nov  6 08:49:37 1994",
    "2026-01-27T10:15:00.250Z",
    "2026-01-27T10:15:00-08:00",
    "6m0s",
    "2m59.56s",
    "120ms",
    "17µs",
    "33011.382867097855",
    "1769508960",
    "99999999999999999999999999",
    "100, 100;w=60, 1000;w=3600",
    "limit=100, remaining=50, reset=5",
    r#""burst";q=100;w=60;pk=:cHsdsR894==:, "daily";q=1000;qu="requests""#,
    r#""burst";r=50;t=30"#,
    "TEXT cpu_utilization=0.3, named_metrics.num_requests_waiting=3",
    r#"JSON {"cpu_utilization": 0.3, "named_metrics": {"kv_cache_usage_perc": 0.4}}"#,
    "CTMzMzMzM9M/QiQKE2t2X2NhY2hlX3VzYWdlX3BlcmMRmpmZmZmZ2T8=",
    "BIN CTMzMzMzM9M/",
    "vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 3.0\nsglang:token_usage 0.5\n",
    "nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\"} 5\n",
    r#"{"details":[{"retryDelay": "34.07s"}]}"#,
    "",
];

const NAMES: [&str; 22] = [
    "Retry-After",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "Date",
    "x-should-retry",
    "RateLimit",
    "RateLimit-Policy",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-remaining-tokens-minute",
    "x-ratelimit-reset-tokens-day",
    "X-Rate-Limit-Reset",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-input-tokens-reset",
    "anthropic-ratelimit-output-tokens-limit",
    "x-ratelimit-",
    "x-",
    "",
];

/// A true text with a few bytes replaced, put in, taken out or doubled.
fn nearly_true() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..5), 0..6);
    (prop::sample::select(&SEEDS[..]), edits).prop_map(|(seed, edits)| {
        let mut bytes = seed.as_bytes().to_vec();
        for (index, byte, kind) in edits {
            let at = index.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.insert(at, b"\"\\,;={}[]: \n"[usize::from(byte) % 12]),
                _ => {
                    let tail = bytes[at..].to_vec();
                    bytes.extend(tail);
                }
            }
        }
        bytes
    })
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![nearly_true(), nearly_true(), prop::collection::vec(any::<u8>(), 0..300)]
}

/// 2,000 cases, or `PROPTEST_CASES` of them for a longer hunt.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in bytes()) {
        let settings = FeedbackPlan::default();
        let _ = (http_date(&bytes), rfc3339(&bytes));
        let _ = (duration_with_units(&bytes), seconds(&bytes), milliseconds(&bytes));
        if let Some(wait) = retry_delay_in_body(&bytes, &settings) {
            prop_assert!(wait.wait <= settings.max_wait && wait.wait <= wait.stated);
        }
        let reports = [load_report(&bytes), Some(server_metrics(&bytes, Some("m"))), Some(server_metrics(&bytes, None))];
        for report in reports.into_iter().flatten() {
            for number in [report.waiting, report.running, report.cache_use, report.cpu_utilization] {
                prop_assert!(number.is_none_or(|number| number >= 0.0 && !number.is_nan()), "{report:?}");
            }
        }
    }

    #[test]
    fn feedback_stays_within_bounds_whatever_the_headers(
        headers in prop::collection::vec((prop::sample::select(&NAMES[..]), bytes()), 0..24),
        name in prop::collection::vec(any::<u8>(), 0..40),
        now in 0u64..10_000_000_000,
    ) {
        let settings = FeedbackPlan::default();
        let pairs = || {
            headers.iter().map(|(name, value)| (name.as_bytes(), &value[..])).chain([(&name[..], &b"1"[..])])
        };
        let feedback = Feedback::read(pairs(), Duration::from_secs(now), &settings);
        prop_assert!(feedback.quotas().len() <= MAX_QUOTAS);
        prop_assert!(feedback.retry_after.is_none_or(|wait| wait.wait <= settings.max_wait));
        for quota in feedback.quotas() {
            prop_assert!(quota.reset.is_none_or(|reset| reset <= settings.max_reset));
            prop_assert!(quota.limit.is_some() || quota.remaining.is_some());
            prop_assert!(quota.share_left().is_none_or(|share| (0.0..=1.0).contains(&share)));
        }
        prop_assert_eq!(feedback, Feedback::read(pairs(), Duration::from_secs(now), &settings));
    }

    #[test]
    fn what_a_client_is_told_reads_back_the_same(
        limit in 1u64..u64::MAX, left in any::<u64>(), reset in 0u64..1_000_000_000, name in "\\PC{0,12}",
    ) {
        let level = Level {
            name: &name,
            resource: Resource::Tokens,
            limit,
            remaining: left,
            reset: Duration::from_millis(reset),
            window: Duration::from_secs(60),
        };
        let hint = ClientHint { retry_after: Some(Duration::from_millis(reset)), levels: &[level] };
        for style in [HeaderStyle::Words, HeaderStyle::Draft] {
            let mut headers = Vec::new();
            hint.write(style, &mut String::new(), |name, value| headers.push((name.to_owned(), value.to_owned())));
            let pairs = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let feedback = Feedback::read(pairs, Duration::ZERO, &FeedbackPlan::default());
            prop_assert_eq!(feedback.retry_after.unwrap().stated, Duration::from_millis(reset));
            let quota = feedback.quota(Resource::Tokens).unwrap();
            prop_assert_eq!((quota.limit, quota.remaining), (Some(limit), Some(left)));
        }
    }
}

#[test]
fn every_day_of_130_years_is_found_on_the_calendar() {
    const NAMES: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let mut elapsed = 0u64;
    for year in 1970..2100u32 {
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        for (month, name) in (1..).zip(NAMES) {
            let length = match month {
                2 => 28 + u32::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            for day in 1..=length {
                let expected = Some(Duration::from_secs(elapsed * 86_400 + 3_723));
                let http = format!("{}, {day:02} {name} {year} 01:02:03 GMT", DAYS[(elapsed % 7) as usize]);
                assert_eq!(http_date(http.as_bytes()), expected, "{http}");
                let internet = format!("{year}-{month:02}-{day:02}T01:02:03Z");
                assert_eq!(rfc3339(internet.as_bytes()), expected, "{internet}");
                elapsed += 1;
            }
        }
    }
}

#[test]
fn long_inputs_are_read_in_linear_time() {
    // A quadratic scan of these would take minutes.
    let metrics = b"vllm:num_requests_waiting{a=\"x\",b=\"y\"} 1\n".repeat(80_000);
    assert_eq!(server_metrics(&metrics, Some("m")).waiting, Some(80_000.0));
    let open = b"vllm:num_requests_waiting{a=\"".repeat(100_000);
    assert_eq!(server_metrics(&open, Some("m")).waiting, None);
    assert!(
        Feedback::read([(&b"ratelimit"[..], &open[..])], Duration::ZERO, &FeedbackPlan::default())
            .quotas()
            .is_empty()
    );
}
