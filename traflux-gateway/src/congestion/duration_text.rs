//! How long is `6m0s`?
//!
//! Durations in response headers come as bare seconds (`11.38`), as numbers with units (`1s`, `120ms`,
//! `2m59.56s`) or as a moment. Arithmetic is in integers, so nothing is rounded twice; functions are total.

use std::time::Duration;

/// No duration is written with more bytes.
const MAX_LENGTH: usize = 64;
const SECOND: u64 = 1_000_000_000;

/// Reads numbers with units: `d`, `h`, `m`, `s`, `ms`, `us`, `µs`, `ns`, as `1h2m3.5s`. At least one; a number
/// without unit is none.
#[must_use]
pub fn duration_with_units(bytes: &[u8]) -> Option<Duration> {
    if bytes.is_empty() || bytes.len() > MAX_LENGTH {
        return None;
    }
    let mut rest = bytes;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let length = rest.iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        let value = decimal(&rest[..length])?;
        rest = &rest[length..];
        let length = rest.iter().take_while(|b| !b.is_ascii_digit() && **b != b'.').count();
        let part = match &rest[..length] {
            b"ns" => value.over(1_000_000_000),
            b"us" | b"\xc2\xb5s" | b"\xce\xbcs" => value.over(1_000_000), // also with a micro sign or a Greek mu
            b"ms" => value.over(1_000),
            b"s" => value.times(1),
            b"m" => value.times(60),
            b"h" => value.times(3_600),
            b"d" => value.times(86_400),
            _ => return None,
        };
        total = total.saturating_add(part);
        rest = &rest[length..];
    }
    Some(total)
}

/// Reads a bare decimal number of seconds.
#[must_use]
pub fn seconds(bytes: &[u8]) -> Option<Duration> {
    decimal(bytes).map(|value| value.times(1))
}

/// Reads a bare decimal number of milliseconds.
#[must_use]
pub fn milliseconds(bytes: &[u8]) -> Option<Duration> {
    decimal(bytes).map(|value| value.over(1_000))
}

/// A non-negative whole number; a fraction is cut off, numbers beyond 64 bits saturate.
pub(crate) fn whole_number(bytes: &[u8]) -> Option<u64> {
    decimal(bytes).map(|value| value.whole)
}

/// A non-negative decimal number: its whole part, and its fraction in 10⁻⁹, below 10⁹.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal {
    pub(crate) whole: u64,
    pub(crate) fraction: u32,
}

impl Decimal {
    /// The time of so many units of `seconds` each, at most a day, saturating.
    fn times(self, seconds: u32) -> Duration {
        let fraction = u64::from(self.fraction) * u64::from(seconds);
        let whole = self.whole.saturating_mul(u64::from(seconds)).saturating_add(fraction / SECOND);
        Duration::new(whole, (fraction % SECOND) as u32)
    }

    /// The time of so many units of which `per_second` make a second, a power of ten up to 10⁹.
    fn over(self, per_second: u64) -> Duration {
        let nanos = self.whole % per_second * (SECOND / per_second) + u64::from(self.fraction) / per_second;
        Duration::new(self.whole / per_second, nanos as u32)
    }
}

/// Reads digits with at most one point and nothing else. Digits after the ninth decimal are dropped, numbers
/// beyond 64 bits saturate.
pub(crate) fn decimal(bytes: &[u8]) -> Option<Decimal> {
    if bytes.len() > MAX_LENGTH {
        return None;
    }
    let (mut whole, mut fraction, mut place) = (0u64, 0u32, SECOND as u32);
    let (mut digits, mut after_point) = (0, false);
    for byte in bytes {
        match byte {
            b'.' if !after_point => after_point = true,
            b'0'..=b'9' if after_point => {
                place /= 10;
                fraction += u32::from(byte - b'0') * place;
                digits += 1;
            }
            b'0'..=b'9' => {
                whole = whole.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                digits += 1;
            }
            _ => return None,
        }
    }
    (digits > 0).then_some(Decimal { whole, fraction })
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
        assert_eq!(duration_with_units(b"99999999999999999999999d"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(whole_number(b"99999999999999999999999"), Some(u64::MAX));
    }
}
