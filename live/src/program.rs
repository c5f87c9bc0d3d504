//! How do Envoy, Prometheus and Traflux run so that none outlives the test?

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::error::{LiveError, Result};

/// A program of the rig: in a process group of its own, its output in a file.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    pid: u32,
    log: PathBuf,
}

/// Most lines of a log that are shown when something failed.
pub(crate) const TAIL: usize = 15;

impl Program {
    /// Starts a program; its log is `<dir>/<name>.log`, continued where there is one.
    pub(crate) fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&log);
        let output = open().map_err(|e| LiveError::file(&log, e))?;
        let errors = output.try_clone().map_err(|e| LiveError::file(&log, e))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0).kill_on_drop(true);
        let child = command.spawn().map_err(|e| LiveError::program(name, format!("cannot start: {e}")))?;
        let pid = child.id().ok_or_else(|| LiveError::program(name, "ended at once"))?;
        Ok(Self { name: name.to_owned(), child, pid, log })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its log.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal by its name, such as `STOP`. The standard library knows no signals; the shell does.
    pub(crate) async fn signal(&self, signal: &str) -> Result<()> {
        let script = format!("kill -{signal} {}", self.pid);
        let status = Command::new("sh").args(["-c", &script]).status().await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(LiveError::program(&self.name, format!("kill -{signal}: {status}"))),
            Err(error) => Err(LiveError::program(&self.name, format!("kill -{signal}: {error}"))),
        }
    }

    /// Kills it with SIGKILL, as a machine that loses power would.
    pub(crate) async fn kill(mut self) -> Result<()> {
        let killed = self.child.kill().await;
        killed.map_err(|e| LiveError::program(&self.name, e))
    }

    /// The last lines of its log.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // The group as well: whatever the program started goes with it. A stopped process takes SIGKILL too.
            let script = format!("kill -KILL -{} 2>/dev/null", self.pid);
            let _ = std::process::Command::new("sh").args(["-c", &script]).status();
        }
    }
}

/// Runs a program that ends by itself and gives what it printed.
pub(crate) async fn output(mut command: Command, limit: Duration) -> Result<String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let shown: Vec<String> = command.as_std().get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let name = format!("{} {}", name.rsplit('/').next().unwrap_or_default(), shown.join(" "));
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(LiveError::program(&name, format!("{}: {said}", output.status)))
        }
        Ok(Err(error)) => Err(LiveError::program(&name, error)),
        Err(_) => Err(LiveError::Timeout { what: name, limit_s: limit.as_secs_f64() }),
    }
}

/// Ports on loopback that nobody listens on, below the range from which systems take the local ports of
/// outgoing connections: a port from that range could be taken again before the program binds it.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    const FIRST: u32 = 20_000;
    const SPAN: u32 = 12_000;
    // Two runs at once begin at different places.
    let start = std::process::id().wrapping_mul(97) % SPAN;
    let mut held = Vec::new();
    for step in 0..SPAN {
        let port = (FIRST + (start + step) % SPAN) as u16;
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    Err(LiveError::program("ports", format!("fewer than {count} are free on 127.0.0.1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_gone_when_its_handle_is_dropped() {
        let dir = std::env::temp_dir().join(format!("traflux-live-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo started; exec sleep 60"]);
        let mut program = Program::start("sleeper", command, &dir).unwrap();
        assert!(program.ended().is_none());
        while program.tail().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(program.tail(), "started");
        let stat = format!("/proc/{}/stat", program.pid);
        drop(program);
        let gone = || std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z"));
        while !gone() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn ports_are_all_different() {
        let mut ports = free_ports(20).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }
}
