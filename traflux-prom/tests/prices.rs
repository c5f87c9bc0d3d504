//! Prices from values, files and HTTP, and what happens when they cannot be read.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Reply, Request, Server, topology};
use traflux_core::{HourlyPrice, Telemetry, Timestamp, UnitPrice};
use traflux_prom::{PriceBook, PriceEntry};

fn at(seconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_secs(seconds))
}

fn marginal(source: Option<&str>, service: Option<&str>, endpoint: &str, dollars: f64) -> PriceEntry {
    PriceEntry {
        endpoint: endpoint.into(),
        source: source.map(Into::into),
        service: service.map(Into::into),
        usd_per_million: Some(UnitPrice::per_million(dollars)),
        usd_per_hour: None,
    }
}

fn price(book: &PriceBook, source: &str) -> Option<f64> {
    book.route_price(source, "dyn", "ep1").map(UnitPrice::get)
}

#[test]
fn the_more_specific_price_wins() {
    let book = PriceBook::new()
        .with_values(vec![
            marginal(None, None, "ep1", 1.0),
            marginal(None, Some("dyn"), "ep1", 2.0),
            marginal(Some("eu"), None, "ep1", 3.0),
            marginal(Some("us"), Some("dyn"), "ep1", 4.0),
            marginal(Some("us"), None, "ep1", 5.0),
        ])
        .unwrap();
    assert_eq!(
        (price(&book, "us"), price(&book, "eu"), price(&book, "ap")),
        (Some(4.0), Some(3.0), Some(2.0))
    );
    assert_eq!(book.route_price("us", "other", "ep1").map(UnitPrice::get), Some(5.0));
    assert_eq!(book.route_price("us", "dyn", "ep2"), None);
}

#[test]
fn entries_that_cannot_be_meant_are_refused() {
    let hourly = PriceEntry {
        usd_per_million: None,
        usd_per_hour: Some(HourlyPrice::per_hour(1.0)),
        ..marginal(Some("us"), None, "ep1", 0.0)
    };
    let nothing = PriceEntry { usd_per_million: None, ..marginal(None, None, "ep1", 0.0) };
    let twice = vec![marginal(None, None, "ep1", 1.0), marginal(None, None, "ep1", 2.0)];
    for entries in [vec![hourly], vec![nothing], twice] {
        let error = PriceBook::new().with_values(entries).unwrap_err();
        assert_eq!(error.code(), "prom_prices");
    }
}

#[tokio::test]
async fn a_file_is_taken_again_when_its_content_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prices.csv");
    std::fs::write(
        &path,
        "endpoint,source,usd_per_million,usd_per_hour\n# a comment\nep1,us,1.8,\nep1,,,0.19\n",
    )
    .unwrap();
    let mut book = PriceBook::new().with_file(&path);
    assert_eq!(book.age(at(0)), None);
    assert!(book.poll(at(10)).await.changed);
    assert_eq!(price(&book, "us"), Some(1.8));
    assert_eq!(book.hourly_price("ep1").map(HourlyPrice::get), Some(0.19));
    assert!(!book.poll(at(20)).await.changed);
    assert_eq!(book.age(at(25)), Some(Duration::from_secs(5)));

    // The same length and, on a coarse clock, the same time stamp.
    std::fs::write(
        &path,
        "endpoint,source,usd_per_million,usd_per_hour\n# a comment\nep1,us,2.8,\nep1,,,0.19\n",
    )
    .unwrap();
    assert!(book.poll(at(30)).await.changed);
    assert_eq!(price(&book, "us"), Some(2.8));
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_prices_with_a_warning_and_their_age() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prices.json");
    std::fs::write(
        &path,
        r#"[{"endpoint":"ep1","usd_per_million":1.5},{"endpoint":"ep1","usd_per_hour":0.2}]"#,
    )
    .unwrap();
    let mut book = PriceBook::new().with_file(&path);
    assert!(book.poll(at(100)).await.errors.is_empty());

    for broken in [
        r#"[{"endpoint":"ep1","usd_per_million":-1}]"#,
        r#"[{"endpoint":"ep1","usd_per_milion":1}]"#,
        r#"[{"endpoint":"ep1"}]"#,
        r#"[{"endpoint":"ep1","usd_per_million":"#,
        "",
    ] {
        std::fs::write(&path, broken).unwrap();
        let poll = book.poll(at(160)).await;
        assert_eq!((poll.changed, poll.errors.len()), (false, 1), "{broken}");
        assert_eq!(poll.errors[0].code(), "prom_prices");
        assert_eq!(price(&book, "us"), Some(1.5));
    }
    let topology = topology(&[("us", "dyn"), ("eu", "dyn")], &["ep1", "ep2"]);
    let mut telemetry = Telemetry::empty(&topology, at(160), Duration::from_secs(10));
    book.apply(&topology, &mut telemetry);
    assert_eq!(telemetry.routes[0].price, Some(UnitPrice::per_million(1.5)));
    assert_eq!(telemetry.routes[1].price, None);
    assert_eq!(telemetry.resources[0].hourly_price, Some(HourlyPrice::per_hour(0.2)));
    assert_eq!(telemetry.warnings.len(), 1);
    assert!(telemetry.warnings[0].ends_with("; those read 60 s ago stay"), "{:?}", telemetry.warnings);

    std::fs::write(&path, r#"{"prices":[{"endpoint":"ep1","usd_per_million":9}]}"#).unwrap();
    assert!(book.poll(at(170)).await.changed);
    assert_eq!(price(&book, "us"), Some(9.0));
    assert_eq!(book.hourly_price("ep1"), None);
    let mut telemetry = Telemetry::empty(&topology, at(170), Duration::from_secs(10));
    book.apply(&topology, &mut telemetry);
    assert_eq!(telemetry.warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_csv_that_is_wrong_names_the_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.CSV");
    for (text, reason) in [
        ("endpoint,price\n", "unknown column `price`"),
        ("endpoint,endpoint\n", "column `endpoint` is there twice"),
        ("endpoint,usd_per_million\na,1\nb\n", "line 3 has 1 fields, the header 2"),
        ("endpoint,usd_per_million\na,free\n", "line 2: usd_per_million `free` is no number"),
        ("endpoint,usd_per_million\na,NaN\n", "line 2: a price per million requests must be finite"),
        ("endpoint,usd_per_million\n,1\n", "line 2 names no endpoint"),
        ("# only a comment\n", "there is no header line"),
    ] {
        std::fs::write(&path, text).unwrap();
        let poll = PriceBook::new().with_file(&path).poll(at(1)).await;
        let error = poll.errors[0].to_string();
        assert!(error.contains(reason), "{text}: {error}");
    }
}

#[tokio::test]
async fn an_address_is_asked_once_per_interval_and_overrides_the_configuration() {
    let body = Arc::new(Mutex::new(r#"[{"endpoint":"ep1","usd_per_million":3}]"#.to_owned()));
    let served = Arc::clone(&body);
    let server = Server::start(move |_: &Request| match served.lock().unwrap().as_str() {
        "down" => Reply::Plain(503, "Service Unavailable".into()),
        "silent" => Reply::Silent,
        text => Reply::json(text),
    })
    .await;
    let mut options = server.options();
    options.deadline = Duration::from_millis(1500);
    options.url = format!("{}/v1/prices", server.url());
    let mut book = PriceBook::new()
        .with_values(vec![marginal(None, None, "ep1", 1.0)])
        .unwrap()
        .with_http(options, Duration::from_secs(60))
        .unwrap();
    assert_eq!(price(&book, "us"), Some(1.0));
    assert!(book.poll(at(1000)).await.changed);
    assert_eq!(price(&book, "us"), Some(3.0));
    assert_eq!(server.requests()[0].path, "/v1/prices");

    *body.lock().unwrap() = r#"[{"endpoint":"ep1","usd_per_million":4}]"#.into();
    assert!(!book.poll(at(1059)).await.changed);
    assert_eq!(server.requests().len(), 1);
    assert!(book.poll(at(1060)).await.changed);
    assert_eq!(price(&book, "us"), Some(4.0));

    for (now, state, code) in [(1120, "down", "prom_unavailable"), (1180, "silent", "prom_deadline")] {
        *body.lock().unwrap() = state.into();
        let poll = book.poll(at(now)).await;
        assert_eq!(poll.errors[0].code(), code);
        assert_eq!(price(&book, "us"), Some(4.0));
    }
    assert_eq!(book.age(at(1180)), Some(Duration::from_secs(120)));

    // A clock that jumps back does not stop the polling.
    *body.lock().unwrap() = r#"[{"endpoint":"ep1","usd_per_million":5}]"#.into();
    assert!(book.poll(at(500)).await.changed);
    assert_eq!(price(&book, "us"), Some(5.0));
}
