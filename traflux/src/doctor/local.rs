//! Is the configuration sound, and are its files there?

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use super::{Finding, PATIENCE, some_of};
use crate::config::Config;
use crate::controller::StateStore;

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let mut findings = vec![configuration(config)];
    findings.extend(names(config).await);
    findings.push(token(config));
    findings.push(api_address(config));
    findings.push(xds_address(config));
    findings.push(state_file(config));
    findings.extend(files(config).into_iter().filter_map(|(key, path)| readable(key, &path)));
    findings.extend(secrets(config).into_iter().filter_map(|(key, path)| private(key, &path)));
    findings
}

fn configuration(config: &Config) -> Finding {
    const WHAT: &str = "configuration";
    match config.check().and_then(|()| config.build(&Default::default())) {
        Ok(_) => Finding::ok(
            WHAT,
            format!(
                "{} sources, {} services, {} endpoints",
                config.sources.len(),
                config.services.len(),
                config.endpoints().count()
            ),
        ),
        Err(problem) => {
            Finding::fail(WHAT, problem.to_string(), "`traflux schema` prints what a configuration may say")
        }
    }
}

async fn names(config: &Config) -> Option<Finding> {
    const WHAT: &str = "endpoint names";
    let names = config.dns_names();
    if names.is_empty() {
        return None;
    }
    let mut unknown = Vec::new();
    for name in &names {
        let looked_up = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await;
        let found =
            looked_up.is_ok_and(|answer| answer.is_ok_and(|mut addresses| addresses.next().is_some()));
        if !found {
            unknown.push(name.clone());
        }
    }
    Some(if unknown.is_empty() {
        Finding::ok(WHAT, format!("all {} resolve", names.len()))
    } else {
        Finding::fail(
            WHAT,
            format!("cannot be resolved: {}", some_of(&unknown)),
            "mend the addresses or the resolver; a host without an address is left out",
        )
    })
}

fn token(config: &Config) -> Finding {
    const WHAT: &str = "api token";
    const FIX: &str = "make one with `head -c 32 /dev/urandom | base64 > token && chmod 600 token`";
    let Some(path) = &config.api.token_file else {
        return Finding::warn(
            WHAT,
            "none: nothing can be changed through the API",
            format!("set `api.token_file` where that is wanted; {FIX}"),
        );
    };
    match std::fs::read_to_string(path) {
        Err(error) => Finding::fail(WHAT, format!("{}: {error}", path.display()), FIX),
        Ok(text) if text.trim().len() < 16 => Finding::fail(
            WHAT,
            format!("{}: {} characters, must have at least 16", path.display(), text.trim().len()),
            FIX,
        ),
        Ok(_) => private("api token", path).unwrap_or_else(|| Finding::ok(WHAT, path.display().to_string())),
    }
}

fn api_address(config: &Config) -> Finding {
    const WHAT: &str = "api address";
    let listen = config.api.listen;
    if listen.ip().is_loopback() {
        Finding::ok(WHAT, format!("{listen}, this machine only"))
    } else {
        Finding::warn(
            WHAT,
            format!("{listen} is reachable from elsewhere, in plain text"),
            "put a proxy with TLS before it, or listen on 127.0.0.1",
        )
    }
}

fn xds_address(config: &Config) -> Finding {
    const WHAT: &str = "xds address";
    let xds = &config.xds;
    match &xds.tls {
        None if xds.listen.ip().is_loopback() => {
            Finding::ok(WHAT, format!("{}, this machine only", xds.listen))
        }
        None => Finding::warn(
            WHAT,
            format!("{} takes anybody for an Envoy, in plain text", xds.listen),
            "set `xds.tls` with `client_ca_file`",
        ),
        Some(tls) if tls.client_ca_file.is_none() => Finding::warn(
            WHAT,
            format!("{} with TLS takes anybody for an Envoy", xds.listen),
            "set `xds.tls.client_ca_file`, so that clients must show a certificate",
        ),
        Some(_) => Finding::ok(WHAT, format!("{} with mutual TLS", xds.listen)),
    }
}

fn state_file(config: &Config) -> Finding {
    const WHAT: &str = "state file";
    let Some(path) = &config.state_file else {
        return Finding::warn(
            WHAT,
            "none: weights jump to the static ones when the controller restarts",
            "set `state_file`",
        );
    };
    let fix = "let the controller's user write there, or set `state_file` to another place";
    // It is replaced by renaming, so what must be writable is its directory, or the nearest one that exists.
    let existing = path
        .parent()
        .into_iter()
        .flat_map(Path::ancestors)
        .map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p })
        .find(|p| p.exists())
        .unwrap_or(Path::new("."));
    let probe = existing.join(format!(".traflux-doctor-{}", std::process::id()));
    if let Err(error) = std::fs::File::create_new(&probe) {
        return Finding::fail(WHAT, format!("{}: {error}", existing.display()), fix);
    }
    if let Err(error) = std::fs::remove_file(&probe) {
        return Finding::fail(WHAT, format!("{}: {error}", probe.display()), fix);
    }
    let Ok(built) = config.build(&Default::default()) else {
        return Finding::ok(WHAT, format!("{} can be written", path.display()));
    };
    match StateStore::new(path).load(&built.fleet.topology, &built.fleet.fallback) {
        Ok(Some(_)) => Finding::ok(WHAT, format!("{} can be written and holds weights", path.display())),
        Ok(None) => Finding::ok(
            WHAT,
            format!("{} can be written and holds no weights for this fleet yet", path.display()),
        ),
        Err(problem) => {
            Finding::fail(WHAT, problem.to_string(), "move it away; the start is then from static weights")
        }
    }
}

/// Files that must be readable, beside the secret ones.
fn files(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let auth = &config.metrics.prometheus.auth;
    let tls = config.xds.tls.as_ref();
    [
        ("metrics.prometheus.auth.ca_file", auth.ca_file.clone()),
        ("metrics.prometheus.auth.cert_file", auth.cert_file.clone()),
        ("policy.checkpoint", config.policy.checkpoint.clone()),
        ("prices.file", config.prices.as_ref().and_then(|p| p.file.clone())),
        ("discovery.file", config.discovery.file.clone()),
        ("xds.tls.cert_file", tls.map(|t| t.cert_file.clone())),
        ("xds.tls.client_ca_file", tls.and_then(|t| t.client_ca_file.clone())),
    ]
    .into_iter()
    .filter_map(|(key, path)| Some((key, path?)))
    .collect()
}

fn secrets(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let auth = &config.metrics.prometheus.auth;
    [
        ("metrics.prometheus.auth.password_file", auth.password_file.clone()),
        ("metrics.prometheus.auth.bearer_token_file", auth.bearer_token_file.clone()),
        ("metrics.prometheus.auth.key_file", auth.key_file.clone()),
        ("xds.tls.key_file", config.xds.tls.as_ref().map(|t| t.key_file.clone())),
    ]
    .into_iter()
    .filter_map(|(key, path)| Some((key, path?)))
    .collect()
}

fn readable(key: &str, path: &Path) -> Option<Finding> {
    let error = std::fs::File::open(path).err()?;
    Some(Finding::fail(key, format!("{}: {error}", path.display()), "mend the path or its permissions"))
}

/// A secret that cannot be read, or that everybody can.
fn private(key: &str, path: &Path) -> Option<Finding> {
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Err(error) => Some(Finding::fail(
            key,
            format!("{}: {error}", path.display()),
            "mend the path or its permissions",
        )),
        Ok(metadata) if world_readable(&metadata) => Some(Finding::fail(
            key,
            format!("{} can be read by everybody on this machine", path.display()),
            format!("chmod o-rwx {}", path.display()),
        )),
        Ok(_) => None,
    }
}

#[cfg(unix)]
fn world_readable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn world_readable(_: &Metadata) -> bool {
    false
}
