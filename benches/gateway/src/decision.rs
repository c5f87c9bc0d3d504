//! How long does a whole decision take: rule, three limits, a choice of 64 backends, record, settlement?
//!
//! The real engine with a plan of 21 rules, 64 backends with prices, a queue, and three limits that hold for every
//! request (requests and tokens of the tenant, dollars of all); 1,000 tenants in a fixed shuffled order. One decision is
//! `decide`, `first_byte` and `finish` with what was used. The time is an argument of the engine; where the line says
//! "with clock", three readings of the clock are in it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::affinity::{AffinityPlan, AffinitySource};
use traflux_gateway::health::Outcome;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, Request, Rng, TokenEstimate, Usage,
};

use crate::harness::{self, Clock, Spread};

const BACKENDS: usize = 64;
const TENANTS: usize = 1_000;
/// Single calls that are timed.
const SINGLE: usize = 200_000;
/// Decisions of the two runs whose instructions are counted.
const COUNTED: [usize; 2] = [5_000, 25_000];

/// Runs the part.
pub(crate) fn run() {
    println!("A `Forward` takes {} bytes, a `Decision` {}.\n", size_of::<Forward>(), size_of::<Decision>());
    println!("| whole decision | ns, median (quartiles) of batches | allocations |");
    println!("|---|---|---|");
    for (name, algorithm, in_flight, session, real) in [
        ("least-latency, one in flight", "least-latency", 1, false, false),
        ("adaptive, one in flight", "adaptive", 1, false, false),
        ("round-robin, one in flight", "round-robin", 1, false, false),
        ("least-latency, 256 in flight", "least-latency", 256, false, false),
        ("least-latency, one in flight, with session", "least-latency", 1, true, false),
        ("least-latency, one in flight, with clock", "least-latency", 1, false, true),
    ] {
        let mut load = Load::new(algorithm, in_flight, session, real);
        load.steps(20_000);
        let spread = harness::measure(&mut |count| load.steps(count));
        let allocated = allocation_counter::measure(|| load.steps(10_000)).count_total;
        println!(
            "| {name} | {:.0} ({:.0}–{:.0}) | {allocated} in 10,000 |",
            spread.median, spread.low, spread.high
        );
    }
    parts();
    println!();
    single();
    println!("instructions of a whole decision: {}", instructions());
}

/// Does so many decisions and nothing else: what counts instructions runs this.
pub(crate) fn count(decisions: usize) {
    Load::new("least-latency", 1, false, false).steps(decisions);
}

/// What each call takes, and what the parts take alone.
fn parts() {
    let mut load = Load::new("least-latency", 1, false, false);
    load.steps(20_000);
    let line = |name: &str, spread: Spread| {
        println!("| {name} | {:.0} ({:.0}–{:.0}) | |", spread.median, spread.low, spread.high);
    };
    let refused = Request { path: "/nowhere", ..Request::default() };
    line(
        "of it, refused for want of a rule",
        harness::measure(&mut |count| {
            for _ in 0..count {
                black_box(matches!(load.engine.decide(&refused, load.now), Decision::Refuse(_)));
            }
        }),
    );
    line(
        "decide and drop",
        harness::measure(&mut |count| {
            for _ in 0..count {
                load.now = load.now + Duration::from_micros(400);
                drop(load.decide(load.now));
            }
        }),
    );
    let clock = Clock::new();
    line(
        "three readings of the clock",
        harness::measure(&mut |count| {
            for _ in 0..count {
                black_box((clock.now(), clock.now(), clock.now()));
            }
        }),
    );
}

/// Each decision timed by itself.
fn single() {
    let clock = Clock::new();
    let mut load = Load::new("least-latency", 1, false, false);
    load.steps(20_000);
    let mut times: Vec<u64> = Vec::with_capacity(SINGLE);
    let mut empty: Vec<u64> = Vec::with_capacity(SINGLE);
    for _ in 0..SINGLE {
        let start = clock.nanos();
        load.steps(1);
        times.push(clock.nanos() - start);
        let start = clock.nanos();
        empty.push(clock.nanos() - start);
    }
    times.sort_unstable();
    empty.sort_unstable();
    let at = |values: &[u64], share: f64| values[((values.len() - 1) as f64 * share) as usize];
    let clock_cost = at(&empty, 0.5);
    let own = |share| at(&times, share).saturating_sub(clock_cost);
    println!(
        "p50 of a whole decision: {} ns, p99 {} ns, p99.9 {} ns, of {SINGLE} timed one by one; \
         {clock_cost} ns for the clock are taken off",
        own(0.5),
        own(0.99),
        own(0.999)
    );
}

struct Load {
    engine: Engine,
    names: Vec<String>,
    order: Vec<u16>,
    at: usize,
    now: Timestamp,
    clock: Option<Clock>,
    in_flight: VecDeque<Forward>,
    most: usize,
}

impl Load {
    fn new(algorithm: &str, most: usize, session: bool, real: bool) -> Self {
        let clock = real.then(Clock::new);
        let now = Timestamp::new(Duration::from_secs(1_700_000_000));
        let affinity = AffinityPlan { key: AffinitySource::User, ..AffinityPlan::default() };
        let settings = EngineSettings {
            seed: 1,
            ..EngineSettings::default()
        };
        let mut plan: RequestPlan = serde_json::from_str(&plan(algorithm)).expect("a plan");
        plan.affinity = session.then_some(affinity);
        let begin = clock.as_ref().map_or(now, Clock::now);
        let mut rng = Rng::new(1);
        let mut load = Self {
            engine: Engine::new(&plan, &settings, begin).expect("a plan with a meaning"),
            names: (0..TENANTS).map(|ix| format!("tenant-{ix:04}")).collect(),
            order: (0..1 << 14).map(|_| rng.below(TENANTS) as u16).collect(),
            at: 0,
            now,
            clock,
            in_flight: VecDeque::with_capacity(most),
            most,
        };
        // Every tenant has been here.
        load.order.splice(..TENANTS, 0..TENANTS as u16);
        load
    }

    #[inline]
    fn time(&self, after: Duration) -> Timestamp {
        self.clock.as_ref().map_or(self.now + after, Clock::now)
    }

    #[inline]
    fn decide(&mut self, now: Timestamp) -> Forward {
        self.at = (self.at + 1) % self.order.len();
        let tenant = &self.names[usize::from(self.order[self.at])];
        let headers: &[(&str, &str)] =
            &[("content-type", "application/json"), ("x-team", "search"), ("user-agent", "bench")];
        let request = Request {
            method: "POST",
            host: "api.example.com",
            path: "/v1/chat/completions",
            headers: &headers,
            client: Client { tenant, user: tenant, key: "key-1", user_tier: "standard" },
            model: "gpt-5",
            tokens: TokenEstimate { input: 1_000, output: 500 },
            stream: true,
            ..Request::default()
        };
        match self.engine.decide(&request, now) {
            Decision::Forward(forward) => forward,
            other => panic!("{other:?}"),
        }
    }

    fn steps(&mut self, count: usize) {
        const AFTER: Duration = Duration::from_micros(200);
        for _ in 0..count {
            let forward = self.decide(self.time(Duration::ZERO));
            if self.most == 1 {
                self.end(forward);
            } else {
                self.in_flight.push_back(forward);
                if self.in_flight.len() >= self.most
                    && let Some(forward) = self.in_flight.pop_front()
                {
                    self.end(forward);
                }
            }
            self.now = self.now + AFTER * 2;
        }
    }

    #[inline]
    fn end(&self, mut forward: Forward) {
        const AFTER: Duration = Duration::from_micros(200);
        forward.first_byte(self.time(AFTER));
        let usage = Usage { input: 1_000, cached: 200, output: 120 };
        forward.finish(self.time(AFTER * 2), &End { usage: Some(usage), ..End::of(Outcome::Success) });
    }
}

/// 20 rules of all kinds before the one that holds, 64 backends, three limits.
fn plan(algorithm: &str) -> String {
    let mut backends = String::new();
    let mut names = String::new();
    for ix in 0..BACKENDS {
        let comma = if ix == 0 { "" } else { "," };
        let price = r#"{"input_dollars_per_million": 1.25, "output_dollars_per_million": 10}"#;
        let _ = write!(
            backends,
            r#"{comma}"b{ix}": {{"url": "https://b{ix}.example.com", "models": {{"gpt-5": {{"price": {price}}}}}}}"#
        );
        let _ = write!(names, r#"{comma}"b{ix}""#);
    }
    let mut rules = String::new();
    for ix in 0..20 {
        let condition = match ix % 5 {
            0 => format!(r#""path": "/v1/embeddings/{ix}""#),
            1 => format!(r#""user_tier": "tier-{ix}", "path": "/v1/chat""#),
            2 => format!(r#""headers": {{"x-team": "team-{ix}"}}"#),
            3 => format!(r#""model": "model-{ix}""#),
            _ => format!(r#""tenant": "internal-{ix}", "path": "/v1/""#),
        };
        let _ = write!(
            rules,
            r#"{{"name": "rule-{ix}", "match": {{{condition}}}, "route": {{"backend": "b{ix}"}}}},"#
        );
    }
    format!(
        r#"{{"backends": {{{backends}}},
        "routing": {{"rules": [{rules} {{"name": "chat", "match": {{"path": "/v1/chat", "model": "gpt-5"}},
            "route": {{"backend": [{names}], "algorithm": "{algorithm}"}}}}]}},
        "limits": [
            {{"name": "rpm", "unit": "requests", "amount": 1000000000, "by": "tenant"}},
            {{"name": "tpm", "unit": "tokens", "amount": 1000000000000, "by": "tenant"}},
            {{"name": "budget", "unit": "dollars", "amount": 1000000, "period_ms": 60000}}
        ]}}"#
    )
}

/// By callgrind, where it is: the difference of two runs of different length, so that the start is not in it.
fn instructions() -> String {
    let Ok(program) = std::env::current_exe() else { return "not available".to_owned() };
    let run = |decisions: usize| -> Option<f64> {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(&program)
            .args(["--count", &decisions.to_string()])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = text.lines().find_map(|line| line.split_once("Collected :"))?;
        line.1.trim().parse().ok()
    };
    match COUNTED.map(run) {
        [Some(few), Some(many)] => format!("{:.0}", (many - few) / (COUNTED[1] - COUNTED[0]) as f64),
        _ => "not available (valgrind)".to_owned(),
    }
}
