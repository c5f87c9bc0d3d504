//! Which rules may hold for a path?
//!
//! Exact paths and paths with what lies below them go into one radix tree, whose leaf names the set of all
//! rules that hold there. Prefixes of characters and regular expressions cannot: rules with those are members of
//! every set and judged one by one afterwards.

use std::collections::BTreeMap;

use traflux_core::plan::matching::PathMatch;

use super::bits::BitRows;

/// Sets of rules by path.
#[derive(Clone)]
pub(crate) struct PathIndex {
    tree: matchit::Router<usize>,
    sets: BitRows,
    /// The set for a path that no leaf knows.
    elsewhere: usize,
}

impl PathIndex {
    pub(crate) fn new(paths: &[Option<&PathMatch>]) -> Self {
        let mut sets = BitRows::new(paths.len());
        let everywhere = |path: Option<&PathMatch>| {
            matches!(path, None | Some(PathMatch::Prefix(_) | PathMatch::Regex(_)))
        };
        let elsewhere = sets.push((0..paths.len()).filter(|ix| everywhere(paths[*ix])));
        // Every path at which the set of rules changes: the path itself and, apart from it, all below.
        let mut leaves: BTreeMap<String, bool> = BTreeMap::new();
        for path in paths.iter().flatten() {
            match path {
                PathMatch::Exact(path) => {
                    leaves.entry(path.clone()).or_insert(false);
                }
                PathMatch::Below(path) => {
                    let base = path.strip_suffix('/').unwrap_or(path);
                    leaves.insert(base.to_owned(), true);
                }
                PathMatch::Prefix(_) | PathMatch::Regex(_) => {}
            }
        }
        let holds_at = |probe: &str| {
            (0..paths.len())
                .filter(|ix| {
                    everywhere(paths[*ix]) || paths[*ix].is_some_and(|p| p.holds(probe) == Some(true))
                })
                .collect::<Vec<_>>()
        };
        // Longer than any path of a rule, so that only rules for all that lies below a leaf hold for it.
        let longest = paths.iter().flatten().map(|path| match path {
            PathMatch::Below(path) | PathMatch::Exact(path) => path.len(),
            PathMatch::Prefix(_) | PathMatch::Regex(_) => 0,
        });
        let rest = "x".repeat(longest.max().unwrap_or(0) + 1);
        let mut tree = matchit::Router::new();
        for (leaf, below) in &leaves {
            let literal = leaf.replace('{', "{{").replace('}', "}}");
            let mut insert = |pattern: String, probe: &str| {
                // A pattern that is there already has the same meaning, hence the same set.
                let set = sets.push(holds_at(probe));
                let _ = tree.insert(pattern, set);
            };
            if !leaf.is_empty() {
                insert(literal.clone(), leaf);
            }
            if *below {
                // `/v1/` and `/v1/{rest}`: the tree wants at least one character after the slash.
                insert(format!("{literal}/"), &format!("{leaf}/"));
                insert(format!("{literal}/{{*rest}}"), &format!("{leaf}/{rest}"));
            }
        }
        Self { tree, sets, elsewhere }
    }

    /// Rules that may hold for a path, and for certain when they have an exact path or one with what lies below.
    pub(crate) fn candidates(&self, path: &str) -> &[u64] {
        self.sets.row(self.tree.at(path).map_or(self.elsewhere, |found| *found.value))
    }
}

impl std::fmt::Debug for PathIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PathIndex").field("sets", &self.sets).finish_non_exhaustive()
    }
}
