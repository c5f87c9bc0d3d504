//! Which paths does each commodity take?

use traflux_core::{LinkIx, PathShare};

/// Paths of many commodities with their shares, flat: a large network has millions of links on its paths.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowPaths {
    /// By commodity, and one more: where its paths start.
    commodities: Vec<u32>,
    /// By path, and one more: where its links start.
    paths: Vec<usize>,
    shares: Vec<f64>,
    links: Vec<LinkIx>,
}

impl Default for FlowPaths {
    fn default() -> Self {
        Self { commodities: vec![0], paths: vec![0], shares: Vec::new(), links: Vec::new() }
    }
}

impl FlowPaths {
    /// How many commodities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commodities.len() - 1
    }

    /// Whether there is no commodity.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many paths all commodities have together.
    #[must_use]
    pub fn path_count(&self) -> usize {
        self.shares.len()
    }

    /// The paths of a commodity: fraction of its demand and links from source to target. Fractions are positive
    /// and sum to 1.
    ///
    /// # Panics
    /// When there is no such commodity.
    pub fn of(&self, commodity: usize) -> impl Iterator<Item = (f64, &[LinkIx])> + '_ {
        let range = self.commodities[commodity] as usize..self.commodities[commodity + 1] as usize;
        range.map(|path| (self.shares[path], &self.links[self.paths[path]..self.paths[path + 1]]))
    }

    /// The paths of a commodity, copied.
    ///
    /// # Panics
    /// When there is no such commodity.
    #[must_use]
    pub fn shares(&self, commodity: usize) -> Vec<PathShare> {
        self.of(commodity).map(|(share, links)| PathShare { links: links.to_vec(), share }).collect()
    }

    /// Adds a path to the commodity that is being listed.
    pub(crate) fn push_path(&mut self, share: f64, links: impl IntoIterator<Item = LinkIx>) {
        self.links.extend(links);
        self.shares.push(share);
        self.paths.push(self.links.len());
    }

    /// Ends the list of a commodity.
    pub(crate) fn end_commodity(&mut self) {
        self.commodities.push(self.shares.len() as u32);
    }
}
