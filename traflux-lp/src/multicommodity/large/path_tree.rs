//! Which paths between junctions have been seen?
//!
//! Paths that start alike share their start: one tree of paths for each junction, in one arena. A path is the
//! tree's node at its end. Parents come before their children.

use traflux_core::ShortestPaths;

use super::super::graph::Graph;
use super::reduce::NONE;

/// Paths between junctions.
#[derive(Debug, Clone)]
pub(super) struct PathTree {
    parents: Vec<u32>,
    segments: Vec<u32>,
    child: Vec<u32>,
    sibling: Vec<u32>,
}

impl PathTree {
    /// The empty paths: node `j` stays at junction `j`.
    pub(super) fn new(junctions: usize) -> Self {
        Self {
            parents: vec![NONE; junctions],
            segments: vec![NONE; junctions],
            child: vec![NONE; junctions],
            sibling: vec![NONE; junctions],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.parents.len()
    }

    /// The path without its last segment, and that segment; `None` for an empty path.
    pub(super) fn last(&self, path: u32) -> Option<(u32, u32)> {
        let parent = self.parents[path as usize];
        (parent != NONE).then(|| (parent, self.segments[path as usize]))
    }

    /// Finds or adds the path that goes on along a segment.
    fn extend(&mut self, path: u32, segment: u32) -> u32 {
        let mut child = self.child[path as usize];
        while child != NONE {
            if self.segments[child as usize] == segment {
                return child;
            }
            child = self.sibling[child as usize];
        }
        let new = self.parents.len() as u32;
        self.parents.push(path);
        self.segments.push(segment);
        self.child.push(NONE);
        self.sibling.push(self.child[path as usize]);
        self.child[path as usize] = new;
        new
    }

    /// Adds the paths of a tree of shortest paths, and writes each junction's path.
    pub(super) fn insert(&mut self, graph: &Graph, root: u32, tree: &ShortestPaths, paths: &mut [u32]) {
        paths.fill(NONE);
        paths[root as usize] = root;
        for node in tree.settled() {
            if let Some(segment) = tree.through(*node) {
                paths[node.ix()] = self.extend(paths[graph.tail(segment).ix()], segment.0);
            }
        }
    }

    /// Length of every path.
    pub(super) fn lengths(&self, segments: &[f64]) -> Vec<f64> {
        let mut lengths: Vec<f64> = Vec::with_capacity(self.len());
        for path in 0..self.len() {
            let length = match self.last(path as u32) {
                Some((parent, segment)) => lengths[parent as usize] + segments[segment as usize],
                None => 0.0,
            };
            lengths.push(length);
        }
        lengths
    }

    /// Adds the flow on every path to the segments; `flow` is used up.
    pub(super) fn load(&self, flow: &mut [f64], segments: &mut [f64]) {
        for path in (0..self.len()).rev() {
            if let Some((parent, segment)) = self.last(path as u32) {
                segments[segment as usize] += flow[path];
                flow[parent as usize] += flow[path];
            }
        }
    }
}
