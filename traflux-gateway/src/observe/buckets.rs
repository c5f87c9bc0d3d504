//! Into which bucket falls a latency?
//!
//! Bounds are any ascending list of durations, so that a latency objective can be one of them exactly (what an
//! alert needs). The bucket of a value is found in constant time: a table over the value's exponent and its
//! next four bits names the first bucket that can hold it (the index of HDR histograms), and at most a few
//! comparisons remain; with the default bounds, one.

use std::time::Duration;

use crate::error::GatewayError;

/// Most bounds a histogram may have: more would be a series each.
pub const BOUNDS_LIMIT: usize = 128;

/// 16 values below 2⁴, then 16 parts of each power of two up to 2⁶³.
const CELLS: usize = 16 * 61;

/// Upper bounds of the buckets of a histogram; a value belongs to the first bound that is not below it, and
/// beyond the last to the bucket `+Inf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketBounds {
    nanos: Vec<u64>,
    first: Box<[u8]>,
}

impl BucketBounds {
    /// The histogram with these upper bounds.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] unless the bounds are 1 to [`BOUNDS_LIMIT`], positive and ascending.
    pub fn new(bounds: &[Duration]) -> Result<Self, GatewayError> {
        let nanos: Vec<u64> = bounds.iter().map(|bound| nanos(*bound)).collect();
        let ascending =
            nanos.windows(2).all(|pair| pair[0] < pair[1]) && nanos.first().is_some_and(|n| *n > 0);
        if !ascending || nanos.len() > BOUNDS_LIMIT {
            return Err(GatewayError::setting(
                "bounds",
                format!("{bounds:?}"),
                "1 to 128 positive, ascending durations",
            ));
        }
        let first = (0..CELLS)
            .map(|cell| {
                let least = least_of(cell);
                nanos.iter().take_while(|bound| **bound < least).count() as u8
            })
            .collect();
        Ok(Self { nanos, first })
    }

    /// 1, 1.5, 2, 3, 5 and 7 times each power of ten from `least` over `decades` decades. A quantile is off by
    /// less than its bucket is wide, 33 to 67 % of the bucket's lower bound; where values are spread smoothly,
    /// interpolation leaves a few per cent.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] where `least` is zero, or no decade or more than 20 are asked for.
    pub fn decades(least: Duration, decades: u32) -> Result<Self, GatewayError> {
        const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];
        let mut bounds = Vec::new();
        for decade in 0..decades.min(21) {
            let scale = 10u64.saturating_pow(decade);
            let step =
                |step| Duration::from_nanos(nanos(least).saturating_mul(scale).saturating_mul(step) / 10);
            bounds.extend(STEPS.map(step));
        }
        Self::new(&bounds)
    }

    /// The same with one bound more, such as a latency objective.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(&self, bound: Duration) -> Result<Self, GatewayError> {
        let mut bounds: Vec<_> = self.bounds().collect();
        if let Err(at) = bounds.binary_search(&bound) {
            bounds.insert(at, bound);
        }
        Self::new(&bounds)
    }

    /// The upper bounds; the bucket beyond the last is not among them.
    pub fn bounds(&self) -> impl ExactSizeIterator<Item = Duration> + '_ {
        self.nanos.iter().map(|nanos| Duration::from_nanos(*nanos))
    }

    /// Number of buckets, the one beyond the last bound included.
    #[must_use]
    pub fn buckets(&self) -> usize {
        self.nanos.len() + 1
    }

    /// The bucket of a duration.
    #[must_use]
    pub fn bucket(&self, duration: Duration) -> usize {
        self.bucket_of(nanos(duration))
    }

    /// The bucket of a number of nanoseconds.
    #[inline]
    #[must_use]
    pub fn bucket_of(&self, nanos: u64) -> usize {
        let mut bucket = usize::from(self.first[cell_of(nanos)]);
        while self.nanos.get(bucket).is_some_and(|bound| *bound < nanos) {
            bucket += 1;
        }
        bucket
    }

    /// The quantile `share` (0 to 1) of counts by bucket, interpolated linearly within its bucket as Prometheus
    /// does; beyond the last bound that bound, `None` without values.
    #[must_use]
    pub fn quantile(&self, counts: &[u64], share: f64) -> Option<Duration> {
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = *count as f64;
            if below + count >= rank {
                let Some(upper) = self.nanos.get(bucket) else { break };
                let lower = if bucket == 0 { 0 } else { self.nanos[bucket - 1] };
                let inside = (rank - below) / count * (upper - lower) as f64;
                return Some(Duration::from_nanos(lower + inside as u64));
            }
            below += count;
        }
        self.nanos.last().map(|nanos| Duration::from_nanos(*nanos))
    }
}

/// Nanoseconds of a duration, at most `u64::MAX` (584 years).
#[inline]
pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// Exponent and the four bits after the leading one; values below 16 are their own cell.
#[inline]
fn cell_of(value: u64) -> usize {
    let exponent = 63 - (value | 1).leading_zeros();
    if exponent < 4 {
        return value as usize;
    }
    ((exponent - 3) as usize) * 16 + ((value >> (exponent - 4)) & 15) as usize
}

/// The least value of a cell.
fn least_of(cell: usize) -> u64 {
    if cell < 16 {
        return cell as u64;
    }
    let exponent = cell / 16 + 3;
    (16 + (cell % 16) as u64) << (exponent - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_first_bound_not_below_it() {
        let bounds = BucketBounds::decades(Duration::from_millis(1), 6).unwrap();
        let all: Vec<u64> = bounds.bounds().map(nanos).collect();
        let mut values: Vec<u64> = all.iter().flat_map(|b| [b - 1, *b, b + 1]).collect();
        values.extend((0..64).flat_map(|shift| [1u64 << shift, (1 << shift) - 1, (1 << shift) + 1]));
        values.extend([0, u64::MAX]);
        for value in values {
            let expected = all.iter().position(|bound| value <= *bound).unwrap_or(all.len());
            assert_eq!(bounds.bucket_of(value), expected, "{value}");
        }
    }

    #[test]
    fn an_objective_becomes_a_bound_once() {
        let bounds = BucketBounds::decades(Duration::from_millis(1), 2).unwrap();
        let with = bounds.with(Duration::from_millis(4)).unwrap();
        assert_eq!(with.buckets(), bounds.buckets() + 1);
        assert_eq!(with.with(Duration::from_millis(4)).unwrap(), with);
        assert_eq!(with.bucket(Duration::from_millis(4)) + 1, with.bucket(Duration::from_nanos(4_000_001)));
    }

    #[test]
    fn bounds_that_do_not_ascend_are_refused() {
        let ms = Duration::from_millis;
        for bad in
            [vec![], vec![ms(0), ms(1)], vec![ms(2), ms(1)], vec![ms(1), ms(1)], (1..200).map(ms).collect()]
        {
            assert!(BucketBounds::new(&bad).is_err(), "{bad:?}");
        }
        assert!(BucketBounds::decades(Duration::ZERO, 3).is_err());
        assert!(BucketBounds::decades(ms(1), 30).is_err());
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        let bounds = BucketBounds::new(&[1, 2, 4].map(Duration::from_secs)).unwrap();
        let quantile = |counts: &[u64], share| bounds.quantile(counts, share).map(|d| d.as_secs_f64());
        assert_eq!(quantile(&[0, 10, 10, 0], 0.25), Some(1.5));
        assert_eq!(quantile(&[0, 10, 10, 0], 0.75), Some(3.0));
        assert_eq!(quantile(&[0, 0, 0, 3], 0.5), Some(4.0));
        assert_eq!(quantile(&[0; 4], 0.5), None);
    }
}
