//! How good is one choice for all times?

use traflux_core::{Action, GroupIx, Observation, Policy, PolicyError};

/// Always the same pairs, those of them that exist and may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FixedSet {
    pairs: Vec<GroupIx>,
}

impl FixedSet {
    /// Chooses these pairs, best first.
    #[must_use]
    pub fn new(pairs: Vec<GroupIx>) -> Self {
        Self { pairs }
    }

    /// The pairs.
    #[must_use]
    pub fn pairs(&self) -> &[GroupIx] {
        &self.pairs
    }

    /// Finds `count` pairs that do well on past traffic.
    ///
    /// It starts with the pairs that were chosen most often, by an oracle or a rule, in `history` (ties:
    /// lower position first). Then it goes through the set again and again and tries in the place of each
    /// pair the most frequent ones outside; an exchange that `score` likes better stays. It ends after a
    /// round without one, or when the evaluations are used up.
    ///
    /// `score` gives what a set is worth, greater is better, for instance the mean performance ratio over
    /// some matrices of the past. NaN is worse than everything.
    ///
    /// # Errors
    /// Whatever `score` fails with.
    pub fn from_history<E>(
        history: &[Vec<GroupIx>],
        count: usize,
        config: &SearchConfig,
        mut score: impl FnMut(&[GroupIx]) -> Result<f64, E>,
    ) -> Result<FixedSetSearch, E> {
        let ranked = by_frequency(history);
        let mut pairs: Vec<GroupIx> = ranked.iter().copied().take(count).collect();
        let mut best = score(&pairs)?;
        let start = best;
        let mut evaluations = 1;
        let mut improved = true;
        while std::mem::take(&mut improved) {
            for at in 0..pairs.len() {
                let outside = ranked.iter().copied().filter(|pair| !pairs.contains(pair));
                let candidates: Vec<GroupIx> = outside.take(config.candidates).collect();
                for candidate in candidates {
                    if evaluations >= config.evaluations {
                        let set = Self::new(pairs);
                        return Ok(FixedSetSearch { set, start, score: best, evaluations, finished: false });
                    }
                    let old = std::mem::replace(&mut pairs[at], candidate);
                    let value = score(&pairs)?;
                    evaluations += 1;
                    if value > best || (best.is_nan() && !value.is_nan()) {
                        best = value;
                        improved = true;
                    } else {
                        pairs[at] = old;
                    }
                }
            }
        }
        Ok(FixedSetSearch { set: Self::new(pairs), start, score: best, evaluations, finished: true })
    }
}

impl Policy for FixedSet {
    fn act(&mut self, observation: &Observation) -> Result<Action, PolicyError> {
        let open = |pair: &GroupIx| observation.mask.get(pair.ix()).copied().unwrap_or(false);
        Ok(Action::choose(self.pairs.iter().copied().filter(open).collect()))
    }
}

/// How long [`FixedSet::from_history`] searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchConfig {
    /// How many pairs outside the set are tried in the place of each inside.
    pub candidates: usize,
    /// The most calls of the score, at least 1.
    pub evaluations: usize,
}

impl Default for SearchConfig {
    fn default() -> Self {
        Self { candidates: 20, evaluations: 2000 }
    }
}

/// What [`FixedSet::from_history`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedSetSearch {
    /// The set.
    pub set: FixedSet,
    /// Score of the most frequent pairs, where the search began.
    pub start: f64,
    /// Score of the set.
    pub score: f64,
    /// How often the score was asked for.
    pub evaluations: usize,
    /// Whether no exchange among the candidates is better, rather than the evaluations used up.
    pub finished: bool,
}

/// Pairs by how often they were chosen; a pair named twice in one choice counts once.
fn by_frequency(history: &[Vec<GroupIx>]) -> Vec<GroupIx> {
    let mut all: Vec<GroupIx> = Vec::new();
    for choice in history {
        let mut choice = choice.clone();
        choice.sort_unstable();
        choice.dedup();
        all.extend(choice);
    }
    all.sort_unstable();
    let mut counted: Vec<(usize, GroupIx)> =
        all.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0])).collect();
    counted.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    counted.into_iter().map(|(_, pair)| pair).collect()
}
