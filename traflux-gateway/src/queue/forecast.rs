//! How long until a request of this band starts?

/// What is known about the service of one band, at one moment.
///
/// With `A` tokens of the band before a request of cost `c`, `H` tokens waiting in better bands, the measured rates
/// `R` of the queue and `R_b` of the band, and the minimum share `σ`:
///
/// ```text
/// wait = min( (A + c) / (σ·R),  max( (H + A) / R,  A / R_b ) )
/// ```
///
/// The first is guaranteed by the share; the second is the least that it takes; the third what it took lately, with
/// the better bands that came meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forecast {
    /// `1/R`.
    pub(super) seconds_per_token: f64,
    /// `1/R_b`, zero where not known.
    pub(super) band_seconds_per_token: f64,
    /// `1/(σ·R)`.
    pub(super) guaranteed_seconds_per_token: f64,
    pub(super) better_tokens: u64,
}

impl Forecast {
    /// In seconds.
    #[inline]
    pub(super) fn wait(&self, before: u64, cost: u64) -> f64 {
        // As i64, because that is one instruction; at most 2⁴⁰ tokens wait.
        let number = |tokens: u64| tokens as i64 as f64;
        let least = number(self.better_tokens + before) * self.seconds_per_token;
        let lately = number(before) * self.band_seconds_per_token;
        let guaranteed = number(before + cost) * self.guaranteed_seconds_per_token;
        guaranteed.min(least.max(lately))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_bounds_the_wait_behind_better_bands() {
        let forecast = Forecast {
            seconds_per_token: 0.01,
            band_seconds_per_token: 0.05,
            guaranteed_seconds_per_token: 0.125,
            better_tokens: 100_000,
        };
        // 50 + 10 tokens at an eighth of a second.
        assert_eq!(forecast.wait(50, 10), 7.5);
        let idle = Forecast { better_tokens: 0, ..forecast };
        assert_eq!(idle.wait(50, 10), 2.5);
        let unknown =
            Forecast { band_seconds_per_token: 0.0, guaranteed_seconds_per_token: f64::INFINITY, ..idle };
        assert_eq!(unknown.wait(50, 10), 0.5);
    }
}
