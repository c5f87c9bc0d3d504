//! Which fleets and faults should a policy have seen?
//!
//! Domain randomisation: every seed gives another valid scenario, with other counts, capacities, distances, prices,
//! loads and events. Rates are scaled down so that an episode is quick.

use std::collections::BTreeMap;

use traflux_gateway::Rng;

use crate::distribution::ServiceTime;
use crate::process::{Effect, Process};
use crate::scenario::{Cloud, Endpoint, MetricsSettings, OutlierDetection, Scenario, Source};

const SCENARIO_STREAM: u64 = 1 << 34;

/// What [`random_scenario`] may draw.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomSettings {
    /// Length in seconds.
    pub duration_s: f64,
    /// Fewest and most endpoints.
    pub endpoints: (usize, usize),
    /// Fewest and most sources.
    pub sources: (usize, usize),
    /// Least and greatest load over fleet capacity, before any event.
    pub utilization: (f64, f64),
    /// Least and greatest capacity of the whole fleet, in requests per second.
    pub fleet_rps: (f64, f64),
    /// Fewest and most events.
    pub events: (usize, usize),
    /// Scrape intervals to choose from, in seconds; the rate window is four to six of them.
    pub scrape_intervals_s: Vec<f64>,
}

impl Default for RandomSettings {
    fn default() -> Self {
        Self {
            duration_s: 1800.0,
            endpoints: (3, 10),
            sources: (1, 3),
            utilization: (0.25, 0.6),
            fleet_rps: (150.0, 400.0),
            events: (0, 4),
            scrape_intervals_s: vec![1.0, 5.0, 15.0],
        }
    }
}

/// The scenario of a seed.
#[must_use]
pub fn random_scenario(seed: u64, settings: &RandomSettings) -> Scenario {
    let mut rng = Rng::stream(seed, SCENARIO_STREAM);
    let count = |rng: &mut Rng, (low, high): (usize, usize)| low + rng.below(high.max(low) - low + 1);
    let sources = count(&mut rng, settings.sources).max(1);
    let regions = sources.max(2) + rng.below(2);
    let distance = distances(&mut rng, regions);
    let source_names: Vec<String> = (0..sources).map(|ix| format!("source-{ix}")).collect();
    let clouds: BTreeMap<String, Cloud> = [("cloud-a", 0.09), ("cloud-b", 0.0875), ("cloud-c", 0.12)]
        .into_iter()
        .map(|(name, price)| (name.to_owned(), Cloud { egress_usd_per_gb: price * rng.between(0.7, 1.4) }))
        .collect();
    let cloud_names: Vec<String> = clouds.keys().cloned().collect();
    let number = count(&mut rng, settings.endpoints).max(1);
    let mut endpoints: Vec<Endpoint> = (0..number)
        .map(|ix| {
            // The first endpoints cover the regions, so that most sources have one near.
            let region = if ix < regions { ix } else { rng.below(regions) };
            let slots = 2 + rng.below(7) as u32;
            let service_time = match rng.below(5) {
                0 => ServiceTime::BoundedPareto { alpha: 1.8, ratio: 100.0 },
                1 => ServiceTime::Exponential {},
                _ => ServiceTime::Lognormal { cv: rng.between(0.5, 1.5) },
            };
            let rtt_ms = source_names
                .iter()
                .enumerate()
                .map(|(source, name)| {
                    let base = if source == region { 1.5 } else { distance[source][region] };
                    (name.clone(), (base * rng.between(0.9, 1.15) + rng.between(0.5, 6.0)).round())
                })
                .collect();
            Endpoint {
                name: format!("endpoint-{ix}"),
                cloud: cloud_names[rng.below(cloud_names.len())].clone(),
                region: format!("region-{region}"),
                domain: None,
                slots,
                service_ms: rng.between(15.0, 80.0),
                service_time,
                queue_limit: 64 + rng.below(256),
                hourly_usd: f64::from(slots) * rng.between(0.04, 0.07),
                request_usd_per_million: 0.0,
                tier: 0,
                rtt_ms,
                egress_usd_per_gb: BTreeMap::new(),
            }
        })
        .collect();
    // Scale service times so that the fleet has the capacity drawn.
    let fleet_rps = rng.between(settings.fleet_rps.0, settings.fleet_rps.1);
    let capacity: f64 = endpoints.iter().map(|e| e.capacity().get()).sum();
    endpoints.iter_mut().for_each(|e| e.service_ms *= (capacity / fleet_rps).clamp(0.2, 4.0));
    let capacity: f64 = endpoints.iter().map(|e| e.capacity().get()).sum();
    let load = capacity * rng.between(settings.utilization.0, settings.utilization.1);
    let parts: Vec<f64> = source_names.iter().map(|_| rng.between(0.5, 1.5)).collect();
    let all: f64 = parts.iter().sum();
    let sources: Vec<Source> = source_names
        .iter()
        .zip(&parts)
        .map(|(name, part)| Source { name: name.clone(), base_rps: load * part / all })
        .collect();
    let mut processes = background(&mut rng, settings.duration_s, &source_names);
    let names: Vec<String> = endpoints.iter().map(|e| e.name.clone()).collect();
    for ix in 0..count(&mut rng, settings.events) {
        processes.push(event(&mut rng, ix, settings.duration_s, &source_names, &names));
    }
    let scrape_interval_s = match settings.scrape_intervals_s.len() {
        0 => MetricsSettings::default().scrape_interval_s,
        n => settings.scrape_intervals_s[rng.below(n)],
    };
    Scenario {
        name: format!("random-{seed}"),
        description: "Drawn at random for training.".to_owned(),
        service: "service".to_owned(),
        duration_s: settings.duration_s,
        seeds: vec![seed],
        timeout_ms: 2000.0,
        slo_ms: 250.0,
        response_bytes: rng.between(5e3, 4e4).round(),
        control_interval_s: 5.0,
        metrics: MetricsSettings {
            scrape_interval_s,
            rate_window_s: (scrape_interval_s * rng.between(4.0, 6.0)).max(10.0),
            control_delay_s: rng.between(0.1, 2.0),
            ..MetricsSettings::default()
        },
        outlier_detection: Some(OutlierDetection::default()),
        clouds,
        sources,
        endpoints,
        processes,
    }
}

/// Round trips between regions, in milliseconds: symmetric, 15 to 230.
fn distances(rng: &mut Rng, regions: usize) -> Vec<Vec<f64>> {
    let mut table = vec![vec![1.5; regions]; regions];
    for a in 0..regions {
        for b in 0..a {
            // Squared, so that neighbours are more frequent than antipodes.
            let share = rng.uniform();
            let rtt = 15.0 + 215.0 * share * share.sqrt();
            table[a][b] = rtt;
            table[b][a] = rtt;
        }
    }
    table
}

fn background(rng: &mut Rng, duration_s: f64, sources: &[String]) -> Vec<Process> {
    let mut processes = Vec::new();
    let period_s = rng.between(0.5, 3.0) * duration_s;
    for source in sources {
        let effect = match rng.below(3) {
            0 => Effect::Mmpp {
                factors: vec![rng.between(0.6, 0.95), rng.between(1.05, 1.6)],
                mean_dwell_s: vec![60.0, 20.0],
            },
            _ => Effect::Diurnal {
                peak_to_trough: rng.between(1.0, 2.5),
                period_s,
                peak_at_s: rng.between(0.0, period_s),
            },
        };
        processes.push(Process {
            name: format!("load-{source}"),
            start_s: 0.0,
            end_s: None,
            repeat_every_s: None,
            targets: vec![source.clone()],
            effect,
        });
    }
    if rng.below(3) == 0 {
        processes.push(Process {
            name: "neighbours".to_owned(),
            start_s: 0.0,
            end_s: None,
            repeat_every_s: None,
            targets: Vec::new(),
            effect: Effect::Antagonist {
                floor: rng.between(0.5, 0.9),
                sigma: rng.between(0.02, 0.1),
                tau_s: rng.between(20.0, 120.0),
            },
        });
    }
    processes
}

fn event(rng: &mut Rng, ix: usize, duration_s: f64, sources: &[String], endpoints: &[String]) -> Process {
    let start_s = (rng.between(0.1, 0.75) * duration_s).round();
    let length = rng.between(0.08, 0.35) * duration_s;
    let some = |rng: &mut Rng, names: &[String]| -> Vec<String> {
        let first = rng.below(names.len());
        let wanted = 1 + usize::from(names.len() > 3 && rng.below(3) == 0);
        (0..wanted).map(|k| names[(first + k) % names.len()].clone()).collect()
    };
    let (name, targets, effect) = match rng.below(11) {
        0..=2 => {
            let targets = if rng.below(2) == 0 { Vec::new() } else { some(rng, sources) };
            let effect = Effect::FlashCrowd {
                factor: rng.between(1.3, 2.6),
                ramp_s: rng.between(5.0, 60.0),
                decay_s: Some(rng.between(10.0, 120.0)),
            };
            ("crowd", targets, effect)
        }
        3 | 4 => {
            ("brown-out", some(rng, endpoints), Effect::BrownOut { service_factor: rng.between(1.5, 8.0) })
        }
        5 | 6 => (
            "capacity-loss",
            some(rng, endpoints),
            Effect::CapacityLoss { slots_factor: rng.between(0.3, 0.8), announced: rng.below(4) == 0 },
        ),
        7 => ("outage", vec![endpoints[rng.below(endpoints.len())].clone()], Effect::Outage {}),
        8 => {
            let (hourly_factor, egress_factor) = (rng.between(0.5, 2.5), rng.between(0.5, 2.5));
            ("price", some(rng, endpoints), Effect::Price { hourly_factor, egress_factor })
        }
        9 => (
            "detour",
            some(rng, endpoints),
            Effect::Rtt { factor: 1.0, add_ms: rng.between(10.0, 80.0), sources: Vec::new() },
        ),
        _ => match rng.below(3) {
            0 => (
                "errors",
                some(rng, endpoints),
                Effect::Errors { ratio: rng.between(0.05, 0.6), service_factor: rng.between(0.1, 1.0) },
            ),
            1 => ("blackhole", some(rng, endpoints), Effect::Blackhole { ratio: rng.between(0.2, 0.9) }),
            _ => ("scrape-loss", Vec::new(), Effect::ScrapeLoss { ratio: rng.between(0.2, 0.8) }),
        },
    };
    Process {
        name: format!("{name}-{ix}"),
        start_s,
        end_s: Some((start_s + length).round()),
        repeat_every_s: None,
        targets,
        effect,
    }
}
