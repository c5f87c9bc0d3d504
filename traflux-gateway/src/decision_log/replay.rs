//! Would it be decided so again?
//!
//! A fresh engine of the header's plan, settings and time gets every call of the log in its order, and each answer is
//! compared with the recorded one: rule, backend, endpoint, back-off, place in the queue, reason, limit and time to
//! come back, times to the nanosecond.

use std::collections::HashMap;
use std::fmt;
use std::io::BufRead;

use super::entry::{Answer, Asked, Call, Decide, Ended, Entry, Header, time};
use super::read::{Line, LogReader};
use crate::engine::{Decision, End, Engine, Forward, Later, Waiting};
use crate::error::GatewayError;
use crate::queue::Ticket;

/// What came of a replay.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Calls replayed.
    pub calls: u64,
    /// Answers compared.
    pub answers: u64,
    /// The first that differs; calls beyond it were not replayed.
    pub difference: Option<Difference>,
    /// Whether the log broke off in the middle of a line.
    pub is_cut: bool,
    /// Counters and levels at the end, as a scrape shows them.
    pub state: String,
}

/// An answer that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Number of the entry.
    pub n: u64,
    /// Its line, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What was recorded.
    pub recorded: String,
    /// What the replay answers.
    pub replayed: String,
    /// What the engine of the replay looks at for this request, after it has decided.
    pub trace: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "entry {} (line {}) differs", self.n, self.line)?;
        writeln!(f, "  line:     {}", self.text)?;
        writeln!(f, "  recorded: {}", self.recorded)?;
        writeln!(f, "  replayed: {}", self.replayed)?;
        if !self.trace.is_empty() {
            writeln!(f, "what the replay looks at:")?;
            for line in self.trace.lines() {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

/// Replays a log up to the first difference.
///
/// # Errors
/// [`GatewayError::DecisionLog`] for lines that are none, for a log with a gap, and for one whose header says that it
/// cannot be replayed; [`GatewayError::Plan`] and others where the recorded plan is not accepted any more.
pub fn replay<R: BufRead>(log: &mut LogReader<R>) -> Result<Replayed, GatewayError> {
    let Some(Line::Header(header)) = log.read()? else {
        return Err(GatewayError::DecisionLog { line: 1, problem: "the log is empty".into() });
    };
    let mut player = Player::new(&header)?;
    let mut done = Replayed { calls: 0, answers: 0, difference: None, is_cut: false, state: String::new() };
    let mut latest = header.t;
    loop {
        let line = log.read()?;
        if let Some(obstacle) = log.obstacle() {
            let problem = format!("it can be analysed but not replayed: {obstacle}");
            return Err(GatewayError::DecisionLog { line: log.line(), problem });
        }
        let entry = match line {
            Some(Line::Entry(entry)) => entry,
            // Files of one run follow each other.
            Some(Line::Header(_)) => continue,
            None => break,
        };
        latest = latest.max(entry.t);
        done.calls += 1;
        if let Some((recorded, replayed)) = player.play(&entry)? {
            done.answers += 1;
            if recorded != replayed {
                done.difference = Some(Difference {
                    n: entry.n,
                    line: log.line(),
                    text: log.text().to_owned(),
                    recorded,
                    replayed,
                    trace: player.trace(&entry),
                });
                return Ok(done);
            }
        }
    }
    done.is_cut = log.is_cut();
    done.state = player.engine.scrape(time(latest), crate::observe::Format::Prometheus);
    Ok(done)
}

/// A request that has been decided about and has not ended.
enum Held {
    Forward(Forward),
    Later(Later),
    Waiting(Waiting),
}

/// Makes the calls of a log.
struct Player {
    engine: Engine,
    held: HashMap<u64, Held>,
    waiting: HashMap<(usize, Ticket), u64>,
    /// What is asked for by those that wait or run, to explain a difference.
    asked: HashMap<u64, Asked<'static>>,
}

impl Player {
    fn new(header: &Header) -> Result<Self, GatewayError> {
        Ok(Self {
            engine: Engine::new(&header.plan, &header.settings, time(header.run))?,
            held: HashMap::new(),
            waiting: HashMap::new(),
            asked: HashMap::new(),
        })
    }

    /// Makes a call; gives the recorded and the new answer where there is one.
    fn play(&mut self, entry: &Entry<'static>) -> Result<Option<(String, String)>, GatewayError> {
        let now = entry.at();
        Ok(match &entry.call {
            Call::Decide(Decide { request, answer }) => {
                let decision =
                    request.with(|asked| self.engine.decide_in_session(asked, request.session(), now));
                let replayed = shown(&Answer::of(&decision));
                self.hold(entry.n, decision);
                if self.held.contains_key(&entry.n) {
                    self.asked.insert(entry.n, request.clone());
                }
                Some((shown(answer), replayed))
            }
            Call::Explain(request) => {
                request.with(|asked| drop(self.engine.explain(asked, now)));
                None
            }
            Call::FirstByte { of } => {
                if let Some(Held::Forward(forward)) = self.held.get_mut(of) {
                    forward.first_byte(now);
                }
                None
            }
            Call::Finish(ended) => {
                if let Some(forward) = self.forward(ended.of) {
                    with_end(ended, |end| forward.finish(now, end));
                }
                self.asked.remove(&ended.of);
                None
            }
            Call::Retry { end: ended, answer } => {
                let replayed = match self.forward(ended.of) {
                    Some(forward) => {
                        let decision = with_end(ended, |end| forward.retry(now, end));
                        let replayed = shown(&Answer::of(&decision));
                        self.hold(ended.of, decision);
                        replayed
                    }
                    None => "no such request".to_owned(),
                };
                Some((shown(answer), replayed))
            }
            Call::GoOn { of, answer } => {
                let replayed = match self.held.remove(of) {
                    Some(Held::Later(later)) => {
                        let decision = later.go_on(now);
                        let replayed = shown(&Answer::of(&decision));
                        self.hold(*of, decision);
                        replayed
                    }
                    _ => "no such request".to_owned(),
                };
                Some((shown(answer), replayed))
            }
            Call::Pause { of } => {
                if let Some(Held::Forward(forward)) = self.held.get_mut(of) {
                    forward.pause(now);
                }
                None
            }
            Call::Resume { of } => {
                if let Some(Held::Forward(forward)) = self.held.get_mut(of) {
                    forward.resume();
                }
                None
            }
            Call::Hedge { of, answer } => {
                let second = match self.held.get_mut(of) {
                    Some(Held::Forward(forward)) => forward.hedge(now),
                    _ => None,
                };
                let told = |answer: Option<&Answer<'_>>| answer.map_or_else(|| "none".to_owned(), shown);
                let replayed = told(second.as_ref().map(Answer::of_forward).as_ref());
                if let Some(second) = second {
                    self.held.insert(entry.n, Held::Forward(second));
                }
                Some((told(answer.as_ref()), replayed))
            }
            Call::Overtaken { of } => {
                if let Some(forward) = self.forward(*of) {
                    forward.overtaken(now);
                }
                None
            }
            Call::Drop { of } | Call::Leave { of } => {
                self.asked.remove(of);
                if let Some(Held::Waiting(waiting)) = self.held.get(of) {
                    self.waiting.remove(&waiting.ticket());
                }
                drop(self.held.remove(of));
                None
            }
            Call::TakeReady { of, answer } => {
                let replayed = match self.engine.take_ready() {
                    Some((ticket, decision)) => {
                        let who = self.waiting.remove(&ticket);
                        let replayed = format!("{} for {}", shown(&Answer::of(&decision)), number(who));
                        if let Some(who) = who {
                            self.held.remove(&who);
                            self.hold(who, decision);
                        }
                        replayed
                    }
                    None => "nobody is called".to_owned(),
                };
                Some((format!("{} for {}", shown(answer), number(Some(*of))), replayed))
            }
            Call::Upkeep => {
                self.engine.upkeep(now);
                None
            }
            Call::SetWeights { rule, weights } => {
                let weights: Vec<(&str, u32)> = weights.iter().map(|(name, w)| (&**name, *w)).collect();
                // What the engine refuses had no effect where it was recorded, either.
                let _ = self.engine.set_weights(now, rule, &weights);
                None
            }
            Call::AskProbes { most } => {
                drop(self.engine.probes(now, usize::try_from(*most).unwrap_or(usize::MAX)));
                None
            }
            Call::Probe { .. } => {
                if let Some((question, result)) = entry.call.question() {
                    self.engine.on_probe(now, &question, result);
                }
                None
            }
            Call::Restore { levels, .. } => {
                self.engine.restore(now, levels);
                None
            }
            Call::Load { backend, model, report } => {
                self.engine.report_load(now, backend, model, *report);
                None
            }
            Call::Reload { in_force, settings, plan, .. } => {
                let result = self.engine.reload(plan, settings, now);
                let told = |in_force| if in_force { "in force" } else { "refused" }.to_owned();
                Some((told(*in_force), told(result.is_ok())))
            }
            Call::Close => None,
        })
    }

    fn hold(&mut self, n: u64, decision: Decision) {
        match decision {
            Decision::Forward(forward) => {
                self.held.insert(n, Held::Forward(forward));
            }
            Decision::Later(later) => {
                self.held.insert(n, Held::Later(later));
            }
            Decision::Wait(waiting) => {
                self.waiting.insert(waiting.ticket(), n);
                self.held.insert(n, Held::Waiting(waiting));
            }
            Decision::Refuse(_) => {}
        }
    }

    fn forward(&mut self, n: u64) -> Option<Forward> {
        match self.held.remove(&n) {
            Some(Held::Forward(forward)) => Some(forward),
            _ => None,
        }
    }

    /// What the engine looks at for the request of an entry.
    fn trace(&self, entry: &Entry<'static>) -> String {
        let request = match &entry.call {
            Call::Decide(decide) => Some(&decide.request),
            Call::Retry { end: Ended { of, .. }, .. }
            | Call::TakeReady { of, .. }
            | Call::GoOn { of, .. } => self.asked.get(of),
            _ => None,
        };
        let explain = |asked: &crate::Request<'_>| self.engine.explain(asked, entry.at()).to_string();
        request.map(|request| request.with(explain)).unwrap_or_default()
    }
}

/// Calls `with` with an end as the engine gets it.
pub(super) fn with_end<T>(ended: &Ended, with: impl FnOnce(&End<'_>) -> T) -> T {
    let feedback = ended.feedback();
    with(&End { outcome: ended.outcome, usage: ended.usage(), feedback: &feedback })
}

fn shown(answer: &Answer<'_>) -> String {
    // Texts and numbers can always be written.
    serde_json::to_string(answer).unwrap_or_default()
}

fn number(n: Option<u64>) -> String {
    n.map_or_else(|| "nobody known".to_owned(), |n| format!("request {n}"))
}
