//! What becomes of every request?
//!
//! Events in virtual time: requests come, reach a backend, begin to be answered, end, fail or are given up. Equal
//! scenarios, loads, seeds and arms give equal outcomes, to the bit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use traflux_gateway::health::Outcome as Ending;
use traflux_gateway::{GatewayError, Rng};

use super::arm::Arm;
use super::arrival::{Arrival, draw};
use super::backend::{Away, Backend};
use super::client::{Client, Ended, Step};
use super::outcome::{Fate, Outcome};
use super::scenario::{ROUND_TRIP_SECONDS, Scenario, Trouble};

/// Seconds between calls of upkeep.
const UPKEEP_SECONDS: f64 = 0.1;
/// Seconds before a client asks again the first time.
const REPEAT_SECONDS: f64 = 1.0;
/// Seconds after the last request at which what is still open counts as not answered.
const LONGEST_REST_SECONDS: f64 = 600.0;

/// Plays a scenario at a load.
///
/// # Errors
/// [`GatewayError`] where the engine does not take its settings.
pub fn play(scenario: &Scenario, load: f64, seed: u64, arm: &Arm) -> Result<Outcome, GatewayError> {
    let arrivals = draw(scenario, load, seed);
    let client = arm.client(scenario, seed)?;
    let mut play = Play {
        scenario,
        fates: vec![Fate::default(); arrivals.len()],
        requests: vec![Live::default(); arrivals.len()],
        arrivals,
        client,
        backends: scenario.servers.iter().map(Backend::new).collect(),
        attempts: Vec::new(),
        events: BinaryHeap::new(),
        sequence: 0,
        steps: Vec::new(),
        draws: Rng::stream(seed, 4),
    };
    play.run();
    Ok(Outcome::new(scenario, &play.arrivals, &play.fates))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Fall { backend: usize },
    Reach { attempt: usize },
    FirstToken { attempt: usize },
    End { attempt: usize },
    SentAway { attempt: usize },
    GiveUp { request: usize, ask: u32 },
    Ask { request: usize },
    Upkeep,
}

#[derive(Debug, Clone, Copy, Default)]
struct Live {
    asks: u32,
    attempt: Option<usize>,
    /// Whether this ask has neither ended nor been given up.
    open: bool,
    begun: bool,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    request: usize,
    backend: usize,
    state: State,
    /// What it is told at the end.
    ending: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Travels,
    Waits,
    Runs,
    Over,
}

struct Play<'a> {
    scenario: &'a Scenario,
    arrivals: Vec<Arrival>,
    requests: Vec<Live>,
    fates: Vec<Fate>,
    client: Box<dyn Client + 'a>,
    backends: Vec<Backend>,
    attempts: Vec<Attempt>,
    /// Times as bits, which for positive numbers are ordered as they are.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    steps: Vec<Step>,
    draws: Rng,
}

const fn ended(outcome: Ending) -> Ended {
    Ended { outcome, retry_after: None, cached_tokens: 0.0 }
}

impl Play<'_> {
    fn run(&mut self) {
        for (backend, server) in self.scenario.servers.iter().enumerate() {
            for fault in server.faults.iter().filter(|fault| fault.trouble == Trouble::Down) {
                self.at(fault.from, Event::Fall { backend });
            }
        }
        self.at(UPKEEP_SECONDS, Event::Upkeep);
        let mut next = 0;
        loop {
            let coming = self.arrivals.get(next).map(|arrival| arrival.at);
            let queued = self.events.peek().map(|Reverse((at, ..))| f64::from_bits(*at));
            let now = match (coming, queued) {
                (Some(at), queued) if queued.is_none_or(|queued| at <= queued) => {
                    self.ask(at, next);
                    next += 1;
                    at
                }
                _ => {
                    let Some(Reverse((at, _, event))) = self.events.pop() else { return };
                    let now = f64::from_bits(at);
                    match event {
                        Event::Upkeep if now > self.scenario.seconds + LONGEST_REST_SECONDS => return,
                        Event::Upkeep => {
                            // Without other events nothing can happen any more, but for what upkeep brings.
                            if coming.is_some()
                                || !self.events.is_empty()
                                || self.requests.iter().any(|r| r.open)
                            {
                                self.at(now + UPKEEP_SECONDS, Event::Upkeep);
                            }
                            self.client.upkeep(now, &mut self.steps);
                        }
                        event => self.handle(now, event),
                    }
                    now
                }
            };
            self.follow(now);
        }
    }

    fn at(&mut self, time: f64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time.to_bits(), self.sequence, event)));
    }

    fn ask(&mut self, now: f64, request: usize) {
        let live = &mut self.requests[request];
        live.asks += 1;
        (live.open, live.begun, live.attempt) = (true, false, None);
        let ask = live.asks;
        if let Some(patience) = self.scenario.tenants[self.arrivals[request].tenant].patience {
            self.at(now + patience, Event::GiveUp { request, ask });
        }
        self.client.ask(now, request, &self.arrivals[request], &mut self.steps);
    }

    /// Does what was decided.
    fn follow(&mut self, now: f64) {
        let mut steps = std::mem::take(&mut self.steps);
        for step in steps.drain(..) {
            match step {
                Step::Send { request, backend } => {
                    let attempt = self.attempts.len();
                    let ending = ended(Ending::Success);
                    self.attempts.push(Attempt { request, backend, state: State::Travels, ending });
                    self.requests[request].attempt = Some(attempt);
                    self.fates[request].attempts += 1;
                    self.at(now + ROUND_TRIP_SECONDS, Event::Reach { attempt });
                }
                Step::Refuse { request, reason } => {
                    self.fates[request].refused = Some(reason);
                    self.close(now, request);
                }
            }
        }
        self.steps = steps;
    }

    /// An ask came to nothing; the client may ask again.
    fn close(&mut self, now: f64, request: usize) {
        let live = &mut self.requests[request];
        (live.open, live.attempt) = (false, None);
        let repeats = self.scenario.tenants[self.arrivals[request].tenant].repeats;
        if live.asks <= repeats {
            let wait = REPEAT_SECONDS * 2f64.powi(live.asks as i32 - 1);
            self.at(now + wait, Event::Ask { request });
        }
    }

    fn handle(&mut self, now: f64, event: Event) {
        match event {
            Event::Ask { request } => self.ask(now, request),
            Event::Reach { attempt } => {
                let Attempt { backend, state, .. } = self.attempts[attempt];
                if state == State::Over {
                    return;
                }
                let draw = self.draws.uniform();
                match self.backends[backend].receive(now, attempt, draw) {
                    Ok(()) => {
                        self.attempts[attempt].state = State::Waits;
                        self.serve(now, backend);
                    }
                    Err(away) => {
                        self.attempts[attempt].ending = match away {
                            Away::Down => ended(Ending::ConnectFailure),
                            Away::Error => ended(Ending::ServerError),
                            Away::Limited(seconds) => {
                                Ended { retry_after: Some(seconds), ..ended(Ending::Limited) }
                            }
                        };
                        // It travelled there and back already.
                        self.handle(now, Event::SentAway { attempt });
                    }
                }
            }
            Event::SentAway { attempt } => self.end(now, attempt),
            Event::FirstToken { attempt } => {
                let Attempt { request, state, .. } = self.attempts[attempt];
                if state == State::Runs {
                    self.requests[request].begun = true;
                    let at = self.arrivals[request].at;
                    self.fates[request].first_token.get_or_insert(now - at);
                    self.client.first_byte(now, request);
                }
            }
            Event::End { attempt } => {
                let Attempt { request, backend, state, .. } = self.attempts[attempt];
                if state == State::Runs {
                    self.fates[request].total = Some(now - self.arrivals[request].at);
                    self.requests[request].open = false;
                    self.backends[backend].release();
                    self.end(now, attempt);
                    self.serve(now, backend);
                }
            }
            Event::GiveUp { request, ask } => {
                let live = self.requests[request];
                if !live.open || live.asks != ask || live.begun {
                    return;
                }
                self.client.gone(now, request, &mut self.steps);
                self.fates[request].refused = Some("given up");
                if let Some(attempt) = live.attempt {
                    self.drop_attempt(now, attempt);
                }
                self.close(now, request);
            }
            Event::Fall { backend } => {
                self.backends[backend].fall();
                for attempt in 0..self.attempts.len() {
                    let Attempt { backend: at, state, .. } = self.attempts[attempt];
                    if at == backend && matches!(state, State::Waits | State::Runs) {
                        self.attempts[attempt].ending = ended(Ending::Reset);
                        self.end(now, attempt);
                    }
                }
            }
            Event::Upkeep => {}
        }
    }

    fn end(&mut self, now: f64, attempt: usize) {
        let Attempt { request, ending, .. } = self.attempts[attempt];
        self.attempts[attempt].state = State::Over;
        if self.requests[request].begun && ending.outcome != Ending::Success {
            // A stream that broke is no answer.
            self.fates[request].first_token = None;
        }
        self.requests[request].attempt = None;
        self.client.ended(now, request, &self.arrivals[request], &ending, &mut self.steps);
    }

    /// Nobody wants its answer any more.
    fn drop_attempt(&mut self, now: f64, attempt: usize) {
        let Attempt { backend, state, .. } = self.attempts[attempt];
        self.attempts[attempt].state = State::Over;
        match state {
            State::Waits => self.backends[backend].forget(attempt),
            State::Runs => {
                self.backends[backend].release();
                self.serve(now, backend);
            }
            State::Travels | State::Over => {}
        }
    }

    fn serve(&mut self, now: f64, backend: usize) {
        while let Some(attempt) = self.backends[backend].next() {
            let request = self.attempts[attempt].request;
            let start = self.backends[backend].start(now, &self.arrivals[request]);
            self.attempts[attempt].state = State::Runs;
            self.attempts[attempt].ending.cached_tokens = start.cached_tokens;
            self.at(now + start.first_token_after, Event::FirstToken { attempt });
            self.at(now + start.end_after, Event::End { attempt });
        }
    }
}
