//! How long does a service take, as a multiple of its mean?
//!
//! A distribution maps a quantile in (0, 1) to a multiple with mean 1. The quantile is drawn with the arrival,
//! so that whoever routes, the same request needs the same work.

use serde::{Deserialize, Serialize};

/// Shape of service times; every shape has mean 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceTime {
    /// Always the mean.
    Constant {},
    /// Memoryless.
    Exponential {},
    /// Lognormal.
    Lognormal {
        /// Coefficient of variation: standard deviation over mean.
        cv: f64,
    },
    /// Pareto between `L` and `ratio · L`: heavy-tailed.
    BoundedPareto {
        /// Tail index `α`, not 1.
        alpha: f64,
        /// Largest over smallest.
        ratio: f64,
    },
}

impl Default for ServiceTime {
    fn default() -> Self {
        Self::Lognormal { cv: 1.0 }
    }
}

impl ServiceTime {
    /// What is wrong with the parameters: the key and the problem.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        match *self {
            Self::Lognormal { cv } if !(cv.is_finite() && (0.0..=20.0).contains(&cv)) => {
                Some(("lognormal.cv", format!("{cv} is outside [0, 20]")))
            }
            Self::BoundedPareto { alpha, .. } if !(0.1..=10.0).contains(&alpha) || alpha == 1.0 => {
                Some(("bounded_pareto.alpha", format!("{alpha} is outside [0.1, 10] or is 1")))
            }
            Self::BoundedPareto { ratio, .. } if !(ratio > 1.0 && ratio <= 1e9) => {
                Some(("bounded_pareto.ratio", format!("{ratio} is outside (1, 1e9]")))
            }
            _ => None,
        }
    }

    /// Prepares the constants of the quantile function.
    pub(crate) fn compile(self) -> Quantile {
        match self {
            Self::Constant {} => Quantile::Constant,
            Self::Exponential {} => Quantile::Exponential,
            Self::Lognormal { cv } => {
                let variance = (1.0 + cv * cv).ln();
                Quantile::Lognormal { mu: -0.5 * variance, sigma: variance.sqrt() }
            }
            Self::BoundedPareto { alpha, ratio } => {
                // Mean for L = 1: α/(α−1) · (1 − r^(1−α)) / (1 − r^(−α)).
                let kept = 1.0 - ratio.powf(-alpha);
                let mean = alpha / (alpha - 1.0) * (1.0 - ratio.powf(1.0 - alpha)) / kept;
                Quantile::Pareto { low: 1.0 / mean, kept, exponent: -1.0 / alpha }
            }
        }
    }

    /// The squared coefficient of variation, for queueing formulas.
    #[must_use]
    pub fn squared_cv(&self) -> f64 {
        match *self {
            Self::Constant {} => 0.0,
            Self::Exponential {} => 1.0,
            Self::Lognormal { cv } => cv * cv,
            Self::BoundedPareto { alpha, ratio } => {
                let kept = 1.0 - ratio.powf(-alpha);
                let moment = |k: f64| {
                    if (k - alpha).abs() < 1e-12 {
                        alpha * ratio.ln() / kept
                    } else {
                        alpha / (alpha - k) * (1.0 - ratio.powf(k - alpha)) / kept
                    }
                };
                moment(2.0) / (moment(1.0) * moment(1.0)) - 1.0
            }
        }
    }
}

/// A quantile function with its constants.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Quantile {
    Constant,
    Exponential,
    Lognormal { mu: f64, sigma: f64 },
    Pareto { low: f64, kept: f64, exponent: f64 },
}

impl Quantile {
    /// The multiple of the mean at quantile `u` in [0, 1).
    #[inline]
    pub(crate) fn at(self, u: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Exponential => -(1.0 - u).ln(),
            Self::Lognormal { mu, sigma } => (mu + sigma * inverse_normal(u)).exp(),
            Self::Pareto { low, kept, exponent } => low * (1.0 - u * kept).powf(exponent),
        }
    }
}

/// The standard normal quantile, by P. J. Acklam's rational approximation: relative error below 1.2e-9.
fn inverse_normal(u: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [7.784_695_709_041_462e-3, 3.224_671_290_700_398e-1, 2.445_134_137_142_996, 3.754_408_661_907_416];
    const LOW: f64 = 0.02425;
    let horner = |coefficients: &[f64], x: f64| coefficients.iter().fold(0.0, |sum, c| sum * x + c);
    let u = u.clamp(1e-16, 1.0 - 1e-16);
    if u < LOW {
        let q = (-2.0 * u.ln()).sqrt();
        horner(&C, q) / (horner(&D, q) * q + 1.0)
    } else if u <= 1.0 - LOW {
        let q = u - 0.5;
        let r = q * q;
        horner(&A, r) * q / (horner(&B, r) * r + 1.0)
    } else {
        let q = (-2.0 * (1.0 - u).ln()).sqrt();
        -horner(&C, q) / (horner(&D, q) * q + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use traflux_gateway::Rng;

    #[test]
    fn the_normal_quantile_matches_published_values() {
        // Standard normal table: Φ(1.959964) = 0.975, Φ(2.326348) = 0.99, Φ(−3.090232) = 0.001.
        for (u, z) in [(0.5, 0.0), (0.975, 1.959_964), (0.99, 2.326_348), (0.001, -3.090_232)] {
            assert!((inverse_normal(u) - z).abs() < 1e-6, "{u}");
        }
    }

    #[test]
    fn every_shape_has_mean_one_and_its_variation() {
        for shape in [
            ServiceTime::Constant {},
            ServiceTime::Exponential {},
            ServiceTime::Lognormal { cv: 1.0 },
            ServiceTime::BoundedPareto { alpha: 1.5, ratio: 100.0 },
        ] {
            let quantile = shape.compile();
            let mut rng = Rng::new(5);
            let n = 1_000_000;
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..n {
                let x = quantile.at(rng.uniform());
                sum += x;
                squares += x * x;
            }
            let mean = sum / f64::from(n);
            let cv2 = squares / f64::from(n) / (mean * mean) - 1.0;
            assert!((mean - 1.0).abs() < 0.01, "{shape:?}: {mean}");
            assert!((cv2 - shape.squared_cv()).abs() < 0.05 * (1.0 + shape.squared_cv()), "{shape:?}: {cv2}");
        }
    }
}
