//! How long does one operation take on each side, taking turns?

use std::time::{Duration, Instant};

use traflux_core::Timestamp;

/// Rounds of a comparison.
const ROUNDS: usize = 401;

/// Nanoseconds of one round are made to be about this: well below a time slice, so that on a busy machine most rounds
/// are not interrupted, and the median is one of those.
const ROUND_NS: f64 = 3e5;

/// One side of a comparison: does the operation so many times.
pub(crate) type Side<'a> = &'a mut dyn FnMut(usize);

/// Median and quartiles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of numbers in any order.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

/// Head of the table that [`compare`] prints lines of.
pub(crate) fn header() {
    println!("| claim | ours ns (quartiles) | rival ns (quartiles) | ratio (quartiles) | goal |");
    println!("|---|---|---|---|---|");
}

/// Runs both sides in turns and prints a line.
pub(crate) fn compare(claim: &str, goal: &str, ours: Side<'_>, rival: Side<'_>) {
    let (ours_count, rival_count) = (count(ours), count(rival));
    let (mut a, mut b, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Whoever goes first changes, so that neither always finds the caches of the other.
        let (x, y) = if round % 2 == 0 {
            let x = time(ours, ours_count);
            (x, time(rival, rival_count))
        } else {
            let y = time(rival, rival_count);
            (time(ours, ours_count), y)
        };
        a.push(x);
        b.push(y);
        ratios.push(x / y);
    }
    let (a, b, r) = (Spread::of(a), Spread::of(b), Spread::of(ratios));
    println!(
        "| {claim} | {:.1} ({:.1}–{:.1}) | {:.1} ({:.1}–{:.1}) | {:.3} ({:.3}–{:.3}) | {goal} |",
        a.median, a.low, a.high, b.median, b.low, b.high, r.median, r.low, r.high
    );
}

/// Runs one side: nanoseconds of an operation.
pub(crate) fn measure(side: Side<'_>) -> Spread {
    let operations = count(side);
    Spread::of((0..ROUNDS).map(|_| time(side, operations)).collect())
}

/// Runs one side and prints a line.
pub(crate) fn alone(claim: &str, goal: &str, ours: Side<'_>) {
    let a = measure(ours);
    println!("| {claim} | {:.1} ({:.1}–{:.1}) | | | {goal} |", a.median, a.low, a.high);
}

/// Operations of a round; warms the side up.
fn count(side: Side<'_>) -> usize {
    let mut operations = 64;
    loop {
        let each = time(side, operations);
        if each * operations as f64 > ROUND_NS / 4.0 {
            return ((ROUND_NS / each) as usize).max(1);
        }
        operations *= 2;
    }
}

fn time(side: Side<'_>, operations: usize) -> f64 {
    let start = Instant::now();
    side(operations);
    start.elapsed().as_nanos() as f64 / operations as f64
}

/// Now, by the clock that governor uses.
pub(crate) struct Clock {
    clock: quanta::Clock,
    start: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let clock = quanta::Clock::new();
        let start = clock.raw();
        Self { clock, start }
    }

    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::new(Duration::from_nanos(self.nanos()))
    }

    #[inline]
    pub(crate) fn nanos(&self) -> u64 {
        self.clock.delta_as_nanos(self.start, self.clock.raw())
    }
}
