//! Claim 8: a proxyless gRPC client (`xds:///echo`) follows the same weights as Envoy.

use std::time::Duration;

use super::{Finding, distance, percents};
use crate::error::Result;
use crate::fleet::{ECHO, SOURCES};
use crate::python::Python;
use crate::rig::{Rig, wait};
use crate::timeline::worst_deviation;

const CALLS: usize = 1500;
const SIGMAS: f64 = 3.0;

pub(super) async fn check(rig: &Rig, python: &Python) -> Result<Finding> {
    let mut finding = Finding::default();
    // Static weights are equal here: only weights that moved show that somebody follows them.
    let fallback = ECHO.static_shares();
    wait("weights of the gRPC service moved", Duration::from_secs(60), || async {
        Ok(distance(&rig.api.decision().await?.shares(&ECHO, 0)?, &fallback) > 0.2)
    })
    .await?;
    let (mut shares, mut counted) = stable(rig, python).await?;
    // The client picks at random, so one count in a hundred is off by chance: a second one, of other calls, decides.
    if worst_deviation(&counted.counts, &shares) > SIGMAS {
        (shares, counted) = stable(rig, python).await?;
    }
    let shown = rig.admins[0].shares(&ECHO).await?;
    let total: usize = counted.counts.iter().sum();
    let measured: Vec<f64> = counted.counts.iter().map(|n| *n as f64 / total.max(1) as f64).collect();
    let worst = worst_deviation(&counted.counts, &shares);
    finding.require(
        worst <= SIGMAS && total >= CALLS,
        format!(
            "{}: weights {} %, {total} calls of the gRPC client {} %, {worst:.2} sigma",
            SOURCES[0],
            percents(&shares),
            percents(&measured)
        ),
    );
    finding.require(distance(&shares, &shown) < 0.02, format!("Envoy has {} %", percents(&shown)));
    finding.require(
        counted.failed.is_empty(),
        format!(
            "{} calls failed {}",
            counted.failed.len(),
            counted.failed.first().map_or("", |f| f.as_str())
        ),
    );
    Ok(finding)
}

/// Counts calls during which the weights did not move. Claim 1 freezes and thaws them at the same time, so the
/// row is compared before and after and the count made again where it moved.
async fn stable(rig: &Rig, python: &Python) -> Result<(Vec<f64>, crate::python::Counted)> {
    let mut tries = 0;
    loop {
        let before = rig.api.decision().await?.shares(&ECHO, 0)?;
        let counted = python.count(rig.xds_port, CALLS).await?;
        let after = rig.api.decision().await?.shares(&ECHO, 0)?;
        tries += 1;
        if distance(&before, &after) < 0.005 || tries == 6 {
            return Ok((after, counted));
        }
    }
}
