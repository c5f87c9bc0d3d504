//! How long is `6m0s`?
//!
//! Durations in response headers come as bare seconds (`11.38`), as numbers with units (`1s`, `120ms`,
//! `2m59.56s`) or as a moment. Arithmetic is in integers, so nothing is rounded twice; functions are total.

use std::time::Duration;

/// No duration is written with more bytes.
const MAX_LENGTH: usize = 64;
const SECOND: u128 = 1_000_000_000;

/// Reads numbers with units: `d`, `h`, `m`, `s`, `ms`, `us`, `µs`, `ns`, as `1h2m3.5s`. At least one; a number
/// without unit is none.
#[must_use]
pub fn duration_with_units(bytes: &[u8]) -> Option<Duration> {
    if bytes.is_empty() || bytes.len() > MAX_LENGTH {
        return None;
    }
    let mut rest = bytes;
    let mut total = 0u128;
    while !rest.is_empty() {
        let length = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        let value = decimal_nanos(&rest[..length])?;
        rest = &rest[length..];
        let length = rest.iter().take_while(|b| !b.is_ascii_digit() && **b != b'.').count();
        let unit = match &rest[..length] {
            b"ns" => 1,
            b"us" | b"\xc2\xb5s" | b"\xce\xbcs" => 1_000, // also with a micro sign or a Greek mu
            b"ms" => 1_000_000,
            b"s" => SECOND,
            b"m" => 60 * SECOND,
            b"h" => 3_600 * SECOND,
            b"d" => 86_400 * SECOND,
            _ => return None,
        };
        total = total.saturating_add(value.saturating_mul(unit) / SECOND);
        rest = &rest[length..];
    }
    Some(from_nanos(total))
}

/// Reads a bare decimal number of seconds.
#[must_use]
pub fn seconds(bytes: &[u8]) -> Option<Duration> {
    decimal_nanos(bytes).map(from_nanos)
}

/// Reads a bare decimal number of milliseconds.
#[must_use]
pub fn milliseconds(bytes: &[u8]) -> Option<Duration> {
    decimal_nanos(bytes).map(|value| from_nanos(value / 1_000))
}

/// A non-negative decimal number times 10⁹: digits, at most one point, nothing else. Digits after the ninth
/// decimal are dropped, numbers beyond 64 bits saturate.
pub(crate) fn decimal_nanos(bytes: &[u8]) -> Option<u128> {
    if bytes.len() > MAX_LENGTH {
        return None;
    }
    let point = bytes.iter().position(|b| *b == b'.').unwrap_or(bytes.len());
    let (whole, fraction) = (&bytes[..point], bytes.get(point + 1..).unwrap_or(&[]));
    if whole.len() + fraction.len() == 0 || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |b: &u8| u64::from(b - b'0');
    let whole = whole.iter().fold(0u64, |sum, b| sum.saturating_mul(10).saturating_add(digit(b)));
    let nanos = fraction.iter().chain(std::iter::repeat(&b'0')).take(9).fold(0, |sum, b| sum * 10 + digit(b));
    Some(u128::from(whole) * SECOND + u128::from(nanos))
}

/// A non-negative whole number; a fraction is cut off, numbers beyond 64 bits saturate.
pub(crate) fn whole_number(bytes: &[u8]) -> Option<u64> {
    decimal_nanos(bytes).map(|value| u64::try_from(value / SECOND).unwrap_or(u64::MAX))
}

fn from_nanos(nanos: u128) -> Duration {
    u64::try_from(nanos / SECOND).map_or(Duration::MAX, |whole| Duration::new(whole, (nanos % SECOND) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_providers_are_read_exactly() {
        let cases = [
            ("6m0s", Duration::from_secs(360)),
            ("1s", Duration::from_secs(1)),
            ("120ms", Duration::from_millis(120)),
            ("2m59.56s", Duration::from_millis(179_560)),
            ("1h2m3.5s", Duration::from_millis(3_723_500)),
            ("7.66s", Duration::from_millis(7_660)),
            ("1d", Duration::from_secs(86_400)),
            ("17µs", Duration::from_micros(17)),
        ];
        for (text, expected) in cases {
            assert_eq!(duration_with_units(text.as_bytes()), Some(expected), "{text}");
        }
        assert_eq!(seconds(b"11.382867097854614"), Some(Duration::new(11, 382_867_097)));
        assert_eq!(milliseconds(b"1250.5"), Some(Duration::from_micros(1_250_500)));
    }

    #[test]
    fn what_is_no_duration_is_none_and_what_is_too_large_saturates() {
        for text in ["", "s", "1", "1x", "-1s", "1.2.3s", "1s ", "٣s", "1e3s", "."] {
            assert_eq!(duration_with_units(text.as_bytes()), None, "{text}");
        }
        assert_eq!(seconds(b"-5"), None);
        assert_eq!(seconds(b"nan"), None);
        assert_eq!(duration_with_units(b"99999999999999999999999d"), Some(Duration::MAX));
        assert_eq!(whole_number(b"99999999999999999999999"), Some(u64::MAX));
    }
}
