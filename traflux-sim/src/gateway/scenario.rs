//! What does a scenario of requests say?
//!
//! Work is counted in slot-seconds at speed 1: `base + prompt · per prompt token + output · per output token`. The
//! *capacity* of a scenario is what all its slots do in a second while nothing fails and no cache helps; loads are
//! multiples of it.

use crate::distribution::ServiceTime;

/// Work of a request before its first token, whatever its prompt, in slot-seconds.
pub const BASE_SECONDS: f64 = 0.05;
/// Work of a token of the prompt, in slot-seconds.
pub const PROMPT_TOKEN_SECONDS: f64 = 0.0003;
/// Work of a token of the answer, in slot-seconds.
pub const OUTPUT_TOKEN_SECONDS: f64 = 0.01;
/// Time on the way to a backend and back, in seconds.
pub const ROUND_TRIP_SECONDS: f64 = 0.002;

/// Backends, requests and what goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Why it is on the list.
    pub reason: &'static str,
    /// Backends.
    pub servers: Vec<Server>,
    /// Who asks for what; what they offer is shares of one load.
    pub tenants: Vec<Tenant>,
    /// Loads that are run, as multiples of capacity.
    pub loads: Loads,
    /// How the load changes with time.
    pub shape: Load,
    /// How long it lasts, in seconds.
    pub seconds: f64,
    /// What is not counted at its beginning, in seconds.
    pub warm_up: f64,
    /// Independent repetitions, the same for everything that is compared.
    pub seeds: Vec<u64>,
}

/// What is compared, and at which loads.
#[derive(Debug, Clone, PartialEq)]
pub enum Loads {
    /// Algorithms against each other, by latency.
    Balance(f64),
    /// The engine with and without its queue, by goodput, fairness and deadlines.
    Overload(Vec<f64>),
}

/// How load changes with time; the mean stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// Poisson arrivals.
    Steady,
    /// All tenants ask `factor` times as much at once, for exponential times of this mean, in seconds.
    Bursts {
        /// Rate inside a burst over the rate outside.
        factor: f64,
        /// Mean length of a burst.
        on: f64,
        /// Mean time between bursts.
        off: f64,
    },
    /// A sine between `1 − amplitude` and `1 + amplitude`.
    Ramp {
        /// Seconds.
        period: f64,
        /// In [0, 1].
        amplitude: f64,
    },
    /// `before` times the load, but between `from` and `until` seconds all of it.
    Flash {
        /// Share of the load outside.
        before: f64,
        /// Seconds.
        from: f64,
        /// Seconds.
        until: f64,
    },
}

/// A backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Requests that it works on at once; others wait there in order of arrival.
    pub slots: usize,
    /// How much faster than speed 1.
    pub speed: f64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What its provider allows.
    pub rate_limit: Option<RateLimit>,
    /// Conversations whose prompts it remembers, the longest unused forgotten first; 0 for none.
    pub cached_sessions: usize,
}

impl Server {
    /// A backend without faults, limits and caches.
    #[must_use]
    pub const fn new(slots: usize, speed: f64) -> Self {
        Self { slots, speed, faults: Vec::new(), rate_limit: None, cached_sessions: 0 }
    }
}

/// Something that goes wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// Seconds.
    pub from: f64,
    /// Seconds.
    pub until: f64,
    /// What.
    pub trouble: Trouble,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// Everything that starts takes this many times as long.
    Slow(f64),
    /// No connection, noticed after a round trip; what runs is broken off.
    Down,
    /// This share of requests is answered by an error after a round trip, at no cost to the backend.
    Errors(f64),
}

/// A token bucket of requests; what finds none is answered by 429 with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests per second.
    pub per_second: f64,
    /// Requests at once.
    pub burst: f64,
}

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenant {
    /// Name.
    pub name: &'static str,
    /// Type of its requests: decides the band of the queue.
    pub kind: &'static str,
    /// Share of the load in work.
    pub share: f64,
    /// Tokens of a prompt on average, and their distribution.
    pub prompt: (f64, ServiceTime),
    /// Tokens of an answer on average, and their distribution.
    pub output: (f64, ServiceTime),
    /// The most tokens of an answer; all that the engine knows before.
    pub max_output: f64,
    /// Time from the request to its deadline, uniform between these, in seconds; the answer has to be complete by then.
    pub deadline: Option<(f64, f64)>,
    /// Time after which a client without a first token goes away, in seconds.
    pub patience: Option<f64>,
    /// How often a client that was refused, failed or went away asks again, after a second and then twice as long.
    pub repeats: u32,
    /// Conversations, and the exponent of Zipf's law by which requests fall on them.
    pub sessions: Option<(usize, f64)>,
}

impl Tenant {
    /// A tenant of streamed chats: 500 tokens read, 100 written, at most 400.
    #[must_use]
    pub const fn chat(name: &'static str, share: f64) -> Self {
        Self {
            name,
            kind: "",
            share,
            prompt: (500.0, ServiceTime::Lognormal { cv: 1.0 }),
            output: (100.0, ServiceTime::Lognormal { cv: 1.0 }),
            max_output: 400.0,
            deadline: None,
            patience: None,
            repeats: 0,
            sessions: None,
        }
    }

    /// Mean work of a request in slot-seconds, over even quantiles of both sizes.
    #[must_use]
    pub fn mean_work(&self) -> f64 {
        const POINTS: u32 = 20_000;
        let points = || (0..POINTS).map(|k| (f64::from(k) + 0.5) / f64::from(POINTS));
        let mean = |size: (f64, ServiceTime), most: f64| {
            let quantile = size.1.compile();
            points().map(|u| (size.0 * quantile.at(u)).clamp(1.0, most)).sum::<f64>() / f64::from(POINTS)
        };
        BASE_SECONDS
            + PROMPT_TOKEN_SECONDS * mean(self.prompt, MAX_PROMPT)
            + OUTPUT_TOKEN_SECONDS * mean(self.output, self.max_output)
    }
}

/// The longest prompt in tokens.
pub const MAX_PROMPT: f64 = 32_000.0;

impl Scenario {
    /// Slot-seconds per second.
    #[must_use]
    pub fn capacity(&self) -> f64 {
        self.servers.iter().map(|server| server.slots as f64 * server.speed).sum()
    }
}
