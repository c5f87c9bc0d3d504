//! How does a request come from Node?
//!
//! As one text with all its texts, apart by NUL, and numbers beside it: one text crosses the border several times faster
//! than an object. Their number is known, so a text that holds a NUL itself is an error and never shifts the others.

use napi::Result;
use traflux_core::Timestamp;
use traflux_gateway::request::NOTHING;
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{Client, Lookup, Request, TokenEstimate};

use crate::errors::input;

/// Texts that every request has.
const TEXTS: usize = 10;

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

/// What stands beside the texts.
pub(crate) struct Numbers {
    /// Headers.
    pub headers: u32,
    /// Claims.
    pub claims: u32,
    /// Tokens read.
    pub input: f64,
    /// Most tokens written.
    pub output: f64,
    /// Most tokens of one answer; NaN where nothing is said.
    pub max_answer: f64,
    /// 1: stream; 2: idempotent; 4: not idempotent.
    pub flags: u32,
    /// Bytes held.
    pub bytes: f64,
    /// Milliseconds since 1970; NaN: none.
    pub deadline_ms: f64,
}

/// A time of Node, milliseconds since 1970.
pub(crate) fn timestamp(ms: f64) -> Result<Timestamp> {
    std::time::Duration::try_from_secs_f64(ms * 1e-3)
        .map(Timestamp::new)
        .map_err(|_| input("input_time", format!("{ms} is no time in milliseconds since 1970")))
}

/// A number of pieces.
pub(crate) fn count(value: f64, what: &str) -> Result<u64> {
    // 2⁵³: every integer below is exact.
    if (0.0..=9_007_199_254_740_992.0).contains(&value) && value.fract() == 0.0 {
        Ok(value as u64)
    } else {
        Err(input("input_count", format!("{what} is {value}, expected an integer from 0 to 2^53")))
    }
}

/// Takes the texts apart and lets `use_it` have the request.
pub(crate) fn with_request<T>(
    text: &str,
    numbers: &Numbers,
    prompt: &[u8],
    use_it: impl FnOnce(&Request<'_>) -> T,
) -> Result<T> {
    let mut rest = text;
    let mut texts = [""; TEXTS];
    for (ix, place) in texts.iter_mut().enumerate() {
        let last = ix == TEXTS - 1 && numbers.headers == 0 && numbers.claims == 0;
        let (head, tail) = if last { (rest, "") } else { rest.split_once('\0').ok_or_else(broken)? };
        *place = head;
        rest = tail;
    }
    if memchr_zero(texts[TEXTS - 1]) {
        return Err(broken());
    }
    let (mut headers, mut claims) = (Pairs(""), Pairs(""));
    if numbers.headers > 0 || numbers.claims > 0 {
        let expected = (numbers.headers as usize + numbers.claims as usize) * 2;
        if rest.split('\0').count() != expected {
            return Err(broken());
        }
        let border = rest.match_indices('\0').nth((numbers.headers as usize * 2).wrapping_sub(1));
        match (numbers.headers, numbers.claims, border) {
            (0, _, _) => claims = Pairs(rest),
            (_, 0, _) | (_, _, None) => headers = Pairs(rest),
            (_, _, Some((at, _))) => (headers, claims) = (Pairs(&rest[..at]), Pairs(&rest[at + 1..])),
        }
    }
    let [method, host, path, query, tenant, key, user, user_tier, model, kind] = texts;
    let idempotence = match numbers.flags & 6 {
        2 => Idempotence::Idempotent,
        4 => Idempotence::NonIdempotent,
        _ => Idempotence::of_method(method, headers.value("idempotency-key").is_some()),
    };
    let request = Request {
        method,
        host,
        path,
        query,
        headers: if numbers.headers > 0 { &headers } else { &NOTHING },
        claims: if numbers.claims > 0 { &claims } else { &NOTHING },
        client: Client { tenant, key, user, user_tier },
        model,
        tokens: TokenEstimate {
            input: count(numbers.input, "inputTokens")?,
            output: count(numbers.output, "outputTokens")?,
        },
        max_answer: if numbers.max_answer.is_nan() {
            None
        } else {
            Some(count(numbers.max_answer, "maxAnswerTokens")?)
        },
        stream: numbers.flags & 1 == 1,
        idempotence,
        kind,
        prompt,
        bytes: count(numbers.bytes, "heldBytes")?,
        deadline: if numbers.deadline_ms.is_nan() { None } else { Some(timestamp(numbers.deadline_ms)?) },
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

fn memchr_zero(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

fn broken() -> napi::Error {
    input("input_text", "a text of the request holds a NUL character")
}
