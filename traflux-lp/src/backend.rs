//! Which solvers of linear programs are compiled in?
//!
//! All of them through good_lp. Clarabel and HiGHS give duals; microlp gives none, and
//! [`crate::lp::duals_of`] makes up for it.

use crate::lp::Backend;

/// Names of the back ends that are compiled in, the preferred first.
pub(crate) const NAMES: &[&str] = &[
    #[cfg(feature = "highs")]
    "highs",
    #[cfg(feature = "microlp")]
    "microlp",
    #[cfg(feature = "clarabel")]
    "clarabel",
];

/// A back end by name.
pub(crate) fn by_name(name: &str) -> Option<Box<dyn Backend + Send>> {
    match name {
        #[cfg(feature = "microlp")]
        "microlp" => Some(Box::new(with_good_lp::MicroLp)),
        #[cfg(feature = "clarabel")]
        "clarabel" => Some(Box::new(with_good_lp::Clarabel)),
        #[cfg(feature = "highs")]
        "highs" => Some(Box::new(with_good_lp::Highs)),
        _ => None,
    }
}

#[cfg(any(feature = "microlp", feature = "clarabel", feature = "highs"))]
mod with_good_lp {
    use std::time::Instant;

    use good_lp::constraint::ConstraintReference;
    use good_lp::variable::UnsolvedProblem;
    use good_lp::{Expression, ProblemVariables, ResolutionError, Solution, SolverModel, Variable, variable};

    use crate::lp::{Backend, Lp, LpAnswer, LpError};

    /// How far a row of a scaled program may be missed, relative.
    const GREATEST_RESIDUAL: f64 = 1e-6;

    /// A linear program as good_lp has it.
    pub(crate) struct Model {
        variables: Vec<Variable>,
        problem: UnsolvedProblem,
    }

    impl Model {
        pub(crate) fn new(lp: &Lp) -> Self {
            let mut all = ProblemVariables::new();
            let variables: Vec<Variable> =
                lp.upper.iter().map(|upper| all.add(variable().min(0.0).max(*upper))).collect();
            let mut objective = Expression::with_capacity(variables.len());
            for (variable, cost) in variables.iter().zip(&lp.cost) {
                if *cost != 0.0 {
                    objective.add_mul(*cost, *variable);
                }
            }
            Self { problem: all.minimise(objective), variables }
        }

        /// Adds the rows to a solver's model.
        fn constrain<M: SolverModel>(
            variables: &[Variable],
            model: &mut M,
            lp: &Lp,
        ) -> Vec<ConstraintReference> {
            lp.rows
                .iter()
                .map(|row| {
                    let mut left = Expression::with_capacity(row.terms.len());
                    for (column, a) in &row.terms {
                        left.add_mul(*a, variables[*column]);
                    }
                    let constraint = if row.equal { left.eq(row.limit) } else { left.leq(row.limit) };
                    model.add_constraint(constraint)
                })
                .collect()
        }
    }

    fn values(variables: &[Variable], lp: &Lp, solution: &impl Solution) -> Result<Vec<f64>, LpError> {
        let values: Vec<f64> = variables
            .iter()
            .zip(&lp.upper)
            .map(|(variable, upper)| solution.value(*variable).clamp(0.0, *upper))
            .collect();
        // Some back ends pass on where they stopped as a solution.
        for (ix, row) in lp.rows.iter().enumerate() {
            let sum: f64 = row.terms.iter().map(|(column, a)| a * values[*column]).sum();
            let excess = if row.equal { (sum - row.limit).abs() } else { sum - row.limit };
            if excess.is_nan() || excess > GREATEST_RESIDUAL * (1.0 + row.limit.abs()) {
                return Err(LpError::Failed(format!("row {ix} is missed by {excess:e}")));
            }
        }
        Ok(values)
    }

    fn translate(error: ResolutionError, until: Instant) -> LpError {
        match error {
            ResolutionError::Infeasible => LpError::Infeasible,
            ResolutionError::Unbounded => LpError::Unbounded,
            _ if Instant::now() >= until => LpError::Late,
            other => LpError::Failed(other.to_string()),
        }
    }

    fn seconds_left(until: Instant) -> Result<f64, LpError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(LpError::Late) } else { Ok(left.as_secs_f64()) }
    }

    #[cfg(feature = "microlp")]
    pub(crate) struct MicroLp;

    #[cfg(feature = "microlp")]
    impl Backend for MicroLp {
        fn name(&self) -> &'static str {
            "microlp"
        }

        fn solve(&mut self, lp: &Lp, until: Instant) -> Result<LpAnswer, LpError> {
            use good_lp::WithTimeLimit;
            let Model { variables, problem } = Model::new(lp);
            let mut model = good_lp::solvers::microlp::microlp(problem).with_time_limit(seconds_left(until)?);
            Model::constrain(&variables, &mut model, lp);
            let solution = model.solve().map_err(|e| translate(e, until))?;
            if matches!(solution.status(), good_lp::solvers::SolutionStatus::TimeLimit) {
                return Err(LpError::Late);
            }
            Ok(LpAnswer { values: values(&variables, lp, &solution)?, duals: None })
        }
    }

    #[cfg(feature = "clarabel")]
    pub(crate) struct Clarabel;

    #[cfg(feature = "clarabel")]
    impl Backend for Clarabel {
        fn name(&self) -> &'static str {
            "clarabel"
        }

        fn solve(&mut self, lp: &Lp, until: Instant) -> Result<LpAnswer, LpError> {
            use good_lp::{DualValues, SolutionWithDual};
            let Model { variables, problem } = Model::new(lp);
            let mut model = good_lp::solvers::clarabel::clarabel(problem);
            model
                .settings()
                .time_limit(seconds_left(until)?)
                .tol_gap_abs(1e-10)
                .tol_gap_rel(1e-10)
                .tol_feas(1e-10);
            let rows = Model::constrain(&variables, &mut model, lp);
            let mut solution = model.solve().map_err(|e| translate(e, until))?;
            let values = values(&variables, lp, &solution)?;
            let duals = solution.compute_dual();
            Ok(LpAnswer { values, duals: Some(rows.into_iter().map(|r| duals.dual(r)).collect()) })
        }
    }

    #[cfg(feature = "highs")]
    pub(crate) struct Highs;

    #[cfg(feature = "highs")]
    impl Backend for Highs {
        fn name(&self) -> &'static str {
            "highs"
        }

        fn solve(&mut self, lp: &Lp, until: Instant) -> Result<LpAnswer, LpError> {
            use good_lp::{DualValues, SolutionWithDual, WithTimeLimit};
            let Model { variables, problem } = Model::new(lp);
            // One thread: the answer must not depend on a race.
            let mut model =
                good_lp::solvers::highs::highs(problem).with_time_limit(seconds_left(until)?).set_threads(1);
            let rows = Model::constrain(&variables, &mut model, lp);
            let mut solution = model.solve().map_err(|e| translate(e, until))?;
            if matches!(solution.status(), good_lp::solvers::SolutionStatus::TimeLimit) {
                return Err(LpError::Late);
            }
            let values = values(&variables, lp, &solution)?;
            let duals = solution.compute_dual();
            Ok(LpAnswer { values, duals: Some(rows.into_iter().map(|r| duals.dual(r)).collect()) })
        }
    }
}
