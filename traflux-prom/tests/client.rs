//! Every way in which a Prometheus, or what stands before it, may answer.

#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Reply, Request, Server, recorded_body};
use traflux_core::ObserveError;
use traflux_prom::{Answer, Auth, HttpOptions, PromClient, PromError, SampleValue, Secret, Value};

async fn answered(reply: Reply) -> Result<Answer, PromError> {
    let server = Server::start(move |_: &Request| reply.clone()).await;
    server.client().instant("up").await
}

async fn recording(name: &str) -> Answer {
    answered(Reply::json(recorded_body(name))).await.unwrap()
}

fn numbers(answer: &Answer, label: &str) -> Vec<(String, f64)> {
    let pair = |sample: &traflux_prom::Sample| {
        (sample.labels.get(label).unwrap_or("").to_owned(), sample.number().unwrap())
    };
    answer.samples().iter().map(pair).collect()
}

#[tokio::test]
async fn every_recorded_answer_is_read() {
    let mut read = 0;
    for entry in std::fs::read_dir(format!("{}/tests/data", env!("CARGO_MANIFEST_DIR"))).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".json").filter(|name| !name.starts_with("fleet_")) {
            recording(name).await;
            read += 1;
        }
    }
    assert_eq!(read, 47);
}

#[tokio::test]
async fn a_busy_vector_gives_the_recorded_percentiles() {
    let answer = recording("busy_A_p95_zone").await;
    assert_eq!(
        numbers(&answer, "traflux_endpoint"),
        [
            ("ep1".to_owned(), 16.06451612903224),
            ("ep2".to_owned(), 42.181818181818116),
            ("ep3".to_owned(), 118.33333333333331)
        ]
    );
    assert!((answer.samples()[0].at.as_secs_f64() - 1_795_375_601.878).abs() < 1e-6);
}

#[tokio::test]
async fn nan_and_infinity_are_kept_as_numbers() {
    assert!(recording("busy_H_nan").await.samples()[0].number().unwrap().is_nan());
    assert_eq!(recording("busy_H_plusinf").await.samples()[0].number(), Some(f64::INFINITY));
    let minus = answered(Reply::vector(r#"[{"metric":{},"value":[1,"-Inf"]}]"#)).await.unwrap();
    assert_eq!(minus.samples()[0].number(), Some(f64::NEG_INFINITY));
}

#[tokio::test]
async fn an_empty_vector_is_an_answer() {
    assert!(recording("busy_G_empty").await.samples().is_empty());
}

#[tokio::test]
async fn scalar_string_and_matrix_are_told_apart() {
    match recording("busy_I_scalar").await.value {
        Value::Scalar(point) => assert_eq!(point.value, 42.0),
        other => panic!("{other:?}"),
    }
    match recording("busy_I_string").await.value {
        Value::String { text, .. } => assert_eq!(text, "x"),
        other => panic!("{other:?}"),
    }
    match recording("busy_I_matrix").await.value {
        Value::Matrix(series) => {
            assert_eq!(series.len(), 3);
            assert_eq!(series[0].points.iter().map(|p| p.value).collect::<Vec<_>>(), [1.0, 2.0, 2.0]);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_native_histogram_has_its_buckets() {
    let answer = recording("native_instant").await;
    let SampleValue::Histogram(histogram) = &answer.samples()[0].value else { panic!("no histogram") };
    assert_eq!(histogram.count, 954.0);
    assert_eq!(histogram.buckets[0].upper, 17.448123722644123);
    assert_eq!(histogram.buckets.iter().map(|b| b.count).sum::<f64>(), 954.0);
    assert_eq!(answer.samples()[0].number(), None);
}

#[tokio::test]
async fn the_result_may_come_before_its_type() {
    let body = r#"{"data":{"result":[{"value":[1.5,"2"],"metric":{"a":"b\"c"}}],"resultType":"vector"},"status":"success"}"#;
    let answer = answered(Reply::json(body)).await.unwrap();
    assert_eq!(numbers(&answer, "a"), [("b\"c".to_owned(), 2.0)]);
}

#[tokio::test]
async fn warnings_and_infos_are_kept() {
    let body = r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["store gone"],"infos":["not a counter"]}"#;
    let answer = answered(Reply::json(body)).await.unwrap();
    assert_eq!(answer.warnings, ["store gone"]);
    assert_eq!(answer.infos, ["not a counter"]);
}

#[tokio::test]
async fn the_query_travels_as_a_form_with_the_deadline() {
    let server = Server::start(|_: &Request| Reply::vector("[]")).await;
    let mut options = server.options();
    options.url = format!("{}/prometheus/", server.url());
    options.deadline = Duration::from_millis(1500);
    PromClient::new(options).unwrap().instant(r#"up{a="b&c=d"} + 1"#).await.unwrap();
    let request = &server.requests()[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/prometheus/api/v1/query"));
    assert_eq!(request.field("query").as_deref(), Some(r#"up{a="b&c=d"} + 1"#));
    assert_eq!(request.field("timeout").as_deref(), Some("1500ms"));
    assert_eq!(request.field("time"), None);
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let json = |status, kind: &str, text: &str| {
        Reply::Plain(status, format!(r#"{{"status":"error","errorType":"{kind}","error":"{text}"}}"#))
    };
    let plain = |status, text: &str| Reply::Plain(status, text.to_owned());
    for (reply, code, transient, observed) in [
        (json(400, "bad_data", "parse error"), "prom_query", false, "observe_bad_query"),
        (json(422, "execution", "many-to-many"), "prom_query", false, "observe_bad_query"),
        (json(422, "timeout", "too slow"), "prom_unavailable", true, "observe_unavailable"),
        (json(503, "timeout", "query timed out"), "prom_unavailable", true, "observe_unavailable"),
        (plain(503, "Service Unavailable"), "prom_unavailable", true, "observe_unavailable"),
        (plain(429, "slow down"), "prom_unavailable", true, "observe_unavailable"),
        (plain(500, "<html>"), "prom_unavailable", true, "observe_unavailable"),
        (
            plain(400, "Client sent an HTTP request to an HTTPS server.\n"),
            "prom_query",
            false,
            "observe_bad_query",
        ),
        (plain(401, "Unauthorized"), "prom_unauthorized", false, "observe_unauthorized"),
        (plain(403, "no"), "prom_unauthorized", false, "observe_unauthorized"),
        (plain(404, "404 page not found"), "prom_not_found", false, "observe_bad_query"),
        (plain(405, "Method Not Allowed"), "prom_not_found", false, "observe_bad_query"),
        (plain(200, "<html>login</html>"), "prom_bad_answer", true, "observe_bad_answer"),
        (plain(200, ""), "prom_bad_answer", true, "observe_bad_answer"),
        (plain(200, r#"{"status":"success"}"#), "prom_bad_answer", true, "observe_bad_answer"),
        (json(200, "bad_data", "x"), "prom_query", false, "observe_bad_query"),
    ] {
        let shown = format!("{reply:?}");
        let error = answered(reply).await.unwrap_err();
        assert_eq!((error.code(), error.is_transient()), (code, transient), "{shown}: {error}");
        assert_eq!(ObserveError::from(error).code(), observed, "{shown}");
    }
}

#[tokio::test]
async fn a_sample_that_is_no_number_or_has_no_value_is_a_bad_answer() {
    for result in [
        r#"[{"metric":{},"value":[1,"one"]}]"#,
        r#"[{"metric":{},"value":[1,2]}]"#,
        r#"[{"metric":{}}]"#,
        r#"[{"value":[1,"2"]}]"#,
        r#"[1]"#,
        "7",
    ] {
        let error = answered(Reply::vector(result)).await.unwrap_err();
        assert_eq!(error.code(), "prom_bad_answer", "{result}: {error}");
    }
}

#[tokio::test]
async fn a_truncated_answer_is_a_bad_answer_and_never_half_a_result() {
    let error = answered(Reply::Truncated(recorded_body("busy_A_p95_zone"))).await.unwrap_err();
    assert_eq!(error.code(), "prom_bad_answer", "{error}");
    let body = recorded_body("busy_A_p95_zone");
    let error = answered(Reply::json(&body[..body.len() - 20])).await.unwrap_err();
    assert_eq!(error.code(), "prom_bad_answer", "{error}");
}

#[tokio::test]
async fn a_server_that_stalls_meets_the_deadline() {
    for reply in [Reply::Silent, Reply::Stuck] {
        let server = Server::start(move |_: &Request| reply.clone()).await;
        let mut options = server.options();
        options.deadline = Duration::from_millis(150);
        let started = std::time::Instant::now();
        let error = PromClient::new(options).unwrap().instant("up").await.unwrap_err();
        assert_eq!(error, PromError::Deadline { host: server.address.to_string(), limit_ms: 150 });
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = PromClient::new(HttpOptions::new(format!("http://{address}"))).unwrap();
    let error = client.instant("up").await.unwrap_err();
    assert_eq!(error.code(), "prom_unreachable");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_refused_announced_or_not() {
    let server = Server::start(|_: &Request| Reply::json("x".repeat(5000))).await;
    let mut options = server.options();
    options.max_response_bytes = 4999;
    let error = PromClient::new(options).unwrap().instant("up").await.unwrap_err();
    assert_eq!(error, PromError::TooLarge { host: server.address.to_string(), limit_bytes: 4999 });
}

#[tokio::test]
async fn a_redirect_is_refused_and_the_credentials_go_nowhere() {
    let elsewhere = Server::start(|_: &Request| Reply::vector("[]")).await;
    let target = format!("{}/api/v1/query", elsewhere.url());
    let server =
        Server::start(move |_: &Request| Reply::With(307, vec![("location", target.clone())], String::new()))
            .await;
    let mut options = server.options();
    options.auth = Auth::Bearer { token: Secret::Text("t".into()) };
    let error = PromClient::new(options).unwrap().instant("up").await.unwrap_err();
    assert_eq!(error.code(), "prom_redirect");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn basic_authentication_and_tenant_header_are_sent() {
    let server = Server::start(|_: &Request| Reply::vector("[]")).await;
    let mut options = server.options();
    options.auth = Auth::Basic { username: "aladdin".into(), password: Secret::Text("opensesame".into()) };
    options.headers = vec![("X-Scope-OrgID".into(), Secret::Text("team-a".into()))];
    PromClient::new(options).unwrap().instant("up").await.unwrap();
    let request = &server.requests()[0];
    // RFC 7617, section 2, with the password of its example in one word.
    assert_eq!(request.headers["authorization"], "Basic YWxhZGRpbjpvcGVuc2VzYW1l");
    assert_eq!(request.headers["x-scope-orgid"], "team-a");
}

#[tokio::test]
async fn a_bearer_token_that_rotates_in_its_file_is_read_again() {
    let server =
        Server::start(|request: &Request| match request.headers.get("authorization").map(String::as_str) {
            Some("Bearer second") => Reply::vector("[]"),
            _ => Reply::Plain(401, "Unauthorized".into()),
        })
        .await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let mut options = server.options();
    options.auth = Auth::Bearer { token: Secret::File(path.clone()) };
    let client = PromClient::new(options).unwrap();
    assert_eq!(client.instant("up").await.unwrap_err().code(), "prom_secret_file");
    std::fs::write(&path, "first\n").unwrap();
    assert_eq!(client.instant("up").await.unwrap_err().code(), "prom_unauthorized");
    std::fs::write(&path, "second\n").unwrap();
    client.instant("up").await.unwrap();
    std::fs::write(&path, "\n").unwrap();
    let error = client.instant("up").await.unwrap_err();
    assert!(error.to_string().contains("it is empty"), "{error}");
}

#[tokio::test]
async fn the_version_proves_that_the_api_is_there() {
    let server = Server::start(|request: &Request| match request.path.as_str() {
        "/api/v1/status/buildinfo" => {
            Reply::json(r#"{"status":"success","data":{"version":"2.42.0","revision":"x"}}"#)
        }
        _ => Reply::Plain(404, "404 page not found".into()),
    })
    .await;
    assert_eq!(server.client().version().await.unwrap(), "2.42.0");
}

#[tokio::test]
async fn a_tls_port_asked_in_plain_text_says_so() {
    let text = "Client sent an HTTP request to an HTTPS server.\n";
    let server = Server::start(move |_: &Request| Reply::Plain(400, text.into())).await;
    let error = server.client().version().await.unwrap_err();
    assert!(
        error.to_string().ends_with("status 400: Client sent an HTTP request to an HTTPS server."),
        "{error}"
    );
}
