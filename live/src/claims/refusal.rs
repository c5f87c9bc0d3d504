//! Claim 7: a resource that Envoy refuses is recorded and not sent again; the next good version is taken.
//!
//! The resource is a listener at an address that belongs to no interface of the host (TEST-NET-1): valid for
//! the controller, impossible for Envoy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Finding;
use crate::error::Result;
use crate::fleet::{PAY, SOURCES, WEB, service_config};
use crate::program::free_ports;
use crate::rig::{Rig, wait};

/// How long it is watched whether the refused version comes again.
const WATCHED: Duration = Duration::from_secs(6);

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let started = Instant::now();
    let services = |listen: String| {
        let mut services = rig.services();
        for service in &mut services {
            if service["name"] == PAY.name {
                service["listen_by_source"][SOURCES[0]] = json!(listen);
            }
        }
        services
    };
    let (_, refused_before) = rig.api.responses_and_refusals("listener").await?;
    rig.api.replace_services(&services("192.0.2.1:7000".to_owned())).await?;
    wait("refusal", Duration::from_secs(10), || async {
        Ok(rig.api.responses_and_refusals("listener").await?.1 > refused_before)
    })
    .await?;
    let at_refusal = started.elapsed();
    // A roll-back to the last known good may follow the refusal; from then on nothing more may come.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let (sent, refused) = rig.api.responses_and_refusals("listener").await?;
    let weights = rig.api.responses_and_refusals("endpoint").await?.0;
    let watched = Instant::now();
    let mut low = true;
    while watched.elapsed() < WATCHED {
        // Weights go on being pushed meanwhile.
        rig.api.patch(&json!({ "max_share": if low { 0.6 } else { 1.0 } })).await?;
        low = !low;
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    rig.api.patch(&json!({ "max_share": 1.0 })).await?;
    let (sent_later, refused_later) = rig.api.responses_and_refusals("listener").await?;
    let weights_later = rig.api.responses_and_refusals("endpoint").await?.0;
    finding.require(
        refused - refused_before == 1 && refused_later == refused,
        format!(
            "listener refused {} time after {:.1} s, {} times in all {} s later",
            refused - refused_before,
            at_refusal.as_secs_f64(),
            refused_later - refused_before,
            WATCHED.as_secs()
        ),
    );
    finding.require(
        sent_later == sent && weights_later > weights,
        format!(
            "meanwhile {} listener responses and {} of weights",
            sent_later - sent,
            weights_later - weights
        ),
    );
    let group = rig.api.group(0).await?;
    let status = rig.api.data_plane().await?;
    let reason = status["groups"]
        .as_array()
        .and_then(|groups| groups.iter().find_map(|g| g["parked"][0]["reason"].as_str()))
        .unwrap_or("")
        .to_owned();
    let reason: String = reason.chars().take(100).collect();
    finding.require(
        group.parked == 1 && group.rolled_back,
        format!("{} parked: \"{}\"", group.parked, reason.replace('\n', " ")),
    );

    let port = free_ports(1)?[0];
    rig.api.replace_services(&services(format!("127.0.0.1:{port}"))).await?;
    let good = Instant::now();
    wait("the good version is in force", Duration::from_secs(10), || async {
        let group = rig.api.group(0).await?;
        Ok(!group.rolled_back && group.is_settled())
    })
    .await?;
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    rig.load(&PAY, 0)?.set_target(target);
    let from = Instant::now();
    wait("requests through the new listener", Duration::from_secs(5), || async {
        Ok(rig.since(&PAY, Some(0), from).by_endpoint.values().sum::<usize>() >= 20)
    })
    .await?;
    let answers = rig.since(&PAY, Some(0), from);
    finding.require(
        answers.failed == 0,
        format!(
            "the next version was in force after {:.1} s, {} of {} requests through it failed",
            (from - good).as_secs_f64(),
            answers.failed,
            answers.count
        ),
    );
    // Back to where the configuration of the rig says.
    let placed = rig.placed.iter().find(|p| p.service.name == PAY.name);
    if let Some(placed) = placed {
        rig.api.replace_services(&rig.services()).await?;
        let home = SocketAddr::from(([127, 0, 0, 1], placed.listeners[0]));
        wait("the old listener again", Duration::from_secs(10), || async {
            Ok(rig.api.group(0).await?.is_settled())
        })
        .await?;
        rig.load(&PAY, 0)?.set_target(home);
        finding.note(format!("{} again", service_config(placed)["listen_by_source"][SOURCES[0]]));
    }
    let web = rig.since(&WEB, None, started);
    finding
        .require(web.failed == 0, format!("{} of {} requests of {} failed", web.failed, web.count, WEB.name));
    Ok(finding)
}
