//! How does the proxyless gRPC side run?
//!
//! One Python process holds three gRPC backends, one sends steady load to them through an Envoy (so that the
//! controller can measure them), and one, started per claim, is a gRPC client that gets its endpoints from
//! the controller itself (`xds:///echo`) and counts who answers.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::error::{LiveError, Result};
use crate::fleet::{ECHO, SOURCES};
use crate::program::{self, Program};

const SCRIPT: &str = include_str!("../python/echo.py");

/// The Python processes.
#[derive(Debug)]
pub(crate) struct Python {
    python: PathBuf,
    script: PathBuf,
    dir: PathBuf,
    backends: Program,
    ports: Vec<u16>,
}

/// What a client that counted says.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Answers by endpoint, in the order of the service.
    pub counts: Vec<usize>,
    /// Calls that failed, with the first reason.
    pub failed: Vec<String>,
}

impl Python {
    /// Starts the backends and learns their ports.
    pub(crate) async fn start(python: &Path, dir: &Path) -> Result<Self> {
        let script = dir.join("echo.py");
        std::fs::write(&script, SCRIPT).map_err(|e| LiveError::file(&script, e))?;
        let mut command = Command::new(python);
        command.arg(&script).arg("backends");
        command.args(ECHO.endpoints.iter().map(|e| format!("{}={}", e.name, e.median_ms)));
        let mut backends = Program::start("grpc-backends", command, dir)?;
        let started = Instant::now();
        let ports = loop {
            let said: Option<Value> = backends.tail().lines().find_map(|l| serde_json::from_str(l).ok());
            if let Some(ports) = said.as_ref().and_then(|v| v["ports"].as_array()) {
                break ports.iter().filter_map(|p| u16::try_from(p.as_u64()?).ok()).collect();
            }
            if let Some(status) = backends.ended() {
                return Err(LiveError::program("grpc-backends", format!("{status}\n{}", backends.tail())));
            }
            if started.elapsed() > Duration::from_secs(20) {
                return Err(LiveError::Timeout { what: "gRPC backends ready".into(), limit_s: 20.0 });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        Ok(Self { python: python.to_owned(), script, dir: dir.to_owned(), backends, ports })
    }

    /// Ports of the backends.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// The process that holds the backends.
    pub(crate) fn backends(&self) -> &Program {
        &self.backends
    }

    /// Sends calls through an Envoy until it is dropped.
    pub(crate) fn load(&self, listener: u16, rate_rps: f64) -> Result<Program> {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg("load").arg(format!("127.0.0.1:{listener}")).arg(rate_rps.to_string());
        Program::start(&format!("grpc-load-{listener}"), command, &self.dir)
    }

    /// Makes calls as a client of the controller in the first source, and counts who answers.
    pub(crate) async fn count(&self, xds_port: u16, calls: usize) -> Result<Counted> {
        let bootstrap = self.dir.join("grpc-bootstrap.json");
        let text = json!({
            "xds_servers": [{
                "server_uri": format!("127.0.0.1:{xds_port}"),
                "channel_creds": [{ "type": "insecure" }],
                "server_features": ["xds_v3"],
            }],
            "node": { "id": "grpc-client-1", "cluster": "grpc", "locality": { "zone": SOURCES[0] } },
        });
        std::fs::write(&bootstrap, text.to_string()).map_err(|e| LiveError::file(&bootstrap, e))?;
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg("count").arg(format!("xds:///{}", ECHO.name)).arg(calls.to_string());
        command.env("GRPC_XDS_BOOTSTRAP", &bootstrap);
        let said = program::output(command, Duration::from_secs(60)).await?;
        let answer: Value = serde_json::from_str(said.trim())
            .map_err(|e| LiveError::program("echo.py count", format!("{e}: {said}")))?;
        let counts = ECHO.endpoints.iter().map(|e| answer["counts"][e.name].as_u64().unwrap_or(0) as usize);
        let failed = answer["failed"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Counted {
            counts: counts.collect(),
            failed: failed.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect(),
        })
    }
}
