//! What does the gateway cost between a client and a backend?
//!
//! `cargo run --release -p traflux-gateway --features server --example gateway_load`
//!
//! Three processes on this machine: a backend that answers at once, a gateway before it with rules, two limits and a
//! key table, and this one, which sends an open-loop load, in turn straight to the backend and through the gateway,
//! and counts from when each request was due. Then it changes the plan under load, and opens streams that say nothing.
//! All of it with settings as they are by default. `gateway_load hedge` shows what a second attempt does to the tail of
//! backends that stall.
#![allow(clippy::print_stdout)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::server::load::{Load, LoadClass, LoadSettings};
use traflux_gateway::server::mock::{MockBackend, MockSettings};
use traflux_gateway::server::{Gateway, ServerSettings};

type Failure = Box<dyn std::error::Error>;

const PAGE_BYTES: f64 = 4096.0;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mock", tokens_per_second] => mock(tokens_per_second.parse()?),
        ["gateway", backend, protocol] => gateway(backend, protocol == "http2"),
        ["hedge"] => hedge(),
        [] => measure(5000.0, 5, 10_000),
        [rate, rounds, streams] => measure(rate.parse()?, rounds.parse()?, streams.parse()?),
        _ => Err("usage: gateway_load [hedge | REQUESTS_PER_SECOND ROUNDS STREAMS]".into()),
    }
}

/// The backend, until its standard input ends.
fn mock(tokens_per_second: f64) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = MockSettings { tokens_per_second, ..MockSettings::default() };
    let mock = runtime.block_on(MockBackend::start(settings))?;
    say(&mock.url())?;
    std::io::stdin().lines().for_each(drop);
    Ok(())
}

/// The gateway, until its standard input ends; each line of it changes the plan.
fn gateway(backend: &str, http2: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let plans = [plan(backend, http2, 1)?, plan(backend, http2, 2)?];
    let gateway = runtime.block_on(Gateway::start(&plans[0], ServerSettings::default()))?;
    say(&format!("http://{}", gateway.address()))?;
    for (round, line) in std::io::stdin().lines().enumerate() {
        line?;
        let _inside = runtime.enter();
        gateway.reload(&plans[(round + 1) % 2])?;
        say("ok")?;
    }
    Ok(())
}

fn plan(backend: &str, http2: bool, weight: u32) -> Result<RequestPlan, Failure> {
    let json = format!(
        r#"{{
        "server": {{"listen": "127.0.0.1:0", "stream_idle_timeout_ms": 600000}},
        "backends": {{
            "a": {{"url": "{backend}", "http2": {http2}, "price": {{"output_dollars_per_million": 10}}}},
            "b": {{"url": "{backend}", "http2": {http2}, "price": {{"output_dollars_per_million": 5}}}}}},
        "identity": {{"trusted_headers": {{"tenant": "x-tenant", "user_tier": "x-tier"}}}},
        "routing": {{
            "rules": [
                {{"name": "gold", "match": {{"user_tier": "gold"}}, "route": {{"backend": "a"}}}},
                {{"name": "chat", "match": {{"path": "/v1/chat"}},
                  "route": {{"backend": [{{"name": "a", "weight": {weight}}}, "b"], "algorithm": "least-latency"}}}}],
            "default": {{"backend": "b"}}}},
        "limits": [
            {{"name": "requests", "unit": "requests", "amount": 1e9, "by": "tenant"}},
            {{"name": "tokens", "unit": "tokens", "amount": 1e12, "by": "tenant"}}]
        }}"#
    );
    Ok(serde_json::from_str(&json)?)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Another role of this program, in a process of its own.
struct Part {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    url: String,
}

impl Part {
    fn start(arguments: &[&str]) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        let mut part = Self { child, input: Some(input), output: BufReader::new(output), url: String::new() };
        part.url = part.line()?;
        Ok(part)
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("a part has ended early".into());
        }
        Ok(line.trim().to_owned())
    }

    fn poke(&mut self) -> Result<(), Failure> {
        if let Some(input) = &mut self.input {
            writeln!(input)?;
        }
        match self.line()?.as_str() {
            "ok" => Ok(()),
            other => Err(other.to_owned().into()),
        }
    }

    fn resident_mb(&self) -> Result<f64, Failure> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: f64 = statm.split_whitespace().nth(1).ok_or("no resident pages")?.parse()?;
        Ok(pages * PAGE_BYTES / 1e6)
    }

    fn cpu_seconds(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after = stat.rsplit_once(')').ok_or("no name in stat")?.1;
        let ticks: Vec<f64> =
            after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

fn load(url: &str, rate: f64, seconds: f64, seed: u64) -> LoadSettings {
    let class = |name: &str, stream| {
        LoadClass::chat(name, "m", 50, 16, stream).with_header("x-tenant", name).with_header("x-tier", "free")
    };
    LoadSettings {
        url: url.to_owned(),
        requests_per_second: rate,
        duration: Duration::from_secs_f64(seconds),
        classes: vec![class("acme", false), class("beta", false)],
        most_in_flight: 5_000,
        timeout: Duration::from_secs(10),
        seed,
    }
}

/// Median and quartiles.
fn spread(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    (at(0.25), at(0.5), at(0.75))
}

fn measure(rate: f64, rounds: u64, streams: usize) -> Result<(), Failure> {
    let backend = Part::start(&["mock", "0"])?;
    let mut gateway = Part::start(&["gateway", &backend.url, "http1"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let run = |url: &str, seconds: f64, seed: u64| -> Result<(Load, [f64; 3]), Failure> {
        runtime.block_on(async {
            let mut load = Load::start(&load(url, rate, seconds, seed))?;
            load.finish().await;
            let total = load.total();
            let us = |share| total.quantile(share).unwrap_or_default().as_secs_f64() * 1e6;
            let quantiles = [us(0.5), us(0.99), total.count() as f64 / seconds];
            Ok((load, quantiles))
        })
    };
    // Connections, tables and code are warm before anything counts.
    for url in [&backend.url, &gateway.url] {
        run(url, 2.0, 1)?;
    }
    let (mut median, mut tail, mut errors) = (Vec::new(), Vec::new(), 0);
    let cpu = gateway.cpu_seconds()?;
    let mut sent = 0.0;
    for round in 0..rounds {
        let (straight, direct) = run(&backend.url, 3.0, round + 2)?;
        let (through, ours) = run(&gateway.url, 3.0, round + 2)?;
        errors += straight.errors() + through.errors();
        sent += through.total().count() as f64;
        let late = through.late().quantile(0.99).unwrap_or_default();
        println!(
            "round {round}: direct p50 {:.0} us p99 {:.0} us; gateway p50 {:.0} us p99 {:.0} us at {:.0}/s; sent late by p99 {late:?}",
            direct[0], direct[1], ours[0], ours[1], ours[2]
        );
        median.push(ours[0] - direct[0]);
        tail.push(ours[1] - direct[1]);
    }
    let cpu = (gateway.cpu_seconds()? - cpu) * 1e6 / sent.max(1.0);
    println!("{errors} errors; {cpu:.0} us of processor time per request in the gateway\n");
    println!("{:<34} {:>10} {:>10} {:>7}   quartiles", "", "goal", "ours", "ratio");
    let row = |name: &str, goal: f64, values: &mut [f64], unit: &str| {
        let (low, middle, high) = spread(values);
        println!(
            "{name:<34} {goal:>7.0} {unit} {middle:>7.0} {unit} {:>7.2}   {low:.0} to {high:.0}",
            middle / goal
        );
    };
    row("added latency p50", 150.0, &mut median, "us");
    row("added latency p99", 1000.0, &mut tail, "us");

    let (mut failed, mut answered, mut changes) = (0, 0, 0);
    runtime.block_on(async {
        let mut load = Load::start(&load(&gateway.url, rate, 5.0, 99))?;
        for _ in 0..25 {
            tokio::time::sleep(Duration::from_millis(190)).await;
            gateway.poke()?;
            changes += 1;
        }
        load.finish().await;
        failed += load.errors();
        answered += load.total().count();
        Ok::<_, Failure>(())
    })?;
    println!(
        "{:<34} {:>7} -- {failed:>7} --           {changes} reloads, {answered} answers",
        "errors at reloads", 0
    );
    drop(gateway);
    drop(backend);
    for (protocol, count) in [("http2", streams), ("http1", streams * 9 / 20)] {
        idle(&runtime, protocol, count)?;
    }
    Ok(())
}

/// Two backends, one in fifty of whose answers takes a second longer, with and without hedges.
fn hedge() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for retry in ["{}", r#"{"hedge": {}}"#, r#"{"hedge": {"delay_ms": 100}}"#] {
        runtime.block_on(async {
            let mock = |seed| {
                MockBackend::start(MockSettings {
                    first_token: Duration::from_millis(20),
                    spread: 0.3,
                    stall_share: 0.02,
                    stall: Duration::from_secs(1),
                    seed,
                    ..MockSettings::default()
                })
            };
            let (a, b) = (mock(1).await?, mock(2).await?);
            let json = format!(
                r#"{{"server": {{"listen": "127.0.0.1:0"}}, "retry": {retry},
                "backends": {{"a": {{"url": "{}"}}, "b": {{"url": "{}"}}}},
                "routing": {{"default": {{"backend": ["a", "b"], "algorithm": "least-latency"}}}}}}"#,
                a.url(),
                b.url()
            );
            let gateway = Gateway::start(&serde_json::from_str(&json)?, ServerSettings::default()).await?;
            let mut load = Load::start(&load(&format!("http://{}", gateway.address()), 100.0, 30.0, 5))?;
            load.finish().await;
            let ms = |share| load.total().quantile(share).unwrap_or_default().as_secs_f64() * 1e3;
            let rows = gateway.tally().rows();
            let hedges: u64 = rows.iter().map(|(_, _, row)| row.hedges()).sum();
            let won: u64 = rows.iter().map(|(_, _, row)| row.hedges_won()).sum();
            println!(
                "{retry:<28} p50 {:>5.0} ms, p99 {:>5.0} ms, p99.9 {:>5.0} ms; {} answers, {} errors, {hedges} second attempts, {won} of them first",
                ms(0.5),
                ms(0.99),
                ms(0.999),
                load.total().count(),
                load.errors(),
            );
            Ok::<_, Failure>(())
        })?;
    }
    Ok(())
}

/// Opens streams that say one word and then nothing.
fn idle(runtime: &tokio::runtime::Runtime, protocol: &str, count: usize) -> Result<(), Failure> {
    let backend = Part::start(&["mock", "0.001"])?;
    let gateway = Part::start(&["gateway", &backend.url, protocol])?;
    let before = gateway.resident_mb()?;
    let address: SocketAddr = gateway.url.trim_start_matches("http://").parse()?;
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-tenant: t\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let held = runtime.block_on(async {
        let mut held = Vec::new();
        let mut buffer = [0; 4096];
        for _ in 0..count {
            let mut socket = TcpStream::connect(address).await?;
            socket.write_all(head.as_bytes()).await?;
            let mut seen = Vec::new();
            while !seen.windows(5).any(|w| w == b"delta") {
                let read = socket.read(&mut buffer).await?;
                if read == 0 {
                    return Err(String::from_utf8_lossy(&seen).into_owned().into());
                }
                seen.extend_from_slice(&buffer[..read]);
            }
            held.push(socket);
        }
        Ok::<_, Failure>(held)
    })?;
    let after = gateway.resident_mb()?;
    let goal = 300.0 * count as f64 / 10_000.0;
    println!(
        "{:<34} {goal:>7.0} MB {after:>7.0} MB {:>7.2}   {before:.0} MB before; {:.1} KB a stream",
        format!("{} idle streams, backend {protocol}", held.len()),
        after / goal,
        (after - before) * 1e3 / count as f64
    );
    Ok(())
}
