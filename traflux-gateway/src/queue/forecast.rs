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
    pub(super) rate: f64,
    pub(super) band_rate: Option<f64>,
    pub(super) guaranteed_rate: f64,
    pub(super) better_tokens: u64,
}

impl Forecast {
    /// In seconds.
    #[inline]
    pub(super) fn wait(&self, before: u64, cost: u64) -> f64 {
        let least = (self.better_tokens + before) as f64 / self.rate;
        let lately = self.band_rate.map_or(0.0, |r| before as f64 / r);
        let guaranteed = (before + cost) as f64 / self.guaranteed_rate;
        guaranteed.min(least.max(lately))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_bounds_the_wait_behind_better_bands() {
        let forecast =
            Forecast { rate: 100.0, band_rate: Some(20.0), guaranteed_rate: 10.0, better_tokens: 100_000 };
        // 50 + 10 tokens at a tenth of 100 tokens/s.
        assert_eq!(forecast.wait(50, 10), 6.0);
        let idle = Forecast { better_tokens: 0, ..forecast };
        assert_eq!(idle.wait(50, 10), 2.5);
        assert_eq!(Forecast { band_rate: None, guaranteed_rate: 0.0, ..idle }.wait(50, 10), 0.5);
    }
}
