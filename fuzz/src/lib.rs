//! Which bytes break a promise of Traflux?
//!
//! Each module has one function `check`, which takes arbitrary bytes and panics where a promise is broken. The
//! programs under `targets/` hand it to libFuzzer; see `README.md` for how to run them.

pub mod answer;
pub mod config;
pub mod engine;
pub mod headers;
pub mod identity;
pub mod levels;
pub mod limiter;
pub mod metrics;
pub mod networks;
pub mod queue;
pub mod requests;
pub mod rules;
pub mod sse;

use libfuzzer_sys::arbitrary::Unstructured;

/// One of a few values.
fn one<T: Clone>(bytes: &mut Unstructured<'_>, of: &[T]) -> T {
    let ix = number(bytes, of.len() as u64 - 1);
    of[ix as usize].clone()
}

/// A number up to `most`; 0 when the bytes are used up.
fn number(bytes: &mut Unstructured<'_>, most: u64) -> u64 {
    bytes.int_in_range(0..=most).unwrap_or(0)
}

/// A coin.
fn coin(bytes: &mut Unstructured<'_>) -> bool {
    number(bytes, 1) == 1
}

/// Cuts bytes into chunks of the lengths that `lengths` says, over and over.
fn chunks<'a>(mut bytes: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut cut = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() || lengths.is_empty() {
            break;
        }
        let (chunk, rest) = bytes.split_at(usize::from(*length).clamp(1, bytes.len()));
        cut.push(chunk);
        bytes = rest;
    }
    cut
}
