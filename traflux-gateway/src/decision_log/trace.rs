//! What happened to each request?
//!
//! The lines of a log speak of calls; a [`Trace`] puts them together by request: when it came, what it asked for, the
//! attempts made for it and how they ended. Gaps do no harm here beyond the requests they hide.

use std::collections::HashMap;
use std::io::BufRead;

use super::entry::{Answer, Asked, Call, Ended, Entry, Header, Said};
use super::read::{Gap, Line, LogReader};
use crate::error::GatewayError;
use crate::health::Outcome;
use crate::wire::Usage;

/// A log by request.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The first header: plan and settings at the beginning.
    pub header: Header,
    /// Requests in the order in which they were decided about.
    pub requests: Vec<Traced>,
    /// Calls that no request makes: upkeep, probes, reports, weights.
    pub others: Vec<Entry<'static>>,
    /// Plans that came into force later.
    pub reloads: usize,
    /// Entries that are missing.
    pub gaps: Vec<Gap>,
    /// Time of the first and of the last line, nanoseconds since the epoch.
    pub span: (u64, u64),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Traced {
    /// Number of the entry that decided about it.
    pub n: u64,
    /// When it came, nanoseconds since the epoch.
    pub at: u64,
    /// What it asked for.
    pub asked: Asked<'static>,
    /// The rule that decided; empty where none did.
    pub rule: String,
    /// How long it waited in the queue or for its turn under a limit, nanoseconds; `None` where it did not.
    pub waited: Option<u64>,
    /// When it ended, however, nanoseconds since the epoch.
    pub ended: Option<u64>,
    /// Attempts, those at once among them.
    pub attempts: Vec<Attempted>,
    /// What came of it.
    pub fate: Fate,
}

/// One attempt.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// The backend.
    pub backend: String,
    /// When it was sent, nanoseconds since the epoch.
    pub sent: u64,
    /// Nanoseconds from then to the first byte.
    pub first: Option<u64>,
    /// Nanoseconds from then to the end; `None` while it runs.
    pub total: Option<u64>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Tokens used, where the answer said so.
    pub usage: Option<Usage>,
    /// What the backend said about its limits.
    pub said: Option<Said>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// An attempt was the last, and ended so.
    Ended(Outcome),
    /// It was refused, for this reason, before any attempt.
    Refused(String),
    /// Its client went away while it waited.
    Left,
    /// The log ends before.
    Open,
}

impl Trace {
    /// Reads a log to its end.
    ///
    /// # Errors
    /// [`GatewayError::DecisionLog`] for lines that are none.
    pub fn read<R: BufRead>(log: &mut LogReader<R>) -> Result<Self, GatewayError> {
        let Some(Line::Header(header)) = log.read()? else {
            return Err(GatewayError::DecisionLog { line: 1, problem: "the log is empty".into() });
        };
        let began = header.t;
        let mut trace = Self {
            header: *header,
            requests: Vec::new(),
            others: Vec::new(),
            reloads: 0,
            gaps: Vec::new(),
            span: (began, began),
        };
        let mut open: Open = HashMap::new();
        while let Some(line) = log.read()? {
            let Line::Entry(entry) = line else { continue };
            trace.span = (trace.span.0.min(entry.t), trace.span.1.max(entry.t));
            trace.add(entry, &mut open);
        }
        trace.gaps = log.gaps().to_vec();
        Ok(trace)
    }

    fn add(&mut self, entry: Entry<'static>, open: &mut Open) {
        let Entry { n, t, call } = entry;
        match call {
            Call::Decide(decide) => {
                open.insert(n, (self.requests.len(), 0));
                self.requests.push(Traced {
                    n,
                    at: t,
                    ended: None,
                    asked: decide.request,
                    rule: String::new(),
                    waited: None,
                    attempts: Vec::new(),
                    fate: Fate::Open,
                });
                self.answer(n, t, decide.answer, false, open);
            }
            Call::TakeReady { of, answer } | Call::GoOn { of, answer } => {
                self.answer(of, t, answer, true, open)
            }
            Call::FirstByte { of } => {
                if let Some(attempt) = self.attempt(of, open)
                    && attempt.first.is_none()
                {
                    attempt.first = Some(t.saturating_sub(attempt.sent));
                }
            }
            Call::Finish(ended) => {
                let (of, outcome) = (ended.of, ended.outcome);
                self.end(ended, t, open);
                self.close(of, t, Fate::Ended(outcome), open);
            }
            Call::Retry { end, answer } => {
                let (of, outcome) = (end.of, end.outcome);
                self.end(end, t, open);
                match answer {
                    Answer::Refuse { .. } => self.close(of, t, Fate::Ended(outcome), open),
                    answer => self.answer(of, t, answer, false, open),
                }
            }
            Call::Hedge { of, answer: Some(Answer::Forward { backend, .. }) } => {
                if let Some((request, _)) = open.get(&of).copied() {
                    let attempts = &mut self.requests[request].attempts;
                    open.insert(n, (request, attempts.len()));
                    attempts.push(Attempted::begun(backend.into_owned(), t));
                }
            }
            Call::Overtaken { of } => {
                self.end(Ended { of, outcome: Outcome::Cancelled, usage: None, said: None }, t, open);
                open.remove(&of);
            }
            Call::Drop { of } => {
                let ended = Ended { of, outcome: Outcome::Cancelled, usage: None, said: None };
                self.end(ended, t, open);
                self.close(of, t, Fate::Ended(Outcome::Cancelled), open);
            }
            Call::Leave { of } => {
                if let Some((request, _)) = open.get(&of) {
                    let request = &mut self.requests[*request];
                    request.waited = Some(t.saturating_sub(request.at));
                }
                self.close(of, t, Fate::Left, open);
            }
            Call::Reload { in_force, .. } => self.reloads += usize::from(in_force),
            call @ (Call::Upkeep
            | Call::SetWeights { .. }
            | Call::AskProbes { .. }
            | Call::Probe { .. }
            | Call::Restore { .. }
            | Call::Load { .. }) => self.others.push(Entry { n, t, call }),
            Call::Pause { .. }
            | Call::Resume { .. }
            | Call::Hedge { .. }
            | Call::Explain(_)
            | Call::Close => {}
        }
    }

    fn answer(&mut self, n: u64, t: u64, answer: Answer<'_>, waited: bool, open: &mut Open) {
        let Some((request, attempt)) = open.get_mut(&n) else { return };
        let request = &mut self.requests[*request];
        if waited {
            request.waited = Some(t.saturating_sub(request.at));
        }
        match answer {
            Answer::Forward { rule, backend, after, .. } => {
                request.rule = rule.into_owned();
                *attempt = request.attempts.len();
                request.attempts.push(Attempted::begun(backend.into_owned(), t.saturating_add(after)));
            }
            Answer::Wait { .. } | Answer::Later { .. } => {}
            Answer::Refuse { reason, rule, .. } => {
                request.rule = rule.map(|rule| rule.into_owned()).unwrap_or_default();
                let reason = reason.into_owned();
                self.close(n, t, Fate::Refused(reason), open);
            }
        }
    }

    fn attempt(&mut self, n: u64, open: &Open) -> Option<&mut Attempted> {
        let (request, attempt) = open.get(&n)?;
        self.requests[*request].attempts.get_mut(*attempt)
    }

    fn end(&mut self, ended: Ended, t: u64, open: &Open) {
        if let Some(attempt) = self.attempt(ended.of, open) {
            attempt.total = Some(t.saturating_sub(attempt.sent));
            attempt.outcome = Some(ended.outcome);
            attempt.usage = ended.usage();
            attempt.said = ended.said;
        }
    }

    fn close(&mut self, n: u64, t: u64, fate: Fate, open: &mut Open) {
        if let Some((request, _)) = open.remove(&n) {
            let request = &mut self.requests[request];
            // Of two attempts at once, the one that went well counts, else the last.
            if request.fate != Fate::Ended(Outcome::Success) {
                request.fate = fate;
                request.ended = Some(t);
            }
        }
    }
}

/// Request and attempt, as positions, by the number of the entry that speaks for them.
type Open = HashMap<u64, (usize, usize)>;

impl Attempted {
    /// One that has begun, at nanoseconds since the epoch.
    pub(super) fn begun(backend: String, sent: u64) -> Self {
        Self { backend, sent, first: None, total: None, outcome: None, usage: None, said: None }
    }
}
