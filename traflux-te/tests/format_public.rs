//! The files people have, from the folder that `TRAFLUX_DATA` names.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use traflux_core::network::{Network, NodeIx};
use traflux_core::units::BitRate;
use traflux_te::format::{
    Format, MatrixRows, RateUnit, ReadOptions, WriteOptions, read_matrices, read_matrices_file, read_network,
    read_network_file, write_matrices, write_network,
};

/// A public file; `None`, and a line that says so, where the folder is not given.
fn public(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("TRAFLUX_DATA") else {
        eprintln!("skipped: TRAFLUX_DATA is not set, {name} is not read");
        return None;
    };
    let path = PathBuf::from(folder).join(name);
    assert!(path.exists(), "{} is missing", path.display());
    Some(path)
}

fn network(name: &str, format: Format) -> Option<Network> {
    let path = public(name)?;
    assert_eq!(Format::from_path(&path).unwrap(), format, "{name}");
    let file = read_network_file(&path, None, &ReadOptions::default()).unwrap();
    assert_eq!(file.warnings, [], "{name}");
    Some(file.network)
}

#[test]
fn public_networks_have_the_published_numbers_of_nodes_and_links() {
    for (name, format, nodes, links) in [
        ("cfr-rl/Abilene", Format::CfrRl, 12, 30),
        ("cfr-rl/Ebone", Format::CfrRl, 23, 76),
        ("cfr-rl/Sprintlink", Format::CfrRl, 44, 166),
        ("cfr-rl/Tiscali", Format::CfrRl, 49, 172),
        ("geant/GEANT.json", Format::NodeLink, 22, 72),
        ("teal/B4.json", Format::NodeLink, 12, 38),
        ("teal/UsCarrier.json", Format::NodeLink, 158, 378),
        ("teal/Kdl.json", Format::NodeLink, 754, 1790),
    ] {
        let Some(network) = network(name, format) else { return };
        assert_eq!((network.nodes().len(), network.links().len()), (nodes, links), "{name}");
        // Every format that holds links holds these.
        for format in Format::ALL.into_iter().filter(|format| *format != Format::Rows) {
            let written = write_network(&network, None, format, &WriteOptions::default()).unwrap();
            let again = read_network(written.text.as_bytes(), format, &ReadOptions::default()).unwrap();
            assert_eq!(again.network, network, "{name} as {format}");
        }
    }
}

#[test]
fn abilene_has_the_capacities_weights_and_totals_of_its_publication() {
    let Some(network) = network("cfr-rl/Abilene", Format::CfrRl) else { return };
    // OC-192 everywhere but between 1 and 5, which is OC-48.
    for link in network.links() {
        let narrow = [link.tail, link.head] == [NodeIx(1), NodeIx(5)]
            || [link.tail, link.head] == [NodeIx(5), NodeIx(1)];
        assert_eq!(link.capacity.get(), if narrow { 2.48e9 } else { 9.92e9 });
    }
    assert_eq!(network.links()[28].weight, 846.0);
    let path = public("cfr-rl/AbileneTM").unwrap();
    let read =
        |format, options: &ReadOptions| read_matrices_file(&path, Some(format), &network, options).unwrap();
    let matrices = read(Format::CfrRl, &ReadOptions::default());
    assert_eq!(matrices.len(), 2016);
    // 1.9582800e+05 · 800 bit / 300 s; SNDlib publishes this demand of that minute as 0.522208 Mbit/s.
    assert_eq!(matrices[0].demand(NodeIx(0), NodeIx(1)), 522_208.0);
    let mean = matrices.iter().map(|matrix| matrix.total()).sum::<f64>() / 2016.0;
    // The sum of the file's numbers off the diagonal, by awk; with the diagonal it would be 3.61092e9.
    assert!((mean - 2.98941e9).abs() < 1e4, "{mean}");
    // The same numbers as rows with the unit in words.
    let options = ReadOptions { unit: Some("100 bytes / 5 min".parse().unwrap()), ..ReadOptions::default() };
    assert_eq!(read(Format::Rows, &options), matrices);
    // Read one by one.
    let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
    let rows = MatrixRows::new(file, None, RateUnit::HUNDRED_BYTES_PER_FIVE_MINUTES);
    assert!(rows.zip(&matrices).all(|(row, matrix)| row.unwrap() == *matrix));
}

#[test]
fn geant_has_a_hundred_matrices_that_write_and_read_back() {
    let Some(network) = network("geant/GEANT.json", Format::NodeLink) else { return };
    let path = public("geant/geant_tm_first100.txt").unwrap();
    assert_eq!(Format::from_path(&path).unwrap(), Format::Rows);
    let matrices = read_matrices_file(&path, None, &network, &ReadOptions::default()).unwrap();
    assert_eq!(matrices.len(), 100);
    assert_eq!(matrices[0].demand(NodeIx(0), NodeIx(1)), 36_932_697.0);
    for unit in [None, Some(RateUnit::MEGABIT)] {
        let write = WriteOptions { unit, ..WriteOptions::default() };
        let read = ReadOptions { unit, ..ReadOptions::default() };
        let text = write_matrices(&network, &matrices, Format::Rows, &write).unwrap().text;
        assert_eq!(read_matrices(text.as_bytes(), Format::Rows, &network, &read).unwrap(), matrices);
    }
}

#[test]
fn nodes_of_b4_stand_in_the_order_of_their_numbers() {
    let Some(network) = network("teal/B4.json", Format::NodeLink) else { return };
    // The file lists 0, 1, 2, 4, 3, …; matrices count by the numbers.
    assert!(network.nodes().iter().enumerate().all(|(at, node)| node.name == at.to_string()));
    assert_eq!(network.links()[3].head, NodeIx(4));
    assert_eq!(network.links()[0].capacity, BitRate::bits_per_second(5000.0));
}
