//! Claim 5: the controller is killed with SIGKILL and not one request fails; restarted, it starts from the
//! last known good and no weight jumps.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Finding, distance, percents};
use crate::error::{LiveError, Result};
use crate::fleet::{SOURCES, WEB};
use crate::rig::{REST_S, Rig, STEP_PER_S, wait};

/// How long the controller is gone.
const GONE: Duration = Duration::from_secs(5);
/// Restored weights differ from those before by rounding at most.
const MOST_APART: f64 = 0.01;
/// Envoys come back in their own time: they wait longer after each attempt that failed.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// How long their weights are watched after that.
const WATCHED: Duration = Duration::from_secs(3);
/// The most by which weights may move within a second: a push that makes up for as long a rest as the guard
/// allows, and the next one.
const MOST_PER_SECOND: f64 = (REST_S + 1.0) * STEP_PER_S + 1e-3;

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
    let before = rows(rig).await?;
    let killed = Instant::now();
    rig.kill_traflux().await?;
    let saved = saved_version(rig)?;
    finding.require(saved == plan, format!("plan {plan} in force, {saved} saved"));
    tokio::time::sleep(GONE).await;
    let gone = rig.since(&WEB, None, killed);
    let kept = apart(&before, &rows(rig).await?);
    finding.require(
        gone.failed == 0 && gone.count > 0 && kept < 1e-9,
        format!("gone for {} s: {} of {} requests failed", GONE.as_secs(), gone.failed, gone.count),
    );

    let restarted = Instant::now();
    rig.start_traflux().await?;
    let ready = restarted.elapsed();
    let first =
        rig.api.decisions(1000).await?.pop().ok_or_else(|| LiveError::missing("the first decision"))?;
    let first = vec![first.shares(&WEB, 0)?, first.shares(&WEB, 1)?];
    let restored = apart(&before, &first);
    finding.require(
        restored <= MOST_APART,
        format!(
            "ready {:.1} s after the restart with {} %, {:.2} % apart from before",
            ready.as_secs_f64(),
            first.iter().map(|r| percents(r)).collect::<Vec<_>>().join(" and "),
            restored * 100.0
        ),
    );
    let (back, fastest) = watch(rig, restarted, before).await?;
    finding.require(
        back.is_some() && fastest <= MOST_PER_SECOND,
        format!(
            "Envoys back {}, whose weights then moved by at most {:.1} % a second",
            back.map_or("never".to_owned(), |d| format!("after {:.1} s", d.as_secs_f64())),
            fastest * 100.0
        ),
    );
    let all = rig.since(&WEB, None, killed);
    finding.require(
        all.failed == 0,
        format!("{} of {} requests failed in all {}", all.failed, all.count, all.describe_failures()),
    );
    Ok(finding)
}

/// When all Envoys had acknowledged the controller's plan, and the largest move of Envoy's own weights within a
/// second.
async fn watch(rig: &Rig, from: Instant, before: Vec<Vec<f64>>) -> Result<(Option<Duration>, f64)> {
    let mut back = None;
    let mut fastest: f64 = 0.0;
    let mut seen = vec![(from, before)];
    while from.elapsed() < back.map_or(BACK_WITHIN, |at| at + WATCHED) {
        let now = (Instant::now(), rows(rig).await?);
        for (_, earlier) in seen.iter().rev().take_while(|(at, _)| now.0 - *at <= Duration::from_secs(1)) {
            fastest = fastest.max(apart(earlier, &now.1));
        }
        seen.push(now);
        if back.is_none() && rig.api.group(0).await?.is_settled() && rig.api.group(1).await?.is_settled() {
            back = Some(from.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((back, fastest))
}

/// The rows that the Envoys work by.
async fn rows(rig: &Rig) -> Result<Vec<Vec<f64>>> {
    let mut rows = Vec::new();
    for source in 0..SOURCES.len() {
        rows.push(rig.admins[source].shares(&WEB).await?);
    }
    Ok(rows)
}

fn apart(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().zip(b).map(|(a, b)| distance(a, b)).fold(0.0, f64::max)
}

/// Version of the plan in the state file.
fn saved_version(rig: &Rig) -> Result<String> {
    let path = rig.dir.join("state.json");
    let text = std::fs::read_to_string(&path).map_err(|e| LiveError::file(&path, e))?;
    let saved: Value = serde_json::from_str(&text).map_err(|e| LiveError::file(&path, e))?;
    saved["version"].as_str().map(str::to_owned).ok_or_else(|| LiveError::missing("version in state.json"))
}
