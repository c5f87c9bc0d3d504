//! What does one request cost that waits in a queue 10,000 deep, against a plain binary heap?
//!
//! One step is an enqueue and a dequeue at constant depth, both sides on the same requests, in interleaved rounds.
//! The heap orders by (band, deadline) and does nothing else: no fairness, no shares, no cancelling, no bounds, no
//! feasibility test, no report of what is late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use traflux_core::Timestamp;
use traflux_gateway::Rng;
use traflux_gateway::queue::{BandPlan, Dropped, Item, Order, QueuePlan, RequestQueue, Ticket};

const DEPTH: usize = 10_000;
const TENANTS: usize = 1_000;
const STEPS: usize = 1_000;
/// Short rounds, so that most fall between two interruptions by other work on the machine.
const ROUNDS: usize = 1_001;

/// Prints the table.
pub fn run() {
    println!(
        "queue: enqueue + dequeue, {DEPTH} deep, {TENANTS} tenants; median [5 %, 95 %] of {ROUNDS} rounds"
    );
    println!("{:<52} {:>22} {:>22} {:>7}", "", "queue ns", "binary heap ns", "ratio");
    let deadline = |fair| settings(Order::EarliestDeadline, fair);
    compare("all features, deadlines across fair tenants", &deadline(true), false, false);
    compare("same, tenants in teams in organisations", &deadline(true), true, false);
    compare("same, one more request enqueued and cancelled", &deadline(true), false, true);
    compare("fairness off, deadlines across the band", &deadline(false), false, false);
    compare("value density, fair", &settings(Order::ValueDensity, true), false, false);
    compare("adaptive LIFO, fair", &settings(Order::AdaptiveLifo, true), false, false);
    compare("first come first served, fair", &settings(Order::Fcfs, true), false, false);
    compare("first come first served, one band", &QueuePlan::first_come_first_served(), false, false);
}

/// Three bands with shares, controlled delay, feasibility test, thresholds.
fn settings(order: Order, fair: bool) -> QueuePlan {
    let band = |name: &str, min_share| BandPlan {
        name: name.into(),
        min_share,
        order,
        fair,
        shed_target: Some(Duration::from_secs(20)),
        standing_after: Duration::from_millis(100),
        ..BandPlan::default()
    };
    QueuePlan {
        bands: vec![band("interactive", 0.5), band("standard", 0.3), band("batch", 0.1)],
        ..QueuePlan::default()
    }
}

fn compare(name: &str, settings: &QueuePlan, teams: bool, cancel: bool) {
    let items = items(settings.bands.len());
    let mut ours = Ours::new(settings, teams, &items);
    let mut heap = Heap::new(&items);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    // Past the start, in which the depth moves to the lowest band.
    for _ in 0..100 {
        ours.steps(&items, cancel);
    }
    for _ in 0..ROUNDS {
        a.push(time(|| ours.steps(&items, cancel)));
        b.push(time(|| heap.steps(&items)));
    }
    assert!(ours.dropped.is_empty() && ours.refused == 0, "{} refused", ours.refused);
    let ([a1, a2, a3], [b1, b2, b3]) = (percentiles(a), percentiles(b));
    println!(
        "{name:<52} {:>22} {:>22} {:>7.2}",
        format!("{a2:.0} [{a1:.0}, {a3:.0}]"),
        format!("{b2:.0} [{b1:.0}, {b3:.0}]"),
        a2 / b2
    );
}

fn items(bands: usize) -> Vec<Item> {
    let mut rng = Rng::new(1);
    let item = |payload| Item {
        tenant: rng.below(TENANTS) as u32,
        band: rng.below(bands) as u8,
        cost_tokens: 100 + rng.below(4_000) as u64,
        bytes: 2_000,
        // Filled in against the clock of the run.
        deadline: Some(Timestamp::new(Duration::from_millis(10_000 + rng.below(10_000) as u64))),
        service: Duration::from_millis(200),
        value: rng.below(100) as u32,
        payload,
    };
    (0..65_536).map(item).collect()
}

struct Ours {
    queue: RequestQueue,
    now: Timestamp,
    next: usize,
    dropped: Vec<Dropped>,
    refused: usize,
}

impl Ours {
    fn new(settings: &QueuePlan, teams: bool, items: &[Item]) -> Self {
        let mut settings = settings.clone();
        settings.max_waiting = 4 * DEPTH as u32;
        let mut queue = RequestQueue::new(&settings).expect("valid settings");
        if teams {
            for t in 0..TENANTS as u32 {
                queue.set_tenant(t, Some(TENANTS as u32 + t / 10), 1).expect("a team");
            }
            for team in 0..TENANTS as u32 / 10 {
                queue.set_tenant(TENANTS as u32 + team, Some(2_000 + team / 10), 1).expect("an organisation");
            }
        }
        let now = Timestamp::new(Duration::from_secs(1_700_000_000));
        let mut ours = Self { queue, now, next: 0, dropped: Vec::new(), refused: 0 };
        for _ in 0..DEPTH {
            ours.enqueue(items);
        }
        ours
    }

    #[inline]
    fn enqueue(&mut self, items: &[Item]) -> Option<Ticket> {
        self.now = self.now + Duration::from_micros(1);
        let mut item = items[self.next % items.len()].clone();
        self.next += 1;
        item.deadline = item.deadline.map(|d| self.now + d.since_epoch());
        let ticket = self.queue.enqueue(self.now, &item, &mut self.dropped).ticket();
        self.refused += usize::from(ticket.is_none());
        ticket
    }

    fn steps(&mut self, items: &[Item], cancel: bool) {
        for _ in 0..STEPS {
            self.enqueue(items);
            if cancel && let Some(ticket) = self.enqueue(items) {
                self.queue.cancel(ticket);
            }
            black_box(self.queue.dequeue(self.now, u64::MAX, &mut self.dropped));
        }
    }
}

struct Heap {
    heap: BinaryHeap<(Reverse<u8>, Reverse<u64>, u64)>,
    now: Timestamp,
    next: usize,
}

impl Heap {
    fn new(items: &[Item]) -> Self {
        let now = Timestamp::new(Duration::from_secs(1_700_000_000));
        let mut heap = Self { heap: BinaryHeap::with_capacity(2 * DEPTH), now, next: 0 };
        for _ in 0..DEPTH {
            heap.push(items);
        }
        heap
    }

    #[inline]
    fn push(&mut self, items: &[Item]) {
        self.now = self.now + Duration::from_micros(1);
        let item = &items[self.next % items.len()];
        self.next += 1;
        let due =
            item.deadline.map_or(u64::MAX, |d| (self.now + d.since_epoch()).since_epoch().as_nanos() as u64);
        self.heap.push((Reverse(item.band), Reverse(due), item.payload));
    }

    fn steps(&mut self, items: &[Item]) {
        for _ in 0..STEPS {
            self.push(items);
            black_box(self.heap.pop());
        }
    }
}

fn time(mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64() * 1e9 / STEPS as f64
}

fn percentiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [5, 50, 95].map(|percent| values[(values.len() - 1) * percent / 100])
}
