//! How do measurements look in Python?
//!
//! ```text
//! {"routes": {name: {"throughput_rps", "latency_mean_ms", "latency_p95_ms", "error_ratio", "censored_ratio",
//!                    "concurrency", "price_usd_per_million", "age_s"}},
//!  "resources": {name: {the same but the price, "healthy", "capacity_rps", "background_rps", "signals": {name: value}}},
//!  "warnings": [text]}
//! ```
//!
//! Everything may be left out; a name that the topology does not have, or a number that cannot be, is an error.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::{Latency, Measurements, Rate, Reading, Telemetry, Timestamp, Topology, UnitPrice};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct View {
    routes: BTreeMap<String, Measured>,
    resources: BTreeMap<String, Measured>,
    warnings: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Measured {
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput_rps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_mean_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_p95_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    censored_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_usd_per_million: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_rps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    background_rps: Option<f64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    signals: BTreeMap<String, f64>,
    /// Of all numbers here.
    age_s: f64,
}

/// Reads what a source gave.
pub(super) fn read(
    text: &str,
    topology: &Topology,
    at: Timestamp,
    window: Duration,
) -> Result<Telemetry, String> {
    let view: View = serde_json::from_str(text).map_err(|error| format!("telemetry: {error}"))?;
    let mut telemetry = Telemetry::empty(topology, at, window);
    for (name, measured) in view.routes {
        let route = topology.route(&name).ok_or_else(|| format!("there is no route `{name}`"))?;
        if measured.healthy.is_some()
            || measured.capacity_rps.is_some()
            || measured.background_rps.is_some()
            || !measured.signals.is_empty()
        {
            return Err(format!("route `{name}`: health, capacity and signals are those of a resource"));
        }
        let place = &mut telemetry.routes[route.ix()];
        place.measured = measured.numbers(&name)?;
        place.price = match measured.price_usd_per_million {
            Some(price) => Some(UnitPrice::new(price).map_err(|error| format!("{name}: {error}"))?),
            None => None,
        };
    }
    for (name, measured) in view.resources {
        let resource = topology.resource(&name).ok_or_else(|| format!("there is no resource `{name}`"))?;
        if measured.price_usd_per_million.is_some() {
            return Err(format!("resource `{name}`: a price is that of a route"));
        }
        let place = &mut telemetry.resources[resource.ix()];
        let age = measured.age(&name)?;
        place.measured = measured.numbers(&name)?;
        place.healthy = measured.healthy;
        place.capacity = rate(&name, measured.capacity_rps)?.map(|rate| Reading::new(rate, age));
        place.background = rate(&name, measured.background_rps)?.map(|rate| Reading::new(rate, age));
        place.signals =
            measured.signals.into_iter().map(|(signal, value)| (signal, Reading::new(value, age))).collect();
    }
    telemetry.warnings = view.warnings;
    Ok(telemetry)
}

/// The same form for what was collected before.
pub(super) fn text(telemetry: &Telemetry, topology: &Topology) -> String {
    let routes = topology.routes().iter().zip(&telemetry.routes).map(|(route, here)| {
        let price_usd_per_million = here.price.map(UnitPrice::get);
        (route.name.clone(), Measured { price_usd_per_million, ..Measured::of(&here.measured) })
    });
    let resources = topology.resources().iter().zip(&telemetry.resources).map(|(resource, here)| {
        let measured = Measured {
            healthy: here.healthy,
            capacity_rps: here.capacity.map(|reading| reading.value.get()),
            background_rps: here.background.map(|reading| reading.value.get()),
            signals: here.signals.iter().map(|(name, reading)| (name.clone(), reading.value)).collect(),
            ..Measured::of(&here.measured)
        };
        (resource.name.clone(), measured)
    });
    let view = View {
        routes: routes.collect(),
        resources: resources.collect(),
        warnings: telemetry.warnings.clone(),
    };
    // Maps with keys of text and finite numbers, which telemetry holds.
    serde_json::to_string(&view).unwrap_or_else(|_| "{}".to_owned())
}

impl Measured {
    fn of(measured: &Measurements) -> Self {
        Self {
            throughput_rps: measured.throughput.map(|reading| reading.value.get()),
            latency_mean_ms: measured.latency_mean.map(|reading| reading.value.as_millis()),
            latency_p95_ms: measured.latency_p95.map(|reading| reading.value.as_millis()),
            error_ratio: measured.error_ratio.map(|reading| reading.value),
            censored_ratio: measured.censored_ratio.map(|reading| reading.value),
            concurrency: measured.concurrency.map(|reading| reading.value),
            age_s: measured.age().unwrap_or_default().as_secs_f64(),
            ..Self::default()
        }
    }

    fn age(&self, name: &str) -> Result<Duration, String> {
        Duration::try_from_secs_f64(self.age_s)
            .map_err(|_| format!("{name}: age_s is {}, expected 0 or more", self.age_s))
    }

    fn numbers(&self, name: &str) -> Result<Measurements, String> {
        let age = self.age(name)?;
        let reading = |value| Reading::new(value, age);
        let latency = |value: Option<f64>| match value {
            None => Ok(None),
            Some(ms) => Latency::new(ms * 1e-3)
                .map(|latency| Some(reading_of(latency, age)))
                .map_err(|error| format!("{name}: {error}")),
        };
        let share = |key: &str, value: Option<f64>| match value {
            Some(value) if !(0.0..=1.0).contains(&value) => {
                Err(format!("{name}: {key} is {value}, expected from 0 to 1"))
            }
            value => Ok(value.map(reading)),
        };
        if let Some(value) = self.concurrency.filter(|value| !(value.is_finite() && *value >= 0.0)) {
            return Err(format!("{name}: concurrency is {value}, expected 0 or more"));
        }
        Ok(Measurements {
            throughput: rate(name, self.throughput_rps)?.map(|rate| reading_of(rate, age)),
            latency_mean: latency(self.latency_mean_ms)?,
            latency_p95: latency(self.latency_p95_ms)?,
            error_ratio: share("error_ratio", self.error_ratio)?,
            censored_ratio: share("censored_ratio", self.censored_ratio)?,
            concurrency: self.concurrency.map(reading),
        })
    }
}

fn reading_of<T>(value: T, age: Duration) -> Reading<T> {
    Reading::new(value, age)
}

fn rate(name: &str, value: Option<f64>) -> Result<Option<Rate>, String> {
    value.map(Rate::new).transpose().map_err(|error| format!("{name}: {error}"))
}
