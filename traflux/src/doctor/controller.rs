//! Does the controller run, and do the Envoys listen to it?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use super::{Finding, PATIENCE, some_of};
use crate::config::Config;

/// Largest status that is read.
const STATUS_LIMIT: usize = 64 * 1024 * 1024;

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let (xds, status) = tokio::join!(xds_port(config), status(config));
    let mut findings = vec![xds];
    match status {
        Ok(status) => {
            findings.push(running(&status));
            findings.extend(alarms(&status));
            findings.extend(groups(config, &status));
        }
        Err(reason) => findings.push(Finding::warn(
            "controller",
            format!("no answer from {}: {reason}", reachable(config.api.listen)),
            "start it with `traflux run --config …`, then look again",
        )),
    }
    findings
}

/// An address to connect to: a server that listens everywhere also listens here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

async fn xds_port(config: &Config) -> Finding {
    const WHAT: &str = "xds port";
    let address = reachable(config.xds.listen);
    let fix = "start the controller, or set `xds.listen` to the address it uses";
    match tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => Finding::ok(WHAT, format!("{address} accepts connections")),
        Ok(Err(error)) => Finding::warn(WHAT, format!("{address}: {error}"), fix),
        Err(_) => {
            Finding::warn(WHAT, format!("{address} did not accept within {} s", PATIENCE.as_secs()), fix)
        }
    }
}

async fn status(config: &Config) -> Result<Value, String> {
    let url = format!("http://{}/api/status", reachable(config.api.listen));
    // The innermost cause: what stands around it only repeats the address.
    let text = |error: reqwest::Error| {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        cause.to_string()
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PATIENCE)
        .build()
        .map_err(text)?;
    let mut response = client.get(url).send().await.map_err(text)?;
    if !response.status().is_success() {
        return Err(format!("status {}", response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(text)? {
        if body.len() + chunk.len() > STATUS_LIMIT {
            return Err(format!("the status is larger than the limit of {STATUS_LIMIT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|error| format!("not a status of traflux: {error}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn running(status: &Value) -> Finding {
    const WHAT: &str = "controller";
    let uptime = Duration::from_secs(status["uptime_s"].as_f64().unwrap_or(0.0) as u64);
    let facts = format!(
        "version {}, up {} s, {} ticks, mode {}",
        text(status, "version"),
        uptime.as_secs(),
        status["ticks"],
        status["mode"].as_str().unwrap_or("unknown")
    );
    if status["frozen"] == true {
        return Finding::warn(
            WHAT,
            format!("{facts}; weights are frozen"),
            "POST /api/resume to move traffic again",
        );
    }
    if status["ready"] != true {
        return Finding::warn(WHAT, format!("{facts}; not ready yet"), "GET /readyz says why");
    }
    if text(status, "mode") == "shadow" {
        return Finding::warn(
            WHAT,
            format!("{facts}: it decides and moves nothing"),
            "set `policy.mode` to another mode to move traffic",
        );
    }
    Finding::ok(WHAT, facts)
}

fn alarms(status: &Value) -> Vec<Finding> {
    let alarms = status["alarms"].as_array();
    alarms
        .into_iter()
        .flatten()
        // Groups are looked at one by one below.
        .filter(|alarm| {
            !matches!(text(alarm, "code"), "group_disconnected" | "resource_refused" | "not_ready")
        })
        .map(|alarm| {
            let what = format!("alarm {}", text(alarm, "code"));
            let fix = "GET /api/decisions shows what led to it";
            match text(alarm, "verdict") {
                "alarm" => Finding::fail(what, text(alarm, "message"), fix),
                _ => Finding::warn(what, text(alarm, "message"), fix),
            }
        })
        .collect()
}

fn groups(config: &Config, status: &Value) -> Vec<Finding> {
    let data_plane = &status["data_plane"];
    let described = data_plane["groups"].as_array().cloned().unwrap_or_default();
    let mut findings: Vec<Finding> = config
        .sources
        .iter()
        .map(|source| {
            let what = format!("envoys of {}", source.name);
            match described.iter().find(|group| text(group, "group") == source.name) {
                Some(group) => one_group(what, group),
                None => Finding::fail(
                    what,
                    "the running controller does not know this source",
                    "restart it with this configuration",
                ),
            }
        })
        .collect();
    let counter = |name: &str| data_plane["counters"][name].as_u64().unwrap_or(0);
    if counter("unknown_nodes") > 0 {
        findings.push(Finding::warn(
            "envoys of no source",
            format!("{} streams were refused: their node belongs to no source", counter("unknown_nodes")),
            "set `node.locality.zone` of the Envoy to a source's name, or `sources[].nodes` to match it",
        ));
    }
    if counter("unauthorized_nodes") > 0 {
        findings.push(Finding::warn(
            "envoy certificates",
            format!(
                "{} streams were refused: the certificate does not bear the node's id",
                counter("unauthorized_nodes")
            ),
            "issue certificates whose subject alternative name is `node.id`",
        ));
    }
    findings
}

fn one_group(what: String, group: &Value) -> Finding {
    let nodes = group["nodes"].as_u64().unwrap_or(0);
    if nodes == 0 {
        return Finding::fail(
            what,
            "none is connected",
            "point the Envoy's ADS cluster at `xds.listen` and give it the source's zone: `traflux bootstrap envoy` \
             prints how",
        );
    }
    let parked = group["parked"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(first) = parked.first() {
        let names: Vec<String> =
            parked.iter().map(|p| format!("{} {}", text(p, "kind"), text(p, "name"))).collect();
        return Finding::fail(
            what,
            format!("{nodes} connected; refused {}: {}", some_of(&names), text(first, "reason")),
            "the last good weights stay in force; mend what the refusal names and the next plan is sent",
        );
    }
    match (group["target"].as_str(), group["in_force"]["version"].as_str()) {
        (Some(target), Some(in_force)) if target == in_force => {
            Finding::ok(what, format!("{nodes} connected, plan {in_force} in force"))
        }
        (target, in_force) => Finding::warn(
            what,
            format!(
                "{nodes} connected, plan {} in force, plan {} sent",
                in_force.unwrap_or("none"),
                target.unwrap_or("none")
            ),
            "look again in a second; if it stays so, the Envoy's log says why",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_looked_for_here() {
        assert_eq!(reachable("0.0.0.0:1".parse().unwrap()), "127.0.0.1:1".parse().unwrap());
        assert_eq!(reachable("[::]:1".parse().unwrap()), "[::1]:1".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:1".parse().unwrap()), "10.0.0.1:1".parse().unwrap());
    }
}
