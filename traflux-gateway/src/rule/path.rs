//! Which rules may hold for a path?
//!
//! Exact paths and paths with what lies below them are sorted into one list, each with the set of all rules that
//! hold there. The last of the list that is not behind a path is the path itself, or begins with whatever covers
//! the path, so the longest that covers it is among its prefixes, which are chained. Prefixes of characters and
//! regular expressions cannot be sorted so: rules with those are members of every set and judged one by one
//! afterwards. A look-up takes O(log n) comparisons and no memory of its own.

use std::collections::BTreeMap;

use traflux_core::plan::matching::PathMatch;

use super::bits::BitRows;

/// Stands for no leaf.
const NONE: u32 = u32::MAX;

/// Sets of rules by path.
#[derive(Clone)]
pub(crate) struct PathIndex {
    /// In the order of their texts.
    leaves: Vec<Leaf>,
    sets: BitRows,
    /// The set for a path that no leaf covers.
    elsewhere: usize,
}

/// A text at which the set of rules changes.
#[derive(Debug, Clone)]
struct Leaf {
    text: Box<str>,
    /// The set for the path that is this text.
    at: usize,
    /// The set for paths that are longer and begin with this text, which then ends in a slash.
    below: Option<usize>,
    /// The longest other leaf with a set for paths below that this text begins with.
    parent: u32,
}

impl PathIndex {
    pub(crate) fn new(paths: &[Option<&PathMatch>]) -> Self {
        let mut sets = BitRows::new(paths.len());
        let everywhere = |path: Option<&PathMatch>| {
            matches!(path, None | Some(PathMatch::Prefix(_) | PathMatch::Regex(_)))
        };
        let elsewhere = sets.push((0..paths.len()).filter(|ix| everywhere(paths[*ix])));
        // Every text at which the set of rules changes, and whether it also changes for all below.
        let mut texts: BTreeMap<String, bool> = BTreeMap::new();
        for path in paths.iter().flatten() {
            match path {
                PathMatch::Exact(path) => {
                    texts.entry(path.clone()).or_insert(false);
                }
                PathMatch::Below(path) => {
                    let base = path.strip_suffix('/').unwrap_or(path);
                    texts.entry(base.to_owned()).or_insert(false);
                    texts.insert(format!("{base}/"), true);
                }
                PathMatch::Prefix(_) | PathMatch::Regex(_) => {}
            }
        }
        let longest = paths.iter().flatten().map(|path| match path {
            PathMatch::Below(path) | PathMatch::Exact(path) => path.len(),
            PathMatch::Prefix(_) | PathMatch::Regex(_) => 0,
        });
        let rest = "x".repeat(longest.max().unwrap_or(0) + 1);
        let mut set_at = |probe: &str| {
            sets.push((0..paths.len()).filter(|ix| {
                everywhere(paths[*ix]) || paths[*ix].is_some_and(|p| p.holds(probe) == Some(true))
            }))
        };
        let mut leaves: Vec<Leaf> = Vec::with_capacity(texts.len());
        // Leaves with something below that the last text begins with, the longest last.
        let mut covering: Vec<u32> = Vec::new();
        for (text, below) in texts {
            while covering.pop_if(|ix| !text.starts_with(&*leaves[*ix as usize].text)).is_some() {}
            let parent = covering.last().copied().unwrap_or(NONE);
            if below {
                covering.push(leaves.len() as u32);
            }
            // What is probed is a path below that no exact rule can name, because it is longer than any.
            let below = below.then(|| set_at(&format!("{text}{rest}")));
            leaves.push(Leaf { at: set_at(&text), below, parent, text: text.into() });
        }
        Self { leaves, sets, elsewhere }
    }

    /// Rules that may hold for a path, and for certain when they have an exact path or one with what lies below.
    pub(crate) fn candidates(&self, path: &str) -> &[u64] {
        self.sets.row(self.set(path).unwrap_or(self.elsewhere))
    }

    fn set(&self, path: &str) -> Option<usize> {
        let behind = self.leaves.partition_point(|leaf| *leaf.text <= *path);
        let mut leaf = self.leaves.get(behind.checked_sub(1)?)?;
        if *leaf.text == *path {
            return Some(leaf.at);
        }
        loop {
            match leaf.below {
                Some(below) if path.starts_with(&*leaf.text) => return Some(below),
                _ => leaf = self.leaves.get(leaf.parent as usize)?,
            }
        }
    }
}

impl std::fmt::Debug for PathIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathIndex").field("sets", &self.sets).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_a_path_is_that_of_the_rules_that_hold_there() {
        let texts =
            ["", "/", "/v1", "/v1/", "/v1/chat", "/v1/chat/x", "/v1-old", "/v10", "/v2", "/é", "/v1/~"];
        let probes =
            ["", "/", "//", "/v", "/v1", "/v1/", "/v1//", "/v1/c", "/v1/chat", "/v1/chat/", "/v1/chat/x"];
        let more = [
            "/v1/chat/x/y",
            "/v1-old",
            "/v1-old/a",
            "/v1.5/a",
            "/v10/a",
            "/v2",
            "/v2/a",
            "/v3",
            "/é/a",
            "v1",
        ];
        // Each text alone, then all below, then each of both kinds together with all others.
        let below = texts.map(|text| PathMatch::Below(text.to_owned()));
        let exact = texts.map(|text| PathMatch::Exact(text.to_owned()));
        let all: Vec<&PathMatch> = below.iter().chain(&exact).collect();
        let mut lists: Vec<Vec<&PathMatch>> = all.iter().map(|path| vec![*path]).collect();
        lists.extend([all.clone(), below.iter().collect(), exact.iter().collect(), all[3..17].to_vec()]);
        for list in lists {
            let index = PathIndex::new(&list.iter().map(|path| Some(*path)).collect::<Vec<_>>());
            for probe in probes.iter().chain(&more) {
                let row = index.candidates(probe);
                for (ix, path) in list.iter().enumerate() {
                    let found = row[ix / 64] >> (ix % 64) & 1 == 1;
                    assert_eq!(found, path.holds(probe) == Some(true), "{path:?} at {probe:?} of {list:?}");
                }
            }
        }
    }
}
