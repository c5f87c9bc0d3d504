//! What do we tell clients about their limits?
//!
//! A [`ClientHint`] holds what limiters and queues know; [`ClientHint::write`] puts it into headers: when to
//! come back (`Retry-After`, `retry-after-ms`), and each limit's size, rest and reset in the style asked for.

use std::fmt::Write;
use std::time::Duration;

pub use traflux_core::plan::server::HeaderStyle;

use super::feedback::Resource;

/// Where a client stands with one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level<'a> {
    /// The limit's name.
    pub name: &'a str,
    /// What it counts.
    pub resource: Resource,
    /// How much it allows per window.
    pub limit: u64,
    /// How much is left.
    pub remaining: u64,
    /// Time until it is full again.
    pub reset: Duration,
    /// Length of the window.
    pub window: Duration,
}

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientHint<'a> {
    /// When to come back, for a request that was turned away.
    pub retry_after: Option<Duration>,
    /// Its limits.
    pub levels: &'a [Level<'a>],
}

impl ClientHint<'_> {
    /// Hands each header's name and value to `emit`. `scratch` is overwritten, and spares an allocation per
    /// header.
    ///
    /// `Retry-After` is in whole seconds, rounded up, for a client that comes early only comes twice.
    ///
    /// ```
    /// use std::time::Duration;
    /// use traflux_gateway::congestion::{ClientHint, HeaderStyle};
    ///
    /// let hint = ClientHint { retry_after: Some(Duration::from_millis(1200)), levels: &[] };
    /// let mut headers = Vec::new();
    /// hint.write(HeaderStyle::Words, &mut String::new(), |name, value| headers.push(format!("{name}: {value}")));
    /// assert_eq!(headers, ["retry-after: 2", "retry-after-ms: 1200"]);
    /// ```
    pub fn write(&self, style: HeaderStyle, scratch: &mut String, mut emit: impl FnMut(&str, &str)) {
        // Writing to a string cannot fail.
        if let Some(wait) = self.retry_after {
            header(scratch, "retry-after", format_args!("{}", whole_seconds(wait)), &mut emit);
            header(
                scratch,
                "retry-after-ms",
                format_args!("{}", wait.as_nanos().div_ceil(1_000_000)),
                &mut emit,
            );
        }
        match style {
            HeaderStyle::Off => {}
            HeaderStyle::Words => {
                for resource in [
                    Resource::Requests,
                    Resource::Tokens,
                    Resource::InputTokens,
                    Resource::OutputTokens,
                    Resource::Concurrency,
                ] {
                    let Some(level) = tightest(self.levels.iter().filter(|l| l.resource == resource)) else {
                        continue;
                    };
                    let [limit, remaining, reset] = words(resource);
                    header(scratch, limit, format_args!("{}", level.limit), &mut emit);
                    header(scratch, remaining, format_args!("{}", level.remaining), &mut emit);
                    header(
                        scratch,
                        reset,
                        format_args!("{}ms", level.reset.as_nanos().div_ceil(1_000_000)),
                        &mut emit,
                    );
                }
            }
            HeaderStyle::Legacy => {
                let Some(level) = tightest(self.levels.iter()) else { return };
                header(scratch, "ratelimit-limit", format_args!("{}", level.limit), &mut emit);
                header(scratch, "ratelimit-remaining", format_args!("{}", level.remaining), &mut emit);
                header(scratch, "ratelimit-reset", format_args!("{}", whole_seconds(level.reset)), &mut emit);
            }
            HeaderStyle::Draft if !self.levels.is_empty() => {
                scratch.clear();
                for (ix, level) in self.levels.iter().enumerate() {
                    string(scratch, ix, level.name);
                    let _ = write!(scratch, ";q={}", level.limit);
                    if !level.window.is_zero() {
                        let _ = write!(scratch, ";w={}", whole_seconds(level.window));
                    }
                    if level.resource != Resource::Requests {
                        let _ = write!(scratch, ";qu=\"{}\"", level.resource.name());
                    }
                }
                emit("ratelimit-policy", scratch);
                scratch.clear();
                for (ix, level) in self.levels.iter().enumerate() {
                    string(scratch, ix, level.name);
                    let _ = write!(scratch, ";r={};t={}", level.remaining, whole_seconds(level.reset));
                }
                emit("ratelimit", scratch);
            }
            HeaderStyle::Draft => {}
        }
    }
}

fn header(
    scratch: &mut String,
    name: &str,
    value: std::fmt::Arguments<'_>,
    emit: &mut impl FnMut(&str, &str),
) {
    scratch.clear();
    let _ = scratch.write_fmt(value);
    emit(name, scratch);
}

fn words(resource: Resource) -> [&'static str; 3] {
    match resource {
        Resource::Requests => {
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]
        }
        Resource::Tokens => {
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]
        }
        Resource::InputTokens => [
            "x-ratelimit-limit-input-tokens",
            "x-ratelimit-remaining-input-tokens",
            "x-ratelimit-reset-input-tokens",
        ],
        Resource::OutputTokens => [
            "x-ratelimit-limit-output-tokens",
            "x-ratelimit-remaining-output-tokens",
            "x-ratelimit-reset-output-tokens",
        ],
        Resource::Concurrency => [
            "x-ratelimit-limit-concurrent-requests",
            "x-ratelimit-remaining-concurrent-requests",
            "x-ratelimit-reset-concurrent-requests",
        ],
    }
}

/// The level with the smallest share left.
fn tightest<'l, 'a: 'l>(levels: impl Iterator<Item = &'l Level<'a>>) -> Option<&'l Level<'a>> {
    let share = |level: &Level<'_>| level.remaining as f64 / level.limit.max(1) as f64;
    levels.min_by(|a, b| share(a).total_cmp(&share(b)))
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}

/// A string item of RFC 9651: printable ASCII, with backslash and quote escaped, anything else dropped.
fn string(out: &mut String, ix: usize, text: &str) {
    out.push_str(if ix > 0 { ", \"" } else { "\"" });
    for character in text.chars().filter(|c| matches!(c, ' '..='~')) {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::congestion::{Feedback, FeedbackPlan};

    const LEVELS: [Level<'static>; 2] = [
        Level {
            name: "per-minute",
            resource: Resource::Requests,
            limit: 60,
            remaining: 12,
            reset: Duration::from_millis(30_500),
            window: Duration::from_secs(60),
        },
        Level {
            name: "tok\"ens\n",
            resource: Resource::Tokens,
            limit: 90_000,
            remaining: 800,
            reset: Duration::from_secs(59),
            window: Duration::from_secs(60),
        },
    ];

    fn headers(style: HeaderStyle) -> Vec<(String, String)> {
        let hint = ClientHint { retry_after: Some(Duration::from_millis(1_001)), levels: &LEVELS };
        let mut headers = Vec::new();
        hint.write(style, &mut String::new(), |name, value| {
            headers.push((name.to_owned(), value.to_owned()))
        });
        headers
    }

    #[test]
    fn what_we_write_we_read_back_in_every_style() {
        for style in [HeaderStyle::Words, HeaderStyle::Draft] {
            let headers = headers(style);
            let pairs = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            let feedback = Feedback::read(pairs, Duration::ZERO, &FeedbackPlan::default());
            assert_eq!(feedback.retry_after.unwrap().wait, Duration::from_millis(1_001));
            let requests = feedback.quota(Resource::Requests).unwrap();
            assert_eq!((requests.limit, requests.remaining), (Some(60), Some(12)), "{headers:?}");
            assert!(requests.reset.unwrap() >= Duration::from_millis(30_500));
            let tokens = feedback.quota(Resource::Tokens).unwrap();
            assert_eq!((tokens.limit, tokens.remaining), (Some(90_000), Some(800)), "{headers:?}");
        }
    }

    #[test]
    fn the_draft_style_is_spelled_as_the_draft_has_it() {
        let headers = headers(HeaderStyle::Draft);
        assert_eq!(headers[0], ("retry-after".to_owned(), "2".to_owned()));
        let policy = r#""per-minute";q=60;w=60, "tok\"ens";q=90000;w=60;qu="tokens""#;
        assert_eq!(headers[2], ("ratelimit-policy".to_owned(), policy.to_owned()));
        assert_eq!(headers[3].1, r#""per-minute";r=12;t=31, "tok\"ens";r=800;t=59"#);
    }

    #[test]
    fn the_legacy_style_tells_the_tightest_limit() {
        let headers = headers(HeaderStyle::Legacy);
        assert!(headers.contains(&("ratelimit-remaining".to_owned(), "800".to_owned())));
    }
}
