//! The controller beside the engine of a gateway: in virtual time before modelled backends, and live before mocks.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use futures_util::FutureExt as _;
use traflux::Decision as Tick;
use traflux::core::plan::requests::RequestPlan;
use traflux::core::{Actuator as _, NodeGroup, Rung, SolverStatus, Timestamp, TrafficPlan};
use traflux::gateway::{
    Decision, End, Engine, EngineActuator, EngineController, EngineSettings, Feedback, Forward, Outcome,
    Request, Rng, TokenEstimate, Usage,
};

/// A backend whose answers take longer the more requests it holds: `S · max(1, n / c)`, give or take a third.
#[derive(Debug, Clone)]
struct Model {
    name: &'static str,
    /// `S` in seconds.
    service_s: f64,
    /// `c`: what it serves at a time. Its capacity is `c / S`.
    servers: f64,
    /// From when until when, in seconds, it takes so many times as long and fails such a share.
    trouble: Option<(f64, f64, f64, f64)>,
    /// Requests per second beyond which it answers 429.
    quota_rps: f64,
}

impl Model {
    fn new(name: &'static str, service_s: f64, capacity_rps: f64) -> Self {
        let servers = capacity_rps * service_s;
        Self { name, service_s, servers, trouble: None, quota_rps: f64::INFINITY }
    }

    fn in_trouble(self, from_s: f64, until_s: f64, slowdown: f64, failing: f64) -> Self {
        Self { trouble: Some((from_s, until_s, slowdown, failing)), ..self }
    }

    fn with_quota(self, quota_rps: f64) -> Self {
        Self { quota_rps, ..self }
    }
}

/// What came of the requests of a stretch of time.
#[derive(Debug, Default)]
struct Seen {
    latencies: Vec<f64>,
    sent: BTreeMap<&'static str, u32>,
    failed: u32,
    limited: u32,
    refused: u32,
    dollars: f64,
}

impl Seen {
    fn quantile_ms(&mut self, share: f64) -> f64 {
        self.latencies.sort_by(f64::total_cmp);
        let rank = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(rank).copied().unwrap_or(0.0) * 1e3
    }

    fn mean_ms(&self) -> f64 {
        self.latencies.iter().sum::<f64>() / self.latencies.len().max(1) as f64 * 1e3
    }

    fn share(&self, name: &str) -> f64 {
        let all: u32 = self.sent.values().sum();
        f64::from(self.sent.get(name).copied().unwrap_or(0)) / f64::from(all.max(1))
    }
}

/// An engine before modelled backends, in time that only moves as events do.
struct World {
    engine: Engine,
    models: Vec<Model>,
    prices: BTreeMap<&'static str, f64>,
    in_flight: Vec<u32>,
    /// Level of each quota, and when it was looked at last.
    allowance: Vec<(f64, f64)>,
    controller: Option<EngineController>,
    interval_s: f64,
    rng: Rng,
    now_s: f64,
    next_arrival_s: f64,
    next_tick_s: f64,
    next_upkeep_s: f64,
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    open: BTreeMap<u64, (Forward, usize, Outcome, f64)>,
    sequence: u64,
    ticks: Vec<Tick>,
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(1_000_000.0 + seconds)
}

fn plan(json: &str) -> RequestPlan {
    let plan: RequestPlan = serde_json::from_str(json).unwrap();
    plan.validate().unwrap();
    plan
}

impl World {
    fn new(plan: &RequestPlan, models: &[Model], seed: u64) -> Self {
        let engine =
            Engine::new(plan, &EngineSettings { seed, ..EngineSettings::default() }, at(0.0)).unwrap();
        let prices = models.iter().map(|model| {
            let price = plan.backends.get(model.name).map(|b| b.price.request_dollars);
            (model.name, price.unwrap_or(0.0))
        });
        Self {
            prices: prices.collect(),
            controller: plan.control.is_some().then(|| EngineController::new(engine.clone())),
            interval_s: plan.control.as_ref().map_or(5.0, |control| control.interval.as_secs_f64()),
            in_flight: vec![0; models.len()],
            allowance: models.iter().map(|model| (model.quota_rps, 0.0)).collect(),
            models: models.to_vec(),
            engine,
            rng: Rng::new(seed),
            now_s: 0.0,
            next_arrival_s: 0.0,
            next_tick_s: 0.0,
            next_upkeep_s: 0.0,
            ends: BinaryHeap::new(),
            open: BTreeMap::new(),
            sequence: 0,
            ticks: Vec::new(),
        }
    }

    /// Goes on until `until_s` with Poisson arrivals at a rate.
    fn run(&mut self, until_s: f64, rate: f64) -> Seen {
        let mut seen = Seen::default();
        if self.next_arrival_s < self.now_s {
            self.next_arrival_s = self.now_s;
        }
        loop {
            let end_s = self.ends.peek().map_or(f64::INFINITY, |Reverse((nanos, _))| *nanos as f64 * 1e-9);
            let arrival_s = if rate > 0.0 { self.next_arrival_s } else { f64::INFINITY };
            let next = end_s.min(arrival_s).min(self.next_tick_s).min(self.next_upkeep_s);
            if next > until_s {
                self.now_s = until_s;
                return seen;
            }
            self.now_s = next;
            if next == end_s {
                self.end(&mut seen);
            } else if next == arrival_s {
                self.arrive(&mut seen);
                self.next_arrival_s += self.rng.exponential() / rate;
            } else if next == self.next_upkeep_s {
                self.engine.upkeep(at(next));
                self.next_upkeep_s += 0.25;
            } else {
                if let Some(controller) = &mut self.controller {
                    let decision = controller.tick(at(next)).now_or_never().unwrap().unwrap();
                    self.ticks.extend(decision);
                }
                self.next_tick_s += self.interval_s;
            }
        }
    }

    fn arrive(&mut self, seen: &mut Seen) {
        let tokens = TokenEstimate { input: 500, output: 100 };
        match self.engine.decide(&Request { tokens, ..Request::default() }, at(self.now_s)) {
            Decision::Forward(forward) => self.dispatch(forward, self.now_s, seen),
            _ => seen.refused += 1,
        }
    }

    fn dispatch(&mut self, forward: Forward, began_s: f64, seen: &mut Seen) {
        let ix = self.models.iter().position(|model| model.name == forward.backend()).unwrap();
        let model = self.models[ix].clone();
        *seen.sent.entry(model.name).or_default() += 1;
        let (jitter, luck) = (self.rng.between(0.67, 1.33), self.rng.uniform());
        let (slowdown, failing) = match model.trouble {
            Some((from, until, slowdown, failing)) if (from..until).contains(&self.now_s) => {
                (slowdown, failing)
            }
            _ => (1.0, 0.0),
        };
        self.in_flight[ix] += 1;
        let crowd = (f64::from(self.in_flight[ix]) * slowdown / model.servers).max(slowdown);
        let (outcome, latency_s) = if !self.has_quota(ix) {
            (Outcome::Limited, 0.01)
        } else if luck < failing {
            (Outcome::ServerError, 0.5 * model.service_s)
        } else {
            (Outcome::Success, model.service_s * crowd * jitter)
        };
        self.sequence += 1;
        self.ends.push(Reverse((((self.now_s + latency_s) * 1e9) as u64, self.sequence)));
        self.open.insert(self.sequence, (forward, ix, outcome, began_s));
    }

    /// A token bucket of one second's worth.
    fn has_quota(&mut self, ix: usize) -> bool {
        let quota = self.models[ix].quota_rps;
        let (level, last_s) = &mut self.allowance[ix];
        *level = (*level + (self.now_s - *last_s) * quota).min(quota.max(1.0));
        *last_s = self.now_s;
        let granted = *level >= 1.0;
        *level -= if granted { 1.0 } else { 0.0 };
        granted
    }

    fn end(&mut self, seen: &mut Seen) {
        let Some(Reverse((_, sequence))) = self.ends.pop() else { return };
        let (forward, ix, outcome, began_s) = self.open.remove(&sequence).unwrap();
        self.in_flight[ix] -= 1;
        let now = at(self.now_s);
        let usage = Some(Usage { input: 500, cached: 0, output: 100 });
        if outcome == Outcome::Success {
            seen.latencies.push(self.now_s - began_s);
            seen.dollars += self.prices[self.models[ix].name];
            forward.finish(now, &End { outcome, usage, feedback: &Feedback::NONE });
            return;
        }
        seen.limited += u32::from(outcome == Outcome::Limited);
        match forward.retry(now, &End::of(outcome)) {
            Decision::Forward(again) => self.dispatch(again, began_s, seen),
            _ => seen.failed += 1,
        }
    }

    fn shares(&self) -> BTreeMap<String, f64> {
        let tick = self.ticks.last().unwrap();
        tick.flows[0].shares.iter().cloned().collect()
    }
}

/// A cheap, a middling and a dear backend; prices in dollars per million requests: 1, 3, 10.
const THREE: &str = r#"{
    "backends": {
        "cheap": {"price": {"request_dollars": 1e-6}},
        "middle": {"price": {"request_dollars": 3e-6}},
        "dear": {"price": {"request_dollars": 10e-6}}
    },
    "routing": {"default": {"backend": ["cheap", "middle", "dear"], "algorithm": "ALGORITHM"}}
    CONTROL
}"#;

const CONTROL: &str = r#", "control": {"capacity_rps": {"cheap": 60, "middle": 60, "dear": 120}}"#;

fn three(algorithm: &str, control: &str) -> RequestPlan {
    plan(&THREE.replace("ALGORITHM", algorithm).replace("CONTROL", control))
}

fn models() -> [Model; 3] {
    // From 300 s to 480 s the cheap one takes six times as long: its capacity falls from 60 to 10 requests per second.
    [
        Model::new("cheap", 0.1, 60.0).in_trouble(300.0, 480.0, 6.0, 0.0),
        Model::new("middle", 0.1, 60.0),
        Model::new("dear", 0.08, 120.0),
    ]
}

#[test]
fn weights_follow_price_within_capacity_and_leave_a_backend_while_it_is_in_trouble() {
    let mut world = World::new(&three("adaptive", CONTROL), &models(), 7);
    world.run(200.0, 60.0);
    let mut calm = world.run(300.0, 60.0);
    let before = world.shares();
    println!("before: {before:.2?}, p95 {:.0} ms", calm.quantile_ms(0.95));
    assert!(before["cheap"] > before["middle"] && before["middle"] > before["dear"], "{before:?}");
    // 80 % of what is counted on of 60 requests per second, with room for a tenth more demand.
    assert!(before["cheap"] > 0.5 && before["cheap"] < 0.82, "{before:?}");
    assert!((calm.share("cheap") - before["cheap"]).abs() < 0.03, "requests follow shares: {calm:?}");

    world.run(360.0, 60.0);
    let mut trouble = world.run(480.0, 60.0);
    let during = world.shares();
    println!("during: {during:.2?}, p95 {:.0} ms", trouble.quantile_ms(0.95));
    // It can serve 10 of 60.
    assert!(trouble.share("cheap") < 0.2, "{:.2}", trouble.share("cheap"));

    world.run(900.0, 60.0);
    let mut after = world.run(1000.0, 60.0);
    let back = world.shares();
    println!("after: {back:.2?}, p95 {:.0} ms", after.quantile_ms(0.95));
    assert!(back["cheap"] > 0.5, "{back:?}");
    assert_eq!(after.failed + after.refused, 0);

    let weights = |tick: &Tick| tick.flows[0].shares.clone();
    for pair in world.ticks.windows(2) {
        let moved =
            weights(&pair[0]).iter().zip(&weights(&pair[1])).map(|(a, b)| b.1 - a.1).collect::<Vec<_>>();
        // Five seconds at 0.02 per second, and 0.1 per second out of and away from what is in breach.
        assert!(moved.iter().all(|step| step.abs() < 0.5 + 1e-3), "{moved:?} at {}", pair[1].at_s);
        let breach = pair[1].endpoints.iter().any(|e| !e.health.may_receive());
        if !breach {
            assert!(moved.iter().all(|step| step.abs() < 0.1 + 1e-3), "{moved:?} at {}", pair[1].at_s);
        }
    }
    let solver = world.ticks.last().unwrap().solver.as_ref().unwrap();
    assert_eq!(solver.status, SolverStatus::Optimal);
}

#[test]
fn an_engine_that_nobody_asks_keeps_its_weights_and_its_controller() {
    let mut world = World::new(&three("adaptive", CONTROL), &models(), 7);
    world.run(200.0, 60.0);
    let before = world.shares();
    world.run(500.0, 0.0);
    assert_eq!(world.ticks.last().unwrap().rung, Rung::Hold);
    assert_eq!(world.shares(), before);
    // The engine still goes by them, although the last push is five minutes old.
    // Before the first tick that sees requests again.
    let seen = world.run(504.9, 60.0);
    assert!((seen.share("cheap") - before["cheap"]).abs() < 0.05, "{} {before:?}", seen.share("cheap"));
}

#[test]
fn without_capacities_a_cheap_backend_is_loaded_step_by_step_until_it_is_slow() {
    let control = r#", "control": {"usd_per_million_for_10_ms": 1}"#;
    let mut models = models();
    models[0].trouble = None;
    let mut world = World::new(&three("adaptive", control), &models, 11);
    let mut largest: f64 = 0.0;
    let mut seen = Seen::default();
    for minute in 1..=30 {
        seen = world.run(f64::from(minute) * 60.0, 90.0);
        largest = largest.max(90.0 * seen.share("cheap"));
    }
    let shares = world.shares();
    println!(
        "capacity not known: {shares:.2?}, p95 {:.0} ms, at most {largest:.0}/s",
        seen.quantile_ms(0.95)
    );
    assert!(shares["cheap"] > 1.0 / 3.0, "{shares:?}");
    assert!(largest < 66.0, "its capacity is 60: {largest}");
}

#[test]
fn refusals_tell_the_quota_of_a_provider() {
    let mut models = models();
    models[0].trouble = None;
    models[0] = models[0].clone().with_quota(20.0);
    let mut world = World::new(&three("adaptive", r#", "control": {}"#), &models, 5);
    world.run(60.0, 60.0);
    let first = world.run(300.0, 60.0);
    let later = world.run(900.0, 60.0);
    let share = later.share("cheap");
    println!(
        "quota of a third: share {share:.2}, {} of 14400, then {} of 36000 refused",
        first.limited, later.limited
    );
    assert!(share < 0.4, "{share}");
    assert!(f64::from(later.limited) < 0.05 * 36_000.0, "{}", later.limited);
}

#[test]
fn the_controller_beside_adaptive_alone_and_round_robin_on_one_trace() {
    let mut rows = Vec::new();
    for (name, algorithm, control) in [
        ("adaptive with the controller", "adaptive", CONTROL),
        ("adaptive alone", "adaptive", ""),
        ("round robin", "round-robin", ""),
    ] {
        let mut world = World::new(&three(algorithm, control), &models(), 3);
        world.run(120.0, 60.0);
        let mut seen = world.run(900.0, 60.0);
        let served = seen.latencies.len() as f64;
        let (mean, p95, p99) = (seen.mean_ms(), seen.quantile_ms(0.95), seen.quantile_ms(0.99));
        let dollars = seen.dollars / served * 1e6;
        let lost = seen.failed + seen.refused;
        println!(
            "{name:<29} mean {mean:>4.0} ms, p95 {p95:>4.0} ms, p99 {p99:>4.0} ms, ${dollars:.2} per million requests, \
             {lost} of {served} lost"
        );
        rows.push((p95, dollars, f64::from(lost) / served));
    }
    let [controlled, alone, round_robin] = rows[..] else { panic!("three arms") };
    // Alone, `adaptive` weighs prices by their root; the controller knows what capacity they may be used up to.
    assert!(controlled.1 < alone.1 && controlled.1 < 0.7 * round_robin.1, "it is the cheapest: {rows:?}");
    assert!(alone.1 < 0.7 * round_robin.1, "{rows:?}");
    assert!(controlled.0 < 1.1 * alone.0.min(round_robin.0), "and hardly slower: {rows:?}");
    assert!(controlled.2 < 0.002, "{rows:?}");
}

#[test]
fn two_runs_are_equal_to_the_bit() {
    let run = || {
        let mut world = World::new(&three("adaptive", CONTROL), &models(), 9);
        world.run(400.0, 60.0);
        serde_json::to_string(&world.ticks).unwrap()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_reload_keeps_weights_of_what_stays_and_takes_in_what_comes() {
    let mut world = World::new(&three("adaptive", CONTROL), &models(), 7);
    world.run(200.0, 60.0);
    let before = world.shares();
    let reload = |world: &World, json: &str| {
        world.engine.reload(&plan(json), &EngineSettings::default(), at(world.now_s)).unwrap();
    };
    // Another rule comes; the default route stays as it was.
    let more = THREE.replace("ALGORITHM", "adaptive").replace("CONTROL", CONTROL).replace(
        r#""routing": {"#,
        r#""routing": {"rules": [{"name": "batch", "match": {"path": "/batch"}, "route": {"backend": ["middle", "dear"]}}], "#,
    );
    reload(&world, &more);
    world.run(202.0, 60.0);
    world.run(206.0, 60.0);
    let tick = world.ticks.last().unwrap();
    assert_eq!(tick.flows.len(), 2);
    let default = tick.flows.iter().find(|flow| flow.name == "default").unwrap();
    for (name, share) in &default.shares {
        assert!((share - before[name]).abs() < 0.12, "{name}: {share}, before {}", before[name]);
    }
    // Without `control` the engine is on its own again.
    reload(&world, &THREE.replace("ALGORITHM", "adaptive").replace("CONTROL", ""));
    let ticks = world.ticks.len();
    world.run(230.0, 60.0);
    assert_eq!(world.ticks.len(), ticks);
    assert!(world.controller.as_ref().unwrap().controller().is_none());
    assert_eq!(world.controller.as_ref().unwrap().metrics()(), "");
}

#[test]
fn weights_for_an_earlier_plan_are_refused() {
    let first = three("adaptive", CONTROL);
    let engine = Engine::new(&first, &EngineSettings::default(), at(0.0)).unwrap();
    let actuator = EngineActuator::new(engine.clone(), at(0.0));
    let fleet = traflux::gateway::fleet(&first, first.control.as_ref().unwrap()).unwrap().unwrap();
    let weights = traflux::core::quantize(&fleet.fallback, 100).unwrap();
    let weights = TrafficPlan::from_weights(&fleet.topology, &fleet.services, &weights).unwrap();
    let receipt = actuator.apply(&weights).now_or_never().unwrap().unwrap();
    assert!(receipt.changed);
    assert!(
        !actuator.apply(&weights).now_or_never().unwrap().unwrap().changed,
        "the same again is no change"
    );
    let group = NodeGroup("engine".into());
    assert_eq!(actuator.in_force(&group).unwrap().version, receipt.version);
    engine.reload(&three("adaptive", ""), &EngineSettings::default(), at(1.0)).unwrap();
    let error = actuator.apply(&weights).now_or_never().unwrap().unwrap_err();
    assert_eq!((error.code(), error.is_transient()), ("actuate_compile", false));
    actuator.follow(engine.plan());
    assert!(actuator.apply(&weights).now_or_never().unwrap().is_ok());
}

#[test]
fn shadow_mode_decides_and_moves_nothing() {
    let control = CONTROL.replace("{\"capacity", "{\"mode\": \"shadow\", \"capacity");
    let mut world = World::new(&three("adaptive", &control), &models(), 7);
    let seen = world.run(200.0, 60.0);
    let tick = world.ticks.last().unwrap();
    assert!(tick.proposed[0] > 0.4, "it would move: {:?}", tick.proposed);
    assert!((world.shares()["cheap"] - 1.0 / 3.0).abs() < 1e-3);
    let mut alone = World::new(&three("adaptive", ""), &models(), 7);
    assert_eq!(alone.run(200.0, 60.0).sent, seen.sent, "the engine decides as without a controller");
}

#[test]
fn a_trained_policy_may_choose_what_moves() {
    let control = CONTROL.replace("{\"capacity", "{\"mode\": \"frozen\", \"k\": 2, \"capacity");
    let mut world = World::new(&three("adaptive", &control), &models(), 7);
    world.run(300.0, 60.0);
    let tick = world.ticks.last().unwrap();
    assert!(tick.action.is_some() && tick.failures.is_empty(), "{:?}", tick.failures);
    assert!(world.shares()["cheap"] > 0.4, "{:?}", world.shares());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_the_controller_leaves_a_mock_that_is_down_and_shows_it() {
    use traflux::gateway::server::mock::{MockBackend, MockSettings};
    use traflux::gateway::server::{Gateway, ServerSettings};

    let mock = |name: &str| {
        let first_token = Duration::from_millis(5);
        MockBackend::start(MockSettings { name: name.into(), first_token, ..MockSettings::default() })
    };
    let (good, bad) = (mock("good").await.unwrap(), mock("bad").await.unwrap());
    let json = format!(
        r#"{{
            "server": {{"listen": "127.0.0.1:0", "admin": "127.0.0.1:0"}},
            "backends": {{"good": {{"url": "{}"}}, "bad": {{"url": "{}"}}}},
            "routing": {{"default": {{"backend": ["good", "bad"]}}}},
            "control": {{"interval_ms": 200, "window_ms": 1000, "step_per_s": 0.2}}
        }}"#,
        good.url(),
        bad.url(),
    );
    let gateway = Gateway::start(&plan(&json), ServerSettings::default()).await.unwrap();
    let controller = EngineController::new(gateway.engine().clone());
    gateway.show(controller.metrics());
    let clock = gateway.clock();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let control = tokio::spawn(controller.run(
        move || clock.now(),
        move |line| {
            let _ = tell.send(line.to_owned());
        },
    ));
    let client = reqwest::Client::new();
    let url = format!("http://{}/v1/chat/completions", gateway.address());
    let body = r#"{"model":"m","max_tokens":4,"messages":[{"role":"user","content":"hi"}]}"#;
    let ask = async |count: usize| {
        let mut served = 0;
        for _ in 0..count {
            let answer = client.post(&url).header("content-type", "application/json").body(body).send().await;
            served += usize::from(answer.is_ok_and(|answer| answer.status().is_success()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        served
    };
    ask(150).await;
    bad.set_down(true);
    let served = ask(250).await;
    assert!(served >= 245, "the engine hides the outage from clients: {served} of 250");
    let share = gateway.engine().scrape(clock.now(), traflux::gateway::observe::Format::Prometheus);
    let share = share.lines().find(|line| line.contains(r#"plan_share_ratio{rule="default",backend="bad"}"#));
    let share: f64 = share.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(share < 0.35, "weights leave what is down: {share}");
    let shown = client.get(format!("http://{}/metrics", gateway.admin_address().unwrap()));
    let shown = shown.send().await.unwrap().text().await.unwrap();
    for name in [
        "traflux_plan_info{version=\"",
        "traflux_weight{source=\"engine\",service=\"default\",endpoint=\"good\"}",
        "traflux_ladder_rung 0.0",
        "traflux_solver_info{solver=\"transport\",status=\"",
        "traflux_gateway_requests_total",
    ] {
        assert!(shown.contains(name), "{name} is not in\n{shown}");
    }
    control.abort();
    let mut lines = Vec::new();
    while let Ok(line) = told.try_recv() {
        lines.push(line);
    }
    assert!(lines.iter().any(|line| line.starts_with("control: default: good ")), "{lines:?}");
    gateway.drain().await;
}
