//! Which rules hold for a request, found without looking at all of them?
//!
//! Each condition on an exact text (method, tier, tenant, model, a header) splits the rules by that text. For
//! every text there is a row of bits: the rules that ask for it and those that ask for nothing. A request's
//! candidates are the intersection of its rows; what rows cannot tell (ranges, prefixes, expressions) is judged
//! for the few that remain. Where the path alone leaves few, they are judged at once. What the path or a row has decided
//! is not judged again.

use std::collections::BTreeMap;

use arrayvec::ArrayVec;
use rustc_hash::FxHashMap;
use traflux_core::plan::matching::MatchPlan;

use super::bits::BitRows;
use super::condition::{Condition, Mismatch, Subject};
use super::path::PathIndex;
use crate::error::GatewayError;
use crate::request::Request;

/// The most subjects whose rows are intersected, the most selective first.
const MAX_DIMENSIONS: usize = 8;

/// Conditions compiled together; positions are those of the plans given.
#[derive(Debug, Clone)]
pub struct Matcher {
    conditions: Vec<Vec<Condition>>,
    /// What is left to judge of each.
    left: Vec<Left>,
    /// Whether each holds for every request.
    is_free: bool,
    paths: PathIndex,
    dimensions: Vec<Dimension>,
}

/// Conditions that an index does not decide.
#[derive(Debug, Clone)]
struct Left {
    /// That of paths.
    by_path: Vec<Condition>,
    /// Neither that nor rows.
    by_rows: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Dimension {
    subject: Subject,
    /// [Shapes](shape) of all texts that are asked for.
    shapes: u64,
    by_text: FxHashMap<Box<str>, usize>,
    sets: BitRows,
    /// Those that ask for nothing here.
    otherwise: usize,
}

impl Matcher {
    /// Compiles plans in the order in which they are tried.
    ///
    /// # Errors
    /// [`GatewayError::Pattern`] for a regular expression that does not compile.
    pub fn new<'a>(plans: impl IntoIterator<Item = &'a MatchPlan>) -> Result<Self, GatewayError> {
        let plans: Vec<_> = plans.into_iter().collect();
        let conditions = plans.iter().map(|plan| Condition::all_of(plan)).collect::<Result<Vec<_>, _>>()?;
        let paths: Vec<_> = plans.iter().map(|plan| plan.path.as_ref()).collect();
        let dimensions = dimensions(&conditions);
        let left = |list: &Vec<Condition>| {
            let by_path: Vec<_> = list.iter().filter(|c| !c.is_decided_by_path()).cloned().collect();
            let in_rows = |condition: &&Condition| {
                let subject = condition.exact_texts().map(|(subject, _)| subject);
                subject.is_some_and(|subject| dimensions.iter().any(|d| d.subject == *subject))
            };
            let by_rows = by_path.iter().filter(|condition| !in_rows(condition)).cloned().collect();
            Left { by_path, by_rows }
        };
        let left = conditions.iter().map(left).collect();
        let is_free = conditions.iter().all(Vec::is_empty);
        Ok(Self { conditions, left, is_free, dimensions, paths: PathIndex::new(&paths) })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The first that holds.
    #[must_use]
    pub fn first(&self, request: &Request<'_>) -> Option<usize> {
        let mut found = None;
        self.visit(request, |ix| {
            found = Some(ix);
            false
        });
        found
    }

    /// Calls `visit` with each that holds, in order.
    pub fn each(&self, request: &Request<'_>, mut visit: impl FnMut(usize)) {
        self.visit(request, |ix| {
            visit(ix);
            true
        });
    }

    /// Whether one holds.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn holds(&self, ix: usize, request: &Request<'_>) -> bool {
        self.conditions[ix].iter().all(|condition| condition.holds(request))
    }

    /// The first condition of one that does not hold; `None` when it holds.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn mismatch(&self, ix: usize, request: &Request<'_>) -> Option<Mismatch> {
        self.conditions[ix].iter().find_map(|condition| condition.mismatch(request))
    }

    fn visit(&self, request: &Request<'_>, mut go_on: impl FnMut(usize) -> bool) {
        if self.is_free {
            // Limits mostly are.
            (0..self.conditions.len()).all(go_on);
            return;
        }
        // Rows are intersected only where the path leaves many.
        let (by_path, by_rows) = self.paths.candidates(request.path);
        if let [word] = by_path {
            let rows = if by_rows { &self.dimensions[..] } else { &[] };
            let word = rows
                .iter()
                .fold(*word, |word, dimension| word & dimension.sets.first_word(dimension.row(request)));
            self.judge(word, 0, by_rows, request, &mut go_on);
            return;
        }
        let mut rows: ArrayVec<&[u64], MAX_DIMENSIONS> = ArrayVec::new();
        if by_rows {
            rows.extend(self.dimensions.iter().map(|dimension| dimension.sets.row(dimension.row(request))));
        }
        for (at, word) in by_path.iter().enumerate() {
            let word = rows.iter().fold(*word, |word, row| word & row[at]);
            if !self.judge(word, at * 64, by_rows, request, &mut go_on) {
                return;
            }
        }
    }

    /// Judges what is left of candidates, numbered from `base`; false when `go_on` was.
    #[inline]
    fn judge(
        &self,
        mut word: u64,
        base: usize,
        by_rows: bool,
        request: &Request<'_>,
        go_on: &mut impl FnMut(usize) -> bool,
    ) -> bool {
        while word != 0 {
            let ix = base + word.trailing_zeros() as usize;
            word &= word - 1;
            let left = &self.left[ix];
            let left = if by_rows { &left.by_rows } else { &left.by_path };
            if left.iter().all(|condition| condition.holds(request)) && !go_on(ix) {
                return false;
            }
        }
        true
    }
}

impl Dimension {
    fn new(asked: &Asked<'_>, rules: usize) -> Self {
        let mut asking = vec![false; rules];
        let mut by_text: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (ix, text) in &asked.pairs {
            asking[*ix] = true;
            by_text.entry(text).or_default().push(*ix);
        }
        let free: Vec<usize> = (0..rules).filter(|ix| !asking[*ix]).collect();
        let mut sets = BitRows::new(rules);
        let otherwise = sets.push(free.iter().copied());
        let by_text = by_text
            .into_iter()
            .map(|(text, rules)| (text.into(), sets.push(free.iter().copied().chain(rules))))
            .collect();
        let shapes = asked.pairs.iter().fold(0, |shapes, (_, text)| shapes | shape(text));
        Self { subject: asked.subject.clone(), shapes, by_text, sets, otherwise }
    }

    /// The row of a request.
    #[inline]
    fn row(&self, request: &Request<'_>) -> usize {
        let text = self.subject.text(request).filter(|text| self.shapes & shape(text) != 0);
        text.and_then(|text| self.by_text.get(text)).copied().unwrap_or(self.otherwise)
    }
}

/// One of 64 bits by length, first and last byte: of most texts that are not asked for it tells so without a hash.
#[inline]
fn shape(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last()).map_or(0, |(a, b)| usize::from(*a) * 5 + usize::from(*b));
    1 << ((ends + bytes.len() * 11) % 64)
}

/// What the rules ask about one subject.
struct Asked<'a> {
    subject: &'a Subject,
    /// Rule and one of the texts that it takes.
    pairs: Vec<(usize, &'a str)>,
}

/// One dimension for each subject on which exact texts are asked for, those that most rules ask about first.
fn dimensions(conditions: &[Vec<Condition>]) -> Vec<Dimension> {
    let mut asked: Vec<Asked<'_>> = Vec::new();
    for (ix, list) in conditions.iter().enumerate() {
        for (subject, texts) in list.iter().filter_map(Condition::exact_texts) {
            let pairs = texts.into_iter().map(|text| (ix, text));
            match asked.iter_mut().find(|a| a.subject == subject) {
                Some(asked) => asked.pairs.extend(pairs),
                None => asked.push(Asked { subject, pairs: pairs.collect() }),
            }
        }
    }
    asked.sort_by_key(|a| std::cmp::Reverse(a.pairs.len()));
    asked.truncate(MAX_DIMENSIONS);
    asked.iter().map(|asked| Dimension::new(asked, conditions.len())).collect()
}
