//! What does all of it look like, without a key and without a cost?

use std::time::{Duration, Instant};

use traflux_core::plan::requests::RequestPlan;

use super::gateway::Gateway;
use super::load::{ClassReport, Load, LoadClass, LoadSettings};
use super::mock::{MockBackend, MockSettings};
use super::settings::ServerSettings;
use crate::error::GatewayError;
use crate::outcome::Outcome;
use crate::wire::RequestFacts;

/// How long and how hard a demonstration runs.
#[derive(Debug, Clone, PartialEq)]
pub struct DemoSettings {
    /// How long requests are sent.
    pub duration: Duration,
    /// Requests per second of all tenants.
    pub requests_per_second: f64,
    /// Time between tables.
    pub interval: Duration,
    /// Seed of arrivals, latencies and failures.
    pub seed: u64,
}

impl Default for DemoSettings {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(30),
            requests_per_second: 40.0,
            interval: Duration::from_secs(5),
            seed: 1,
        }
    }
}

/// Tokens of every answer of the mocks.
const OUTPUT_TOKENS: u64 = 24;
/// Tokens per minute of a free tenant.
const FREE_TOKENS: u64 = 6000;
/// When the cheap backend fails and when it is back, as shares of the time.
const OUTAGE: (f64, f64) = (0.4, 0.7);

/// The plan of the demonstration; the URLs are put in.
const PLAN: &str = r#"{
    "server": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"},
    "backends": {
        "premium": {"url": "PREMIUM", "price": {"input_dollars_per_million": 3, "output_dollars_per_million": 15}},
        "basic": {"url": "BASIC", "price": {"input_dollars_per_million": 0.15, "output_dollars_per_million": 0.6}},
        "flaky": {"url": "FLAKY", "price": {"input_dollars_per_million": 0.5, "output_dollars_per_million": 2}},
        "metered": {"url": "METERED", "price": {"input_dollars_per_million": 1, "output_dollars_per_million": 4}}
    },
    "identity": {"trusted_headers": {"tenant": "x-tenant", "user_tier": "x-tier"}},
    "routing": {
        "rules": [
            {"name": "critical", "priority": 10, "match": {"headers": {"X-Priority": "critical"}},
             "route": {"backend": "premium"}},
            {"name": "free", "match": {"path": "/v1/chat", "user_tier": "free"},
             "route": {"backend": ["basic", "flaky", "premium"], "algorithm": "least-cost"}},
            {"name": "paid", "match": {"path": "/v1/chat"},
             "route": {"backend": ["metered", "premium"], "algorithm": "least-latency"}}
        ],
        "default": {"backend": "basic"}
    },
    "limits": [
        {"name": "free-tokens", "unit": "tokens", "amount": 6000, "by": "tenant", "match": {"user_tier": "free"}},
        {"name": "dollars", "unit": "dollars", "amount": 5, "by": "tenant"}
    ]
}"#;

/// Starts four backends, a gateway before them and tenants who send, shows what happens in tables, takes a backend
/// down and brings it back, and says at the end what was seen. `tell` gets text of one or more lines.
///
/// # Errors
/// [`GatewayError`] when no port can be had.
pub fn demo(settings: &DemoSettings, mut tell: impl FnMut(&str)) -> Result<(), GatewayError> {
    let wrong =
        |e: std::io::Error| GatewayError::Listen { address: "127.0.0.1".into(), reason: e.to_string() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(wrong)?;
    runtime.block_on(show(settings, &mut tell))
}

async fn backend(
    name: &str,
    seed: u64,
    first_token_ms: u64,
    tokens_per_second: f64,
    failure_share: f64,
    requests_per_minute: u64,
) -> Result<MockBackend, GatewayError> {
    let settings = MockSettings {
        name: name.to_owned(),
        first_token: Duration::from_millis(first_token_ms),
        spread: 0.3,
        tokens_per_second,
        output_tokens: OUTPUT_TOKENS,
        failure_share,
        requests_per_minute,
        seed,
        ..MockSettings::default()
    };
    MockBackend::start(settings)
        .await
        .map_err(|e| GatewayError::Listen { address: "127.0.0.1".into(), reason: e.to_string() })
}

fn tenants() -> Vec<LoadClass> {
    let class = |name: &str, tier: &str, stream, weight: f64| {
        LoadClass::chat(name, "chat-large", 60, 64, stream)
            .with_header("x-tenant", name)
            .with_header("x-tier", tier)
            .with_weight(weight)
    };
    vec![
        class("hospital", "paid", true, 1.0).with_header("x-priority", "critical"),
        class("acme", "paid", true, 3.0),
        class("hobby", "free", true, 1.0),
        class("greedy", "free", false, 5.0),
    ]
}

async fn show(settings: &DemoSettings, tell: &mut impl FnMut(&str)) -> Result<(), GatewayError> {
    let seed = settings.seed;
    let premium = backend("premium", seed, 40, 200.0, 0.0, 0).await?;
    let basic = backend("basic", seed + 1, 120, 100.0, 0.0, 0).await?;
    let flaky = backend("flaky", seed + 2, 80, 150.0, 0.5, 0).await?;
    let metered = backend("metered", seed + 3, 30, 250.0, 0.0, 120).await?;
    let mut json = PLAN.to_owned();
    for (name, mock) in [("PREMIUM", &premium), ("BASIC", &basic), ("FLAKY", &flaky), ("METERED", &metered)] {
        json = json.replace(name, &mock.url());
    }
    let plan: RequestPlan = serde_json::from_str(&json)
        .map_err(|error| GatewayError::PlanFile { file: "demo".into(), reason: error.to_string() })?;
    let gateway = Gateway::start(&plan, ServerSettings::default()).await?;
    tell(&format!(
        "gateway on http://{}, metrics on http://{}/metrics\n\
         backends: premium ($15 per million tokens written, fast), basic ($0.60, slower), flaky ($2, fails every \
         second request), metered ($4, fast, 120 requests a minute)\n\
         tenants: hospital (critical), acme (paid), hobby and greedy (free, {FREE_TOKENS} tokens a minute each)",
        gateway.address(),
        gateway.admin_address().map_or_else(String::new, |address| address.to_string()),
    ));
    let mut load = Load::start(&LoadSettings {
        url: format!("http://{}", gateway.address()),
        requests_per_second: settings.requests_per_second,
        duration: settings.duration,
        classes: tenants(),
        most_in_flight: 2000,
        timeout: Duration::from_secs(30),
        seed,
    })?;
    let started = Instant::now();
    let mut next_table = settings.interval;
    let down_at = settings.duration.mul_f64(OUTAGE.0);
    let up_at = settings.duration.mul_f64(OUTAGE.1);
    let basic_row = gateway.tally().row("free", "basic");
    let (mut before, mut during) = (None, None);
    while started.elapsed() < settings.duration {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let elapsed = started.elapsed();
        if before.is_none() && elapsed >= down_at {
            before = Some((basic_row.attempts(), basic_row.failures()));
            basic.set_down(true);
            tell("--- basic fails everything from now on");
        }
        if during.is_none() && elapsed >= up_at {
            during = Some((basic_row.attempts(), basic_row.failures()));
            basic.set_down(false);
            tell("--- basic is back");
        }
        if elapsed >= next_table {
            next_table += settings.interval;
            tell(&table(&gateway, &load, elapsed));
        }
    }
    load.finish().await;
    let elapsed = started.elapsed();
    tell(&table(&gateway, &load, elapsed));
    for line in summary(&gateway, &load, before.zip(during), elapsed) {
        tell(&line);
    }
    let drained = gateway.drain().await;
    tell(&format!("drained: {} connections ended, {} were cut off", drained.finished, drained.cut_off));
    Ok(())
}

fn ms(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.0}", time.as_secs_f64() * 1e3))
}

fn table(gateway: &Gateway, load: &Load, elapsed: Duration) -> String {
    let rows = gateway.tally().rows();
    let all: u64 = rows.iter().map(|(_, _, row)| row.attempts()).sum();
    let mut lines = vec![
        format!(
            "\nafter {:.0} s: {} in flight, {} in the queue",
            elapsed.as_secs_f64(),
            load.in_flight(),
            gateway.waiting()
        ),
        format!(
            "{:<10} {:<9} {:>8} {:>6} {:>9} {:>9} {:>7} {:>7} {:>8} {:>9} {:>10}",
            "rule",
            "backend",
            "attempts",
            "share",
            "p50 ms",
            "p95 ms",
            "failed",
            "refused",
            "retried",
            "tokens",
            "dollars"
        ),
    ];
    for (rule, backend, row) in &rows {
        let usage = row.usage();
        lines.push(format!(
            "{rule:<10} {backend:<9} {:>8} {:>5.1}% {:>9} {:>9} {:>7} {:>7} {:>8} {:>9} {:>10.5}",
            row.attempts(),
            row.attempts() as f64 * 100.0 / all.max(1) as f64,
            ms(row.first_byte.quantile(0.5)),
            ms(row.first_byte.quantile(0.95)),
            row.failures(),
            row.of(Outcome::Limited),
            row.retries(),
            usage.input + usage.output,
            row.dollars(),
        ));
    }
    lines.push(format!(
        "{:<10} {:>8} {:>8} {:>8} {:>8} {:>9} {:>9}",
        "tenant", "sent", "served", "limited", "other", "p50 ms", "p95 ms"
    ));
    for report in load.reports() {
        let (served, limited, other) = split(report);
        lines.push(format!(
            "{:<10} {:>8} {served:>8} {limited:>8} {other:>8} {:>9} {:>9}",
            report.name,
            report.sent.load(std::sync::atomic::Ordering::Relaxed),
            ms(report.first_byte.quantile(0.5)),
            ms(report.first_byte.quantile(0.95)),
        ));
    }
    let refusals: Vec<_> =
        gateway.tally().refusals().into_iter().map(|(code, count)| format!("{count} {code}")).collect();
    if !refusals.is_empty() {
        lines.push(format!("refused by the gateway: {}", refusals.join(", ")));
    }
    lines.join("\n")
}

/// Answers with 200, with 429, and everything else.
fn split(report: &ClassReport) -> (u64, u64, u64) {
    let broken = report.broken.load(std::sync::atomic::Ordering::Relaxed);
    let all: u64 = report.statuses().values().sum();
    let (served, limited) = (report.of_status(200), report.of_status(429));
    (served, limited, all - served - limited + broken)
}

/// What was seen, in numbers that were counted.
fn summary(
    gateway: &Gateway,
    load: &Load,
    outage: Option<((u64, u64), (u64, u64))>,
    elapsed: Duration,
) -> Vec<String> {
    let mut lines = vec!["\nwhat was seen".to_owned()];
    let rows = gateway.tally().rows();
    let free: Vec<_> = rows.iter().filter(|(rule, _, _)| rule == "free").collect();
    let served = |row: &super::tally::Row| row.of(Outcome::Success);
    let all: u64 = free.iter().map(|(_, _, row)| served(row)).sum();
    let shares: Vec<_> = free
        .iter()
        .map(|(_, backend, row)| format!("{backend} {:.0}%", served(row) as f64 * 100.0 / all.max(1) as f64))
        .collect();
    lines.push(format!("- free tier, by least cost: {} of {all} answers", shares.join(", ")));
    if let Some((before, during)) = outage {
        lines.push(format!(
            "- while basic failed it was asked {} times, all of which failed; before that it had answered {}",
            during.1 - before.1,
            before.0 - before.1
        ));
    }
    let retries: u64 = rows.iter().map(|(_, _, row)| row.retries()).sum();
    let (mut good, mut bad) = (0, 0);
    for report in load.reports() {
        let (served, _, other) = split(report);
        good += served;
        bad += other;
    }
    lines.push(format!(
        "- {retries} failed attempts went elsewhere; clients saw {bad} errors and {good} answers"
    ));
    // A bucket that begins full allows its size and what flows in.
    let allowed = FREE_TOKENS as f64 * (1.0 + elapsed.as_secs_f64() / 60.0);
    for (class, report) in tenants()
        .iter()
        .zip(load.reports())
        .filter(|(class, _)| class.headers.iter().any(|(name, value)| name == "x-tier" && value == "free"))
    {
        let body = class.body.as_deref().unwrap_or_default();
        let input = RequestFacts::read(body).map_or(0, |facts| facts.prompt.len().div_ceil(4)) as u64;
        let (served, limited, _) = split(report);
        lines.push(format!(
            "- {} used {} tokens in {served} answers and was refused {limited} times; its limit allowed {allowed:.0}",
            report.name,
            served * (input + OUTPUT_TOKENS),
        ));
    }
    let limited: u64 = rows.iter().map(|(_, _, row)| row.of(Outcome::Limited)).sum();
    lines.push(format!("- metered, which takes 120 requests a minute, refused {limited} attempts"));
    let dollars: f64 = rows.iter().map(|(_, _, row)| row.dollars()).sum();
    let dearest: f64 = rows
        .iter()
        .map(|(_, _, row)| {
            let usage = row.usage();
            (usage.input as f64 * 3.0 + usage.output as f64 * 15.0) * 1e-6
        })
        .sum();
    lines.push(format!("- it cost {dollars:.4} dollars; all of it at premium would have cost {dearest:.4}"));
    lines
}
