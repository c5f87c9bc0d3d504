//! How is the package for npm made, and does it work where it is installed?
//!
//! The library of this platform is put beside the JavaScript in `target/npm`, packed with `npm pack`, and installed into
//! a clean project outside the tree, where its tests run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::{self, Show};
use crate::report::{Report, Verdict, say};
use crate::tools::succeed;
use crate::workspace;

/// Help of the task.
pub(crate) const HELP: &str = "\
Build what would be published to npm: target/npm/traflux-VERSION.tgz with the library of this platform

Usage: cargo xtask npm

Needs npm on PATH. `cargo xtask test` installs the package into a clean project, runs its tests and checks its types
there.
";

/// Longest time for building.
const BUILD: Duration = Duration::from_secs(1200);
/// Longest time for each command of npm.
const NPM: Duration = Duration::from_secs(240);
/// Longest time for the tests; a million linear programs take a minute, several where other work is in the way.
const TESTS: Duration = Duration::from_secs(600);

/// What checks the types.
const TYPESCRIPT: &str = "typescript@5.9.3";

/// What goes into the package besides the library.
const PARTS: [&str; 8] = [
    "package.json",
    "index.js",
    "index.mjs",
    "index.d.ts",
    "lib",
    "README.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

/// Runs the task.
pub(crate) fn run(arguments: &[String]) -> Result<bool, String> {
    if let Some(unknown) = arguments.first() {
        return Err(format!("`{unknown}` is unknown; `cargo xtask npm --help` tells what there is"));
    }
    let build = workspace::cargo(&["build", "--release", "--package", "traflux-node"]);
    say(&format!("{}", pack(build, "release")?.display()));
    Ok(true)
}

/// The step of `cargo xtask test`.
pub(crate) fn step(report: &mut Report) {
    say("\n== npm: pack, install outside the tree, test");
    let started = Instant::now();
    let missing = ["npm", "node"].into_iter().find(|name| workspace::on_path(name).is_none());
    let verdict = match missing {
        Some(name) => {
            let why = format!("{name} is not on PATH, so the tests of the npm package did not run");
            if workspace::is_ci() {
                Verdict::Failed(format!("{why} (CI=true)"))
            } else {
                Verdict::NotRun(why)
            }
        }
        None => {
            let project = std::env::temp_dir().join(format!("traflux-npm-{}", std::process::id()));
            let verdict = test(report, &project).map_or_else(Verdict::Failed, |()| Verdict::Ok);
            let _ = fs::remove_dir_all(&project);
            verdict
        }
    };
    report.add("npm", started.elapsed(), verdict);
}

/// Packs the package, installs it outside the tree, runs its tests there and checks its types.
fn test(report: &mut Report, project: &Path) -> Result<(), String> {
    // The features and the profile of the other steps, so that nothing is compiled twice.
    let package = pack(workspace::cargo(&["build", "--workspace", "--lib", "--bins", "--tests"]), "debug")?;
    install(project, &package)?;
    types(report, project);
    let mut tests = Command::new("node");
    tests
        .arg("--test")
        .args(test_files(&project.join("test"))?)
        .env("TRAFLUX_CONFORMANCE", workspace::root().join("tests/conformance"))
        .env("TRAFLUX_README", workspace::root().join("README.md"))
        .current_dir(project);
    succeed("node --test", process::run(tests, TESTS, Show::All))
}

/// The files of tests, by name: what Node makes of a folder or a pattern differs from version to version.
fn test_files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(".test.mjs"));
    files.sort();
    if files.is_empty() { Err(format!("no tests in {}", folder.display())) } else { Ok(files) }
}

/// Whether what is written in `test/types` passes the compiler of TypeScript, which comes from npm; a misuse that it lets
/// pass is an error there.
fn types(report: &mut Report, project: &Path) {
    let mut fetch = Command::new("npm");
    fetch.args(["install", "--prefer-offline", "--no-audit", "--no-fund", TYPESCRIPT]).current_dir(project);
    if let Err(why) = succeed("npm install", process::run(fetch, NPM, Show::Nothing)) {
        let why =
            format!("{TYPESCRIPT} cannot be had, so the types of the npm package were not checked: {why}");
        let verdict = if workspace::is_ci() { Verdict::Failed(why) } else { Verdict::NotRun(why) };
        return report.add("types", Duration::ZERO, verdict);
    }
    let mut check = Command::new("node");
    check.arg("node_modules/typescript/bin/tsc").args(["--noEmit", "--strict", "--module", "nodenext"]);
    check.args(["--target", "es2022", "--lib", "es2022,dom", "test/types/use.mts", "test/types/common.cts"]);
    check.current_dir(project);
    report.step("types", check, NPM);
}

fn install(project: &Path, package: &Path) -> Result<(), String> {
    let source = workspace::root().join("bindings/node");
    let _ = fs::remove_dir_all(project);
    copy(&source.join("test"), &project.join("test"))?;
    copy(&source.join("examples"), &project.join("examples"))?;
    let manifest = project.join("package.json");
    fs::write(&manifest, "{\"private\": true}\n").map_err(|e| format!("{}: {e}", manifest.display()))?;
    let mut install = Command::new("npm");
    install.args(["install", "--offline", "--no-audit", "--no-fund"]).arg(package).current_dir(project);
    succeed("npm install", process::run(install, NPM, Show::Nothing))
}

/// Packs the package with the library that a build leaves in the folder of its profile.
fn pack(build: Command, profile: &str) -> Result<PathBuf, String> {
    let npm = workspace::on_path("npm").ok_or("npm is not on PATH")?;
    let node = workspace::on_path("node").ok_or("node is not on PATH")?;
    let root = workspace::root();
    succeed("cargo build", process::run(build, BUILD, Show::All))?;
    let folder = root.join("target/npm");
    let _ = fs::remove_dir_all(&folder);
    let inside = folder.join("package");
    for part in PARTS {
        copy(&root.join("bindings/node").join(part), &inside.join(part))?;
    }
    let mut platform = Command::new(node);
    platform.args(["-p", PLATFORM]);
    let platform = process::run(platform, Duration::from_secs(30), Show::Nothing);
    let name = platform.output.trim().to_owned();
    succeed("node -p", platform)?;
    let library = workspace::target_dir().join(profile).join(libname());
    copy(&library, &inside.join(format!("traflux.{name}.node")))?;
    let mut pack = Command::new(npm);
    pack.args(["pack", "--pack-destination"]).arg(&folder).current_dir(&inside);
    succeed("npm pack", process::run(pack, NPM, Show::Nothing))?;
    let packed = fs::read_dir(&folder).map_err(|e| e.to_string())?.flatten().map(|entry| entry.path());
    packed
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .ok_or_else(|| "npm pack left no package".to_owned())
}

/// As `lib/native.js` names the platform.
const PLATFORM: &str = "process.platform + '-' + process.arch + (process.platform === 'linux' && \
    !process.report.getReport().header.glibcVersionRuntime ? '-musl' : '')";

fn libname() -> String {
    format!("{}traflux_node{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let wrong = |error: std::io::Error| format!("cannot copy {}: {error}", from.display());
    if from.is_dir() {
        fs::create_dir_all(to).map_err(wrong)?;
        for entry in fs::read_dir(from).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(wrong)?;
    }
    fs::copy(from, to).map(drop).map_err(wrong)
}
