//! Does what would be published for Python work where nothing of this repository is?
//!
//! The wheel is built by maturin from an environment in `target/tools`, installed into a new environment in a new
//! folder outside the tree, and tested there: its tests, its stubs, and the lines that the README shows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{self, Show};
use crate::report::{Report, Verdict, say};
use crate::tools::{self, Package};
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Build the Python package as it would be published

Usage: cargo xtask wheel

The wheel comes into target/wheels; it serves Python 3.10 and later. maturin is a Python package of a fixed version in
target/tools/maturin (needs python3 with venv).
";

/// What builds the wheel.
const MATURIN: Package =
    Package { requirement: "maturin==1.16.0", stamp: "maturin.stamp", check: ["bin/maturin", "--version"] };

/// What the tests need beside the wheel; heavy frameworks are left to people.
const TESTED_WITH: [&str; 6] =
    ["numpy==2.4.6", "pytest==9.2.0", "mypy==2.4.1", "gymnasium==1.4.0", "networkx==3.6.1", "pandas==3.1.1"];

/// Longest time for a build; a clean one on two cores takes minutes.
const BUILD: Duration = Duration::from_secs(20 * 60);
/// Longest time for the installation, and for the tests.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Runs the task `wheel`.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("`{unknown}` is unknown; `cargo xtask wheel --help` tells what there is"));
    }
    let mut report = Report::default();
    let wheel = maturin().and_then(|maturin| build(&mut report, &maturin, "release"));
    match wheel {
        Ok(wheel) => say(&format!("{}", wheel.display())),
        Err(why) => report.add("wheel", Duration::ZERO, Verdict::Failed(why)),
    }
    say(&report.table());
    Ok(report.is_ok())
}

/// Steps of the task `test`: the wheel, and its tests in a clean environment outside the tree.
pub(crate) fn steps(report: &mut Report) {
    let started = Instant::now();
    let maturin = match maturin() {
        Ok(maturin) => maturin,
        Err(why) => {
            let why =
                format!("maturin cannot be had ({why}), so the tests of the Python package did not run");
            let verdict = if workspace::is_ci() {
                Verdict::Failed(format!("{why} (CI=true)"))
            } else {
                Verdict::NotRun(why)
            };
            return report.add("wheel", started.elapsed(), verdict);
        }
    };
    // The profile of the other steps: most crates are compiled already.
    match build(report, &maturin, "dev") {
        Ok(wheel) => {
            let dir = std::env::temp_dir().join(format!("traflux-python-{}", std::process::id()));
            if let Err(why) = test(report, &wheel, &dir) {
                report.add("python", started.elapsed(), Verdict::Failed(why));
            }
            let _ = std::fs::remove_dir_all(&dir);
        }
        Err(why) => report.add("wheel", started.elapsed(), Verdict::Failed(why)),
    }
}

fn maturin() -> Result<PathBuf, String> {
    let (dir, _lock) = tools::locked()?;
    let venv = tools::environment(&dir, "maturin", &[MATURIN])?;
    tools::install(&dir, &venv, MATURIN)
}

fn build(report: &mut Report, maturin: &Path, profile: &str) -> Result<PathBuf, String> {
    let wheels = workspace::target_dir().join("wheels");
    // An older one may have another name.
    let _ = std::fs::remove_dir_all(&wheels);
    let mut build = Command::new(maturin);
    build.args(["build", "--profile", profile, "--locked", "--interpreter", "python3", "--out"]).arg(&wheels);
    build.current_dir(workspace::root().join("bindings/python"));
    build.env("CARGO_TARGET_DIR", workspace::target_dir());
    if !report.step("wheel", build, BUILD).success {
        return Err("maturin did not build the wheel".to_owned());
    }
    let files = std::fs::read_dir(&wheels).map_err(|e| format!("{}: {e}", wheels.display()))?;
    let wheel =
        files.flatten().map(|file| file.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
    wheel.ok_or_else(|| format!("no wheel in {}", wheels.display()))
}

/// Installs the wheel into a new environment in `dir`, and runs the tests there.
fn test(report: &mut Report, wheel: &Path, dir: &Path) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let venv = dir.join("venv");
    let python3 = workspace::on_path("python3").ok_or("python3 is not on PATH")?;
    let mut make = Command::new(python3);
    make.args(["-m", "venv"]).arg(&venv);
    tools::succeed("python3 -m venv", process::run(make, LIMIT, Show::Nothing))?;
    let python = venv.join("bin/python3");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]);
    install.args(TESTED_WITH).arg(wheel);
    tools::succeed("pip install", process::run(install, LIMIT, Show::Nothing))?;

    let source = workspace::root().join("bindings/python");
    let work = dir.join("work");
    copy(&source.join("tests"), &work.join("tests"))?;
    copy(&source.join("examples"), &work.join("examples"))?;
    copy(&source.join("notebooks"), &work.join("notebooks"))?;
    copy(&workspace::root().join("docs/answers"), &work.join("answers"))?;
    copy(&workspace::root().join("tests/conformance"), &work.join("conformance"))?;
    let settings = source.join("pyproject.toml");
    std::fs::copy(&settings, work.join("pyproject.toml"))
        .map_err(|e| format!("{}: {e}", settings.display()))?;
    let readme = workspace::root().join("README.md");
    std::fs::copy(&readme, work.join("README.md")).map_err(|e| format!("{}: {e}", readme.display()))?;
    let mut tests = Command::new(&python);
    tests.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]).current_dir(&work);
    // What a checkout has on its path is not what people have.
    tests.env_remove("PYTHONPATH").env("TRAFLUX_CONFORMANCE", work.join("conformance"));
    tests.env("TRAFLUX_README", work.join("README.md")).env("TRAFLUX_ANSWERS", work.join("answers"));
    report.step("python", tests, LIMIT);
    let mut stubs = Command::new(&python);
    stubs
        .args([
            "-m",
            "mypy.stubtest",
            "traflux",
            "--ignore-disjoint-bases",
            "--allowlist",
            "tests/stubtest.txt",
            "--mypy-config-file",
            "pyproject.toml",
        ])
        .current_dir(&work);
    stubs.env_remove("PYTHONPATH");
    report.step("stubs", stubs, LIMIT);
    Ok(())
}

/// Copies the files of a folder and of those below it.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{}: {e}", from.display());
    std::fs::create_dir_all(to).map_err(told)?;
    for entry in std::fs::read_dir(from).map_err(told)? {
        let entry = entry.map_err(told)?;
        let place = to.join(entry.file_name());
        if entry.file_type().map_err(told)?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), place).map_err(told)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_copied_whole() {
        let dir = std::env::temp_dir().join(format!("traflux-xtask-copy-{}", std::process::id()));
        let (from, to) = (dir.join("from"), dir.join("to"));
        std::fs::create_dir_all(from.join("below")).unwrap();
        std::fs::write(from.join("below/file"), "text").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("below/file")).unwrap(), "text");
        assert!(copy(&dir.join("nowhere"), &to).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn an_unknown_argument_is_an_error() {
        assert!(run(&["--fast".to_owned()]).unwrap_err().contains("`--fast`"));
    }
}
