//! What is a linear program here?
//!
//! `min cost · x` over `0 ≤ x ≤ upper` with rows `Σ a x = b` or `≤ b`. Models are scaled before they come
//! here, so that tolerances that solvers take as absolute mean something.

use std::time::Instant;

use traflux_core::SolveError;

/// A row: equality, or at most.
#[derive(Debug, Clone)]
pub(crate) struct LpRow {
    pub(crate) equal: bool,
    pub(crate) limit: f64,
    pub(crate) terms: Vec<(usize, f64)>,
}

/// A linear program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lp {
    pub(crate) cost: Vec<f64>,
    pub(crate) upper: Vec<f64>,
    pub(crate) rows: Vec<LpRow>,
}

/// A solution: values, and what a unit of each row's limit costs (negative where it would save).
#[derive(Debug, Clone)]
pub(crate) struct LpAnswer {
    pub(crate) values: Vec<f64>,
    pub(crate) duals: Option<Vec<f64>>,
}

impl Lp {
    pub(crate) fn add_column(&mut self, cost: f64, upper: f64) -> usize {
        self.cost.push(cost);
        self.upper.push(upper);
        self.cost.len() - 1
    }

    pub(crate) fn add_row(&mut self, equal: bool, limit: f64, terms: Vec<(usize, f64)>) -> usize {
        self.rows.push(LpRow { equal, limit, terms });
        self.rows.len() - 1
    }

    pub(crate) fn value(&self, values: &[f64]) -> f64 {
        self.cost.iter().zip(values).map(|(c, x)| c * x).sum()
    }
}

/// Why there is no solution.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(not(any(feature = "microlp", feature = "clarabel", feature = "highs")), allow(dead_code))]
pub(crate) enum LpError {
    Infeasible,
    Unbounded,
    Late,
    Failed(String),
}

/// A solver of linear programs.
pub(crate) trait Backend {
    fn name(&self) -> &'static str;

    /// Solves; values are within their bounds.
    fn solve(&mut self, lp: &Lp, until: Instant) -> Result<LpAnswer, LpError>;
}

impl LpError {
    pub(crate) fn into_solve_error(self, solver: &'static str, late: SolveError) -> SolveError {
        match self {
            Self::Infeasible => {
                SolveError::Infeasible { reason: "the linear program has no solution".into() }
            }
            Self::Unbounded => SolveError::Unbounded,
            Self::Late => late,
            Self::Failed(reason) => SolveError::Failed { solver, reason },
        }
    }
}

/// Duals of a solution that came without: the `y` that violates complementary slackness least.
///
/// A value between its bounds needs a reduced cost of zero, one at zero at least zero, one at its upper bound
/// at most zero; rows with room have dual zero. The greatest violation is minimised, which is zero up to
/// rounding when the solution is optimal.
pub(crate) fn duals_of(
    lp: &Lp,
    values: &[f64],
    backend: &mut dyn Backend,
    until: Instant,
) -> Result<Vec<f64>, LpError> {
    const NEAR: f64 = 1e-8;
    let mut columns: Vec<Vec<(usize, f64)>> = vec![Vec::new(); lp.cost.len()];
    let mut dual_lp = Lp::default();
    let violation = dual_lp.add_column(1.0, f64::INFINITY);
    // y = rises − falls; only equality rows may rise.
    let mut halves: Vec<(Option<usize>, Option<usize>)> = Vec::with_capacity(lp.rows.len());
    for (ix, row) in lp.rows.iter().enumerate() {
        let used: f64 = row.terms.iter().map(|(c, a)| a * values[*c]).sum();
        let tight = row.equal || used >= row.limit - NEAR * (1.0 + row.limit.abs());
        let rises = row.equal.then(|| dual_lp.add_column(0.0, f64::INFINITY));
        let falls = tight.then(|| dual_lp.add_column(0.0, f64::INFINITY));
        halves.push((rises, falls));
        if tight {
            for &(column, a) in &row.terms {
                columns[column].push((ix, a));
            }
        }
    }
    for (column, terms) in columns.iter().enumerate() {
        // Σ a y, signed.
        let expression = |sign: f64| -> Vec<(usize, f64)> {
            let mut out = vec![(violation, -1.0)];
            for &(row, a) in terms {
                if let Some(rises) = halves[row].0 {
                    out.push((rises, sign * a));
                }
                if let Some(falls) = halves[row].1 {
                    out.push((falls, -sign * a));
                }
            }
            out
        };
        let cost = lp.cost[column];
        let x = values[column];
        if x < lp.upper[column] - NEAR {
            // cost − Σ a y ≥ −violation
            dual_lp.add_row(false, cost, expression(1.0));
        }
        if x > NEAR {
            dual_lp.add_row(false, -cost, expression(-1.0));
        }
    }
    let answer = backend.solve(&dual_lp, until)?;
    Ok(halves
        .into_iter()
        .map(|(rises, falls)| {
            rises.map_or(0.0, |c| answer.values[c]) - falls.map_or(0.0, |c| answer.values[c])
        })
        .collect())
}
