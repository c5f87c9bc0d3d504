//! Which columns does the master problem know, and what do they put on which link?

use super::master::NONE;

/// Columns one after the other, flat; those of one set are chained.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    offsets: Vec<u32>,
    links: Vec<u32>,
    parts: Vec<f64>,
    sets: Vec<u32>,
    next: Vec<u32>,
    /// Objective per unit.
    pub(super) cost: Vec<f64>,
    /// Newest column of each set.
    first: Vec<u32>,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            offsets: vec![0],
            links: Vec::new(),
            parts: Vec::new(),
            sets: Vec::new(),
            next: Vec::new(),
            cost: Vec::new(),
            first: Vec::new(),
        }
    }
}

impl Columns {
    pub(super) fn clear(&mut self) {
        self.offsets.truncate(1);
        self.links.clear();
        self.parts.clear();
        self.sets.clear();
        self.next.clear();
        self.cost.clear();
        self.first.clear();
    }

    pub(super) fn count(&self) -> usize {
        self.sets.len()
    }

    pub(super) fn add_set(&mut self) {
        self.first.push(NONE);
    }

    /// Adds a column that puts `part` on each link per unit; `set` is [`NONE`] for one of no set.
    pub(super) fn add(&mut self, set: u32, cost: f64, entries: impl IntoIterator<Item = (u32, f64)>) -> u32 {
        let column = self.sets.len() as u32;
        for (link, part) in entries {
            self.links.push(link);
            self.parts.push(part);
        }
        self.offsets.push(self.links.len() as u32);
        self.sets.push(set);
        self.cost.push(cost);
        if set == NONE {
            self.next.push(NONE);
        } else {
            self.next.push(self.first[set as usize]);
            self.first[set as usize] = column;
        }
        column
    }

    pub(super) fn set(&self, column: u32) -> u32 {
        self.sets[column as usize]
    }

    pub(super) fn links(&self, column: u32) -> &[u32] {
        &self.links[self.range(column)]
    }

    /// Its links with what one unit puts on each.
    #[inline]
    pub(super) fn entries(&self, column: u32) -> impl Iterator<Item = (usize, f64)> + '_ {
        let range = self.range(column);
        let entries = self.links[range.clone()].iter().zip(&self.parts[range]);
        entries.map(|(link, part)| (*link as usize, *part))
    }

    /// Changes what one unit of a column puts on the last of its links.
    pub(super) fn set_last_part(&mut self, column: u32, part: f64) {
        let end = self.range(column).end;
        self.parts[end - 1] = part;
    }

    /// The columns of a set, newest first.
    pub(super) fn of_set(&self, set: usize) -> impl Iterator<Item = u32> + '_ {
        let known = |column: u32| (column != NONE).then_some(column);
        std::iter::successors(known(self.newest(set)), move |column| known(self.older(*column)))
    }

    /// The newest column of a set, or [`NONE`].
    pub(super) fn newest(&self, set: usize) -> u32 {
        self.first[set]
    }

    /// The column of the same set before this, or [`NONE`].
    pub(super) fn older(&self, column: u32) -> u32 {
        self.next[column as usize]
    }

    /// The sum of `values` over its links.
    #[inline]
    pub(super) fn dot(&self, column: u32, values: &[f64]) -> f64 {
        let range = self.range(column);
        let (links, parts) = (&self.links[range.clone()], &self.parts[range]);
        let mut sum = 0.0;
        for at in 0..links.len() {
            sum += parts[at] * values[links[at] as usize];
        }
        sum
    }

    #[inline]
    fn range(&self, column: u32) -> std::ops::Range<usize> {
        self.offsets[column as usize] as usize..self.offsets[column as usize + 1] as usize
    }
}
