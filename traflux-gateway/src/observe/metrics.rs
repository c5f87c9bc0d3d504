//! How is a request counted in some 20 ns, from all threads, without contention?
//!
//! An atomic addition costs about 5 ns even when no other core wants the line, and a request touches more than
//! ten cells. So cells come in stripes, one per thread as far as they go. A [`Recorder`] takes its thread's
//! stripe with one atomic swap and then adds with plain loads and stores; whoever finds its stripe taken (more
//! threads than stripes, or a thread preempted in the middle) adds atomically to a stripe that nobody takes.
//! Nobody ever waits, nothing is lost, and nothing is allocated after construction. [`Metrics::snapshot`] sums
//! the stripes.
//!
//! ```
//! use std::time::Duration;
//! use traflux_gateway::observe::{BackendModel, Metrics, MetricsLayout, MetricsSettings, RequestRecord};
//!
//! let layout = MetricsLayout {
//!     series: vec![BackendModel { backend: "east".into(), model: "large".into() }],
//!     ..MetricsLayout::default()
//! };
//! let metrics = Metrics::new(layout, &MetricsSettings::default())?;
//! let series = metrics.layout().series_ix("east", "large").ok_or("no such series")?;
//! metrics.recorder().request(&RequestRecord {
//!     duration: Duration::from_millis(800),
//!     output_tokens: 120,
//!     ..RequestRecord::new(series)
//! });
//! assert_eq!(metrics.snapshot().output_tokens(series), 120);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::buckets::{BucketBounds, nanos};
use super::layout::{BandIx, DeciderIx, MetricsLayout, ReasonIx, RouteIx, SeriesIx};
use super::snapshot::Snapshot;
use crate::error::GatewayError;
use crate::outcome::Outcome;
use crate::units::PicoDollars;

/// Most stripes: beyond, memory grows and nothing is gained.
const STRIPES_LIMIT: usize = 256;

/// Most cells in all stripes together: 2²⁷ cells are one GiB.
const CELLS_LIMIT: usize = 1 << 27;

/// Histogram bounds and stripes of [`Metrics`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Sets of counters, best one per thread that serves requests, rounded up to a power of two; 8 bytes times the
    /// number of cells each.
    pub stripes: usize,
    /// Upper bounds of total latency and of the time to the first token, ascending. Put latency objectives among
    /// them: alerts can ask for no other.
    #[serde(rename = "latency_bounds_ms", with = "bounds_ms")]
    pub latency_bounds: Vec<Duration>,
    /// Upper bounds of the time per output token.
    #[serde(rename = "token_bounds_ms", with = "bounds_ms")]
    pub token_bounds: Vec<Duration>,
    /// Upper bounds of the wait in the queue.
    #[serde(rename = "wait_bounds_ms", with = "bounds_ms")]
    pub wait_bounds: Vec<Duration>,
}

impl Default for MetricsSettings {
    /// 16 stripes; 1, 1.5, 2, 3, 5, 7 times powers of ten: latencies from 5 ms to 500 s, tokens from 1 ms to 7 s,
    /// waits from 1 ms to 70 s.
    fn default() -> Self {
        let bounds = |least_micros: u64, decades, skip, take| {
            BucketBounds::decades(Duration::from_micros(least_micros), decades)
                .map(|bounds| bounds.bounds().skip(skip).take(take).collect())
                .unwrap_or_default()
        };
        Self {
            stripes: 16,
            latency_bounds: bounds(1000, 6, 4, 31),
            token_bounds: bounds(1000, 4, 0, 24),
            wait_bounds: bounds(1000, 5, 0, 30),
        }
    }
}

impl MetricsSettings {
    /// Whether the settings can be used.
    ///
    /// # Errors
    /// [`GatewayError::Setting`].
    pub fn validate(&self) -> Result<(), GatewayError> {
        if !(1..=STRIPES_LIMIT).contains(&self.stripes) {
            return Err(GatewayError::setting("stripes", self.stripes, "1 to 256"));
        }
        for bounds in [&self.latency_bounds, &self.token_bounds, &self.wait_bounds] {
            BucketBounds::new(bounds)?;
        }
        Ok(())
    }
}

/// One finished request to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRecord {
    /// The backend and model.
    pub series: SeriesIx,
    /// How it ended.
    pub outcome: Outcome,
    /// Prompt tokens, those read from a cache included.
    pub input_tokens: u64,
    /// Prompt tokens read from a cache.
    pub cached_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// What it cost.
    pub cost: PicoDollars,
    /// From dispatch to the end.
    pub duration: Duration,
    /// From dispatch to the first token, where the answer was streamed. With at least two output tokens, the rest
    /// of the duration over the rest of the tokens is the time per output token.
    pub time_to_first_token: Option<Duration>,
}

impl RequestRecord {
    /// A success without tokens, cost or duration.
    #[must_use]
    pub const fn new(series: SeriesIx) -> Self {
        Self {
            series,
            outcome: Outcome::Success,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            cost: PicoDollars::ZERO,
            duration: Duration::ZERO,
            time_to_first_token: None,
        }
    }
}

/// Counts requests, tokens, dollars, latencies, waits, decisions and picks.
#[derive(Debug)]
pub struct Metrics {
    cells: Arc<CellMap>,
    stripes: Box<[Stripe]>,
    /// Added to atomically by those who found their stripe taken.
    shared: Box<[AtomicU64]>,
}

/// One thread's cells, apart from the next stripe by a pair of cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    taken: AtomicBool,
    cells: Box<[AtomicU64]>,
}

impl Metrics {
    /// Counters for a layout, all zero.
    ///
    /// # Errors
    /// [`GatewayError`] where the layout names something twice, or a setting is out of its range; too many cells
    /// count as too many stripes.
    pub fn new(layout: MetricsLayout, settings: &MetricsSettings) -> Result<Self, GatewayError> {
        settings.validate()?;
        layout.validate()?;
        let cells = CellMap::new(layout, settings)?;
        let stripes = settings.stripes.next_power_of_two();
        if cells.len.saturating_mul(stripes + 1) > CELLS_LIMIT {
            return Err(GatewayError::setting(
                "stripes",
                format!("{stripes} with {} cells each", cells.len),
                "at most 2^27 cells in all",
            ));
        }
        let zeros = || (0..cells.len).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>();
        let stripes =
            (0..settings.stripes).map(|_| Stripe { taken: AtomicBool::new(false), cells: zeros() }).collect();
        Ok(Self { stripes, shared: zeros(), cells: Arc::new(cells) })
    }

    /// The names behind the indices.
    #[must_use]
    pub fn layout(&self) -> &MetricsLayout {
        &self.cells.layout
    }

    /// Takes the counters of this thread for as long as it lives; keep it for one request at most. What one
    /// decision and one request change belongs into one recorder, because taking it is a good part of the cost.
    #[inline]
    pub fn recorder(&self) -> Recorder<'_> {
        let stripe = &self.stripes[thread_ordinal() & (self.stripes.len() - 1)];
        // Acquire: sees all that the last owner stored. The load spares a taken line from being written.
        if !stripe.taken.load(Ordering::Relaxed) && !stripe.taken.swap(true, Ordering::Acquire) {
            Recorder { map: &self.cells, cells: &stripe.cells, taken: Some(&stripe.taken) }
        } else {
            Recorder { map: &self.cells, cells: &self.shared, taken: None }
        }
    }

    /// What was counted so far. A request that is being counted meanwhile may be in it in part; nothing counted
    /// before is missing and nothing ever decreases.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // Relaxed: cells are independent counters, and one cell read twice never goes back.
        let mut values: Vec<u64> = self.shared.iter().map(|cell| cell.load(Ordering::Relaxed)).collect();
        for stripe in &self.stripes {
            for (value, cell) in values.iter_mut().zip(&stripe.cells) {
                *value = value.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        Snapshot::new(Arc::clone(&self.cells), values)
    }
}

/// Adds to the counters of a [`Metrics`]. An index that its layout has not is not counted but for
/// [`Snapshot::misdirected`].
#[derive(Debug)]
pub struct Recorder<'a> {
    map: &'a CellMap,
    cells: &'a [AtomicU64],
    /// The flag to clear, where the cells are this recorder's own.
    taken: Option<&'a AtomicBool>,
}

impl Recorder<'_> {
    /// Counts a finished request. Only successes have latencies: a fast error must not make a backend look fast, and
    /// what took too long is already counted as a timeout.
    #[inline]
    pub fn request(&mut self, request: &RequestRecord) {
        let map = self.map;
        let Some(base) = map.series_base(request.series) else { return self.misdirected() };
        let duration = nanos(request.duration);
        self.add(base + series::BUSY, duration);
        self.add(base + request.outcome as usize, 1);
        self.add(base + series::INPUT_TOKENS, request.input_tokens);
        self.add(base + series::OUTPUT_TOKENS, request.output_tokens);
        self.add(base + series::COST, request.cost.get());
        if request.cached_tokens > 0 {
            self.add(base + series::CACHED_TOKENS, request.cached_tokens);
        }
        if request.outcome != Outcome::Success {
            return;
        }
        self.observe(base + map.duration_at, &map.latency, duration);
        let Some(first) = request.time_to_first_token else { return };
        let first = nanos(first);
        self.observe(base + map.first_token_at, &map.latency, first);
        if let Some(gaps @ 1..) = request.output_tokens.checked_sub(1) {
            // In floating point, because integer division is several times slower on older processors.
            let per_token = duration.saturating_sub(first) as f64 / gaps as f64;
            self.observe(base + map.per_token_at, &map.token, per_token as u64);
        }
    }

    /// Counts retries of a request to a backend.
    #[inline]
    pub fn retries(&mut self, series: SeriesIx, retries: u64) {
        match self.map.series_base(series) {
            Some(base) => self.add(base + series::RETRIES, retries),
            None => self.misdirected(),
        }
    }

    /// Counts hedges: second requests sent while the first is still out.
    #[inline]
    pub fn hedges(&mut self, series: SeriesIx, hedges: u64) {
        match self.map.series_base(series) {
            Some(base) => self.add(base + series::HEDGES, hedges),
            None => self.misdirected(),
        }
    }

    /// Counts a decision and why it came out as it did.
    #[inline]
    pub fn decision(&mut self, decider: DeciderIx, reason: ReasonIx) {
        match self.map.decision_at(decider, reason) {
            Some(at) => self.add(at, 1),
            None => self.misdirected(),
        }
    }

    /// Counts that a rule sent a request to a backend.
    #[inline]
    pub fn pick(&mut self, route: RouteIx) {
        match self.map.pick_at(route) {
            Some(at) => self.add(at, 1),
            None => self.misdirected(),
        }
    }

    /// Counts how long a request waited in a band of the queue, zero included.
    #[inline]
    pub fn queue_wait(&mut self, band: BandIx, wait: Duration) {
        let map = self.map;
        match map.wait_at(band) {
            Some(at) => self.observe(at, &map.wait, nanos(wait)),
            None => self.misdirected(),
        }
    }

    /// Whether the counters are this recorder's own, so that adding takes no atomic operation.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        self.taken.is_some()
    }

    #[cold]
    fn misdirected(&mut self) {
        self.add(0, 1);
    }

    /// Buckets first, then the sum in nanoseconds; the number of values is the sum of the buckets, so that both
    /// always agree.
    #[inline]
    fn observe(&mut self, at: usize, bounds: &BucketBounds, nanos: u64) {
        self.add(at + bounds.bucket_of(nanos), 1);
        self.add(at + bounds.buckets(), nanos);
    }

    #[inline]
    fn add(&mut self, at: usize, amount: u64) {
        let cell = &self.cells[at];
        if self.taken.is_some() {
            // Nobody else stores here while the stripe is taken.
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        } else {
            cell.fetch_add(amount, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(taken) = self.taken {
            // Release: what was stored is there for the next owner.
            taken.store(false, Ordering::Release);
        }
    }
}

/// Places of the counters of one series, after its outcomes.
pub(crate) mod series {
    use super::Outcome;

    pub(crate) const INPUT_TOKENS: usize = Outcome::ALL.len();
    pub(crate) const CACHED_TOKENS: usize = INPUT_TOKENS + 1;
    pub(crate) const OUTPUT_TOKENS: usize = INPUT_TOKENS + 2;
    pub(crate) const COST: usize = INPUT_TOKENS + 3;
    pub(crate) const RETRIES: usize = INPUT_TOKENS + 4;
    pub(crate) const HEDGES: usize = INPUT_TOKENS + 5;
    pub(crate) const BUSY: usize = INPUT_TOKENS + 6;
    pub(crate) const HISTOGRAMS: usize = INPUT_TOKENS + 7;
}

/// Where the counters of a layout lie: misdirected, series, bands, picks, decisions.
#[derive(Debug)]
pub(crate) struct CellMap {
    pub(crate) layout: MetricsLayout,
    pub(crate) latency: BucketBounds,
    pub(crate) token: BucketBounds,
    pub(crate) wait: BucketBounds,
    pub(crate) duration_at: usize,
    pub(crate) first_token_at: usize,
    pub(crate) per_token_at: usize,
    stride: usize,
    bands_at: usize,
    picks_at: usize,
    decisions_at: usize,
    len: usize,
}

impl CellMap {
    fn new(layout: MetricsLayout, settings: &MetricsSettings) -> Result<Self, GatewayError> {
        let latency = BucketBounds::new(&settings.latency_bounds)?;
        let token = BucketBounds::new(&settings.token_bounds)?;
        let wait = BucketBounds::new(&settings.wait_bounds)?;
        let duration_at = series::HISTOGRAMS;
        let first_token_at = duration_at + latency.buckets() + 1;
        let per_token_at = first_token_at + latency.buckets() + 1;
        // Whole cache lines, so that two series of one stripe share none.
        let stride = (per_token_at + token.buckets() + 1).next_multiple_of(8);
        let bands_at = 8 + layout.series.len() * stride;
        let picks_at = bands_at + layout.bands.len() * (wait.buckets() + 1);
        let decisions_at = picks_at + layout.routes.len();
        let len = decisions_at + layout.deciders.len().saturating_mul(layout.reasons.len());
        Ok(Self {
            layout,
            latency,
            token,
            wait,
            duration_at,
            first_token_at,
            per_token_at,
            stride,
            bands_at,
            picks_at,
            decisions_at,
            len,
        })
    }

    #[inline]
    pub(crate) fn series_base(&self, series: SeriesIx) -> Option<usize> {
        (series.index() < self.layout.series.len()).then(|| 8 + series.index() * self.stride)
    }

    #[inline]
    pub(crate) fn wait_at(&self, band: BandIx) -> Option<usize> {
        let width = self.wait.buckets() + 1;
        (band.index() < self.layout.bands.len()).then(|| self.bands_at + band.index() * width)
    }

    #[inline]
    pub(crate) fn pick_at(&self, route: RouteIx) -> Option<usize> {
        (route.index() < self.layout.routes.len()).then(|| self.picks_at + route.index())
    }

    #[inline]
    pub(crate) fn decision_at(&self, decider: DeciderIx, reason: ReasonIx) -> Option<usize> {
        let reasons = self.layout.reasons.len();
        let known = decider.index() < self.layout.deciders.len() && reason.index() < reasons;
        known.then(|| self.decisions_at + decider.index() * reasons + reason.index())
    }
}

/// A small number per thread, in the order in which threads first count anything.
#[inline]
fn thread_ordinal() -> usize {
    const NONE: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static ORDINAL: Cell<usize> = const { Cell::new(NONE) });
    // A thread that is being torn down has no number any more and takes the first.
    let number = ORDINAL.try_with(|ordinal| {
        if ordinal.get() == NONE {
            ordinal.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        ordinal.get()
    });
    number.unwrap_or(0)
}

/// Bounds as lists of milliseconds.
mod bounds_ms {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::units::millis;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Millis(#[serde(with = "millis")] Duration);

    pub(super) fn serialize<S: Serializer>(bounds: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(bounds.iter().map(|bound| Millis(*bound)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Millis>::deserialize(deserializer)?.into_iter().map(|bound| bound.0).collect())
    }
}
