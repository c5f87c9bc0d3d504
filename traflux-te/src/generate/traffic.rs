//! How much does each pair send, drawn from a model?

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};
use serde::{Deserialize, Serialize};
use traflux_core::{BitRate, Network, NodeIx, TrafficMatrix};

use super::rng;
use crate::error::{TeError, require};

/// How much a node attracts under [`TrafficModel::Gravity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeMass {
    /// The number of its links.
    Degree,
    /// The capacity of its links.
    Capacity,
    /// Drawn from Exponential(1), for each matrix anew.
    Random,
}

/// How demands are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case", deny_unknown_fields)]
pub enum TrafficModel {
    /// Demand in proportion to the masses of both ends; see [`gravity`].
    Gravity {
        /// What the masses are.
        mass: NodeMass,
        /// The sum of all demands.
        total: BitRate,
    },
    /// Independent Exponential.
    Exponential {
        /// Mean demand.
        mean: BitRate,
    },
    /// Independent, uniform in `[low, high)`.
    Uniform {
        /// Least demand.
        low: BitRate,
        /// Greatest demand.
        high: BitRate,
    },
    /// Independent, uniform in `mean · [1 − h, 1 + h)`.
    UniformAround {
        /// Mean demand.
        mean: BitRate,
        /// `h`, in [0, 1].
        half_width: f64,
    },
    /// A few elephants among mice: normal around `large` with probability `large_share`, else around `small`,
    /// both with standard deviation `deviation` times their mean, cut at zero.
    Bimodal {
        /// Mean demand of mice.
        small: BitRate,
        /// Mean demand of elephants.
        large: BitRate,
        /// Probability of an elephant, in [0, 1].
        large_share: f64,
        /// Standard deviation relative to the mean, not negative; beyond 0.3 the cut raises the mean
        /// noticeably.
        deviation: f64,
    },
    /// Independent lognormal, which fits demands of measured backbones (Nucci, Sridharan and Taft 2005).
    Lognormal {
        /// Mean demand, not the median.
        mean: BitRate,
        /// Standard deviation of the logarithm, in [0, 10].
        sigma: f64,
    },
}

impl TrafficModel {
    /// Draws one matrix: the first of [`TrafficModel::matrices`].
    ///
    /// # Errors
    /// [`TeError::Parameter`] for a parameter out of its range.
    pub fn matrix(&self, network: &Network, seed: u64) -> Result<TrafficMatrix, TeError> {
        self.check()?;
        self.draw(network, &mut rng(seed, 0))
    }

    /// Draws `count` independent matrices; the first ones of a longer sequence are the same. Nothing is drawn where the
    /// network fixes the masses of [`TrafficModel::Gravity`]: then all are equal.
    ///
    /// # Errors
    /// [`TeError::Parameter`] for a parameter out of its range.
    pub fn matrices(
        &self,
        network: &Network,
        count: usize,
        seed: u64,
    ) -> Result<Vec<TrafficMatrix>, TeError> {
        self.check()?;
        (0..count as u64).map(|stream| self.draw(network, &mut rng(seed, stream))).collect()
    }

    fn check(&self) -> Result<(), TeError> {
        match *self {
            Self::Gravity { .. } | Self::Exponential { .. } => Ok(()),
            Self::Uniform { low, high } => {
                require(low <= high, "lower end of the range", low.get(), "at most the upper end")
            }
            Self::UniformAround { half_width, .. } => {
                require((0.0..=1.0).contains(&half_width), "half width", half_width, "in [0, 1]")
            }
            Self::Bimodal { large_share, deviation, .. } => {
                require((0.0..=1.0).contains(&large_share), "share of elephants", large_share, "in [0, 1]")?;
                require(
                    deviation.is_finite() && deviation >= 0.0,
                    "deviation",
                    deviation,
                    "finite and not negative",
                )
            }
            Self::Lognormal { sigma, .. } => {
                require((0.0..=10.0).contains(&sigma), "sigma", sigma, "in [0, 10]")
            }
        }
    }

    fn draw(&self, network: &Network, rng: &mut ChaCha8Rng) -> Result<TrafficMatrix, TeError> {
        let nodes = network.nodes().len();
        match *self {
            Self::Gravity { mass, total } => {
                let masses = masses(network, mass, rng);
                gravity(&masses, &masses, total)
            }
            Self::Exponential { mean } => {
                each_pair(nodes, |_, _| mean.get() * Distribution::<f64>::sample(&Exp1, rng))
            }
            Self::Uniform { low, high } => {
                each_pair(nodes, |_, _| low.get() + (high.get() - low.get()) * rng.random::<f64>())
            }
            Self::UniformAround { mean, half_width } => {
                each_pair(nodes, |_, _| mean.get() * (1.0 + half_width * (2.0 * rng.random::<f64>() - 1.0)))
            }
            Self::Bimodal { small, large, large_share, deviation } => each_pair(nodes, |_, _| {
                let mean = if rng.random::<f64>() < large_share { large } else { small };
                mean.get() * (1.0 + deviation * normal(rng)).max(0.0)
            }),
            Self::Lognormal { mean, sigma } => {
                // The mean of exp(σ z) is exp(σ² / 2).
                each_pair(nodes, |_, _| mean.get() * (sigma * normal(rng) - 0.5 * sigma * sigma).exp())
            }
        }
    }
}

/// Demand in proportion to the product of what the ends send and receive:
///
/// ```text
/// d(s, t) = total · out_s · in_t / Σ_{a ≠ b} out_a · in_b
/// ```
///
/// A matrix without any product above zero is empty.
///
/// # Errors
/// [`TeError::Parameter`] for a mass that is not finite and not negative, or vectors of different lengths.
pub fn gravity(out_masses: &[f64], in_masses: &[f64], total: BitRate) -> Result<TrafficMatrix, TeError> {
    let nodes = out_masses.len();
    require(
        in_masses.len() == nodes,
        "number of incoming masses",
        in_masses.len() as f64,
        "that of outgoing masses",
    )?;
    for &mass in out_masses.iter().chain(in_masses) {
        require(mass.is_finite() && mass >= 0.0, "mass", mass, "finite and not negative")?;
    }
    // Relative to the largest, so that products of capacities in bit/s stay within range.
    let relative = |masses: &[f64]| {
        let largest = masses.iter().copied().fold(0.0, f64::max);
        masses.iter().map(|m| if largest > 0.0 { m / largest } else { 0.0 }).collect::<Vec<_>>()
    };
    let (out, into) = (relative(out_masses), relative(in_masses));
    let all: f64 = out.iter().sum::<f64>() * into.iter().sum::<f64>();
    let own: f64 = out.iter().zip(&into).map(|(o, i)| o * i).sum();
    let scale = if all > own { total.get() / (all - own) } else { 0.0 };
    each_pair(nodes, |source, target| scale * out[source] * into[target])
}

fn masses(network: &Network, mass: NodeMass, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let links = |node| network.out_links(node).iter().chain(network.in_links(node));
    let of = |node| match mass {
        NodeMass::Degree => links(node).count() as f64,
        NodeMass::Capacity => links(node).map(|l| network.links()[l.ix()].capacity.get()).sum(),
        NodeMass::Random => Exp1.sample(rng),
    };
    (0..network.nodes().len()).map(NodeIx::from).map(of).collect()
}

/// Fills a matrix by pairs, row after row.
fn each_pair(nodes: usize, mut demand: impl FnMut(usize, usize) -> f64) -> Result<TrafficMatrix, TeError> {
    let mut rows = vec![0.0; nodes * nodes];
    for (at, cell) in rows.iter_mut().enumerate() {
        if at / nodes != at % nodes {
            *cell = BitRate::saturating(demand(at / nodes, at % nodes)).get();
        }
    }
    Ok(TrafficMatrix::from_rows(nodes, rows)?)
}

pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}
