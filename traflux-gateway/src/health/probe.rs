//! Does the endpoint answer when asked?
//!
//! An active health check as a state machine without I/O: [`Probe::next`] says when to ask, whoever does the
//! asking reports with [`Probe::on_result`]. An endpoint not yet known is judged by its first answer; after that
//! it takes `unhealthy_threshold` failures in a row to call it unhealthy and `healthy_threshold` successes to
//! call it healthy again (as Envoy's health checking has it). Failing endpoints are asked more often.

use traflux_core::Timestamp;
use traflux_core::plan::health::ProbePlan;

use crate::rng::Rng;

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
/// use traflux_gateway::health::{NextProbe, Probe, ProbeResult, ProbePlan, ProbeState};
///
/// let mut probe = Probe::new(ProbePlan::default(), Timestamp::ZERO, 7);
/// let now = probe.due();
/// let NextProbe::Ask { attempt, .. } = probe.next(now) else { panic!() };
/// assert_eq!(probe.on_result(now, attempt, ProbeResult::Failed), Some(ProbeState::Unhealthy));
/// ```
#[derive(Debug, Clone)]
pub struct Probe {
    plan: ProbePlan,
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
    pub fn new(plan: ProbePlan, now: Timestamp, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let due = now + plan.unhealthy_interval.min(plan.interval).mul_f64(rng.uniform());
        Self {
            plan,
            state: ProbeState::Unknown,
            against: 0,
            due,
            attempt: 0,
            asked: None,
            failed_last: false,
            rng,
        }
    }

    /// The same check by another plan: what is known stays, and the next question is due as if it were new.
    #[must_use]
    pub fn with_plan(self, plan: ProbePlan, now: Timestamp) -> Self {
        let mut rng = self.rng;
        let due = now + plan.unhealthy_interval.min(plan.interval).mul_f64(rng.uniform());
        Self { plan, rng, due, against: 0, asked: None, ..self }
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
            ProbeState::Unknown => self.plan.assume_healthy,
        }
    }

    /// When there is something to do: a question is due, or an answer overdue.
    #[must_use]
    pub fn due(&self) -> Timestamp {
        self.asked.map_or(self.due, |asked| asked + self.plan.timeout)
    }

    /// What to do now. While a question is open and in time, the answer is to wait.
    pub fn next(&mut self, now: Timestamp) -> NextProbe {
        if let Some(asked) = self.asked {
            if now < asked + self.plan.timeout {
                return NextProbe::At(asked + self.plan.timeout);
            }
            let attempt = self.attempt;
            self.on_result(now, attempt, ProbeResult::Failed);
        }
        if now < self.due {
            return NextProbe::At(self.due);
        }
        self.attempt += 1;
        self.asked = Some(now);
        NextProbe::Ask { attempt: self.attempt, give_up: now + self.plan.timeout }
    }

    /// Takes in how a question ended, and returns the state when it changed. Answers to questions given up
    /// are ignored, and one that comes after the timeout is a failure.
    pub fn on_result(&mut self, now: Timestamp, attempt: u64, result: ProbeResult) -> Option<ProbeState> {
        let asked = self.asked.filter(|_| attempt == self.attempt)?;
        self.asked = None;
        let passed = result == ProbeResult::Passed && now.since(asked) <= self.plan.timeout;
        self.failed_last = !passed;
        let toward = if passed { ProbeState::Healthy } else { ProbeState::Unhealthy };
        let before = self.state;
        if toward == self.state {
            self.against = 0;
        } else {
            self.against += 1;
            let threshold = match (self.state, toward) {
                (ProbeState::Unknown, _) => 1,
                (_, ProbeState::Healthy) => self.plan.healthy_threshold,
                _ => self.plan.unhealthy_threshold,
            };
            if self.against >= threshold {
                (self.state, self.against) = (toward, 0);
            }
        }
        let interval = if self.failed_last || self.state == ProbeState::Unhealthy {
            self.plan.unhealthy_interval
        } else {
            self.plan.interval
        };
        self.due = now + interval.mul_f64(1.0 + self.plan.jitter.clamp(0.0, 1.0) * self.rng.uniform());
        (self.state != before).then_some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use traflux_core::plan::health::ProbeKind;

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
        let mut probe = Probe::new(ProbePlan::default(), Timestamp::ZERO, 1);
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
        let mut probe = Probe::new(ProbePlan { jitter: 0.0, ..ProbePlan::default() }, Timestamp::ZERO, 1);
        ask(&mut probe, ProbeResult::Passed);
        let first = probe.due();
        ask(&mut probe, ProbeResult::Failed);
        assert_eq!(probe.due().since(first), Duration::from_secs(2));
        ask(&mut probe, ProbeResult::Passed);
        assert_eq!(probe.due().since(first), Duration::from_secs(12));
    }

    #[test]
    fn silence_is_a_failure_and_an_answer_too_late_is_ignored() {
        let mut probe =
            Probe::new(ProbePlan { unhealthy_threshold: 1, ..ProbePlan::default() }, Timestamp::ZERO, 1);
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
        let plan: ProbePlan = serde_json::from_str(text).unwrap();
        assert!(plan.validate().is_ok());
        assert!(plan.probe.expects(429) && !plan.probe.expects(500));
        let grpc: ProbePlan = serde_json::from_str(r#"{"probe": {"kind": "grpc"}}"#).unwrap();
        assert_eq!(grpc.probe, ProbeKind::Grpc { service: String::new() });
    }
}
