//! What does the fleet do, request by request?
//!
//! A discrete-event simulation in virtual nanoseconds. A request is sent by its source, picked an endpoint by
//! the source's own picker, takes half a round trip, waits in a bounded first-in-first-out queue for one of the endpoint's
//! slots, is served, and takes half a round trip back. Its client gives up at the timeout; a request that
//! waits longer is dropped when its turn comes. The load is open: a slow fleet does not slow its clients.
//!
//! Random numbers come in streams by purpose. Arrivals and the work of each request depend on the seed alone,
//! so arms are compared on the same requests.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use traflux_core::{InForce, PlanError, PlanVersion, Timestamp, Topology, WeightTable, Window};
use traflux_gateway::{Candidate, Completion, Picker, PickerKind, Rng};

use crate::condition::{Condition, Plumbing, Timeline, nanos, unit_price};
use crate::distribution::Quantile;
use crate::error::SimError;
use crate::load::{Arrival, Arrivals};
use crate::outcome::{Outcome, Recorder};
use crate::scenario::Scenario;
use crate::scrape::{Counters, ScrapeLog};

mod observe;
mod truth;

pub use truth::{Census, EndpointTruth};

const MINUTE_NS: u64 = 60_000_000_000;
const PICKER_STREAMS: u64 = 1 << 32;
const SCRAPE_STREAMS: u64 = 1 << 33;
/// An ejection lasts at most this many times the first.
const MAX_EJECTION_FACTOR: u32 = 10;

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    scenario: Arc<Scenario>,
    topology: Topology,
    seed: u64,
    now: u64,
    end: u64,
    timeout: u64,
    timeline: Timeline,
    next_boundary: usize,
    events: BinaryHeap<Event>,
    sequence: u64,
    /// Open requests by the time their client gives up: the timeout is constant, so a queue is in order.
    deadlines: VecDeque<(u64, u32, u32)>,
    requests: Vec<Request>,
    free: Vec<u32>,
    sources: Vec<SourceState>,
    routes: Vec<RouteState>,
    counters: Vec<Counters>,
    endpoints: Vec<EndpointState>,
    recorder: Recorder,
    accounted_to: u64,
    arrived: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A source sends its next request.
    Arrive,
    /// A request reaches its endpoint.
    Reach,
    /// An endpoint has served a request.
    Serve,
    /// An answer reaches the client.
    Return,
    /// A source is scraped.
    Scrape,
    /// A route's ejection ends.
    Restore,
    /// Weights of a source come into force.
    Enforce,
    /// A minute is over.
    Minute,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Event {
    at: u64,
    sequence: u64,
    kind: Kind,
    ix: u32,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    sent: u64,
    work: f64,
    fate: f64,
    route: u32,
    segment: u32,
    generation: u32,
    /// The client gave up.
    abandoned: bool,
    /// Nothing will ever come back.
    lost: bool,
    failed: bool,
    /// The endpoint answered, if only with an error.
    answered: bool,
}

#[derive(Debug)]
struct SourceState {
    first_route: usize,
    arrivals: Arrivals,
    next: Option<Arrival>,
    picker: Box<dyn Picker>,
    candidates: Vec<Candidate>,
    weights: Vec<u32>,
    pending: VecDeque<PendingWeights>,
    in_force: Option<InForce>,
    in_flight: Vec<u32>,
    ejections: Vec<Ejection>,
    plumbing: Plumbing,
    scrapes: ScrapeLog,
    scrape_rng: Rng,
}

#[derive(Debug)]
struct PendingWeights {
    at: u64,
    weights: Vec<u32>,
    version: Option<PlanVersion>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ejection {
    ejected: bool,
    failures: u32,
    times: u32,
    ended_at: u64,
}

#[derive(Debug, Clone, Copy)]
struct RouteState {
    source: u32,
    endpoint: u32,
    round_trip: u64,
    usd_per_request: f64,
}

#[derive(Debug)]
struct EndpointState {
    condition: Condition,
    quantile: Quantile,
    mean_service_ns: f64,
    queue_limit: usize,
    busy: u32,
    queue: VecDeque<u32>,
}

impl Fleet {
    /// A fleet at time zero, routed by smooth weights in proportion to nominal capacity.
    ///
    /// # Errors
    /// As [`Scenario::check`].
    pub fn new(scenario: &Scenario, seed: u64) -> Result<Self, SimError> {
        scenario.check()?;
        let topology = scenario.topology()?;
        let weights = scenario.capacity_weights()?;
        let timeline = Timeline::new(scenario, seed);
        let endpoints = scenario
            .endpoints
            .iter()
            .enumerate()
            .map(|(ix, endpoint)| EndpointState {
                condition: timeline.condition(scenario, ix, 0),
                quantile: endpoint.service_time.compile(),
                mean_service_ns: endpoint.service_ms * 1e6,
                queue_limit: endpoint.queue_limit,
                busy: 0,
                queue: VecDeque::new(),
            })
            .collect();
        let routes: Vec<_> = topology
            .routes()
            .iter()
            .map(|route| RouteState {
                source: route.flow.0,
                endpoint: route.consumption[0].resource.0,
                round_trip: 0,
                usd_per_request: 0.0,
            })
            .collect();
        let sources = scenario
            .sources
            .iter()
            .enumerate()
            .map(|(ix, _)| {
                let range = topology.flow_offsets()[ix]..topology.flow_offsets()[ix + 1];
                SourceState {
                    first_route: range.start,
                    arrivals: Arrivals::new(scenario, ix, seed),
                    next: None,
                    picker: PickerKind::SmoothWeighted.build(picker_seed(seed, ix)),
                    candidates: Vec::new(),
                    weights: weights.weights[range.clone()].to_vec(),
                    pending: VecDeque::new(),
                    in_force: None,
                    in_flight: vec![0; range.len()],
                    ejections: vec![Ejection::default(); range.len()],
                    plumbing: timeline.plumbing(scenario, ix, 0),
                    scrapes: ScrapeLog::default(),
                    scrape_rng: Rng::stream(seed, SCRAPE_STREAMS + ix as u64),
                }
            })
            .collect();
        let timeout = (scenario.timeout_ms * 1e6).round() as u64;
        let mut fleet = Self {
            recorder: Recorder::new(
                (scenario.slo_ms * 1e6).round() as u64,
                timeout,
                scenario.sources.len(),
                scenario.endpoints.len(),
            ),
            counters: vec![Counters::default(); routes.len()],
            scenario: Arc::new(scenario.clone()),
            topology,
            seed,
            now: 0,
            end: nanos(scenario.duration_s),
            timeout,
            timeline,
            next_boundary: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            deadlines: VecDeque::new(),
            requests: Vec::new(),
            free: Vec::new(),
            sources,
            routes,
            endpoints,
            accounted_to: 0,
            arrived: 0,
        };
        fleet.refresh();
        for source in 0..fleet.sources.len() {
            fleet.configure(source);
            fleet.schedule_arrival(source);
            let phase = fleet.sources[source].scrape_rng.uniform();
            let first = nanos(phase * fleet.sources[source].plumbing.scrape_interval_s);
            fleet.schedule(first, Kind::Scrape, source as u32);
        }
        fleet.schedule(MINUTE_NS, Kind::Minute, 0);
        Ok(fleet)
    }

    /// The fleet's topology at nominal capacities and prices.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The scenario it runs.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::new(Duration::from_nanos(self.now))
    }

    /// When the last requests are sent.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        Timestamp::new(Duration::from_nanos(self.end))
    }

    /// Replaces the pickers of all sources at once; weights stay.
    pub fn set_picker(&mut self, kind: PickerKind) {
        for source in 0..self.sources.len() {
            self.sources[source].picker = kind.build(picker_seed(self.seed, source));
            self.configure(source);
        }
    }

    /// Sends weights to every source; they are in force after the control delay.
    ///
    /// # Errors
    /// [`PlanError::Shape`] for weights of another shape, [`PlanError::Row`] for a row of zeros.
    pub fn set_weights(&mut self, weights: &WeightTable) -> Result<(), PlanError> {
        self.check_weights(weights)?;
        for source in 0..self.sources.len() {
            let row = weights.weights[weights.offsets[source]..weights.offsets[source + 1]].to_vec();
            self.send(source, row, None);
        }
        Ok(())
    }

    /// Puts weights in force at once, as before the start of an experiment.
    ///
    /// # Errors
    /// As [`set_weights`](Self::set_weights).
    pub fn force_weights(&mut self, weights: &WeightTable) -> Result<(), PlanError> {
        self.check_weights(weights)?;
        for source in 0..self.sources.len() {
            self.sources[source].weights =
                weights.weights[weights.offsets[source]..weights.offsets[source + 1]].to_vec();
            self.sources[source].pending.clear();
            self.configure(source);
        }
        Ok(())
    }

    /// The weights in force.
    #[must_use]
    pub fn weights(&self) -> WeightTable {
        WeightTable {
            generation: self.topology.generation(),
            offsets: self.topology.flow_offsets().to_vec(),
            weights: self.sources.iter().flat_map(|s| s.weights.iter().copied()).collect(),
        }
    }

    /// Runs until `to`, that moment included. A time in the past does nothing.
    pub fn advance(&mut self, to: Timestamp) {
        let to = u64::try_from(to.since_epoch().as_nanos()).unwrap_or(u64::MAX);
        loop {
            let boundary = self.timeline.boundaries.get(self.next_boundary).copied().unwrap_or(u64::MAX);
            let deadline = self.deadlines.front().map_or(u64::MAX, |(at, _, _)| *at);
            let event = self.events.peek().map_or(u64::MAX, |event| event.at);
            let next = boundary.min(deadline).min(event);
            if next > to || next == u64::MAX {
                break;
            }
            self.now = next;
            if boundary == next {
                self.next_boundary += 1;
                self.refresh();
            } else if deadline == next {
                self.give_up();
            } else if let Some(event) = self.events.pop() {
                self.handle(event);
            }
        }
        self.now = self.now.max(to);
    }

    /// Runs to the end and until the last client has its answer or gave up, and closes the books. Time stands
    /// behind the end then, and running on changes nothing.
    #[must_use]
    pub fn finish(&mut self, arm: &str) -> Outcome {
        self.advance(Timestamp::new(Duration::from_nanos(self.end)));
        self.account();
        self.recorder.end_minute(self.end);
        // Nobody sends any more, so nothing outlives the timeout.
        self.advance(Timestamp::new(Duration::from_nanos(self.end + self.timeout + 1)));
        let elapsed_s = self.end as f64 * 1e-9;
        self.recorder.outcome(arm, &self.scenario.name, self.seed, &self.timeline.windows, elapsed_s)
    }

    fn check_weights(&self, weights: &WeightTable) -> Result<(), PlanError> {
        if weights.offsets != self.topology.flow_offsets()
            || weights.weights.len() != self.topology.routes().len()
        {
            return Err(PlanError::Shape {
                what: "weights",
                expected: self.topology.routes().len(),
                found: weights.weights.len(),
            });
        }
        for (flow, w) in weights.offsets.windows(2).enumerate() {
            if weights.weights[w[0]..w[1]].iter().all(|weight| *weight == 0) {
                return Err(PlanError::Row { flow, problem: "sums to 0".to_owned() });
            }
        }
        Ok(())
    }

    fn send(&mut self, source: usize, weights: Vec<u32>, version: Option<PlanVersion>) {
        let at = self.now + nanos(self.sources[source].plumbing.control_delay_s);
        let pending = &mut self.sources[source].pending;
        // A later plan is in force last even when the delay has shrunk meanwhile.
        let at = pending.back().map_or(at, |last| at.max(last.at));
        pending.push_back(PendingWeights { at, weights, version });
        self.schedule(at, Kind::Enforce, source as u32);
    }

    fn schedule(&mut self, at: u64, kind: Kind, ix: u32) {
        self.sequence += 1;
        self.events.push(Event { at, sequence: self.sequence, kind, ix });
    }

    fn schedule_arrival(&mut self, source: usize) {
        let state = &mut self.sources[source];
        state.next = state.arrivals.next();
        if let Some(arrival) = state.next {
            self.schedule(arrival.at, Kind::Arrive, source as u32);
        }
    }

    fn handle(&mut self, event: Event) {
        let ix = event.ix as usize;
        match event.kind {
            Kind::Arrive => self.arrive(ix),
            Kind::Reach => self.reach(event.ix),
            Kind::Serve => self.served(event.ix),
            Kind::Return => self.returned(event.ix),
            Kind::Scrape => self.scrape(ix),
            Kind::Restore => self.restore(ix),
            Kind::Enforce => self.enforce(ix),
            Kind::Minute => {
                if self.now <= self.end {
                    self.account();
                    self.recorder.end_minute(self.now);
                    self.schedule(self.now + MINUTE_NS, Kind::Minute, 0);
                }
            }
        }
    }

    fn arrive(&mut self, source: usize) {
        let state = &mut self.sources[source];
        let arrival = state.next.take();
        let now = Timestamp::new(Duration::from_nanos(self.now));
        let picked = state.picker.pick(now, &state.in_flight);
        self.arrived += 1;
        if let (Some(arrival), Some(local)) = (arrival, picked) {
            state.in_flight[local] += 1;
            let route = state.first_route + local;
            let RouteState { endpoint, round_trip, .. } = self.routes[route];
            self.recorder.sent(source, endpoint as usize);
            let request = Request {
                sent: self.now,
                work: arrival.work,
                fate: arrival.fate,
                route: route as u32,
                segment: self.recorder.segment(),
                generation: 0,
                abandoned: false,
                lost: false,
                failed: false,
                answered: false,
            };
            let id = self.admit(request);
            self.deadlines.push_back((self.now + self.timeout, id, self.requests[id as usize].generation));
            self.schedule(self.now + round_trip / 2, Kind::Reach, id);
        } else {
            // Nothing to send it to: it fails at once.
            self.recorder.ended(self.recorder.segment(), 0, true, false);
        }
        self.schedule_arrival(source);
    }

    fn admit(&mut self, mut request: Request) -> u32 {
        if let Some(id) = self.free.pop() {
            request.generation = self.requests[id as usize].generation;
            self.requests[id as usize] = request;
            id
        } else {
            self.requests.push(request);
            (self.requests.len() - 1) as u32
        }
    }

    fn release(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        request.generation = request.generation.wrapping_add(1);
        self.free.push(id);
    }

    fn reach(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        let route = self.routes[request.route as usize];
        let state = &mut self.endpoints[route.endpoint as usize];
        let condition = &state.condition;
        if request.fate < condition.blackhole {
            request.lost = true;
            if request.abandoned {
                self.release(id);
            }
            return;
        }
        if condition.outage {
            return self.refuse(id, false);
        }
        let work = state.quantile.at(request.work) * state.mean_service_ns * 1e-9;
        self.recorder.offered(route.endpoint as usize, work * condition.slowness(self.now as f64 * 1e-9));
        if state.busy < condition.slots {
            self.begin(id);
        } else if state.queue.len() < state.queue_limit {
            state.queue.push_back(id);
        } else {
            self.refuse(id, true);
        }
    }

    /// The endpoint does not take the request: an answer of its own, or a refused connection.
    fn refuse(&mut self, id: u32, answered: bool) {
        let request = &mut self.requests[id as usize];
        request.failed = true;
        request.answered = answered;
        let back = self.routes[request.route as usize].round_trip / 2;
        self.schedule(self.now + back, Kind::Return, id);
    }

    fn begin(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        let state = &mut self.endpoints[self.routes[request.route as usize].endpoint as usize];
        let condition = &state.condition;
        let mut service = state.quantile.at(request.work)
            * state.mean_service_ns
            * condition.slowness(self.now as f64 * 1e-9);
        // The part of the fates above the blackhole's, so that both ratios hold together.
        let spared = 1.0 - condition.blackhole;
        if condition.errors > 0.0 && request.fate < condition.blackhole + spared * condition.errors {
            request.failed = true;
            service *= condition.error_service;
        }
        state.busy += 1;
        self.schedule(self.now + service as u64, Kind::Serve, id);
    }

    fn served(&mut self, id: u32) {
        let request = &mut self.requests[id as usize];
        let route = self.routes[request.route as usize];
        let state = &mut self.endpoints[route.endpoint as usize];
        state.busy -= 1;
        let outage = state.condition.outage;
        request.failed |= outage;
        request.answered = !outage;
        if request.abandoned {
            self.release(id);
        } else {
            if !outage {
                self.recorder.paid_per_request(route.usd_per_request);
            }
            self.schedule(self.now + route.round_trip / 2, Kind::Return, id);
        }
        self.serve_waiting(route.endpoint as usize);
    }

    fn serve_waiting(&mut self, endpoint: usize) {
        loop {
            let state = &mut self.endpoints[endpoint];
            if state.busy >= state.condition.slots {
                break;
            }
            let Some(id) = state.queue.pop_front() else { break };
            if self.requests[id as usize].abandoned {
                self.release(id);
            } else {
                self.begin(id);
            }
        }
    }

    fn returned(&mut self, id: u32) {
        let request = self.requests[id as usize];
        if !request.abandoned {
            self.end_request(&request, self.now - request.sent, request.failed, false);
        }
        self.release(id);
    }

    fn give_up(&mut self) {
        let Some((_, id, generation)) = self.deadlines.pop_front() else { return };
        let request = self.requests[id as usize];
        if request.generation != generation || request.abandoned {
            return;
        }
        self.requests[id as usize].abandoned = true;
        self.end_request(&request, self.timeout, true, true);
        if request.lost {
            self.release(id);
        }
    }

    /// The client knows how its request ended.
    fn end_request(&mut self, request: &Request, latency: u64, failed: bool, timed_out: bool) {
        let route = request.route as usize;
        let source = self.routes[route].source as usize;
        let state = &mut self.sources[source];
        let local = route - state.first_route;
        state.in_flight[local] -= 1;
        let completion = if failed { Completion::Failure } else { Completion::Success };
        let now = Timestamp::new(Duration::from_nanos(self.now));
        state.picker.observe(now, local, Duration::from_nanos(latency), completion);
        let counters = &mut self.counters[route];
        counters.finished += 1;
        counters.failed += u64::from(failed);
        counters.timed_out += u64::from(timed_out);
        if request.answered && !timed_out {
            let ms = latency as f64 * 1e-6;
            counters.answered += 1;
            counters.latency_seconds += ms * 1e-3;
            let bounds = &self.scenario.metrics.histogram_buckets_ms;
            counters.buckets[bounds.partition_point(|bound| *bound < ms)] += 1;
        }
        self.recorder.ended(request.segment, latency, failed, timed_out);
        if failed {
            self.count_failure(source, local);
        } else {
            self.sources[source].ejections[local].failures = 0;
        }
    }

    fn count_failure(&mut self, source: usize, local: usize) {
        let Some(settings) = self.scenario.outlier_detection else { return };
        let state = &mut self.sources[source];
        let ejected = state.ejections.iter().filter(|e| e.ejected).count();
        let limit = (settings.max_ejected_ratio * state.ejections.len() as f64).floor() as usize;
        let ejection = &mut state.ejections[local];
        ejection.failures += 1;
        if ejection.ejected || ejection.failures < settings.consecutive_failures || ejected >= limit {
            return;
        }
        let base = nanos(settings.ejection_s);
        if self.now.saturating_sub(ejection.ended_at) > base.saturating_mul(u64::from(ejection.times)) {
            ejection.times = 0;
        }
        ejection.times = (ejection.times + 1).min(MAX_EJECTION_FACTOR);
        ejection.ejected = true;
        let until = self.now + base * u64::from(ejection.times);
        let route = (state.first_route + local) as u32;
        self.schedule(until, Kind::Restore, route);
        self.configure(source);
    }

    fn restore(&mut self, route: usize) {
        let source = self.routes[route].source as usize;
        let state = &mut self.sources[source];
        let ejection = &mut state.ejections[route - state.first_route];
        ejection.ejected = false;
        ejection.failures = 0;
        ejection.ended_at = self.now;
        self.configure(source);
    }

    fn enforce(&mut self, source: usize) {
        let state = &mut self.sources[source];
        let Some(pending) = state.pending.front() else { return };
        if pending.at > self.now {
            return;
        }
        let Some(pending) = state.pending.pop_front() else { return };
        let sum = |weights: &[u32]| weights.iter().map(|w| f64::from(*w)).sum::<f64>().max(1.0);
        let (old, new) = (sum(&state.weights), sum(&pending.weights));
        let moved: f64 = state
            .weights
            .iter()
            .zip(&pending.weights)
            .map(|(a, b)| (f64::from(*a) / old - f64::from(*b) / new).abs())
            .sum();
        state.weights = pending.weights;
        if let Some(version) = pending.version {
            let since = Timestamp::new(Duration::from_nanos(self.now));
            let again = state.in_force.as_ref().is_some_and(|f| f.version == version);
            if !again {
                state.in_force = Some(InForce { version, since });
            }
        }
        self.recorder.moved_weights(0.5 * moved / self.sources.len() as f64);
        self.configure(source);
    }

    /// Tells a source's picker its weights and which endpoints are ejected. Where nothing would be left, as
    /// in Envoy's panic mode, ejections are ignored.
    fn configure(&mut self, source: usize) {
        let state = &mut self.sources[source];
        state.candidates.clear();
        state.candidates.extend(
            state
                .weights
                .iter()
                .zip(&state.ejections)
                .map(|(weight, ejection)| Candidate { weight: *weight, eligible: !ejection.ejected }),
        );
        if !state.candidates.iter().any(|c| c.is_open()) {
            state.candidates.iter_mut().for_each(|c| c.eligible = true);
        }
        state.picker.configure(&state.candidates);
    }

    /// Takes in what changed at a boundary.
    fn refresh(&mut self) {
        self.account();
        let scenario = Arc::clone(&self.scenario);
        for ix in 0..self.endpoints.len() {
            let before = self.endpoints[ix].condition.outage;
            self.endpoints[ix].condition = self.timeline.condition(&scenario, ix, self.now);
            if self.endpoints[ix].condition.outage && !before {
                while let Some(id) = self.endpoints[ix].queue.pop_front() {
                    if self.requests[id as usize].abandoned {
                        self.release(id);
                    } else {
                        self.refuse(id, false);
                    }
                }
            }
            self.serve_waiting(ix);
        }
        for ix in 0..self.routes.len() {
            let RouteState { source, endpoint, .. } = self.routes[ix];
            let endpoint = endpoint as usize;
            let source = &scenario.sources[source as usize].name;
            let nominal = self.topology.routes()[ix].delay.as_millis();
            let factor = self.endpoints[endpoint].condition.egress_factor;
            let route = &mut self.routes[ix];
            route.round_trip = self.timeline.round_trip(&scenario, endpoint, source, nominal, self.now);
            route.usd_per_request = unit_price(&scenario, endpoint, source, factor).per_request();
        }
        for ix in 0..self.sources.len() {
            self.sources[ix].plumbing = self.timeline.plumbing(&scenario, ix, self.now);
        }
        self.recorder.enter(self.timeline.open_windows(self.now));
    }

    /// Pays for compute, and counts slots, up to now.
    fn account(&mut self) {
        let until = self.now.min(self.end);
        let seconds = until.saturating_sub(self.accounted_to) as f64 * 1e-9;
        self.accounted_to = self.accounted_to.max(until);
        if seconds <= 0.0 {
            return;
        }
        for (ix, state) in self.endpoints.iter().enumerate() {
            let hourly = self.scenario.endpoints[ix].hourly_usd * state.condition.hourly_factor;
            let slots = if state.condition.outage { 0.0 } else { f64::from(state.condition.slots) };
            self.recorder.provisioned(ix, slots * seconds, hourly * seconds / 3600.0);
        }
    }
}

fn picker_seed(seed: u64, source: usize) -> u64 {
    Rng::stream(seed, PICKER_STREAMS + source as u64).next_u64()
}

impl Ord for Event {
    /// Reversed, so that the heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
