//! What was counted, in all or between two moments?

use std::sync::Arc;
use std::time::Duration;

use super::buckets::BucketBounds;
use super::history::Amount;
use super::layout::{BandIx, DeciderIx, MetricsLayout, ReasonIx, RouteIx, SeriesIx};
use super::metrics::{CellMap, series};
use crate::outcome::Outcome;
use crate::units::PicoDollars;

/// The counters of a [`Metrics`](super::Metrics) at one moment, or the difference of two such moments. An index
/// that the layout has not reads as zero.
#[derive(Debug, Clone)]
pub struct Snapshot {
    map: Arc<CellMap>,
    values: Vec<u64>,
}

/// A histogram of a backend and model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeriesHistogram {
    /// From dispatch to the end, of successes.
    Duration,
    /// From dispatch to the first token, of streamed successes.
    TimeToFirstToken,
    /// Between two output tokens, on average over a streamed success.
    TimePerOutputToken,
}

/// Counts by bucket, and the sum of the values.
#[derive(Debug, Clone, Copy)]
pub struct HistogramCounts<'a> {
    /// Upper bounds.
    pub bounds: &'a BucketBounds,
    /// Values by bucket, not cumulated; the last bucket has no upper bound.
    pub counts: &'a [u64],
    /// Sum of the values.
    pub sum: Duration,
}

impl HistogramCounts<'_> {
    /// Number of values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Mean value; `None` without values.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let count = self.count();
        (count > 0).then(|| self.sum.div_f64(count as f64))
    }

    /// The quantile `share` (0 to 1); `None` without values.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        self.bounds.quantile(self.counts, share)
    }
}

impl Snapshot {
    pub(crate) fn new(map: Arc<CellMap>, values: Vec<u64>) -> Self {
        Self { map, values }
    }

    /// What was counted after `earlier`; everything where that is of another layout.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = self.clone();
        if Arc::ptr_eq(&self.map, &earlier.map) {
            for (value, before) in difference.values.iter_mut().zip(&earlier.values) {
                *value = value.wrapping_sub(*before);
            }
        }
        difference
    }

    /// The names behind the indices.
    #[must_use]
    pub fn layout(&self) -> &MetricsLayout {
        &self.map.layout
    }

    /// Requests that ended so.
    #[must_use]
    pub fn requests(&self, series: SeriesIx, outcome: Outcome) -> u64 {
        self.of_series(series, outcome as usize)
    }

    /// Requests, however they ended.
    #[must_use]
    pub fn all_requests(&self, series: SeriesIx) -> u64 {
        Outcome::ALL.into_iter().map(|outcome| self.requests(series, outcome)).sum()
    }

    /// Requests that count against the error budget.
    #[must_use]
    pub fn errors(&self, series: SeriesIx) -> u64 {
        Outcome::ALL.into_iter().filter(|o| o.is_error()).map(|outcome| self.requests(series, outcome)).sum()
    }

    /// Prompt tokens, those read from a cache included.
    #[must_use]
    pub fn input_tokens(&self, series: SeriesIx) -> u64 {
        self.of_series(series, series::INPUT_TOKENS)
    }

    /// Prompt tokens read from a cache.
    #[must_use]
    pub fn cached_tokens(&self, series: SeriesIx) -> u64 {
        self.of_series(series, series::CACHED_TOKENS)
    }

    /// Tokens of answers.
    #[must_use]
    pub fn output_tokens(&self, series: SeriesIx) -> u64 {
        self.of_series(series, series::OUTPUT_TOKENS)
    }

    /// What requests cost.
    #[must_use]
    pub fn cost(&self, series: SeriesIx) -> PicoDollars {
        PicoDollars::new(self.of_series(series, series::COST))
    }

    /// Sum of the durations of requests, however they ended. Over the time of a window it is the mean number of
    /// requests in flight (Little's law).
    #[must_use]
    pub fn busy(&self, series: SeriesIx) -> Duration {
        Duration::from_nanos(self.of_series(series, series::BUSY))
    }

    /// What a [`TrafficHistory`](super::TrafficHistory) records of a window.
    #[must_use]
    pub fn amount(&self, series: SeriesIx) -> Amount {
        Amount {
            requests: self.all_requests(series),
            tokens: self.input_tokens(series).saturating_add(self.output_tokens(series)),
            cost: self.cost(series),
            busy: self.busy(series),
        }
    }

    /// Retries.
    #[must_use]
    pub fn retries(&self, series: SeriesIx) -> u64 {
        self.of_series(series, series::RETRIES)
    }

    /// Hedges.
    #[must_use]
    pub fn hedges(&self, series: SeriesIx) -> u64 {
        self.of_series(series, series::HEDGES)
    }

    /// A histogram of a backend and model; `None` where the layout has no such series.
    #[must_use]
    pub fn histogram(&self, series: SeriesIx, histogram: SeriesHistogram) -> Option<HistogramCounts<'_>> {
        let base = self.map.series_base(series)?;
        let (at, bounds) = match histogram {
            SeriesHistogram::Duration => (self.map.duration_at, &self.map.latency),
            SeriesHistogram::TimeToFirstToken => (self.map.first_token_at, &self.map.latency),
            SeriesHistogram::TimePerOutputToken => (self.map.per_token_at, &self.map.token),
        };
        Some(self.counts(base + at, bounds))
    }

    /// Waits in a band of the queue; `None` where the layout has no such band.
    #[must_use]
    pub fn queue_wait(&self, band: BandIx) -> Option<HistogramCounts<'_>> {
        Some(self.counts(self.map.wait_at(band)?, &self.map.wait))
    }

    /// Decisions that came out so.
    #[must_use]
    pub fn decisions(&self, decider: DeciderIx, reason: ReasonIx) -> u64 {
        self.map.decision_at(decider, reason).map_or(0, |at| self.values[at])
    }

    /// Requests that a rule sent to a backend.
    #[must_use]
    pub fn picks(&self, route: RouteIx) -> u64 {
        self.map.pick_at(route).map_or(0, |at| self.values[at])
    }

    /// Records with an index that the layout has not: a fault of the caller.
    #[must_use]
    pub fn misdirected(&self) -> u64 {
        self.values[0]
    }

    fn of_series(&self, series: SeriesIx, at: usize) -> u64 {
        self.map.series_base(series).map_or(0, |base| self.values[base + at])
    }

    fn counts<'a>(&'a self, at: usize, bounds: &'a BucketBounds) -> HistogramCounts<'a> {
        let buckets = bounds.buckets();
        let sum = Duration::from_nanos(self.values[at + buckets]);
        HistogramCounts { bounds, counts: &self.values[at..at + buckets], sum }
    }
}
