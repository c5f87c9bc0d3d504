//! How often does the detector cry without reason, and how long does it take to notice a shift?
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use traflux_core::Timestamp;
use traflux_gateway::Rng;
use traflux_gateway::observe::detector::{Deviation, Drift, DriftSettings, Hysteresis, Verdict};
use traflux_gateway::observe::{
    AnomalyDetector, AnomalyEvent, AnomalySettings, BackendModel, Baseline, Metrics, MetricsLayout,
    MetricsSettings, Outcome, RequestRecord, Route, RouteIx, SeriesIx, Signal, Snapshot,
};

const WINDOW: Duration = Duration::from_secs(10);
const BACKENDS: [&str; 3] = ["a", "b", "c"];
const PLAN: [f64; 3] = [0.5, 0.3, 0.2];

/// Traffic of one rule over three backends in windows of ten seconds.
#[derive(Clone, Copy)]
struct Traffic {
    per_second: f64,
    errors: f64,
    slower: f64,
    split: [f64; 3],
}

const USUAL: Traffic = Traffic { per_second: 20.0, errors: 0.005, slower: 1.0, split: PLAN };

struct Run {
    metrics: Metrics,
    detector: AnomalyDetector,
    before: Snapshot,
    rng: Rng,
    now: Timestamp,
}

fn plan() -> Baseline {
    Baseline { profiles: Vec::new(), shares: PLAN.map(Some).into() }
}

impl Run {
    fn new(seed: u64) -> Self {
        let layout = MetricsLayout {
            series: BACKENDS.map(|b| BackendModel { backend: b.into(), model: "m".into() }).into(),
            routes: BACKENDS.map(|b| Route { rule: "chat".into(), backend: b.into() }).into(),
            ..MetricsLayout::default()
        };
        let settings = MetricsSettings { stripes: 1, ..MetricsSettings::default() };
        let metrics = Metrics::new(layout, &settings).unwrap();
        let detector = AnomalyDetector::new(metrics.layout(), AnomalySettings::default()).unwrap();
        Self { before: metrics.snapshot(), metrics, detector, rng: Rng::new(seed), now: Timestamp::ZERO }
    }

    /// Only the first backend is slower or fails more than usual.
    fn window(&mut self, traffic: Traffic) -> Vec<AnomalyEvent> {
        let mut at = self.rng.exponential() / traffic.per_second;
        while at < WINDOW.as_secs_f64() {
            at += self.rng.exponential() / traffic.per_second;
            let draw = self.rng.uniform();
            let backend =
                if draw < traffic.split[0] { 0 } else { 1 + usize::from(draw >= 1.0 - traffic.split[2]) };
            let odd = backend == 0;
            let failed = self.rng.uniform() < if odd { traffic.errors } else { USUAL.errors };
            // Log-normal about 0.8 s.
            let normal = (0..12).map(|_| self.rng.uniform()).sum::<f64>() - 6.0;
            let seconds = 0.8 * (0.5 * normal).exp() * if odd { traffic.slower } else { 1.0 };
            let mut recorder = self.metrics.recorder();
            recorder.pick(RouteIx(backend as u32));
            recorder.request(&RequestRecord {
                outcome: if failed { Outcome::ServerError } else { Outcome::Success },
                duration: Duration::from_secs_f64(seconds),
                ..RequestRecord::new(SeriesIx(backend as u32))
            });
        }
        let (start, snapshot) = (self.now, self.metrics.snapshot());
        self.now = self.now + WINDOW;
        let window = snapshot.since(&self.before);
        self.before = snapshot;
        self.detector.window(start, self.now, &window, &plan())
    }

    fn learn(&mut self) {
        for _ in 0..200 {
            assert_eq!(self.window(USUAL), []);
        }
    }

    /// Windows until the first event, and the event.
    fn first_event(&mut self, traffic: Traffic) -> (u32, AnomalyEvent) {
        for window in 1..200 {
            if let Some(event) = self.window(traffic).into_iter().next() {
                return (window, event);
            }
        }
        panic!("nothing was noticed");
    }
}

#[test]
fn four_days_of_stationary_traffic_raise_no_alarm() {
    // 34,560 windows, of 10 watched numbers each; 6.9 million requests.
    let mut run = Run::new(1);
    let mut events = Vec::new();
    for _ in 0..34_560 {
        events.extend(run.window(USUAL));
    }
    eprintln!("false alarms in 4 days: {events:?}");
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn shifts_are_noticed_within_windows_and_explained() {
    let shifts: [(&str, Traffic, u32); 5] = [
        ("errors 0.5 % -> 5 %", Traffic { errors: 0.05, ..USUAL }, 6),
        ("latency x 1.6", Traffic { slower: 1.6, ..USUAL }, 5),
        ("rate x 2.5", Traffic { per_second: 50.0, ..USUAL }, 2),
        ("rate x 0.3", Traffic { per_second: 6.0, ..USUAL }, 2),
        ("split 50:30:20 -> 30:50:20", Traffic { split: [0.3, 0.5, 0.2], ..USUAL }, 3),
    ];
    for (name, traffic, limit) in shifts {
        let (mut delays, mut datings) = (Vec::new(), 0);
        for seed in 0..20 {
            let mut run = Run::new(100 + seed);
            run.learn();
            let changed_at = run.now;
            let (delay, event) = run.first_event(traffic);
            delays.push(delay);
            let AnomalyEvent::Raised(anomaly) = event else { panic!("{event:?}") };
            // A change of the split is at first one of rates, too.
            let right = match (&anomaly.signal, name.split(' ').next().unwrap()) {
                (Signal::Errors(of), "errors") => of.backend == "a",
                (Signal::Slow(of, bound), "latency") => {
                    of.backend == "a" && (Duration::from_millis(1500)..Duration::from_secs(3)).contains(bound)
                }
                (Signal::Rate(_), "rate" | "split") => true,
                (Signal::Split { rule, .. }, "split") => rule == "chat",
                _ => false,
            };
            assert!(right, "{name}: {anomaly}");
            let since = anomaly.shift.since;
            datings += u32::from(since + WINDOW * 3 >= changed_at && since <= changed_at + WINDOW * 3);
            if seed == 0 {
                eprintln!("{anomaly}");
            }
        }
        delays.sort_unstable();
        eprintln!("{name}: noticed after {} windows of 10 s (worst of 20: {})", delays[10], delays[19]);
        eprintln!("  dated to within 3 windows in {datings} of 20");
        assert!(delays[10] <= limit, "{name}: {delays:?}");
        assert!(datings >= 15, "{name}: {datings}");
    }
}

#[test]
fn an_alarm_is_raised_once_and_cleared_once() {
    let mut run = Run::new(7);
    run.learn();
    let mut events = Vec::new();
    for _ in 0..100 {
        events.extend(run.window(Traffic { errors: 0.1, ..USUAL }));
    }
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(run.detector.alarms(), 1);
    for _ in 0..100 {
        events.extend(run.window(USUAL));
    }
    assert!(matches!(&events[1..], [AnomalyEvent::Cleared { signal: Signal::Errors(_), .. }]), "{events:?}");
    assert_eq!(run.detector.alarms(), 0);
}

#[test]
fn requests_to_a_false_alarm_are_far_more_than_the_bound_and_fall_with_the_threshold() {
    // At threshold 5 the bound is e⁵ = 148 requests.
    let run_length = |threshold: f64| {
        let mut rng = Rng::new(3);
        let settings = DriftSettings {
            ratio: 3.0,
            least_rise: 0.02,
            least_usual: 0.001,
            threshold,
            least_trials: 1000.0,
            keep: 0.99,
            clear_after: 5,
            fixed: Some(0.01),
        };
        let mut drift = Drift::new(settings);
        let (mut alarms, mut requests) = (0u64, 0u64);
        for window in 0..400_000 {
            let hits = (0..10).filter(|_| rng.uniform() < 0.01).count() as u64;
            requests += 10;
            let verdict = drift.window(Timestamp::from_secs_f64(f64::from(window)), 10, hits);
            alarms += u64::from(matches!(verdict, Verdict::Raised(_)));
        }
        requests as f64 / alarms.max(1) as f64
    };
    let (five, eight) = (run_length(5.0), run_length(8.0));
    eprintln!("requests to a false alarm: {five:.0} at threshold 5, {eight:.0} at threshold 8");
    assert!(five > 148.0 && eight > 2981.0 && eight > 5.0 * five, "{five} {eight}");
}

#[test]
fn a_rate_is_compared_with_its_season_where_a_profile_is_given() {
    let hysteresis = Hysteresis { raise_after: 2, clear_after: 4 };
    let mut seasonal = Deviation::new(5.0, 0.05, 60, hysteresis);
    let mut plain = seasonal.clone();
    let (mut seasonal_alarms, mut plain_alarms) = (0, 0);
    for window in 0..2000 {
        let at = Timestamp::from_secs_f64(f64::from(window) * 60.0);
        // A step from night to day every 200 windows, known in advance.
        let expected = if window / 200 % 2 == 0 { 100.0 } else { 400.0 };
        seasonal_alarms +=
            u32::from(matches!(seasonal.window(at, expected, Some(expected)), Verdict::Raised(_)));
        plain_alarms += u32::from(matches!(plain.window(at, expected, None), Verdict::Raised(_)));
    }
    assert_eq!(seasonal_alarms, 0);
    assert!(plain_alarms >= 9, "{plain_alarms}");
}

#[test]
fn a_lasting_new_level_becomes_the_usual_after_the_memory() {
    let hysteresis = Hysteresis { raise_after: 2, clear_after: 4 };
    let mut rate = Deviation::new(5.0, 0.1, 30, hysteresis);
    let mut verdicts = Vec::new();
    for window in 0..200 {
        let at = Timestamp::from_secs_f64(f64::from(window));
        match rate.window(at, if window < 50 { 100.0 } else { 300.0 }, None) {
            Verdict::Same => {}
            verdict => verdicts.push((window, verdict)),
        }
    }
    assert!(matches!(verdicts[..], [(51, Verdict::Raised(_)), (80..=120, Verdict::Cleared)]), "{verdicts:?}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let layout = MetricsLayout::default();
    for settings in [
        AnomalySettings { ratio: 1.0, ..AnomalySettings::default() },
        AnomalySettings { threshold: f64::NAN, ..AnomalySettings::default() },
        AnomalySettings { memory_windows: 7, ..AnomalySettings::default() },
        AnomalySettings { clear_after: 0, ..AnomalySettings::default() },
    ] {
        assert_eq!(AnomalyDetector::new(&layout, settings).unwrap_err().code(), "gateway_setting");
    }
}
