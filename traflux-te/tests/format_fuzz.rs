//! No input makes a reader panic, and every refusal says where.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use proptest::prelude::*;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use traflux_core::network::{Network, Node};
use traflux_core::units::BitRate;
use traflux_te::format::{
    Format, FormatError, ReadOptions, WriteOptions, read_matrices, read_network, write_network,
};

const FILES: [(&str, Format); 12] = [
    ("coast.sndlib.txt", Format::SndlibNative),
    ("coast.sndlib.xml", Format::SndlibXml),
    ("coast.dynamic.xml", Format::SndlibXml),
    ("fjord.graphml", Format::GraphMl),
    ("fjord.gml", Format::Gml),
    ("ring.graph", Format::Repetita),
    ("ring.demands", Format::Repetita),
    ("ring.links", Format::CfrRl),
    ("ring.rows", Format::Rows),
    ("ring.rows", Format::CfrRl),
    ("islands.json", Format::NodeLink),
    ("backbone.json", Format::NodeLink),
];

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)).unwrap()
}

fn options() -> ReadOptions {
    ReadOptions { default_capacity: Some(BitRate::gigabits_per_second(1.0)), ..ReadOptions::default() }
}

/// The nodes of the fixtures' matrices.
fn targets() -> Network {
    let names = ["Kiel", "Emden", "Husum"].map(|name| Node { name: name.into(), position: None });
    Network::new(names.to_vec(), Vec::new()).unwrap()
}

/// An error has a line that the input has, and a message.
fn check_error(error: &FormatError, input: &[u8]) {
    let place = error.place().unwrap_or_else(|| panic!("{error} has no place"));
    let lines = input.iter().filter(|byte| **byte == b'\n').count() + 2;
    assert!(place.line >= 1 && place.line <= lines && place.column >= 1, "{error} of {lines} lines");
    assert!(!error.to_string().is_empty() && error.to_string().len() < 1000, "{error}");
}

/// Reads an input in both ways; counts what was accepted.
fn read(input: &[u8], format: Format, targets: &Network) -> usize {
    let mut accepted = 0;
    match read_network(input, format, &options()) {
        Ok(file) => {
            accepted += 1;
            // What was accepted can be written again in every format.
            for other in Format::ALL.into_iter().filter(|format| *format != Format::Rows) {
                write_network(&file.network, file.demands.as_ref(), other, &WriteOptions::default()).unwrap();
            }
        }
        Err(error) => check_error(&error, input),
    }
    match read_matrices(input, format, targets, &options()) {
        Ok(matrices) => {
            accepted += 1;
            assert!(matrices.iter().all(|matrix| matrix.total() >= 0.0));
        }
        Err(error) => check_error(&error, input),
    }
    accepted
}

/// Numbers and words that break careless readers.
const TOKENS: [&str; 24] = [
    "-1",
    "0",
    "1e999",
    "-1e999",
    "NaN",
    "inf",
    "1e-400",
    "99999999999999999999",
    "18446744073709551615",
    "4294967296",
    "65537",
    "",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "<",
    "&#0;",
    "&lol;",
    "\u{feff}",
    "\0",
];

/// One mutation at a random place.
fn mutate(input: &mut Vec<u8>, random: &mut impl Rng) {
    if input.is_empty() {
        input.push(random.random());
        return;
    }
    let at = random.random_range(0..input.len());
    match random.random_range(0..7) {
        0 => input[at] ^= 1 << random.random_range(0..8),
        1 => input[at] = random.random(),
        2 => input.truncate(at),
        3 => {
            let length = random.random_range(0..40).min(input.len() - at);
            input.drain(at..at + length);
        }
        4 => {
            let length = random.random_range(0..40).min(input.len() - at);
            let piece = input[at..at + length].to_vec();
            let to = random.random_range(0..=input.len());
            input.splice(to..to, piece);
        }
        kind => {
            // A whole word gives way to a token, or to another word of the input.
            let edge = |byte: &u8| byte.is_ascii_whitespace() || b"<>\"(),:[]".contains(byte);
            let start = input[..at].iter().rposition(edge).map_or(0, |edge| edge + 1);
            let end = input[at..].iter().position(edge).map_or(input.len(), |edge| at + edge);
            let word = if kind == 5 {
                TOKENS[random.random_range(0..TOKENS.len())].as_bytes().to_vec()
            } else {
                let words: Vec<&[u8]> = input.split(edge).filter(|word| !word.is_empty()).collect();
                if words.is_empty() {
                    Vec::new()
                } else {
                    words[random.random_range(0..words.len())].to_vec()
                }
            };
            if start <= end {
                input.splice(start..end, word);
            }
        }
    }
}

#[test]
fn mutated_files_end_in_a_network_or_in_an_error_with_a_line() {
    const ROUNDS: usize = 4000;
    let targets = targets();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut accepted, mut tried) = (0, 0);
    for (name, format) in FILES {
        let original = bytes(name);
        for _ in 0..ROUNDS {
            let mut input = original.clone();
            for _ in 0..random.random_range(1..4) {
                mutate(&mut input, &mut random);
            }
            accepted += read(&input, format, &targets);
            tried += 1;
        }
    }
    assert_eq!(tried, ROUNDS * FILES.len());
    // Were everything refused, or everything accepted, the mutations would not reach the readers.
    assert!(accepted > tried / 20 && accepted < tried, "{accepted} of {tried}");
}

#[test]
fn every_prefix_of_a_file_ends_in_a_value_or_an_error() {
    let targets = targets();
    for (name, format) in FILES {
        let original = bytes(name);
        for length in 0..original.len() {
            read(&original[..length], format, &targets);
        }
    }
}

#[test]
fn nesting_without_end_is_refused_in_every_format() {
    let targets = targets();
    for (open, format) in [
        ("[", Format::NodeLink),
        ("{\"graph\":", Format::NodeLink),
        ("{\"nodes\":[{\"id\":", Format::NodeLink),
        ("<graph>", Format::GraphMl),
        ("<demand>", Format::SndlibXml),
        ("graph [ ", Format::Gml),
        ("node [ ", Format::Gml),
        ("( ", Format::SndlibNative),
    ] {
        let head = if format == Format::SndlibNative {
            "?SNDlib native format; type: network; version: 1.0\nNODES ( "
        } else {
            ""
        };
        let input = format!("{head}{}", open.repeat(200_000));
        assert_eq!(read(input.as_bytes(), format, &targets), 0, "{open}");
    }
    let deep =
        format!("{{\"nodes\":[],\"links\":[],\"graph\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    read(deep.as_bytes(), Format::NodeLink, &targets);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        for format in Format::ALL {
            read(text.as_bytes(), format, &targets());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        for format in Format::ALL {
            read(&input, format, &targets());
        }
        if let Some(format) = Format::from_content(&input) {
            prop_assert_eq!(format.name().parse::<Format>().unwrap(), format);
        }
    }
}

/// Inputs of a megabyte on which a careless reader spends quadratic time or gigabytes.
#[test]
fn large_hostile_inputs_are_done_with_in_linear_time() {
    const SIZE: usize = 1 << 20;
    let targets = targets();
    let many = |piece: &str| piece.repeat(SIZE / piece.len());
    let sndlib = "?SNDlib native format; type: network; version: 1.0\n";
    let numbered =
        |piece: &str| (0..SIZE / 32).map(|at| piece.replace('@', &at.to_string())).collect::<String>();
    let started = std::time::Instant::now();
    for (input, format) in [
        (format!("graph [ node [ id 0 label \"{}\" ] ]", many("&")), Format::Gml),
        (format!("graph [ {} ]", numbered("node [ id @ label \"x\" ]")), Format::Gml),
        (format!("graph [ {} ]", many("k 1 ")), Format::Gml),
        (
            format!("<graphml><graph><node id='0'><data>{}</data></node></graph></graphml>", many("&#32;")),
            Format::GraphMl,
        ),
        (
            format!("<graphml><graph><node id='0'><data>a{}</data></node></graph></graphml>", many("&#32;")),
            Format::GraphMl,
        ),
        (format!("<graphml {}/>", numbered("a@='' ")), Format::GraphMl),
        (format!("<graphml>{}</graphml>", numbered("<key id='@'><default/></key>")), Format::GraphMl),
        (format!("<graphml><graph>{}</graph></graphml>", many("<edge/>")), Format::GraphMl),
        (format!("<!DOCTYPE x [{}]><network/>", many("<!ENTITY a 'b'>")), Format::SndlibXml),
        (format!("{sndlib}NODES ( {} )", numbered("n@ (0 0) ")), Format::SndlibNative),
        (format!("{sndlib}NODES ( a {} b )", many("# comment\n")), Format::SndlibNative),
        (format!("{sndlib}META (\n{})\nNODES ( a )", many("key = value ( )\n")), Format::SndlibNative),
        (
            format!("{{\"nodes\": [{{\"id\": 0}}{}], \"links\": []}}", numbered(",{\"id\": \"@x\"}")),
            Format::NodeLink,
        ),
        (format!("{{\"nodes\": [], \"links\": [], \"graph\": {{{}}}}}", many("\"a\":1,")), Format::NodeLink),
        (format!("NODES 999999999\nlabel x y\n{}", many("x 0 0\n")), Format::Repetita),
        (format!("Node_num: 60000\tEdge_num: 9\na b c d e\n{}", many("0\t0\t1\t1\t1\n")), Format::CfrRl),
        (many("1 "), Format::Rows),
        (many("0 1 1 0 1 1 0 1 1\n"), Format::Rows),
    ] {
        read(input.as_bytes(), format, &targets);
    }
    // Quadratic time on one of these would be minutes.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}
