//! Claim 6: Prometheus is killed: weights hold, then the alarm is raised, then shares ramp to the static ones;
//! when it is back, control resumes. (With the rig's short times; the defaults of 30 s and 120 s are tested in
//! simulated time.)

use std::time::{Duration, Instant};

use super::{Finding, distance, percents};
use crate::error::Result;
use crate::fleet::WEB;
use crate::rig::{ALARM_AFTER_S, RAMP_AFTER_S, RAMP_OVER_S, Rig};
use crate::watch::Decision;

/// A rung comes this much later at most: readings age up to 6 s before they count as missing, a tick is 1 s.
const SLACK_S: f64 = 9.0;

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let settled = rig.settle(&[WEB], 0.03, Duration::from_secs(60)).await?;
    let before = settled.shares(&WEB, 0)?;
    let fallback = WEB.static_shares();
    let killed = Instant::now();
    rig.kill_prometheus().await?;

    let mut held = before.clone();
    let (mut hold, mut alarm, mut ramp) = (None, None, None);
    let mut most_moved_before_ramp: f64 = 0.0;
    let mut done = None;
    let limit = Duration::from_secs_f64(RAMP_AFTER_S + RAMP_OVER_S + 2.0 * SLACK_S);
    while killed.elapsed() < limit && done.is_none() {
        let decision = rig.api.decision().await?;
        let row = decision.shares(&WEB, 0)?;
        let at = killed.elapsed();
        match decision.rung() {
            "hold" if hold.is_none() => {
                hold = Some(at);
                held.clone_from(&row);
            }
            "alarm" if alarm.is_none() => alarm = Some(at),
            "ramp" if ramp.is_none() => ramp = Some(at),
            _ => {}
        }
        if hold.is_some() && ramp.is_none() {
            most_moved_before_ramp = most_moved_before_ramp.max(distance(&held, &row));
        }
        if distance(&row, &fallback) < 0.01 {
            done = Some(at);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let shown = |at: Option<Duration>| at.map_or("never".to_owned(), |d| format!("{:.1} s", d.as_secs_f64()));
    let in_time = |at: Option<Duration>, due: f64| {
        at.is_some_and(|at| (due - 1.0..=due + SLACK_S).contains(&at.as_secs_f64()))
    };
    finding.require(hold.is_some() && most_moved_before_ramp < 1e-6, format!("held from {} on", shown(hold)));
    finding.require(in_time(alarm, ALARM_AFTER_S), format!("alarm at {}", shown(alarm)));
    finding.require(in_time(ramp, RAMP_AFTER_S), format!("ramp from {}", shown(ramp)));
    let last = rig.api.decision().await?.shares(&WEB, 0)?;
    finding.require(
        done.is_some(),
        format!("{} → {} % = static at {}", percents(&held), percents(&last), shown(done)),
    );

    let back = Instant::now();
    rig.start_prometheus().await?;
    let resumed = resume(rig, &fallback).await?;
    finding.require(
        resumed.is_some(),
        match &resumed {
            Some(decision) => format!(
                "Prometheus back: control again, {} % after {:.1} s",
                percents(&decision.shares(&WEB, 0)?),
                back.elapsed().as_secs_f64()
            ),
            None => "Prometheus back: no control again".to_owned(),
        },
    );
    let all = rig.since(&WEB, None, killed);
    finding.require(
        all.failed == 0,
        format!("{} of {} requests failed {}", all.failed, all.count, all.describe_failures()),
    );
    Ok(finding)
}

/// Waits until the ladder stands at its normal rung and weights move away from the static ones.
async fn resume(rig: &Rig, fallback: &[f64]) -> Result<Option<Decision>> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(25) {
        let decision = rig.api.decision().await?;
        if decision.rung() == "normal" && distance(&decision.shares(&WEB, 0)?, fallback) > 0.1 {
            return Ok(Some(decision));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(None)
}
