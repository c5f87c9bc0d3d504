//! What was decided, and would it be decided so again?
//!
//! A [`DecisionLog`] writes down every call that changes what an [`Engine`](crate::Engine) knows, with the time it was
//! given, and what each decision was. The engine has no clock and draws no number that does not follow from its seed,
//! so a fresh one that gets the same calls in the same order decides the same, to the bit: [`replay`](fn@replay)
//! does that and compares.
//!
//! | module | question |
//! |---|---|
//! | [`entry`] | what stands in one line? |
//! | `secrets` | what of a request may be written down? |
//! | [`file`](mod@file) | where do lines go? |
//! | [`read`] | what does a log tell, and where has it gaps? |
//! | [`replay`](mod@replay) | would it be decided so again? |
//! | [`trace`] | what happened to each request? |
//! | [`summary`] | what came of many, in numbers that can stand side by side? |
//! | [`what_if`](mod@what_if) | how would they have fared under another plan? |
//! | [`planning`] | when will it not be enough? |
//!
//! **Order.** Bits repeat only in one total order of calls, and two threads that decide at the same time have none. An
//! engine with a log therefore lets its calls take turns: each holds one lock from its beginning until its line is
//! written. So what was recorded replays to the bit whatever the number of threads. An engine without a log has one
//! branch more and no lock.
//!
//! **Bounds.** Lines gather in memory until somebody [takes](DecisionLog::take) them to a file. What does not fit is
//! dropped and counted, never waited for. Entries are numbered, so a gap shows as numbers that are missing; a log with
//! a gap, or whose beginning is gone, can be analysed but not replayed.
//!
//! **Privacy.** Of a request only what the plan looks at is written: see `secrets` for names that are hashed. Prompts
//! and keys of sessions are hashes; tenants, users and the names of API keys are texts. The seed is in the header, so
//! keep a log as secret as the seed.

pub mod entry;
pub mod file;
pub mod planning;
pub mod read;
pub mod replay;
mod secrets;
pub mod summary;
pub mod trace;
pub mod what_if;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;

use crate::affinity::AffinityKey;
use crate::engine::EngineSettings;
use crate::error::GatewayError;
use crate::limit::Levels;
use crate::queue::Ticket;
use crate::request::Request;
use entry::{Answer, Asked, Call, Decide, Entry, FORMAT, Header, VERSION, stamp};
use secrets::{Visible, plan_hash, secret_limits, without_secrets};

pub use file::{LogFile, LogFileSettings};
pub use planning::Planning;
pub use read::{Gap, Line, LogReader};
pub use replay::{Difference, Replayed, replay};
pub use summary::{Summary, csv, side_by_side};
pub use trace::Trace;
pub use what_if::{WhatIf, what_if};

/// How much of a log waits in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Bytes of lines that may wait to be taken; beyond, entries are dropped. A second buffer of the size reached is
    /// with whoever takes them.
    pub buffer_bytes: usize,
}

impl Default for LogSettings {
    /// 16 MiB.
    fn default() -> Self {
        Self { buffer_bytes: 16 << 20 }
    }
}

/// Records the calls of one engine.
#[derive(Debug)]
pub struct DecisionLog {
    pen: Mutex<Pen>,
    /// Relaxed: numbers for people.
    entries: AtomicU64,
    dropped: AtomicU64,
}

/// What writes. Whoever holds it has the turn.
#[derive(Debug)]
pub(crate) struct Pen {
    lines: Vec<u8>,
    buffer_bytes: usize,
    /// Number of the next entry.
    next: u64,
    dropped: u64,
    latest: u64,
    run: u64,
    plan: RequestPlan,
    settings: EngineSettings,
    not_replayable: Option<String>,
    visible: Visible,
    /// Requests that wait, by ticket.
    waiting: HashMap<(usize, Ticket), u64>,
}

impl DecisionLog {
    /// A log of an engine that begins now with a plan.
    ///
    /// # Errors
    /// [`GatewayError::DecisionLog`] for settings that would not read back as they are.
    pub(crate) fn new(
        plan: &RequestPlan,
        settings: &EngineSettings,
        log: &LogSettings,
        now: Timestamp,
    ) -> Result<Self, GatewayError> {
        let (written, not_replayable) = without_secrets(plan);
        let mut pen = Pen {
            lines: Vec::new(),
            buffer_bytes: log.buffer_bytes,
            next: 0,
            dropped: 0,
            latest: stamp(now),
            run: stamp(now),
            plan: written,
            settings: settings.clone(),
            not_replayable,
            visible: Visible::of(plan),
            waiting: HashMap::new(),
        };
        let header = pen.header();
        let text = serde_json::to_string(&header).map_err(unwritable)?;
        if entry::parse::<Header>(&text, 1)? != header {
            return Err(unwritable("settings that do not read back as they are"));
        }
        pen.put(&header);
        Ok(Self { pen: Mutex::new(pen), entries: AtomicU64::new(0), dropped: AtomicU64::new(0) })
    }

    /// Gives all lines that were not taken yet in place of what `lines` holds. With `new_file` the next lines begin
    /// with a header of their own, so that they can stand in another file.
    pub fn take(&self, lines: &mut Vec<u8>, new_file: bool) {
        lines.clear();
        let mut pen = self.lock();
        std::mem::swap(lines, &mut pen.lines);
        if new_file {
            let header = pen.header();
            pen.put(&header);
        }
    }

    /// Writes a last entry, by which a log that is complete is told from one that broke off.
    pub fn close(&self) {
        drop(self.turn(Call::Close, None));
    }

    /// Entries written so far, and entries dropped for want of room.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }

    /// Waits for the turn of a call that answers something.
    pub(crate) fn begin(&self) -> Turn<'_> {
        Turn { log: self, pen: self.lock() }
    }

    /// Waits for the turn of a call that answers nothing, and writes it. It lasts as long as what this returns.
    pub(crate) fn turn(&self, call: Call<'_>, now: Option<Timestamp>) -> Turn<'_> {
        let mut turn = self.begin();
        turn.write(call, now);
        turn
    }

    fn lock(&self) -> MutexGuard<'_, Pen> {
        // Whoever panicked left at most half a line, which a reader reports.
        self.pen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The turn of one call.
pub(crate) struct Turn<'a> {
    log: &'a DecisionLog,
    pen: MutexGuard<'a, Pen>,
}

impl Turn<'_> {
    /// Writes the call of this turn; gives its number, by which later calls speak of it.
    pub(crate) fn write(&mut self, call: Call<'_>, now: Option<Timestamp>) -> u64 {
        let before = self.pen.dropped;
        let n = self.pen.write(call, now);
        // Relaxed: numbers for people.
        self.log.entries.store(self.pen.next - self.pen.dropped, Ordering::Relaxed);
        if self.pen.dropped != before {
            self.log.dropped.store(self.pen.dropped, Ordering::Relaxed);
        }
        n
    }

    /// Writes a decision.
    pub(crate) fn decided(
        &mut self,
        request: &Request<'_>,
        session: impl IntoIterator<Item = AffinityKey>,
        answer: Answer<'_>,
        now: Timestamp,
    ) -> u64 {
        let visible = std::mem::take(&mut self.pen.visible);
        let request = visible.asked(request, session);
        let n = self.write(Call::Decide(Decide { request, answer }), Some(now));
        self.pen.visible = visible;
        n
    }

    /// Writes that a request was explained.
    pub(crate) fn explained(&mut self, request: &Request<'_>, now: Timestamp) {
        let visible = std::mem::take(&mut self.pen.visible);
        let request: Asked<'_> = visible.asked(request, []);
        self.write(Call::Explain(request), Some(now));
        self.pen.visible = visible;
    }

    /// Remembers who waits under a ticket.
    pub(crate) fn waits(&mut self, ticket: (usize, Ticket), n: u64) {
        self.pen.waiting.insert(ticket, n);
    }

    /// Who waited under a ticket, once.
    pub(crate) fn waited(&mut self, ticket: (usize, Ticket)) -> Option<u64> {
        self.pen.waiting.remove(&ticket)
    }

    /// Writes that levels were restored, but for those whose keys are secrets.
    pub(crate) fn restored(&mut self, levels: &Levels, now: Timestamp) {
        let mut written = levels.clone();
        for limit in secret_limits(&self.pen.plan) {
            let own_amount = format!("{limit} of ");
            written.levels.retain(|level| level.limit != limit && !level.limit.starts_with(&own_amount));
        }
        let withheld = (levels.levels.len() - written.levels.len()) as u64;
        if withheld > 0 {
            self.pen.not_replayable = Some(format!("{withheld} levels under secret keys were not written"));
        }
        self.write(Call::Restore { withheld, levels: Cow::Owned(written) }, Some(now));
    }

    /// Writes that another plan was given.
    pub(crate) fn reloaded(
        &mut self,
        plan: &RequestPlan,
        settings: &EngineSettings,
        in_force: bool,
        now: Timestamp,
    ) {
        let (written, not_replayable) = without_secrets(plan);
        let call = Call::Reload {
            in_force,
            not_replayable: not_replayable.clone(),
            settings: Box::new(settings.clone()),
            plan: Box::new(written.clone()),
        };
        self.write(call, Some(now));
        if in_force {
            self.pen.visible = Visible::of(plan);
            self.pen.plan = written;
            self.pen.settings = settings.clone();
            self.pen.not_replayable = self.pen.not_replayable.take().or(not_replayable);
        }
    }
}

impl Pen {
    fn header(&self) -> Header {
        Header {
            format: FORMAT.to_owned(),
            version: VERSION,
            run: self.run,
            first: self.next,
            t: self.latest,
            plan_sha256: plan_hash(&self.plan),
            not_replayable: self.not_replayable.clone(),
            settings: self.settings.clone(),
            plan: self.plan.clone(),
        }
    }

    fn write(&mut self, call: Call<'_>, now: Option<Timestamp>) -> u64 {
        let t = now.map_or(self.latest, stamp);
        self.latest = self.latest.max(t);
        let n = self.next;
        self.next += 1;
        if self.lines.len() >= self.buffer_bytes || !self.put(&Entry { n, t, call }) {
            self.dropped += 1;
        }
        n
    }

    /// Appends a line; says whether it could be written.
    fn put(&mut self, line: &impl Serialize) -> bool {
        let length = self.lines.len();
        if serde_json::to_writer(&mut self.lines, line).is_err() {
            self.lines.truncate(length);
            return false;
        }
        self.lines.push(b'\n');
        true
    }
}

fn unwritable(problem: impl ToString) -> GatewayError {
    GatewayError::DecisionLog { line: 0, problem: problem.to_string() }
}
