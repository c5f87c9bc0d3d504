//! Sessions over pools.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use proptest::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::Rng;
use traflux_gateway::affinity::{AffinityKey, AffinityPlan, AffinitySource, Session, Stay, prefix_chain};
use traflux_gateway::balance::{
    Algorithm, Answer, BalanceSettings, EndpointTable, LatencyPlan, Member, Outcome, PickRequest, Pool,
};

fn at(seconds: f64) -> Timestamp {
    Timestamp::from_secs_f64(seconds)
}

fn pool(settings: BalanceSettings, weights: &[u32]) -> Pool {
    let table = EndpointTable::new(&LatencyPlan::default());
    let member = |(ix, weight): (usize, &u32)| {
        Member::new(table.endpoint(&format!("backend-{ix}"), Timestamp::ZERO), *weight)
    };
    Pool::new(settings, weights.iter().enumerate().map(member).collect::<Vec<_>>(), 7).unwrap()
}

fn maglev(n: usize) -> Pool {
    pool(BalanceSettings::of(Algorithm::ConsistentHash), &vec![1; n])
}

fn keyed(key: u64, draw: u64) -> PickRequest<'static> {
    PickRequest { key: Some(AffinityKey::of(&key.to_le_bytes())), ..PickRequest::new(at(1.0), draw) }
}

fn done() -> Answer {
    Answer::plain(Outcome::Success, Duration::from_millis(20), 0)
}

#[test]
fn a_key_goes_to_one_endpoint_whatever_the_draw() {
    let pool = maglev(20);
    for key in 0..200 {
        let home = pool.pick(&keyed(key, 0)).unwrap();
        assert!((1..20).all(|draw| pool.pick(&keyed(key, draw)) == Some(home)));
    }
}

#[test]
fn keys_of_a_closed_endpoint_spread_and_all_others_stay() {
    let pool = maglev(10);
    let homes: Vec<usize> = (0..5000).map(|key| pool.pick(&keyed(key, 0)).unwrap()).collect();
    pool.set_eligible(4, false, at(1.0));
    let mut taken = [0; 10];
    for (key, home) in homes.iter().enumerate() {
        let now = pool.pick(&keyed(key as u64, 0)).unwrap();
        if *home == 4 { taken[now] += 1 } else { assert_eq!(now, *home) }
    }
    let moved: usize = taken.iter().sum();
    // Nine take an equal part each; four and a half standard deviations.
    let sigma = (moved as f64 / 9.0 * (8.0 / 9.0)).sqrt();
    for (ix, taken) in taken.iter().enumerate().filter(|(ix, _)| *ix != 4) {
        assert!((*taken as f64 - moved as f64 / 9.0).abs() < 4.5 * sigma, "{ix}: {taken} of {moved}");
    }
    pool.set_eligible(4, true, at(2.0));
    assert!(homes.iter().enumerate().all(|(key, home)| pool.pick(&keyed(key as u64, 0)) == Some(*home)));
}

#[test]
fn one_hot_key_is_spread_within_the_bound() {
    let pool = maglev(10);
    for started in 0..1000 {
        let position = pool.pick(&keyed(7, started)).unwrap();
        pool.start(position, 0);
        let bound = (2.0 * (started as f64 + 1.0) / 10.0).ceil();
        assert!(f64::from(pool.endpoint(position).unwrap().in_flight()) <= bound);
    }
}

#[test]
fn a_session_stays_until_its_endpoint_closes_and_does_not_flap_back() {
    let pool = pool(BalanceSettings::of(Algorithm::LeastLatency), &[1; 5]);
    let session = Session::new(&AffinityPlan::default()).unwrap();
    let key = AffinityKey::of(b"user").scoped(AffinityKey::of(b"tenant"));
    let request = |seconds, draw| PickRequest::new(at(seconds), draw);
    let first = session.pick(&pool, &request(1.0, 1), key).unwrap();
    assert_eq!(first.stay, Stay::New);
    for draw in 0..50 {
        let again = session.pick(&pool, &request(2.0, draw), key).unwrap();
        assert_eq!((again.position, again.stay), (first.position, Stay::Kept));
    }
    pool.set_eligible(first.position, false, at(3.0));
    let moved = session.pick(&pool, &request(3.0, 9), key).unwrap();
    assert_ne!(moved.position, first.position);
    let from = pool.endpoint(first.position).unwrap().id();
    assert_eq!(moved.stay, Stay::Moved { from });
    pool.set_eligible(first.position, true, at(4.0));
    let after = session.pick(&pool, &request(4.0, 10), key).unwrap();
    assert_eq!((after.position, after.stay), (moved.position, Stay::Kept));
    let late = session.pick(&pool, &request(700.0, 10), key).unwrap();
    assert_eq!(late.stay, Stay::New, "the time to live is over");
    session.end(key);
    assert_eq!(session.pick(&pool, &request(700.0, 11), key).unwrap().stay, Stay::New);
}

#[test]
fn a_new_session_begins_with_nobody_who_has_more_than_the_mean() {
    let pool = pool(BalanceSettings::of(Algorithm::LeastLatency), &[1; 4]);
    for (position, millis) in [(0, 100), (1, 350), (2, 350), (3, 5000)] {
        let answer = Answer::plain(Outcome::Success, Duration::from_millis(millis), 0);
        (0..20).for_each(|_| pool.observe(at(1.0), position, &answer));
    }
    let session = Session::new(&AffinityPlan::default()).unwrap();
    let begin = |user: u64| {
        let key = AffinityKey::of(&user.to_le_bytes());
        session.pick(&pool, &PickRequest::new(at(1.0), user), key).unwrap().position
    };
    assert_eq!(begin(1), 0, "nobody has anything");
    // 100 ms for each of three at the first, 350 ms for one at the next: less than four times as much, unlike 5 s.
    (0..2).for_each(|_| _ = pool.start(0, 0));
    assert_eq!(pool.pick(&PickRequest::new(at(1.0), 2)), Some(0), "fast enough for one request");
    assert!((2..20).all(|user| matches!(begin(user), 1 | 2)), "2 in flight, the mean is a half");
    (1..3).for_each(|position| (0..2).for_each(|_| _ = pool.start(position, 0)));
    assert_eq!(begin(20), 0, "who has less is slow");
    (0..2).for_each(|_| _ = pool.start(3, 0));
    assert_eq!(begin(21), 0, "all have the mean");
}

#[test]
fn a_retry_moves_the_session_and_a_drain_does_too() {
    let pool = pool(BalanceSettings::default(), &[1; 3]);
    let session = Session::new(&AffinityPlan::default()).unwrap();
    let key = AffinityKey::of(b"user");
    let first = session.pick(&pool, &PickRequest::new(at(1.0), 1), key).unwrap().position;
    let excluded = [first as u32];
    let retry = PickRequest { excluded: &excluded, ..PickRequest::new(at(1.0), 2) };
    let second = session.pick(&pool, &retry, key).unwrap();
    assert!(matches!(second.stay, Stay::Moved { .. }) && second.position != first);
    pool.set_draining(second.position, true);
    let third = session.pick(&pool, &PickRequest::new(at(1.0), 3), key).unwrap();
    assert!(matches!(third.stay, Stay::Moved { .. }) && third.position != second.position);
}

#[test]
fn an_overloaded_home_lets_requests_go_but_keeps_the_session() {
    let mut settings = BalanceSettings::of(Algorithm::LeastConnections);
    settings.load_factor = 1.25;
    let pool = pool(settings, &[1; 4]);
    let session = Session::new(&AffinityPlan::default()).unwrap();
    let key = AffinityKey::of(b"hot user");
    let home = session.pick(&pool, &PickRequest::new(at(1.0), 1), key).unwrap().position;
    let mut elsewhere = 0;
    for draw in 0..100 {
        let placement = session.pick(&pool, &PickRequest::new(at(1.0), draw), key).unwrap();
        match placement.stay {
            Stay::Kept => assert_eq!(placement.position, home),
            Stay::Overflowed => elsewhere += 1,
            other => panic!("{other:?}"),
        }
        pool.start(placement.position, 0);
    }
    // ⌈1.25 · 100 / 4⌉ = 32 stay at most.
    let held = pool.endpoint(home).unwrap().in_flight();
    assert!((25..=32).contains(&held), "{held}");
    assert_eq!(elsewhere, 100 - held);
    for position in 0..4 {
        while pool.endpoint(position).unwrap().in_flight() > 0 {
            pool.finish(at(2.0), position, &done());
        }
    }
    let after = session.pick(&pool, &PickRequest::new(at(2.0), 5), key).unwrap();
    assert_eq!((after.position, after.stay), (home, Stay::Kept));
}

#[test]
fn a_conversation_that_grows_stays_and_a_branch_of_it_too() {
    let settings = AffinityPlan { key: AffinitySource::PREFIX, ..AffinityPlan::default() };
    let session = Session::new(&settings).unwrap();
    let pool = pool(BalanceSettings::of(Algorithm::RoundRobin), &[1; 8]);
    let pick = |prompt: &[u8]| {
        let mut chain = [AffinityKey(0); 32];
        let blocks = prefix_chain(prompt, 64, 32, &mut chain);
        let placement = session.pick_prefix(&pool, &PickRequest::new(at(1.0), 1), &chain[..blocks]).unwrap();
        (placement.position, placement.stay, placement.matched, blocks)
    };
    let mut talk = b"you are a helpful assistant".repeat(10);
    let (home, stay, matched, blocks) = pick(&talk);
    assert_eq!((stay, matched, blocks), (Stay::New, 0, 4));
    talk.extend(b"tell me more about that please".repeat(10));
    assert_eq!(pick(&talk), (home, Stay::Kept, 4, 8));
    let mut branch = talk[..512].to_vec();
    talk.extend(b"and now something else".repeat(10));
    assert_eq!(pick(&talk), (home, Stay::Kept, 8, 12));
    branch.extend(b"on the other hand".repeat(10));
    assert_eq!(pick(&branch), (home, Stay::Kept, 8, 10));
    let (other, stay, ..) = pick(&b"another system prompt".repeat(20));
    assert_eq!((stay, other != home), (Stay::New, true));
}

#[test]
fn threads_agree_on_where_a_session_is() {
    let pool = maglev(8);
    let session = Session::new(&AffinityPlan::default()).unwrap();
    let places: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4)
            .map(|seed| {
                let (pool, session) = (&pool, &session);
                scope.spawn(move || {
                    let mut rng = Rng::new(seed);
                    let place = |user: u64| {
                        let key = AffinityKey::of(&user.to_le_bytes());
                        session.pick(pool, &PickRequest::new(at(1.0), rng.next_u64()), key).unwrap().position
                    };
                    (0..500).map(place).collect::<Vec<_>>()
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert!(places.iter().all(|place| *place == places[0]));
}

#[test]
fn settings_name_their_key() {
    let settings: AffinityPlan =
        serde_json::from_str(r#"{"key": {"header": "x-session"}, "ttl_ms": 5000}"#).unwrap();
    assert_eq!(settings.key, AffinitySource::Header("x-session".into()));
    assert_eq!(settings.ttl, Duration::from_secs(5));
    let prefix: AffinityPlan =
        serde_json::from_str(r#"{"key": {"prefix": {"block_bytes": 512, "blocks": 0}}}"#).unwrap();
    assert_eq!(prefix.validate().unwrap_err().code(), "plan_key");
    assert!(AffinityPlan { ttl: Duration::from_secs(1 << 30), ..settings }.validate().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_ever_over_the_bound_when_picked(
        weights in prop::collection::vec(1u32..9, 1..20),
        steps in prop::collection::vec((0u64..6, any::<bool>()), 1..300),
        factor in 1.05f64..3.0,
    ) {
        let mut settings = BalanceSettings::of(Algorithm::ConsistentHash);
        (settings.load_factor, settings.table_slots) = (factor, 2003);
        let pool = pool(settings, &weights);
        let total_weight: u32 = weights.iter().sum();
        let mut open = Vec::new();
        for (draw, (key, finish)) in steps.into_iter().enumerate() {
            if finish && !open.is_empty() {
                pool.finish(at(1.0), open.remove(0), &done());
                continue;
            }
            let position = pool.pick(&keyed(key, draw as u64)).unwrap();
            pool.start(position, 0);
            open.push(position);
            let share = f64::from(weights[position]) / f64::from(total_weight);
            let bound = (factor * open.len() as f64 * share).ceil();
            prop_assert!(f64::from(pool.endpoint(position).unwrap().in_flight()) <= bound);
        }
    }
}
