//! Does the endpoint answer when asked?
//!
//! An active health check as a state machine without I/O: [`Probe::next`] says when to ask, whoever does the
//! asking reports with [`Probe::on_result`]. An endpoint not yet known is judged by its first answer; after that
//! it takes `unhealthy_threshold` failures in a row to call it unhealthy and `healthy_threshold` successes to
//! call it healthy again (as Envoy's health checking has it). Failing endpoints are asked more often.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;

use crate::error::{GatewayError, check};
use crate::rng::Rng;
use crate::units::duration_ms;

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ProbeKind {
    /// An HTTP request.
    Http {
        /// Path and query.
        path: String,
        /// Method; `GET` when empty.
        #[serde(default)]
        method: String,
        /// Host header; the endpoint's own when empty.
        #[serde(default)]
        host: String,
        /// Statuses that count as success, as pairs of first and last; 200 to 299 when empty.
        #[serde(default)]
        expected_statuses: Vec<(u16, u16)>,
    },
    /// A TCP connection.
    Tcp,
    /// `grpc.health.v1.Health/Check`.
    Grpc {
        /// The service asked about; the whole server when empty.
        #[serde(default)]
        service: String,
    },
}

impl ProbeKind {
    /// Whether an HTTP status is one of those expected.
    #[must_use]
    pub fn expects(&self, status: u16) -> bool {
        match self {
            Self::Http { expected_statuses, .. } if !expected_statuses.is_empty() => {
                expected_statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
            }
            _ => (200..=299).contains(&status),
        }
    }
}

/// Parameters of [`Probe`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeSettings {
    /// What to ask; `GET /health`.
    pub probe: ProbeKind,
    /// Time between questions to a healthy endpoint; 10 s.
    #[serde(rename = "interval_ms", with = "duration_ms")]
    pub interval: Duration,
    /// Time between questions to one that is unhealthy or failed last; 2 s.
    #[serde(rename = "unhealthy_interval_ms", with = "duration_ms")]
    pub unhealthy_interval: Duration,
    /// Time after which no answer is a failure; 2 s.
    #[serde(rename = "timeout_ms", with = "duration_ms")]
    pub timeout: Duration,
    /// Successes in a row that make it healthy; 2.
    pub healthy_threshold: u32,
    /// Failures in a row that make it unhealthy; 3.
    pub unhealthy_threshold: u32,
    /// Random stretch of each interval, as a share of it; 0.1. Keeps many gateways from asking as one.
    pub jitter: f64,
    /// Whether an endpoint may be used before its first answer; yes.
    pub assume_healthy: bool,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            probe: ProbeKind::Http {
                path: "/health".to_owned(),
                method: String::new(),
                host: String::new(),
                expected_statuses: Vec::new(),
            },
            interval: Duration::from_secs(10),
            unhealthy_interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            jitter: 0.1,
            assume_healthy: true,
        }
    }
}

impl ProbeSettings {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`GatewayError::Setting`] for an interval or timeout of zero, a threshold of zero, a jitter
    /// outside [0, 1], or a path that does not begin with `/`.
    pub fn validate(&self) -> Result<(), GatewayError> {
        check(!self.interval.is_zero(), "interval_ms", self.interval, "more than 0")?;
        check(
            !self.unhealthy_interval.is_zero(),
            "unhealthy_interval_ms",
            self.unhealthy_interval,
            "more than 0",
        )?;
        check(!self.timeout.is_zero(), "timeout_ms", self.timeout, "more than 0")?;
        check(self.healthy_threshold > 0, "healthy_threshold", self.healthy_threshold, "at least 1")?;
        check(self.unhealthy_threshold > 0, "unhealthy_threshold", self.unhealthy_threshold, "at least 1")?;
        check((0.0..=1.0).contains(&self.jitter), "jitter", self.jitter, "a share from 0 to 1")?;
        if let ProbeKind::Http { path, expected_statuses, .. } = &self.probe {
            check(path.starts_with('/'), "path", path, "a path beginning with /")?;
            check(
                expected_statuses.iter().all(|(first, last)| *first >= 100 && first <= last && *last <= 599),
                "expected_statuses",
                expected_statuses,
                "ranges from 100 to 599",
            )?;
        }
        Ok(())
    }
}

/// What is known of an endpoint by asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeState {
    /// It has not answered yet.
    Unknown,
    /// It answers.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl ProbeState {
    /// Its name in reports and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How a question ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// Answered as expected.
    Passed,
    /// Not, or not at all.
    Failed,
}

/// What to do about an endpoint's check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextProbe {
    /// Ask now, and report under this number.
    Ask {
        /// Tells this question from those before, whose late answers are ignored.
        attempt: u64,
        /// When to give up.
        give_up: Timestamp,
    },
    /// Nothing before this moment.
    At(Timestamp),
}

/// The active health check of one endpoint.
///
/// ```
/// use traflux_core::Timestamp;
/// use traflux_gateway::health::{NextProbe, Probe, ProbeResult, ProbeSettings, ProbeState};
///
/// let mut probe = Probe::new(ProbeSettings::default(), Timestamp::ZERO, 7);
/// let now = probe.due();
/// let NextProbe::Ask { attempt, .. } = probe.next(now) else { panic!() };
/// assert_eq!(probe.on_result(now, attempt, ProbeResult::Failed), Some(ProbeState::Unhealthy));
/// ```
#[derive(Debug, Clone)]
pub struct Probe {
    settings: ProbeSettings,
    state: ProbeState,
    /// Successes or failures in a row against the state.
    against: u32,
    due: Timestamp,
    attempt: u64,
    asked: Option<Timestamp>,
    failed_last: bool,
    rng: Rng,
}

impl Probe {
    /// A check that begins at a random moment of the first interval after `now`; the seed should differ by
    /// endpoint and gateway.
    #[must_use]
    pub fn new(settings: ProbeSettings, now: Timestamp, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let due = now + settings.unhealthy_interval.min(settings.interval).mul_f64(rng.uniform());
        Self {
            settings,
            state: ProbeState::Unknown,
            against: 0,
            due,
            attempt: 0,
            asked: None,
            failed_last: false,
            rng,
        }
    }

    /// The same check by other settings: what is known stays, and the next question is due as if it were new.
    #[must_use]
    pub fn with_settings(self, settings: ProbeSettings, now: Timestamp) -> Self {
        let mut rng = self.rng;
        let due = now + settings.unhealthy_interval.min(settings.interval).mul_f64(rng.uniform());
        Self { settings, rng, due, against: 0, asked: None, ..self }
    }

    /// Whether a question is open.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the question of this number is the open one.
    #[must_use]
    pub fn awaits(&self, attempt: u64) -> bool {
        self.asked.is_some() && self.attempt == attempt
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> ProbeState {
        self.state
    }

    /// Whether the endpoint may be used, as far as this check goes.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        match self.state {
            ProbeState::Healthy => true,
            ProbeState::Unhealthy => false,
            ProbeState::Unknown => self.settings.assume_healthy,
        }
    }

    /// When there is something to do: a question is due, or an answer overdue.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.asked.map_or(self.due, |asked| asked + self.settings.timeout)
    }

    /// What to do now. While a question is open and in time, the answer is to wait.
    pub fn next(&mut self, now: Timestamp) -> NextProbe {
        if let Some(asked) = self.asked {
            if now < asked + self.settings.timeout {
                return NextProbe::At(asked + self.settings.timeout);
            }
            let attempt = self.attempt;
            self.on_result(now, attempt, ProbeResult::Failed);
        }
        if now < self.due {
            return NextProbe::At(self.due);
        }
        self.attempt += 1;
        self.asked = Some(now);
        NextProbe::Ask { attempt: self.attempt, give_up: now + self.settings.timeout }
    }

    /// Takes in how a question ended, and returns the state when it changed. Answers to questions given up
    /// are ignored, and one that comes after the timeout is a failure.
    pub fn on_result(&mut self, now: Timestamp, attempt: u64, result: ProbeResult) -> Option<ProbeState> {
        let asked = self.asked.filter(|_| attempt == self.attempt)?;
        self.asked = None;
        let passed = result == ProbeResult::Passed && now.since(asked) <= self.settings.timeout;
        self.failed_last = !passed;
        let toward = if passed { ProbeState::Healthy } else { ProbeState::Unhealthy };
        let before = self.state;
        if toward == self.state {
            self.against = 0;
        } else {
            self.against += 1;
            let threshold = match (self.state, toward) {
                (ProbeState::Unknown, _) => 1,
                (_, ProbeState::Healthy) => self.settings.healthy_threshold,
                _ => self.settings.unhealthy_threshold,
            };
            if self.against >= threshold {
                (self.state, self.against) = (toward, 0);
            }
        }
        let interval = if self.failed_last || self.state == ProbeState::Unhealthy {
            self.settings.unhealthy_interval
        } else {
            self.settings.interval
        };
        self.due = now + interval.mul_f64(1.0 + self.settings.jitter.clamp(0.0, 1.0) * self.rng.uniform());
        (self.state != before).then_some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks as soon as due and reports at once.
    fn ask(probe: &mut Probe, result: ProbeResult) -> Option<ProbeState> {
        let now = probe.due();
        let NextProbe::Ask { attempt, .. } = probe.next(now) else { panic!("due") };
        probe.on_result(now, attempt, result)
    }

    #[test]
    fn the_first_answer_decides_and_later_ones_take_thresholds() {
        use ProbeResult::{Failed, Passed};
        let mut probe = Probe::new(ProbeSettings::default(), Timestamp::ZERO, 1);
        assert!(probe.is_usable());
        assert_eq!(ask(&mut probe, Passed), Some(ProbeState::Healthy));
        let results = [Failed, Failed, Passed, Failed, Failed].map(|result| ask(&mut probe, result));
        assert_eq!(results, [None; 5], "a success in between starts the count anew");
        assert_eq!(ask(&mut probe, Failed), Some(ProbeState::Unhealthy));
        assert_eq!(ask(&mut probe, Passed), None);
        assert_eq!(ask(&mut probe, Passed), Some(ProbeState::Healthy));
    }

    #[test]
    fn a_failing_endpoint_is_asked_more_often() {
        let mut probe =
            Probe::new(ProbeSettings { jitter: 0.0, ..ProbeSettings::default() }, Timestamp::ZERO, 1);
        ask(&mut probe, ProbeResult::Passed);
        let first = probe.due();
        ask(&mut probe, ProbeResult::Failed);
        assert_eq!(probe.due().since(first), Duration::from_secs(2));
        ask(&mut probe, ProbeResult::Passed);
        assert_eq!(probe.due().since(first), Duration::from_secs(12));
    }

    #[test]
    fn silence_is_a_failure_and_an_answer_too_late_is_ignored() {
        let mut probe = Probe::new(
            ProbeSettings { unhealthy_threshold: 1, ..ProbeSettings::default() },
            Timestamp::ZERO,
            1,
        );
        ask(&mut probe, ProbeResult::Passed);
        let asked = probe.due();
        let NextProbe::Ask { attempt, give_up } = probe.next(asked) else { panic!("due") };
        assert_eq!(probe.next(asked), NextProbe::At(give_up));
        assert!(matches!(probe.next(give_up), NextProbe::At(_)));
        assert_eq!(probe.state(), ProbeState::Unhealthy);
        assert_eq!(probe.on_result(give_up, attempt, ProbeResult::Passed), None);
        assert_eq!(probe.state(), ProbeState::Unhealthy);
    }

    #[test]
    fn a_probe_reads_as_plain_configuration() {
        let text = r#"{"probe": {"kind": "http", "path": "/ready", "expected_statuses": [[200, 204], [429, 429]]}, "interval_ms": 500}"#;
        let settings: ProbeSettings = serde_json::from_str(text).unwrap();
        assert!(settings.validate().is_ok());
        assert!(settings.probe.expects(429) && !settings.probe.expects(500));
        let grpc: ProbeSettings = serde_json::from_str(r#"{"probe": {"kind": "grpc"}}"#).unwrap();
        assert_eq!(grpc.probe, ProbeKind::Grpc { service: String::new() });
    }
}
