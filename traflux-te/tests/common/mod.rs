//! Small networks that several tests need.
#![allow(dead_code, unreachable_pub)]

use proptest::prelude::*;
use traflux_core::{BitRate, Latency, Link, LinkIx, Network, Node, NodeIx, TrafficMatrix};

/// Nodes `n0`… and links `(tail, head, weight, capacity in bit/s)`.
pub fn network(nodes: usize, links: &[(usize, usize, f64, f64)]) -> Network {
    let node = |ix| Node { name: format!("n{ix}"), position: None };
    let link = |&(tail, head, weight, capacity): &(usize, usize, f64, f64)| Link {
        tail: NodeIx::from(tail),
        head: NodeIx::from(head),
        capacity: BitRate::bits_per_second(capacity),
        weight,
        delay: Latency::ZERO,
    };
    Network::new((0..nodes).map(node).collect(), links.iter().map(link).collect()).unwrap()
}

/// The same with a twin for each link: link `2 i + 1` leads back.
pub fn both_ways(nodes: usize, links: &[(usize, usize, f64, f64)]) -> Network {
    let twins = links
        .iter()
        .flat_map(|&(a, b, weight, capacity)| [(a, b, weight, capacity), (b, a, weight, capacity)]);
    network(nodes, &twins.collect::<Vec<_>>())
}

pub fn demands(nodes: usize, entries: &[(usize, usize, f64)]) -> TrafficMatrix {
    let mut matrix = TrafficMatrix::zero(nodes);
    for &(source, target, demand) in entries {
        matrix.set(NodeIx::from(source), NodeIx::from(target), BitRate::bits_per_second(demand));
    }
    matrix
}

pub fn link_ixs(links: &[u32]) -> Vec<LinkIx> {
    links.iter().copied().map(LinkIx).collect()
}

/// Networks of 2 to `most` nodes with any links, also parallel ones, and small integer weights, so that many
/// paths tie; some are not connected.
pub fn any_network(most: usize) -> impl Strategy<Value = Network> {
    (2..=most).prop_flat_map(|nodes| {
        let link = (0..nodes, 1..nodes, 1u8..4, 1u8..5)
            .prop_map(move |(a, step, w, c)| (a, (a + step) % nodes, f64::from(w), f64::from(c) * 1e9));
        prop::collection::vec(link, 0..3 * nodes).prop_map(move |links| network(nodes, &links))
    })
}

pub fn any_demands(nodes: usize) -> impl Strategy<Value = TrafficMatrix> {
    prop::collection::vec(prop_oneof![2 => Just(0.0), 3 => 0.0..1e9f64], nodes * nodes)
        .prop_map(move |rows| TrafficMatrix::from_rows(nodes, rows).unwrap())
}

/// All paths without a repeated node, by depth-first search: what the finders are checked against.
pub fn every_path(network: &Network, source: NodeIx, target: NodeIx) -> Vec<Vec<LinkIx>> {
    fn extend(
        network: &Network,
        at: NodeIx,
        target: NodeIx,
        seen: &mut Vec<NodeIx>,
        links: &mut Vec<LinkIx>,
        all: &mut Vec<Vec<LinkIx>>,
    ) {
        if at == target {
            all.push(links.clone());
            return;
        }
        for &link in network.out_links(at) {
            let head = network.links()[link.ix()].head;
            if !seen.contains(&head) {
                seen.push(head);
                links.push(link);
                extend(network, head, target, seen, links, all);
                links.pop();
                seen.pop();
            }
        }
    }
    let mut all = Vec::new();
    if source != target {
        extend(network, source, target, &mut vec![source], &mut Vec::new(), &mut all);
    }
    all
}

pub fn weight(network: &Network, links: &[LinkIx]) -> f64 {
    links.iter().map(|link| network.links()[link.ix()].weight).sum()
}
