//! Claim 2: two Envoys with sources of their own get different weights, and `in_force` is per group: one that
//! is silent does not hold up the other.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Finding, distance, percents};
use crate::error::Result;
use crate::fleet::{SOURCES, WEB};
use crate::rig::{Rig, wait};

/// The rows must disagree on at least this share of the traffic.
const LEAST_DISTANCE: f64 = 0.2;

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    rig.settle(&[WEB], 0.02, Duration::from_secs(40)).await?;
    let rows = [rig.admins[0].shares(&WEB).await?, rig.admins[1].shares(&WEB).await?];
    let apart = distance(&rows[0], &rows[1]);
    finding.require(
        apart >= LEAST_DISTANCE,
        format!(
            "{} {} %, {} {} %, {:.0} % of the traffic apart",
            SOURCES[0],
            percents(&rows[0]),
            SOURCES[1],
            percents(&rows[1]),
            apart * 100.0
        ),
    );

    rig.set_source_load(1, false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.signal_envoy(1, "STOP").await?;
    // An acknowledgement that was under way arrives; after that there can be none.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let silent = rig.api.group(1).await?;
    let done = while_silent(rig, &silent.in_force, &mut finding).await;
    rig.signal_envoy(1, "CONT").await?;
    rig.set_source_load(1, true);
    done?;
    rig.api.patch(&json!({ "max_share": 1.0 })).await?;
    let since = Instant::now();
    wait("the woken Envoy has the latest plan", Duration::from_secs(15), || async {
        let group = rig.api.group(1).await?;
        Ok(group.is_settled() && group.in_force != silent.in_force)
    })
    .await?;
    finding.note(format!("woken, it had the latest plan after {:.1} s", since.elapsed().as_secs_f64()));
    Ok(finding)
}

async fn while_silent(rig: &Rig, stopped_at: &Option<String>, finding: &mut Finding) -> Result<()> {
    let before = rig.admins[0].shares(&WEB).await?;
    let plan_before = rig.api.group(0).await?.in_force;
    let since = Instant::now();
    rig.api.patch(&json!({ "max_share": 0.4 })).await?;
    wait("the other Envoy gets new plans in force", Duration::from_secs(15), || async {
        let group = rig.api.group(0).await?;
        let moved = distance(&before, &rig.admins[0].shares(&WEB).await?);
        Ok(group.is_settled() && group.in_force != plan_before && moved > 0.05)
    })
    .await?;
    let after = rig.admins[0].shares(&WEB).await?;
    let silent = rig.api.group(1).await?.in_force;
    finding.require(
        silent == *stopped_at || silent.is_none() || say_the_same(rig, &silent, stopped_at).await?,
        format!(
            "with {} stopped, {} moved {} → {} % within {:.1} s, and nothing new is taken for in force there",
            SOURCES[1],
            SOURCES[0],
            percents(&before),
            percents(&after),
            since.elapsed().as_secs_f64()
        ),
    );
    Ok(())
}

/// Whether two plans have the same rows for the stopped source: then there is nothing to tell it, and the later one is in
/// force without its word.
async fn say_the_same(rig: &Rig, one: &Option<String>, other: &Option<String>) -> Result<bool> {
    let decisions = rig.api.decisions(120).await?;
    let find = |plan: &Option<String>| decisions.iter().find(|d| Some(d.plan()) == plan.as_deref());
    Ok(matches!((find(one), find(other)), (Some(one), Some(other)) if one.rows(1) == other.rows(1)))
}
