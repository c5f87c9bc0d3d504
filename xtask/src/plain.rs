//! How do the plain methods that the network solvers are compared with come into `target/tools`?
//!
//! Python packages of fixed versions in a virtual environment of their own, and `glpsol`: the one on `PATH`, or
//! else the Debian package with the libraries that it needs, unpacked without being installed.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Show};
use crate::report::say;
use crate::tools::{self, Package};
use crate::workspace;

/// PuLP 3 has another interface and less to do with what is in use.
const PACKAGES: Package = Package {
    requirement: "PuLP==2.9.0 highspy==1.15.1 scipy==1.17.1 numpy==2.4.6",
    stamp: "plain.stamp",
    check: ["bin/python3", "-cimport highspy, numpy, pulp, scipy"],
};

/// What `benches/te/plain.py` runs with.
#[derive(Debug)]
pub(crate) struct PlainMethods {
    /// A Python that has the packages.
    pub python: PathBuf,
    /// The GLPK executable.
    glpsol: PathBuf,
    /// Where its libraries are, unless the system has them.
    libraries: Option<PathBuf>,
}

impl PlainMethods {
    /// Lets a command, and what it starts, find GLPK.
    pub(crate) fn equip(&self, command: &mut Command) {
        command.env("GLPSOL", &self.glpsol);
        if let Some(libraries) = &self.libraries {
            let mut path = OsString::from(libraries);
            if let Some(others) = std::env::var_os("LD_LIBRARY_PATH").filter(|others| !others.is_empty()) {
                path.push(":");
                path.push(others);
            }
            command.env("LD_LIBRARY_PATH", path);
        }
    }
}

/// Makes them available, unless they are.
pub(crate) fn ensure() -> Result<PlainMethods, String> {
    let (dir, _lock) = tools::locked()?;
    let venv = tools::environment(&dir, "plain", &[PACKAGES])?;
    let python = tools::install(&dir, &venv, PACKAGES)?;
    let (glpsol, libraries) = glpsol(&dir).map_err(|why| format!("glpsol cannot be had: {why}"))?;
    Ok(PlainMethods { python, glpsol, libraries })
}

fn glpsol(dir: &Path) -> Result<(PathBuf, Option<PathBuf>), String> {
    if let Some(installed) = workspace::on_path("glpsol") {
        return Ok((installed, None));
    }
    let home = dir.join("glpk");
    if !home.is_dir() {
        if workspace::on_path("apt-get").is_none() || workspace::on_path("dpkg").is_none() {
            return Err(
                "it is not on PATH, and without apt-get and dpkg there is no Debian package".to_owned()
            );
        }
        say("fetching the Debian package glpk-utils");
        let fresh = dir.join("glpk.new");
        unpack(&fresh)?;
        fs::rename(&fresh, &home).map_err(|e| format!("cannot rename {}: {e}", fresh.display()))?;
    }
    Ok((home.join("usr/bin/glpsol"), libraries(&home)))
}

/// Unpacks the package and those that it needs and the system has not, and tries the program.
fn unpack(fresh: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(fresh);
    let archives = fresh.join("archives");
    fs::create_dir_all(archives.join("partial"))
        .map_err(|e| format!("cannot make {}: {e}", archives.display()))?;
    tools::download_debian("apt-get download glpk-utils", || {
        let mut download = Command::new("apt-get");
        // Nothing is installed, so no lock of root is needed.
        download.args(["-q", "-y", "--download-only", "--no-install-recommends"]);
        download.args(["-o", "Debug::NoLocking=true", "-o"]);
        download.arg(format!("Dir::Cache::archives={}", archives.display()));
        download.args(["install", "glpk-utils"]);
        download
    })?;
    let listed = fs::read_dir(&archives).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path());
    for package in listed.filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        let mut unpack = Command::new("dpkg");
        unpack.arg("-x").arg(&package).arg(fresh);
        tools::succeed("dpkg -x", process::run(unpack, Duration::from_secs(120), Show::Nothing))?;
    }
    let _ = fs::remove_dir_all(&archives);
    let mut version = Command::new(fresh.join("usr/bin/glpsol"));
    version.arg("--version");
    if let Some(libraries) = libraries(fresh) {
        version.env("LD_LIBRARY_PATH", libraries);
    }
    tools::succeed("glpsol --version", process::run(version, Duration::from_secs(60), Show::Nothing))
}

/// The folder `usr/lib/<architecture>` where there is one.
fn libraries(root: &Path) -> Option<PathBuf> {
    let mut folders: Vec<_> = fs::read_dir(root.join("usr/lib")).ok()?.flatten().map(|e| e.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    folders.into_iter().next()
}
