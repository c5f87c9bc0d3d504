//! The service as a whole, on loopback: a Prometheus that knows nothing, no Envoy, real sockets and files.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use traflux::Config;
use traflux::service::{RunError, prepare, run};

const TOKEN: &str = "a-token-of-sixteen-and-more";
/// Most time that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// A Prometheus in which there is no series.
async fn empty_prometheus() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = || async {
        axum::Json(json!({ "status": "success", "data": { "resultType": "vector", "result": [] } }))
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

struct Running {
    base: String,
    client: Client,
    directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    service: JoinHandle<Result<(), RunError>>,
}

impl Running {
    /// Starts the service with one endpoint and with what a test adds, and waits until it is ready.
    async fn start(prometheus: SocketAddr, host: &str, more: impl FnOnce(&Path) -> String) -> Self {
        let running = Self::launch(prometheus, host, more).await;
        running.until("/readyz", |ready| ready["ready"] == true).await;
        running
    }

    async fn launch(prometheus: SocketAddr, host: &str, more: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        std::fs::write(at.join("token"), TOKEN).unwrap();
        let api = free_port().await;
        let text = format!(
            "sources: [{{ name: eu }}]\n\
             services: [{{ name: s, endpoints: [{{ name: a, address: \"{host}:81\", capacity_rps: 10 }}] }}]\n\
             metrics: {{ prometheus: {{ url: \"http://{prometheus}\", timeout_ms: 500 }} }}\n\
             control: {{ interval_s: 0.1 }}\n\
             xds: {{ listen: \"127.0.0.1:{}\" }}\n\
             api: {{ listen: \"127.0.0.1:{api}\", token_file: \"{}\" }}\n\
             state_file: \"{}\"\n{}",
            free_port().await,
            at.join("token").display(),
            at.join("state.json").display(),
            more(at)
        );
        let config = Config::parse(&text).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = tokio::spawn(run(config, async {
            let _ = stopped.await;
        }));
        let client = Client::builder().no_proxy().build().unwrap();
        let base = format!("http://127.0.0.1:{api}");
        Self { base, client, directory, stop: Some(stop), service }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        self.client.get(format!("{}{path}", self.base)).send().await.ok()?.json().await.ok()
    }

    /// Asks until an answer is as wanted, and gives it back.
    async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        let mut last = None;
        while began.elapsed() < PATIENCE {
            assert!(!self.service.is_finished(), "the service ended");
            last = self.get(path).await;
            if let Some(answer) = last.take_if(|answer| wanted(answer)) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{path} is {last:?}");
    }

    async fn change(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let response = request.bearer_auth(TOKEN).json(&body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(5), self.service).await;
        ended.expect("a graceful shutdown takes less than 5 s").unwrap().unwrap();
    }
}

fn services(endpoint: &str, host: &str) -> Value {
    json!({ "services": [{ "name": "s", "endpoints": [
        { "name": endpoint, "address": format!("{host}:82"), "capacity_rps": 10 }
    ] }] })
}

#[tokio::test]
async fn the_service_starts_without_prometheus_freezes_resumes_and_ends() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let running = Running::start(nobody, "127.0.0.1", |_| String::new()).await;
    running.until("/api/status", |status| status["decision"]["failures"][0]["stage"] == "observe").await;
    let unauthorized = running.client.post(format!("{}/api/freeze", running.base)).send().await.unwrap();
    assert_eq!(unauthorized.status(), StatusCode::UNAUTHORIZED);
    for (path, frozen) in [("/api/freeze", true), ("/api/resume", false)] {
        let (status, body) = running.change(Method::POST, path, json!({})).await;
        assert_eq!((status, &body["frozen"]), (StatusCode::OK, &json!(frozen)));
        running.until("/api/status", |status| status["frozen"] == frozen).await;
    }
    let patch = json!({ "budget_usd_per_hour": 3, "usd_per_million_for_10_ms": null });
    let (_, patched) = running.change(Method::PATCH, "/api/parameters", patch).await;
    assert_eq!(patched["budget_usd_per_hour"], 3.0);
    assert_eq!(patched["usd_per_million_for_10_ms"], Value::Null);
    assert_eq!(running.get("/api/parameters").await.unwrap(), patched);
    let (status, refused) = running.change(Method::POST, "/api/train", json!({})).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("command_not_available")));
    running.stop().await;
}

/// Whether the plan of the latest decision, with these endpoints, was taken by the discovery server, which
/// takes no endpoint without a host.
fn serves(status: &Value, endpoints: &[&str]) -> bool {
    let target = &status["data_plane"]["groups"][0]["target"];
    let shares = status["decision"]["flows"][0]["shares"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = shares.iter().filter_map(|share| share[0].as_str()).collect();
    !target.is_null() && *target == status["decision"]["plan_version"] && names == endpoints
}

#[tokio::test]
async fn services_with_a_name_get_the_hosts_behind_it() {
    let running = Running::start(empty_prometheus().await, "127.0.0.1", |_| String::new()).await;
    let (status, body) = running.change(Method::PUT, "/api/services", services("b", "localhost")).await;
    assert_eq!((status, &body["endpoints"]), (StatusCode::OK, &json!(1)), "{body}");
    running.until("/api/status", |status| serves(status, &["b"])).await;

    // A name that cannot be resolved keeps nobody else waiting.
    let mut two = services("c", "localhost");
    let unknown = services("d", "name.invalid")["services"][0]["endpoints"][0].clone();
    two["services"][0]["endpoints"].as_array_mut().unwrap().push(unknown);
    assert_eq!(running.change(Method::PUT, "/api/services", two).await.0, StatusCode::OK);
    running.until("/api/status", |status| serves(status, &["c"])).await;

    for (refused, message) in [
        (services("e", "name.invalid"), "services[0].endpoints: none of its names can be resolved"),
        (json!({ "services": [{ "name": "s", "endpoints": [] }] }), "services[0].endpoints: is empty"),
    ] {
        let (status, body) = running.change(Method::PUT, "/api/services", refused).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(body["error"]["message"].as_str().unwrap().starts_with(message), "{body}");
    }
    running.until("/api/status", |status| serves(status, &["c"])).await;
    running.stop().await;
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_holds_up_no_tick() {
    let more = |at: &Path| {
        let mut list = services("a", "127.0.0.1");
        let unknown = services("n", "name.invalid")["services"][0]["endpoints"][0].clone();
        list["services"][0]["endpoints"].as_array_mut().unwrap().push(unknown);
        std::fs::write(at.join("services.yaml"), list.to_string()).unwrap();
        let file = at.join("services.yaml").display().to_string();
        format!("discovery: {{ file: \"{file}\", dns_refresh_s: 1 }}\n")
    };
    let running = Running::start(empty_prometheus().await, "127.0.0.1", more).await;
    let before =
        running.until("/api/status", |status| serves(status, &["a"])).await["ticks"].as_u64().unwrap();
    let began = Instant::now();
    running.until("/api/status", |status| status["ticks"].as_u64().unwrap() >= before + 20).await;
    // 20 ticks are 2 s; a lookup in each, or one that waits for its limit, would take far longer.
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn the_service_is_not_ready_while_no_plan_can_be_handed_over() {
    let running = Running::launch(empty_prometheus().await, "name.invalid", |_| String::new()).await;
    running.until("/api/status", |status| status["ticks"].as_u64() > Some(2)).await;
    let ready = running.get("/readyz").await.unwrap();
    assert_eq!(ready["ready"], false, "{ready}");
    running.stop().await;
}

#[tokio::test]
async fn a_file_of_services_is_followed_and_a_broken_one_changes_nothing() {
    let list = |name: &str| services(name, "127.0.0.1").to_string();
    let running = Running::start(empty_prometheus().await, "127.0.0.1", |at| {
        std::fs::write(at.join("services.yaml"), list("c")).unwrap();
        format!("discovery: {{ file: \"{}\", file_refresh_s: 0.1 }}\n", at.join("services.yaml").display())
    })
    .await;
    let first =
        |name: &'static str| move |status: &Value| status["decision"]["flows"][0]["shares"][0][0] == name;
    running.until("/api/status", first("c")).await;
    let path = running.directory.path().join("services.yaml");
    std::fs::write(&path, list("d").replace("capacity_rps", "capacity")).unwrap();
    let before = running.get("/api/status").await.unwrap()["ticks"].as_u64().unwrap();
    let later = running.until("/api/status", |s| s["ticks"].as_u64().unwrap() >= before + 5).await;
    assert!(first("c")(&later));
    std::fs::write(&path, list("d")).unwrap();
    running.until("/api/status", first("d")).await;
    running.stop().await;
}

#[tokio::test]
async fn a_price_file_that_breaks_is_a_warning_of_every_decision() {
    let running = Running::start(empty_prometheus().await, "127.0.0.1", |at| {
        std::fs::write(at.join("prices.json"), "[{\"endpoint\":\"a\",\"usd_per_million\":1}]").unwrap();
        format!("prices: {{ file: \"{}\" }}\n", at.join("prices.json").display())
    })
    .await;
    std::fs::write(running.directory.path().join("prices.json"), "[{]").unwrap();
    running
        .until("/api/status", |status| {
            let warnings = status["decision"]["warnings"].as_array();
            warnings.is_some_and(|all| {
                all.iter().any(|w| {
                    let text = w.as_str().unwrap();
                    text.contains("prices.json") && text.contains("s ago stay")
                })
            })
        })
        .await;
    running.stop().await;
}

#[tokio::test]
async fn prices_are_asked_for_with_the_credentials_and_headers_configured() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |headers: axum::http::HeaderMap| async move {
        let is = |name: &str, value: &str| headers.get(name).is_some_and(|v| v == value);
        if is("authorization", "Bearer price-secret") && is("x-tenant", "blue") {
            Ok(axum::Json(json!([{ "endpoint": "a", "usd_per_million": 1 }])))
        } else {
            Err(StatusCode::FORBIDDEN)
        }
    };
    let router = axum::Router::new().route("/prices", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    for (tenant, accepted) in [("blue", true), ("red", false)] {
        let running = Running::start(empty_prometheus().await, "127.0.0.1", |at| {
            std::fs::write(at.join("price-token"), "price-secret").unwrap();
            format!(
                "prices: {{ url: \"http://{address}/prices\", headers: {{ x-tenant: {tenant} }}, \
                 auth: {{ bearer_token_file: \"{}\" }} }}\n",
                at.join("price-token").display()
            )
        })
        .await;
        let status = running.until("/api/status", |status| status["ticks"].as_u64() > Some(1)).await;
        let warnings = status["decision"]["warnings"].to_string();
        assert_eq!(warnings.contains("none were ever read"), !accepted, "{tenant}: {warnings}");
        running.stop().await;
    }
}

/// What is refused before anything is opened, with the key that is wrong.
#[tokio::test]
async fn preparing_refuses_what_running_would() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(at("short"), "short").unwrap();
    std::fs::write(at("broken"), "{[").unwrap();
    std::fs::write(at("empty.yaml"), "services: []").unwrap();
    let cases = [
        ("objective: { solver: simplex }".to_owned(), "objective.solver: "),
        (format!("policy: {{ mode: frozen, checkpoint: \"{}\" }}", at("none")), "policy.checkpoint: "),
        (format!("policy: {{ mode: frozen, checkpoint: \"{}\" }}", at("broken")), "policy.checkpoint: "),
        (format!("api: {{ token_file: \"{}\" }}", at("none")), "api.token_file: "),
        (format!("api: {{ token_file: \"{}\" }}", at("short")), "has 5 characters"),
        (
            format!("xds: {{ tls: {{ cert_file: \"{}\", key_file: \"{}\" }} }}", at("none"), at("none")),
            "xds: ",
        ),
        (format!("discovery: {{ file: \"{}\" }}", at("none")), "discovery.file: "),
        (format!("discovery: {{ file: \"{}\" }}", at("empty.yaml")), "discovery.file: services: is empty"),
        (format!("prices: {{ file: \"{}\" }}", at("broken")), "prices: "),
        (format!("state_file: \"{}\"", at("broken")), "state_file: "),
    ];
    for (more, message) in cases {
        let text = format!(
            "sources: [{{ name: eu }}]\n\
             services: [{{ name: s, endpoints: [{{ name: a, address: \"127.0.0.1:81\", capacity_rps: 1 }}] }}]\n\
             metrics: {{ prometheus: {{ url: \"http://127.0.0.1:9\" }} }}\n{more}\n"
        );
        let config = Config::parse(&text).unwrap();
        let Err(refused) = prepare(config.clone()).await else { panic!("{more} was taken") };
        assert!(refused.to_string().contains(message), "{more}: {refused}");
        // Running refuses it with the same words, and at once.
        let ran = tokio::time::timeout(PATIENCE, run(config, std::future::pending())).await.unwrap();
        assert_eq!(ran.unwrap_err().to_string(), refused.to_string());
    }
}

#[tokio::test]
async fn a_policy_takes_signals_that_it_was_not_trained_with_and_refuses_to_miss_its_own() {
    let text = "sources: [{ name: eu }]\n\
        services: [{ name: s, endpoints: [{ name: a, address: \"127.0.0.1:81\", capacity_rps: 1 }] }]\n\
        metrics: { prometheus: { url: \"http://127.0.0.1:9\", signals: [{ name: cpu, query: up }] } }\n\
        policy: { mode: frozen }\n";
    assert!(prepare(Config::parse(text).unwrap()).await.is_ok());

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("with-memory.safetensors");
    let shipped = traflux::checkpoint::shipped().unwrap();
    let mut space = shipped.observations.clone();
    space.group_features.extend(["signal.memory".to_owned(), "signal.memory.known".to_owned()]);
    shipped.widened(&space).unwrap().save(&path).unwrap();
    let other = text.replace("frozen", &format!("frozen, checkpoint: \"{}\"", path.display()));
    let Err(refused) = prepare(Config::parse(&other).unwrap()).await else { panic!("was taken") };
    assert_eq!(refused.code(), "checkpoint_features");
    let expected = "group feature `signal.memory` is not given by the encoder";
    assert!(refused.to_string().contains(expected), "{refused}");
    let own = other.replace("name: cpu", "name: memory");
    assert!(prepare(Config::parse(&own).unwrap()).await.is_ok());
}

#[cfg(not(feature = "learn"))]
#[tokio::test]
async fn learning_is_refused_by_a_program_that_cannot_learn() {
    let text = "sources: [{ name: eu }]\n\
        services: [{ name: s, endpoints: [{ name: a, address: \"127.0.0.1:81\", capacity_rps: 1 }] }]\n\
        metrics: { prometheus: { url: \"http://127.0.0.1:9\" } }\n\
        policy: { mode: learning }\n";
    let Err(refused) = prepare(Config::parse(text).unwrap()).await else { panic!("was taken") };
    assert_eq!(refused.code(), "run_feature");
}

#[cfg(feature = "learn")]
#[tokio::test]
async fn a_request_to_train_is_answered_beside_the_loop_and_without_experience_refused() {
    let running = Running::start(empty_prometheus().await, "127.0.0.1", |at| {
        format!("policy: {{ mode: learning, save_to: \"{}\" }}\n", at.join("learned.safetensors").display())
    })
    .await;
    let (status, body) = running.change(Method::POST, "/api/train", json!({ "updates": 3 })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(body["error"]["message"], "updates: none of 0 transitions can be learned from");
    let (_, patched) =
        running.change(Method::PATCH, "/api/parameters", json!({ "learning_rate": 0.01, "k": 1 })).await;
    assert_eq!((&patched["learning_rate"], &patched["k"]), (&json!(0.01), &json!(1)));
    let (_, unset) = running.change(Method::PATCH, "/api/parameters", json!({ "k": null })).await;
    let shipped = traflux::checkpoint::shipped().unwrap();
    assert_eq!(unset["k"], shipped.actions.critical);
    let learned = running.directory.path().join("learned.safetensors");
    running.stop().await;
    assert!(!learned.exists(), "nothing was learned");
}

#[cfg(feature = "learn")]
#[tokio::test]
async fn what_was_learned_before_is_read_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("learned.safetensors");
    let text = format!(
        "sources: [{{ name: eu }}]\n\
         services: [{{ name: s, endpoints: [{{ name: a, address: \"127.0.0.1:81\", capacity_rps: 1 }}] }}]\n\
         metrics: {{ prometheus: {{ url: \"http://127.0.0.1:9\" }} }}\n\
         policy: {{ mode: learning, checkpoint: \"{}\", save_to: \"{}\" }}\n",
        directory.path().join("none").display(),
        path.display()
    );
    let refusal = async || prepare(Config::parse(&text).unwrap()).await.err().map(|e| e.to_string());
    assert!(refusal().await.unwrap().starts_with("policy.checkpoint: "));
    traflux::checkpoint::shipped().unwrap().save(&path).unwrap();
    assert_eq!(refusal().await, None);
    std::fs::write(&path, "half").unwrap();
    assert!(refusal().await.unwrap().starts_with("policy.save_to: "));
}
