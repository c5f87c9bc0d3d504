//! Which paths does a set of paths lack?

use std::time::Instant;

use traflux_core::LinkIx;

use super::super::{FlowError, FlowProblem, FlowSolution};
use super::{Bound, Choice, Ended, MinMaxSolver, check_listed};

/// How many columns a growing set of paths gets per round, at least and as a part of all commodities: the fewer,
/// the fewer that turn out to be of no use.
const GROWTH: usize = 8;
const GROWTH_PART: usize = 256;

/// Which paths [`MinMaxSolver::solve_growing`] adds.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Growth<'a> {
    /// The utilisation that is good enough.
    pub(in super::super) goal: f64,
    /// No commodity gets more paths than this in all.
    pub(in super::super) most_paths: usize,
    /// By commodity the paths to choose from, all there are where `None`.
    pub(in super::super) among: Option<&'a [Vec<Vec<LinkIx>>]>,
}

impl Growth<'_> {
    fn most_added(&self, sets: usize) -> usize {
        GROWTH.max(sets / GROWTH_PART)
    }
}

impl MinMaxSolver {
    /// Flows over `known` paths, to which others are added, the best first and a few at a time, until the
    /// utilisation is good enough or no path helps. The bound is over all paths there are, but where those that may
    /// be added are listed.
    pub(in super::super) fn solve_growing(
        &mut self,
        problem: &FlowProblem<'_>,
        known: &[Vec<Vec<LinkIx>>],
        growth: &Growth<'_>,
        deadline: Option<Instant>,
    ) -> Result<FlowSolution, FlowError> {
        self.generation.check(problem)?;
        check_listed(problem, known)?;
        self.background.clear();
        self.background.extend(problem.background.iter().map(|load| load / self.generation.unit));
        self.generation.master.pivots = 0;
        self.start_cold(problem, Choice { base: None, listed: Some(known) }, deadline)?;
        let mut bound = Bound::default();
        let ended = loop {
            let ended = self.minimize(&mut Bound::default(), deadline);
            let columns = self.generation.master.columns.count();
            if ended != Ended::Done || self.theta() <= growth.goal {
                break ended;
            }
            if let Some(among) = growth.among {
                self.generation.add_best_of(problem, among, growth.most_added(self.generation.sets()));
            } else {
                self.generation.listed = false;
                self.generation.most_found = growth.most_added(self.generation.sets());
                self.generation.most_paths = growth.most_paths;
                let round = self.round(&mut bound, deadline);
                self.generation.listed = true;
                self.generation.most_found = 0;
                self.generation.most_paths = usize::MAX;
                if round.is_none() {
                    break Ended::Late;
                }
            }
            if self.generation.master.columns.count() == columns {
                break Ended::Done;
            }
        };
        Ok(self.solution(problem, &bound, ended))
    }
}
