//! A log replays to the bit, says where it cannot, and holds no secret.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::{Feedback, LoadReport, Quota, Refill, Resource, Wait};
use traflux_gateway::decision_log::{LogFile, LogFileSettings, LogReader, LogSettings, Replayed, replay};
use traflux_gateway::health::{Outcome, ProbeResult};
use traflux_gateway::observe::Format;
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Forward, GatewayError, Later, Request, Rng, TokenEstimate,
    Usage, Waiting,
};

const ALGORITHMS: [&str; 8] = [
    "round-robin",
    "weighted",
    "least-connections",
    "least-latency",
    "least-cost",
    "hot-cold",
    "consistent-hash",
    "adaptive",
];

fn at(nanos: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(nanos))
}

fn plan_of(json: Value) -> RequestPlan {
    serde_json::from_value(json).unwrap()
}

fn pick<T: Clone>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.below(of.len())].clone()
}

fn chance(rng: &mut Rng, share: f64) -> bool {
    rng.uniform() < share
}

/// A plan that uses whatever there is.
fn random_plan(rng: &mut Rng) -> RequestPlan {
    let backends: serde_json::Map<String, Value> = (0..2 + rng.below(4))
        .map(|ix| {
            let urls: Vec<Value> = (0..1 + rng.below(3))
                .map(|endpoint| json!({"url": format!("http://10.0.{ix}.{endpoint}"), "weight": 1 + rng.below(3), "tier": rng.below(2)}))
                .collect();
            let price = json!({"input_dollars_per_million": rng.uniform() * 3.0, "output_dollars_per_million": rng.uniform() * 9.0});
            let mut backend = json!({"url": urls, "price": price});
            if chance(rng, 0.5) {
                backend["models"] = json!({"small": {}, "large": {"price": price}});
            }
            (format!("b{ix}"), backend)
        })
        .collect();
    let names: Vec<String> = backends.keys().cloned().collect();
    let conditions = [
        json!({"path": "/v1/chat"}),
        json!({"headers": {"Authorization": "Bearer secret"}}),
        json!({"headers": {"x-team": {"prefix": "a"}}}),
        json!({"query": {"v": "2"}}),
        json!({"claims": {"role": {"one_of": ["admin", "dev"]}}}),
        json!({"user_tier": "gold"}),
        json!({"tenant": ["t1", "t2"], "stream": true}),
        json!({"model": "large", "estimated_tokens": {"min": 500}}),
        json!({"host": "*.example.com", "method": "GET"}),
    ];
    let route = |rng: &mut Rng| {
        let members: Vec<Value> = names
            .iter()
            .filter_map(|name| {
                let weight = 1 + rng.below(9);
                chance(rng, 0.7).then(|| json!({"name": name, "weight": weight}))
            })
            .collect();
        let members = if members.is_empty() { vec![json!(names[0])] } else { members };
        json!({"backend": members, "algorithm": pick(rng, &ALGORITHMS), "health_check": chance(rng, 0.8),
               "fallback": if chance(rng, 0.4) { vec![pick(rng, &names)] } else { vec![] }})
    };
    let rules: Vec<Value> = (0..rng.below(5))
        .map(|ix| {
            json!({"name": format!("r{ix}"), "match": pick(rng, &conditions), "priority": rng.below(3), "route": route(rng)})
        })
        .collect();
    let units = ["requests", "tokens", "input_tokens", "output_tokens", "dollars", "concurrency"];
    let scopes = ["tenant", "key", "user", "user_tier", "model", "backend"];
    let limits: Vec<Value> = (0..rng.below(4))
        .map(|ix| {
            let unit = pick(rng, &units);
            let amount = match unit {
                "requests" => 40.0,
                "concurrency" => 6.0,
                "dollars" => 0.02,
                _ => 20_000.0,
            };
            let shape = pick(
                rng,
                &[
                    json!("token_bucket"),
                    json!("fixed_window"),
                    json!("sliding_window"),
                    json!({"warm_up": {}}),
                    json!({"calendar": {"every": "day", "utc_offset_minutes": 60}}),
                ],
            );
            let mut limit =
                json!({"name": format!("l{ix}"), "unit": unit, "amount": amount, "period_ms": 5000});
            if unit != "concurrency" {
                limit["shape"] = shape.clone();
                if shape.get("calendar").is_some() {
                    limit["period_ms"] = json!(60_000);
                }
            }
            match rng.below(4) {
                0 => limit["by"] = json!([pick(rng, &scopes)]),
                1 => {
                    limit["by"] = json!([pick(rng, &scopes), {"header": "x-api-key"}]);
                    // So few that tables overflow and old keys leave.
                    limit["max_keys"] = json!(3);
                }
                2 => {
                    limit["by"] = json!("tenant");
                    limit["overrides"] = json!({"t1": amount * 2.0});
                }
                _ => {}
            }
            if unit != "concurrency" && shape != "sliding_window" && chance(rng, 0.4) {
                limit["max_wait_ms"] = json!(3000);
            }
            if chance(rng, 0.3) {
                limit["match"] = pick(rng, &conditions);
            }
            limit
        })
        .collect();
    let mut plan = json!({
        "backends": backends,
        "routing": {"strategy": pick(rng, &ALGORITHMS), "rules": rules},
        "limits": limits,
        "retry": {"max_attempts": 1 + rng.below(4)},
        "health": {"probe": {"interval_ms": 500}},
        "balance": {"adaptive": {"every_ms": 500}},
    });
    if chance(rng, 0.6) {
        plan["retry"]["hedge"] = json!({});
    }
    if chance(rng, 0.9) {
        plan["routing"]["default"] = route(rng);
    }
    if chance(rng, 0.5) {
        plan["affinity"] = match rng.below(4) {
            0 => json!({"key": {"header": "x-session"}}),
            1 => json!({"key": {"cookie": "sid"}}),
            2 => json!({"key": "user"}),
            _ => json!({"key": {"prefix": {"block_bytes": 8, "blocks": 4}}}),
        };
    }
    if chance(rng, 0.6) {
        plan["congestion"] = json!({"concurrency": {"initial": 2, "min": 1, "max": 5}});
    }
    plan_of(plan)
}

/// A request of everything that a plan may look at.
fn with_random_request<T>(rng: &mut Rng, now: u64, with: impl FnOnce(&Request<'_>) -> T) -> T {
    let tenants = ["", "t0", "t1", "t2", "t3 with \"quotes\"\n"];
    let session = format!("s{}", rng.below(6));
    let prompt = format!("system prompt number {} and more of it {}", rng.below(4), rng.below(100));
    let headers = [
        ("authorization", pick(rng, &["Bearer secret", "Bearer other"])),
        ("x-team", pick(rng, &["alpha", "beta"])),
        ("x-api-key", pick(rng, &["key-1", "key-2"])),
        ("x-session", session.as_str()),
        ("cookie", "a=1; sid=zoo; b=2"),
    ];
    let claims = [("role", pick(rng, &["admin", "guest"]))];
    with(&Request {
        method: pick(rng, &["POST", "GET"]),
        host: pick(rng, &["api.example.com", "else.org"]),
        path: pick(rng, &["/v1/chat/completions", "/v2"]),
        query: pick(rng, &["", "v=2&token=hush", "a=b"]),
        headers: &headers,
        claims: &claims,
        client: Client {
            tenant: pick(rng, &tenants),
            key: pick(rng, &["ci", "ops"]),
            user: pick(rng, &["", "u1", "u2"]),
            user_tier: pick(rng, &["gold", "free"]),
        },
        model: pick(rng, &["", "small", "large", "unknown"]),
        tokens: TokenEstimate { input: rng.below(800) as u64, output: rng.below(800) as u64 },
        max_answer: chance(rng, 0.5).then(|| rng.below(900) as u64),
        bytes: rng.below(10_000) as u64,
        stream: chance(rng, 0.5),
        idempotence: pick(rng, &[Idempotence::Idempotent, Idempotence::NonIdempotent]),
        kind: pick(rng, &["", "interactive", "batch"]),
        prompt: prompt.as_bytes(),
        deadline: chance(rng, 0.3).then(|| at(now + rng.below(5_000_000_000) as u64)),
    })
}

const OUTCOMES: [Outcome; 11] = [
    Outcome::Success,
    Outcome::Success,
    Outcome::ClientError,
    Outcome::Limited,
    Outcome::ServerError,
    Outcome::GatewayError,
    Outcome::ConnectFailure,
    Outcome::Reset,
    Outcome::Timeout,
    Outcome::Cancelled,
    Outcome::PoolFull,
];

fn random_feedback(rng: &mut Rng) -> Feedback {
    if chance(rng, 0.7) {
        return Feedback::NONE;
    }
    let wait = Duration::from_nanos(rng.below(3_000_000_000) as u64);
    let quota = |resource, rng: &mut Rng| Quota {
        resource,
        limit: Some(100),
        remaining: Some(rng.below(100) as u64),
        reset: Some(Duration::from_nanos(rng.below(2_000_000_000) as u64)),
        window: None,
        refill: pick(rng, &[Refill::AtReset, Refill::Continuous]),
    };
    let quotas = [quota(Resource::Requests, rng), quota(Resource::Tokens, rng)];
    let wait = chance(rng, 0.5).then_some(Wait { wait, stated: wait });
    Feedback::of(wait, pick(rng, &[None, Some(true), Some(false)]), quotas)
}

fn random_settings(rng: &mut Rng) -> EngineSettings {
    EngineSettings { seed: rng.next_u64(), ..EngineSettings::default() }
}

struct Run {
    lines: Vec<u8>,
    state: String,
    decisions: usize,
    kinds: [usize; 4],
    hedged: usize,
    lasting: usize,
}

/// Plays random calls on an engine with a log.
fn run(seed: u64, calls: usize) -> Run {
    let mut rng = Rng::new(seed);
    let settings = random_settings(&mut rng);
    let mut now = 1_700_000_000_000_000_000 + rng.below(1_000_000) as u64;
    let mut plan = random_plan(&mut rng);
    if chance(&mut rng, 0.3) {
        plan.queue.max_waiting = 0;
    }
    let engine = Engine::with_log(&plan, &settings, &LogSettings::default(), at(now)).unwrap();
    let (mut latest, mut decisions, mut kinds, mut hedged) = (now, 0, [0; 4], 0);
    let mut open: VecDeque<Forward> = VecDeque::new();
    let mut waiting: Vec<Waiting> = Vec::new();
    let (mut turns, mut lasting): (Vec<Later>, usize) = (Vec::new(), 0);
    for _ in 0..calls {
        now += rng.below(80_000_000) as u64;
        if chance(&mut rng, 0.02) {
            // A clock that jumps, either way.
            now = now.saturating_add(rng.below(4_000_000_000) as u64) - 2_000_000_000;
        }
        latest = latest.max(now);
        let decision = match rng.below(24) {
            0..8 => {
                decisions += 1;
                Some(with_random_request(&mut rng, now, |request| engine.decide(request, at(now))))
            }
            8..10 => {
                if let Some(forward) = open.back_mut() {
                    forward.first_byte(at(now));
                }
                None
            }
            10..15 => open.pop_front().and_then(|forward| {
                let feedback = random_feedback(&mut rng);
                let usage = Usage { input: rng.below(900) as u64, cached: 3, output: rng.below(900) as u64 };
                let end = End {
                    outcome: pick(&mut rng, &OUTCOMES),
                    usage: chance(&mut rng, 0.6).then_some(usage),
                    feedback: &feedback,
                };
                if chance(&mut rng, 0.4) {
                    Some(forward.retry(at(now), &end))
                } else {
                    forward.finish(at(now), &end);
                    None
                }
            }),
            15 => {
                drop(open.pop_back());
                if !waiting.is_empty() {
                    let ix = rng.below(waiting.len());
                    drop(waiting.swap_remove(ix));
                }
                None
            }
            16 => {
                engine.upkeep(at(now));
                None
            }
            17 => {
                for question in engine.probes(at(now), 1 + rng.below(3)) {
                    let result = pick(&mut rng, &[ProbeResult::Passed, ProbeResult::Failed]);
                    if chance(&mut rng, 0.8) {
                        engine.on_probe(at(now), &question, result);
                    }
                }
                let report = LoadReport { cache_use: Some(rng.uniform()), ..LoadReport::default() };
                engine.report_load(at(now), &format!("b{}", rng.below(4)), "small", report);
                None
            }
            18 => {
                let weights: Vec<(&str, u32)> =
                    vec![("b0", rng.below(9) as u32), ("b1", 1 + rng.below(9) as u32)];
                drop(engine.set_weights(at(now), "default", &weights));
                with_random_request(&mut rng, now, |request| drop(engine.explain(request, at(now))));
                None
            }
            22 | 23 if !turns.is_empty() => {
                let ix = rng.below(turns.len());
                if chance(&mut rng, 0.8) {
                    Some(turns.swap_remove(ix).go_on(at(now)))
                } else {
                    drop(turns.swap_remove(ix));
                    None
                }
            }
            21 => {
                if let Some(forward) = open.front_mut() {
                    if chance(&mut rng, 0.5) { forward.pause(at(now)) } else { forward.resume() }
                }
                None
            }
            19 | 20 => {
                if let Some(ix) = (!open.is_empty()).then(|| rng.below(open.len())) {
                    let first = &mut open[ix];
                    let second = first.hedge_at().and_then(|_| first.hedge(at(now)));
                    if let Some(second) = second {
                        hedged += 1;
                        if chance(&mut rng, 0.5) {
                            second.overtaken(at(now + 1000));
                        } else {
                            open.push_back(second);
                        }
                    }
                }
                None
            }
            _ => {
                if chance(&mut rng, 0.2) {
                    // A plan may be refused; then the old one stays.
                    let _ = engine.reload(&random_plan(&mut rng), &settings, at(now));
                }
                None
            }
        };
        let ready = std::iter::from_fn(|| engine.take_ready()).map(|(_, decision)| decision);
        for decision in decision.into_iter().chain(ready) {
            match decision {
                Decision::Forward(forward) => {
                    kinds[usize::from(forward.attempt() > 1)] += 1;
                    open.push_back(forward);
                }
                Decision::Later(later) => {
                    lasting += 1;
                    turns.push(later);
                }
                Decision::Wait(place) => {
                    kinds[2] += 1;
                    waiting.push(place);
                }
                Decision::Refuse(_) => kinds[3] += 1,
            }
        }
    }
    engine.upkeep(at(latest));
    let log = engine.decision_log().unwrap();
    let mut lines = Vec::new();
    log.take(&mut lines, false);
    Run { lines, state: engine.scrape(at(latest), Format::Prometheus), decisions, kinds, hedged, lasting }
}

fn replayed(lines: &[u8]) -> Result<Replayed, GatewayError> {
    replay(&mut LogReader::new(lines))
}

#[test]
fn random_plans_and_calls_replay_to_the_bit() {
    let (mut kinds, mut hedged, mut lasting) = ([0; 4], 0, 0);
    for seed in 0..100 {
        let run = run(seed, 400);
        let done = replayed(&run.lines).unwrap();
        if let Some(difference) = done.difference {
            panic!("seed {seed}: {difference}");
        }
        assert!(done.answers as usize >= run.decisions, "seed {seed}");
        let differs = done.state.lines().zip(run.state.lines()).find(|(replayed, was)| replayed != was);
        assert_eq!(differs, None, "seed {seed}");
        hedged += run.hedged;
        lasting += run.lasting;
        for (sum, count) in kinds.iter_mut().zip(run.kinds) {
            *sum += count;
        }
    }
    // Forwards, attempts beyond the first, waits, refusals: all were there.
    assert!(
        kinds.iter().all(|count| *count > 200) && hedged > 50 && lasting > 20,
        "{kinds:?} {hedged} {lasting}"
    );
}

#[test]
fn a_changed_call_is_found_and_both_answers_are_told() {
    let run = run(3, 400);
    let text = String::from_utf8(run.lines).unwrap();
    let line =
        text.lines().position(|line| line.contains("\"decide\"") && line.contains("\"backend\"")).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut entry: Value = serde_json::from_str(&lines[line]).unwrap();
    let was = entry["do"]["decide"]["answer"]["forward"]["backend"].as_str().unwrap().to_owned();
    entry["do"]["decide"]["answer"]["forward"]["backend"] = json!("elsewhere");
    lines[line] = entry.to_string();
    let difference = replayed((lines.join("\n") + "\n").as_bytes()).unwrap().difference.unwrap();
    assert_eq!(difference.line, line + 1);
    assert!(difference.recorded.contains("elsewhere") && difference.replayed.contains(&was), "{difference}");
    assert!(difference.trace.contains("chosen by"), "{difference}");
}

#[test]
fn a_log_with_a_gap_says_that_it_cannot_be_replayed() {
    let run = run(5, 200);
    let text = String::from_utf8(run.lines).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.drain(40..43);
    let error = replayed((lines.join("\n") + "\n").as_bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "decision log, line 41: it can be analysed but not replayed: 3 entries are missing before line 41"
    );
}

#[test]
fn a_line_that_broke_off_ends_the_log_and_is_told() {
    let run = run(6, 200);
    let done = replayed(&run.lines[..run.lines.len() - 9]).unwrap();
    assert!(done.is_cut && done.difference.is_none());
    assert!(!replayed(&run.lines).unwrap().is_cut);
}

#[test]
fn what_does_not_fit_into_memory_is_dropped_and_counted() {
    let plan = plan_of(json!({"routing": {"default": {"backend": "a"}}}));
    let settings = LogSettings { buffer_bytes: 12_000 };
    let engine = Engine::with_log(&plan, &EngineSettings::default(), &settings, at(1)).unwrap();
    let log = engine.decision_log().unwrap();
    let ask = || drop(engine.decide(&Request::default(), at(2)));
    (0..1000).for_each(|_| ask());
    let (written, dropped) = log.counts();
    assert!(written > 10 && dropped > 1000 && written + dropped == 2000, "{written} and {dropped}");
    let (mut lines, mut all) = (Vec::new(), Vec::new());
    log.take(&mut lines, false);
    assert!(lines.len() < 12_500);
    all.extend_from_slice(&lines);
    ask();
    log.take(&mut lines, false);
    all.extend_from_slice(&lines);
    let mut reader = LogReader::new(&all[..]);
    while reader.read().unwrap().is_some() {}
    let gaps = reader.gaps();
    assert_eq!((gaps.len(), gaps[0].first, gaps[0].count), (1, written, dropped));
}

#[test]
fn no_secret_is_written() {
    for seed in 0..40 {
        let text = String::from_utf8(run(seed, 200).lines).unwrap();
        for secret in ["Bearer", "key-1", "key-2", "hush", "zoo", "system prompt", "\"s1\""] {
            assert!(!text.contains(secret), "seed {seed}: {secret}");
        }
    }
}

#[test]
fn a_claim_whose_name_sounds_like_a_secret_decides_the_same_in_a_replay() {
    let plan = plan_of(json!({
        "routing": {
            "rules": [{"name": "admin", "match": {"claims": {"authorities": "ROLE_ADMIN"}}, "route": {"backend": "a"}}],
            "default": {"backend": "b"}
        },
        "limits": [{"name": "few", "unit": "requests", "amount": 1, "match": {"claims": {"session_kind": {"one_of": ["bot"]}}}}]
    }));
    let engine = Engine::with_log(&plan, &EngineSettings::default(), &LogSettings::default(), at(1)).unwrap();
    let ask =
        |claims: &[(&str, &str)]| engine.decide(&Request { claims: &claims, ..Request::default() }, at(2));
    assert_eq!(ask(&[("authorities", "ROLE_ADMIN")]).forward().unwrap().backend(), "a");
    assert_eq!(ask(&[("authorities", "ROLE_USER")]).forward().unwrap().backend(), "b");
    let bot = [("session_kind", "bot")];
    assert!(ask(&bot).forward().is_some() && ask(&bot).forward().is_none());
    let mut lines = Vec::new();
    engine.decision_log().unwrap().take(&mut lines, false);
    let done = replayed(&lines).unwrap();
    assert!(done.difference.is_none() && done.answers >= 4, "{:?}", done.difference);
    let text = String::from_utf8(lines).unwrap();
    assert!(!text.contains("ROLE_") && !text.contains("\"bot\""), "{text}");
}

#[test]
fn a_rotated_log_reads_as_one_and_without_its_beginning_only_as_a_part() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decisions.jsonl");
    let plan = plan_of(json!({"routing": {"default": {"backend": ["a", "b"]}}}));
    let engine = Engine::with_log(&plan, &EngineSettings::default(), &LogSettings::default(), at(1)).unwrap();
    let log = engine.decision_log().unwrap();
    std::fs::write(&path, "of a run before\n").unwrap();
    let settings = LogFileSettings { max_bytes: 20_000, keep: 3, ..LogFileSettings::new(&path) };
    let mut file = LogFile::create(settings).unwrap();
    let play = |file: &mut LogFile, rounds: u64| {
        for round in 0..rounds {
            let forward = engine.decide(&Request::default(), at(round * 1000)).forward().unwrap();
            forward.finish(at(round * 1000 + 500), &End::of(Outcome::Success));
            if round % 10 == 0 {
                file.write(log).unwrap();
            }
        }
        file.write(log).unwrap();
    };
    play(&mut file, 220);
    let all = replay(&mut LogReader::open(&path).unwrap()).unwrap();
    assert_eq!((all.difference, all.calls), (None, 440));
    assert!(path.with_extension("jsonl.2").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    play(&mut file, 1000);
    assert!(!path.with_extension("jsonl.4").exists());
    let error = replay(&mut LogReader::open(&path).unwrap()).unwrap_err();
    assert!(error.to_string().contains("entries are gone"), "{error}");
    let mut reader = LogReader::open(&path).unwrap();
    while reader.read().unwrap().is_some() {}
    assert_eq!(reader.gaps().len(), 1, "{:?}", reader.gaps());
}

#[test]
fn calls_of_several_threads_take_turns_and_replay_to_the_bit() {
    let plan = plan_of(json!({
        "backends": {"a": {"url": ["http://1", "http://2"]}, "b": {"url": "http://3"}},
        "routing": {"default": {"backend": ["a", "b"], "algorithm": "least-latency"}},
        "limits": [{"name": "tpm", "unit": "tokens", "amount": 200_000, "by": "tenant"}],
    }));
    let engine = Engine::with_log(&plan, &EngineSettings::default(), &LogSettings::default(), at(1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let engine = &engine;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                let mut open = VecDeque::new();
                for round in 0..500u64 {
                    let now = at(round * 1_000_000 + rng.below(1000) as u64);
                    let request = Request {
                        client: Client { tenant: pick(&mut rng, &["x", "y"]), ..Client::default() },
                        tokens: TokenEstimate { input: 100, output: 100 },
                        ..Request::default()
                    };
                    open.extend(engine.decide(&request, now).forward());
                    if open.len() > 3
                        && let Some(forward) = open.pop_front()
                    {
                        let failed = chance(&mut rng, 0.02);
                        let outcome = if failed { Outcome::ServerError } else { Outcome::Success };
                        forward.finish(now, &End::of(outcome));
                    }
                }
            });
        }
    });
    let mut lines = Vec::new();
    engine.decision_log().unwrap().take(&mut lines, false);
    let done = replayed(&lines).unwrap();
    assert_eq!(done.difference, None);
    assert!(done.answers == 2000 && done.calls > 2500, "{} of {}", done.answers, done.calls);
}
