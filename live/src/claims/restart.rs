//! Claim 5: the controller is killed with SIGKILL and not one request fails; restarted, it starts from the
//! last known good and no weight jumps.

use std::time::{Duration, Instant};

use super::{Finding, distance, percents};
use crate::error::Result;
use crate::fleet::{SOURCES, WEB};
use crate::rig::{Rig, wait};

/// How long the controller is gone.
const GONE: Duration = Duration::from_secs(5);
/// Envoy's weights must not differ by more than this when the controller is back.
const MOST_JUMP: f64 = 0.01;

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    rig.settle(&[WEB], 0.03, Duration::from_secs(40)).await?;
    // What is saved is what was acknowledged: without a freeze a plan could be on its way at the kill.
    rig.api.freeze(true).await?;
    wait("frozen weights in force", Duration::from_secs(5), || async {
        Ok(rig.api.group(0).await?.is_settled() && rig.api.group(1).await?.is_settled())
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let plan = rig.api.decision().await?.plan().to_owned();
    let before = [rig.admins[0].shares(&WEB).await?, rig.admins[1].shares(&WEB).await?];
    let killed = Instant::now();
    rig.kill_traflux().await?;
    tokio::time::sleep(GONE).await;
    let gone = rig.since(&WEB, None, killed);
    finding.require(
        gone.failed == 0 && gone.count > 0,
        format!("gone for {} s: {} of {} requests failed", GONE.as_secs(), gone.failed, gone.count),
    );

    let restarted = Instant::now();
    rig.start_traflux().await?;
    let ready = restarted.elapsed();
    // The first plan is the restored one; its version is that of the first decision unless that one already
    // moved something, so it is the group's first target that is compared.
    let first = rig.api.decisions(1000).await?.pop();
    let restored = first.map(|d| d.plan().to_owned()).unwrap_or_default();
    wait("Envoys are back", Duration::from_secs(20), || async {
        Ok(rig.api.group(0).await?.is_settled() && rig.api.group(1).await?.is_settled())
    })
    .await?;
    let after = [rig.admins[0].shares(&WEB).await?, rig.admins[1].shares(&WEB).await?];
    let back = restarted.elapsed();
    let jump = (0..SOURCES.len()).map(|s| distance(&before[s], &after[s])).fold(0.0, f64::max);
    finding.require(
        jump <= MOST_JUMP,
        format!(
            "ready {:.1} s and all Envoys back {:.1} s after the restart; {} {} → {} %, jump {:.2} %",
            ready.as_secs_f64(),
            back.as_secs_f64(),
            SOURCES[0],
            percents(&before[0]),
            percents(&after[0]),
            jump * 100.0
        ),
    );
    finding.require(restored == plan, format!("plan {plan} before, {restored} restored"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let all = rig.since(&WEB, None, killed);
    finding.require(
        all.failed == 0,
        format!("{} of {} requests failed in all {}", all.failed, all.count, all.describe_failures()),
    );
    Ok(finding)
}
