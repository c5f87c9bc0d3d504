//! Which moment does this header name?
//!
//! Dates come from untrusted bytes: every function is total, allocates nothing and looks at no more than the
//! first few dozen bytes. Moments are durations since the Unix epoch; those before it count as the epoch.

use std::time::Duration;

use super::duration_text::decimal;

/// No date format is longer than this.
const MAX_LENGTH: usize = 64;

/// Reads an HTTP date in any of the three forms of RFC 9110 §5.6.7: IMF-fixdate, RFC 850, asctime.
///
/// The name of the day is not compared with the date. A two-digit year below 70 is in this century (the RFC
/// asks for a window around today; this function has no clock).
#[must_use]
pub fn http_date(bytes: &[u8]) -> Option<Duration> {
    if bytes.len() > MAX_LENGTH {
        return None;
    }
    let mut words = bytes.split(|b| matches!(b, b' ' | b',' | b'-')).filter(|word| !word.is_empty());
    let weekday = words.next()?;
    if !(3..=9).contains(&weekday.len()) || !weekday.iter().all(u8::is_ascii_alphabetic) {
        return None;
    }
    let (first, second) = (words.next()?, words.next()?);
    let (day, month, year, time);
    if first[0].is_ascii_digit() {
        (day, month, year, time) = (first, second, words.next()?, words.next()?);
        if !matches!(words.next()?, b"GMT" | b"UTC") {
            return None;
        }
    } else {
        (month, day, time, year) = (first, second, words.next()?, words.next()?);
    }
    if words.next().is_some() {
        return None;
    }
    let year = match (year.len(), i64::from(digits(year)?)) {
        (2, year) => year + if year < 70 { 2000 } else { 1900 },
        (4, year) => year,
        _ => return None,
    };
    let mut fields = time.split(|b| *b == b':');
    let mut field = || fields.next().filter(|f| f.len() == 2).and_then(digits);
    let (hour, minute, second) = (field()?, field()?, field()?);
    seconds_of(year, month_of(month)?, digits(day)?, hour, minute, second)
        .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Reads a moment of RFC 3339: `2026-01-27T10:15:00.250Z`, with an offset in place of the `Z` if need be.
#[must_use]
pub fn rfc3339(bytes: &[u8]) -> Option<Duration> {
    if bytes.len() < 20 || bytes.len() > MAX_LENGTH {
        return None;
    }
    let shape = |ix: usize, any: &[u8]| any.contains(&bytes[ix]);
    if !(shape(4, b"-") && shape(7, b"-") && shape(10, b"Tt ") && shape(13, b":") && shape(16, b":")) {
        return None;
    }
    let number = |from: usize, to: usize| digits(&bytes[from..to]);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let mut rest = &bytes[19..];
    let mut fraction = 0;
    if let [b'.', tail @ ..] = rest {
        let length = tail.iter().take_while(|b| b.is_ascii_digit()).count();
        if length == 0 {
            return None;
        }
        fraction = decimal(&rest[..=length])?.fraction;
        rest = &tail[length..];
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours) * 3600 + i64::from(minutes) * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = seconds_of(i64::from(year), month, day, hour, minute, second)? - offset;
    Some(u64::try_from(seconds).map_or(Duration::ZERO, |seconds| Duration::new(seconds, fraction)))
}

/// A number of one to four digits and nothing else.
fn digits(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || bytes.len() > 4 {
        return None;
    }
    bytes.iter().try_fold(0, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0')))
}

fn month_of(name: &[u8]) -> Option<u32> {
    const MONTHS: [&[u8]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    (1..).zip(MONTHS).find(|(_, month)| month.eq_ignore_ascii_case(name)).map(|(number, _)| number)
}

/// Seconds since the Unix epoch in the proleptic Gregorian calendar, with months counted from March so that
/// the leap day is the last of its year. `None` for a day or time that does not exist (a leap second does).
fn seconds_of(year: i64, month: u32, day: u32, hour: u32, minute: u32, second: u32) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let length = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day == 0 || day > length || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = i64::from((153 * month + 2) / 5 + day - 1);
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year;
    // 719468 days lie between 1 March of year 0 and 1 January 1970.
    Some((days - 719_468) * 86_400 + i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_an_http_date_name_the_same_moment() {
        // The examples of RFC 9110 §5.6.7.
        for text in
            ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
        {
            assert_eq!(http_date(text.as_bytes()), Some(Duration::from_secs(784_111_777)), "{text}");
        }
    }

    #[test]
    fn rfc_3339_moments_carry_fractions_and_offsets() {
        let cases: [(&str, u64, u32); 5] = [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("1985-04-12T23:20:50.52Z", 482_196_050, 520_000_000),
            ("1996-12-19T16:39:57-08:00", 851_042_397, 0),
            ("2000-02-29T00:00:00+00:00", 951_782_400, 0),
            ("2026-01-27t10:15:00.250000001z", 1_769_508_900, 250_000_001),
        ];
        for (text, seconds, nanos) in cases {
            assert_eq!(rfc3339(text.as_bytes()), Some(Duration::new(seconds, nanos)), "{text}");
        }
    }

    #[test]
    fn days_that_do_not_exist_are_no_dates() {
        for text in
            ["2025-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-00-10T00:00:00Z", "2026-01-01T24:00:00Z"]
        {
            assert_eq!(rfc3339(text.as_bytes()), None, "{text}");
        }
        for text in [
            "Sun, 31 Jun 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 PST",
            "Sun, 06 Nov 1994 08:49",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "",
        ] {
            assert_eq!(http_date(text.as_bytes()), None, "{text}");
        }
    }
}
