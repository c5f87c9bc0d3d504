//! Which rules may hold for a path?
//!
//! Exact paths and paths with what lies below them stand in one tree of their common beginnings (a radix tree: D. R.
//! Morrison, "PATRICIA", JACM 15, 1968), each with the set of all rules that hold there. A walk down the tree ends at the
//! path itself or passes all that cover it, the longest last. Prefixes of characters and regular expressions cannot be
//! sorted so: rules with those are members of every set and judged one by one afterwards. A look-up reads each byte of
//! the path about once, eight at a time, and takes no memory of its own.

use std::collections::BTreeMap;

use traflux_core::plan::matching::PathMatch;

use super::bits::BitRows;

/// More rules than these are worth a look at what else they ask for.
const FEW: u32 = 8;

/// Sets of rules by path.
#[derive(Clone)]
pub(crate) struct PathIndex {
    root: Node,
    sets: BitRows,
    /// Whether a set has more than [`FEW`] rules.
    is_large: Vec<bool>,
    /// The set for a path that nothing covers.
    elsewhere: usize,
}

/// What some texts have in common after their parent's part.
#[derive(Debug, Clone, Default)]
struct Node {
    part: Box<[u8]>,
    /// The part's first bytes, compared at once, and which of them there are.
    head: u64,
    mask: u64,
    /// The set for the path that ends here.
    at: Option<usize>,
    /// The set for longer paths, where the text so far ends in a slash that covers them.
    below: Option<usize>,
    /// Parts of these begin with different bytes.
    children: Vec<Node>,
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
        let mut root = Node::default();
        for (text, below) in texts {
            // What is probed is a path below that no exact rule can name, because it is longer than any.
            let below = below.then(|| set_at(&format!("{text}{rest}")));
            let at = set_at(&text);
            let node = root.node(text.as_bytes());
            (node.at, node.below) = (Some(at), below);
        }
        let is_large = sets.rows().map(|row| row.iter().map(|word| word.count_ones()).sum::<u32>() > FEW);
        Self { root, is_large: is_large.collect(), sets, elsewhere }
    }

    /// Rules that may hold for a path, and for certain when they have an exact path or one with what lies below; and
    /// whether they are more than [`FEW`].
    #[inline]
    pub(crate) fn candidates(&self, path: &str) -> (&[u64], bool) {
        let set = self.set(path).unwrap_or(self.elsewhere);
        (self.sets.row(set), self.is_large[set])
    }

    fn set(&self, path: &str) -> Option<usize> {
        let (mut node, mut rest, mut covered) = (&self.root, path.as_bytes(), None);
        loop {
            let Some(first) = rest.first() else { return node.at.or(covered) };
            covered = node.below.or(covered);
            let Some(child) = node.children.iter().find(|child| child.head as u8 == *first) else {
                return covered;
            };
            let Some(after) = child.follow(rest) else { return covered };
            (node, rest) = (child, after);
        }
    }
}

/// The first eight bytes as a number, the first lowest; zeros where there are fewer.
#[inline]
fn head(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(eight) => u64::from_le_bytes(*eight),
        None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

impl Node {
    fn of(part: &[u8]) -> Self {
        let mask = u64::MAX >> (64 - 8 * part.len().min(8));
        Self { part: part.into(), head: head(part), mask, ..Self::default() }
    }

    /// What follows this part in a text that begins with it.
    #[inline]
    fn follow<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        if head(text) & self.mask != self.head {
            return None;
        }
        let (part, rest) = text.split_at_checked(self.part.len())?;
        (part.len() <= 8 || part[8..] == self.part[8..]).then_some(rest)
    }

    /// The node of a text, a new one if there is none yet.
    fn node(&mut self, text: &[u8]) -> &mut Self {
        let Some(first) = text.first() else { return self };
        let Some(ix) = self.children.iter().position(|child| child.part[0] == *first) else {
            self.children.push(Self::of(text));
            let last = self.children.len() - 1;
            return &mut self.children[last];
        };
        let child = &mut self.children[ix];
        let common = child.part.iter().zip(text).take_while(|(a, b)| a == b).count();
        if common < child.part.len() {
            let old = std::mem::take(child);
            let (part, rest) = old.part.split_at(common);
            let below = Self { at: old.at, below: old.below, children: old.children, ..Self::of(rest) };
            *child = Self { children: vec![below], ..Self::of(part) };
        }
        child.node(&text[common..])
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
                let (row, is_large) = index.candidates(probe);
                assert_eq!(is_large, row.iter().map(|word| word.count_ones()).sum::<u32>() > FEW);
                for (ix, path) in list.iter().enumerate() {
                    let found = row[ix / 64] >> (ix % 64) & 1 == 1;
                    assert_eq!(found, path.holds(probe) == Some(true), "{path:?} at {probe:?} of {list:?}");
                }
            }
        }
    }
}
