//! How does a policy do on matrices it has not seen?

use std::ops::Range;

use traflux_core::{Observation, Policy};
use traflux_te::SelectionEncoder;
use traflux_te::metrics::{BootstrapConfig, Summary};

use super::judge::Judgement;
use super::series::TrafficSeries;
use crate::error::SimError;

/// Judgements of one policy, matrix by matrix.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// In the order of matrices.
    pub judgements: Vec<Judgement>,
}

impl Evaluation {
    /// `PR_U` of each matrix.
    #[must_use]
    pub fn ratios(&self) -> Vec<f64> {
        self.judgements.iter().map(|judgement| judgement.performance_ratio).collect()
    }

    /// `PR_U` of all matrices together; `None` where none was judged.
    #[must_use]
    pub fn summary(&self, config: &BootstrapConfig) -> Option<Summary> {
        Summary::of(&self.ratios(), config)
    }

    /// Mean share of traffic that belongs to chosen pairs; NaN where nothing was judged.
    #[must_use]
    pub fn selected_share(&self) -> f64 {
        self.mean(|judgement| judgement.selected_share)
    }

    /// Mean share of traffic that moved; NaN where nothing was judged.
    #[must_use]
    pub fn moved_share(&self) -> f64 {
        self.mean(|judgement| judgement.moved_share)
    }

    fn mean(&self, of: fn(&Judgement) -> f64) -> f64 {
        self.judgements.iter().map(of).sum::<f64>() / self.judgements.len() as f64
    }
}

/// Goes through a part of a series with a policy and judges every choice.
///
/// `stale`: choice and splits are those for one matrix, judged on the next.
///
/// # Errors
/// [`SimError`] when encoding, the policy or the solver fails; [`SimError::Series`] for matrices that are not there.
pub fn evaluate(
    series: &TrafficSeries,
    matrices: Range<usize>,
    encoder: &mut SelectionEncoder,
    policy: &mut dyn Policy,
    stale: bool,
) -> Result<Evaluation, SimError> {
    check(series, &matrices, stale)?;
    encoder.reset();
    let mut evaluator = series.evaluator();
    let mut observation = Observation::default();
    let mut judgements = Vec::with_capacity(matrices.len());
    for at in matrices {
        encoder.encode_into(&series.matrices()[at], &mut observation)?;
        let action = policy.act(&observation)?;
        judgements.push(series.judge(&mut evaluator, at, &action.critical, stale)?);
    }
    Ok(Evaluation { judgements })
}

/// What a policy sees at each matrix of a part of a series.
///
/// # Errors
/// [`SimError::Encode`] for an encoder of another network, [`SimError::Series`] for matrices that are not there.
pub fn scenes_of(
    series: &TrafficSeries,
    matrices: Range<usize>,
    encoder: &mut SelectionEncoder,
) -> Result<Vec<Observation>, SimError> {
    check(series, &matrices, false)?;
    encoder.reset();
    matrices.map(|at| Ok(encoder.encode(&series.matrices()[at])?)).collect()
}

fn check(series: &TrafficSeries, matrices: &Range<usize>, stale: bool) -> Result<(), SimError> {
    let steps = series.steps(stale);
    if matrices.end > steps {
        return Err(SimError::Series { start: matrices.start, end: matrices.end, steps });
    }
    Ok(())
}
