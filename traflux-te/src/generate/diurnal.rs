//! How does traffic change over days and weeks?

use std::f64::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use traflux_core::{BitRate, Network, TrafficMatrix};

use super::rng;
use super::traffic::normal;
use crate::error::{TeError, require};

const DAY: f64 = 86_400.0;
/// Degrees of longitude that the sun passes in a day.
const DEGREES_PER_DAY: f64 = 360.0;

/// How a mean matrix changes over time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiurnalConfig {
    /// Seconds from one matrix to the next, positive.
    pub interval_seconds: f64,
    /// `a`: how far day and night are from their mean, relative to it, in [0, 1].
    pub daily_amplitude: f64,
    /// `w`: traffic on days six and seven relative to the other days, not negative.
    pub weekend_factor: f64,
    /// How far the busy hours of nodes are apart: phases are uniform within this part of a day, in [0, 1].
    /// Zero = all nodes have one clock.
    pub phase_spread: f64,
    /// `σ`: standard deviation of the logarithm of a pair's noise, in [0, 10].
    pub noise_sigma: f64,
    /// `ρ`: correlation of the noise of one step and the next, in [0, 1).
    pub noise_correlation: f64,
    /// Probability that a burst of a pair begins in one step, in [0, 1].
    pub burst_probability: f64,
    /// Demand during a burst relative to without, not negative.
    pub burst_factor: f64,
    /// Mean number of steps that a burst lasts, at least 1.
    pub burst_steps: f64,
}

/// Five-minute matrices of a backbone: half as much again by day as on average, quieter weekends, noise with
/// a half-life of an hour, and a burst per pair every two days or so.
impl Default for DiurnalConfig {
    fn default() -> Self {
        Self {
            interval_seconds: 300.0,
            daily_amplitude: 0.5,
            weekend_factor: 0.7,
            phase_spread: 0.15,
            noise_sigma: 0.3,
            noise_correlation: 0.94,
            burst_probability: 0.002,
            burst_factor: 3.0,
            burst_steps: 6.0,
        }
    }
}

/// Matrices one after the other, without end:
///
/// ```text
/// d_st(i) = mean_st · ½ (c_s(i) + c_t(i)) · exp(x_st(i) − σ²/2) · b_st(i)
/// c_v(i)  = week(i) · (1 + a sin 2π (i · interval / day − phase_v))
/// x_st(i) = ρ x_st(i − 1) + √(1 − ρ²) σ z_st(i),     z ~ N(0, 1),     x_st(0) ~ N(0, σ²)
/// ```
///
/// with `week` = 1 on five days and `w` on two, and `b` = the burst factor from when a burst begins until,
/// with probability 1 / `burst_steps` per step, it ends. The noise has mean 1 at every step; day and night
/// cancel over a day; weekends and bursts change the mean.
#[derive(Debug, Clone)]
pub struct Diurnal {
    mean: TrafficMatrix,
    config: DiurnalConfig,
    phases: Vec<f64>,
    noise: Vec<f64>,
    bursting: Vec<bool>,
    step: u64,
    rng: ChaCha8Rng,
}

impl Diurnal {
    /// Starts on the morning of day one, when traffic is at its mean and rises.
    ///
    /// # Errors
    /// [`TeError::Parameter`] for a number out of its range.
    pub fn new(mean: TrafficMatrix, config: DiurnalConfig, seed: u64) -> Result<Self, TeError> {
        check(&config)?;
        let mut rng = rng(seed, 0);
        let nodes = mean.nodes();
        let phases = (0..nodes).map(|_| config.phase_spread * rng.random::<f64>()).collect();
        let noise = (0..nodes * nodes).map(|_| config.noise_sigma * normal(&mut rng)).collect();
        Ok(Self { mean, config, phases, noise, bursting: vec![false; nodes * nodes], step: 0, rng })
    }

    /// Lets noon follow the sun instead of chance: the busy hour of a node is the later the farther west it is.
    /// Nodes without a position keep the phase they have. Positions must be degrees; those of generated
    /// networks are kilometres.
    #[must_use]
    pub fn with_time_zones(mut self, network: &Network) -> Self {
        for (phase, node) in self.phases.iter_mut().zip(network.nodes()) {
            if let Some([longitude, _]) = node.position.filter(|p| p[0].is_finite()) {
                *phase = -longitude / DEGREES_PER_DAY;
            }
        }
        self
    }

    fn season(&self, phase: f64) -> f64 {
        let days = self.step as f64 * self.config.interval_seconds / DAY;
        let week = if days % 7.0 >= 5.0 { self.config.weekend_factor } else { 1.0 };
        week * (1.0 + self.config.daily_amplitude * (TAU * (days - phase)).sin())
    }
}

impl Iterator for Diurnal {
    type Item = TrafficMatrix;

    fn next(&mut self) -> Option<TrafficMatrix> {
        let config = self.config;
        let nodes = self.mean.nodes();
        let seasons: Vec<f64> = self.phases.iter().map(|phase| self.season(*phase)).collect();
        let innovation =
            (1.0 - config.noise_correlation * config.noise_correlation).sqrt() * config.noise_sigma;
        let mut rows = vec![0.0; nodes * nodes];
        for (at, row) in rows.iter_mut().enumerate() {
            let (source, target) = (at / nodes, at % nodes);
            if source == target {
                continue;
            }
            if self.step > 0 {
                self.noise[at] =
                    config.noise_correlation * self.noise[at] + innovation * normal(&mut self.rng);
            }
            let chance = if self.bursting[at] { 1.0 / config.burst_steps } else { config.burst_probability };
            self.bursting[at] ^= self.rng.random::<f64>() < chance;
            let season = 0.5 * (seasons[source] + seasons[target]);
            let noise = (self.noise[at] - 0.5 * config.noise_sigma * config.noise_sigma).exp();
            let burst = if self.bursting[at] { config.burst_factor } else { 1.0 };
            *row = BitRate::saturating(self.mean.as_slice()[at] * season * noise * burst).get();
        }
        self.step += 1;
        // Every entry is finite and not negative, so this never ends.
        TrafficMatrix::from_rows(nodes, rows).ok()
    }
}

fn check(config: &DiurnalConfig) -> Result<(), TeError> {
    let unit = 0.0..=1.0;
    let positive = |v: f64| v.is_finite() && v > 0.0;
    let not_negative = |v: f64| v.is_finite() && v >= 0.0;
    let c = config;
    require(positive(c.interval_seconds), "interval", c.interval_seconds, "finite and positive")?;
    require(unit.contains(&c.daily_amplitude), "daily amplitude", c.daily_amplitude, "in [0, 1]")?;
    require(not_negative(c.weekend_factor), "weekend factor", c.weekend_factor, "finite and not negative")?;
    require(unit.contains(&c.phase_spread), "phase spread", c.phase_spread, "in [0, 1]")?;
    require((0.0..=10.0).contains(&c.noise_sigma), "noise sigma", c.noise_sigma, "in [0, 10]")?;
    let correlation = c.noise_correlation;
    require((0.0..1.0).contains(&correlation), "noise correlation", correlation, "in [0, 1)")?;
    require(unit.contains(&c.burst_probability), "burst probability", c.burst_probability, "in [0, 1]")?;
    require(not_negative(c.burst_factor), "burst factor", c.burst_factor, "finite and not negative")?;
    require(c.burst_steps.is_finite() && c.burst_steps >= 1.0, "burst steps", c.burst_steps, "at least 1")
}
