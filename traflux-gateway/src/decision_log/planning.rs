//! When will it not be enough?
//!
//! Requests of a log are counted by minute for all together, each backend, model, tenant and each limit's keys. From
//! that follow rates, the shape of day and week, growth and peaks (see [`pattern`](crate::observe::pattern)), and how
//! long limits last (see [`forecast`](crate::observe::forecast)).
//!
//! What counts is demand: a request that was refused, or went away, counts too. Its tokens are not known; it counts
//! with its estimate times the share of estimates that other requests of the log used.

use std::collections::BTreeMap;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::limit::{LimitPlan, LimitScope, LimitUnit};
use traflux_core::plan::requests::RequestPlan;

use super::entry::{Asked, time};
use super::trace::{Trace, Traced};
use crate::congestion::Resource;
use crate::error::GatewayError;
use crate::observe::{Amount, Headroom, HistorySettings, Measure, Profile, TrafficHistory};
use crate::rule::Matcher;
use crate::units::PicoDollars;

/// Tenants, models and keys of a limit that are told apart, those of most requests.
pub const MOST_NAMES: usize = 10;
/// Hours for a profile, and for growth.
pub const LEAST_HOURS: usize = 24;
const MINUTE: u64 = 60_000_000_000;
/// Providers that state no window count by the minute.
const USUAL_WINDOW: Duration = Duration::from_secs(60);

/// What a log says about the future.
#[derive(Debug, Clone)]
pub struct Planning {
    /// Whole minutes of the log.
    pub minutes: u64,
    /// When the first began.
    pub from: Timestamp,
    /// All requests, backends, models and tenants.
    pub streams: Vec<Stream>,
    /// Limits of the plan and quotas that backends state.
    pub limits: Vec<LimitOutlook>,
}

/// What one name asked for.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Of what kind it is: `all`, `backend`, `model` or `tenant`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// All of it.
    pub total: Amount,
    /// Requests and tokens in the busiest minute, per second.
    pub peak_minute: (f64, f64),
    /// By minute from the beginning.
    pub by_minute: Vec<Amount>,
    /// The shape of its requests; `None` below a day of log.
    pub profile: Option<Profile>,
}

/// How long a limit lasts.
#[derive(Debug, Clone)]
pub struct LimitOutlook {
    /// Its name, and whose it is.
    pub name: String,
    /// What it counts.
    pub unit: &'static str,
    /// What it allows, in units per second; of concurrency, at once.
    pub allowed: f64,
    /// What was asked for on average, in the same unit.
    pub mean: f64,
    /// What was asked for in the busiest minute.
    pub peak_minute: f64,
    /// When peaks reach it; `None` below a day of log.
    pub headroom: Option<Headroom>,
    /// Whether its window is not stated but taken for a minute.
    pub window_assumed: bool,
}

/// Amounts by minute.
type Minutes = BTreeMap<u64, Amount>;

impl Planning {
    /// Analyses a trace, with days that begin at this offset from UTC.
    ///
    /// # Errors
    /// [`GatewayError`] for an offset of more than a day.
    pub fn of(trace: &Trace, utc_offset_minutes: i32) -> Result<Self, GatewayError> {
        let first = trace.span.0 / MINUTE;
        let last = trace.span.1 / MINUTE;
        let window = Window { first, minutes: (last - first).max(1), utc_offset_minutes };
        let used = Used::of(trace);
        let plan = &trace.header.plan;
        let mut kinds: BTreeMap<(&'static str, String), Minutes> = BTreeMap::new();
        for request in &trace.requests {
            let amount = used.amount(request, plan);
            let mut add = |kind, name: &str| {
                let minutes = kinds.entry((kind, name.to_owned())).or_default();
                plus(minutes.entry(request.at / MINUTE).or_default(), amount);
            };
            add("all", "");
            add("model", &request.asked.model);
            add("tenant", &request.asked.tenant);
            for attempt in &request.attempts {
                let own = Amount {
                    busy: Duration::from_nanos(attempt.total.unwrap_or(0)),
                    ..used.amount_at(request, plan, &attempt.backend)
                };
                let minutes = kinds.entry(("backend", attempt.backend.clone())).or_default();
                plus(minutes.entry(attempt.sent / MINUTE).or_default(), own);
            }
        }
        let mut streams = Vec::new();
        for kind in ["all", "backend", "model", "tenant"] {
            let of_kind = kinds.iter().filter(|((k, _), _)| *k == kind);
            for ((kind, name), minutes) in largest(of_kind) {
                let (by_minute, history) = window.history(minutes)?;
                streams.push(Stream {
                    kind,
                    name: name.clone(),
                    total: sum(&by_minute),
                    peak_minute: peak(&by_minute),
                    profile: history.profile(0, Measure::Requests, window.end()),
                    by_minute,
                });
            }
        }
        let mut limits = Vec::new();
        let matcher = Matcher::new(plan.limits.iter().map(|limit| &limit.matches))?;
        for (ix, limit) in plan.limits.iter().enumerate() {
            limits.extend(outlooks(trace, &used, &window, &matcher, ix, limit)?);
        }
        limits.extend(quotas(trace, &used, &window)?);
        Ok(Self { minutes: window.minutes, from: time(first * MINUTE), streams, limits })
    }
}

/// The minutes of a log.
struct Window {
    first: u64,
    minutes: u64,
    utc_offset_minutes: i32,
}

impl Window {
    fn end(&self) -> Timestamp {
        time((self.first + self.minutes) * MINUTE)
    }

    /// Minutes without a request are idle, not unknown, so each is recorded.
    fn history(&self, minutes: &Minutes) -> Result<(Vec<Amount>, TrafficHistory), GatewayError> {
        let weeks = (self.minutes / (7 * 24 * 60) + 1).clamp(1, 104) as u32;
        let settings = HistorySettings { weeks, utc_offset_minutes: self.utc_offset_minutes };
        let mut history = TrafficHistory::new(1, settings)?;
        let by_minute: Vec<Amount> = (self.first..self.first + self.minutes)
            .map(|minute| minutes.get(&minute).copied().unwrap_or_default())
            .collect();
        for (minute, amount) in (self.first..).zip(&by_minute) {
            history.record(time(minute * MINUTE), 0, *amount);
        }
        Ok((by_minute, history))
    }
}

/// Which part of an estimate requests use.
struct Used {
    input: f64,
    output: f64,
}

impl Used {
    fn of(trace: &Trace) -> Self {
        let (mut asked, mut used) = ((0u64, 0u64), (0u64, 0u64));
        for request in &trace.requests {
            if let Some(usage) = request.attempts.iter().rev().find_map(|attempt| attempt.usage) {
                asked = (asked.0 + request.asked.input, asked.1 + request.asked.output);
                used = (used.0 + usage.input, used.1 + usage.output);
            }
        }
        let share = |used: u64, asked: u64| if asked > 0 { used as f64 / asked as f64 } else { 1.0 };
        Self { input: share(used.0, asked.0), output: share(used.1, asked.1) }
    }

    /// Tokens of a request, read and written.
    fn tokens(&self, request: &Traced) -> (u64, u64) {
        match request.attempts.iter().rev().find_map(|attempt| attempt.usage) {
            Some(usage) => (usage.input, usage.output),
            None => {
                let asked = &request.asked;
                ((asked.input as f64 * self.input) as u64, (asked.output as f64 * self.output) as u64)
            }
        }
    }

    fn amount(&self, request: &Traced, plan: &RequestPlan) -> Amount {
        let backend = request.attempts.last().map_or("", |attempt| attempt.backend.as_str());
        let busy: u64 = request.attempts.iter().filter_map(|attempt| attempt.total).sum();
        Amount { busy: Duration::from_nanos(busy), ..self.amount_at(request, plan, backend) }
    }

    fn amount_at(&self, request: &Traced, plan: &RequestPlan, backend: &str) -> Amount {
        let (input, output) = self.tokens(request);
        let price = plan.backends.get(backend).map(|backend| backend.price_of(&request.asked.model));
        let cost = price.map_or(0.0, |price| {
            // A dollar per million tokens is a million pico-dollars a token.
            (input as f64 * price.input_dollars_per_million
                + output as f64 * price.output_dollars_per_million)
                * 1e6
                + price.request_dollars * 1e12
        });
        Amount { requests: 1, tokens: input + output, cost: PicoDollars(cost as u64), busy: Duration::ZERO }
    }
}

fn plus(sum: &mut Amount, amount: Amount) {
    sum.requests += amount.requests;
    sum.tokens += amount.tokens;
    sum.cost = PicoDollars(sum.cost.0.saturating_add(amount.cost.0));
    sum.busy += amount.busy;
}

fn sum(minutes: &[Amount]) -> Amount {
    let mut all = Amount::default();
    minutes.iter().for_each(|amount| plus(&mut all, *amount));
    all
}

/// Requests and tokens of the busiest minute, per second.
fn peak(minutes: &[Amount]) -> (f64, f64) {
    let most = |of: fn(&Amount) -> u64| minutes.iter().map(of).max().unwrap_or(0) as f64 / 60.0;
    (most(|amount| amount.requests), most(|amount| amount.tokens))
}

/// Those of most requests, of equals in order.
fn largest<'a, K: 'a>(of: impl Iterator<Item = (K, &'a Minutes)>) -> Vec<(K, &'a Minutes)> {
    let mut all: Vec<(K, &Minutes)> = of.collect();
    all.sort_by_key(|(_, minutes)| {
        std::cmp::Reverse(minutes.values().map(|amount| amount.requests).sum::<u64>())
    });
    all.truncate(MOST_NAMES);
    all
}

/// How long a limit of the plan lasts, for those of its keys that ask for most.
fn outlooks(
    trace: &Trace,
    used: &Used,
    window: &Window,
    matcher: &Matcher,
    ix: usize,
    limit: &LimitPlan,
) -> Result<Vec<LimitOutlook>, GatewayError> {
    let mut keys: BTreeMap<String, Minutes> = BTreeMap::new();
    for request in &trace.requests {
        let mut holds = false;
        request.asked.with(|asked| matcher.each(asked, |found| holds |= found == ix));
        if !holds {
            continue;
        }
        let backend = request.attempts.last().map_or("", |attempt| attempt.backend.as_str());
        let minutes = keys.entry(key_of(limit, &request.asked, backend)).or_default();
        let mut amount = used.amount(request, &trace.header.plan);
        let (input, output) = used.tokens(request);
        match limit.unit {
            LimitUnit::InputTokens => amount.tokens = input,
            LimitUnit::OutputTokens => amount.tokens = output,
            _ => {}
        }
        plus(minutes.entry(request.at / MINUTE).or_default(), amount);
    }
    let mut found = Vec::new();
    for (key, minutes) in largest(keys.iter()) {
        let amount = limit.overrides.get(key).copied().unwrap_or(limit.amount);
        let allowed = match limit.unit {
            LimitUnit::Concurrency => amount,
            _ => amount / limit.usual_period().as_secs_f64(),
        };
        let name = if key.is_empty() { limit.name.clone() } else { format!("{} of {key}", limit.name) };
        found.push(outlook(window, minutes, measure(limit.unit), name, limit.unit.name(), allowed, false)?);
    }
    Ok(found)
}

/// How long quotas last that backends stated in their answers.
fn quotas(trace: &Trace, used: &Used, window: &Window) -> Result<Vec<LimitOutlook>, GatewayError> {
    let mut stated: BTreeMap<(String, &'static str), (f64, bool)> = BTreeMap::new();
    let mut asked: BTreeMap<String, Minutes> = BTreeMap::new();
    for request in &trace.requests {
        for attempt in &request.attempts {
            let minutes = asked.entry(attempt.backend.clone()).or_default();
            let amount = used.amount_at(request, &trace.header.plan, &attempt.backend);
            plus(minutes.entry(attempt.sent / MINUTE).or_default(), amount);
            for quota in attempt.said.iter().flat_map(|said| &said.quotas) {
                let (Some(limit), Resource::Requests | Resource::Tokens) = (quota.limit, quota.of) else {
                    continue;
                };
                let seconds = quota.window.map_or(USUAL_WINDOW, Duration::from_nanos).as_secs_f64();
                if seconds > 0.0 {
                    // The last word counts.
                    let key = (attempt.backend.clone(), quota.of.name());
                    stated.insert(key, (limit as f64 / seconds, quota.window.is_none()));
                }
            }
        }
    }
    let mut found = Vec::new();
    for ((backend, unit), (allowed, assumed)) in stated {
        let Some(minutes) = asked.get(&backend) else { continue };
        let measure = if unit == Resource::Requests.name() { Measure::Requests } else { Measure::Tokens };
        let name = format!("quota of backend {backend}");
        found.push(outlook(window, minutes, measure, name, unit, allowed, assumed)?);
    }
    Ok(found)
}

fn outlook(
    window: &Window,
    minutes: &Minutes,
    measure: Measure,
    name: String,
    unit: &'static str,
    allowed: f64,
    window_assumed: bool,
) -> Result<LimitOutlook, GatewayError> {
    let (by_minute, history) = window.history(minutes)?;
    let rate = |amount: &Amount| match measure {
        Measure::Requests => amount.requests as f64,
        Measure::Tokens => amount.tokens as f64,
        Measure::Dollars => amount.cost.as_dollars(),
        Measure::Concurrency => amount.busy.as_secs_f64(),
    };
    let all = rate(&sum(&by_minute));
    let peak = by_minute.iter().map(rate).fold(0.0, f64::max);
    Ok(LimitOutlook {
        name,
        unit,
        allowed,
        mean: all / (by_minute.len() as f64 * 60.0),
        peak_minute: peak / 60.0,
        headroom: history
            .profile(0, measure, window.end())
            .map(|profile| profile.headroom(allowed, window.end())),
        window_assumed,
    })
}

fn measure(unit: LimitUnit) -> Measure {
    match unit {
        LimitUnit::Requests => Measure::Requests,
        LimitUnit::Tokens | LimitUnit::InputTokens | LimitUnit::OutputTokens => Measure::Tokens,
        LimitUnit::Dollars => Measure::Dollars,
        LimitUnit::Concurrency => Measure::Concurrency,
    }
}

fn key_of(limit: &LimitPlan, asked: &Asked<'_>, backend: &str) -> String {
    let parts: Vec<&str> = limit
        .by
        .iter()
        .map(|scope| match scope {
            LimitScope::Tenant => &*asked.tenant,
            LimitScope::Key => &*asked.key,
            LimitScope::User => &*asked.user,
            LimitScope::UserTier => &*asked.tier,
            LimitScope::Model => &*asked.model,
            LimitScope::Header(name) => {
                asked.headers.get(name.to_ascii_lowercase().as_str()).map_or("", |value| &**value)
            }
            LimitScope::Backend => backend,
        })
        .collect();
    parts.join("/")
}
