//! What does a backend do with a request?
//!
//! It has slots, each of which works on one request, and a queue before them, first come, first served and without
//! end, as servers of models have. The time to the first token is `(base + prompt work) / speed`, the rest
//! `output work / speed`. A backend that remembers the conversation reads its prompt four fifths faster.

use std::collections::{HashMap, VecDeque};

use super::arrival::Arrival;
use super::scenario::{BASE_SECONDS, OUTPUT_TOKEN_SECONDS, PROMPT_TOKEN_SECONDS, RateLimit, Server, Trouble};

/// Share of a prompt's work that a cache saves.
const CACHED_SHARE: f64 = 0.8;

/// One backend at work; attempts are numbers.
#[derive(Debug)]
pub(super) struct Backend {
    server: Server,
    running: usize,
    queue: VecDeque<usize>,
    tokens: f64,
    refilled: f64,
    /// When each conversation was served last.
    cache: HashMap<usize, f64>,
}

/// Why a backend sends a request away at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Away {
    Down,
    Error,
    /// 429 with whole seconds to wait.
    Limited(f64),
}

/// A request that starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Start {
    pub(super) first_token_after: f64,
    pub(super) end_after: f64,
    pub(super) cached_tokens: f64,
}

impl Backend {
    pub(super) fn new(server: &Server) -> Self {
        let tokens = server.rate_limit.map_or(0.0, |limit| limit.burst);
        Self {
            server: server.clone(),
            running: 0,
            queue: VecDeque::new(),
            tokens,
            refilled: 0.0,
            cache: HashMap::new(),
        }
    }

    fn troubles(&self, now: f64) -> impl Iterator<Item = Trouble> + '_ {
        self.server.faults.iter().filter(move |f| (f.from..f.until).contains(&now)).map(|f| f.trouble)
    }

    pub(super) fn is_down(&self, now: f64) -> bool {
        self.troubles(now).any(|trouble| trouble == Trouble::Down)
    }

    /// Lets a request in or sends it away; `draw` is uniform in [0, 1).
    pub(super) fn receive(&mut self, now: f64, attempt: usize, draw: f64) -> Result<(), Away> {
        if self.is_down(now) {
            return Err(Away::Down);
        }
        let errors =
            self.troubles(now).any(|trouble| matches!(trouble, Trouble::Errors(share) if draw < share));
        if errors {
            return Err(Away::Error);
        }
        if let Some(RateLimit { per_second, burst }) = self.server.rate_limit {
            self.tokens = (self.tokens + (now - self.refilled) * per_second).min(burst);
            self.refilled = now;
            if self.tokens < 1.0 {
                return Err(Away::Limited(((1.0 - self.tokens) / per_second).ceil().max(1.0)));
            }
            self.tokens -= 1.0;
        }
        self.queue.push_back(attempt);
        Ok(())
    }

    /// Takes the next that waits into a free slot.
    pub(super) fn next(&mut self) -> Option<usize> {
        if self.running >= self.server.slots {
            return None;
        }
        let next = self.queue.pop_front()?;
        self.running += 1;
        Some(next)
    }

    /// How long it takes.
    pub(super) fn start(&mut self, now: f64, arrival: &Arrival) -> Start {
        let slow = self.troubles(now).map(|t| if let Trouble::Slow(factor) = t { factor } else { 1.0 });
        let pace = slow.product::<f64>() / self.server.speed;
        let cached = arrival.session.is_some_and(|session| self.remember(now, session));
        let fresh = if cached { 1.0 - CACHED_SHARE } else { 1.0 };
        let first = (BASE_SECONDS + PROMPT_TOKEN_SECONDS * arrival.prompt * fresh) * pace;
        Start {
            first_token_after: first,
            end_after: first + OUTPUT_TOKEN_SECONDS * arrival.output * pace,
            cached_tokens: (arrival.prompt * (1.0 - fresh)).floor(),
        }
    }

    /// Whether it was known.
    fn remember(&mut self, now: f64, session: usize) -> bool {
        if self.server.cached_sessions == 0 {
            return false;
        }
        let known = self.cache.insert(session, now).is_some();
        if self.cache.len() > self.server.cached_sessions {
            let oldest = self.cache.iter().min_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            if let Some(oldest) = oldest.map(|(session, _)| *session) {
                self.cache.remove(&oldest);
            }
        }
        known
    }

    /// A slot is free again.
    pub(super) fn release(&mut self) {
        self.running -= 1;
    }

    /// Takes out one that waits.
    pub(super) fn forget(&mut self, attempt: usize) {
        self.queue.retain(|waiting| *waiting != attempt);
    }

    /// Everything is lost, the caches too.
    pub(super) fn fall(&mut self) {
        self.running = 0;
        self.queue.clear();
        self.cache.clear();
    }
}
