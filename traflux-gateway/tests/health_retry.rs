//! Bounds of health and retries under any sequence of events.

#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::Rng;
use traflux_gateway::congestion::{
    Ceiling, CoolDown, CoolDownPlan, Quota, Refill, Resource, Throttle, ThrottlePlan, Verdict, Wait,
};
use traflux_gateway::health::{Entry, HealthGroup, HealthPlan, Outcome, OutlierPlan, ProbeResult, Reason};
use traflux_gateway::retry::{
    Attempt, BudgetPlan, Idempotence, Progress, RetryBudget, RetryDecision, RetryPlan, StopReason, decide,
};

fn at(milliseconds: u64) -> Timestamp {
    Timestamp::new(Duration::from_millis(milliseconds))
}

const OUTCOMES: [Outcome; 11] = [
    Outcome::Success,
    Outcome::ClientError,
    Outcome::Limited,
    Outcome::ServerError,
    Outcome::GatewayError,
    Outcome::ConnectFailure,
    Outcome::Reset,
    Outcome::Timeout,
    Outcome::LocalTimeout,
    Outcome::Cancelled,
    Outcome::PoolFull,
];

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(200))]

    #[test]
    fn no_more_endpoints_are_away_than_may_be(
        endpoints in 1usize..9,
        share in 0.0f64..=1.0,
        steps in prop::collection::vec((any::<u16>(), 0u64..3_000), 1..600),
    ) {
        let outlier = OutlierPlan {
            max_ejected_share: share,
            success_rate_min_requests: 5,
            success_rate_min_endpoints: 2,
            failure_min_requests: 5,
            ..OutlierPlan::default()
        };
        let group = HealthGroup::new(&HealthPlan { outlier, panic_threshold: 0.0, ..HealthPlan::default() }, endpoints);
        let most = outlier.max_ejected(endpoints);
        prop_assert!(most as f64 <= share * endpoints as f64 + 1e-6);
        let mut open = Vec::new();
        let mut time = 0u64;
        for (choice, step) in steps {
            time = if choice % 13 == 0 { time.saturating_sub(step / 3) } else { time + step };
            let endpoint = usize::from(choice / 16) % endpoints;
            // Failures come in bursts, so that ejections happen.
            for burst in 0..usize::from(choice % 7) {
                if let Some(entry) = group.try_enter(at(time), endpoint) {
                    open.push((endpoint, entry));
                }
                if open.len() > 3 {
                    let (endpoint, entry) = open.remove(usize::from(choice) % open.len());
                    let outcome = if choice % 3 == 0 { OUTCOMES[(usize::from(choice) + burst) % 10] } else { Outcome::Timeout };
                    group.record(at(time), endpoint, entry, outcome);
                }
            }
            prop_assert!(group.ejected(at(time)) <= most);
            for endpoint in 0..endpoints {
                let eligibility = group.eligibility(at(time), endpoint);
                prop_assert!((0.0..=1.0).contains(&eligibility.share));
                prop_assert_eq!(eligibility.eligible, eligibility.share > 0.0);
                prop_assert!(eligibility.eligible || most > 0);
            }
        }
    }

    #[test]
    fn an_ejected_endpoint_returns_once_it_is_well(
        steps in prop::collection::vec((0usize..3, 0usize..10, 0u64..5_000), 0..300),
    ) {
        let group = HealthGroup::new(&HealthPlan::default(), 3);
        let mut time = 0;
        for (endpoint, outcome, step) in steps {
            time += step;
            if let Some(entry) = group.try_enter(at(time), endpoint) {
                group.record(at(time), endpoint, entry, OUTCOMES[outcome]);
            }
        }
        // The longest ejection is 300 s, a lost trial is given up after 60 s, the ramp takes 15 s.
        for _ in 0..500 {
            time += 1_000;
            for endpoint in 0..3 {
                if let Some(entry) = group.try_enter(at(time), endpoint) {
                    group.record(at(time), endpoint, entry, Outcome::Success);
                }
                group.on_probe(at(time), endpoint, true, ProbeResult::Passed);
            }
        }
        for endpoint in 0..3 {
            prop_assert_eq!(group.eligibility(at(time), endpoint).reason, Reason::Healthy);
        }
    }

    #[test]
    fn retries_never_exceed_the_budget(
        ratio in 0.0f64..1.0,
        rate in 0.0f64..3.0,
        steps in prop::collection::vec((0u8..4, 0u64..400), 1..800),
    ) {
        let settings = BudgetPlan { ratio, min_per_second: rate, min_concurrency: 1_000, ..BudgetPlan::default() };
        let budget = RetryBudget::new(settings);
        let (mut requests, mut retries) = (VecDeque::new(), VecDeque::new());
        let mut time = 100_000u64;
        for (choice, step) in steps {
            time += step;
            if choice == 0 {
                budget.request(at(time));
                requests.push_back(time);
                continue;
            }
            let Some(ticket) = budget.try_retry(at(time), 0) else { continue };
            budget.finish(ticket);
            retries.push_back(time);
            // Buckets of 1 s: the window holds the last 9 s in full, and nothing older than 10 s.
            while requests.front().is_some_and(|t| t + 10_000 < time) {
                requests.pop_front();
            }
            while retries.front().is_some_and(|t| t + 9_000 <= time) {
                retries.pop_front();
            }
            let allowed = ratio * requests.len() as f64 + rate * 10.0;
            prop_assert!(retries.len() as f64 <= allowed + 1e-6, "{} > {allowed}", retries.len());
        }
        prop_assert_eq!(budget.in_flight(), 0);
    }

    #[test]
    fn nothing_is_retried_after_the_first_streamed_byte_and_waits_are_bounded(
        number in 0u32..200,
        outcome in 0usize..10,
        progress in 0usize..3,
        stated in prop::option::of(0u64..5_000),
        should_retry in prop::option::of(any::<bool>()),
        left in prop::option::of(0u64..5_000),
        flags in 0u8..4,
        draw in any::<u64>(),
    ) {
        let causes = OUTCOMES.into_iter().filter(|o| o.is_failure()).filter_map(Outcome::retry_cause);
        let plan = RetryPlan { retry_on: causes.collect(), ..RetryPlan::default() };
        let attempt = Attempt {
            number,
            outcome: OUTCOMES[outcome],
            progress: [Progress::Unsent, Progress::Sent, Progress::Streaming][progress],
            idempotence: if flags & 1 == 0 { Idempotence::Idempotent } else { Idempotence::NonIdempotent },
            retry_after: stated.map(Duration::from_millis),
            should_retry,
            time_left: left.map(Duration::from_millis),
            elsewhere: flags & 2 == 0,
        };
        match decide(&plan, &attempt, draw) {
            RetryDecision::Stop(reason) => {
                prop_assert_eq!(reason == StopReason::Streaming, attempt.progress == Progress::Streaming);
            }
            RetryDecision::Retry { after, elsewhere } => {
                prop_assert!(attempt.progress < Progress::Streaming && number < plan.max_attempts);
                prop_assert!(attempt.outcome.is_failure());
                prop_assert!(attempt.time_left.is_none_or(|left| after < left));
                prop_assert!(after <= plan.max + plan.patience);
                if !elsewhere {
                    prop_assert!(attempt.retry_after.is_none_or(|stated| after >= stated));
                }
            }
        }
    }

    #[test]
    fn the_throttle_follows_its_formula(
        counts in prop::collection::vec((0u32..200, 0u32..200), 4),
        k in 1.0f64..5.0,
    ) {
        let settings = ThrottlePlan { tolerance: vec![k], min_requests: 0, max_probability: 1.0, ..ThrottlePlan::default() };
        let throttle = Throttle::new(&settings);
        let (mut requests, mut accepts) = (0.0, 0.0);
        for (band, (sent, accepted)) in counts.into_iter().enumerate() {
            for _ in 0..sent {
                let _ = throttle.decide(at(1), band, u64::MAX);
            }
            (0..accepted).for_each(|_| throttle.accepted(at(1), band));
            requests += f64::from(sent);
            accepts += f64::from(accepted);
            let p = ((requests - k * accepts) / (requests + 1.0)).max(0.0);
            prop_assert!((throttle.probability(at(1), band) - p).abs() < 1e-12);
        }
    }

    #[test]
    fn a_cool_down_is_never_shorter_than_stated(waits in prop::collection::vec((0u64..5_000, 0u64..10_000, any::<u64>()), 1..50)) {
        let cool_down = CoolDown::new(&CoolDownPlan::default());
        let (mut time, mut free) = (0, 0);
        for (step, wait, draw) in waits {
            time += step;
            let stated = Duration::from_millis(wait);
            cool_down.refused(at(time), Some(Wait { wait: stated, stated }), draw);
            free = free.max(time + wait);
            if free > time {
                prop_assert_eq!(cool_down.share(at(free - 1)), 0.0);
            }
            prop_assert!(cool_down.share(at(free + free / 10 + 6_000)) == 1.0);
        }
    }
}

#[test]
fn a_learned_ceiling_uses_a_providers_quota_and_is_hardly_ever_refused() {
    // A provider of 100 requests per second in fixed windows, counted on arrival; 300 wanted per second; answers
    // take 20 to 80 ms and overtake each other.
    let ceiling = Ceiling::default();
    let mut rng = Rng::new(3);
    let mut answers = Vec::new();
    let (mut window, mut left) = (0, 100u64);
    let (mut served, mut refused) = (0u32, 0u32);
    for time in 0..60_000u64 {
        if time / 1000 != window {
            (window, left) = (time / 1000, 100);
        }
        answers.sort_by_key(|(due, _, _)| std::cmp::Reverse(*due));
        while answers.last().is_some_and(|(due, _, _)| *due <= time) {
            let (_, mark, quota) = answers.pop().unwrap();
            ceiling.learn(at(time), mark, &quota);
        }
        if rng.uniform() < 0.3
            && let Ok(mark) = ceiling.take(at(time), 1)
        {
            if left > 0 {
                left -= 1;
                served += 1;
            } else {
                refused += 1;
            }
            let reset = Duration::from_millis(1000 - time % 1000);
            let quota = Quota {
                resource: Resource::Requests,
                limit: Some(100),
                remaining: Some(left),
                reset: Some(reset),
                window: None,
                refill: Refill::AtReset,
            };
            answers.push((time + 20 + rng.below(60) as u64, mark, quota));
        }
    }
    eprintln!("served {served} of 6000, refused {refused}");
    assert!(served > 5_700, "{served}");
    assert!(f64::from(refused) < 0.02 * f64::from(served), "{refused}");
}

#[test]
fn a_throttled_client_stops_hammering_a_dead_backend_and_finds_it_again() {
    let throttle = Throttle::new(&ThrottlePlan::default());
    let mut rng = Rng::new(1);
    let mut sent = [0u32; 3];
    for second in 0..900u64 {
        let alive = second >= 300;
        for step in 0..100 {
            let now = at(second * 1000 + step * 10);
            if throttle.decide(now, 1, rng.next_u64()) == Verdict::Send {
                sent[(second / 300) as usize] += 1;
                if alive {
                    throttle.accepted(now, 1);
                }
            }
        }
    }
    eprintln!("sent of 30000 each: {sent:?}");
    // 5 % and the first 20; then back within a window or so; then all.
    assert!(sent[0] < 1_700 && sent[2] == 30_000, "{sent:?}");
}

#[test]
fn a_group_is_used_from_many_threads_and_keeps_its_bound() {
    let group = HealthGroup::new(&HealthPlan::default(), 8);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let group = &group;
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for step in 0..30_000u64 {
                    let (now, endpoint) = (at(step), rng.below(8));
                    let Some(entry) = group.try_enter(now, endpoint) else { continue };
                    assert!(matches!(entry, Entry::Normal | Entry::Trial(_)));
                    let outcome = if rng.below(2) == 0 { Outcome::Timeout } else { Outcome::Success };
                    group.record(now, endpoint, entry, outcome);
                    if step % 64 == 0 {
                        assert!(group.ejected(now) <= 4);
                    }
                }
            });
        }
    });
}
