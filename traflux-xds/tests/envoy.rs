//! The discovery server against a real Envoy. `cargo xtask test` runs these tests; by hand:
//!
//! ```text
//! ENVOY=/path/to/envoy cargo test -p traflux-xds --test envoy -- --ignored
//! ```

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use serde_json::Value;
use traflux_core::{
    ActuateError, Actuator as _, EndpointPlan, HostPlan, ListenerPlan, ServicePlan, TrafficPlan, WeightRow,
};
use traflux_xds::{EnvoyBootstrap, ResourceKind, XdsOptions, envoy_bootstrap};

struct Envoy {
    process: Child,
    admin: u16,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Envoy {
    fn start(folder: &Path, bootstrap: EnvoyBootstrap) -> Self {
        let binary = std::env::var("ENVOY").expect("ENVOY is the path of an Envoy");
        let admin = free_port();
        let bootstrap = EnvoyBootstrap { admin: ([127, 0, 0, 1].into(), admin), ..bootstrap };
        let path = folder.join(format!("{}.yaml", bootstrap.node_id));
        std::fs::write(&path, envoy_bootstrap(&bootstrap).unwrap()).unwrap();
        let log = std::fs::File::create(path.with_extension("log")).unwrap();
        let process = Command::new(binary)
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"])
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, admin }
    }

    /// Weights by endpoint, as Envoy has them.
    fn weights(&self) -> Vec<(String, u64)> {
        let answer: Value = serde_json::from_str(&get(self.admin, "/clusters?format=json").1).unwrap();
        let clusters = answer["cluster_statuses"].as_array().unwrap();
        let checkout = clusters.iter().find(|c| c["name"] == "checkout").expect("the cluster is there");
        let hosts = checkout["host_statuses"].as_array().unwrap();
        let mut weights: Vec<_> = hosts
            .iter()
            .map(|h| (h["locality"]["zone"].as_str().unwrap().to_owned(), h["weight"].as_u64().unwrap()))
            .collect();
        weights.sort();
        weights
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Status and body of one request.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, unchunk(body));
    }
    (status, body.to_owned())
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Answers every request with its own name.
fn backend(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 8192];
                let mut seen = Vec::new();
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..read]);
                    while let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                        seen.drain(..end + 4);
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", name.len());
                        stream.write_all(format!("{head}{name}").as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    port
}

fn plan_at(address: &str, port: u16, backends: [u16; 2], weights: [u32; 2]) -> TrafficPlan {
    let endpoint = |name: &str, port| EndpointPlan {
        name: name.into(),
        hosts: vec![HostPlan { address: "127.0.0.1".into(), port }],
        region: None,
        tier: 0,
    };
    TrafficPlan::new(vec![ServicePlan {
        name: "checkout".into(),
        listener: Some(ListenerPlan { address: address.into(), port }),
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        http2: false,
        endpoints: vec![endpoint("a", backends[0]), endpoint("b", backends[1])],
        rows: vec![WeightRow { group: group("eu"), listener: None, weights: weights.to_vec() }],
    }])
}

/// Repeats until it holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an Envoy: set ENVOY to its path"]
async fn an_envoy_follows_refuses_once_and_goes_on() {
    follows_refuses_once_and_goes_on(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an Envoy: set ENVOY to its path"]
async fn an_envoy_that_receives_differences_follows_refuses_once_and_goes_on() {
    follows_refuses_once_and_goes_on(true).await;
}

async fn follows_refuses_once_and_goes_on(delta: bool) {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(XdsOptions::default()).await;
    let backends = [backend("a"), backend("b")];
    let port = free_port();
    let first = plan_at("127.0.0.1", port, backends, [70, 30]);
    apply(&served, &first).await;
    let envoy = Envoy::start(
        folder.path(),
        EnvoyBootstrap {
            node_id: "edge-1".into(),
            group: "eu".into(),
            xds_port: served.address.port(),
            delta,
            ..EnvoyBootstrap::default()
        },
    );
    served.in_force("eu", &first).await;
    assert_eq!(envoy.weights(), [("a".to_owned(), 70), ("b".to_owned(), 30)]);

    // Weighted round robin is exact: 140 of 200, whatever the seed; one request of slack for where it starts.
    let to_a = (0..200).filter(|_| get(port, "/").1 == "a").count();
    assert!((139..=141).contains(&to_a), "{to_a} of 200 to a");
    eventually("latency per endpoint appears under its label", || {
        let path = "/stats/prometheus?filter=upstream_rq_time";
        get(envoy.admin, path).1.contains("traflux_endpoint=\"a\"")
    })
    .await;

    let weights_only = plan_at("127.0.0.1", port, backends, [1, 9]);
    apply(&served, &weights_only).await;
    served.in_force("eu", &weights_only).await;
    assert_eq!(envoy.weights(), [("a".to_owned(), 1), ("b".to_owned(), 9)]);

    // An address of the documentation range passes every check of ours, and no host can bind it.
    let bad = plan_at("203.0.113.1", port, backends, [5, 5]);
    served.actuator.apply(&bad).await.unwrap();
    eventually("the listener is refused", || served.actuator.status().counters.rollbacks == 1).await;
    eventually("the weights of the refused plan are taken", || envoy.weights()[0].1 == 5).await;
    assert!(matches!(served.actuator.apply(&bad).await, Err(ActuateError::Refused { .. })));
    let counters = served.actuator.status().counters;
    assert_eq!(counters.nacks.get(&ResourceKind::Listener), Some(&1));
    assert_eq!(get(port, "/").0, 200, "the old listener still serves");

    let good = plan_at("127.0.0.1", port, backends, [2, 8]);
    served.actuator.apply(&good).await.unwrap();
    served.in_force("eu", &good).await;
    assert_eq!(envoy.weights()[0].1, 2);
    assert_eq!(served.actuator.status().counters.nacks.values().sum::<u64>(), 1);

    // A changed cluster is warmed with endpoints that did not change.
    let mut services = good.services().to_vec();
    services[0].connect_timeout = Duration::from_millis(700);
    let rewarmed = TrafficPlan::new(services);
    apply(&served, &rewarmed).await;
    served.in_force("eu", &rewarmed).await;
    let warming = get(envoy.admin, "/stats?filter=cluster_manager.warming_clusters").1;
    assert_eq!(warming.trim(), "cluster_manager.warming_clusters: 0");
    assert_eq!(get(port, "/").0, 200);
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an Envoy: set ENVOY to its path"]
async fn an_envoy_connects_with_the_certificate_of_its_node_and_not_with_another() {
    use traflux_xds::BootstrapTls;
    let folder = tempfile::tempdir().unwrap();
    let authority = common::certificates::Authority::new();
    let served = serve(common::certificates::options(folder.path(), &authority, true, true)).await;
    let plan = plan_at("127.0.0.1", free_port(), [1, 2], [70, 30]);
    apply(&served, &plan).await;
    let start = |id: &str, certified: &str| {
        let (certificate, key) = authority.issue(&[certified]);
        let file = |suffix: &str| folder.path().join(format!("{id}.{suffix}")).display().to_string();
        std::fs::write(file("pem"), certificate).unwrap();
        std::fs::write(file("key"), key).unwrap();
        let tls = BootstrapTls {
            ca: folder.path().join("ca.pem").display().to_string(),
            server_name: "traflux.test".into(),
            client: Some((file("pem"), file("key"))),
        };
        let bootstrap = EnvoyBootstrap {
            node_id: id.into(),
            group: "eu".into(),
            xds_port: served.address.port(),
            tls: Some(tls),
            ..EnvoyBootstrap::default()
        };
        Envoy::start(folder.path(), bootstrap)
    };
    let envoy = start("edge-1", "edge-1");
    served.in_force("eu", &plan).await;
    assert_eq!(envoy.weights(), [("a".to_owned(), 70), ("b".to_owned(), 30)]);
    let _impostor = start("edge-2", "edge-3");
    eventually("the impostor is refused", || served.actuator.status().counters.unauthorized_nodes > 0).await;
    assert_eq!(served.actuator.status().nodes.len(), 1);
}

#[test]
#[ignore = "needs an Envoy: set ENVOY to its path"]
fn an_envoy_accepts_the_configuration_of_a_maximal_plan_for_requests() {
    use traflux_xds::requests::{RequestOptions, compile};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(path("certificate.pem"), certified.cert.pem()).unwrap();
    std::fs::write(path("key.pem"), certified.signing_key.serialize_pem()).unwrap();
    std::fs::write(path("secret"), "s3cret\n").unwrap();
    let text = include_str!("data/requests.json")
        .replace("CERTIFICATE", &path("certificate.pem"))
        .replace("AUTHORITY", &path("certificate.pem"))
        .replace("\"KEY\"", &format!("\"{}\"", path("key.pem")))
        .replace("SECRET", &path("secret"));
    let options = RequestOptions {
        authorization: Some(HostPlan { address: "127.0.0.1".into(), port: 18110 }),
        authorities_file: path("certificate.pem"),
        ..RequestOptions::default()
    };
    let compiled = compile(&serde_json::from_str(&text).unwrap(), &options).unwrap();
    // As text, where a wrong name is refused, and as bytes.
    std::fs::write(path("envoy.yaml"), compiled.static_config().unwrap()).unwrap();
    std::fs::write(path("envoy.pb"), compiled.static_config_bytes()).unwrap();
    for file in ["envoy.yaml", "envoy.pb"] {
        let output = Command::new(std::env::var("ENVOY").expect("ENVOY is the path of an Envoy"))
            .args(["--mode", "validate", "-c", &path(file)])
            .env("CLOUD_KEY", "abc")
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
