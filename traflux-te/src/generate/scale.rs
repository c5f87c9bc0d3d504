//! How much must traffic grow for the network to be as full as asked for?

use serde::{Deserialize, Serialize};
use traflux_core::TrafficMatrix;

use crate::error::{TeError, require};

/// What has the target utilisation when several matrices are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Over {
    /// Every matrix by itself: each gets its own factor.
    Each,
    /// The fullest matrix; one factor for all.
    Max,
    /// The mean over the matrices; one factor for all.
    Mean,
}

/// Scales matrices so that a maximum link utilisation becomes `target`.
///
/// `measure` gives the utilisation of one matrix and must grow in proportion to the demands, as the
/// utilisation of ECMP does and that of the best routing. It is called once per matrix.
///
/// ```
/// use traflux_core::BitRate;
/// use traflux_te::generate::{self, LinkModel, Over, TrafficModel};
/// use traflux_te::{TeError, ecmp_loads};
///
/// let network = generate::ring(8, &LinkModel::default(), 1)?;
/// let model = TrafficModel::Exponential { mean: BitRate::gigabits_per_second(1.0) };
/// let matrices = model.matrices(&network, 10, 7)?;
/// let matrices = generate::scaled_to(&matrices, 0.9, Over::Max, |demands| {
///     Ok::<_, TeError>(network.max_utilization(&ecmp_loads(&network, demands)?))
/// })?;
/// # let fullest = matrices.iter().map(|m| network.max_utilization(&ecmp_loads(&network, m).unwrap()));
/// # assert!((fullest.fold(0.0, f64::max) - 0.9).abs() < 1e-12);
/// # Ok::<(), TeError>(())
/// ```
///
/// # Errors
/// [`TeError::Parameter`] for a target that is not finite and positive, [`TeError::NoLoad`] where the measure
/// is zero or not finite, and whatever `measure` fails with.
pub fn scaled_to<E: From<TeError>>(
    matrices: &[TrafficMatrix],
    target: f64,
    over: Over,
    measure: impl FnMut(&TrafficMatrix) -> Result<f64, E>,
) -> Result<Vec<TrafficMatrix>, E> {
    require(target.is_finite() && target > 0.0, "target utilization", target, "finite and positive")?;
    let utilizations = matrices.iter().map(measure).collect::<Result<Vec<f64>, E>>()?;
    let factor = |utilization: f64| {
        let factor = target / utilization;
        if utilization > 0.0 && factor > 0.0 && factor.is_finite() {
            Ok(factor)
        } else {
            Err(TeError::NoLoad { target })
        }
    };
    let common = match over {
        _ if matrices.is_empty() => return Ok(Vec::new()),
        Over::Each => None,
        Over::Max => Some(factor(utilizations.iter().copied().fold(0.0, f64::max))?),
        Over::Mean => Some(factor(utilizations.iter().sum::<f64>() / utilizations.len() as f64)?),
    };
    let scaled = |(matrix, utilization): (&TrafficMatrix, &f64)| {
        Ok(matrix.scaled(common.map_or_else(|| factor(*utilization), Ok)?))
    };
    matrices.iter().zip(&utilizations).map(scaled).collect()
}
