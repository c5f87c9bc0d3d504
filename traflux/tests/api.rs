//! The HTTP API, over a real socket, with a real [`ServiceState`] and a task that answers commands.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use traflux::api;
use traflux::controller::{Decision, FlowView, GroupView, Mode};
use traflux::service::{
    Command, CommandError, ParameterPatch, Parameters, ServiceState, TrainReply, TrainRequest,
};
use traflux_core::{Attribution, Health, Reward, Rung};
use traflux_prom::Exporter;

const TOKEN: &str = "a-token-of-sixteen-and-more";

struct Api {
    base: String,
    client: Client,
    state: Arc<ServiceState>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Api {
    async fn start(token: Option<&str>, commands: mpsc::Sender<Command>) -> Self {
        let state = Arc::new(ServiceState::new(
            2000,
            Arc::new(Exporter::new()),
            commands,
            Box::new(|| {
                json!({ "groups": [
                    { "group": "eu", "target": "p2", "in_force": { "version": "p1", "since": 1 }, "nodes": 2, "parked": [] },
                    { "group": "us", "target": "p2", "in_force": null, "nodes": 0, "parked": [{ "name": "x" }] }
                ] })
            }),
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let router = api::router(Arc::clone(&state), token.map(str::to_owned));
        let server = tokio::spawn(api::serve(listener, router, async {
            let _ = stopped.await;
        }));
        let client = Client::builder().no_proxy().build().unwrap();
        Self { base, client, state, stop: Some(stop), server }
    }

    /// An API whose controller answers like a real one.
    async fn with_controller(token: Option<&str>) -> Self {
        let (commands, inbox) = mpsc::channel(8);
        tokio::spawn(controller(inbox));
        Self::start(token, commands).await
    }

    fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn get(&self, path: &str) -> Response {
        self.call(Method::GET, path).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    async fn change(&self, method: Method, path: &str, body: Value) -> Response {
        self.call(method, path).bearer_auth(TOKEN).json(&body).send().await.unwrap()
    }
}

/// Freezes, resumes, and keeps one number.
async fn controller(mut inbox: mpsc::Receiver<Command>) {
    let mut parameters = Parameters {
        k: Some(3),
        max_utilization: 0.8,
        usd_per_million_for_10_ms: None,
        budget_usd_per_hour: Some(12.0),
        error_ms: 2000.0,
        churn_ms: 2.0,
        headroom: 0.1,
        min_share: 0.01,
        max_share: 1.0,
        probe_share: 0.01,
        min_healthy: 0.34,
        step_per_s: 0.02,
        learning_rate: None,
    };
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Freeze(reply) | Command::Resume(reply) => reply.send(Ok(())).unwrap(),
            Command::Parameters(reply) => reply.send(Ok(parameters.clone())).unwrap(),
            Command::Patch(ParameterPatch { k: Some(Some(0)), .. }, reply) => {
                let problem = "is 0, must be at least 1".to_owned();
                reply.send(Err(CommandError::Invalid { key: "policy.k".to_owned(), problem })).unwrap();
            }
            Command::Patch(patch, reply) => {
                parameters.k = patch.k.unwrap_or(parameters.k);
                parameters.budget_usd_per_hour =
                    patch.budget_usd_per_hour.unwrap_or(parameters.budget_usd_per_hour);
                reply.send(Ok(parameters.clone())).unwrap();
            }
            Command::Services(services, reply) => {
                assert!(!services.is_empty());
                reply.send(Ok(())).unwrap();
            }
            Command::Train(TrainRequest { updates: Some(updates) }, reply) => {
                let done = TrainReply { transitions: 9, updates: updates as u64, parameters_version: 4 };
                reply.send(Ok(done)).unwrap();
            }
            Command::Train(_, reply) => {
                let refused = CommandError::NotAvailable { what: "training", needs: "mode `learning`" };
                reply.send(Err(refused)).unwrap();
            }
        }
    }
}

fn decision(tick: u64) -> Decision {
    let endpoint = |name: &str, health| GroupView {
        name: name.to_owned(),
        capacity_rps: 100.0,
        capacity_lower_rps: 90.0,
        load_rps: 40.0,
        utilization: 0.4,
        latency_ms: Some(12.5),
        error_ratio: 0.0,
        health,
        attribution: Attribution::Normal,
        age_s: Some(1.5),
    };
    Decision {
        tick,
        at_s: 1000.0 + tick as f64,
        mode: Mode::None,
        frozen: false,
        rung: Rung::Normal,
        warnings: vec!["no series for b".to_owned()],
        failures: Vec::new(),
        acted: false,
        action: None,
        critical: vec![("b".to_owned(), "breach")],
        solver: None,
        explanation: vec!["b is capped: one more request/s there costs 41 ms".to_owned()],
        guard: Vec::new(),
        held_flows: Vec::new(),
        proposed: vec![0.7, 0.3],
        flows: vec![FlowView {
            name: "eu/checkout".to_owned(),
            source: "eu".to_owned(),
            service: "checkout".to_owned(),
            demand_rps: Some(80.0),
            demand_upper_rps: Some(95.0),
            shares: vec![("a".to_owned(), 0.7), ("b".to_owned(), 0.3)],
            weights: vec![("a".to_owned(), 7000), ("b".to_owned(), 3000)],
        }],
        shared: Vec::new(),
        endpoints: vec![endpoint("a", Health::Healthy), endpoint("b", Health::Degraded)],
        plan_version: format!("p{tick}"),
        pushed: tick.is_multiple_of(2),
        churn: 0.25,
        reward: Some(Reward::from_terms([("latency", -0.5)])),
    }
}

async fn error_of(response: Response) -> (StatusCode, String, String) {
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    let text = |key: &str| body["error"][key].as_str().unwrap().to_owned();
    (status, text("code"), text("message"))
}

/// Every call that changes state, with a body that is right.
fn changes() -> Vec<(Method, &'static str, Value)> {
    let services = json!({ "services": [{
        "name": "checkout",
        "endpoints": [{ "name": "a", "address": "10.0.0.1:80", "capacity_rps": 100 }]
    }] });
    vec![
        (Method::PATCH, "/api/parameters", json!({ "k": 5 })),
        (Method::POST, "/api/train", json!({ "updates": 2 })),
        (Method::POST, "/api/freeze", json!({})),
        (Method::POST, "/api/resume", json!({})),
        (Method::PUT, "/api/services", services),
    ]
}

#[tokio::test]
async fn without_a_token_in_the_configuration_nothing_can_be_changed() {
    let api = Api::with_controller(None).await;
    for (method, path, body) in changes() {
        let (status, code, message) = error_of(api.change(method, path, body).await).await;
        assert_eq!((status, code.as_str()), (StatusCode::FORBIDDEN, "api_changes_disabled"), "{path}");
        assert!(message.contains("api.token_file"), "{message}");
    }
}

#[tokio::test]
async fn only_the_right_token_changes_anything() {
    let api = Api::with_controller(Some(TOKEN)).await;
    for (method, path, body) in changes() {
        let call = || api.call(method.clone(), path).json(&body);
        let refused = [
            call(),
            call().bearer_auth("a-token-of-sixteen-and-less"),
            call().bearer_auth(&TOKEN[..TOKEN.len() - 1]),
            call().bearer_auth(format!("{TOKEN}x")),
            call().bearer_auth(""),
            call().basic_auth("user", Some(TOKEN)),
            call().header("authorization", TOKEN),
            call().bearer_auth(TOKEN).bearer_auth("another"),
            call().query(&[("token", TOKEN)]),
        ];
        for request in refused {
            let response = request.send().await.unwrap();
            assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"traflux\"");
            let (status, code, _) = error_of(response).await;
            assert_eq!((status, code.as_str()), (StatusCode::UNAUTHORIZED, "api_unauthorized"), "{path}");
        }
        let accepted = call().header("authorization", format!("bearer {TOKEN}")).send().await.unwrap();
        assert_eq!(accepted.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn reading_needs_no_token() {
    let api = Api::with_controller(Some(TOKEN)).await;
    api.state.record(decision(1));
    api.state.set_ready(true);
    for (path, item) in api::document()["paths"].as_object().unwrap() {
        if item.get("get").is_some() {
            assert_eq!(api.get(path).await.status(), StatusCode::OK, "{path}");
        }
    }
}

#[tokio::test]
async fn freeze_and_resume_reach_the_controller() {
    let (commands, mut inbox) = mpsc::channel(8);
    let api = Api::start(Some(TOKEN), commands).await;
    for (path, frozen) in [("/api/freeze", true), ("/api/resume", false)] {
        let call = tokio::spawn(api.call(Method::POST, path).bearer_auth(TOKEN).send());
        match inbox.recv().await.unwrap() {
            Command::Freeze(reply) if frozen => reply.send(Ok(())).unwrap(),
            Command::Resume(reply) if !frozen => reply.send(Ok(())).unwrap(),
            other => panic!("{other:?} for {path}"),
        }
        let answer: Value = call.await.unwrap().unwrap().json().await.unwrap();
        assert_eq!(answer, json!({ "frozen": frozen }));
    }
}

#[tokio::test]
async fn parameters_change_as_asked_and_refusals_name_the_key() {
    let api = Api::with_controller(Some(TOKEN)).await;
    assert_eq!(api.json("/api/parameters").await["k"], 3);
    let changed: Value =
        api.change(Method::PATCH, "/api/parameters", json!({ "k": 5 })).await.json().await.unwrap();
    assert_eq!(changed["k"], 5);
    assert_eq!(api.json("/api/parameters").await["k"], 5);
    assert_eq!(api.json("/api/parameters").await["budget_usd_per_hour"], 12.0);
    let patch = json!({ "budget_usd_per_hour": null, "k": null });
    let cleared: Value = api.change(Method::PATCH, "/api/parameters", patch).await.json().await.unwrap();
    assert_eq!((&cleared["budget_usd_per_hour"], &cleared["k"]), (&Value::Null, &Value::Null));
    let refused = api.change(Method::PATCH, "/api/parameters", json!({ "k": 0 })).await;
    let (status, code, message) = error_of(refused).await;
    assert_eq!((status, code.as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "command_invalid"));
    assert_eq!(message, "policy.k: is 0, must be at least 1");
}

#[tokio::test]
async fn training_without_a_body_is_allowed_and_refused_outside_learning() {
    let api = Api::with_controller(Some(TOKEN)).await;
    let done: Value =
        api.change(Method::POST, "/api/train", json!({ "updates": 2 })).await.json().await.unwrap();
    assert_eq!(done, json!({ "transitions": 9, "updates": 2, "parameters_version": 4 }));
    let response = api.call(Method::POST, "/api/train").bearer_auth(TOKEN).send().await.unwrap();
    let (status, code, message) = error_of(response).await;
    assert_eq!((status, code.as_str()), (StatusCode::CONFLICT, "command_not_available"));
    assert_eq!(message, "training needs mode `learning`");
}

#[tokio::test]
async fn replacing_services_says_how_many_were_taken() {
    let api = Api::with_controller(Some(TOKEN)).await;
    let (method, path, body) = changes().pop().unwrap();
    let taken: Value = api.change(method, path, body).await.json().await.unwrap();
    assert_eq!(taken, json!({ "services": 1, "endpoints": 1 }));
}

#[tokio::test]
async fn a_body_that_is_wrong_gets_a_code_and_the_path_of_the_key() {
    let api = Api::with_controller(Some(TOKEN)).await;
    let patch = || api.call(Method::PATCH, "/api/parameters").bearer_auth(TOKEN);
    let json_of = |text: &str| patch().header("content-type", "application/json").body(text.to_owned());
    let long = format!("{{\"k\": 1{}}}", " ".repeat(api::BODY_LIMIT));
    let cases = [
        (
            patch().body("{\"k\":1}"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "api_unsupported_media_type",
            "got none",
        ),
        (
            patch().form(&[("k", "1")]),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "api_unsupported_media_type",
            "`application/x-www-form-urlencoded`",
        ),
        (json_of("{\"k\":"), StatusCode::BAD_REQUEST, "api_malformed_json", "line 1 column 5"),
        (json_of(""), StatusCode::BAD_REQUEST, "api_malformed_json", "EOF"),
        (json_of("[]"), StatusCode::UNPROCESSABLE_ENTITY, "api_invalid_body", "body: "),
        (json_of("{\"k\":\"x\"}"), StatusCode::UNPROCESSABLE_ENTITY, "api_invalid_body", "k: invalid type"),
        (json_of("{\"kk\":1}"), StatusCode::UNPROCESSABLE_ENTITY, "api_invalid_body", "unknown field `kk`"),
        (json_of(&long), StatusCode::PAYLOAD_TOO_LARGE, "api_body_too_large", "1048576"),
    ];
    for (request, status, code, words) in cases {
        let (found, found_code, message) = error_of(request.send().await.unwrap()).await;
        assert_eq!((found, found_code.as_str()), (status, code), "{message}");
        assert!(message.contains(words), "{message}");
    }
    let services = json!({ "services": [{ "name": "s", "endpoints": [{ "name": "a", "capacity": 1 }] }] });
    let (_, _, message) = error_of(api.change(Method::PUT, "/api/services", services).await).await;
    assert!(message.starts_with("services[0].endpoints[0]"), "{message}");
    let freeze = api.change(Method::POST, "/api/freeze", json!({ "for_s": 5 })).await;
    assert_eq!(error_of(freeze).await.1, "api_invalid_body");
}

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_are_json_errors() {
    let api = Api::with_controller(None).await;
    let (status, code, message) = error_of(api.get("/api/nothing").await).await;
    assert_eq!((status, code.as_str()), (StatusCode::NOT_FOUND, "api_not_found"));
    assert!(message.contains("/api/nothing"));
    let response = api.call(Method::DELETE, "/api/parameters").send().await.unwrap();
    let allowed: BTreeSet<String> =
        response.headers()["allow"].to_str().unwrap().split(',').map(|m| m.trim().to_owned()).collect();
    assert_eq!(allowed, ["GET", "HEAD", "PATCH"].map(str::to_owned).into());
    let (status, code, _) = error_of(response).await;
    assert_eq!((status, code.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "api_method_not_allowed"));
}

#[tokio::test]
async fn decisions_come_newest_first_in_pages_of_bounded_length() {
    let api = Api::with_controller(None).await;
    for tick in 1..=60 {
        api.state.record(decision(tick));
    }
    let ticks = |page: &Value| -> Vec<u64> {
        page["decisions"].as_array().unwrap().iter().map(|d| d["tick"].as_u64().unwrap()).collect()
    };
    let page = api.json("/api/decisions").await;
    assert_eq!(ticks(&page), (11..=60).rev().collect::<Vec<_>>());
    assert_eq!(page["next_before"], 11);
    let page = api.json("/api/decisions?before=11&limit=3").await;
    assert_eq!((ticks(&page), &page["next_before"]), (vec![10, 9, 8], &json!(8)));
    let page = api.json("/api/decisions?before=3").await;
    assert_eq!((ticks(&page), &page["next_before"]), (vec![2, 1], &Value::Null));
    assert_eq!(api.get("/api/decisions?limit=1000").await.status(), StatusCode::OK);
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x", "last=3", "before=-1"] {
        let (status, code, _) = error_of(api.get(&format!("/api/decisions?{query}")).await).await;
        assert_eq!((status, code.as_str()), (StatusCode::BAD_REQUEST, "api_invalid_query"), "{query}");
    }
}

#[tokio::test]
async fn decisions_of_a_large_fleet_end_a_page_early() {
    let api = Api::with_controller(None).await;
    for tick in 1..=5 {
        api.state.record(Decision { proposed: vec![0.0; 90_000], ..decision(tick) });
    }
    let page = api.json("/api/decisions").await;
    assert_eq!(page["decisions"].as_array().unwrap().len(), 2);
    assert_eq!(page["next_before"], 4);
}

#[tokio::test]
async fn an_alias_answers_the_same() {
    let api = Api::with_controller(None).await;
    api.state.record(decision(2));
    assert_eq!(api.json("/weights").await, api.json("/api/weights").await);
    let [mut one, mut other] = [api.json("/status").await, api.json("/api/status").await];
    for status in [&mut one, &mut other] {
        assert!(status.as_object_mut().unwrap().remove("uptime_s").is_some_and(|v| v.is_number()));
    }
    assert_eq!(one, other);
}

#[tokio::test]
async fn weights_are_by_service_source_and_endpoint_beside_what_is_in_force() {
    let api = Api::with_controller(None).await;
    assert_eq!(api.json("/api/weights").await["plan_version"], Value::Null);
    api.state.record(decision(2));
    let weights = api.json("/api/weights").await;
    assert_eq!(
        weights["services"],
        json!({ "checkout": { "eu": {
        "a": { "share": 0.7, "weight": 7000 }, "b": { "share": 0.3, "weight": 3000 }
    } } })
    );
    assert_eq!(
        weights["groups"],
        json!([
            { "group": "eu", "target": "p2", "in_force": "p1", "nodes": 2, "refused": 0 },
            { "group": "us", "target": "p2", "in_force": null, "nodes": 0, "refused": 1 }
        ])
    );
}

#[tokio::test]
async fn readiness_waits_for_the_first_tick_and_liveness_does_not() {
    let api = Api::with_controller(None).await;
    assert_eq!(api.get("/healthz").await.text().await.unwrap(), "ok\n");
    let response = api.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body, json!({ "ready": false, "reasons": ["no tick has been made yet"] }));
    api.state.record(decision(1));
    api.state.set_ready(true);
    assert_eq!(api.json("/readyz").await, json!({ "ready": true, "reasons": [] }));
}

#[tokio::test]
async fn health_turns_the_ladder_of_failure_into_alarms() {
    let api = Api::with_controller(None).await;
    api.state.set_ready(true);
    let codes = |health: &Value| -> BTreeSet<String> {
        let alarms = health["alarms"].as_array().unwrap();
        alarms.iter().map(|a| a["code"].as_str().unwrap().to_owned()).collect()
    };
    let health = api.json("/api/health").await;
    assert_eq!((&health["verdict"], codes(&health)), (&json!("alarm"), ["no_tick".to_owned()].into()));
    api.state.record(decision(1));
    let health = api.json("/api/health").await;
    assert_eq!((&health["verdict"], &health["rung"]), (&json!("degraded"), &json!("normal")));
    let expected = ["endpoint_degraded", "group_disconnected", "resource_refused"];
    assert_eq!(codes(&health), expected.map(str::to_owned).into());
    assert_eq!(health["freshest_age_s"], 1.5);
    assert_eq!(health["endpoints"][1]["health"], "degraded");
    for (rung, verdict, code) in [
        (Rung::Hold, "degraded", "metrics_missing"),
        (Rung::Alarm, "alarm", "metrics_stale"),
        (Rung::Ramp { progress: 0.5 }, "alarm", "metrics_lost"),
    ] {
        api.state.record(Decision { rung, ..decision(2) });
        let health = api.json("/api/health").await;
        assert_eq!(health["rung"], rung.name());
        assert_eq!(health["verdict"], verdict);
        assert!(codes(&health).contains(code), "{health}");
    }
}

#[tokio::test]
async fn metrics_are_openmetrics_that_end_as_they_must() {
    let api = Api::with_controller(None).await;
    let response = api.get("/metrics").await;
    let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = response.text().await.unwrap();
    assert!(text.contains("# TYPE traflux_ticks counter") && text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn metrics_of_weights_sum_up_what_moved() {
    let api = Api::with_controller(None).await;
    for tick in 1..=4 {
        api.state.record(decision(tick));
    }
    let all = api.json("/api/metrics/all").await;
    let weights = api.json("/api/metrics/weights").await;
    assert_eq!((&weights["pushes"], &weights["churn"]), (&json!(2), &json!(1.0)));
    let moments: Vec<&Value> = weights["moments"].as_array().unwrap().iter().map(|m| &m["tick"]).collect();
    assert_eq!(moments, [&json!(4), &json!(2)]);
    assert_eq!(all["weights"], weights);
    assert_eq!(all["training"], api.json("/api/metrics/training").await);
    assert_eq!(all["loop"]["decisions_kept"], 4);
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let api = Api::with_controller(None).await;
    let response = api.get("/").await;
    let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let page = response.text().await.unwrap();
    for foreign in ["http://", "https://", "src=", "href=", "@import", "innerHTML"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("prefers-color-scheme") || page.contains("light-dark("));
}

#[tokio::test]
async fn a_controller_that_is_gone_gives_a_transient_error() {
    let (commands, inbox) = mpsc::channel(1);
    drop(inbox);
    let api = Api::start(Some(TOKEN), commands).await;
    let response = api.change(Method::POST, "/api/freeze", json!({})).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let (status, code, _) = error_of(response).await;
    assert_eq!((status, code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "command_no_answer"));
}

#[tokio::test]
async fn too_many_requests_at_a_time_are_refused_and_liveness_is_not() {
    let (commands, mut inbox) = mpsc::channel(api::REQUESTS_AT_A_TIME);
    let api = Api::start(None, commands).await;
    let waiting: Vec<_> = (0..api::REQUESTS_AT_A_TIME)
        .map(|_| tokio::spawn(api.call(Method::GET, "/api/parameters").send()))
        .collect();
    let mut held = Vec::new();
    while held.len() < waiting.len() {
        held.push(inbox.recv().await.unwrap());
    }
    let (status, code, _) = error_of(api.get("/api/status").await).await;
    assert_eq!((status, code.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "api_busy"));
    assert_eq!(api.get("/healthz").await.status(), StatusCode::OK);
    drop(held);
    for request in waiting {
        assert_eq!(error_of(request.await.unwrap().unwrap()).await.1, "command_no_answer");
    }
    assert_eq!(api.get("/api/status").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_request_in_flight_is_answered_when_the_server_stops() {
    let (commands, mut inbox) = mpsc::channel(1);
    let mut api = Api::start(Some(TOKEN), commands).await;
    let call = tokio::spawn(api.call(Method::POST, "/api/freeze").bearer_auth(TOKEN).send());
    let Some(Command::Freeze(reply)) = inbox.recv().await else { panic!("no freeze") };
    drop(api.stop.take());
    reply.send(Ok(())).unwrap();
    assert_eq!(call.await.unwrap().unwrap().status(), StatusCode::OK);
    (&mut api.server).await.unwrap().unwrap();
    assert!(api.call(Method::GET, "/healthz").send().await.is_err());
}

#[tokio::test]
async fn every_call_of_the_document_is_served_and_every_other_is_not() {
    let api = Api::with_controller(None).await;
    let document = api.json("/openapi.json").await;
    assert_eq!(document, api::document());
    assert_eq!(document["openapi"], "3.1.0");
    let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH];
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let documented: BTreeSet<String> = item.as_object().unwrap().keys().cloned().collect();
        let mut served = BTreeSet::new();
        for method in &methods {
            let status = api.call(method.clone(), path).send().await.unwrap().status();
            assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
            if status != StatusCode::METHOD_NOT_ALLOWED {
                served.insert(method.as_str().to_ascii_lowercase());
            }
        }
        assert_eq!(served, documented, "{path}");
        for operation in item.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{path}");
            let guarded = operation.get("security").is_some();
            assert_eq!(operation["responses"].get("401").is_some(), guarded, "{path}");
        }
    }
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/health",
        "/api/status",
        "/status",
        "/api/weights",
        "/weights",
        "/api/decisions",
        "/api/metrics/all",
        "/api/metrics/training",
        "/api/metrics/weights",
        "/api/parameters",
        "/api/train",
        "/api/freeze",
        "/api/resume",
        "/api/services",
        "/openapi.json",
        "/",
    ] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
}

#[tokio::test]
async fn real_answers_have_the_documented_shapes() {
    let api = Api::with_controller(Some(TOKEN)).await;
    let document = api::document();
    let failed: Value = api.get("/api/nothing").await.json().await.unwrap();
    conforms(&failed, &document["components"]["schemas"]["Error"], &document, "error");
    let unready: Value = api.get("/readyz").await.json().await.unwrap();
    let schema =
        &document["paths"]["/readyz"]["get"]["responses"]["503"]["content"]["application/json"]["schema"];
    conforms(&unready, schema, &document, "unready");
    let mut checked = 0;
    for recorded in [false, true] {
        if recorded {
            api.state.record(Decision { rung: Rung::Ramp { progress: 0.25 }, ..decision(4) });
            api.state.set_ready(true);
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            let Some(schema) = item["get"]["responses"]["200"]["content"]["application/json"].get("schema")
            else {
                continue;
            };
            let answer: Value = api.get(path).await.json().await.unwrap();
            let expected = if path == "/readyz" && !recorded { &unready } else { &answer };
            conforms(expected, schema, &document, path);
            checked += 1;
        }
    }
    for (method, path, body) in changes() {
        let call = &document["paths"][path][method.as_str().to_ascii_lowercase()];
        if let Some(taken) = call["requestBody"]["content"]["application/json"].get("schema") {
            conforms(&body, taken, &document, path);
        }
        let answer: Value = api.change(method, path, body).await.json().await.unwrap();
        let schema = &call["responses"]["200"]["content"]["application/json"]["schema"];
        conforms(&answer, schema, &document, path);
        checked += 1;
    }
    assert!(checked > 25, "{checked}");
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    let document = api::document();
    let mut open = vec![&document];
    let mut references = 0;
    while let Some(value) = open.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
            references += 1;
        }
        match value {
            Value::Object(map) => open.extend(map.values()),
            Value::Array(list) => open.extend(list),
            _ => {}
        }
    }
    assert!(references > 20, "{references}");
}

/// The part of JSON Schema that the document uses, and stricter: a property must be one that the schema names.
fn conforms(value: &Value, schema: &Value, document: &Value, at: &str) {
    if let Err(problem) = check(value, schema, document, at, true) {
        panic!("{problem}");
    }
}

fn check(value: &Value, schema: &Value, document: &Value, at: &str, closed: bool) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{at}: {what}: {value} against {schema}"));
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap();
        return check(value, target, document, at, closed);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(branches) = schema.get(key).and_then(Value::as_array) {
            // Beside properties a branch describes only a part of the object.
            let whole = schema.get("properties").is_none();
            let fitting = branches.iter().filter(|b| check(value, b, document, at, closed && whole).is_ok());
            if fitting.count() == 0 {
                return fail(key);
            }
        }
    }
    if schema.get("const").is_some_and(|c| c != value) {
        return fail("const");
    }
    if schema.get("enum").and_then(Value::as_array).is_some_and(|values| !values.contains(value)) {
        return fail("enum");
    }
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    let fits = match schema.get("type") {
        None => true,
        Some(Value::String(name)) => is(name),
        Some(names) => names.as_array().unwrap().iter().any(|name| is(name.as_str().unwrap())),
    };
    if !fits {
        return fail("type");
    }
    if let Value::Array(items) = value {
        let first = schema.get("prefixItems").and_then(Value::as_array);
        for (ix, item) in items.iter().enumerate() {
            if let Some(schema) = first.and_then(|f| f.get(ix)).or_else(|| schema.get("items")) {
                check(item, schema, document, &format!("{at}[{ix}]"), true)?;
            }
        }
    }
    if let Value::Object(map) = value {
        for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
            if !map.contains_key(name.as_str().unwrap()) {
                return fail(&format!("misses {name}"));
            }
        }
        let empty = serde_json::Map::new();
        let named = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let mut flattened: BTreeMap<&str, &Value> = BTreeMap::new();
        for branch in ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key)?.as_array()).flatten() {
            let properties = branch.get("properties").and_then(Value::as_object);
            flattened.extend(properties.into_iter().flatten().map(|(k, v)| (k.as_str(), v)));
        }
        for (key, item) in map {
            let at = format!("{at}.{key}");
            match (named.get(key), schema.get("additionalProperties")) {
                (Some(schema), _) => check(item, schema, document, &at, true)?,
                (None, Some(Value::Object(_))) => {
                    check(item, &schema["additionalProperties"], document, &at, true)?;
                }
                (None, _) if flattened.contains_key(key.as_str()) || named.is_empty() || !closed => {}
                (None, _) => return Err(format!("{at} is not documented")),
            }
        }
    }
    Ok(())
}
