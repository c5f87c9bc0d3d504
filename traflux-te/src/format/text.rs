//! Which number or word stands where in a text?

use std::borrow::Cow;

use traflux_core::units::{BitRate, Latency};

use super::error::{FormatError, Place};
use super::unit::RateUnit;

/// The text of a file; every position is an offset in bytes and becomes line and column only in an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
}

/// What a number may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Range {
    Finite,
    NotNegative,
    Positive,
}

impl Range {
    pub(super) fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Finite => true,
                Self::NotNegative => value >= 0.0,
                Self::Positive => value > 0.0,
            }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Finite => "a finite number",
            Self::NotNegative => "a finite number that is not negative",
            Self::Positive => "a finite positive number",
        }
    }
}

impl<'a> Source<'a> {
    /// Line and column of an offset.
    pub(super) fn place(&self, at: usize) -> Place {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place { file: None, line, column: before[start..].chars().count() + 1 }
    }

    /// The offset of a slice of this very text.
    pub(super) fn at(&self, slice: &str) -> usize {
        (slice.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    /// The lines that are not blank, trimmed.
    pub(super) fn lines(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.text.lines().map(str::trim).filter(|line| !line.is_empty())
    }

    pub(super) fn end(&self) -> usize {
        self.text.len()
    }

    pub(super) fn syntax(
        &self,
        at: usize,
        expected: impl Into<Cow<'static, str>>,
        found: &str,
    ) -> FormatError {
        FormatError::Syntax { place: self.place(at), expected: expected.into(), found: quoted(found) }
    }

    /// As [`Source::syntax`] where another parser tells what it found.
    pub(super) fn problem(&self, at: usize, expected: &'static str, problem: &str) -> FormatError {
        let found = shortened(problem, 100);
        FormatError::Syntax { place: self.place(at), expected: expected.into(), found }
    }

    pub(super) fn value(
        &self,
        at: usize,
        what: &'static str,
        expected: &'static str,
        found: &str,
    ) -> FormatError {
        FormatError::Value { place: self.place(at), what, expected, found: quoted(found) }
    }

    pub(super) fn unknown_node(&self, at: usize, node: &str) -> FormatError {
        FormatError::UnknownNode { place: self.place(at), node: quoted(node) }
    }

    pub(super) fn duplicate(&self, at: usize, what: &'static str, name: &str) -> FormatError {
        FormatError::Duplicate { place: self.place(at), what, name: quoted(name) }
    }

    pub(super) fn count(&self, at: usize, what: &'static str, found: usize, expected: usize) -> FormatError {
        FormatError::Count { place: self.place(at), what, found, expected }
    }

    pub(super) fn too_large(&self, at: usize, what: &'static str, found: usize, limit: usize) -> FormatError {
        FormatError::TooLarge { place: self.place(at), what, found, limit }
    }

    /// A number of the given range.
    pub(super) fn number(
        &self,
        at: usize,
        text: &str,
        what: &'static str,
        range: Range,
    ) -> Result<f64, FormatError> {
        match text.parse() {
            Ok(value) if range.holds(value) => Ok(value),
            _ => Err(self.value(at, what, range.name(), text)),
        }
    }

    /// A count or an index.
    pub(super) fn integer(&self, at: usize, text: &str, what: &'static str) -> Result<usize, FormatError> {
        text.parse().map_err(|_| self.value(at, what, "a whole number that is not negative", text))
    }

    /// A rate of the given range, converted to bit/s.
    pub(super) fn rate(
        &self,
        at: usize,
        text: &str,
        unit: RateUnit,
        what: &'static str,
        range: Range,
    ) -> Result<BitRate, FormatError> {
        let rate =
            unit.read(text).filter(|value| range.holds(*value)).and_then(|value| BitRate::new(value).ok());
        rate.ok_or_else(|| self.value(at, what, range.name(), text))
    }

    /// A delay given as a number of `10^exponent` seconds.
    pub(super) fn delay(&self, at: usize, text: &str, exponent: i32) -> Result<Latency, FormatError> {
        let delay = parse_shifted(text, exponent).and_then(|value| Latency::new(value).ok());
        delay.ok_or_else(|| self.value(at, "a delay", Range::NotNegative.name(), text))
    }

    /// A unit that the file names.
    pub(super) fn unit(&self, at: usize, text: &str) -> Result<RateUnit, FormatError> {
        text.parse().map_err(|_| FormatError::Unit { place: self.place(at), found: quoted(text) })
    }
}

/// A piece of the input as an error shows it: in backticks and short, `nothing` where it ends.
pub(super) fn quoted(text: &str) -> String {
    match text.trim() {
        "" => "nothing".into(),
        text => format!("`{}`", shortened(text, 40)),
    }
}

/// At most `longest` characters, without control characters.
pub(super) fn shortened(text: &str, longest: usize) -> String {
    let mut short = String::new();
    for character in text.chars().take(longest) {
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    if text.chars().nth(longest).is_some() {
        short.push('…');
    }
    short
}

/// A number times ten to a power, rounded once; not necessarily finite.
pub(super) fn parse_shifted(text: &str, exponent: i32) -> Option<f64> {
    let plain: f64 = text.parse().ok()?;
    if exponent == 0 || !text.contains(|c: char| c.is_ascii_digit()) {
        return Some(plain);
    }
    let (mantissa, written) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    // An exponent that no integer holds has long made the number zero or infinite.
    let Ok(written) = written.parse::<i64>() else {
        return Some(plain);
    };
    format!("{mantissa}e{}", written.saturating_add(i64::from(exponent))).parse().ok()
}

/// A number times ten to a power in the fewest digits that read back as the same `f64`.
pub(super) fn decimal(value: f64, exponent: i32) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, power)) = scientific.split_once('e') else {
        return scientific;
    };
    let power = power.parse::<i32>().unwrap_or(0) + exponent;
    let sign = if value < 0.0 { "-" } else { "" };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let length = digits.len() as i32;
    match power {
        0..=20 if length <= power + 1 => {
            format!("{sign}{digits}{}", "0".repeat((power + 1 - length) as usize))
        }
        0..=20 => {
            let (whole, rest) = digits.split_at(power as usize + 1);
            format!("{sign}{whole}.{rest}")
        }
        -6..=-1 => format!("{sign}0.{}{digits}", "0".repeat((-power - 1) as usize)),
        _ => {
            let (first, rest) = digits.split_at(1);
            format!("{sign}{first}.{}e{power}", if rest.is_empty() { "0" } else { rest })
        }
    }
}

/// Bytes as text: UTF-8, or ISO 8859-1 where `latin` allows it. Tells whether it was the latter.
pub(super) fn decode(bytes: &[u8], latin: bool) -> Result<(Cow<'_, str>, bool), FormatError> {
    let start = Place::START;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let expected = "UTF-8 or ISO 8859-1";
        return Err(FormatError::Encoding { place: start, expected, found: "UTF-16".into() });
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok((Cow::Borrowed(text), false)),
        Err(_) if latin => Ok((Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()), true)),
        Err(error) => {
            let at = error.valid_up_to();
            let text = std::str::from_utf8(&bytes[..at]).unwrap_or_default();
            let place = Source { text }.place(at);
            Err(FormatError::Encoding { place, expected: "UTF-8", found: format!("byte {:#04x}", bytes[at]) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Source { text: "äb\nc\u{e9}d e" };
        let word = source.text.split(' ').next_back().unwrap();
        let place = source.place(source.at(word));
        assert_eq!((place.line, place.column), (2, 5));
        assert_eq!(source.place(0), Place::START);
        assert_eq!(source.place(usize::MAX).line, 2);
        // In the middle of a character: that character.
        assert_eq!(source.place(1).column, 1);
    }

    #[test]
    fn decimals_are_short_and_exact() {
        assert_eq!(decimal(9.92e9, -3), "9920000");
        assert_eq!(decimal(1.0, 0), "1");
        assert_eq!(decimal(-0.25, 0), "-0.25");
        assert_eq!(decimal(0.0123, 0), "0.0123");
        assert_eq!(decimal(1234.5, -3), "1.2345");
        assert_eq!(decimal(1e300, 0), "1.0e300");
        assert_eq!(decimal(1.5e-9, 0), "1.5e-9");
        assert_eq!(decimal(-0.0, 0), "0");
    }

    #[test]
    fn shifted_numbers_are_rounded_once() {
        assert_eq!(parse_shifted("9920000", 3), Some(9.92e9));
        assert_eq!(parse_shifted("1.5e-3", 6), Some(1.5e3));
        assert_eq!(parse_shifted("1e999999999999", 3), Some(f64::INFINITY));
        assert_eq!(parse_shifted("0e999999999999", 3), Some(0.0));
        assert_eq!(parse_shifted("12x", 3), None);
        // 0.29 · 1000 = 290 exactly in decimals, 289.99999999999994 in floats.
        assert_eq!(parse_shifted("0.29", 3), Some(290.0));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused_with_their_place() {
        let error = decode(b"ab\nc\xffd", false).unwrap_err();
        assert_eq!(error.to_string(), "line 2, column 2: expected UTF-8, found byte 0xff");
        assert_eq!(decode(b"caf\xe9", true).unwrap(), (Cow::from("caf\u{e9}"), true));
        assert_eq!(decode(b"\xff\xfea\0", true).unwrap_err().code(), "format_encoding");
        assert_eq!(decode(b"\xef\xbb\xbfx", false).unwrap().0, "x");
    }

    #[test]
    fn quotes_are_short_and_show_control_characters() {
        assert_eq!(quoted("  "), "nothing");
        assert_eq!(quoted("a\u{1}"), "`a\\u{1}`");
        assert_eq!(quoted(&"x".repeat(99)).chars().count(), 43);
    }
}
