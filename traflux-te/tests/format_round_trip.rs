//! What is written reads back as itself, for any network.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use proptest::prelude::*;
use traflux_core::network::{Link, Network, Node, NodeIx, TrafficMatrix};
use traflux_core::units::{BitRate, Latency};
use traflux_te::format::{
    Format, RateUnit, ReadOptions, WriteOptions, read_matrices, read_network, write_matrices, write_network,
};

/// Positive floats of every size that survives a change of unit by 10¹² either way.
fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![
        (1u64..1 << 40).prop_map(|whole| whole as f64),
        (1e-3..1e12f64),
        (any::<u64>()).prop_map(|bits| {
            // Exponents from 2^-900 to 2^900, any mantissa.
            let exponent = 1023 - 900 + (bits >> 52) % 1800;
            f64::from_bits((bits & ((1 << 52) - 1)) | (exponent << 52))
        }),
    ]
}

fn not_negative() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), positive()]
}

#[derive(Debug, Clone)]
struct Case {
    network: Network,
    demands: TrafficMatrix,
}

/// Any network of up to 8 nodes with parallel links, and demands; `words`: names without blanks.
fn case(words: bool) -> impl Strategy<Value = Case> {
    let name = if words {
        "[a-zäé0-9_.&<>\"'-]{1,6}"
    } else {
        "[ -~]{0,4}[a-zäß\u{1F600}\"&<>;#\\[\\]]{1,3}[ -~]{0,4}"
    };
    let coordinate = prop_oneof![Just(0.0), -180.0..180.0f64];
    let node = (name, proptest::option::of((coordinate.clone(), coordinate)));
    proptest::collection::vec(node, 2..8).prop_flat_map(|nodes| {
        let count = nodes.len();
        let link = (0..count, 1..count, positive(), positive(), not_negative());
        let links = proptest::collection::vec(link, 0..16);
        let demands = proptest::collection::vec(not_negative(), count * count);
        (Just(nodes), links, demands).prop_map(|(nodes, links, demands)| {
            let count = nodes.len();
            let mut seen = HashSet::new();
            let nodes = nodes.into_iter().enumerate().map(|(at, (name, position))| {
                let name = if seen.insert(name.clone()) { name } else { format!("{name}~{at}") };
                seen.insert(name.clone());
                Node { name, position: position.map(|(x, y)| [x, y]) }
            });
            let nodes: Vec<Node> = nodes.collect();
            let links = links.into_iter().map(|(tail, step, capacity, weight, delay)| Link {
                tail: NodeIx::from(tail),
                head: NodeIx::from((tail + step) % count),
                capacity: BitRate::new(capacity).unwrap(),
                weight,
                delay: Latency::new(delay).unwrap(),
            });
            let network = Network::new(nodes, links.collect()).unwrap();
            Case { network, demands: TrafficMatrix::from_rows(count, demands).unwrap() }
        })
    })
}

/// The case without what a format cannot hold.
fn held(case: &Case, delays: bool, names: bool, positions: bool) -> Network {
    let mut nodes = case.network.nodes().to_vec();
    for (at, node) in nodes.iter_mut().enumerate() {
        if !names {
            node.name = at.to_string();
        }
        if !positions {
            node.position = None;
        }
    }
    let mut links = case.network.links().to_vec();
    for link in &mut links {
        if !delays {
            link.delay = Latency::ZERO;
        }
    }
    Network::new(nodes, links).unwrap()
}

fn units() -> impl Strategy<Value = Option<RateUnit>> {
    let units = [RateUnit::BIT, RateUnit::KILOBIT, RateUnit::MEGABIT, RateUnit::GIGABIT, RateUnit::TERABIT];
    proptest::option::of(proptest::sample::select(units.to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn formats_with_quoted_names_hold_every_name(case in case(false), unit in units()) {
        for format in [Format::NodeLink, Format::GraphMl, Format::Gml] {
            let options = WriteOptions { unit, name: Some("a \"b\" <c>".into()), ..WriteOptions::default() };
            let written = write_network(&case.network, Some(&case.demands), format, &options).unwrap();
            let options = ReadOptions { unit, ..ReadOptions::default() };
            let file = read_network(written.text.as_bytes(), format, &options).unwrap();
            prop_assert_eq!(&file.network, &case.network, "{}", written.text);
            prop_assert_eq!(file.name.as_deref(), Some("a \"b\" <c>"));
            prop_assert_eq!(file.warnings, []);
            if format == Format::NodeLink && case.demands.total() > 0.0 {
                prop_assert_eq!(file.demands.as_ref(), Some(&case.demands));
            }
            prop_assert_eq!(Format::from_content(written.text.as_bytes()), Some(format));
        }
    }

    #[test]
    fn formats_of_words_hold_names_that_are_words(case in case(true), unit in units()) {
        for format in [Format::SndlibNative, Format::SndlibXml, Format::Repetita, Format::CfrRl] {
            let named = format != Format::CfrRl;
            let all_placed = case.network.nodes().iter().all(|node| node.position.is_some_and(|p| p != [0.0, 0.0]));
            let positions = match format {
                Format::CfrRl => false,
                Format::Repetita => all_placed,
                _ => true,
            };
            let network = held(&case, format == Format::Repetita, named, positions);
            let options = WriteOptions { unit, ..WriteOptions::default() };
            let written = write_network(&network, Some(&case.demands), format, &options).unwrap();
            // What this library wrote needs no option, but for REPETITA, which cannot name a unit.
            let unit = if format == Format::Repetita { unit } else { None };
            let options = ReadOptions { unit, ..ReadOptions::default() };
            let file = read_network(written.text.as_bytes(), format, &options).unwrap();
            prop_assert_eq!(&file.network, &network, "{}", written.text);
            prop_assert_eq!(file.warnings, []);
            let has_demands = matches!(format, Format::SndlibNative | Format::SndlibXml);
            if has_demands && case.demands.total() > 0.0 {
                prop_assert_eq!(file.demands.as_ref(), Some(&case.demands));
            }
            prop_assert_eq!(Format::from_content(written.text.as_bytes()), Some(format));
        }
    }

    #[test]
    fn links_both_ways_are_written_once_in_sndlib(case in case(true)) {
        let network = held(&case, false, true, true);
        let there_and_back = network.links().iter().flat_map(|link| {
            [*link, Link { tail: link.head, head: link.tail, ..*link }]
        });
        let network = Network::new(network.nodes().to_vec(), there_and_back.collect()).unwrap();
        for format in [Format::SndlibNative, Format::SndlibXml] {
            let written = write_network(&network, None, format, &WriteOptions::default()).unwrap();
            prop_assert!(!written.text.contains("DIRECTED"));
            let file = read_network(written.text.as_bytes(), format, &ReadOptions::default()).unwrap();
            prop_assert_eq!(&file.network, &network);
            prop_assert_eq!(file.demands, None);
        }
    }

    #[test]
    fn matrices_read_back(case in case(true), unit in units()) {
        for format in [Format::Rows, Format::Repetita, Format::SndlibNative, Format::SndlibXml, Format::NodeLink] {
            if case.demands.total() == 0.0 {
                continue;
            }
            let matrices = [case.demands.clone()];
            let write = WriteOptions { unit, ..WriteOptions::default() };
            let written = write_matrices(&case.network, &matrices, format, &write).unwrap();
            let read = ReadOptions { unit, ..ReadOptions::default() };
            let again = read_matrices(written.text.as_bytes(), format, &case.network, &read).unwrap();
            prop_assert_eq!(&again[..], &matrices[..], "{}: {}", format, written.text);
        }
    }

    /// What this library wrote needs no option to be read, whatever the unit, where the format can say it.
    #[test]
    fn matrices_say_their_unit(case in case(true), unit in units()) {
        for format in [Format::Rows, Format::CfrRl, Format::SndlibNative, Format::SndlibXml] {
            // What CFR-RL counts in is no power of ten.
            if case.demands.total() == 0.0 || format == Format::CfrRl && unit.is_none() {
                continue;
            }
            let matrices = [case.demands.clone()];
            let write = WriteOptions { unit, ..WriteOptions::default() };
            let text = write_matrices(&case.network, &matrices, format, &write).unwrap().text;
            let again = read_matrices(text.as_bytes(), format, &case.network, &ReadOptions::default()).unwrap();
            prop_assert_eq!(&again[..], &matrices[..], "{}: {}", format, text);
        }
        for (format, usual) in [(Format::Repetita, RateUnit::KILOBIT), (Format::NodeLink, RateUnit::BIT)] {
            let write = WriteOptions { unit, ..WriteOptions::default() };
            let written = write_matrices(&case.network, std::slice::from_ref(&case.demands), format, &write).unwrap();
            let told = written.warnings.iter().any(|warning| warning.message.contains("unit"));
            prop_assert_eq!(told, unit.is_some_and(|unit| unit != usual), "{}: {:?}", format, written.warnings);
        }
    }

    #[test]
    fn rows_in_bytes_of_five_minutes_read_back_but_for_the_last_place(case in case(true)) {
        let matrices = vec![case.demands.clone(), case.demands.scaled(0.5)];
        let written = write_matrices(&case.network, &matrices, Format::CfrRl, &WriteOptions::default()).unwrap();
        let again =
            read_matrices(written.text.as_bytes(), Format::CfrRl, &case.network, &ReadOptions::default()).unwrap();
        for (one, other) in matrices.iter().zip(&again) {
            for (a, b) in one.as_slice().iter().zip(other.as_slice()) {
                prop_assert!((a - b).abs() <= a * f64::EPSILON, "{a} {b}");
            }
        }
    }
}
