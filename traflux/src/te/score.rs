//! What came of a comparison?

use serde::Serialize;
use traflux_te::metrics::{BootstrapConfig, PairedDifference, Summary};

use super::table::mean;

/// One selector on all matrices played.
#[derive(Debug, Clone, Serialize)]
pub struct ArmScore {
    /// Its name.
    pub name: String,
    /// Of a trained arm: all of one family were trained alike, and count by their mean.
    pub family: Option<String>,
    /// `PR_U` by matrix: optimal over achieved utilisation, at most 1.
    pub performance: Vec<f64>,
    /// Share of the traffic that belongs to the chosen pairs, by matrix.
    pub selected: Vec<f64>,
    /// Share of the traffic that really leaves ECMP, by matrix; NaN where optima are not exact and it is not known.
    pub rerouted: Vec<f64>,
    /// Pairs whose paths differ from those of the matrix before, by matrix from the second on.
    pub changed_pairs: Vec<f64>,
    /// `PR_Ω` by matrix: least possible delay over achieved delay; empty unless asked for.
    pub delay_ratio: Vec<f64>,
    /// Time to encode and choose, in microseconds, by matrix.
    pub selection_us: Vec<f64>,
    /// How often each pair was chosen: (position, times), most often first.
    pub chosen: Vec<(usize, usize)>,
    /// On how many matrices a trained arm left the choice to greedy relief, because they were outside the range of
    /// its training.
    pub fallbacks: usize,
}

/// All selectors on the same matrices.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Most pairs that could be rerouted.
    pub count: usize,
    /// Of how many.
    pub pairs: usize,
    /// Matrices of history that were not played.
    pub history: usize,
    /// Whether choices were one matrix old.
    pub stale: bool,
    /// Relative gap of optima and flows; 0 where they are exact.
    pub tolerance: f64,
    /// Neighbouring matrices that are drawn together for intervals.
    pub block: usize,
    /// How many matrices were to be played; more than were where time ran out.
    pub asked: usize,
    /// Selectors for which there was no time.
    pub late: Vec<String>,
    /// Least possible utilisation of each matrix played.
    pub optimal: Vec<f64>,
    /// `PR_U` by matrix that no choice of so many pairs can exceed: that of the fractional choice. Empty where
    /// choices are old, for which it says nothing, and where it is not known.
    pub bound: Vec<f64>,
    /// The arms, in the order asked for.
    pub arms: Vec<ArmScore>,
}

/// By how much one arm is above another, matrix by matrix.
#[derive(Debug, Clone, Serialize)]
pub struct Gain {
    /// The first arm.
    pub of: String,
    /// The second.
    pub over: String,
    /// `PR_U` of the first less that of the second.
    #[serde(flatten)]
    pub difference: PairedDifference,
}

impl ArmScore {
    /// Statistics of `PR_U`; `None` without matrices.
    #[must_use]
    pub fn summary(&self, block: usize) -> Option<Summary> {
        Summary::of(&self.performance, &bootstrap(self.performance.len(), block))
    }

    /// By how much `PR_U` is above that of another arm, matrix by matrix.
    #[must_use]
    pub fn gain_over(&self, other: &Self, block: usize) -> Option<PairedDifference> {
        PairedDifference::of(&self.performance, &other.performance, &bootstrap(self.performance.len(), block))
    }
}

impl Comparison {
    /// An arm by its name.
    #[must_use]
    pub fn arm(&self, name: &str) -> Option<&ArmScore> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// The trained arms by family, in the order of their first.
    #[must_use]
    pub fn families(&self) -> Vec<(&str, Vec<&ArmScore>)> {
        let mut families: Vec<(&str, Vec<&ArmScore>)> = Vec::new();
        for arm in &self.arms {
            let Some(family) = arm.family.as_deref() else { continue };
            match families.iter_mut().find(|(name, _)| *name == family) {
                Some((_, arms)) => arms.push(arm),
                None => families.push((family, vec![arm])),
            }
        }
        families
    }

    /// Every family of trained arms, as the mean of its arms, against every other arm and the families before it;
    /// without one, the best arm against every other.
    #[must_use]
    pub fn gains(&self) -> Vec<Gain> {
        let plain: Vec<ArmScore> = self.arms.iter().filter(|arm| arm.family.is_none()).cloned().collect();
        let mut families: Vec<ArmScore> = Vec::new();
        for (name, arms) in self.families() {
            families.push(ArmScore { name: name.to_owned(), performance: mean_of(&arms), ..arms[0].clone() });
        }
        let gain = |first: &ArmScore, other: &ArmScore| {
            let difference = first.gain_over(other, self.block)?;
            Some(Gain { of: first.name.clone(), over: other.name.clone(), difference })
        };
        if families.is_empty() {
            let best = plain.iter().max_by(|a, b| mean(&a.performance).total_cmp(&mean(&b.performance)));
            let Some(best) = best else { return Vec::new() };
            return plain
                .iter()
                .filter(|arm| arm.name != best.name)
                .filter_map(|arm| gain(best, arm))
                .collect();
        }
        let mut gains = Vec::new();
        for (at, family) in families.iter().enumerate() {
            let others = families[..at].iter().chain(&plain);
            gains.extend(others.filter_map(|other| gain(family, other)));
        }
        gains
    }
}

/// Mean `PR_U` of several arms by matrix.
fn mean_of(arms: &[&ArmScore]) -> Vec<f64> {
    let matrices = arms.iter().map(|arm| arm.performance.len()).min().unwrap_or(0);
    (0..matrices)
        .map(|at| arms.iter().map(|arm| arm.performance[at]).sum::<f64>() / arms.len() as f64)
        .collect()
}

/// A resample of less than eight blocks would hardly differ from the sample.
fn bootstrap(count: usize, block: usize) -> BootstrapConfig {
    BootstrapConfig { block: block.min(count / 8).max(1), ..BootstrapConfig::default() }
}
