//! Each format against a small file made by hand and the numbers worked out from it.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use traflux_core::network::{Link, Network, NodeIx, TrafficMatrix};
use traflux_core::units::BitRate;
use traflux_te::format::{
    Format, FormatError, NetworkFile, RateUnit, ReadOptions, WriteOptions, matrices_in_file, read_matrices,
    read_matrices_file, read_network, read_network_file, write_matrices, write_network,
};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn load(name: &str, format: Format) -> NetworkFile {
    assert_eq!(Format::from_path(data(name)).unwrap(), format, "{name}");
    read_network_file(data(name), None, &ReadOptions::default()).unwrap()
}

/// Tail, head, bit/s, weight, seconds.
fn links(network: &Network) -> Vec<(u32, u32, f64, f64, f64)> {
    let tuple = |l: &Link| (l.tail.0, l.head.0, l.capacity.get(), l.weight, l.delay.as_secs());
    network.links().iter().map(tuple).collect()
}

fn names(network: &Network) -> Vec<&str> {
    network.nodes().iter().map(|node| node.name.as_str()).collect()
}

fn warnings(file: &NetworkFile) -> Vec<String> {
    file.warnings.iter().map(ToString::to_string).collect()
}

fn check_coast(file: &NetworkFile) {
    assert_eq!(names(&file.network), ["Kiel", "Emden", "Husum"]);
    assert_eq!(file.network.nodes()[0].position, Some([10.12, 54.32]));
    assert_eq!(file.network.nodes()[2].position, None);
    // Mbit/s; the second link has the larger of its modules and no routing cost.
    let expected = [
        (0, 1, 2.5005e9, 3.0, 0.0),
        (1, 0, 2.5005e9, 3.0, 0.0),
        (1, 2, 622e6, 1.0, 0.0),
        (2, 1, 622e6, 1.0, 0.0),
        (0, 2, 1e9, 1.5, 0.0),
        (2, 0, 1e9, 1.5, 0.0),
    ];
    assert_eq!(links(&file.network), expected);
    let demands = file.demands.as_ref().unwrap();
    // 12.5 + 2 · 1.25 Mbit/s.
    assert_eq!(demands.as_slice(), [0.0, 15e6, 0.0, 0.0, 0.0, 0.0, 1e5, 0.0, 0.0]);
    let message = "1 links have nothing installed and got one module of their largest kind";
    assert_eq!(warnings(file), [message]);
}

#[test]
fn sndlib_native_is_read_to_the_last_number() {
    let file = load("coast.sndlib.txt", Format::SndlibNative);
    assert_eq!(file.name.as_deref(), Some("coast"));
    check_coast(&file);
}

#[test]
fn sndlib_xml_says_the_same_as_native() {
    check_coast(&load("coast.sndlib.xml", Format::SndlibXml));
}

#[test]
fn dynamic_demands_are_read_for_the_nodes_of_another_file() {
    let network = load("coast.sndlib.xml", Format::SndlibXml).network;
    let options = ReadOptions::default();
    let matrices = read_matrices_file(data("coast.dynamic.xml"), None, &network, &options).unwrap();
    assert_eq!(matrices.len(), 1);
    assert_eq!(matrices[0].demand(NodeIx(2), NodeIx(1)), 250e3);
    assert_eq!(matrices[0].total(), 250e3);
    let error = read_network_file(data("coast.dynamic.xml"), None, &options).unwrap_err();
    assert_eq!(error.code(), "format_syntax");
    assert!(error.to_string().contains("coast.dynamic.xml:8:1: expected <nodes>"), "{error}");
    let both = ReadOptions { demand_unit: Some(RateUnit::GIGABIT), ..ReadOptions::default() };
    let matrices = read_matrices_file(data("coast.dynamic.xml"), None, &network, &both).unwrap();
    assert_eq!(matrices[0].total(), 250e9);
}

fn check_fjord(file: &NetworkFile, last_is_directed: bool) {
    assert_eq!(names(&file.network), ["Tromsø & N", "Bodø", "Bodø_2", "6"]);
    assert_eq!(file.network.nodes()[0].position, Some([18.95, 69.65]));
    let mut expected = vec![
        (0, 1, 1e10, 2.0, 0.0),
        (1, 0, 1e10, 2.0, 0.0),
        (0, 1, 2.5e9, 7.0, 0.0),
        (1, 0, 2.5e9, 7.0, 0.0),
        (1, 2, 155e6, 7.0, 0.0),
        (2, 1, 155e6, 7.0, 0.0),
        (2, 3, 1e9, 7.0, 0.0),
    ];
    if !last_is_directed {
        expected.push((3, 2, 1e9, 7.0, 0.0));
    }
    assert_eq!(links(&file.network), expected);
    assert_eq!(file.name.as_deref(), Some("Fjord"));
    let warnings = warnings(file);
    assert_eq!(warnings[0], "1 nodes without a name of their own were renamed");
    assert!(warnings[1].ends_with("1 links from a node to itself were left out"), "{warnings:?}");
}

#[test]
fn graphml_keeps_parallel_links_and_tells_equal_labels_apart() {
    check_fjord(&load("fjord.graphml", Format::GraphMl), true);
}

#[test]
fn gml_says_the_same_as_graphml() {
    check_fjord(&load("fjord.gml", Format::Gml), false);
}

#[test]
fn gml_that_is_not_utf_8_is_read_as_iso_8859_1() {
    let text = b"graph [ node [ id 0 label \"Bod\xf8\" ] ]";
    let file = read_network(text, Format::Gml, &ReadOptions::default()).unwrap();
    assert_eq!(names(&file.network), ["Bodø"]);
    assert_eq!(warnings(&file), ["the file is not UTF-8 and was read as ISO 8859-1"]);
    let text =
        b"<?xml version='1.0' encoding='ISO-8859-1'?><graphml><graph><node id='\xf8'/></graph></graphml>";
    let file = read_network(text, Format::GraphMl, &ReadOptions::default()).unwrap();
    assert_eq!(names(&file.network), ["ø"]);
    let error = read_network(&text[44..], Format::GraphMl, &ReadOptions::default()).unwrap_err();
    assert_eq!(error.code(), "format_encoding");
}

#[test]
fn repetita_counts_in_kilobits_and_microseconds() {
    let file = load("ring.graph", Format::Repetita);
    assert_eq!(names(&file.network), ["0_Alta", "1_Vard", "1_Vard_2"]);
    assert_eq!(file.network.nodes()[2].position, Some([0.0, -1.5]));
    let expected = [
        (0, 1, 9.92e9, 10.0, 1.53e-3),
        (1, 0, 9.92e9, 10.0, 1.53e-3),
        (1, 2, 155_520_500.0, 25.0, 5e-7),
        (2, 0, 1e3, 1.0, 0.0),
    ];
    assert_eq!(links(&file.network), expected);
    let options = ReadOptions::default();
    let matrices = read_matrices_file(data("ring.demands"), None, &file.network, &options).unwrap();
    assert_eq!(matrices[0].as_slice(), [0.0, 251.5e3, 0.0, 0.0, 0.0, 0.0, 0.0, 100.0, 0.0]);
}

#[test]
fn cfr_rl_takes_the_unit_of_its_header_and_counts_matrices_in_bytes_of_five_minutes() {
    let file = load("ring.links", Format::CfrRl);
    let expected = [(0, 1, 9.92e9, 1.0, 0.0), (1, 2, 2.48e9, 846.0, 0.0), (2, 0, 155.52e6, 0.5, 0.0)];
    assert_eq!(links(&file.network), expected);
    let options = ReadOptions::default();
    let read = |format| read_matrices_file(data("ring.rows"), Some(format), &file.network, &options).unwrap();
    let matrices = read(Format::CfrRl);
    assert_eq!(matrices.len(), 2);
    // 3 · 100 bytes in 5 minutes are 8 bit/s.
    assert_eq!(matrices[0].as_slice(), [0.0, 8.0, 0.0, 40.0, 0.0, 80.0, 0.0, 0.0, 0.0]);
    assert_eq!(matrices[1].demand(NodeIx(0), NodeIx(1)), 16.0);
    assert_eq!(read(Format::Rows)[0].demand(NodeIx(1), NodeIx(0)), 15.0);
}

#[test]
fn node_link_without_capacities_asks_for_the_option_and_takes_delays_from_distances() {
    let error = read_network_file(data("islands.json"), None, &ReadOptions::default()).unwrap_err();
    assert_eq!(error.code(), "format_missing");
    let path = data("islands.json").display().to_string();
    let message =
        "expected a capacity of this link, found none; give it with `default_capacity` (`--capacity`)";
    assert_eq!(error.to_string(), format!("{path}:11:1: {message}"));

    let options = ReadOptions {
        default_capacity: Some(BitRate::gigabits_per_second(10.0)),
        demand_unit: Some(RateUnit::MEGABIT),
        ..ReadOptions::default()
    };
    let file = read_network_file(data("islands.json"), None, &options).unwrap();
    // Identifiers are numbers, so they and not the order of the file number the nodes.
    assert_eq!(names(&file.network), ["Sylt", "Amrum", "Föhr \"W\""]);
    let (near, far) = (20.5 * 5e-6, 100.0 * 5e-6);
    let expected =
        [(0, 2, 1e10, 1.0, near), (2, 0, 1e10, 1.0, near), (2, 1, 1e10, 1.0, far), (1, 2, 1e10, 1.0, far)];
    assert_eq!(links(&file.network), expected);
    assert_eq!(file.demands.unwrap().as_slice(), [0.0, 1e9, 5.5e6, 0.0, 0.0, 0.0, 0.25e6, 0.0, 0.0]);
    assert_eq!(file.name.as_deref(), Some("islands"));

    // The demands alone need no capacity, and follow the names into another order.
    let mut nodes = file.network.nodes().to_vec();
    nodes.reverse();
    let turned = Network::new(nodes, Vec::new()).unwrap();
    let matrices = read_matrices_file(data("islands.json"), None, &turned, &ReadOptions::default()).unwrap();
    assert_eq!(matrices[0].demand(NodeIx(2), NodeIx(0)), 5.5);
}

#[test]
fn node_link_takes_identifiers_of_both_kinds_and_capacities() {
    let file = load("backbone.json", Format::NodeLink);
    assert_eq!(names(&file.network), ["x", "y", "3"]);
    let expected = [(0, 1, 5e3, 1.0, 0.0), (1, 2, 0.1, 4.0, 0.0), (2, 0, 1e3, 1.0, 2e-3)];
    assert_eq!(links(&file.network), expected);
    let options =
        ReadOptions { unit: Some(RateUnit::MEGABIT), directed: Some(false), ..ReadOptions::default() };
    let file = read_network_file(data("backbone.json"), None, &options).unwrap();
    assert_eq!(file.network.links().len(), 6);
    assert_eq!(links(&file.network)[2], (1, 2, 1e5, 4.0, 0.0));
}

/// The message of the error that a text ends in.
fn error(format: Format, text: &str) -> FormatError {
    read_network(text.as_bytes(), format, &ReadOptions::default()).unwrap_err()
}

#[test]
fn errors_say_where_what_was_expected_and_what_was_found() {
    let sndlib = |rest: &str| format!("?SNDlib native format; type: network; version: 1.0\n{rest}");
    let json = |links: &str| format!("{{\"nodes\": [{{\"id\": 0}}, {{\"id\": 1}}],\n\"links\": [{links}]}}");
    let zoo = |edge: &str| {
        format!("<graphml><key id='c' attr.name='capacity'/><graph><node id='a'/>\n{edge}</graph></graphml>")
    };
    for (format, text, code, message) in [
        (
            Format::SndlibNative,
            "NODES ( a )".to_string(),
            "format_syntax",
            "line 1, column 1: expected `?SNDlib native format; type: network; version: 1.0`, found `NODES ( a )`",
        ),
        (
            Format::SndlibNative,
            sndlib("NODES ( a b )\nLINKS ( l ( a c ) 1 0 0 0 ( ) )"),
            "format_unknown_node",
            "line 3, column 15: expected one of the nodes, found `c`",
        ),
        (
            Format::SndlibNative,
            sndlib("NODES ( a b a )"),
            "format_duplicate",
            "line 2, column 13: expected a node name that is not yet taken, found `a` again",
        ),
        (
            Format::SndlibNative,
            sndlib("META (\n unit = FURLONG\n)\n"),
            "format_unit",
            "line 3, column 9: expected a unit of rates such as `kbit/s`, `10 Gbit/s` or `100 bytes / 5 min`, \
             found `FURLONG`",
        ),
        (
            Format::SndlibXml,
            "<network><networkStructure><nodes>\n<node/></nodes></networkStructure></network>".into(),
            "format_syntax",
            "line 2, column 1: expected attribute `id` of <node>, found nothing",
        ),
        (
            Format::GraphMl,
            zoo("<edge source='a' target='z'/>"),
            "format_unknown_node",
            "line 2, column 1: expected one of the nodes, found `z`",
        ),
        (
            Format::GraphMl,
            zoo("<node id='b'/><edge source='a' target='b'><data key='c'>-5</data></edge>"),
            "format_value",
            "line 2, column 57: a capacity must be a finite positive number, found `-5`",
        ),
        (
            Format::Gml,
            "graph [\n node [ id 0 ]\n edge [ source 0 ]\n]".into(),
            "format_syntax",
            "line 3, column 2: expected a `target` of this edge, found nothing",
        ),
        (
            Format::Repetita,
            "NODES 3\nlabel x y\na 0 0\n".into(),
            "format_count",
            "line 1, column 1: expected 3 NODES, found 1",
        ),
        (
            Format::Repetita,
            "NODES 1\nlabel x y\na 0 zero\n".into(),
            "format_value",
            "line 3, column 5: a latitude must be a finite number, found `zero`",
        ),
        (
            Format::CfrRl,
            "Node_num: 2\tEdge_num: 2\na b c d e\n0\t0\t1\t1\t10\n".into(),
            "format_count",
            "line 1, column 23: expected 2 links, found 1",
        ),
        (
            Format::CfrRl,
            "Node_num: 99999999\tEdge_num: 2\na b c d e\n".into(),
            "format_too_large",
            "line 1, column 11: expected at most 65536 nodes, found 99999999",
        ),
        (
            Format::NodeLink,
            json("{\"source\": 0, \"target\": 7, \"capacity\": 1}"),
            "format_unknown_node",
            "line 2, column 35: expected one of the nodes, found `7`",
        ),
        (
            Format::NodeLink,
            json("{\"source\": 0, \"target\": 1, \"capacity\": NaN}"),
            "format_syntax",
            "line 2, column 50: expected JSON with value, found something else",
        ),
        (
            Format::NodeLink,
            json("{\"source\": 0, \"capacity\": 1}"),
            "format_syntax",
            "line 2, column 11: expected `target` with an integer or a string, found `{\"source\": 0, \"capacity\": 1}`",
        ),
        (
            Format::NodeLink,
            "{\"links\": []}".into(),
            "format_syntax",
            "line 1, column 13: expected node-link JSON, found missing field `nodes`",
        ),
        (
            Format::NodeLink,
            "[".repeat(100_000),
            "format_syntax",
            "line 1, column 1: expected an object of node-link JSON, found `[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[…`",
        ),
        (
            Format::Rows,
            "0 1 1 0".into(),
            "format_unsupported",
            "expected a format of networks, found rows, which hold matrices only",
        ),
    ] {
        let error = error(format, &text);
        assert_eq!(error.to_string(), message, "{format}");
        assert_eq!(error.code(), code, "{message}");
        assert!(!error.is_transient());
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = read_network_file("no/such.json", None, &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("no/such.json: "), "{error}");
    assert_eq!(error.code(), "format_io");
    assert!(error.place().is_none());
}

#[test]
fn a_default_capacity_that_is_none_makes_no_network() {
    let options = ReadOptions { default_capacity: Some(BitRate::ZERO), ..ReadOptions::default() };
    let error = read_network_file(data("islands.json"), None, &options).unwrap_err();
    assert_eq!(error.code(), "network_link_value");
}

#[test]
fn few_bytes_cannot_ask_for_a_large_matrix() {
    let nodes: String = (0..5000).map(|node| format!("n{node}\n")).collect();
    let head = "?SNDlib native format; type: network; version: 1.0\n";
    let text = format!("{head}NODES (\n{nodes})\nDEMANDS ( d ( n1 n2 ) 1 1 UNLIMITED )");
    let error = error(Format::SndlibNative, &text);
    assert_eq!(
        error.to_string(),
        "line 5004, column 10: expected at most 4096 nodes with listed demands, found 5000"
    );
}

#[test]
fn writers_tell_what_is_lost() {
    let file = load("ring.graph", Format::Repetita);
    let matrix = TrafficMatrix::zero(3);
    let lost = |format| {
        let written = write_network(&file.network, Some(&matrix), format, &WriteOptions::default()).unwrap();
        written.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(lost(Format::NodeLink), [""; 0]);
    assert_eq!(lost(Format::Gml), ["demands are not written: they belong to a file of their own"]);
    assert_eq!(
        lost(Format::SndlibNative),
        [
            "links lead one way, which other readers of this format must be told",
            "delays are not written: the format has none"
        ]
    );
    assert_eq!(
        lost(Format::CfrRl),
        [
            "demands are not written: they belong to a file of their own",
            "names of nodes are not written: nodes are numbers in this format",
            "positions of nodes are not written: the format has none",
            "delays are not written: the format has none"
        ]
    );
}

#[test]
fn names_that_are_not_words_become_words_where_they_must() {
    let file = load("fjord.gml", Format::Gml);
    let written = write_network(&file.network, None, Format::Repetita, &WriteOptions::default()).unwrap();
    assert!(written.text.contains("\nTromsø_&_N 18.95 69.65\n"), "{}", written.text);
    assert_eq!(written.warnings[0].to_string(), "1 names of nodes were changed into single words");
}

#[test]
fn matrices_are_written_where_a_format_has_room_for_them() {
    let file = load("ring.graph", Format::Repetita);
    let options = ReadOptions::default();
    let matrices = read_matrices_file(data("ring.demands"), None, &file.network, &options).unwrap();
    let two = [matrices[0].clone(), matrices[0].scaled(3.0)];
    for format in Format::ALL {
        let one = write_matrices(&file.network, &matrices, format, &WriteOptions::default());
        let many = write_matrices(&file.network, &two, format, &WriteOptions::default());
        match format {
            Format::GraphMl | Format::Gml => assert_eq!(one.unwrap_err().code(), "format_unsupported"),
            _ => {
                let again =
                    read_matrices(one.unwrap().text.as_bytes(), format, &file.network, &options).unwrap();
                assert_eq!(again, matrices, "{format}");
            }
        }
        match format {
            Format::GraphMl | Format::Gml => {
                let error = many.unwrap_err().to_string();
                assert_eq!(
                    error,
                    format!("expected a format that holds matrices, found {format}, which has links only")
                );
            }
            Format::Rows | Format::CfrRl => {
                let again =
                    read_matrices(many.unwrap().text.as_bytes(), format, &file.network, &options).unwrap();
                assert_eq!(again, two, "{format}");
            }
            _ => {
                let error = many.unwrap_err();
                assert_eq!(error.code(), "format_one_matrix");
                let told = error.to_string();
                assert!(
                    told.starts_with(&format!("{format} holds one matrix, there are 2: choose one")),
                    "{told}"
                );
            }
        }
    }
    let wrong = write_network(
        &file.network,
        Some(&TrafficMatrix::zero(2)),
        Format::NodeLink,
        &WriteOptions::default(),
    );
    assert_eq!(wrong.unwrap_err().code(), "format_unsupported");
}

#[test]
fn rows_whose_unit_nobody_says_come_with_a_warning() {
    let file = load("ring.graph", Format::Repetita);
    let folder = tempfile::tempdir().unwrap();
    let matrices =
        read_matrices_file(data("ring.demands"), None, &file.network, &ReadOptions::default()).unwrap();
    let cfr = write_matrices(&file.network, &matrices, Format::CfrRl, &WriteOptions::default()).unwrap();
    assert!(cfr.warnings[0].message.contains("800 bit / 300 s: read it as cfr-rl"), "{:?}", cfr.warnings);
    let megabits = WriteOptions { unit: Some(RateUnit::MEGABIT), ..WriteOptions::default() };
    let rows = write_matrices(&file.network, &matrices, Format::Rows, &megabits).unwrap();
    assert!(rows.text.starts_with("# unit: Mbit/s\n"), "{}", rows.text);
    let plain = write_matrices(&file.network, &matrices, Format::Rows, &WriteOptions::default()).unwrap();
    assert!(plain.text.starts_with(|c: char| c.is_ascii_digit()), "{}", plain.text);
    for (name, text, format, unit, warned) in [
        ("a.tm", &cfr.text, None, None, true),
        ("b.tm", &plain.text, None, None, true),
        ("c.tm", &plain.text, None, Some(RateUnit::BIT), false),
        ("d.tm", &plain.text, Some(Format::Rows), None, false),
        ("e.rows", &plain.text, None, None, false),
        ("f.tm", &rows.text, None, None, false),
        ("g.tm", &cfr.text, Some(Format::CfrRl), None, false),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let options = ReadOptions { demand_unit: unit, ..ReadOptions::default() };
        let read = matrices_in_file(&path, format, &file.network, &options).unwrap();
        assert_eq!(!read.warnings.is_empty(), warned, "{name}: {:?}", read.warnings);
        let again: Vec<TrafficMatrix> = read.map(Result::unwrap).collect();
        // The first is what the warning is about.
        assert_eq!(again == matrices, name != "a.tm", "{name}");
    }
}
