//! Which engines and decisions are there?
//!
//! Both are known to JavaScript by numbers: a receiver that is an object is unwrapped and its class checked at each
//! call, which takes as long as the rest of the way across. An engine belongs to the thread that made it, as all objects
//! of JavaScript do; `lib/engine.js` says when it, or a decision, has been collected.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;

use napi::Result;
use traflux_core::Timestamp;
use traflux_gateway::adapter::Clock;
use traflux_gateway::{Decision, Engine, Forward, Later, Refusal, Waiting};

use crate::errors::{guarded, input};
use crate::request::timestamp;

thread_local! {
    static ENGINES: RefCell<Vec<Option<Hosted>>> = const { RefCell::new(Vec::new()) };
}

/// An engine with what Node holds of it.
pub(crate) struct Hosted {
    pub(crate) engine: Engine,
    pub(crate) clock: Clock,
    pub(crate) slots: RefCell<Slots>,
}

impl Hosted {
    /// A time of Node; that of the clock where it is NaN.
    pub(crate) fn time(&self, now_ms: f64) -> Result<Timestamp> {
        if now_ms.is_nan() { Ok(self.clock.now()) } else { timestamp(now_ms) }
    }
}

/// Keeps an engine: its number.
pub(crate) fn keep(hosted: Hosted) -> u32 {
    ENGINES.with_borrow_mut(|all| place(all, hosted))
}

/// Forgets an engine.
pub(crate) fn forget(engine: u32) {
    let gone = ENGINES.with_borrow_mut(|all| all.get_mut(engine as usize).and_then(Option::take));
    drop(gone);
}

/// Calls with an engine, and makes an error of a panic.
pub(crate) fn with<T>(engine: u32, call: impl FnOnce(&Hosted) -> Result<T>) -> Result<T> {
    guarded(|| {
        ENGINES.with_borrow(|all| call(all.get(engine as usize).and_then(Option::as_ref).ok_or_else(ended)?))
    })
}

fn place<T>(all: &mut Vec<Option<T>>, one: T) -> u32 {
    let at = all.iter().position(Option::is_none).unwrap_or(all.len());
    if at == all.len() {
        all.push(None);
    }
    all[at] = Some(one);
    at as u32
}

/// Most texts of which the number is remembered.
const TEXTS: usize = 4096;

/// What Node owns a number of.
pub(crate) enum Held {
    Forward(Forward),
    Wait(Waiting),
    Later(Later),
}

/// Decisions by number. Numbers are used again once their decision has ended.
#[derive(Default)]
pub(crate) struct Slots {
    held: Vec<Option<Held>>,
    free: Vec<u32>,
    pub(crate) refusal: Option<Refusal>,
    /// Numbers of what was said of forwards, and the next one; none is used again.
    said: HashMap<String, u32>,
    next: u32,
    buffer: String,
}

impl Slots {
    fn put(&mut self, held: Held) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.held[slot as usize] = Some(held);
                slot
            }
            None => {
                self.held.push(Some(held));
                (self.held.len() - 1) as u32
            }
        }
    }

    /// Four times the number, and what it is: 0 forward, 1 wait, 2 later, 3 refuse.
    pub(crate) fn answer(&mut self, decision: Decision) -> u32 {
        let (slot, kind) = match decision {
            Decision::Forward(way) => (self.put(Held::Forward(way)), 0),
            Decision::Wait(waiting) => (self.put(Held::Wait(waiting)), 1),
            Decision::Later(turn) => (self.put(Held::Later(turn)), 2),
            Decision::Refuse(refusal) => {
                self.refusal = Some(refusal);
                (0, 3)
            }
        };
        slot * 4 + kind
    }

    pub(crate) fn take(&mut self, slot: u32) -> Result<Held> {
        let held = self.held.get_mut(slot as usize).and_then(Option::take).ok_or_else(ended)?;
        self.free.push(slot);
        Ok(held)
    }

    pub(crate) fn get(&self, slot: u32) -> Result<&Held> {
        self.held.get(slot as usize).and_then(Option::as_ref).ok_or_else(ended)
    }

    pub(crate) fn forward(&mut self, slot: u32) -> Result<&mut Forward> {
        match self.held.get_mut(slot as usize).and_then(Option::as_mut) {
            Some(Held::Forward(way)) => Ok(way),
            _ => Err(ended()),
        }
    }

    /// Takes a forward out.
    pub(crate) fn take_forward(&mut self, slot: u32) -> Result<Forward> {
        self.forward(slot)?;
        match self.take(slot)? {
            Held::Forward(way) => Ok(way),
            Held::Wait(_) | Held::Later(_) => Err(ended()),
        }
    }

    /// Backend, URL, rule and algorithm of a forward, apart by NUL.
    pub(crate) fn write_words(&mut self, slot: u32, words: &mut String) -> Result<()> {
        let way = self.forward(slot)?;
        for part in [way.backend(), "\0", way.url(), "\0", way.rule(), "\0"] {
            words.push_str(part);
        }
        // Writing to a string does not fail.
        let _ = write!(words, "{}", way.algorithm());
        Ok(())
    }

    /// The number of what is said of a forward.
    pub(crate) fn describe(&mut self, slot: u32) -> Result<u32> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.write_words(slot, &mut buffer)?;
        let known = self.said.get(&buffer).copied();
        let number = known.unwrap_or_else(|| {
            // Plans come and go; what is asked for again gets another number.
            if self.said.len() == TEXTS {
                self.said.clear();
            }
            self.next = self.next.wrapping_add(1);
            self.said.insert(buffer.clone(), self.next);
            self.next
        });
        self.buffer = buffer;
        Ok(number)
    }

    /// How many have not ended.
    pub(crate) fn open(&self) -> u32 {
        (self.held.len() - self.free.len()) as u32
    }
}

pub(crate) fn ended() -> napi::Error {
    input("input_ended", "it has ended; a decision ends once")
}
