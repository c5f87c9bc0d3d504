//! `traflux doctor` against a Prometheus and a controller that can be made to miss something.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use traflux::Config;
use traflux::doctor::{Finding, Level, diagnose, failed, render};

/// What the Prometheus of a test knows.
#[derive(Clone)]
struct Prometheus {
    clock_offset_s: f64,
    /// (source, instance, up).
    targets: Vec<(&'static str, &'static str, f64)>,
    scraped_every_s: f64,
    /// (source, endpoint) of service checkout.
    series: Vec<(&'static str, &'static str)>,
    untagged_zones: bool,
    /// Whether any cluster of an Envoy completed a request.
    clusters: bool,
    /// Sources that sent requests to service checkout.
    carrying: Vec<&'static str>,
    buckets: Vec<&'static str>,
    counter_changes: f64,
    histogram_changes: f64,
    refuses: Option<&'static str>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            clock_offset_s: 0.0,
            targets: vec![("eu", "eu:9901", 1.0), ("us", "us:9901", 1.0)],
            scraped_every_s: 1.0,
            series: vec![("eu", "a_1"), ("eu", "b"), ("us", "a_1"), ("us", "b")],
            untagged_zones: false,
            clusters: true,
            carrying: vec!["eu", "us"],
            buckets: vec!["1", "2", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "+Inf"],
            counter_changes: 59.0,
            histogram_changes: 58.0,
            refuses: None,
        }
    }
}

impl Prometheus {
    fn answer(&self, query: &str) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + self.clock_offset_s;
        let vector = |samples: Vec<(Value, f64)>| {
            let samples: Vec<Value> = samples
                .into_iter()
                .map(|(labels, value)| json!({ "metric": labels, "value": [now, value.to_string()] }))
                .collect();
            json!({ "resultType": "vector", "result": samples })
        };
        let up = |(source, instance, _): &(&str, &str, f64)| json!({ "traflux_source": source, "instance": instance });
        let series = || {
            let labels = |(source, endpoint): &(&str, &str)| json!({ "traflux_source": source, "envoy_cluster_name": "checkout", "traflux_endpoint": endpoint });
            self.series.iter().map(|s| (labels(s), 1.0)).collect::<Vec<_>>()
        };
        let one = |is: bool| vector(if is { vec![(json!({}), 1.0)] } else { Vec::new() });
        if query == "time()" {
            json!({ "resultType": "scalar", "result": [now, now.to_string()] })
        } else if query.starts_with("up{") && query.ends_with(']') {
            let points: Vec<Value> =
                (0..10).map(|n| json!([now - self.scraped_every_s * f64::from(10 - n), "1"])).collect();
            let result: Vec<Value> =
                self.targets.iter().map(|t| json!({ "metric": up(t), "values": points })).collect();
            json!({ "resultType": "matrix", "result": result })
        } else if query.starts_with("up{") {
            vector(self.targets.iter().map(|t| (up(t), t.2)).collect())
        } else if query.contains("cluster_zone_") {
            one(self.untagged_zones)
        } else if query.starts_with("count(envoy_cluster_upstream_rq_completed") {
            one(self.clusters)
        } else if query.starts_with("count by (traflux_source) (envoy_cluster_upstream_rq_completed") {
            assert!(query.contains("envoy_cluster_name=~\"checkout\""), "{query}");
            vector(self.carrying.iter().map(|s| (json!({ "traflux_source": s }), 1.0)).collect())
        } else if query.starts_with("count by (le)") {
            vector(self.buckets.iter().map(|le| (json!({ "le": le }), 1.0)).collect())
        } else if query.starts_with("max(changes(") {
            let histogram = query.contains("_time_count");
            vector(vec![(json!({}), if histogram { self.histogram_changes } else { self.counter_changes })])
        } else {
            vector(series())
        }
    }

    async fn serve(self) -> SocketAddr {
        let app = Router::new()
            .route(
                "/api/v1/status/buildinfo",
                get(|| async { Json(json!({ "data": { "version": "2.42.0" } })) }),
            )
            .route("/api/v1/query", post(query))
            .with_state(Arc::new(self));
        listen(app).await
    }
}

async fn query(State(prometheus): State<Arc<Prometheus>>, body: String) -> Response {
    #[derive(serde::Deserialize)]
    struct Form {
        query: String,
    }
    let uri = format!("/?{body}").parse().unwrap();
    let Query(form): Query<Form> = Query::try_from_uri(&uri).unwrap();
    if prometheus.refuses.is_some_and(|words| form.query.contains(words)) {
        let error = json!({ "status": "error", "errorType": "execution", "error": "many-to-many matching" });
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response();
    }
    Json(json!({ "status": "success", "data": prometheus.answer(&form.query) })).into_response()
}

async fn listen(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A port that nobody listens on.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

fn group(name: &str) -> Value {
    json!({ "group": name, "target": "p7", "in_force": { "version": "p7" }, "nodes": 1, "parked": [] })
}

fn status() -> Value {
    json!({
        "version": "0.1.0", "verdict": "ok", "ready": true, "uptime_s": 61.5, "ticks": 12, "mode": "none",
        "frozen": false, "alarms": [],
        "data_plane": { "groups": [group("eu"), group("us")], "counters": { "unknown_nodes": 0 } }
    })
}

struct Rig {
    prometheus: Prometheus,
    status: Option<Value>,
    window_s: f64,
    directory: tempfile::TempDir,
}

impl Default for Rig {
    fn default() -> Self {
        Self {
            prometheus: Prometheus::default(),
            status: Some(status()),
            window_s: 10.0,
            directory: tempfile::tempdir().unwrap(),
        }
    }
}

impl Rig {
    fn with(prometheus: Prometheus) -> Self {
        Self { prometheus, ..Self::default() }
    }

    async fn findings(self) -> Vec<Finding> {
        let prometheus = self.prometheus.clone().serve().await;
        self.findings_of(prometheus).await
    }

    async fn findings_of(self, prometheus: SocketAddr) -> Vec<Finding> {
        let api = match self.status.clone() {
            Some(status) => {
                let answer = move || async move { Json(status) };
                listen(Router::new().route("/api/status", get(answer))).await
            }
            None => nobody().await,
        };
        let window_s = self.window_s;
        let state = self.directory.path().join("state.json");
        let config = format!(
            "sources: [{{ name: eu }}, {{ name: us }}]\n\
             services:\n- name: checkout\n  timeout_ms: 2000\n  endpoints:\n  \
             - {{ name: a.1, address: '127.0.0.1:1', capacity_rps: 10 }}\n  \
             - {{ name: b, address: '127.0.0.1:2', capacity_rps: 10 }}\n\
             metrics: {{ prometheus: {{ url: 'http://{prometheus}', scrape_interval_s: 1, window_s: {window_s} }} }}\n\
             api: {{ listen: '{api}' }}\nxds: {{ listen: '{api}' }}\nstate_file: {}\n",
            state.display()
        );
        diagnose(&Config::parse(&config).unwrap()).await
    }
}

#[track_caller]
fn finding<'a>(findings: &'a [Finding], what: &str) -> &'a Finding {
    findings.iter().find(|f| f.what == what).unwrap_or_else(|| panic!("no {what} in\n{}", render(findings)))
}

#[track_caller]
fn says(findings: &[Finding], what: &str, level: Level, detail: &str, fix: &str) {
    let found = finding(findings, what);
    assert_eq!(found.level, level, "{found:?}");
    assert!(found.detail.contains(detail), "{found:?}");
    assert!(found.fix.as_deref().unwrap_or("").contains(fix), "{found:?}");
}

#[tokio::test]
async fn a_sound_set_up_has_nothing_to_mend() {
    let findings = Rig::default().findings().await;
    assert!(!failed(&findings), "{}", render(&findings));
    for what in [
        "configuration",
        "api address",
        "xds address",
        "state file",
        "prometheus",
        "clocks",
        "targets of eu",
        "targets of us",
        "scrape interval",
        "series of eu",
        "series of us",
        "latency histograms",
        "stats flush interval",
        "queries",
        "xds port",
        "controller",
        "envoys of eu",
        "envoys of us",
    ] {
        assert_eq!(finding(&findings, what).level, Level::Ok, "{what}\n{}", render(&findings));
    }
    says(&findings, "api token", Level::Warn, "nothing can be changed", "api.token_file");
    says(&findings, "prometheus", Level::Ok, "version 2.42.0", "");
}

#[tokio::test]
async fn a_prometheus_that_is_gone_is_said_once() {
    let findings = Rig::default().findings_of(nobody().await).await;
    says(&findings, "prometheus", Level::Fail, "unreachable", "metrics.prometheus.url");
    assert!(findings.iter().all(|f| !f.what.starts_with("targets")), "{}", render(&findings));
    assert!(failed(&findings));
}

#[tokio::test]
async fn targets_without_the_label_are_missing_and_targets_that_are_down_are_named() {
    let none = Rig::with(Prometheus { targets: Vec::new(), ..Prometheus::default() }).findings().await;
    says(&none, "scrape targets", Level::Fail, "`traflux_source`", "bootstrap prometheus");
    let targets =
        vec![("eu", "eu:9901", 0.0), ("us", "us:1", 1.0), ("us", "us:2", 0.0), ("asia", "as:1", 1.0)];
    let some = Rig::with(Prometheus { targets, ..Prometheus::default() }).findings().await;
    says(&some, "targets of eu", Level::Fail, "down: eu:9901", "admin interface");
    says(&some, "targets of us", Level::Warn, "1 up, down: us:2", "scrape configuration");
    says(&some, "targets of no source", Level::Warn, "asia", "`sources`");
}

#[tokio::test]
async fn each_reason_for_missing_series_has_a_fix_of_its_own() {
    let rig = |untagged_zones, carrying, clusters| {
        let series = Vec::new();
        Rig::with(Prometheus { series, untagged_zones, carrying, clusters, ..Prometheus::default() })
    };
    let what = "series of endpoints";
    says(&rig(true, vec!["eu"], true).findings().await, what, Level::Fail, "traflux_endpoint", "stats_tags");
    says(
        &rig(false, vec!["eu"], true).findings().await,
        what,
        Level::Fail,
        "none of zones",
        "--service-zone",
    );
    says(&rig(false, vec![], true).findings().await, what, Level::Warn, "no request", "listener");
    says(&rig(false, vec![], false).findings().await, what, Level::Fail, "rq_completed", "/stats/prometheus");
}

#[tokio::test]
async fn series_are_compared_with_the_configured_names() {
    let series = vec![("eu", "a_1"), ("eu", "old")];
    let prometheus = Prometheus { series, ..Prometheus::default() };
    let findings = Rig::with(prometheus.clone()).findings().await;
    says(&findings, "series of eu", Level::Warn, "1 endpoints; none yet of b", "first request");
    says(&findings, "series of us", Level::Fail, "none of zones", "node.locality.zone");
    let idle = Rig::with(Prometheus { carrying: vec!["eu"], ..prometheus }).findings().await;
    says(&idle, "series of us", Level::Warn, "no request yet", "look again");
    says(&findings, "unknown series", Level::Warn, "checkout/old", "removed");
}

#[tokio::test]
async fn a_window_must_hold_four_scrapes() {
    let rig = |scraped_every_s| Rig::with(Prometheus { scraped_every_s, ..Prometheus::default() });
    says(&rig(6.0).findings().await, "scrape interval", Level::Fail, "every 6.0 s", "at least 24");
    says(&rig(4.0).findings().await, "scrape interval", Level::Warn, "fewer than four", "16");
    says(&rig(2.0).findings().await, "scrape interval", Level::Warn, "says 1 s", "dead time");
}

#[tokio::test]
async fn coarse_buckets_a_slow_flush_and_a_wrong_clock_are_seen() {
    let buckets = vec!["0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "+Inf"];
    let prometheus =
        Prometheus { buckets, histogram_changes: 12.0, clock_offset_s: -30.0, ..Prometheus::default() };
    let findings = Rig::with(prometheus).findings().await;
    says(&findings, "latency histograms", Level::Warn, "none between 1 and 5 ms", "bootstrap envoy");
    says(&findings, "stats flush interval", Level::Warn, "12 times while", "stats_flush_interval: 1s");
    says(&findings, "clocks", Level::Warn, "behind this machine", "time service");
    let short = Prometheus { buckets: vec!["1", "2", "+Inf"], counter_changes: 2.0, ..Prometheus::default() };
    let findings = Rig::with(short).findings().await;
    says(&findings, "latency histograms", Level::Warn, "ends at 2 ms", "bootstrap envoy");
    says(&findings, "stats flush interval", Level::Warn, "cannot be told", "requests");
}

#[tokio::test]
async fn a_query_that_is_refused_is_repeated() {
    let prometheus = Prometheus { refuses: Some("envoy_response_code_class"), ..Prometheus::default() };
    let findings = Rig::with(prometheus).findings().await;
    says(&findings, "queries", Level::Fail, "errors: ", "metrics.prometheus");
    says(&findings, "queries", Level::Fail, "many-to-many matching", "");
}

#[tokio::test]
async fn a_controller_that_does_not_run_is_no_failure() {
    let findings = Rig { status: None, ..Rig::default() }.findings().await;
    says(&findings, "controller", Level::Warn, "refused", "traflux run");
    says(&findings, "xds port", Level::Warn, "refused", "xds.listen");
    assert!(!failed(&findings));
}

#[tokio::test]
async fn envoys_that_are_missing_or_refuse_are_named() {
    let mut status = status();
    status["alarms"] =
        json!([{ "code": "metrics_stale", "verdict": "alarm", "message": "no fresh metrics" }]);
    status["data_plane"] = json!({
        "groups": [
            { "group": "eu", "target": "p8", "in_force": { "version": "p7" }, "nodes": 2,
              "parked": [{ "kind": "endpoint", "name": "checkout", "reason": "weight must be at least 1" }] },
            { "group": "us", "target": "p8", "in_force": null, "nodes": 0, "parked": [] }
        ],
        "counters": { "unknown_nodes": 3, "unauthorized_nodes": 0 }
    });
    let findings = Rig { status: Some(status), ..Rig::default() }.findings().await;
    says(
        &findings,
        "envoys of eu",
        Level::Fail,
        "refused endpoint checkout: weight must",
        "last good weights",
    );
    says(&findings, "envoys of us", Level::Fail, "none is connected", "bootstrap envoy");
    says(&findings, "envoys of no source", Level::Warn, "3 streams", "node.locality.zone");
    says(&findings, "alarm metrics_stale", Level::Fail, "no fresh metrics", "/api/decisions");
}

#[tokio::test]
async fn a_controller_that_moves_nothing_says_why() {
    let of = |key: &'static str, value: Value| async move {
        let mut status = status();
        status[key] = value;
        Rig { status: Some(status), ..Rig::default() }.findings().await
    };
    says(&of("frozen", json!(true)).await, "controller", Level::Warn, "frozen", "/api/resume");
    says(&of("ready", json!(false)).await, "controller", Level::Warn, "not ready", "/readyz");
    says(&of("mode", json!("shadow")).await, "controller", Level::Warn, "moves nothing", "policy.mode");
}

#[cfg(unix)]
#[tokio::test]
async fn a_token_that_everybody_can_read_is_a_failure() {
    use std::os::unix::fs::PermissionsExt;
    for (mode, text, level, detail) in [
        (0o644, "0123456789abcdef", Level::Fail, "everybody"),
        (0o600, "short", Level::Fail, "5 characters"),
        (0o600, "0123456789abcdef", Level::Ok, "token"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut config = Config::parse(
            "sources: [{ name: eu }]\n\
             services: [{ name: s, endpoints: [{ name: a, address: '127.0.0.1:1', capacity_rps: 1 }] }]\n\
             metrics: { prometheus: { url: 'http://127.0.0.1:9' } }\n",
        )
        .unwrap();
        config.api.listen = nobody().await;
        config.xds.listen = config.api.listen;
        config.state_file = Some(directory.path().join("deep/er/state.json"));
        config.api.token_file = Some(path);
        let findings = diagnose(&config).await;
        says(&findings, "api token", level, detail, "");
        says(&findings, "state file", Level::Ok, "can be written", "");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left behind");
    }
}

#[tokio::test]
async fn a_state_file_that_cannot_be_kept_is_a_failure() {
    let rig = Rig::default();
    std::fs::write(rig.directory.path().join("state.json"), "{").unwrap();
    says(&rig.findings().await, "state file", Level::Fail, "cannot be read", "move it away");
}
