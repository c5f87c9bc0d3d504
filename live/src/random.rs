//! Where do seeded random numbers come from?

/// SplitMix64 (Steele, Lea and Flood, 2014): 64 bits of state, good enough for arrivals and service times.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence that depends on nothing but the seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Exponential with mean 1: gaps of a Poisson process.
    pub(crate) fn exponential(&mut self) -> f64 {
        -self.uniform().ln()
    }

    /// Log-normal with median 1, by Box and Muller.
    pub(crate) fn lognormal(&mut self, sigma: f64) -> f64 {
        let normal = (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
        (sigma * normal).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_mean_one_and_service_times_have_median_one() {
        let mut random = Random::new(7);
        let n = 20_000;
        let mean: f64 = (0..n).map(|_| random.exponential()).sum::<f64>() / f64::from(n);
        // Standard error 1/√n = 0.007.
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        let below = (0..n).filter(|_| random.lognormal(0.35) < 1.0).count() as f64 / f64::from(n);
        assert!((below - 0.5).abs() < 0.015, "{below}");
    }
}
