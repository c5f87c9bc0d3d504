//! What does an operator see while things break?

use std::time::{Duration, Instant};

use crate::claims::percents;
use crate::error::Result;
use crate::fleet::{PAY, SOURCES, Service, WEB};
use crate::rig::Rig;
use crate::say;

/// Cells of a bar.
const CELLS: usize = 40;

/// One glyph for each endpoint of a service.
const GLYPHS: [char; 5] = ['█', '▓', '▒', '░', '·'];

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Event {
    SlowDown(&'static str, f64),
    Hang(&'static str, f64),
    Fail(&'static str, f64),
    KillController,
    StartController,
    KillPrometheus,
    StartPrometheus,
}

/// (when in seconds, what, in words).
const SCRIPT: [(u64, Event, &str); 10] = [
    (20, Event::SlowDown("us-a", 10.0), "us-a browns out: ten times slower"),
    (45, Event::SlowDown("us-a", 1.0), "us-a is well again"),
    (65, Event::Fail("eu-a", 0.3), "eu-a answers 30 % of its requests with 503"),
    (80, Event::Fail("eu-a", 0.0), "eu-a is well again"),
    (90, Event::Hang("pay-a", 0.4), "pay-a lets 40 % of its requests time out"),
    (110, Event::Hang("pay-a", 0.0), "pay-a is well again"),
    (120, Event::KillController, "the controller is killed (SIGKILL); Envoy keeps its last weights"),
    (126, Event::StartController, "the controller starts again, from the last known good weights"),
    (135, Event::KillPrometheus, "Prometheus is killed: hold, alarm, then ramp to the static weights"),
    (170, Event::StartPrometheus, "Prometheus is back"),
];

/// The demonstration ends here.
const END_S: u64 = 190;

/// A line every so often.
const EVERY: Duration = Duration::from_secs(3);

/// Plays the script and prints what moves.
pub(crate) async fn run(rig: &Rig) -> Result<()> {
    say(&format!(
        "two Envoys ({}), Prometheus with a scrape a second, a tick a second; {:.0} requests/s; {END_S} s in all",
        SOURCES.join(", "),
        2.0 * (WEB.rate_rps + PAY.rate_rps)
    ));
    for service in [WEB, PAY] {
        let legend: Vec<String> = service
            .endpoints
            .iter()
            .zip(GLYPHS)
            .map(|(e, g)| format!("{g} {} {:.0} ms, ${:.0}/1M", e.name, e.median_ms, e.price))
            .collect();
        say(&format!("{}: {}", service.name, legend.join("   ")));
    }
    let started = Instant::now();
    let mut script = SCRIPT.iter().peekable();
    let mut shown = WEB;
    while started.elapsed() < Duration::from_secs(END_S) {
        while let Some((at, event, words)) = script.next_if(|(at, ..)| started.elapsed().as_secs() >= *at) {
            say(&format!("{at:>4} s  >> {words}"));
            play(rig, *event).await?;
            shown = if matches!(event, Event::Hang(..)) { PAY } else { WEB };
        }
        line(rig, &shown, started).await?;
        tokio::time::sleep(EVERY).await;
    }
    end(rig, started).await
}

async fn play(rig: &Rig, event: Event) -> Result<()> {
    match event {
        Event::SlowDown(endpoint, factor) => rig.backend(endpoint)?.slow_down(factor),
        Event::Fail(endpoint, share) => rig.backend(endpoint)?.fail(share),
        Event::Hang(endpoint, share) => rig.backend(endpoint)?.hang(share),
        Event::KillController => rig.kill_traflux().await?,
        Event::StartController => rig.start_traflux().await?,
        Event::KillPrometheus => rig.kill_prometheus().await?,
        Event::StartPrometheus => rig.start_prometheus().await?,
    }
    Ok(())
}

/// Shares as Envoy has them, for both sources, and how requests fared.
async fn line(rig: &Rig, service: &Service, started: Instant) -> Result<()> {
    let decision = rig.api.decision().await.ok();
    let state = decision.as_ref().map_or("no controller", |d| d.rung());
    for source in 0..SOURCES.len() {
        let shares = rig.admins[source].shares(service).await?;
        let seen = rig.last(service, Some(source), EVERY);
        let when = if source == 0 { format!("{:>4} s", started.elapsed().as_secs()) } else { " ".repeat(6) };
        say(&format!(
            "{when}  {:<3} {:<10} {} {:<21} p95 {:>4.0} ms, {} of {} failed{}",
            service.name,
            SOURCES[source],
            bar(&shares),
            percents(&shares),
            seen.percentile_ms(95.0),
            seen.failed,
            seen.count,
            if source == 0 { format!("  [{state}]") } else { String::new() },
        ));
    }
    if let Some(reason) = decision.as_ref().and_then(|d| d.explanation().first().map(|s| (*s).to_owned())) {
        say(&format!("        {reason}"));
    }
    Ok(())
}

async fn end(rig: &Rig, started: Instant) -> Result<()> {
    for service in [WEB, PAY] {
        let all = rig.since(&service, None, started);
        say(&format!(
            "{}: {} requests, {} failed {}, p50 {:.0} ms, p95 {:.0} ms, p99 {:.0} ms",
            service.name,
            all.count,
            all.failed,
            all.describe_failures(),
            all.percentile_ms(50.0),
            all.percentile_ms(95.0),
            all.percentile_ms(99.0)
        ));
    }
    let pushes = rig.api.pushes().await?;
    say(&format!(
        "pushes since the controller's restart: {}, to ACK p50 {:.1} ms, p95 {:.1} ms",
        pushes.count, pushes.p50_ms, pushes.p95_ms
    ));
    Ok(())
}

/// Shares as one bar: each endpoint has as many cells of its glyph as its share is worth.
fn bar(shares: &[f64]) -> String {
    let mut cells = String::new();
    let (mut sum, mut drawn) = (0.0, 0);
    for (share, glyph) in shares.iter().zip(GLYPHS) {
        sum += share;
        let to = (sum * CELLS as f64).round() as usize;
        cells.extend(std::iter::repeat_n(glyph, to.saturating_sub(drawn)));
        drawn = drawn.max(to);
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_always_full_and_every_cell_belongs_to_somebody() {
        for shares in [[0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01], [0.335, 0.333, 0.332, 0.0]] {
            assert_eq!(bar(&shares).chars().count(), CELLS);
        }
        assert_eq!(bar(&[0.5, 0.5]).chars().filter(|c| *c == GLYPHS[0]).count(), CELLS / 2);
    }

    #[test]
    fn the_script_is_in_order_and_ends_within_four_minutes() {
        assert!(SCRIPT.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(SCRIPT.last().is_some_and(|last| last.0 < END_S));
        const { assert!(END_S < 210) };
    }
}
