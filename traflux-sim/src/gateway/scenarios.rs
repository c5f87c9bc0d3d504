//! Which scenarios are measured?
//!
//! This list was written before anything was measured, so that nobody chose what flatters. All are played with one
//! configuration: [`EngineSettings::default()`](traflux_gateway::EngineSettings) and a plan that says nothing but where
//! to send, with the default affinity where there are conversations.
//!
//! Goals:
//! - balancing: p99 of the time to first token and of the whole time at most 1.05 of the best peer's, each
//!   unanswered request counting as a minute; one peer is best for a scenario and metric by all seeds together;
//! - overload: goodput (work of answers that came in time, over capacity) at twice the capacity ≥ 90 %; Jain's index
//!   over equal tenants that all ask for more than their share ≥ 0.98; every band ≥ its minimum share; no fewer
//!   deadlines met than by one first-come-first-served queue before the same backends, nor than without any queue.

use super::scenario::{Fault, Load, Loads, RateLimit, Scenario, Server, Tenant, Trouble};
use crate::distribution::ServiceTime;

/// All of them.
#[must_use]
pub fn scenarios() -> Vec<Scenario> {
    vec![
        even(),
        unequal(),
        heavy_tail(),
        bursts(),
        slow_backend(),
        flapping(),
        failing_fast(),
        rate_limited(),
        conversations(),
        hot_conversations(),
        ramp(),
        hundred(),
        deadlines(),
        tenants(),
        bands(),
        flash(),
    ]
}

fn base(name: &'static str, reason: &'static str, servers: Vec<Server>, load: f64) -> Scenario {
    Scenario {
        name,
        reason,
        servers,
        tenants: vec![Tenant::chat("all", 1.0)],
        loads: Loads::Balance(load),
        shape: Load::Steady,
        seconds: 240.0,
        warm_up: 30.0,
        seeds: vec![1, 2, 3, 4, 5],
    }
}

fn alike(count: usize) -> Vec<Server> {
    vec![Server::new(8, 1.0); count]
}

/// Slow, usual and fast in turn.
fn mixed(count: usize) -> Vec<Server> {
    (0..count).map(|ix| Server::new(8, [0.5, 1.0, 2.0][ix % 3])).collect()
}

fn even() -> Scenario {
    base(
        "even",
        "nothing to learn: an algorithm that learns must not lose to one that counts",
        alike(16),
        0.7,
    )
}

fn unequal() -> Scenario {
    base("unequal", "hardware of three speeds, known to nobody", mixed(24), 0.7)
}

fn heavy_tail() -> Scenario {
    let heavy = ServiceTime::BoundedPareto { alpha: 1.3, ratio: 300.0 };
    let tenant = Tenant { output: (100.0, heavy), max_output: 8_000.0, ..Tenant::chat("all", 1.0) };
    Scenario {
        tenants: vec![tenant],
        ..base(
            "heavy-tail",
            "a few answers are a hundred times as long: latency of one says little",
            alike(16),
            0.6,
        )
    }
}

fn bursts() -> Scenario {
    Scenario {
        shape: Load::Bursts { factor: 3.0, on: 4.0, off: 16.0 },
        ..base("bursts", "all clients at once, beyond capacity for seconds", mixed(24), 0.6)
    }
}

fn slow_backend() -> Scenario {
    let mut servers = alike(12);
    servers[5].faults.push(Fault { from: 90.0, until: 170.0, trouble: Trouble::Slow(8.0) });
    base("slow-backend", "one becomes eight times as slow and does not fail", servers, 0.6)
}

fn flapping() -> Scenario {
    let mut servers = alike(12);
    for start in 0..8 {
        let from = f64::from(start) * 30.0 + 15.0;
        servers[3].faults.push(Fault { from, until: from + 8.0, trouble: Trouble::Down });
    }
    base("flapping", "one is gone for 8 s of every 30, and all that runs there is lost", servers, 0.6)
}

fn failing_fast() -> Scenario {
    let mut servers = alike(12);
    servers[7].faults.push(Fault { from: 60.0, until: 240.0, trouble: Trouble::Errors(0.6) });
    base("failing-fast", "one answers most requests by an error, faster than any answer: bait", servers, 0.6)
}

fn rate_limited() -> Scenario {
    let mut servers = mixed(12);
    for server in &mut servers[9..] {
        server.rate_limit = Some(RateLimit { per_second: 1.5, burst: 5.0 });
    }
    base("rate-limited", "three hosted backends answer 429 far below what they could do", servers, 0.45)
}

fn conversations() -> Scenario {
    let servers = alike(16).into_iter().map(|server| Server { cached_sessions: 64, ..server }).collect();
    let tenant = Tenant {
        prompt: (2_000.0, ServiceTime::Lognormal { cv: 0.5 }),
        sessions: Some((640, 0.0)),
        ..Tenant::chat("all", 1.0)
    };
    Scenario {
        tenants: vec![tenant],
        ..base(
            "conversations",
            "a prompt is read four fifths faster where its beginning was read before",
            servers,
            0.7,
        )
    }
}

fn hot_conversations() -> Scenario {
    let mut scenario = conversations();
    scenario.name = "hot-conversations";
    scenario.reason = "the same, some conversations far busier than others: affinity must yield to load";
    scenario.tenants[0].sessions = Some((640, 1.1));
    scenario
}

fn ramp() -> Scenario {
    Scenario {
        shape: Load::Ramp { period: 120.0, amplitude: 0.5 },
        ..base("ramp", "load between 30 and 90 % of capacity, as over a day", mixed(30), 0.6)
    }
}

fn hundred() -> Scenario {
    base("hundred", "more backends than can be compared for each request", mixed(100), 0.7)
}

fn overload(name: &'static str, reason: &'static str, loads: &[f64]) -> Scenario {
    Scenario { loads: Loads::Overload(loads.to_vec()), ..base(name, reason, alike(8), 1.0) }
}

fn deadlines() -> Scenario {
    let tenant = Tenant { deadline: Some((3.0, 15.0)), ..Tenant::chat("all", 1.0) };
    Scenario {
        tenants: vec![tenant],
        ..overload(
            "deadlines",
            "as much as and more than can be done, due at different times",
            &[0.8, 1.0, 1.5, 2.0],
        )
    }
}

fn tenants() -> Scenario {
    // With twice the capacity offered, the least of eight asks for 1.2 times its share.
    let shares = [0.6, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4, 1.7];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let one = |name, share| Tenant { deadline: Some((3.0, 15.0)), ..Tenant::chat(name, share / 8.0) };
    Scenario {
        tenants: names.into_iter().zip(shares).map(|(name, share)| one(name, share)).collect(),
        ..overload(
            "tenants",
            "eight tenants of equal standing, the greediest asking for almost thrice the least",
            &[2.0],
        )
    }
}

fn bands() -> Scenario {
    let one = |kind: &'static str, share: f64, deadline: f64| Tenant {
        kind,
        deadline: Some((0.5 * deadline, deadline)),
        ..Tenant::chat(kind, share)
    };
    Scenario {
        tenants: vec![one("interactive", 0.6, 10.0), one("standard", 0.25, 60.0), one("batch", 0.15, 240.0)],
        ..overload(
            "bands",
            "the best band alone asks for more than there is: the others keep their share",
            &[2.0],
        )
    }
}

fn flash() -> Scenario {
    let tenant =
        Tenant { deadline: Some((8.0, 15.0)), patience: Some(10.0), repeats: 3, ..Tenant::chat("all", 1.0) };
    Scenario {
        tenants: vec![tenant],
        shape: Load::Flash { before: 0.35, from: 60.0, until: 100.0 },
        ..overload(
            "flash",
            "40 s at twice the capacity, clients that give up and come again: does it recover?",
            &[2.0],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_and_shares_of_its_own() {
        let mut names = std::collections::BTreeSet::new();
        for scenario in scenarios() {
            assert!(names.insert(scenario.name), "{}", scenario.name);
            let shares: f64 = scenario.tenants.iter().map(|tenant| tenant.share).sum();
            assert!((shares - 1.0).abs() < 1e-9, "{}: {shares}", scenario.name);
            assert!(scenario.warm_up < scenario.seconds && !scenario.seeds.is_empty());
        }
    }

    #[test]
    fn the_mean_work_of_a_chat_is_what_its_means_give_less_what_is_cut_off() {
        let work = Tenant::chat("x", 1.0).mean_work();
        // 0.05 + 500 · 0.0003 + 100 · 0.01 = 1.2, and answers end at 400 tokens.
        assert!(work > 1.15 && work < 1.2, "{work}");
    }
}
