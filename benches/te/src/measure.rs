//! How long does each side take, taking turns?

use std::collections::BTreeMap;
use std::time::Instant;

use traflux_lp::multicommodity::check::verify;
use traflux_lp::multicommodity::{FlowSolution, MinMaxSolver};

use crate::Outcome;
use crate::plain::{ALL_DIGITS, Method, Plain};
use crate::problems::Series;

/// How turns are taken: our side solves a block of consecutive problems, then each method the first of them.
pub(crate) struct Blocks<'a> {
    /// Problems of a block.
    pub length: usize,
    /// Those of them that the other side solves too.
    pub compared: usize,
    /// How often the whole sequence is gone through.
    pub passes: usize,
    /// The other side.
    pub methods: &'a [Method],
}

/// Seconds of each problem, by block.
pub(crate) type Times = Vec<Vec<f64>>;

/// Seconds of the other side.
#[derive(Default)]
pub(crate) struct Theirs {
    /// By the clock on the wall.
    pub wall: Times,
    /// Of CPU time: what a loaded machine adds to a long solve, but hardly ever to a short one, is not in it.
    pub cpu: Times,
}

/// What was measured on one series.
#[derive(Default)]
pub(crate) struct Measured {
    /// Ours with a new solver for each problem.
    pub cold: Times,
    /// Ours with one solver for all.
    pub kept: Times,
    /// The other side, problem by problem the first of each block.
    pub plain: BTreeMap<Method, Theirs>,
    /// Greatest relative difference of the utilisation from ours, by method.
    pub differences: BTreeMap<Method, f64>,
    /// Where utilisations differ by more than they may.
    pub disagreements: Vec<String>,
    /// Solutions of our side that were recomputed from their problem.
    pub checked: usize,
    /// Of our side, cold and kept, with the position of the problem.
    utilizations: Vec<(usize, f64)>,
}

impl Measured {
    /// The greatest relative difference from the optima.
    pub(crate) fn worst_difference(&self, optima: &[f64]) -> f64 {
        let differences =
            self.utilizations.iter().map(|(at, found)| (found - optima[*at]).abs() / optima[*at]);
        differences.fold(0.0, f64::max)
    }

    /// Takes a solution of our side, unless it is not what it says.
    fn take(&mut self, series: &Series, at: usize, found: &FlowSolution) -> Outcome<()> {
        verify(&series.problem(at)?, None, found).map_err(|error| {
            format!("{}, problem {at}: our solution fails its check: {error}", series.name)
        })?;
        self.checked += 1;
        self.utilizations.push((at, found.utilization));
        Ok(())
    }

    fn check(&mut self, method: Method, at: usize, found: f64, expected: f64, tolerance: f64) {
        let difference = (found - expected).abs() / expected;
        let greatest = self.differences.entry(method).or_default();
        *greatest = greatest.max(difference);
        // Not `>`: what is not a number differs.
        if !matches!(difference.partial_cmp(&tolerance), Some(o) if o.is_le()) {
            let name = method.name();
            let text = format!("problem {at}: {found} by {name}, {expected} here, limit {tolerance}");
            self.disagreements.push(text);
        }
    }
}

/// Seconds of both sides on the same problems of one block.
pub(crate) type Pair = (Vec<f64>, Vec<f64>);

/// The same problems of both sides, by block.
pub(crate) fn paired(ours: &Times, plain: &Times) -> Vec<Pair> {
    let blocks = ours.iter().zip(plain);
    blocks.map(|(ours, plain)| (ours[..plain.len()].to_vec(), plain.clone())).collect()
}

/// Solves a series.
pub(crate) fn run(
    series: &Series,
    position: usize,
    blocks: &Blocks<'_>,
    mut plain: Option<&mut Plain>,
) -> Outcome<Measured> {
    let mut measured = Measured::default();
    let mut kept = MinMaxSolver::new(series.network());
    // The first solve of a process pays for memory that is there ever after.
    MinMaxSolver::new(series.network()).solve(&series.problem(0)?, None)?;
    let starts: Vec<usize> = (0..series.len()).step_by(blocks.length).collect();
    let mut utilizations = vec![f64::NAN; series.len()];
    let last = series.len() - 1;
    utilizations[last] = kept.solve(&series.problem(last)?, None)?.utilization;
    for &start in starts.iter().cycle().take(starts.len() * blocks.passes) {
        let block: Vec<usize> = (start..(start + blocks.length).min(series.len())).collect();
        let (mut in_sequence, mut cold) = (Vec::new(), Vec::new());
        for &at in &block {
            let found = timed(&mut in_sequence, || {
                let problem = series.problem(at)?;
                Ok(kept.solve(&problem, None)?)
            })?;
            utilizations[at] = found.utilization;
            measured.take(series, at, &found)?;
        }
        for &at in &block {
            let found = timed(&mut cold, || {
                let problem = series.problem(at)?;
                Ok(MinMaxSolver::new(series.network()).solve(&problem, None)?)
            })?;
            measured.take(series, at, &found)?;
        }
        measured.kept.push(in_sequence);
        measured.cold.push(cold);
        let Some(plain) = plain.as_deref_mut() else { continue };
        let before = start.checked_sub(1).unwrap_or(last);
        let compared = &block[..blocks.compared.min(block.len())];
        for &method in blocks.methods {
            let answer = plain.solve(method, position, before, compared)?;
            measured.check(method, before, answer.before, utilizations[before], ALL_DIGITS);
            for (&at, found) in compared.iter().zip(answer.utilizations) {
                measured.check(method, at, found, utilizations[at], method.tolerance());
            }
            let theirs = measured.plain.entry(method).or_default();
            theirs.wall.push(answer.seconds);
            theirs.cpu.push(answer.cpu_seconds);
        }
    }
    Ok(measured)
}

fn timed(times: &mut Vec<f64>, solve: impl FnOnce() -> Outcome<FlowSolution>) -> Outcome<FlowSolution> {
    let started = Instant::now();
    let solution = solve()?;
    times.push(started.elapsed().as_secs_f64());
    Ok(solution)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_utilisation_that_differs_or_is_not_a_number_is_a_disagreement() {
        let mut measured = Measured::default();
        measured.check(Method::HighsByPair, 3, 0.5 + 4e-7, 0.5, ALL_DIGITS);
        assert_eq!(measured.disagreements, Vec::<String>::new());
        measured.check(Method::HighsByPair, 4, 0.5 - 6e-7, 0.5, ALL_DIGITS);
        measured.check(Method::HighsByPair, 5, f64::NAN, 0.5, ALL_DIGITS);
        assert_eq!(measured.disagreements.len(), 2);
        assert!(measured.disagreements[0].starts_with("problem 4: "), "{:?}", measured.disagreements);
    }

    #[test]
    fn a_solution_that_is_not_what_it_says_is_not_taken() {
        let series = &crate::problems::all(None, true).unwrap()[2];
        let mut measured = Measured::default();
        let good = MinMaxSolver::new(series.network()).solve(&series.problem(4).unwrap(), None).unwrap();
        measured.take(series, 4, &good).unwrap();
        let praised = FlowSolution { utilization: good.utilization * 0.999, ..good };
        let told = measured.take(series, 4, &praised).unwrap_err().to_string();
        assert!(told.contains("problem 4: our solution fails its check: utilisation is stated as"), "{told}");
        assert_eq!((measured.checked, measured.worst_difference(&[1.0; 5]) > 0.0), (1, true));
    }

    #[test]
    fn both_sides_are_compared_on_the_problems_that_both_solved() {
        let ours = vec![vec![1.0, 2.0, 3.0], vec![4.0, 5.0]];
        let plain = vec![vec![10.0, 20.0], vec![40.0, 50.0]];
        let expected = [(vec![1.0, 2.0], vec![10.0, 20.0]), (vec![4.0, 5.0], vec![40.0, 50.0])];
        assert_eq!(paired(&ours, &plain), expected);
    }
}
