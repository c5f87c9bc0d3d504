//! Is everything counted once, from all threads, and read as Prometheus reads it?
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use traflux_gateway::observe::{
    BackendModel, BandIx, Decider, DeciderIx, Format, Level, Levels, Metrics, MetricsLayout, MetricsSettings,
    Outcome, ReasonIx, RequestRecord, Route, RouteIx, Scrape, SeriesHistogram, SeriesIx, TenantExposure,
    TenantIx, TenantUse,
};
use traflux_gateway::{GatewayError, PicoDollars};

fn layout() -> MetricsLayout {
    let series = ["east", "west \"2\"\n\\"];
    MetricsLayout {
        series: series.map(|b| BackendModel { backend: b.into(), model: "m".into() }).into(),
        routes: series.map(|b| Route { rule: "chat".into(), backend: b.into() }).into(),
        deciders: vec![Decider { rule: "chat".into(), algorithm: "peak_ewma".into() }],
        reasons: vec!["allowed".into(), "rate_limited".into()],
        bands: vec!["high".into(), "low".into()],
    }
}

struct Everything;

impl Levels for Everything {
    fn levels(&self, visit: &mut dyn FnMut(Level<'_>)) {
        visit(Level::Queue { band: "high", requests: 3, tokens: 900 });
        visit(Level::Limiter { limiter: "tpm", unit: "tokens", used: 1.5, limit: 10.0 });
        visit(Level::Keys { limiter: "per tenant", unit: "tokens", above: [9, 4, 2, 1], fullest: 1.25 });
        visit(Level::Exhaustion { limit: "budget", within: None });
        visit(Level::Concurrency { backend: "east", in_flight: 4, limit: 8 });
        visit(Level::Queue { band: "low", requests: 0, tokens: 0 });
        visit(Level::Ejection { backend: "east", ejected: true });
        visit(Level::PlanShare { rule: "chat", backend: "east", share: 0.5 });
        visit(Level::Fairness { scope: "tenants", jain: 0.98 });
        // A duplicate would make the whole answer invalid.
        visit(Level::Ejection { backend: "east", ejected: false });
    }

    fn tenant_name(&self, tenant: TenantIx) -> Option<std::borrow::Cow<'_, str>> {
        (tenant.0 < 2).then_some("_other".into())
    }
}

fn text(metrics: &Metrics, format: Format, series_limit: usize) -> String {
    let used = TenantUse { requests: 2, tokens: 30, cost: PicoDollars::new(1) };
    let tenants = TenantExposure {
        tenants: vec![(TenantIx(0), used), (TenantIx(5), used)],
        other: TenantUse::default(),
    };
    Scrape { snapshot: &metrics.snapshot(), tenants: &tenants, levels: &Everything, series_limit }
        .to_text(format)
}

#[test]
fn nothing_is_lost_when_threads_outnumber_stripes() {
    let settings = MetricsSettings { stripes: 2, ..MetricsSettings::default() };
    let metrics = Metrics::new(layout(), &settings).unwrap();
    let (threads, each) = (8u64, 20_000u64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for n in 0..each {
                    let mut recorder = metrics.recorder();
                    if n % 1000 == 0 {
                        // Others find the stripe taken.
                        std::thread::yield_now();
                    }
                    recorder.decision(DeciderIx(0), ReasonIx((n % 2) as u32));
                    recorder.pick(RouteIx(0));
                    recorder.queue_wait(BandIx(1), Duration::from_micros(n));
                    recorder.request(&RequestRecord {
                        input_tokens: n,
                        output_tokens: 3,
                        cost: PicoDollars::new(5),
                        duration: Duration::from_millis(40),
                        time_to_first_token: Some(Duration::from_millis(20)),
                        ..RequestRecord::new(SeriesIx(1))
                    });
                }
            });
        }
    });
    let snapshot = metrics.snapshot();
    let all = threads * each;
    assert_eq!(snapshot.all_requests(SeriesIx(1)), all);
    assert_eq!(snapshot.all_requests(SeriesIx(0)), 0);
    assert_eq!(snapshot.input_tokens(SeriesIx(1)), threads * each * (each - 1) / 2);
    assert_eq!(snapshot.cost(SeriesIx(1)), PicoDollars::new(5 * all));
    assert_eq!(snapshot.decisions(DeciderIx(0), ReasonIx(1)), all / 2);
    assert_eq!(snapshot.picks(RouteIx(0)), all);
    let per_token = snapshot.histogram(SeriesIx(1), SeriesHistogram::TimePerOutputToken).unwrap();
    assert_eq!((per_token.count(), per_token.mean().unwrap()), (all, Duration::from_millis(10)));
    assert_eq!(snapshot.queue_wait(BandIx(1)).unwrap().count(), all);
    assert_eq!(snapshot.misdirected(), 0);
}

#[test]
fn a_second_recorder_of_one_thread_counts_atomically_and_the_stripe_is_free_again_after_a_panic() {
    let settings = MetricsSettings { stripes: 1, ..MetricsSettings::default() };
    let metrics = Metrics::new(layout(), &settings).unwrap();
    let mut first = metrics.recorder();
    let mut second = metrics.recorder();
    assert_eq!((first.is_exclusive(), second.is_exclusive()), (true, false));
    first.retries(SeriesIx(0), 2);
    second.retries(SeriesIx(0), 3);
    second.hedges(SeriesIx(0), 1);
    drop((first, second));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut recorder = metrics.recorder();
        recorder.retries(SeriesIx(0), 4);
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(panicked.is_err());
    assert!(metrics.recorder().is_exclusive());
    assert_eq!(metrics.snapshot().retries(SeriesIx(0)), 9);
    assert_eq!(metrics.snapshot().hedges(SeriesIx(0)), 1);
}

#[test]
fn an_unknown_index_is_counted_as_misdirected_and_changes_nothing_else() {
    let metrics = Metrics::new(layout(), &MetricsSettings::default()).unwrap();
    let before = text(&metrics, Format::Prometheus, 1000);
    let mut recorder = metrics.recorder();
    recorder.request(&RequestRecord::new(SeriesIx(2)));
    recorder.retries(SeriesIx(u32::MAX), 1);
    recorder.hedges(SeriesIx(7), 1);
    recorder.decision(DeciderIx(1), ReasonIx(0));
    recorder.decision(DeciderIx(0), ReasonIx(2));
    recorder.pick(RouteIx(2));
    recorder.queue_wait(BandIx(2), Duration::ZERO);
    drop(recorder);
    assert_eq!(metrics.snapshot().misdirected(), 7);
    let after = text(&metrics, Format::Prometheus, 1000);
    assert_eq!(after.replace("misdirected_total 7", "misdirected_total 0"), before);
}

#[test]
fn a_window_is_the_difference_of_two_snapshots() {
    let metrics = Metrics::new(layout(), &MetricsSettings::default()).unwrap();
    let duration = Duration::from_secs(2);
    let record = RequestRecord { outcome: Outcome::Timeout, duration, ..RequestRecord::new(SeriesIx(0)) };
    metrics.recorder().request(&record);
    let before = metrics.snapshot();
    metrics.recorder().request(&record);
    metrics.recorder().request(&RequestRecord { outcome: Outcome::ClientError, ..record });
    let window = metrics.snapshot().since(&before);
    assert_eq!((window.all_requests(SeriesIx(0)), window.errors(SeriesIx(0))), (2, 1));
    assert_eq!((window.amount(SeriesIx(0)).requests, window.busy(SeriesIx(0))), (2, 2 * duration));
    // Failures have no latency.
    assert_eq!(window.histogram(SeriesIx(0), SeriesHistogram::Duration).unwrap().mean(), None);
}

#[test]
fn a_layout_that_names_a_series_twice_is_refused() {
    let mut twice = layout();
    twice.series.push(twice.series[0].clone());
    let error = Metrics::new(twice, &MetricsSettings::default()).unwrap_err();
    assert_eq!(error, GatewayError::DuplicateName { kind: "series", name: "east/m".into() });
    assert_eq!(error.code(), "gateway_duplicate_name");
    let none = MetricsSettings { stripes: 0, ..MetricsSettings::default() };
    assert!(Metrics::new(layout(), &none).is_err());
}

#[test]
fn settings_are_written_in_milliseconds_and_unknown_keys_are_refused() {
    let settings: MetricsSettings =
        serde_json::from_str(r#"{"latency_bounds_ms": [0.5, 100, 2000]}"#).unwrap();
    assert_eq!(settings.latency_bounds, [500, 100_000, 2_000_000].map(Duration::from_micros));
    assert_eq!(settings.stripes, 16);
    let text = serde_json::to_string(&settings).unwrap();
    assert_eq!(serde_json::from_str::<MetricsSettings>(&text).unwrap(), settings);
    assert!(serde_json::from_str::<MetricsSettings>(r#"{"stripe": 1}"#).is_err());
}

#[test]
fn labels_are_escaped_names_unique_and_the_formats_differ_only_where_they_must() {
    let metrics = Metrics::new(layout(), &MetricsSettings::default()).unwrap();
    metrics.recorder().decision(DeciderIx(0), ReasonIx(1));
    let prometheus = text(&metrics, Format::Prometheus, 1000);
    for line in [
        r#"traflux_gateway_requests_total{backend="west \"2\"\n\\",model="m",outcome="success"} 0"#,
        r#"traflux_gateway_decisions_total{rule="chat",algorithm="peak_ewma",reason="rate_limited"} 1"#,
        r#"traflux_gateway_tenant_requests_total{tenant="_other"} 0"#,
        r#"traflux_gateway_tenant_requests_total{tenant="_other#0"} 2"#,
        r#"traflux_gateway_tenant_cost_dollars_total{tenant="5"} 0.000000000001"#,
        r#"traflux_gateway_exhaustion_seconds{limit="budget"} +Inf"#,
        r#"traflux_gateway_backend_ejected{backend="east"} 1"#,
        r#"traflux_gateway_queue_wait_seconds_bucket{band="low",le="1.0"} 0"#,
        "# TYPE traflux_gateway_cost_dollars_total counter",
        "traflux_gateway_series_dropped 1",
    ] {
        assert!(prometheus.lines().any(|l| l == line), "{line}\n{prometheus}");
    }
    let open = text(&metrics, Format::OpenMetrics, 1000);
    assert!(open.ends_with("# EOF\n"));
    assert!(open.contains(
        "# TYPE traflux_gateway_cost_dollars counter\n# UNIT traflux_gateway_cost_dollars dollars\n"
    ));
    let samples =
        |text: &str| text.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(samples(&open), samples(&prometheus));
}

#[test]
fn the_number_of_series_of_a_metric_has_a_bound() {
    let metrics = Metrics::new(layout(), &MetricsSettings::default()).unwrap();
    let text = text(&metrics, Format::Prometheus, 1);
    let mut series: BTreeMap<&str, u32> = BTreeMap::new();
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.contains("_bucket")) {
        *series.entry(line.split(['{', ' ']).next().unwrap()).or_default() += 1;
    }
    assert!(series.len() > 20);
    assert!(series.values().all(|count| *count == 1), "{series:?}");
    let dropped = text.lines().find_map(|l| l.strip_prefix("traflux_gateway_series_dropped ")).unwrap();
    // 21 request counters, 7 of the other backend, 1 pick, 3 histograms of it, 1 wait, 6 of tenants, 2 of the
    // band, 3 shares of keys, 1 duplicate.
    assert_eq!(dropped, "45");
}

proptest! {
    #[test]
    fn the_last_bucket_of_every_histogram_is_its_count(durations in prop::collection::vec(0u64..10_u64.pow(12), 1..50)) {
        let metrics = Metrics::new(layout(), &MetricsSettings::default()).unwrap();
        for nanos in &durations {
            let duration = Duration::from_nanos(*nanos);
            metrics.recorder().request(&RequestRecord { duration, ..RequestRecord::new(SeriesIx(0)) });
        }
        let snapshot = metrics.snapshot();
        let counts = snapshot.histogram(SeriesIx(0), SeriesHistogram::Duration).unwrap();
        prop_assert_eq!(counts.count(), durations.len() as u64);
        prop_assert_eq!(counts.sum, Duration::from_nanos(durations.iter().sum()));
        for (bucket, bound) in counts.bounds.bounds().enumerate() {
            let below: u64 = counts.counts[..=bucket].iter().sum();
            let expected = durations.iter().filter(|nanos| Duration::from_nanos(**nanos) <= bound).count();
            prop_assert_eq!(below, expected as u64);
        }
        // A quantile is in the bucket of the value it stands for.
        let mut sorted = durations.clone();
        sorted.sort_unstable();
        let median = sorted[(sorted.len() - 1) / 2];
        let estimate = counts.quantile(0.5).unwrap();
        let last = counts.bounds.bounds().last().unwrap();
        let difference = counts.bounds.bucket(estimate).abs_diff(counts.bounds.bucket_of(median));
        prop_assert!(difference <= 1 || estimate == last, "{:?} {}", estimate, median);
    }
}
