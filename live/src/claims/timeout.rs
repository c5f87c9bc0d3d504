//! Claim 4: an endpoint that times out loses its share although its histogram looks good.
//!
//! Requests that time out never enter Envoy's latency histogram, so the survivors flatter it.

use std::time::{Duration, Instant};

use super::{Finding, greatest, percents};
use crate::error::Result;
use crate::fleet::{PAY, SOURCES};
use crate::rig::Rig;

/// Share of the requests that hang.
const HANGING: f64 = 0.4;
const LEAST_FALL: f64 = 0.8;
const WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn check(rig: &Rig) -> Result<Finding> {
    let mut finding = Finding::default();
    let before = rig.settle(&[PAY], 0.04, Duration::from_secs(40)).await?;
    let rows = [before.shares(&PAY, 0)?, before.shares(&PAY, 1)?];
    let victim = greatest(&rows[0]);
    let name = PAY.endpoints[victim].name;
    let p95_before = rig.metrics.p95_ms(name).await?.unwrap_or(f64::NAN);
    let started = Instant::now();
    rig.backend(name)?.hang(HANGING);

    let mut worst_p95 = f64::NAN;
    let mut fell = None;
    let mut now = rows.clone();
    while started.elapsed() < WITHIN && fell.is_none() {
        let decision = rig.api.decision().await?;
        now = [decision.shares(&PAY, 0)?, decision.shares(&PAY, 1)?];
        // The histogram while the endpoint fails, from when the window holds no request of before.
        if started.elapsed() > Duration::from_secs(2)
            && let Some(p95) = rig.metrics.p95_ms(name).await?
        {
            worst_p95 = worst_p95.max(p95);
        }
        let carried = (0..SOURCES.len()).filter(|s| rows[*s][victim] >= 0.1);
        if carried.into_iter().all(|s| now[s][victim] <= (1.0 - LEAST_FALL) * rows[s][victim]) {
            fell = Some(started.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let summary = rig.since(&PAY, None, started);
    let late = rig.last(&PAY, None, Duration::from_secs(2));
    rig.backend(name)?.hang(0.0);
    let times = match fell {
        Some(after) => format!("fell by {:.0} % in {:.1} s", LEAST_FALL * 100.0, after.as_secs_f64()),
        None => format!("did not fall by {:.0} % in {} s", LEAST_FALL * 100.0, WITHIN.as_secs()),
    };
    finding.require(
        fell.is_some(),
        format!(
            "{name} hangs on {:.0} % of its requests: its share {times} ({} {} → {} %, {} {} → {} %)",
            HANGING * 100.0,
            SOURCES[0],
            percents(&rows[0]),
            percents(&now[0]),
            SOURCES[1],
            percents(&rows[1]),
            percents(&now[1]),
        ),
    );
    let limit = f64::from(PAY.timeout_ms);
    finding.require(
        worst_p95.is_nan() || worst_p95 < limit / 3.0,
        format!("its histogram's p95 was {p95_before:.0} ms before and at most {worst_p95:.0} ms then"),
    );
    finding.note(format!(
        "{} of {} requests failed ({}), in the end {} of {}",
        summary.failed,
        summary.count,
        summary.describe_failures(),
        late.failed,
        late.count
    ));
    Ok(finding)
}
