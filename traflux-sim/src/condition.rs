//! What is true of an endpoint or a route at a moment?
//!
//! Processes are turned into boundaries in time; between two boundaries a `Condition` is constant, except
//! for slow starts, which are evaluated when a service begins.

use traflux_core::{Rate, UnitPrice};

use crate::load::process_stream;
use crate::process::{Effect, TargetKind};
use crate::scenario::Scenario;

/// Time between two steps of an antagonist.
const ANTAGONIST_STEP_S: f64 = 5.0;

/// State of one endpoint between two boundaries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) service_factor: f64,
    pub(crate) slots: u32,
    pub(crate) outage: bool,
    pub(crate) blackhole: f64,
    pub(crate) errors: f64,
    pub(crate) error_service: f64,
    pub(crate) hourly_factor: f64,
    pub(crate) egress_factor: f64,
    /// Capacity as announced; `None` where no process announces anything.
    pub(crate) announced: Option<Rate>,
    pub(crate) series_lost: bool,
    /// Slow starts going on: beginning and length in seconds, speed at the beginning.
    pub(crate) slow: Vec<(f64, f64, f64)>,
}

impl Condition {
    /// How much longer a service takes that begins now.
    #[inline]
    pub(crate) fn slowness(&self, now_s: f64) -> f64 {
        self.slow.iter().fold(self.service_factor, |factor, (start, ramp, initial)| {
            let progress = ((now_s - start) / ramp).clamp(0.0, 1.0);
            factor / (initial + (1.0 - initial) * progress)
        })
    }
}

/// State of the path of metrics and weights of one source between two boundaries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Plumbing {
    pub(crate) scrape_loss: f64,
    pub(crate) scrape_interval_s: f64,
    pub(crate) metric_delay_s: f64,
    pub(crate) control_delay_s: f64,
}

/// The processes of a scenario, ready to be asked about a moment.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    /// Moments at which something changes, in nanoseconds, rising.
    pub(crate) boundaries: Vec<u64>,
    instances: Vec<Instance>,
    /// Names of the windows for which results are given.
    pub(crate) windows: Vec<WindowSpan>,
}

/// An event of a scenario: its name and the times in which it goes on, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowSpan {
    /// Name of the process.
    pub name: String,
    /// Beginnings and ends.
    pub spans: Vec<(f64, f64)>,
}

#[derive(Debug, Clone)]
struct Instance {
    process: usize,
    start: u64,
    end: u64,
    /// By endpoint, for antagonists: the factor at each step.
    steps: Vec<Vec<f64>>,
}

/// The windows of a scenario: every process that is an event rather than background.
#[must_use]
pub fn windows(scenario: &Scenario) -> Vec<WindowSpan> {
    scenario
        .processes
        .iter()
        .filter(|p| !p.effect.is_background())
        .map(|p| WindowSpan { name: p.name.clone(), spans: p.spans(scenario.duration_s) })
        .filter(|w| !w.spans.is_empty())
        .collect()
}

pub(crate) fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

impl Timeline {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut boundaries = Vec::new();
        let mut instances = Vec::new();
        for (ix, process) in scenario.processes.iter().enumerate() {
            let windowed = !process.effect.is_background();
            if process.effect.target_kind() == TargetKind::Source
                && !windowed
                && !matches!(process.effect, Effect::ScrapeInterval { .. } | Effect::ControlDelay { .. })
            {
                continue;
            }
            for (start, end) in process.spans(scenario.duration_s) {
                boundaries.extend([nanos(start), nanos(end)]);
                let mut steps = Vec::new();
                if let Effect::Antagonist { floor, sigma, tau_s } = process.effect {
                    let count = ((end - start) / ANTAGONIST_STEP_S).ceil() as usize;
                    boundaries.extend((1..count).map(|k| nanos(start + k as f64 * ANTAGONIST_STEP_S)));
                    let keep = (-ANTAGONIST_STEP_S / tau_s).exp();
                    let noise = sigma * (1.0 - keep * keep).sqrt();
                    let mean = (1.0 + floor) / 2.0;
                    for endpoint in 0..scenario.endpoints.len() {
                        let mut rng = process_stream(seed, ix, endpoint);
                        // The sum of twelve uniforms less six: normal enough, and portable.
                        let mut normal = || (0..12).map(|_| rng.uniform()).sum::<f64>() - 6.0;
                        let mut value = mean + sigma * normal();
                        steps.push(
                            (0..count)
                                .map(|_| {
                                    let now = value.clamp(floor, 1.0);
                                    value = mean + keep * (value - mean) + noise * normal();
                                    now
                                })
                                .collect(),
                        );
                    }
                }
                instances.push(Instance { process: ix, start: nanos(start), end: nanos(end), steps });
            }
        }
        boundaries.sort_unstable();
        boundaries.dedup();
        Self { boundaries, instances, windows: windows(scenario) }
    }

    fn active<'a>(
        &'a self,
        scenario: &'a Scenario,
        now: u64,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a Instance, &'a Effect)> {
        self.instances.iter().filter(move |i| i.start <= now && now < i.end).filter_map(move |instance| {
            let process = &scenario.processes[instance.process];
            process.acts_on(name).then_some((instance, &process.effect))
        })
    }

    pub(crate) fn condition(&self, scenario: &Scenario, endpoint: usize, now: u64) -> Condition {
        let settings = &scenario.endpoints[endpoint];
        let mut condition = Condition {
            service_factor: 1.0,
            slots: 0,
            outage: false,
            blackhole: 0.0,
            errors: 0.0,
            error_service: 1.0,
            hourly_factor: 1.0,
            egress_factor: 1.0,
            announced: None,
            series_lost: false,
            slow: Vec::new(),
        };
        let (mut slots, mut announced) = (1.0, 1.0);
        for (instance, effect) in self.active(scenario, now, &settings.name) {
            match effect {
                Effect::BrownOut { service_factor } => condition.service_factor *= service_factor,
                Effect::CapacityLoss { slots_factor, announced: told } => {
                    slots *= slots_factor;
                    if *told {
                        announced *= slots_factor;
                    }
                }
                Effect::Antagonist { .. } => {
                    let step = (now - instance.start) / nanos(ANTAGONIST_STEP_S);
                    let steps = &instance.steps[endpoint];
                    slots *= steps.get(step as usize).or(steps.last()).copied().unwrap_or(1.0);
                }
                Effect::Outage {} => condition.outage = true,
                Effect::SlowStart { initial_ratio, ramp_s } => {
                    condition.slow.push((instance.start as f64 * 1e-9, *ramp_s, *initial_ratio));
                }
                Effect::Errors { ratio, service_factor } if *ratio >= condition.errors => {
                    condition.errors = *ratio;
                    condition.error_service = *service_factor;
                }
                Effect::Blackhole { ratio } => condition.blackhole = condition.blackhole.max(*ratio),
                Effect::Price { hourly_factor, egress_factor } => {
                    condition.hourly_factor *= hourly_factor;
                    condition.egress_factor *= egress_factor;
                }
                Effect::SeriesLoss {} => condition.series_lost = true,
                _ => {}
            }
        }
        let tells = scenario.processes.iter().any(|p| {
            matches!(p.effect, Effect::CapacityLoss { announced: true, .. }) && p.acts_on(&settings.name)
        });
        condition.announced = tells.then(|| settings.capacity() * announced);
        let exact = f64::from(settings.slots) * slots;
        // A loss leaves at least one slot, unless it leaves nothing.
        condition.slots = if exact <= 0.0 { 0 } else { (exact.round() as u32).max(1) };
        condition
    }

    /// Round-trip time of a route in nanoseconds.
    pub(crate) fn round_trip(
        &self,
        scenario: &Scenario,
        endpoint: usize,
        source: &str,
        nominal_ms: f64,
        now: u64,
    ) -> u64 {
        let (mut factor, mut add) = (1.0, 0.0);
        for (_, effect) in self.active(scenario, now, &scenario.endpoints[endpoint].name) {
            if let Effect::Rtt { factor: f, add_ms, sources } = effect
                && (sources.is_empty() || sources.iter().any(|s| s == source))
            {
                factor *= f;
                add += add_ms;
            }
        }
        ((nominal_ms * factor + add) * 1e6).round() as u64
    }

    pub(crate) fn plumbing(&self, scenario: &Scenario, source: usize, now: u64) -> Plumbing {
        let mut plumbing = Plumbing {
            scrape_loss: 0.0,
            scrape_interval_s: scenario.metrics.scrape_interval_s,
            metric_delay_s: 0.0,
            control_delay_s: scenario.metrics.control_delay_s,
        };
        for (_, effect) in self.active(scenario, now, &scenario.sources[source].name) {
            match effect {
                Effect::ScrapeLoss { ratio } => {
                    plumbing.scrape_loss = 1.0 - (1.0 - plumbing.scrape_loss) * (1.0 - ratio);
                }
                Effect::ScrapeInterval { interval_s } => plumbing.scrape_interval_s = *interval_s,
                Effect::MetricDelay { delay_s } => plumbing.metric_delay_s += delay_s,
                Effect::ControlDelay { delay_s } => plumbing.control_delay_s = *delay_s,
                _ => {}
            }
        }
        plumbing
    }

    /// Positions of the windows that are open at a moment.
    pub(crate) fn open_windows(&self, now: u64) -> Vec<u16> {
        let open = |w: &WindowSpan| w.spans.iter().any(|(a, b)| nanos(*a) <= now && now < nanos(*b));
        (0..self.windows.len()).filter(|ix| open(&self.windows[*ix])).map(|ix| ix as u16).collect()
    }
}

/// The marginal price of a route under a condition.
pub(crate) fn unit_price(scenario: &Scenario, endpoint: usize, source: &str, factor: f64) -> UnitPrice {
    let settings = &scenario.endpoints[endpoint];
    UnitPrice::of_egress(scenario.response_bytes, scenario.egress_usd_per_gb(settings, source) * factor)
        + UnitPrice::saturating(settings.request_usd_per_million)
}
