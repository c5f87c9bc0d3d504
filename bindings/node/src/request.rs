//! How does a request come from Node?
//!
//! As one block of bytes that JavaScript wrote: one typed array crosses the border several times faster than an object,
//! and than texts, which have to be copied into strings on the way. In the byte order of the machine it holds
//!
//! | bytes | |
//! |---|---|
//! | 0 to 40 | `f64`: tokens read, most tokens written, most tokens of one answer (NaN: not said), bytes held, deadline in milliseconds since 1970 (NaN: none) |
//! | 40 to 52 | `u32`: flags (1 stream, 2 idempotent, 4 not idempotent), number of headers, number of claims |
//! | 52 to 96 | `u32`: where each of the ten texts ends, and where headers and claims end |
//! | from 96 | UTF-8: the texts, then name, value, name, value, apart by NUL |
//!
//! No text of a request may hold a NUL: none could go on as a header of HTTP.

use napi::Result;
use traflux_core::Timestamp;
use traflux_gateway::request::NOTHING;
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{Client, Lookup, Request, TokenEstimate};

use crate::errors::input;

/// Texts that every request has.
const TEXTS: usize = 10;
/// Numbers before them.
const NUMBERS: usize = 5;
/// Where the first text begins: after the numbers, three counts and the ends of the texts and of what follows them.
const HEAD: usize = NUMBERS * 8 + (3 + TEXTS + 1) * 4;

/// Values by name, apart by NUL: name, value, name, value.
struct Pairs<'a>(&'a str);

impl Lookup for Pairs<'_> {
    fn value(&self, name: &str) -> Option<&str> {
        let mut parts = self.0.split('\0');
        while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
            if key.eq_ignore_ascii_case(name) {
                return Some(value);
            }
        }
        None
    }
}

/// A time of Node, milliseconds since 1970.
pub(crate) fn timestamp(ms: f64) -> Result<Timestamp> {
    std::time::Duration::try_from_secs_f64(ms * 1e-3)
        .map(Timestamp::new)
        .map_err(|_| input("input_time", format!("{ms} is no time in milliseconds since 1970")))
}

/// A number of pieces.
pub(crate) fn count(value: f64, what: &str) -> Result<u64> {
    // 2⁵³: every integer below is exact. A fraction is lost on the way there and back.
    let whole = value as u64;
    if whole <= 1 << 53 && whole as f64 == value {
        Ok(whole)
    } else {
        Err(input("input_count", format!("{what} is {value}, expected an integer from 0 to 2^53")))
    }
}

/// Takes a block apart and lets `use_it` have the request.
pub(crate) fn with_request<T>(
    block: &[u8],
    prompt: &[u8],
    use_it: impl FnOnce(&Request<'_>) -> T,
) -> Result<T> {
    let (head, text) = block.split_at_checked(HEAD).ok_or_else(broken)?;
    let (numbers, words) = (head[..NUMBERS * 8].as_chunks::<8>().0, head[NUMBERS * 8..].as_chunks::<4>().0);
    let number = |at: usize| f64::from_ne_bytes(numbers[at]);
    let word = |at: usize| u32::from_ne_bytes(words[at]) as usize;
    let (flags, header_count, claim_count) = (word(0), word(1), word(2));
    let end = word(3 + TEXTS).checked_sub(HEAD).ok_or_else(broken)?;
    let text = text.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).ok_or_else(broken)?;
    let mut texts = [""; TEXTS];
    let mut from = 0;
    for (ix, place) in texts.iter_mut().enumerate() {
        let to = word(3 + ix).wrapping_sub(HEAD);
        *place = text.get(from..to).ok_or_else(broken)?;
        from = to;
    }
    let (texts_end, pairs) = (from, &text[from..]);
    if text.as_bytes()[..texts_end].contains(&0) {
        return Err(broken());
    }
    let (mut headers, mut claims) = (Pairs(""), Pairs(""));
    if header_count > 0 || claim_count > 0 {
        let expected = header_count.saturating_add(claim_count).saturating_mul(2);
        if pairs.split('\0').count() != expected {
            return Err(broken());
        }
        let border = pairs.match_indices('\0').nth((header_count * 2).wrapping_sub(1));
        match (header_count, claim_count, border) {
            (0, _, _) => claims = Pairs(pairs),
            (_, 0, _) | (_, _, None) => headers = Pairs(pairs),
            (_, _, Some((at, _))) => (headers, claims) = (Pairs(&pairs[..at]), Pairs(&pairs[at + 1..])),
        }
    }
    let [method, host, path, query, tenant, key, user, user_tier, model, kind] = texts;
    let idempotence = match flags & 6 {
        2 => Idempotence::Idempotent,
        4 => Idempotence::NonIdempotent,
        _ => Idempotence::of_method(method, headers.value("idempotency-key").is_some()),
    };
    let (max_answer, deadline_ms) = (number(2), number(4));
    let request = Request {
        method,
        host,
        path,
        query,
        headers: if header_count > 0 { &headers } else { &NOTHING },
        claims: if claim_count > 0 { &claims } else { &NOTHING },
        client: Client { tenant, key, user, user_tier },
        model,
        tokens: TokenEstimate {
            input: count(number(0), "inputTokens")?,
            output: count(number(1), "outputTokens")?,
        },
        max_answer: if max_answer.is_nan() { None } else { Some(count(max_answer, "maxAnswerTokens")?) },
        stream: flags & 1 == 1,
        idempotence,
        kind,
        prompt,
        bytes: count(number(3), "heldBytes")?,
        deadline: if deadline_ms.is_nan() { None } else { Some(timestamp(deadline_ms)?) },
    };
    Ok(use_it(&request))
}

/// Pairs of a text of so many.
pub(crate) fn pairs(text: &str, count: u32) -> Result<Vec<(&str, &str)>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = text.split('\0').collect();
    if parts.len() != count as usize * 2 {
        return Err(broken());
    }
    Ok(parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

fn broken() -> napi::Error {
    input("input_text", "a text of the request holds a NUL character")
}
