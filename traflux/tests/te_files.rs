//! Files, units and failures as `traflux te` meets them.
#![allow(clippy::unwrap_used)]

mod te_program;

use te_program::{made, refused, said, warned};

#[test]
fn a_network_survives_the_way_through_every_format_with_links() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    for (file, format) in [
        ("b.graphml", "graphml"),
        ("b.gml", "gml"),
        ("b.graph", "repetita"),
        ("b.xml", "sndlib-xml"),
        ("b.txt", "sndlib"),
        ("b.cfr", "cfr-rl"),
    ] {
        said(at, &["convert", "backbone.json", file, "--to", format]);
        let solved = said(at, &["solve", file, "tm.rows", "--limit", "1", "--json"]);
        let solved: serde_json::Value = serde_json::from_str(&solved).unwrap();
        let original = said(at, &["solve", "backbone.json", "tm.rows", "--limit", "1", "--json"]);
        let original: serde_json::Value = serde_json::from_str(&original).unwrap();
        let (value, expected) =
            (solved[0]["value"].as_f64().unwrap(), original[0]["value"].as_f64().unwrap());
        assert!((value - expected).abs() < 1e-9, "{format}: {value}, expected {expected}");
    }
}

#[test]
fn matrices_keep_their_unit_through_every_format_or_somebody_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let value = |arguments: &[&str]| {
        let solved =
            said(at, &[&["solve", "backbone.json"], arguments, &["--limit", "1", "--json"]].concat());
        let solved: serde_json::Value = serde_json::from_str(&solved).unwrap();
        solved[0]["value"].as_f64().unwrap()
    };
    let expected = value(&["tm.rows"]);
    let convert = |out: &str, to: &[&str]| {
        let all = ["convert", "tm.rows", out, "--network", "backbone.json", "--matrix", "0"];
        warned(at, &[&all[..], to].concat())
    };
    for (file, to, read) in [
        ("m.rows", &["--to", "rows"][..], &[][..]),
        ("m.dat", &["--to", "rows", "--to-unit", "Mbit/s"], &[]),
        ("c.dat", &["--to", "cfr-rl", "--to-unit", "kbit/s"], &[]),
        ("c.tm", &["--to", "cfr-rl"], &["--matrices-from", "cfr-rl"]),
        ("m.demands", &["--to", "repetita"], &[]),
        ("m.txt", &["--to", "sndlib"], &[]),
        ("u.txt", &["--to", "sndlib", "--to-unit", "Gbit/s"], &[]),
        ("m.xml", &["--to", "sndlib-xml"], &[]),
        ("m.json", &["--to", "node-link"], &[]),
    ] {
        convert(file, to);
        let again = value(&[&[file], read].concat());
        assert!((again - expected).abs() <= 1e-12 * expected, "{file}: {again}, expected {expected}");
    }
    // Where the file cannot say its unit, both the writer and the reader do.
    assert!(convert("c.tm", &["--to", "cfr-rl"]).contains("800 bit / 300 s: read it as cfr-rl"));
    let told = warned(at, &["solve", "backbone.json", "c.tm"]);
    assert!(told.contains("rows that do not say their unit, taken for bit/s"), "{told}");
    assert!(convert("k.demands", &["--to", "repetita", "--to-unit", "Mbit/s"]).contains("without it"));
    assert!(
        convert("k.json", &["--to", "node-link", "--to-unit", "Mbit/s"]).contains("say so when it is read")
    );
    assert_eq!(warned(at, &["solve", "backbone.json", "tm.rows"]), "");
}

#[test]
fn a_format_with_room_for_one_matrix_says_so_and_takes_the_one_that_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let convert = ["convert", "tm.rows", "--network", "backbone.json"];
    for (out, format) in [("m.demands", "repetita"), ("m.xml", "sndlib-xml"), ("m.json", "node-link")] {
        let told = refused(at, &[&convert[..], &[out]].concat());
        assert!(
            told.contains(&format!(
                "{format} holds one matrix, there are 12: choose one (`te convert --matrix`)"
            )),
            "{told}"
        );
    }
    let told = refused(at, &[&convert[..], &["m.graphml"]].concat());
    assert!(told.contains("found graphml, which has links only") && !told.contains("line 1"), "{told}");
    said(at, &[&convert[..], &["m.demands", "--matrix", "7"]].concat());
    said(at, &[&convert[..], &["m.rows", "--matrix", "7"]].concat());
    let last = |file: &str| {
        let out = said(at, &["solve", "backbone.json", file, "--json"]);
        let out: serde_json::Value = serde_json::from_str(&out).unwrap();
        out.as_array().unwrap().last().unwrap()["value"].as_f64().unwrap()
    };
    std::fs::write(at.join("head.rows"), {
        let text = std::fs::read_to_string(at.join("tm.rows")).unwrap();
        text.lines().take(8).collect::<Vec<_>>().join("\n")
    })
    .unwrap();
    assert!((last("m.demands") - last("head.rows")).abs() < 1e-12);
    assert!((last("m.rows") - last("head.rows")).abs() < 1e-12);
    let told = refused(at, &[&convert[..], &["m.rows", "--matrix", "12"]].concat());
    assert!(told.contains("--matrix 12: tm.rows holds 12 matrices, counted from 0"), "{told}");
}

#[test]
fn matrices_of_another_network_are_named_by_their_size() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    said(at, &["generate", "network", "large.json", "--nodes", "60"]);
    said(at, &["generate", "matrices", "large.json", "large.rows", "--count", "2"]);
    for command in ["solve", "evaluate", "paths", "bench", "failures"] {
        let told = refused(at, &[command, "backbone.json", "large.rows"]);
        assert!(
            told.contains("large.rows:1:1: matrix has 60×60 entries, network has 8 nodes"),
            "{command}: {told}"
        );
        let told = refused(at, &[command, "large.json", "tm.rows"]);
        assert!(
            told.contains("tm.rows:1:1: matrix has 8×8 entries, network has 60 nodes"),
            "{command}: {told}"
        );
    }
}

#[test]
fn units_that_do_not_fit_are_told_by_every_command_that_plays_matrices() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let learn = ["--updates", "3", "--examples", "3", "--validate", "2", "--states", "2", "--draws", "2"];
    for (command, more) in [
        ("solve", &[][..]),
        ("evaluate", &["--selectors", "top-k"]),
        ("paths", &[]),
        ("failures", &["--of", "nodes"]),
        ("bench", &[]),
        ("train", &learn),
    ] {
        let fits = warned(at, &[&[command, "backbone.json", "tm.rows"], more].concat());
        assert!(!fits.contains("may not fit"), "{command}: {fits}");
        let told =
            warned(at, &[&[command, "backbone.json", "tm.rows", "--demand-unit", "Mbit/s"], more].concat());
        assert!(told.contains("the units of network and matrices may not fit"), "{command}: {told}");
    }
}

#[test]
fn every_solution_is_checked_before_it_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    std::fs::write(at.join("nothing.rows"), format!("{}\n", "0 ".repeat(64))).unwrap();
    for more in [
        &[][..],
        &["--tolerance", "0.01"],
        &["--second", "rerouted"],
        &["--second", "delay"],
        &["-k", "5"],
        &["-k", "5", "--second", "rerouted"],
        &["--objective", "delay"],
        &["--objective", "delay", "-k", "5"],
        &["--objective", "concurrent"],
        &["--objective", "total"],
    ] {
        for deadline in ["60", "0"] {
            for matrices in ["tm.rows", "nothing.rows"] {
                let all = [&["solve", "backbone.json", matrices, "--deadline-s", deadline], more].concat();
                let told = said(at, &all);
                assert!(told.contains("\nchecked: conservation"), "{all:?}: {told}");
            }
        }
    }
}

#[test]
fn gravity_by_capacity_is_one_matrix_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    said(at, &["generate", "network", "backbone.json", "--nodes", "8", "--seed", "7"]);
    let generate = ["generate", "matrices", "backbone.json", "g.rows", "--model"];
    let lines = |more: &[&str]| {
        said(at, &[&generate[..], more].concat());
        let text = std::fs::read_to_string(at.join("g.rows")).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let apart: std::collections::HashSet<&String> = lines.iter().collect();
        assert_eq!(apart.len(), lines.len(), "{more:?}");
        lines.len()
    };
    let told = refused(at, &[&generate[..], &["gravity", "--count", "3"]].concat());
    assert!(told.contains("all 3 matrices would be the same: take --diurnal"), "{told}");
    assert_eq!(lines(&["gravity"]), 1);
    assert_eq!(lines(&["gravity", "--count", "1"]), 1);
    assert_eq!(lines(&["gravity", "--diurnal", "--count", "5"]), 5);
    assert_eq!(lines(&["random-gravity", "--count", "3"]), 3);
    assert_eq!(lines(&["exponential"]), 100);
}

#[test]
fn failures_of_links_nodes_and_shared_risks_are_told_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    made(at);
    let rows = |more: &[&str]| -> Vec<serde_json::Value> {
        let all = [&["failures", "backbone.json", "tm.rows", "--limit", "3", "--json"], more].concat();
        serde_json::from_str(&said(at, &all)).unwrap()
    };
    let number = |row: &serde_json::Value, name: &str| row[name].as_f64().unwrap();
    let (links, nodes) = (rows(&[]), rows(&["--of", "nodes"]));
    assert_eq!(nodes.len(), 1 + 8);
    for row in links.iter().chain(&nodes) {
        let [ecmp, rerouted, optimal] = ["ecmp", "rerouted", "optimal"].map(|name| number(row, name));
        assert!(optimal <= rerouted * (1.0 + 1e-9) && rerouted <= ecmp * (1.0 + 1e-9), "{row}");
        assert!(number(row, "lost_share") == 0.0 || number(row, "pairs_parted") > 0.0, "{row}");
    }
    // A node that fails takes the traffic of its 14 pairs with it; a link of a survivable network takes none.
    assert!(
        nodes[1..].iter().all(|row| number(row, "pairs_parted") >= 14.0 && number(row, "lost_share") > 0.0)
    );
    assert!(links.iter().all(|row| number(row, "optimal") >= number(&links[0], "optimal") * (1.0 - 1e-9)));
    std::fs::write(at.join("ducts.json"), r#"[{"name": "duct 1", "links": [0, 1]}]"#).unwrap();
    let ducts = rows(&["--groups", "ducts.json"]);
    assert_eq!(ducts[1]["failure"], "duct 1");
    let first = links.iter().find(|row| number(row, "ecmp") == number(&ducts[1], "ecmp"));
    assert!(first.is_some_and(|row| number(row, "links_down") == 2.0), "links 0 and 1 are one both ways");
    let table = said(at, &["failures", "backbone.json", "tm.rows", "--limit", "1"]);
    assert!(table.contains("(none)") && table.contains("overfull in "), "{table}");
    std::fs::write(at.join("ducts.json"), r#"[{"name": "duct 1", "links": [999]}]"#).unwrap();
    let told = refused(at, &["failures", "backbone.json", "tm.rows", "--groups", "ducts.json"]);
    assert!(told.contains("risk group"), "{told}");
}
