//! How long does a choice take, beside tower's?
//!
//! One thread, blocks of calls in turn (ours, tower, ours, …), so that both meet the same load of the machine. A line
//! prints the median over blocks in nanoseconds, the quartiles, and the median of the blocks' ratios. Both sides
//! read the clock when they pick and when they record: the system's, and ours once more the processor's counter, because
//! the time is an argument of ours.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};
use traflux_core::Timestamp;
use traflux_gateway::affinity::{AffinityKey, AffinityPlan, Session};
use traflux_gateway::balance::{
    Algorithm, Answer, BalancePlan, BalanceSettings, EndpointTable, LatencyPlan, Member, Outcome,
    PickRequest, Pool,
};

use crate::harness::Clock;

const BLOCKS: usize = 101;
const CALLS: u64 = 5_000;

/// Median, quartiles.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

fn time(calls: u64, mut call: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..calls).for_each(&mut call);
    start.elapsed().as_nanos() as f64 / calls as f64
}

struct Ours {
    pool: Pool,
    clock: Time,
    draw: u64,
}

/// Which clock a caller of ours reads.
enum Time {
    /// That of the system, as tower does.
    System(Instant),
    /// The processor's counter of cycles, as governor does; tower cannot be given it.
    Cycles(Clock),
}

impl Time {
    fn system() -> Self {
        Self::System(Instant::now())
    }

    #[inline]
    fn now(&self) -> Timestamp {
        match self {
            Self::System(epoch) => Timestamp::new(epoch.elapsed()),
            Self::Cycles(clock) => clock.now(),
        }
    }
}

impl Ours {
    fn new(n: usize, settings: BalanceSettings, clock: Time) -> Self {
        let table = EndpointTable::new(&LatencyPlan::default());
        let members =
            (0..n).map(|ix| Member::new(table.endpoint(&format!("backend-{ix}"), Timestamp::ZERO), 1));
        let pool = Pool::new(settings, members.collect::<Vec<_>>(), 1).expect("valid settings");
        let answer =
            |ix: usize| Answer::plain(Outcome::Success, Duration::from_millis(10 + ix as u64 % 7), 0);
        for ix in (0..n).cycle().take(n * 20) {
            pool.observe(Timestamp::ZERO, ix, &answer(ix));
        }
        Self { pool, clock, draw: 1 }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Like an engine's: one number for each request.
    fn request(&mut self, now: Timestamp) -> PickRequest<'static> {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        PickRequest::new(now, self.draw)
    }

    fn route(&mut self) {
        let sent = self.now();
        let request = self.request(sent);
        let position = self.pool.pick(&request).expect("somebody is open");
        let ahead = self.pool.start(position, 0);
        let now = self.now();
        self.pool.finish(now, position, &Answer::plain(Outcome::Success, now.since(sent), ahead));
    }

    fn pick(&mut self, now: Timestamp) {
        let request = self.request(now);
        black_box(self.pool.pick(&request));
    }
}

#[derive(Clone)]
struct Instantly;

impl Service<()> for Instantly {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

type Loaded = PeakEwma<Instantly>;

struct Tower(Balance<ServiceList<Vec<Loaded>>, ()>);

impl Tower {
    fn new(n: usize) -> Self {
        let service =
            || PeakEwma::new(Instantly, Duration::from_millis(30), 1e10, CompleteOnResponse::default());
        Self(Balance::new(ServiceList::new((0..n).map(|_| service()).collect())))
    }

    fn route(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        assert!(self.0.poll_ready(&mut context).is_ready());
        let mut response = pin!(self.0.call(()));
        assert!(response.as_mut().poll(&mut context).is_ready());
    }
}

/// Runs the comparison.
pub(crate) fn run() {
    println!(
        "pick + start + finish, with clock [ns]: median (quartiles) | tower | ratio of medians (quartiles)"
    );
    for n in [2, 10, 16, 64, 1000, 10_000] {
        let two = BalanceSettings {
            plan: BalancePlan { choices: 2, compare_all_up_to: 2, ..BalancePlan::default() },
            ..BalanceSettings::of(Algorithm::LeastLatency)
        };
        for (name, settings, clock) in [
            ("least_latency", BalanceSettings::of(Algorithm::LeastLatency), Time::system()),
            ("least_latency, two choices", two, Time::system()),
            ("the same by cycles", two, Time::Cycles(Clock::new())),
        ] {
            let (mut ours, mut tower) = (Ours::new(n, settings, clock), Tower::new(n));
            let mut rounds = [Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..BLOCKS {
                let a = time(CALLS, |_| ours.route());
                let b = time(CALLS / 10, |_| tower.route());
                for (values, value) in rounds.iter_mut().zip([a, b, a / b]) {
                    values.push(value);
                }
            }
            let [a, b, ratio] = rounds.map(spread);
            println!(
                "n {n:>6} {name:<27} {:7.1} ({:.1}–{:.1}) | {:7.1} ({:.1}–{:.1}) | {:.3} ({:.3}–{:.3})",
                a[1], a[0], a[2], b[1], b[0], b[2], ratio[1], ratio[0], ratio[2]
            );
        }
    }
    let epoch = Instant::now();
    report("two reads of the clock", || {
        time(CALLS, |_| {
            black_box((epoch.elapsed(), epoch.elapsed()));
        })
    });
    let clock = Clock::new();
    report("two reads of the counter of cycles", || {
        time(CALLS, |_| {
            black_box((clock.now(), clock.now()));
        })
    });
    for n in [2, 10, 64, 1000] {
        let mut ours = Ours::new(n, BalanceSettings::of(Algorithm::LeastLatency), Time::system());
        let now = ours.now();
        report(&format!("n {n:>6} LeastLatency pick + start + finish without clock"), || {
            time(CALLS, |_| {
                let request = ours.request(now);
                let position = ours.pool.pick(&request).expect("somebody is open");
                let ahead = ours.pool.start(position, 0);
                let answer = Answer::plain(Outcome::Success, Duration::from_millis(9), ahead);
                ours.pool.finish(now, position, &answer);
            })
        });
    }
    println!("pick alone, without clock [ns]: median (quartiles), least");
    for n in [10, 100, 10_000] {
        for algorithm in Algorithm::ALL {
            let mut ours = Ours::new(n, BalanceSettings::of(algorithm), Time::system());
            let now = ours.now();
            report(&format!("n {n:>6} {algorithm:?}"), || time(CALLS, |_| ours.pick(now)));
        }
        let mut ours = Ours::new(n, BalanceSettings::of(Algorithm::ConsistentHash), Time::system());
        let keys: Vec<AffinityKey> = (0..4096u64).map(|ix| AffinityKey::of(&ix.to_le_bytes())).collect();
        for ix in 0..n {
            ours.pool.start(ix, 0);
        }
        let now = ours.now();
        report(&format!("n {n:>6} Maglev by key, all loaded, start and finish too"), || {
            time(CALLS, |call| {
                let key = keys[call as usize % keys.len()];
                let request = PickRequest { key: Some(key), ..ours.request(now) };
                let position = ours.pool.pick(&request).expect("somebody is open");
                let ahead = ours.pool.start(position, 0);
                ours.pool.finish(now, position, &Answer::plain(Outcome::Cancelled, Duration::ZERO, ahead));
            })
        });
        let session = Session::new(&AffinityPlan::default()).expect("valid settings");
        report(&format!("n {n:>6} Session pinned"), || {
            time(CALLS, |call| {
                let request = ours.request(now);
                black_box(session.pick(&ours.pool, &request, keys[call as usize % keys.len()]));
            })
        });
    }
    let mut ours = Ours::new(100, BalanceSettings::default(), Time::system());
    let allocated = allocation_counter::measure(|| (0..10_000).for_each(|_| ours.route()));
    println!("allocations in 10,000 decisions: {}", allocated.count_total);
    threads();
}

fn report(name: &str, mut block: impl FnMut() -> f64) {
    let values: Vec<f64> = (0..BLOCKS).map(|_| block()).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let [low, median, high] = spread(values);
    println!("{name:<64} {median:6.1} ({low:.1}–{high:.1}), {least:.1}");
}

/// Decisions of several threads on one pool, against one thread.
fn threads() {
    let pool = Arc::new(Ours::new(100, BalanceSettings::default(), Time::system()).pool);
    let route = |pool: &Pool, seed: u64| {
        let mut ours = Rough { draw: seed };
        time(200_000, |call| {
            let now = Timestamp::new(Duration::from_micros(call));
            let position = pool.pick(&PickRequest::new(now, ours.next())).expect("somebody is open");
            let ahead = pool.start(position, 0);
            pool.finish(now, position, &Answer::plain(Outcome::Success, Duration::from_millis(9), ahead));
        })
    };
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);
    for count in [1, 2, 4, 8, 16].into_iter().filter(|count| *count <= cores) {
        let per_call = (0..5).map(|_| {
            let times: Vec<f64> = std::thread::scope(|scope| {
                let handles: Vec<_> = (0..count)
                    .map(|ix| {
                        scope.spawn({
                            let pool = &pool;
                            move || route(pool, ix + 1)
                        })
                    })
                    .collect();
                handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
            });
            times.iter().sum::<f64>() / times.len() as f64
        });
        let least = per_call.fold(f64::INFINITY, f64::min);
        println!(
            "{count} threads on one pool of 100: {least:.1} ns each decision, {:.2} M/s",
            count as f64 * 1e3 / least
        );
    }
}

struct Rough {
    draw: u64,
}

impl Rough {
    fn next(&mut self) -> u64 {
        self.draw = self.draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.draw ^ (self.draw >> 29)
    }
}
