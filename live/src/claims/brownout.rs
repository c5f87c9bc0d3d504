//! Claim 3: after a brown-out (latency × 10) of an endpoint its share falls by at least 80 % within 60 s, also
//! when the policy did not pick it; the 95th percentile of all requests comes back to at most 1.5 times what it
//! was before; no 5xx comes of the move.
//!
//! "Did not pick it" is made certain by arithmetic: with K = 1 two endpoints brown out at once, so the policy
//! cannot have picked both.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Finding, greatest, percents};
use crate::error::Result;
use crate::fleet::{SOURCES, WEB};
use crate::rig::Rig;
use crate::timeline::Stretch;

const FACTOR: f64 = 10.0;
const LEAST_FALL: f64 = 0.8;
const WITHIN: Duration = Duration::from_secs(60);
/// After the fall, the 95th percentile has this long to come back.
const RECOVERY: Duration = Duration::from_secs(60);
/// It is back at this many times what it was before.
const RECOVERED: f64 = 1.5;
/// An endpoint that is well again is trusted again within this time.
const TRUSTED_WITHIN: Duration = Duration::from_secs(60);
/// More than there are endpoints: all may be chosen.
const ALL: usize = 32;
const RECOVERY_WINDOW: Duration = Duration::from_secs(4);

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let decision = rig.settle(&[WEB], 0.03, Duration::from_secs(40)).await?;
    let victim = greatest(&decision.shares(&WEB, 0)?);
    brown_out(rig, &[victim], "any may move", &mut finding).await?;

    // The first victim must be trusted with all of a source's traffic again, or too little is left near by.
    let started = Instant::now();
    while started.elapsed() < TRUSTED_WITHIN {
        let decision = rig.api.decision().await?;
        if decision.is_trusted(WEB.endpoints[victim].name) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let decision = rig.settle(&[WEB], 0.03, Duration::from_secs(40)).await?;
    let mut victims = vec![greatest(&decision.shares(&WEB, 0)?), greatest(&decision.shares(&WEB, 1)?)];
    if victims[0] == victims[1] {
        let mut row = decision.shares(&WEB, 1)?;
        row[victims[0]] = 0.0;
        victims[1] = greatest(&row);
    }
    rig.api.patch(&json!({ "k": 1 })).await?;
    let done = brown_out(rig, &victims, "K = 1", &mut finding).await;
    rig.api.patch(&json!({ "k": ALL })).await?;
    done?;
    Ok(finding)
}

async fn brown_out(rig: &Rig, victims: &[usize], title: &str, finding: &mut Finding) -> Result<()> {
    let name = |ix: usize| WEB.endpoints[ix].name;
    let before = rig.api.decision().await?;
    let rows = [before.shares(&WEB, 0)?, before.shares(&WEB, 1)?];
    // Only rows in which the victim carried traffic can show a fall.
    let watched: Vec<(usize, usize)> = victims
        .iter()
        .flat_map(|v| (0..SOURCES.len()).map(move |s| (*v, s)))
        .filter(|(victim, source)| rows[*source][*victim] >= 0.1)
        .collect();
    let p95_before = rig.last(&WEB, None, Duration::from_secs(5)).percentile_ms(95.0);
    let started = Instant::now();
    for victim in victims {
        rig.backend(name(*victim))?.slow_down(FACTOR);
    }
    let outcome = watch(rig, &watched, &rows, started).await;
    let settled = Instant::now();
    let during = rig.timeline.summary(Stretch {
        service: Some(WEB.name),
        source: None,
        from: started,
        to: (started + Duration::from_secs(4)).min(settled),
    });
    let p95_during = during.percentile_ms(95.0);
    let recovered = |p95: f64| p95 <= RECOVERED * p95_before;
    // A window of its own after the fall; shares go on to fall to their probe while it is looked at.
    let mut p95_after = f64::INFINITY;
    while !recovered(p95_after) && settled.elapsed() < RECOVERY {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stretch = RECOVERY_WINDOW.min(settled.elapsed());
        p95_after = rig.last(&WEB, None, stretch).percentile_ms(95.0);
    }
    let recovery = settled.elapsed();
    let all = rig.since(&WEB, None, started);
    let after = rig.api.decision().await?;
    for victim in victims {
        rig.backend(name(*victim))?.slow_down(1.0);
    }
    let (fell, unpicked) = outcome?;
    let names: Vec<&str> = victims.iter().map(|v| name(*v)).collect();
    let moves: Vec<String> = (0..SOURCES.len())
        .map(|s| {
            Ok(format!("{} {} → {} %", SOURCES[s], percents(&rows[s]), percents(&after.shares(&WEB, s)?)))
        })
        .collect::<Result<_>>()?;
    finding.require(
        fell.is_some() && !watched.is_empty(),
        match fell {
            Some(after) => format!(
                "{title}: {} × {FACTOR}, shares fell by {:.0} % in {:.1} s ({})",
                names.join(" and "),
                LEAST_FALL * 100.0,
                after.as_secs_f64(),
                moves.join(", ")
            ),
            None => format!(
                "{title}: {} × {FACTOR}, shares did not fall by {:.0} % in {} s ({})",
                names.join(" and "),
                LEAST_FALL * 100.0,
                WITHIN.as_secs(),
                moves.join(", ")
            ),
        },
    );
    if victims.len() > 1 {
        finding.require(
            !unpicked.is_empty(),
            format!("moved without being picked by the policy: {}", unpicked.join(", ")),
        );
    }
    finding.require(
        recovered(p95_after),
        format!(
            "p95 {p95_before:.0} → {p95_during:.0} → {p95_after:.0} ms {:.0} s after that, at most × {RECOVERED}",
            recovery.as_secs_f64()
        ),
    );
    finding.require(
        all.failed == 0,
        format!("{} failures in {} {}", all.failed, all.count, all.describe_failures()),
    );
    Ok(())
}

/// Time until every watched share fell, or `None`; and the victims that moved in a tick whose action had not
/// picked them.
async fn watch(
    rig: &Rig,
    watched: &[(usize, usize)],
    rows: &[Vec<f64>; 2],
    started: Instant,
) -> Result<(Option<Duration>, Vec<String>)> {
    let mut unpicked: Vec<String> = Vec::new();
    let mut fell = None;
    while started.elapsed() < WITHIN && fell.is_none() {
        let decision = rig.api.decision().await?;
        let chosen = decision.chosen();
        for (endpoint, reason) in decision.critical() {
            let is_victim = watched.iter().any(|(v, _)| WEB.endpoints[*v].name == endpoint);
            let told = format!("{endpoint} ({reason})");
            // A receiver may only gain.
            let may_lose = reason != "receiver" && !chosen.contains(&endpoint);
            if is_victim && may_lose && !unpicked.contains(&told) {
                unpicked.push(told);
            }
        }
        let now = [decision.shares(&WEB, 0)?, decision.shares(&WEB, 1)?];
        if watched.iter().all(|(v, s)| now[*s][*v] <= (1.0 - LEAST_FALL) * rows[*s][*v]) {
            fell = Some(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok((fell, unpicked))
}
