//! Claim 1: 2,000 requests per source split within 3σ of the pushed weights, Envoy's admin interface shows
//! them, and a push is acknowledged within 20 ms (95th percentile).

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Finding, distance, percents};
use crate::error::Result;
use crate::fleet::{SOURCES, WEB};
use crate::rig::{Rig, wait};
use crate::timeline::worst_deviation;

const REQUESTS: usize = 2000;
const SIGMAS: f64 = 3.0;
const LEAST_PUSHES: u64 = 20;
const PUSH_LIMIT_MS: f64 = 20.0;

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    rig.settle(&[WEB], 0.02, Duration::from_secs(60)).await?;
    split(rig, &mut finding).await?;
    pushes(rig, &mut finding).await?;
    Ok(finding)
}

async fn split(rig: &Rig, finding: &mut Finding) -> Result<()> {
    rig.api.freeze(true).await?;
    wait("frozen weights in force", Duration::from_secs(5), || async {
        Ok(rig.api.group(0).await?.is_settled() && rig.api.group(1).await?.is_settled())
    })
    .await?;
    // Requests already under way were assigned by the weights before.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let from = Instant::now();
    for source in 0..SOURCES.len() {
        rig.load(&WEB, source)?.set_rate(2.0 * WEB.rate_rps);
    }
    wait("2,000 requests per source", Duration::from_secs(30), || async {
        let answered = |source| rig.since(&WEB, Some(source), from).by_endpoint.values().sum::<usize>();
        Ok(answered(0) >= REQUESTS && answered(1) >= REQUESTS)
    })
    .await?;
    let decision = rig.api.decision().await?;
    for source in 0..SOURCES.len() {
        rig.load(&WEB, source)?.set_rate(WEB.rate_rps);
        let pushed = decision.shares(&WEB, source)?;
        let shown = rig.admins[source].shares(&WEB).await?;
        let summary = rig.since(&WEB, Some(source), from);
        let counts: Vec<usize> = (0..WEB.endpoints.len())
            .map(|endpoint| summary.by_endpoint.get(&endpoint).copied().unwrap_or(0))
            .collect();
        let total: usize = counts.iter().sum();
        let measured: Vec<f64> = counts.iter().map(|n| *n as f64 / total as f64).collect();
        let worst = worst_deviation(&counts, &pushed);
        finding.require(
            worst <= SIGMAS && total >= REQUESTS,
            format!(
                "{}: weights {} %, {total} requests {} %, {worst:.2} sigma",
                SOURCES[source],
                percents(&pushed),
                percents(&measured)
            ),
        );
        let apart = distance(&pushed, &shown);
        finding.require(apart < 1e-4, format!("/clusters is {:.3} % apart", apart * 100.0));
    }
    rig.api.freeze(false).await
}

/// Looks at pushes of weights; where there were too few so far, makes some by moving the cap.
async fn pushes(rig: &Rig, finding: &mut Finding) -> Result<()> {
    let mut low = true;
    let mut tries = 0;
    let mut pushes = rig.api.pushes().await?;
    while pushes.weights_acked < 2 * LEAST_PUSHES && tries < 30 {
        rig.api.patch(&json!({ "max_share": if low { 0.5 } else { 1.0 } })).await?;
        low = !low;
        tries += 1;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        pushes = rig.api.pushes().await?;
    }
    rig.api.patch(&json!({ "max_share": 1.0 })).await?;
    finding.require(
        pushes.count >= LEAST_PUSHES && pushes.p95_ms <= PUSH_LIMIT_MS,
        format!(
            "push to ACK over {} pushes: p50 {:.1}, p95 {:.1}, max {:.1} ms",
            pushes.count, pushes.p50_ms, pushes.p95_ms, pushes.max_ms
        ),
    );
    Ok(())
}
