//! Has a number moved, since when, and how sure is that?
//!
//! Two detectors, each O(1) in time per window and bounded in memory:
//!
//! - [`Deviation`]: a robust z-score, for rates. The spread is the median absolute deviation of the last windows,
//!   never less than the Poisson deviation of the expected count or a set share of it.
//! - [`Drift`]: Page's cumulative sum of log-likelihood ratios (E. S. Page, "Continuous inspection schemes",
//!   Biometrika 41, 1954) for a share of trials: `S ← max(0, S + k·ln(p₁/p₀) + (n−k)·ln((1−p₁)/(1−p₀)))`, alarm at
//!   `S ≥ h`. With independent trials the mean number of them to a false alarm is at least `eʰ` (G. Lorden,
//!   "Procedures for reacting to a change in distribution", Annals of Mathematical Statistics 42, 1971). The start
//!   of the last excursion from zero is the maximum-likelihood estimate of when it began.

use std::collections::VecDeque;

use traflux_core::Timestamp;

use super::robust::center_and_spread;

/// What a window did to an alarm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Nothing new: no alarm, or one that goes on.
    Same,
    /// An alarm begins.
    Raised(Shift),
    /// The alarm ends.
    Cleared,
}

/// What moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// When it began, as far as windows tell.
    pub since: Timestamp,
    /// What was usual.
    pub usual: f64,
    /// What was seen since.
    pub seen: f64,
    /// The detector's statistic: standard deviations, or the log-likelihood ratio.
    pub score: f64,
}

/// An alarm that rises after some windows in a row and ends after some others, so that it does not flap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    /// Windows in a row beyond the limit before the alarm.
    pub raise_after: u32,
    /// Windows in a row within half the limit before its end.
    pub clear_after: u32,
}

/// The state of an alarm with [`Hysteresis`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latch {
    /// Windows in a row beyond the limit.
    pub(crate) beyond: u32,
    calm: u32,
    pub(crate) alarm: bool,
}

impl Latch {
    /// Takes a window; `Some` where the alarm begins (`true`) or ends.
    pub(crate) fn window(&mut self, beyond: bool, calm: bool, hysteresis: Hysteresis) -> Option<bool> {
        self.beyond = if beyond { self.beyond.saturating_add(1) } else { 0 };
        self.calm = if calm { self.calm.saturating_add(1) } else { 0 };
        let change = if self.alarm {
            self.calm >= hysteresis.clear_after
        } else {
            self.beyond >= hysteresis.raise_after
        };
        if !change {
            return None;
        }
        self.alarm = !self.alarm;
        Some(self.alarm)
    }
}

/// A robust z-score against the last windows or a given expectation.
#[derive(Debug, Clone)]
pub struct Deviation {
    /// Standard deviations that are too many.
    limit: f64,
    /// Least standard deviation as a share of the usual.
    least_share: f64,
    hysteresis: Hysteresis,
    memory: usize,
    /// Values over their expectation where one was given, plain otherwise.
    past: VecDeque<f64>,
    scaled: bool,
    scratch: Vec<f64>,
    latch: Latch,
    since: Timestamp,
    sum: f64,
}

impl Deviation {
    /// A detector that remembers so many windows and says nothing before it has eight.
    #[must_use]
    pub fn new(limit: f64, least_share: f64, memory: usize, hysteresis: Hysteresis) -> Self {
        Self {
            limit,
            least_share,
            hysteresis,
            memory: memory.max(8),
            past: VecDeque::new(),
            scaled: false,
            scratch: Vec::new(),
            latch: Latch::default(),
            since: Timestamp::ZERO,
            sum: 0.0,
        }
    }

    /// Whether there is an alarm.
    #[must_use]
    pub fn is_alarmed(&self) -> bool {
        self.latch.alarm
    }

    /// Takes a window that began at `start` with so many events; `expected` is what a seasonal profile says.
    pub fn window(&mut self, start: Timestamp, events: f64, expected: Option<f64>) -> Verdict {
        let scale = expected.filter(|expected| *expected > 0.0);
        // Ratios and counts cannot be compared: a change of kind begins a new memory.
        if scale.is_some() != self.scaled {
            self.scaled = scale.is_some();
            self.past.clear();
        }
        let value = events / scale.unwrap_or(1.0);
        self.scratch.clear();
        self.scratch.extend(&self.past);
        if self.past.len() < 8 {
            self.remember(value);
            return Verdict::Same;
        }
        let Some((center, spread)) = center_and_spread(&mut self.scratch) else { return Verdict::Same };
        let usual = center * scale.unwrap_or(1.0);
        // At least one event, or an idle stream would have no spread at all.
        let poisson = usual.max(1.0).sqrt() / scale.unwrap_or(1.0);
        let sigma = spread.max(poisson).max(self.least_share * center.abs());
        let z = (value - center) / sigma;
        let beyond = z.abs() > self.limit;
        if beyond && self.latch.beyond == 0 {
            (self.since, self.sum) = (start, 0.0);
        }
        self.sum += events;
        let change = self.latch.window(beyond, z.abs() <= self.limit / 2.0, self.hysteresis);
        // Meanwhile the past stands still, so that a new level does not become the usual at once; but only for as
        // long as the memory, or a lasting change would be an alarm for ever.
        if !beyond || self.latch.beyond as usize > self.memory {
            self.remember(value);
        }
        match change {
            Some(true) => {
                let seen = self.sum / f64::from(self.latch.beyond);
                Verdict::Raised(Shift { since: self.since, usual, seen, score: z })
            }
            Some(false) => Verdict::Cleared,
            None => Verdict::Same,
        }
    }

    fn remember(&mut self, value: f64) {
        if self.past.len() >= self.memory {
            self.past.pop_front();
        }
        self.past.push_back(value);
    }
}

/// Page's test on a share of trials: errors among requests, or requests slower than usual.
#[derive(Debug, Clone)]
pub struct Drift {
    settings: DriftSettings,
    /// Fading counts of the usual: of trials and of hits.
    usual: Option<(f64, f64)>,
    statistic: f64,
    since: Timestamp,
    trials: f64,
    hits: f64,
    calm: u32,
    alarm: bool,
}

/// When [`Drift`] gives alarm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DriftSettings {
    /// The share is looked for at this many times the usual …
    pub ratio: f64,
    /// … and at this much more than the usual, whichever is more.
    pub least_rise: f64,
    /// Least share taken for the usual.
    pub least_usual: f64,
    /// `h`: natural logarithm of the likelihood ratio at which there is alarm.
    pub threshold: f64,
    /// Trials before the usual is known; an alarm cannot be before.
    pub least_trials: f64,
    /// What a window keeps of the usual: 0.99 remembers about a hundred windows.
    pub keep: f64,
    /// Windows in a row without evidence before the alarm ends.
    pub clear_after: u32,
    /// A share that is given, instead of one that is learned.
    pub fixed: Option<f64>,
}

impl Drift {
    /// A detector that knows nothing yet.
    #[must_use]
    pub fn new(settings: DriftSettings) -> Self {
        Self {
            settings,
            usual: settings.fixed.map(|share| (settings.least_trials, share * settings.least_trials)),
            statistic: 0.0,
            since: Timestamp::ZERO,
            trials: 0.0,
            hits: 0.0,
            calm: 0,
            alarm: false,
        }
    }

    /// Whether there is an alarm.
    #[must_use]
    pub fn is_alarmed(&self) -> bool {
        self.alarm
    }

    /// The usual share, once it is known.
    #[must_use]
    pub fn usual(&self) -> Option<f64> {
        let (trials, hits) = self.usual?;
        (trials >= self.settings.least_trials).then(|| (hits / trials).max(self.settings.least_usual))
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        *self = Self::new(self.settings);
    }

    /// Takes a window that began at `start`, in which `hits` of `trials` were.
    pub fn window(&mut self, start: Timestamp, trials: u64, hits: u64) -> Verdict {
        let (trials, hits) = (trials as f64, hits.min(trials) as f64);
        let Some(usual) = self.usual() else {
            self.learn(trials, hits);
            return Verdict::Same;
        };
        let settings = &self.settings;
        let shifted = (usual * settings.ratio).max(usual + settings.least_rise).min(0.999);
        let usual = usual.min(shifted * 0.999);
        let gain = hits * (shifted / usual).ln() + (trials - hits) * ((1.0 - shifted) / (1.0 - usual)).ln();
        if self.statistic <= 0.0 {
            (self.since, self.trials, self.hits) = (start, 0.0, 0.0);
        }
        // Twice the threshold is certain enough; more would only delay the end of an alarm.
        self.statistic = (self.statistic + gain).clamp(0.0, 2.0 * settings.threshold);
        self.trials += trials;
        self.hits += hits;
        if self.alarm {
            // An empty window is no sign of recovery.
            if trials > 0.0 {
                self.calm = if gain < 0.0 { self.calm + 1 } else { 0 };
            }
            if self.calm >= settings.clear_after {
                (self.alarm, self.statistic, self.calm) = (false, 0.0, 0);
                return Verdict::Cleared;
            }
            return Verdict::Same;
        }
        if self.statistic >= settings.threshold {
            self.alarm = true;
            let seen = self.hits / self.trials.max(1.0);
            return Verdict::Raised(Shift { since: self.since, usual, seen, score: self.statistic });
        }
        // What looks like a beginning shift must not become the usual.
        if self.statistic < settings.threshold / 2.0 {
            self.learn(trials, hits);
        }
        Verdict::Same
    }

    fn learn(&mut self, trials: f64, hits: f64) {
        if self.settings.fixed.is_some() {
            return;
        }
        let keep = self.settings.keep;
        let (past_trials, past_hits) = self.usual.unwrap_or((0.0, 0.0));
        // Nothing fades before enough is known, else a slow stream would never know enough.
        let keep = if past_trials < self.settings.least_trials { 1.0 } else { keep };
        self.usual = Some((past_trials * keep + trials, past_hits * keep + hits));
    }
}
