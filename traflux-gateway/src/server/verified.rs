//! Which tokens were verified before?
//!
//! A client sends the same token with each of its requests, and to verify a signature takes longer than all else that is
//! decided. What was found valid is kept by the SHA-256 of the whole token until its expiry, without the leeway that a
//! full verification grants; a clock that jumps back has it verified again. Only valid tokens have a place, so that
//! nobody without one drives others out. Keys that change make a new cache.
//!
//! Two generations bound it: a token that is used moves into the younger one, and when that is full it becomes the
//! older one, whose tokens are forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use crate::adapter::Claims;

/// Tokens of one generation in one part.
const MOST: usize = 256;
/// Parts with a lock each.
const PARTS: usize = 16;
/// Bytes of a token that is kept.
const MOST_BYTES: usize = 4096;

/// The name of a token.
pub(super) type Fingerprint = [u8; 32];

/// Claims of tokens that are valid.
#[derive(Debug, Default)]
pub(super) struct Verified {
    parts: Box<[Mutex<Generations>; PARTS]>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Fingerprint, Known>,
    old: HashMap<Fingerprint, Known>,
}

#[derive(Debug)]
struct Known {
    claims: Arc<Claims>,
    /// From which second to before which it counts, since the epoch of Unix.
    from: u64,
    until: u64,
}

/// The name of a token; none for one that is too long to be kept.
pub(super) fn fingerprint(token: &str) -> Option<Fingerprint> {
    (token.len() <= MOST_BYTES).then(|| Sha256::digest(token).into())
}

impl Verified {
    /// The claims of a token that was found valid and has not expired at a second since the epoch of Unix.
    pub(super) fn find(&self, token: &Fingerprint, now: u64) -> Option<Arc<Claims>> {
        let mut part = self.part(token);
        if let Some(known) = part.young.get(token) {
            return known.at(now);
        }
        let known = part.old.remove(token)?;
        let claims = known.at(now)?;
        part.keep(*token, known);
        Some(claims)
    }

    /// Keeps a token that was found valid at `now` and expires at `until`.
    pub(super) fn keep(&self, token: Fingerprint, claims: Arc<Claims>, now: u64, until: u64) {
        if now < until {
            self.part(&token).keep(token, Known { claims, from: now, until });
        }
    }

    fn part(&self, token: &Fingerprint) -> MutexGuard<'_, Generations> {
        self.parts[usize::from(token[0]) % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn keep(&mut self, token: Fingerprint, known: Known) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(token, known);
    }
}

impl Known {
    fn at(&self, now: u64) -> Option<Arc<Claims>> {
        (self.from..self.until).contains(&now).then(|| Arc::clone(&self.claims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the part `0`.
    fn token(number: u64) -> Fingerprint {
        let mut token = [0; 32];
        token[24..].copy_from_slice(&number.to_be_bytes());
        token
    }

    #[test]
    fn a_token_counts_from_its_verification_until_its_expiry() {
        let verified = Verified::default();
        verified.keep(token(1), Arc::default(), 100, 160);
        for (now, counts) in [(99, false), (100, true), (159, true), (160, false), (161, false), (120, true)]
        {
            assert_eq!(verified.find(&token(1), now).is_some(), counts, "{now}");
        }
        verified.keep(token(2), Arc::default(), 100, 100);
        assert!(verified.find(&token(2), 100).is_none());
        assert!(verified.find(&token(3), 100).is_none());
    }

    #[test]
    fn tokens_are_bounded_and_those_in_use_stay() {
        let verified = Verified::default();
        let in_use = token(0);
        verified.keep(in_use, Arc::default(), 0, 10);
        for number in 1..100_000 {
            verified.keep(token(number), Arc::default(), 0, 10);
            if number % 100 == 0 {
                assert!(verified.find(&in_use, 1).is_some(), "{number}");
            }
        }
        let part = verified.part(&in_use);
        assert!(part.young.len() <= MOST && part.old.len() <= MOST);
        drop(part);
        assert!(verified.find(&token(99_999), 1).is_some() && verified.find(&token(1), 1).is_none());
    }

    #[test]
    fn long_tokens_are_not_kept_and_others_differ_by_each_character() {
        assert!(fingerprint(&"x".repeat(MOST_BYTES)).is_some());
        assert_eq!(fingerprint(&"x".repeat(MOST_BYTES + 1)), None);
        assert_ne!(fingerprint("a.b.c"), fingerprint("a.b.d"));
    }
}
