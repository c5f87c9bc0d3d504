//! What does every writer share?

use traflux_core::network::Network;
use traflux_core::units::Latency;

use super::draft::{Warning, unique_names};
use super::unit::RateUnit;

/// A file that was written, and what found no room in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// The file.
    pub text: String,
    /// What is lost.
    pub warnings: Vec<Warning>,
}

impl Written {
    pub(super) fn lose(&mut self, message: impl Into<String>) {
        self.warnings.push(Warning { line: None, message: message.into() });
    }

    /// Numbers are in a unit that the format has no place for, and that its readers do not expect.
    pub(super) fn hide_unit(&mut self, unit: RateUnit, usual: RateUnit) {
        if unit != usual {
            self.lose(format!("the file does not say its unit, {unit}: without it numbers count as {usual}"));
        }
    }

    pub(super) fn lose_delays(&mut self, network: &Network) {
        if network.links().iter().any(|link| link.delay > Latency::ZERO) {
            self.lose("delays are not written: the format has none");
        }
    }

    pub(super) fn lose_demands(&mut self, demands: bool) {
        if demands {
            self.lose("demands are not written: they belong to a file of their own");
        }
    }

    pub(super) fn lose_names(&mut self, network: &Network) {
        if network.nodes().iter().enumerate().any(|(at, node)| node.name != at.to_string()) {
            self.lose("names of nodes are not written: nodes are numbers in this format");
        }
        if network.nodes().iter().any(|node| node.position.is_some()) {
            self.lose("positions of nodes are not written: the format has none");
        }
    }
}

/// Names as single words: white space and what `special` names become `_`, and equal names are told apart.
pub(super) fn identifiers(
    network: &Network,
    written: &mut Written,
    special: impl Fn(char) -> bool,
) -> Vec<String> {
    let replaced = |c: char| if c.is_whitespace() || c.is_control() || special(c) { '_' } else { c };
    let names = network.nodes().iter().map(|node| node.name.chars().map(replaced).collect()).collect();
    let (names, _) = unique_names(names);
    let changed = network.nodes().iter().zip(&names).filter(|(node, name)| node.name != **name).count();
    if changed > 0 {
        written.lose(format!("{changed} names of nodes were changed into single words"));
    }
    names
}

/// Whether links come as pairs that lead there and back with the same capacity, weight and delay.
pub(super) fn joined_both_ways(network: &Network, written: &mut Written) -> bool {
    let pairs = network.links().chunks(2).all(|pair| match pair {
        [there, back] => {
            there.tail == back.head
                && there.head == back.tail
                && there.capacity == back.capacity
                && there.weight == back.weight
                && there.delay == back.delay
        }
        _ => false,
    });
    if !pairs {
        written.lose("links lead one way, which other readers of this format must be told");
    }
    pairs
}
