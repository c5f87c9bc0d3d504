//! What makes requests belong together?

/// A 64-bit hash of what requests have in common; the same in every process and on every machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AffinityKey(pub u64);

impl AffinityKey {
    /// The key of a header, cookie or user.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(hash(bytes, 0))
    }

    /// The key within a scope (a tenant, an API key, a tier), so that equal values of two scopes do not meet.
    #[inline]
    #[must_use]
    pub fn scoped(self, scope: AffinityKey) -> Self {
        Self(fold(self.0 ^ SALT[0], scope.0 ^ SALT[1]))
    }

    /// The key of the first whole blocks of a prompt; of all of it where it has no whole block.
    #[must_use]
    pub fn of_prefix(prompt: &[u8], block_bytes: usize, blocks: usize) -> Self {
        let block_bytes = block_bytes.max(1);
        let whole = (prompt.len() / block_bytes).min(blocks);
        let end = if whole == 0 { prompt.len() } else { whole * block_bytes };
        Self::of(&prompt[..end])
    }
}

/// The keys of a prompt's first block, first two blocks, and so on up to `blocks` into `chain`; returns how many there
/// are. Of a prompt without a whole block, one key of all of it.
///
/// Each is the hash of its block, seeded by the one before, as caches of prefixes number their blocks; so the
/// whole chain costs one pass. Where there are more blocks than places, those of the first 1, 2, 3, 4, 6, 8, 12, 16, 24
/// blocks and so on are kept, and that of all: 16 places do for 256 blocks, and two prompts that begin alike share the
/// key of at least two thirds of it.
pub fn prefix_chain(prompt: &[u8], block_bytes: usize, blocks: usize, chain: &mut [AffinityKey]) -> usize {
    let block_bytes = block_bytes.max(1);
    if prompt.len() < block_bytes {
        let Some(first) = chain.first_mut() else { return 0 };
        *first = AffinityKey(hash(prompt, 0));
        return 1;
    }
    let each = blocks <= chain.len();
    let (mut before, mut count, mut next) = (0, 0, 1);
    for (number, block) in (1..=blocks).zip(prompt.chunks_exact(block_bytes)) {
        before = hash(block, before);
        if number < next && number < blocks {
            continue;
        }
        let Some(key) = chain.get_mut(count) else { break };
        *key = AffinityKey(before);
        count += 1;
        next = if each || number < 4 {
            number + 1
        } else if number.is_power_of_two() {
            number + number / 2
        } else {
            number / 3 * 4
        };
    }
    count
}

/// Odd constants with evenly mixed bits: the first digits of √2, √3, √5 in binary.
const SALT: [u64; 3] = [0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b];

/// The halves of the 128-bit product, one upon the other.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A hash of bytes: 16 at a time are folded in by a wide multiplication, the scheme of Wang Yi's wyhash. Not
/// for adversaries: whoever may choose keys at will can make them meet, which costs balance, not correctness.
#[must_use]
pub(crate) fn hash(bytes: &[u8], seed: u64) -> u64 {
    let word = |bytes: &[u8]| {
        let mut padded = [0u8; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(padded)
    };
    let mut state = seed ^ fold(seed ^ SALT[0], bytes.len() as u64 ^ SALT[1]);
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        state = fold(word(&chunk[..8]) ^ SALT[1], word(&chunk[8..]) ^ state);
    }
    let rest = chunks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    state = fold(word(low) ^ SALT[2], word(high) ^ state);
    fold(state ^ SALT[0], SALT[1])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_flipped_bit_flips_half_of_the_hash() {
        for len in [1, 7, 8, 9, 16, 17, 40] {
            let bytes: Vec<u8> = (0..len as u8).collect();
            let before = hash(&bytes, 0);
            let mut flipped = 0;
            for bit in 0..len * 8 {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                flipped += (hash(&other, 0) ^ before).count_ones();
            }
            // Of 64·8·len fair coins; four standard deviations.
            let coins = (64 * 8 * len) as f64;
            assert!((f64::from(flipped) - coins / 2.0).abs() < 4.0 * coins.sqrt() / 2.0, "{len}: {flipped}");
        }
    }

    #[test]
    fn short_strings_do_not_collide() {
        let hashes: HashSet<u64> =
            (0..200_000u32).map(|ix| hash(format!("user-{ix}").as_bytes(), 0)).collect();
        assert_eq!(hashes.len(), 200_000);
        assert_ne!(hash(b"", 0), hash(b"\0", 0));
        assert_ne!(hash(b"a", 0), hash(b"a", 1));
    }

    #[test]
    fn the_hash_is_part_of_the_contract() {
        // Gateways of one fleet must agree; a change here moves every session.
        assert_eq!(AffinityKey::of(b"user-1").0, 5_880_827_937_476_663_523);
    }

    #[test]
    fn prompts_that_begin_alike_share_the_keys_of_what_is_alike() {
        let one = [b"system prompt ".repeat(20), b"what is the time?".repeat(20)].concat();
        let two = [b"system prompt ".repeat(20), b"and the weather?".repeat(20)].concat();
        let mut chains = [[AffinityKey(0); 8]; 2];
        let counts = [prefix_chain(&one, 64, 8, &mut chains[0]), prefix_chain(&two, 64, 8, &mut chains[1])];
        assert_eq!(counts, [8, 8]);
        // 280 bytes are alike: four blocks of 64.
        assert_eq!(chains[0][..4], chains[1][..4]);
        assert!((4..8).all(|ix| chains[0][ix] != chains[1][ix]));
        assert_eq!(AffinityKey::of_prefix(&one, 64, 4), AffinityKey::of_prefix(&two, 64, 4));
        assert_ne!(AffinityKey::of_prefix(&one, 64, 5), AffinityKey::of_prefix(&two, 64, 5));
    }

    #[test]
    fn prompts_of_more_blocks_than_places_are_told_apart_by_their_length() {
        let mut every = [AffinityKey(0); 256];
        let prompt: Vec<u8> = (0..256 * 64_u32).map(|ix| ((ix * ix) >> 7) as u8).collect();
        assert_eq!(prefix_chain(&prompt, 64, 256, &mut every), 256);
        let mut chain = [AffinityKey(0); 16];
        let kept = |blocks: usize, bytes: usize, chain: &mut [AffinityKey]| {
            let count = prefix_chain(&prompt[..bytes], 64, blocks, chain);
            let number = |key| every.iter().position(|one| one == key).unwrap() + 1;
            chain[..count].iter().map(number).collect::<Vec<_>>()
        };
        let steps = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
        assert_eq!(kept(256, prompt.len(), &mut chain), steps);
        assert_eq!(kept(256, 64 * 23, &mut chain), steps[..8]);
        assert_eq!(kept(20, prompt.len(), &mut chain), [&steps[..8], &[20]].concat());
        assert_eq!(kept(16, prompt.len(), &mut chain), (1..=16).collect::<Vec<_>>());
        assert_eq!(kept(200, prompt.len(), &mut chain).len(), 16);
    }

    #[test]
    fn a_short_prompt_has_one_key_and_scopes_do_not_meet() {
        let mut chain = [AffinityKey(0); 4];
        assert_eq!(prefix_chain(b"hi", 64, 4, &mut chain), 1);
        assert_eq!(chain[0], AffinityKey::of_prefix(b"hi", 64, 4));
        let key = AffinityKey::of(b"session");
        assert_ne!(key.scoped(AffinityKey::of(b"tenant a")), key.scoped(AffinityKey::of(b"tenant b")));
    }
}
