//! How do others choose?
//!
//! Algorithms of other balancers, written anew from their papers and documents. Each knows what a client can know:
//! its own requests in flight and the latencies it saw. None has a queue or limits on requests in flight. All are
//! given what not all of them have: two further attempts, at backends not yet tried, and the patience to leave a
//! backend alone for as long as its `Retry-After` says.

use std::collections::VecDeque;

use traflux_gateway::Rng;
use traflux_gateway::health::Outcome;

use super::arrival::Arrival;
use super::client::{Client, Ended, Step};

/// The most attempts at a request.
const ATTEMPTS: usize = 3;

/// An algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// At random.
    Random,
    /// In turn.
    RoundRobin,
    /// The one of two with fewer requests in flight (M. Mitzenmacher, 2001).
    LeastRequestOfTwo,
    /// The one with the fewest requests in flight.
    LeastRequest,
    /// The lesser of two by `average · (in flight + 1)`; the average of times to first token jumps up and decays in
    /// 10 s (tower, linkerd).
    PeakEwma,
    /// The same by whole times.
    PeakEwmaWhole,
    /// The better of two by `health / (1 + latency · (1 + 0.1 · in flight))`, both averages over about ten answers
    /// (agentgateway).
    Score,
    /// The least mean of the last ten times to first token; one that fails mostly is left alone for 5 s (LiteLLM).
    LowestLatency,
    /// Hot-cold lexicographic: of those below the 84 % quantile of load the one with the least latency at such load,
    /// else the least loaded (B. Wydrowski et al., "Load is not what you should balance: introducing Prequal", NSDI
    /// 2024), of a pool of 16 probes, here always fresh.
    HotCold,
    /// By rendezvous hash of the conversation.
    Hash,
    /// The same, but at most 1.25 times the mean load (V. Mirrokni et al., "Consistent hashing with bounded loads",
    /// SODA 2018).
    BoundedHash,
}

impl Peer {
    /// All that do not hash, and those that do where there are conversations.
    #[must_use]
    pub fn all(with_sessions: bool) -> Vec<Self> {
        let mut all = vec![
            Self::Random,
            Self::RoundRobin,
            Self::LeastRequestOfTwo,
            Self::LeastRequest,
            Self::PeakEwma,
            Self::PeakEwmaWhole,
            Self::Score,
            Self::LowestLatency,
            Self::HotCold,
        ];
        if with_sessions {
            all.extend([Self::Hash, Self::BoundedHash]);
        }
        all
    }

    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round robin",
            Self::LeastRequestOfTwo => "least request of 2",
            Self::LeastRequest => "least request",
            Self::PeakEwma => "peak-ewma, first token",
            Self::PeakEwmaWhole => "peak-ewma, whole",
            Self::Score => "score",
            Self::LowestLatency => "lowest latency",
            Self::HotCold => "hot-cold",
            Self::Hash => "hash",
            Self::BoundedHash => "bounded hash",
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Known {
    in_flight: usize,
    /// Left alone until then, in seconds.
    until: f64,
    /// Seconds and when.
    peak: Option<(f64, f64)>,
    latency: Option<f64>,
    health: f64,
    last: VecDeque<f64>,
    /// Mean latency by load met, in steps of a quarter of it.
    by_load: Vec<Option<f64>>,
    /// Seconds and whether it failed.
    recent: VecDeque<(f64, bool)>,
}

/// A peer at work.
#[derive(Debug)]
pub(super) struct PeerClient {
    peer: Peer,
    known: Vec<Known>,
    turn: usize,
    rng: Rng,
    held: std::collections::HashMap<usize, Attempt>,
}

#[derive(Debug)]
struct Attempt {
    backend: usize,
    sent: f64,
    ahead: usize,
    first: Option<f64>,
    tried: Vec<usize>,
}

impl PeerClient {
    pub(super) fn new(peer: Peer, backends: usize, seed: u64) -> Self {
        let fresh = Known { health: 1.0, ..Known::default() };
        let mut rng = Rng::stream(seed, 3);
        let turn = rng.below(backends);
        Self { peer, known: vec![fresh; backends], turn, rng, held: Default::default() }
    }

    fn send(
        &mut self,
        now: f64,
        request: usize,
        arrival: &Arrival,
        tried: Vec<usize>,
        steps: &mut Vec<Step>,
    ) {
        let open: Vec<usize> =
            (0..self.known.len()).filter(|ix| !tried.contains(ix) && self.known[*ix].until <= now).collect();
        if tried.len() >= ATTEMPTS || open.is_empty() {
            steps.push(Step::Refuse { request, reason: "exhausted" });
            return;
        }
        let backend = self.pick(now, arrival, &open);
        let known = &mut self.known[backend];
        let attempt = Attempt { backend, sent: now, ahead: known.in_flight, first: None, tried };
        known.in_flight += 1;
        self.held.insert(request, attempt);
        steps.push(Step::Send { request, backend });
    }

    fn pick(&mut self, now: f64, arrival: &Arrival, open: &[usize]) -> usize {
        let two = {
            let a = self.rng.below(open.len());
            let b = self.rng.below(open.len().max(2) - 1);
            [open[a], open[(if b >= a { b + 1 } else { b }).min(open.len() - 1)]]
        };
        match self.peer {
            Peer::Random => two[0],
            Peer::RoundRobin => loop {
                self.turn = (self.turn + 1) % self.known.len();
                if open.contains(&self.turn) {
                    return self.turn;
                }
            },
            Peer::LeastRequestOfTwo => self.least(&two, |known| known.in_flight as f64),
            Peer::LeastRequest => self.least(open, |known| known.in_flight as f64),
            Peer::PeakEwma | Peer::PeakEwmaWhole => self.least(&two, |known| {
                // A default of 30 ms, as in tower.
                let (seconds, at) = known.peak.unwrap_or((0.03, now));
                seconds * (-(now - at) / 10.0).exp() * (known.in_flight + 1) as f64
            }),
            Peer::Score => self.least(&two, |known| {
                let latency = known.latency.unwrap_or(0.0);
                -known.health / (1.0 + latency * (1.0 + 0.1 * known.in_flight as f64))
            }),
            Peer::LowestLatency => {
                let well: Vec<usize> =
                    open.iter().copied().filter(|ix| !is_failing(&mut self.known[*ix], now)).collect();
                self.least(if well.is_empty() { open } else { &well }, |known| {
                    known.last.iter().sum::<f64>() / known.last.len().max(1) as f64
                })
            }
            Peer::HotCold => {
                let mut pool = open.to_vec();
                for ix in 0..pool.len().min(16) {
                    let other = ix + self.rng.below(pool.len() - ix);
                    pool.swap(ix, other);
                }
                pool.truncate(16);
                let mut loads: Vec<usize> = pool.iter().map(|ix| self.known[*ix].in_flight).collect();
                loads.sort_unstable();
                let hot = loads[((loads.len() as f64 * 0.84) as usize).min(loads.len() - 1)];
                let least = loads[0];
                self.least(&pool, |known| {
                    if known.in_flight >= hot && known.in_flight > least {
                        1e6 + known.in_flight as f64
                    } else {
                        latency_at(known, known.in_flight)
                    }
                })
            }
            Peer::Hash | Peer::BoundedHash => {
                let total: usize = self.known.iter().map(|known| known.in_flight).sum();
                let most = (1.25 * (total + 1) as f64 / self.known.len() as f64).ceil() as usize;
                let session = arrival.session.unwrap_or(0) as u64;
                let mut order = open.to_vec();
                order.sort_by_key(|ix| Rng::stream(session, *ix as u64).next_u64());
                let bounded = self.peer == Peer::BoundedHash;
                let fits = |ix: &&usize| !bounded || self.known[**ix].in_flight < most;
                *order.iter().find(fits).unwrap_or(&order[0])
            }
        }
    }

    /// The least cost, ties at random.
    fn least(&mut self, of: &[usize], cost: impl Fn(&Known) -> f64) -> usize {
        let start = self.rng.below(of.len());
        let (mut best, mut least) = (of[start], f64::INFINITY);
        for turn in 0..of.len() {
            let ix = of[(start + turn) % of.len()];
            let cost = cost(&self.known[ix]);
            if cost < least {
                (best, least) = (ix, cost);
            }
        }
        best
    }

    fn learn(&mut self, now: f64, attempt: &Attempt, failed: bool) {
        let total = now - attempt.sent;
        let first = attempt.first.unwrap_or(total);
        let known = &mut self.known[attempt.backend];
        let seconds = if self.peer == Peer::PeakEwmaWhole { total } else { first };
        known.peak = Some(match known.peak {
            Some((average, at)) => {
                let kept = (-(now - at) / 10.0).exp();
                let average =
                    if seconds > average { seconds } else { average * kept + seconds * (1.0 - kept) };
                (average, now)
            }
            None => (seconds, now),
        });
        known.health += 0.1 * (f64::from(u8::from(!failed)) - known.health);
        known.recent.push_back((now, failed));
        if failed {
            return;
        }
        known.latency = Some(known.latency.map_or(first, |mean| mean + 0.1 * (first - mean)));
        known.last.push_back(first);
        if known.last.len() > 10 {
            known.last.pop_front();
        }
        let step = load_step(attempt.ahead);
        if known.by_load.len() <= step {
            known.by_load.resize(step + 1, None);
        }
        let mean = known.by_load[step].map_or(first, |mean| mean + 0.1 * (first - mean));
        known.by_load[step] = Some(mean);
    }
}

/// Loads of equal latency, nearly: each a quarter above the one before.
fn load_step(load: usize) -> usize {
    (((load + 1) as f64).ln() / 1.25f64.ln()) as usize
}

/// The latency at the nearest load that was seen; unknown ones are tried first.
fn latency_at(known: &Known, load: usize) -> f64 {
    let step = load_step(load);
    let seen = known.by_load.iter().enumerate().filter_map(|(at, mean)| Some((at.abs_diff(step), (*mean)?)));
    seen.min_by_key(|(distance, _)| *distance).map_or(0.0, |(_, mean)| mean)
}

/// Whether more than half of at least five answers within a minute were failures; then it is left alone for 5 s.
fn is_failing(known: &mut Known, now: f64) -> bool {
    while known.recent.front().is_some_and(|(at, _)| *at < now - 60.0) {
        known.recent.pop_front();
    }
    let mut failed = known.recent.iter().filter(|(_, failed)| *failed);
    let count = failed.clone().count();
    let lately = failed.next_back().is_some_and(|(at, _)| *at > now - 5.0);
    known.recent.len() >= 5 && 2 * count > known.recent.len() && lately
}

impl Client for PeerClient {
    fn ask(&mut self, now: f64, request: usize, arrival: &Arrival, steps: &mut Vec<Step>) {
        self.send(now, request, arrival, Vec::new(), steps);
    }

    fn first_byte(&mut self, now: f64, request: usize) {
        if let Some(attempt) = self.held.get_mut(&request) {
            attempt.first = Some(now - attempt.sent);
        }
    }

    fn ended(&mut self, now: f64, request: usize, arrival: &Arrival, end: &Ended, steps: &mut Vec<Step>) {
        let Some(mut attempt) = self.held.remove(&request) else { return };
        self.known[attempt.backend].in_flight -= 1;
        if end.outcome == Outcome::Limited {
            self.known[attempt.backend].until = now + end.retry_after.unwrap_or(1.0);
        } else {
            self.learn(now, &attempt, end.outcome != Outcome::Success);
        }
        if end.outcome == Outcome::Success {
            return;
        }
        if attempt.first.is_some() {
            steps.push(Step::Refuse { request, reason: "exhausted" });
            return;
        }
        let mut tried = std::mem::take(&mut attempt.tried);
        tried.push(attempt.backend);
        self.send(now, request, arrival, tried, steps);
    }

    fn gone(&mut self, _now: f64, request: usize, _steps: &mut Vec<Step>) {
        if let Some(attempt) = self.held.remove(&request) {
            self.known[attempt.backend].in_flight -= 1;
        }
    }

    fn upkeep(&mut self, _now: f64, _steps: &mut Vec<Step>) {}
}
