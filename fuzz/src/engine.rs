//! Does an engine under any plan decide every request, the same each time, and give back what it took?

use std::collections::BTreeMap;
use std::time::Duration;

use libfuzzer_sys::arbitrary::Unstructured;
use traflux_core::Timestamp;
use traflux_core::plan::backend::{BackendPlan, ModelPlan, PricePlan, UpstreamEndpoint};
use traflux_core::plan::limit::{
    CalendarPlan, CalendarWindow, LimitPlan, LimitScope, LimitShape, LimitUnit, WarmUpPlan,
};
use traflux_core::plan::matching::MatchPlan;
use traflux_core::plan::requests::RequestPlan;
use traflux_core::plan::routing::{
    Algorithm, FallbackBudget, FallbackCause, FallbackPlan, RoutePlan, RulePlan, WeightedBackend,
};
use traflux_gateway::affinity::{AffinityPlan, AffinitySource};
use traflux_gateway::queue::TenantShare;
use traflux_gateway::{
    Client, Decision, End, Engine, EngineSettings, Feedback, FeedbackPlan, Forward, Later, Outcome,
    QueuePlan, Request, TokenEstimate, Usage, Waiting,
};

use crate::{coin, number, one};

const BACKENDS: [&str; 3] = ["a", "b", "c"];
const MODELS: [&str; 4] = ["", "m", "large", "other"];
const TENANTS: [&str; 4] = ["acme", "", "b/c", "é"];
const OUTCOMES: [Outcome; 9] = [
    Outcome::Success,
    Outcome::ClientError,
    Outcome::Limited,
    Outcome::ServerError,
    Outcome::ConnectFailure,
    Outcome::Timeout,
    Outcome::LocalTimeout,
    Outcome::Cancelled,
    Outcome::PoolFull,
];

/// Bytes from which plans, settings and operations are made.
pub fn check(data: &[u8]) {
    let first = run(&mut Unstructured::new(data));
    assert_eq!(first, run(&mut Unstructured::new(data)), "the same calls end otherwise");
}

/// Gives all that was decided, in order.
fn run(bytes: &mut Unstructured<'_>) -> Vec<String> {
    let (mut plan, settings) = (plan(bytes), settings(bytes));
    let mut now = Timestamp::new(Duration::from_millis(number(bytes, 1 << 41)));
    let mut log = Vec::new();
    let Ok(engine) = Engine::new(&plan, &settings, now) else { return log };
    let (mut forwards, mut waitings): (Vec<Forward>, Vec<Waiting>) = (Vec::new(), Vec::new());
    let mut laters: Vec<Later> = Vec::new();
    for _ in 0..200 {
        if bytes.is_empty() {
            break;
        }
        let decision = match number(bytes, 13) {
            0..=4 => Some(with_request(bytes, now, |request| engine.decide(request, now))),
            5 | 6 if !forwards.is_empty() => {
                let ix = number(bytes, forwards.len() as u64 - 1) as usize;
                let mut forward = forwards.swap_remove(ix);
                let usage = Usage {
                    input: one(bytes, &[1, 0, u64::MAX]),
                    cached: number(bytes, 3),
                    output: number(bytes, 99),
                };
                let headers: [(&[u8], &[u8]); 2] =
                    [(b"retry-after", b"3"), (b"x-ratelimit-remaining-requests", b"0")];
                let headers = &headers[..number(bytes, 2) as usize];
                let unix = now.since_epoch();
                let feedback = Feedback::read(headers.iter().copied(), unix, &FeedbackPlan::default());
                let end = End {
                    outcome: one(bytes, &OUTCOMES),
                    usage: coin(bytes).then_some(usage),
                    feedback: &feedback,
                };
                if coin(bytes) {
                    forward.first_byte(now);
                }
                match number(bytes, 2) {
                    0 => Some(forward.retry(now, &end)),
                    1 => {
                        forward.finish(now, &end);
                        None
                    }
                    _ => None,
                }
            }
            7 => {
                let ix = number(bytes, waitings.len() as u64) as usize;
                if ix < waitings.len() {
                    let waiting = waitings.swap_remove(ix);
                    let _ = waiting.outlook_now(now);
                }
                None
            }
            8 => {
                engine.upkeep(now);
                None
            }
            9 => engine.take_ready().map(|(ticket, decision)| {
                waitings.retain(|waiting| waiting.ticket() != ticket);
                decision
            }),
            10 => {
                let explained = with_request(bytes, now, |request| engine.explain(request, now));
                log.push(explained.to_string());
                None
            }
            11 if number(bytes, 3) == 0 => {
                let next = self::plan(bytes);
                if engine.reload(&next, &settings, now).is_ok() {
                    plan = next;
                }
                assert_eq!(*engine.plan(), plan, "the plan in force is not the last that was taken");
                None
            }
            _ => {
                now = now + Duration::from_micros(one(bytes, &[1, 1_000, 250_000, 70_000_000, 1 << 40]));
                laters.pop().map(|later| later.go_on(now))
            }
        };
        match decision {
            Some(Decision::Forward(forward)) => {
                log.push(format!(
                    "{} by {} to {} {}",
                    forward.attempt(),
                    forward.rule(),
                    forward.backend(),
                    forward.url()
                ));
                forwards.push(forward);
            }
            Some(Decision::Wait(waiting)) => {
                log.push("waits".to_owned());
                waitings.push(waiting);
            }
            Some(Decision::Later(later)) => {
                log.push(format!("{:?} later", later.after(now)));
                laters.push(later);
            }
            Some(Decision::Refuse(refusal)) => log.push(refusal.to_string()),
            None => {}
        }
    }
    for forward in forwards.drain(..) {
        forward.finish(now, &End::of(Outcome::Success));
    }
    drop(waitings);
    drop(laters);
    // Those that waited may have become ready by the room that was made.
    while let Some((_, decision)) = engine.take_ready() {
        drop(decision);
    }
    for model in MODELS {
        let request = Request { model, ..Request::default() };
        for one in engine.explain(&request, now).candidates {
            assert_eq!(one.in_flight.0, 0, "{one:?} is in flight when all has ended");
        }
    }
    log
}

fn with_request<T>(bytes: &mut Unstructured<'_>, now: Timestamp, each: impl FnOnce(&Request<'_>) -> T) -> T {
    let headers =
        [("cookie", one(bytes, &["s=1; t=2", "s=", ";;=", ""])), ("x-team", one(bytes, &["red", "", "b/c"]))];
    let request = Request {
        path: one(bytes, &["/v1/chat", "/", "/v1", "*", ""]),
        headers: &headers,
        client: Client {
            tenant: one(bytes, &TENANTS),
            key: one(bytes, &["", "k"]),
            user: one(bytes, &["ann", "", "c/d"]),
            user_tier: one(bytes, &["", "gold"]),
        },
        model: one(bytes, &MODELS),
        tokens: TokenEstimate {
            input: one(bytes, &[10, 0, 5_000, u64::MAX]),
            output: one(bytes, &[10, 0, 4_096, u64::MAX]),
        },
        stream: coin(bytes),
        kind: one(bytes, &["", "batch", "interactive"]),
        prompt: &[b'x'; 600][..one(bytes, &[0, 10, 600])],
        deadline: coin(bytes).then(|| now + Duration::from_millis(number(bytes, 5_000))),
        ..Request::default()
    };
    each(&request)
}

fn settings(bytes: &mut Unstructured<'_>) -> EngineSettings {
    EngineSettings { seed: number(bytes, 3), ..EngineSettings::default() }
}

fn affinity(bytes: &mut Unstructured<'_>) -> Option<AffinityPlan> {
    let keys = [
        AffinitySource::User,
        AffinitySource::Cookie("s".into()),
        AffinitySource::Header("x-team".into()),
        AffinitySource::PREFIX,
    ];
    coin(bytes).then(|| AffinityPlan { key: one(bytes, &keys), max_pins: 64, ..AffinityPlan::default() })
}

fn queue(bytes: &mut Unstructured<'_>) -> QueuePlan {
    let mut queue = QueuePlan { max_waiting: one(bytes, &[20, 0, 1]), ..QueuePlan::default() };
    for tenant in TENANTS {
        if coin(bytes) {
            continue;
        }
        let group = coin(bytes).then(|| "group".to_owned());
        queue.tenants.insert(tenant.to_owned(), TenantShare { weight: one(bytes, &[1, 7, 1 << 20]), group });
    }
    queue.groups.insert("group".to_owned(), TenantShare::default());
    queue.deadline_header = coin(bytes).then(|| "X-Team".to_owned());
    queue
}

fn route(bytes: &mut Unstructured<'_>) -> RoutePlan {
    let count = number(bytes, 2) as usize + 1;
    let backend = BACKENDS[..count].iter().map(|name| WeightedBackend {
        name: (*name).to_owned(),
        weight: one(bytes, &[None, Some(0), Some(5), Some(u32::MAX)]),
    });
    RoutePlan {
        backend: backend.collect(),
        weight: one(bytes, &[1, 100, u32::MAX]),
        algorithm: coin(bytes).then(|| one(bytes, &Algorithm::ALL)),
        balance: None,
        health_check: one(bytes, &[None, Some(true), Some(false)]),
        timeout: one(bytes, &[None, Some(Duration::ZERO), Some(Duration::from_secs(30))]),
        fallback: ["a", "b", "d"].into_iter().filter_map(|name| fallback(bytes, name)).collect(),
        band: coin(bytes).then(|| one(bytes, &["batch", "interactive"]).to_owned()),
        value: coin(bytes).then(|| one(bytes, &[0, 1, u32::MAX])),
    }
}

fn fallback(bytes: &mut Unstructured<'_>, name: &str) -> Option<FallbackPlan> {
    coin(bytes).then(|| FallbackPlan {
        backend: name.to_owned(),
        on: one(bytes, &[vec![], vec![FallbackCause::Failed], vec![FallbackCause::Capacity]]),
        budget: coin(bytes).then(|| FallbackBudget { max_in_flight: Some(1), ..FallbackBudget::default() }),
    })
}

fn some_match(bytes: &mut Unstructured<'_>) -> MatchPlan {
    let mut matches = MatchPlan::default();
    match number(bytes, 4) {
        0 => matches.tenant = vec![one(bytes, &TENANTS).to_owned()],
        1 => matches.model = vec![one(bytes, &["m", "l*", "*"]).to_owned()],
        2 => matches.stream = Some(coin(bytes)),
        _ => {}
    }
    matches
}

fn price(bytes: &mut Unstructured<'_>) -> PricePlan {
    let dollars = [0.0, 1.25, 1e6, 1e-9];
    PricePlan {
        input_dollars_per_million: one(bytes, &dollars),
        cached_dollars_per_million: coin(bytes).then(|| one(bytes, &dollars)),
        output_dollars_per_million: one(bytes, &dollars),
        request_dollars: one(bytes, &dollars),
    }
}

fn plan(bytes: &mut Unstructured<'_>) -> RequestPlan {
    let mut plan = RequestPlan::default();
    plan.routing.strategy = one(bytes, &Algorithm::ALL);
    plan.retry.max_attempts = one(bytes, &[3, 1, 100]);
    plan.affinity = affinity(bytes);
    plan.queue = queue(bytes);
    for ix in 0..number(bytes, 3) {
        let rule = RulePlan {
            name: format!("rule {ix}"),
            priority: one(bytes, &[0, 1, i32::MIN]),
            matches: some_match(bytes),
            route: route(bytes),
        };
        plan.routing.rules.push(rule);
    }
    plan.routing.default = (number(bytes, 3) > 0).then(|| route(bytes));
    for name in &BACKENDS[..number(bytes, 3) as usize] {
        let urls = (0..number(bytes, 2)).map(|ix| UpstreamEndpoint {
            url: format!("http://{name}{ix}"),
            weight: one(bytes, &[1, 0, u32::MAX]),
            tier: one(bytes, &[0, 1, u8::MAX]),
            region: None,
            draining: one(bytes, &[false, false, true]),
        });
        let url = urls.collect();
        let models: BTreeMap<String, ModelPlan> = (0..number(bytes, 2))
            .map(|_| {
                let price = coin(bytes).then(|| price(bytes));
                (
                    one(bytes, &MODELS).to_owned(),
                    ModelPlan { price, context_tokens: one(bytes, &[None, Some(0), Some(100)]) },
                )
            })
            .collect();
        plan.backends.insert(
            (*name).to_owned(),
            BackendPlan { url, price: price(bytes), models, ..BackendPlan::default() },
        );
    }
    for ix in 0..number(bytes, 3) {
        let scopes = [
            LimitScope::Tenant,
            LimitScope::Key,
            LimitScope::User,
            LimitScope::UserTier,
            LimitScope::Model,
            LimitScope::Backend,
            LimitScope::Header("x-team".into()),
        ];
        let shapes = [
            LimitShape::TokenBucket,
            LimitShape::FixedWindow,
            LimitShape::SlidingWindow,
            LimitShape::Pacing,
            LimitShape::WarmUp(WarmUpPlan::default()),
            LimitShape::Calendar(CalendarPlan { every: CalendarWindow::Week, utc_offset_minutes: 840 }),
            LimitShape::Calendar(CalendarPlan { every: CalendarWindow::Month, utc_offset_minutes: -720 }),
        ];
        let units = [
            LimitUnit::Requests,
            LimitUnit::InputTokens,
            LimitUnit::OutputTokens,
            LimitUnit::Tokens,
            LimitUnit::Dollars,
            LimitUnit::Concurrency,
        ];
        let amounts = [2.0, 1.0, 0.5, 100.0, 1e15, 1e-12];
        let keys = ["acme", "b/c", "acme/m", "", "a"];
        plan.limits.push(LimitPlan {
            name: one(bytes, &["l", "k", "l of acme", "m"]).to_owned() + if ix > 1 { "2" } else { "" },
            unit: one(bytes, &units),
            amount: one(bytes, &amounts),
            period: Duration::from_millis(one(bytes, &[1_000, 1, 60_000, 3_153_600_000_000])),
            offset: one(bytes, &[None, Some(Duration::ZERO), Some(Duration::from_millis(999))]),
            burst: coin(bytes).then(|| one(bytes, &amounts)),
            shape: one(bytes, &shapes),
            by: (0..number(bytes, 3)).map(|_| one(bytes, &scopes)).collect(),
            matches: some_match(bytes),
            overrides: (0..number(bytes, 2))
                .map(|_| (one(bytes, &keys).to_owned(), one(bytes, &amounts)))
                .collect(),
            max_wait: one(bytes, &[None, Some(Duration::ZERO), Some(Duration::from_secs(3))]),
            max_keys: one(bytes, &[None, Some(1), Some(3)]),
            persistent: coin(bytes),
        });
        // Else most plans would be refused for keys that another shape has.
        for limit in &mut plan.limits {
            let counts_in_flight = limit.unit == LimitUnit::Concurrency;
            limit.burst = limit.burst.filter(|_| limit.has_burst());
            limit.max_keys = limit.max_keys.filter(|_| !limit.by.is_empty());
            let is_fixed = limit.shape == LimitShape::FixedWindow && !counts_in_flight;
            limit.offset = limit.offset.filter(|offset| is_fixed && *offset < limit.period);
            match limit.shape {
                LimitShape::Calendar(_) if counts_in_flight => limit.shape = LimitShape::TokenBucket,
                LimitShape::Calendar(_) => limit.period = Duration::from_secs(60),
                _ => {}
            }
        }
    }
    plan
}
