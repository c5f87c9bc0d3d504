//! Where does randomness come from?
//!
//! xoshiro256++ seeded by SplitMix64 (D. Blackman, S. Vigna, "Scrambled linear pseudorandom number
//! generators", ACM TOMS 47, 2021): four words of state, the same numbers on every platform, for ever. Not
//! for secrets.

/// A small, portable, seeded generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut counter = seed;
        Self { state: std::array::from_fn(|_| split_mix(&mut counter)) }
    }

    /// An independent generator for one purpose under a seed: streams of different numbers do not overlap in
    /// practice.
    #[must_use]
    pub fn stream(seed: u64, stream: u64) -> Self {
        let mut counter = stream.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(0x2545_f491_4f6c_dd1d);
        let salt = split_mix(&mut counter);
        Self::new(seed ^ salt)
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let t = b << 17;
        let c = c ^ a;
        let d = d ^ b;
        self.state = [a ^ d, b ^ c, c ^ t, d.rotate_left(45)];
        result
    }

    /// Uniform in [0, 1).
    #[inline]
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in `0..bound` (Lemire's multiplication; the bias is below `bound / 2^64`).
    ///
    /// # Panics
    /// When `bound` is zero.
    #[inline]
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "nothing to choose from");
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Exponential with mean 1.
    #[inline]
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.uniform()).ln()
    }
}

/// SplitMix64: the next number of a counter.
#[inline]
pub(crate) fn split_mix(counter: &mut u64) -> u64 {
    *counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *counter;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_mix_gives_the_published_first_numbers_of_seed_1234567() {
        let mut counter = 1_234_567;
        let numbers: Vec<u64> = (0..3).map(|_| split_mix(&mut counter)).collect();
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn xoshiro_gives_the_published_first_numbers_of_state_1_2_3_4() {
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let numbers: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(numbers, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn uniform_numbers_have_mean_one_half_and_streams_differ() {
        let mut rng = Rng::stream(1, 2);
        let mean = (0..100_000).map(|_| rng.uniform()).sum::<f64>() / 1e5;
        // Standard error 0.29 / √100000 = 0.0009.
        assert!((mean - 0.5).abs() < 0.004, "{mean}");
        assert_ne!(Rng::stream(1, 2), Rng::stream(1, 3));
        assert_ne!(Rng::stream(1, 2), Rng::stream(2, 2));
    }
}
