//! How does the whole system come up on loopback?
//!
//! Backends in this process, three gRPC backends in Python where grpcio is there, Prometheus, Traflux, two
//! Envoys with the bootstraps that Traflux prints, and load. Everything has a place of its own: free ports, a
//! directory named after this process. Everything ends with the rig.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::backend::Backend;
use crate::error::{LiveError, Result};
use crate::fleet::{ECHO, PAY, Placed, SOURCES, Service, WEB, service_config, sources_config};
use crate::load::Load;
use crate::program::{self, Program};
use crate::python::Python;
use crate::timeline::{Stretch, Summary, Timeline};
use crate::watch::{Admin, Api, Client, Decision, Metrics};

/// Where the programs are.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The controller.
    pub traflux: PathBuf,
    /// The proxy.
    pub envoy: PathBuf,
    /// The metrics database.
    pub prometheus: PathBuf,
    /// A Python with grpcio, where there is one.
    pub python: Option<PathBuf>,
    /// Where logs and files go.
    pub work_dir: PathBuf,
}

/// Times of the ladder of failure in the rig. The defaults are 30 s and 120 s; a live run has less patience.
pub(crate) const ALARM_AFTER_S: f64 = 6.0;
/// From here on shares move to the static ones.
pub(crate) const RAMP_AFTER_S: f64 = 14.0;
/// How long that takes.
pub(crate) const RAMP_OVER_S: f64 = 8.0;

/// Sources whose Envoy speaks the delta variant of xDS; the others get the state of the world.
pub(crate) const DELTA_SOURCES: [&str; 1] = [SOURCES[1]];

/// How much a share may rise per second.
pub(crate) const STEP_PER_S: f64 = 0.1;
/// A pause allows a step as of this many seconds at most.
pub(crate) const REST_S: f64 = 2.0;

/// The system under test and everything around it.
pub(crate) struct Rig {
    /// Directory of this run.
    pub dir: PathBuf,
    /// When it was started.
    pub started: Instant,
    /// The controller's API.
    pub api: Api,
    /// Prometheus' API.
    pub metrics: Metrics,
    /// Admin interface of each source's Envoy.
    pub admins: Vec<Admin>,
    /// Services and where they are.
    pub placed: Vec<Placed>,
    /// Port of the discovery server.
    pub xds_port: u16,
    /// The gRPC side, where there is one.
    pub python: Option<Python>,
    /// Every request.
    pub timeline: Arc<Timeline>,
    programs: Programs,
    ports: Ports,
    backends: Vec<(&'static str, Backend)>,
    loads: Vec<(&'static str, usize, Load)>,
    traflux: tokio::sync::Mutex<Option<Program>>,
    prometheus: tokio::sync::Mutex<Option<Program>>,
    envoys: Vec<Program>,
    grpc_load: Option<Program>,
}

struct Ports {
    prometheus: u16,
    api: u16,
    admin: [u16; 2],
}

impl Rig {
    /// Brings everything up, with load running.
    pub(crate) async fn start(programs: Programs) -> Result<Self> {
        let dir = programs.work_dir.join(std::process::id().to_string());
        std::fs::create_dir_all(&dir).map_err(|e| LiveError::file(&dir, e))?;
        let dir = dir.canonicalize().map_err(|e| LiveError::file(&dir, e))?;
        let ports = program::free_ports(11)?;
        let mut backends = Vec::new();
        let mut placed = Vec::new();
        for (at, service) in [WEB, PAY].into_iter().enumerate() {
            let mut addresses = Vec::new();
            for (position, endpoint) in service.endpoints.iter().enumerate() {
                let seed = 100 * (at as u64 + 1) + position as u64;
                let backend = Backend::start(*endpoint, position, seed).await?;
                addresses.push(backend.port);
                backends.push((endpoint.name, backend));
            }
            let listeners = [ports[2 * at], ports[2 * at + 1]];
            placed.push(Placed { service, backends: addresses, listeners });
        }
        let python = match &programs.python {
            Some(python) => Some(Python::start(python, &dir).await?),
            None => None,
        };
        if let Some(python) = &python {
            let listeners = [ports[4], ports[5]];
            placed.push(Placed { service: ECHO, backends: python.ports().to_vec(), listeners });
        }
        let client = Client::new()?;
        let token = format!("live-run-{}-{}", std::process::id(), ports[6]);
        let xds_port = ports[10];
        let ports = Ports { prometheus: ports[6], api: ports[7], admin: [ports[8], ports[9]] };
        let mut rig = Self {
            api: Api::new(client.clone(), ports.api, &token),
            metrics: Metrics::new(client.clone(), ports.prometheus),
            admins: ports.admin.iter().map(|port| Admin::new(client.clone(), *port)).collect(),
            started: Instant::now(),
            dir,
            placed,
            xds_port,
            python,
            timeline: Arc::new(Timeline::default()),
            programs,
            ports,
            backends,
            loads: Vec::new(),
            traflux: tokio::sync::Mutex::new(None),
            prometheus: tokio::sync::Mutex::new(None),
            envoys: Vec::new(),
            grpc_load: None,
        };
        rig.write_files(&token)?;
        if let Err(error) = rig.start_programs().await {
            rig.show_logs().await;
            return Err(error);
        }
        rig.start_load()?;
        Ok(rig)
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("traflux.yaml")
    }

    fn write_files(&self, token: &str) -> Result<()> {
        self.write("token", token)?;
        let config = json!({
            "sources": sources_config(&self.placed),
            "services": self.services(),
            "metrics": { "prometheus": {
                "url": format!("http://127.0.0.1:{}", self.ports.prometheus),
                "scrape_interval_s": 1,
                "window_s": 5,
            } },
            "control": {
                "interval_s": 1,
                "guard": { "step_per_s": STEP_PER_S, "drain_per_s": 0.2, "max_elapsed_s": REST_S },
                "ladder": {
                    "fresh_within_s": 6,
                    "alarm_after_s": ALARM_AFTER_S,
                    "ramp_after_s": RAMP_AFTER_S,
                    "ramp_over_s": RAMP_OVER_S,
                },
                "estimator": {
                    "capacity": { "recovery_s": 5, "probe_s": 10 },
                    "health": { "min_hold_s": 5, "forget_s": 20 },
                },
            },
            // More than there are endpoints: `k` can be lowered while it runs.
            "policy": { "k": 32 },
            "xds": { "listen": format!("127.0.0.1:{}", self.xds_port) },
            "api": { "listen": format!("127.0.0.1:{}", self.ports.api), "token_file": self.dir.join("token") },
            "state_file": self.dir.join("state.json"),
        });
        // JSON is YAML.
        self.write("traflux.yaml", &format!("{config:#}"))
    }

    /// Writes a file of this run.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        std::fs::write(&path, text).map_err(|e| LiveError::file(path, e))
    }

    /// All services as the configuration has them.
    pub(crate) fn services(&self) -> Vec<Value> {
        self.placed.iter().map(service_config).collect()
    }

    async fn start_programs(&mut self) -> Result<()> {
        let config = self.config_file();
        self.print_bootstrap("prometheus.yaml", |command| {
            command.args(["bootstrap", "prometheus", "--config"]).arg(&config);
            for (source, port) in SOURCES.iter().zip(self.ports.admin) {
                command.arg("--envoy").arg(format!("{source}=127.0.0.1:{port}"));
            }
        })
        .await?;
        for (source, port) in SOURCES.iter().zip(self.ports.admin) {
            self.print_bootstrap(&format!("envoy-{source}.yaml"), |command| {
                command.args(["bootstrap", "envoy", "--config"]).arg(&config);
                command.args(["--source", source, "--admin", &format!("127.0.0.1:{port}")]);
                command.args(["--node-id", &format!("{source}-1")]);
                if DELTA_SOURCES.contains(source) {
                    command.arg("--delta");
                }
            })
            .await?;
        }
        self.start_prometheus().await?;
        self.start_traflux().await?;
        for source in SOURCES {
            let mut command = Command::new(&self.programs.envoy);
            command.arg("-c").arg(self.dir.join(format!("envoy-{source}.yaml")));
            command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]);
            self.envoys.push(Program::start(&format!("envoy-{source}"), command, &self.dir)?);
        }
        for source in 0..SOURCES.len() {
            let what = format!("Envoy of {} ready", SOURCES[source]);
            let admin = &self.admins[source];
            wait(&what, Duration::from_secs(20), || async move { Ok(admin.is_ready().await) }).await?;
        }
        Ok(())
    }

    async fn print_bootstrap(&self, file: &str, arguments: impl FnOnce(&mut Command)) -> Result<()> {
        let mut command = Command::new(&self.programs.traflux);
        arguments(&mut command);
        let text = program::output(command, Duration::from_secs(10)).await?;
        self.write(file, &text)
    }

    /// Starts Prometheus, again where it was killed, and waits until it answers.
    pub(crate) async fn start_prometheus(&self) -> Result<()> {
        let mut command = Command::new(&self.programs.prometheus);
        command.arg(format!("--config.file={}", self.dir.join("prometheus.yaml").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{}", self.ports.prometheus));
        command.arg(format!("--storage.tsdb.path={}", self.dir.join("prometheus-data").display()));
        command.args(["--storage.tsdb.retention.time=2h", "--log.level=warn"]);
        let started = Program::start("prometheus", command, &self.dir)?;
        *self.prometheus.lock().await = Some(started);
        let ready = || async { Ok(self.metrics.is_ready().await) };
        wait("Prometheus ready", Duration::from_secs(30), ready).await
    }

    /// Kills Prometheus with SIGKILL.
    pub(crate) async fn kill_prometheus(&self) -> Result<()> {
        match self.prometheus.lock().await.take() {
            Some(program) => program.kill().await,
            None => Err(LiveError::program("prometheus", "does not run")),
        }
    }

    /// Starts Traflux, again where it was killed, and waits until it is ready.
    pub(crate) async fn start_traflux(&self) -> Result<()> {
        let mut command = Command::new(&self.programs.traflux);
        command.arg("run").arg("--config").arg(self.config_file()).current_dir(&self.dir);
        let started = Program::start("traflux", command, &self.dir)?;
        *self.traflux.lock().await = Some(started);
        let ready = || async {
            if let Some(program) = self.traflux.lock().await.as_mut()
                && let Some(status) = program.ended()
            {
                return Err(LiveError::program("traflux run", format!("{status}\n{}", program.tail())));
            }
            Ok(self.api.is_ready().await)
        };
        wait("traflux ready", Duration::from_secs(20), ready).await
    }

    /// Kills Traflux with SIGKILL.
    pub(crate) async fn kill_traflux(&self) -> Result<()> {
        match self.traflux.lock().await.take() {
            Some(program) => program.kill().await,
            None => Err(LiveError::program("traflux", "does not run")),
        }
    }

    /// Sends a signal to a source's Envoy.
    pub(crate) async fn signal_envoy(&self, source: usize, signal: &str) -> Result<()> {
        self.envoys[source].signal(signal).await
    }

    fn start_load(&mut self) -> Result<()> {
        let echo = self.placed.iter().find(|p| p.service.http2);
        if let (Some(python), Some(echo)) = (&self.python, echo) {
            self.grpc_load = Some(python.load(echo.listeners[0], echo.service.rate_rps)?);
        }
        for placed in self.placed.iter().filter(|p| !p.service.http2) {
            for source in 0..SOURCES.len() {
                let service = placed.service;
                let target = SocketAddr::from(([127, 0, 0, 1], placed.listeners[source]));
                let seed = 7 + 10 * source as u64 + placed.backends[0] as u64 % 2;
                let load = Load::start(target, source, service.name, seed, Arc::clone(&self.timeline));
                load.set_rate(service.rate_rps);
                self.loads.push((service.name, source, load));
            }
        }
        Ok(())
    }

    /// The load of a source on a service.
    pub(crate) fn load(&self, service: &Service, source: usize) -> Result<&Load> {
        let found = self.loads.iter().find(|(name, at, _)| *name == service.name && *at == source);
        found.map(|(_, _, load)| load).ok_or_else(|| LiveError::missing(format!("load on {}", service.name)))
    }

    /// Stops all load of a source, or makes it as it was.
    pub(crate) fn set_source_load(&self, source: usize, on: bool) {
        for (name, at, load) in &self.loads {
            if *at == source {
                let rate = [WEB, PAY].iter().find(|s| s.name == *name).map_or(0.0, |s| s.rate_rps);
                load.set_rate(if on { rate } else { 0.0 });
            }
        }
    }

    /// An endpoint's backend.
    pub(crate) fn backend(&self, endpoint: &str) -> Result<&Backend> {
        let found = self.backends.iter().find(|(name, _)| *name == endpoint);
        found.map(|(_, backend)| backend).ok_or_else(|| LiveError::missing(format!("backend {endpoint}")))
    }

    /// Requests since a moment.
    pub(crate) fn since(&self, service: &Service, source: Option<usize>, from: Instant) -> Summary {
        self.timeline.summary(Stretch { service: Some(service.name), source, from, to: Instant::now() })
    }

    /// Requests of the last stretch of time.
    pub(crate) fn last(&self, service: &Service, source: Option<usize>, length: Duration) -> Summary {
        let to = Instant::now();
        let from = to.checked_sub(length).unwrap_or(self.started).max(self.started);
        self.timeline.summary(Stretch { service: Some(service.name), source, from, to })
    }

    /// Waits until no share of the services given moved by more than `by` for three seconds.
    pub(crate) async fn settle(&self, services: &[Service], by: f64, limit: Duration) -> Result<Decision> {
        let started = Instant::now();
        let mut reference: Option<Vec<f64>> = None;
        let mut since = started;
        loop {
            let decision = self.api.decision().await?;
            let mut now = Vec::new();
            for service in services {
                for source in 0..SOURCES.len() {
                    now.extend(decision.shares(service, source)?);
                }
            }
            let moved = reference.as_ref().map_or(f64::INFINITY, |r| {
                r.iter().zip(&now).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
            });
            if moved > by {
                reference = Some(now);
                since = Instant::now();
            } else if since.elapsed() > Duration::from_secs(3) && decision.rung() == "normal" {
                return Ok(decision);
            }
            if started.elapsed() > limit {
                return Err(LiveError::Timeout {
                    what: "weights settled".into(),
                    limit_s: limit.as_secs_f64(),
                });
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    /// Prints the ends of all logs.
    pub(crate) async fn show_logs(&self) {
        let (traflux, prometheus) = (self.traflux.lock().await, self.prometheus.lock().await);
        let programs = traflux.iter().chain(prometheus.iter()).chain(&self.envoys);
        for program in programs.chain(self.python.iter().map(Python::backends)) {
            let tail = program.tail();
            if !tail.is_empty() {
                eprintln!("--- {} ({})\n{tail}", program.name(), program.log().display());
            }
        }
    }
}

/// Asks every 100 ms until the answer is yes.
pub(crate) async fn wait<F>(what: &str, limit: Duration, mut ask: impl FnMut() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let started = Instant::now();
    let mut last = None;
    while started.elapsed() < limit {
        match ask().await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // A program that ended will not come to life.
            Err(error @ LiveError::Program { .. }) => return Err(error),
            // Whoever restarts something is refused for a moment.
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let what = match last {
        Some(error) => format!("{what} ({error})"),
        None => what.to_owned(),
    };
    Err(LiveError::Timeout { what, limit_s: limit.as_secs_f64() })
}

/// Removes the directory of a run that left nothing to look at.
pub(crate) fn remove(dir: &Path) {
    // What cannot be removed is merely left.
    let _ = std::fs::remove_dir_all(dir);
}
