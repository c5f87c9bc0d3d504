//! What does a backend say about its limits in the headers of a response?
//!
//! | header | read as |
//! |---|---|
//! | `Retry-After` | seconds (RFC 9110), an HTTP date, also `1.5` and `20s` |
//! | `retry-after-ms`, `x-ms-retry-after-ms` | milliseconds; preferred over `Retry-After`, being finer |
//! | `x-ratelimit-{limit,remaining,reset}[-{requests,tokens,…}][-{second,…,month}]` | words in any order, `x-rate-limit-` too |
//! | `anthropic-ratelimit-[input-\|output-]{requests,tokens}-{limit,remaining,reset}` | resets as RFC 3339 |
//! | `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` | draft-ietf-httpapi-ratelimit-headers up to 06 |
//! | `RateLimit: limit=…, remaining=…, reset=…` | the same draft, 07 |
//! | `RateLimit: "name";r=…;t=…`, `RateLimit-Policy: "name";q=…;w=…;qu=…` | the same draft, since 08 |
//! | `x-should-retry` | whether the server wants the request again |
//!
//! Headers are untrusted bytes: reading never panics, never allocates, and looks at bounded lengths. A value
//! that makes no sense is as good as absent; a wait beyond all reason is shortened, with the stated one kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::plan::congestion::FeedbackPlan;

use super::date::{http_date, rfc3339};
use super::duration_text::{duration_with_units, milliseconds, seconds, whole_number};
use super::structured::members;

/// No more quotas of one response are kept.
pub const MAX_QUOTAS: usize = 8;
/// Longer header values are ignored.
const MAX_VALUE: usize = 2048;
/// A bare number at or above this is a moment in Unix seconds, not a wait of 31 years.
const EPOCH_SECONDS: Duration = Duration::from_secs(1_000_000_000);
/// A bare number at or above this is a moment in Unix milliseconds.
const EPOCH_MILLISECONDS: Duration = Duration::from_secs(1_000_000_000_000);

/// What a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// Requests.
    Requests,
    /// Tokens, in and out together.
    Tokens,
    /// Tokens of the prompt.
    InputTokens,
    /// Tokens of the answer.
    OutputTokens,
    /// Requests in flight.
    Concurrency,
}

impl Resource {
    /// Its name in metrics and header names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::InputTokens => "input-tokens",
            Self::OutputTokens => "output-tokens",
            Self::Concurrency => "concurrent-requests",
        }
    }
}

/// How a quota comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refill {
    /// All at once at the reset.
    AtReset,
    /// Evenly; the reset is when it will be full. So for providers that run token buckets (Anthropic, and
    /// those that state resets as `6m0s`).
    Continuous,
}

/// One limit of a backend as one response states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// What it counts.
    pub resource: Resource,
    /// How much a window allows.
    pub limit: Option<u64>,
    /// How much of it is left.
    pub remaining: Option<u64>,
    /// Time from the response until it is reset or full.
    pub reset: Option<Duration>,
    /// Length of the window, where stated.
    pub window: Option<Duration>,
    /// How it comes back.
    pub refill: Refill,
}

impl Quota {
    const EMPTY: Self = Self {
        resource: Resource::Requests,
        limit: None,
        remaining: None,
        reset: None,
        window: None,
        refill: Refill::AtReset,
    };

    /// The share that is left, in [0, 1]; `None` unless both limit and rest are stated.
    #[must_use]
    pub fn share_left(&self) -> Option<f64> {
        match (self.remaining, self.limit) {
            (Some(remaining), Some(limit)) if limit > 0 => Some((remaining as f64 / limit as f64).min(1.0)),
            (Some(_), Some(_)) => Some(0.0),
            _ => None,
        }
    }
}

/// How long a backend asks to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// The wait to keep, at most [`FeedbackPlan::max_wait`].
    pub wait: Duration,
    /// The wait as stated.
    pub stated: Duration,
}

/// What the headers of one response say.
///
/// ```
/// use std::time::Duration;
/// use traflux_gateway::congestion::{Feedback, FeedbackPlan, Resource};
///
/// let headers: [(&[u8], &[u8]); 3] =
///     [(b"Retry-After", b"7"), (b"x-ratelimit-remaining-tokens", b"149984"), (b"x-ratelimit-reset-tokens", b"6m0s")];
/// let feedback = Feedback::read(headers, Duration::from_secs(1_760_000_000), &FeedbackPlan::default());
/// assert_eq!(feedback.retry_after.unwrap().wait, Duration::from_secs(7));
/// let tokens = feedback.quota(Resource::Tokens).unwrap();
/// assert_eq!((tokens.remaining, tokens.reset), (Some(149_984), Some(Duration::from_secs(360))));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// When to come back.
    pub retry_after: Option<Wait>,
    /// Whether the server wants this request again, where it says so.
    pub should_retry: Option<bool>,
    quotas: [Quota; MAX_QUOTAS],
    count: usize,
}

impl Feedback {
    /// Nothing said.
    pub const NONE: Self =
        Self { retry_after: None, should_retry: None, quotas: [Quota::EMPTY; MAX_QUOTAS], count: 0 };

    /// Reads pairs of header name (in any case) and value.
    ///
    /// `unix_now` is the wall clock as time since the Unix epoch. It serves only for absolute moments in
    /// responses without a `Date`: with one, the sender's clock is compared with itself.
    pub fn read<'a>(
        headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        unix_now: Duration,
        plan: &FeedbackPlan,
    ) -> Self {
        let mut reader = Reader::default();
        for (name, value) in headers {
            if value.len() <= MAX_VALUE {
                reader.header(name, value.trim_ascii());
            }
        }
        reader.finish(unix_now, plan)
    }

    /// What was read before, from its parts; quotas beyond [`MAX_QUOTAS`] are left out.
    #[must_use]
    pub fn of(
        retry_after: Option<Wait>,
        should_retry: Option<bool>,
        quotas: impl IntoIterator<Item = Quota>,
    ) -> Self {
        let mut feedback = Self { retry_after, should_retry, ..Self::NONE };
        for (place, quota) in feedback.quotas.iter_mut().zip(quotas) {
            *place = quota;
            feedback.count += 1;
        }
        feedback
    }

    /// All limits stated, in the order of their first header.
    #[must_use]
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas[..self.count]
    }

    /// The limit of a resource with the smallest share left (the smallest rest where no limit is stated).
    #[must_use]
    pub fn quota(&self, resource: Resource) -> Option<Quota> {
        let tightness = |quota: &Quota| {
            (quota.share_left().unwrap_or(f64::INFINITY), quota.remaining.unwrap_or(u64::MAX))
        };
        self.quotas()
            .iter()
            .filter(|quota| quota.resource == resource)
            .min_by(|a, b| {
                let ((a_share, a_left), (b_share, b_left)) = (tightness(a), tightness(b));
                a_share.total_cmp(&b_share).then(a_left.cmp(&b_left))
            })
            .copied()
    }

    /// The wait that a refusal with this feedback asks for: as stated, else until the last reset of a quota
    /// that is used up and comes back at once.
    #[must_use]
    pub fn wait(&self, plan: &FeedbackPlan) -> Option<Wait> {
        self.retry_after.or_else(|| {
            self.quotas()
                .iter()
                .filter(|quota| quota.remaining == Some(0) && quota.refill == Refill::AtReset)
                .filter_map(|quota| quota.reset)
                .max()
                .map(|stated| Wait { wait: stated.min(plan.max_wait), stated })
        })
    }
}

/// Finds the `retryDelay` of a `google.rpc.RetryInfo` in the body of a refusal, as Gemini sends it in place of
/// a header. Looks at the first 16 KiB.
#[must_use]
pub fn retry_delay_in_body(body: &[u8], plan: &FeedbackPlan) -> Option<Wait> {
    const KEY: &[u8] = b"\"retryDelay\"";
    let body = &body[..body.len().min(16 << 10)];
    let at = body.windows(KEY.len()).position(|window| window == KEY)?;
    let rest = body[at + KEY.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let text = rest.strip_prefix(b"\"")?;
    let end = text.iter().take(64).position(|b| *b == b'"')?;
    let stated = duration_with_units(&text[..end])?;
    Some(Wait { wait: stated.min(plan.max_wait), stated })
}

/// A point in time as a header states it.
#[derive(Debug, Clone, Copy)]
enum Moment {
    In(Duration, Refill),
    /// Since the Unix epoch.
    At(Duration),
}

fn moment(value: &[u8]) -> Option<Moment> {
    if let Some(number) = seconds(value) {
        return Some(if number >= EPOCH_MILLISECONDS {
            Moment::At(milliseconds(value)?)
        } else if number >= EPOCH_SECONDS {
            Moment::At(number)
        } else {
            Moment::In(number, Refill::AtReset)
        });
    }
    duration_with_units(value)
        .map(|wait| Moment::In(wait, Refill::Continuous))
        .or_else(|| rfc3339(value).or_else(|| http_date(value)).map(Moment::At))
}

/// Which headers a limit came from: those of one family, window and name belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family<'a> {
    Words,
    Anthropic,
    Draft { name: &'a [u8] },
}

#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    family: Family<'a>,
    quota: Quota,
    reset: Option<Moment>,
    /// The draft names a unit that nothing here counts, such as bytes.
    foreign: bool,
}

#[derive(Debug, Default)]
struct Reader<'a> {
    entries: [Option<Entry<'a>>; MAX_QUOTAS],
    retry_after: Option<Moment>,
    retry_after_ms: Option<Duration>,
    date: Option<Duration>,
    should_retry: Option<bool>,
}

impl<'a> Reader<'a> {
    fn header(&mut self, name: &'a [u8], value: &'a [u8]) {
        let Some(first) = name.first() else { return };
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        match first.to_ascii_lowercase() {
            b'd' if is("date") => self.date = http_date(value),
            b'r' if is("retry-after") => self.retry_after = moment(value).or(self.retry_after),
            b'r' if is("retry-after-ms") => self.retry_after_ms = milliseconds(value).or(self.retry_after_ms),
            b'r' if is("ratelimit") => self.draft(value),
            b'r' if is("ratelimit-policy") => self.policies(value),
            b'r' if is("ratelimit-limit") => {
                self.policies(value);
                let limit = members(value).next().and_then(|member| whole_number(member.item));
                self.unnamed(limit, |entry, limit| entry.quota.limit = Some(limit));
            }
            b'r' if is("ratelimit-remaining") => {
                self.unnamed(whole_number(value), |entry, left| entry.quota.remaining = Some(left));
            }
            b'r' if is("ratelimit-reset") => {
                self.unnamed(moment(value), |entry, reset| entry.reset = Some(reset));
            }
            b'x' if is("x-ms-retry-after-ms") => {
                self.retry_after_ms = milliseconds(value).or(self.retry_after_ms);
            }
            b'x' if is("x-should-retry") => {
                self.should_retry = match value {
                    b"true" => Some(true),
                    b"false" => Some(false),
                    _ => None,
                };
            }
            b'x' => {
                if let Some(rest) =
                    after_prefix(name, b"x-ratelimit-").or(after_prefix(name, b"x-rate-limit-"))
                {
                    self.words(Family::Words, rest, value);
                }
            }
            b'a' => {
                if let Some(rest) = after_prefix(name, b"anthropic-ratelimit-") {
                    self.words(Family::Anthropic, rest, value);
                }
            }
            _ => {}
        }
    }

    fn words(&mut self, family: Family<'a>, rest: &[u8], value: &[u8]) {
        let Some(Words { field: Some(field), resource, window }) = classify(rest) else { return };
        let resource = resource.unwrap_or(Resource::Requests);
        match field {
            Field::Limit | Field::Remaining => {
                let Some(number) = whole_number(value) else { return };
                let Some(entry) = self.entry(family, resource, window) else { return };
                match field {
                    Field::Limit => entry.quota.limit = Some(number),
                    _ => entry.quota.remaining = Some(number),
                }
            }
            Field::Reset => {
                let Some(reset) = moment(value) else { return };
                let Some(entry) = self.entry(family, resource, window) else { return };
                entry.reset = Some(reset);
            }
        }
    }

    /// `RateLimit` of draft 07 (a dictionary) and of those since 08 (a list).
    fn draft(&mut self, value: &'a [u8]) {
        for member in members(value) {
            match (member.item, member.value) {
                (b"limit", Some(v)) => {
                    self.unnamed(whole_number(v), |entry, limit| entry.quota.limit = Some(limit));
                }
                (b"remaining", Some(v)) => {
                    self.unnamed(whole_number(v), |entry, left| entry.quota.remaining = Some(left));
                }
                (b"reset", Some(v)) => self.unnamed(moment(v), |entry, reset| entry.reset = Some(reset)),
                (_, Some(_)) => {}
                (name, None) => {
                    let remaining = member.parameter(b"r").and_then(whole_number);
                    let reset = member.parameter(b"t").and_then(moment);
                    if remaining.is_none() && reset.is_none() {
                        continue;
                    }
                    let Some(entry) = self.named(name) else { return };
                    entry.quota.remaining = remaining.or(entry.quota.remaining);
                    entry.reset = reset.or(entry.reset);
                }
            }
        }
    }

    /// `RateLimit-Policy` of all drafts: named since 08, before that a quota `100;w=60` of no name.
    fn policies(&mut self, value: &'a [u8]) {
        for member in members(value).filter(|member| member.value.is_none()) {
            let window = member.parameter(b"w").and_then(seconds);
            if let Some(quota) = member.parameter(b"q").and_then(whole_number) {
                let Some(entry) = self.named(member.item) else { return };
                entry.quota.limit = Some(quota);
                entry.quota.window = window;
                match member.parameter(b"qu") {
                    None => {}
                    Some(b"requests") => entry.quota.resource = Resource::Requests,
                    Some(b"concurrent-requests") => entry.quota.resource = Resource::Concurrency,
                    Some(unit) => match classify(unit).and_then(|words| words.resource) {
                        Some(resource) => entry.quota.resource = resource,
                        None => entry.foreign = true,
                    },
                }
            } else if let (Some(quota), Some(window)) = (whole_number(member.item), window) {
                // Of several policies, the one in force is that of the same limit.
                self.unnamed(Some(window), |entry, window| {
                    if entry.quota.window.is_none() || entry.quota.limit == Some(quota) {
                        entry.quota.window = Some(window);
                    }
                });
            }
        }
    }

    fn unnamed<T>(&mut self, value: Option<T>, set: impl FnOnce(&mut Entry<'a>, T)) {
        if let Some(value) = value
            && let Some(entry) = self.named(b"")
        {
            set(entry, value);
        }
    }

    /// The entry of a policy of the draft; its name may tell what it counts.
    fn named(&mut self, name: &'a [u8]) -> Option<&mut Entry<'a>> {
        let resource = classify(name).and_then(|words| words.resource).unwrap_or(Resource::Requests);
        self.find(|entry| entry.family == Family::Draft { name }, Family::Draft { name }, resource, None)
    }

    fn entry(
        &mut self,
        family: Family<'a>,
        resource: Resource,
        window: Option<Duration>,
    ) -> Option<&mut Entry<'a>> {
        let same = |entry: &Entry<'_>| {
            entry.family == family && entry.quota.resource == resource && entry.quota.window == window
        };
        self.find(same, family, resource, window)
    }

    /// The first entry that is meant, else a free one, else none.
    fn find(
        &mut self,
        is_meant: impl Fn(&Entry<'_>) -> bool,
        family: Family<'a>,
        resource: Resource,
        window: Option<Duration>,
    ) -> Option<&mut Entry<'a>> {
        self.entries.iter_mut().find(|slot| slot.as_ref().is_none_or(&is_meant)).map(|slot| {
            let refill = if family == Family::Anthropic { Refill::Continuous } else { Refill::AtReset };
            let quota = Quota { resource, window, refill, ..Quota::EMPTY };
            slot.get_or_insert(Entry { family, quota, reset: None, foreign: false })
        })
    }

    fn finish(self, unix_now: Duration, plan: &FeedbackPlan) -> Feedback {
        let reference = self.date.unwrap_or(unix_now);
        let from_now = |moment: Moment| match moment {
            Moment::In(wait, _) => wait,
            Moment::At(at) => at.saturating_sub(reference),
        };
        let mut feedback = Feedback { should_retry: self.should_retry, ..Feedback::NONE };
        feedback.retry_after = self
            .retry_after_ms
            .or_else(|| self.retry_after.map(from_now))
            .map(|stated| Wait { wait: stated.min(plan.max_wait), stated });
        for entry in self.entries.iter().flatten().filter(|entry| !entry.foreign) {
            let mut quota = entry.quota;
            if let Some(reset) = entry.reset {
                quota.reset = Some(from_now(reset).min(plan.max_reset));
                if let Moment::In(_, Refill::Continuous) = reset {
                    quota.refill = Refill::Continuous;
                }
            }
            if quota.limit.is_some() || quota.remaining.is_some() {
                feedback.quotas[feedback.count] = quota;
                feedback.count += 1;
            }
        }
        feedback
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Limit,
    Remaining,
    Reset,
}

#[derive(Debug, Default)]
struct Words {
    field: Option<Field>,
    resource: Option<Resource>,
    window: Option<Duration>,
}

/// What the words of a header name say, in whatever order; `None` for a name with a word that is not known,
/// as it may mean another quota altogether.
fn classify(name: &[u8]) -> Option<Words> {
    let mut words = Words::default();
    let mut side = None;
    for word in name.split(|b| matches!(b, b'-' | b'_')) {
        let mut lower = [0; 16];
        let lower = lower.get_mut(..word.len())?;
        lower.copy_from_slice(word);
        lower.make_ascii_lowercase();
        match &*lower {
            b"limit" => words.field = Some(Field::Limit),
            b"remaining" => words.field = Some(Field::Remaining),
            b"reset" => words.field = Some(Field::Reset),
            b"requests" | b"request" | b"req" => words.resource = Some(Resource::Requests),
            b"tokens" | b"token" => words.resource = Some(Resource::Tokens),
            b"input" | b"prompt" => side = Some(Resource::InputTokens),
            b"output" | b"generated" | b"completion" => side = Some(Resource::OutputTokens),
            b"second" => words.window = Some(Duration::from_secs(1)),
            b"minute" => words.window = Some(Duration::from_secs(60)),
            b"hour" => words.window = Some(Duration::from_secs(3_600)),
            b"day" => words.window = Some(Duration::from_secs(86_400)),
            b"month" => words.window = Some(Duration::from_secs(30 * 86_400)),
            b"after" => {}
            _ => return None,
        }
    }
    if words.resource != Some(Resource::Requests) {
        words.resource = side.or(words.resource);
    }
    Some(words)
}

fn after_prefix<'n>(name: &'n [u8], prefix: &[u8]) -> Option<&'n [u8]> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Feedback {
        // 2026-01-27T10:15:00Z
        let now = Duration::from_secs(1_769_508_900);
        let pairs = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Feedback::read(pairs, now, &FeedbackPlan::default())
    }

    fn parts(quota: Option<Quota>) -> (Option<u64>, Option<u64>, Option<f64>) {
        let quota = quota.unwrap();
        (quota.limit, quota.remaining, quota.reset.map(|reset| reset.as_secs_f64()))
    }

    #[test]
    fn retry_after_is_seconds_a_date_or_milliseconds() {
        let wait = |headers: &[(&str, &str)]| read(headers).retry_after.unwrap().wait;
        assert_eq!(wait(&[("retry-after", "12")]), Duration::from_secs(12));
        assert_eq!(wait(&[("Retry-After", "1.5")]), Duration::from_millis(1500));
        assert_eq!(wait(&[("Retry-After", "Tue, 27 Jan 2026 10:16:30 GMT")]), Duration::from_secs(90));
        assert_eq!(wait(&[("retry-after", "2"), ("retry-after-ms", "1234")]), Duration::from_millis(1234));
        assert_eq!(wait(&[("Retry-After", "Tue, 27 Jan 2026 09:00:00 GMT")]), Duration::ZERO);
        assert_eq!(read(&[("retry-after", "soon")]).retry_after, None);
    }

    #[test]
    fn absolute_moments_are_measured_by_the_senders_own_clock() {
        // The sender's clock is an hour ahead of ours.
        let feedback = read(&[
            ("Retry-After", "Tue, 27 Jan 2026 11:16:30 GMT"),
            ("Date", "Tue, 27 Jan 2026 11:16:00 GMT"),
        ]);
        assert_eq!(feedback.retry_after.unwrap().wait, Duration::from_secs(30));
    }

    #[test]
    fn an_absurd_wait_is_shortened_and_remembered() {
        let wait = read(&[("retry-after", "864000")]).retry_after.unwrap();
        assert_eq!((wait.wait, wait.stated), (Duration::from_secs(600), Duration::from_secs(864_000)));
    }

    #[test]
    fn openai_headers_give_requests_and_tokens() {
        let feedback = read(&[
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        assert_eq!(parts(feedback.quota(Resource::Requests)), (Some(60), Some(59), Some(1.0)));
        assert_eq!(parts(feedback.quota(Resource::Tokens)), (Some(150_000), Some(149_984), Some(360.0)));
        assert_eq!(feedback.quota(Resource::Tokens).unwrap().refill, Refill::Continuous);
    }

    #[test]
    fn anthropic_headers_have_resets_in_rfc_3339() {
        let feedback = read(&[
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-01-27T10:15:02Z"),
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "39000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-01-27T10:15:01.5Z"),
            ("anthropic-ratelimit-output-tokens-remaining", "8000"),
            ("anthropic-ratelimit-unified-status", "allowed"),
            ("anthropic-priority-input-tokens-limit", "9"),
        ]);
        assert_eq!(parts(feedback.quota(Resource::Requests)), (Some(50), Some(0), Some(2.0)));
        assert_eq!(parts(feedback.quota(Resource::InputTokens)), (Some(40_000), Some(39_000), Some(1.5)));
        assert_eq!(parts(feedback.quota(Resource::OutputTokens)), (None, Some(8_000), None));
        assert_eq!(feedback.quotas().len(), 3);
    }

    #[test]
    fn windows_named_in_headers_are_kept_apart_and_the_tightest_is_found() {
        // Cerebras and Mistral name windows, GitHub and Azure state moments and bare seconds.
        let feedback = read(&[
            ("x-ratelimit-limit-requests-day", "14400"),
            ("x-ratelimit-remaining-requests-day", "144"),
            ("x-ratelimit-reset-requests-day", "33011.382867097855"),
            ("x-ratelimit-limit-req-minute", "30"),
            ("x-ratelimit-remaining-req-minute", "29"),
        ]);
        assert_eq!(feedback.quotas().len(), 2);
        let tightest = feedback.quota(Resource::Requests).unwrap();
        assert_eq!(tightest.window, Some(Duration::from_secs(86_400)));
        assert_eq!(tightest.reset, Some(Duration::new(33_011, 382_867_097)));
        let github = read(&[("X-RateLimit-Remaining", "3"), ("X-RateLimit-Reset", "1769508960")]);
        assert_eq!(parts(github.quota(Resource::Requests)), (None, Some(3), Some(60.0)));
        let milliseconds = read(&[("X-RateLimit-Remaining", "3"), ("X-RateLimit-Reset", "1769508960000")]);
        assert_eq!(parts(milliseconds.quota(Resource::Requests)), (None, Some(3), Some(60.0)));
        let azure = read(&[("x-ratelimit-remaining-tokens", "900"), ("x-ratelimit-reset-tokens", "10")]);
        assert_eq!(parts(azure.quota(Resource::Tokens)), (None, Some(900), Some(10.0)));
    }

    #[test]
    fn all_drafts_of_the_ratelimit_fields_are_read() {
        let three = read(&[
            ("RateLimit-Limit", "100, 100;w=60, 1000;w=3600"),
            ("RateLimit-Remaining", "40"),
            ("RateLimit-Reset", "20"),
        ]);
        assert_eq!(parts(three.quota(Resource::Requests)), (Some(100), Some(40), Some(20.0)));
        assert_eq!(three.quota(Resource::Requests).unwrap().window, Some(Duration::from_secs(60)));

        let seventh =
            read(&[("RateLimit", "limit=100, remaining=50, reset=5"), ("RateLimit-Policy", "100;w=60")]);
        assert_eq!(parts(seventh.quota(Resource::Requests)), (Some(100), Some(50), Some(5.0)));

        let named = read(&[
            (
                "RateLimit-Policy",
                r#""burst";q=100;w=60,"daily-tokens";q=1000;w=86400,"b";q=9;qu="content-bytes""#,
            ),
            ("RateLimit", r#""burst";r=50;t=30, "daily-tokens";r=999, "b";r=1"#),
        ]);
        assert_eq!(named.quotas().len(), 2);
        assert_eq!(parts(named.quota(Resource::Requests)), (Some(100), Some(50), Some(30.0)));
        let concurrency = read(&[("RateLimit-Policy", r#""c";q=8;qu="concurrent-requests""#)]);
        assert_eq!(parts(concurrency.quota(Resource::Concurrency)), (Some(8), None, None));
    }

    #[test]
    fn a_refusal_without_retry_after_waits_for_the_reset_of_what_is_used_up() {
        let plan = FeedbackPlan::default();
        let feedback = read(&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "17")]);
        assert_eq!(feedback.wait(&plan).unwrap().wait, Duration::from_secs(17));
        assert_eq!(read(&[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "17")]).wait(&plan), None);
    }

    #[test]
    fn the_delay_in_a_gemini_body_is_found() {
        let body = br#"{"error":{"details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay": "34.07s"}]}}"#;
        let wait = retry_delay_in_body(body, &FeedbackPlan::default()).unwrap();
        assert_eq!(wait.wait, Duration::from_millis(34_070));
        assert_eq!(retry_delay_in_body(br#"{"retryDelay":5}"#, &FeedbackPlan::default()), None);
    }
}
