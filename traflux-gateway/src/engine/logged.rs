//! What does a call do when there is a log?
//!
//! Each function is the call of the same name with its turn and its line around it. Apart from the calls themselves,
//! so that these cost one branch where there is none.

use std::sync::Arc;

use traflux_core::Timestamp;

use super::explain::Explanation;
use super::waiting::Waiting;
use super::{Decision, End, Engine, Forward, Later, Shared};
use crate::decision_log::entry::{Answer, Call, Ended};
use crate::decision_log::{DecisionLog, Turn};
use crate::queue::Ticket;
use crate::request::Request;

#[cold]
pub(super) fn decide(engine: &Engine, log: &DecisionLog, request: &Request<'_>, now: Timestamp) -> Decision {
    let mut turn = log.begin();
    let mut decision = engine.decide_now(request, now);
    let session = engine.compiled.load().session_of(request);
    let n = turn.decided(request, session, Answer::of(&decision), now);
    hand_out(&engine.shared, &mut turn, &mut decision, n);
    decision
}

/// Names what somebody is given, so that later calls can be told.
fn hand_out(shared: &Arc<Shared>, turn: &mut Turn<'_>, decision: &mut Decision, n: u64) {
    match decision {
        Decision::Forward(forward) => forward.set_number(n),
        Decision::Later(later) => later.forward.set_number(n),
        Decision::Wait(waiting) => {
            turn.waits(waiting.ticket(), n);
            waiting.logged = Some((Arc::clone(shared), n));
        }
        Decision::Refuse(_) => {}
    }
}

#[cold]
pub(super) fn explain(
    engine: &Engine,
    log: &DecisionLog,
    request: &Request<'_>,
    now: Timestamp,
) -> Explanation {
    let mut turn = log.begin();
    turn.explained(request, now);
    engine.compiled.load().explain(request, now)
}

#[cold]
pub(super) fn take_ready(engine: &Engine, log: &DecisionLog) -> Option<((usize, Ticket), Decision)> {
    let mut turn = log.begin();
    let (ticket, mut decision) = engine.take_ready_now()?;
    // Whoever came before the log began has no number.
    if let Some(of) = turn.waited(ticket) {
        turn.write(Call::TakeReady { of, answer: Answer::of(&decision) }, None);
        hand_out(&engine.shared, &mut turn, &mut decision, of);
    }
    Some((ticket, decision))
}

#[cold]
pub(super) fn first_byte(forward: &mut Forward, now: Timestamp) {
    let shared = Arc::clone(&forward.compiled.shared);
    let _turn = shared
        .log
        .as_deref()
        .zip(forward.number())
        .map(|(log, of)| log.turn(Call::FirstByte { of }, Some(now)));
    forward.first_byte_now(now);
}

#[cold]
pub(super) fn finish(forward: Forward, now: Timestamp, end: &End<'_>) {
    let shared = Arc::clone(&forward.compiled.shared);
    let _turn = shared
        .log
        .as_deref()
        .zip(forward.number())
        .map(|(log, of)| log.turn(Call::Finish(Ended::of(of, end)), Some(now)));
    forward.finish_now(now, end);
}

#[cold]
pub(super) fn retry(forward: Forward, now: Timestamp, end: &End<'_>) -> Decision {
    let shared = Arc::clone(&forward.compiled.shared);
    let Some((log, of)) = shared.log.as_deref().zip(forward.number()) else {
        return forward.retry_now(now, end);
    };
    let mut turn = log.begin();
    let mut decision = forward.retry_now(now, end);
    turn.write(Call::Retry { end: Ended::of(of, end), answer: Answer::of(&decision) }, Some(now));
    hand_out(&shared, &mut turn, &mut decision, of);
    decision
}

#[cold]
pub(super) fn go_on(later: Later, now: Timestamp) -> Decision {
    let shared = Arc::clone(&later.forward.compiled.shared);
    let Some((log, of)) = shared.log.as_deref().zip(later.forward.number()) else {
        return later.go_on_now(now);
    };
    let mut turn = log.begin();
    let mut decision = later.go_on_now(now);
    turn.write(Call::GoOn { of, answer: Answer::of(&decision) }, Some(now));
    hand_out(&shared, &mut turn, &mut decision, of);
    decision
}

#[cold]
pub(super) fn pause(forward: &mut Forward, now: Timestamp) {
    let shared = Arc::clone(&forward.compiled.shared);
    let _turn =
        shared.log.as_deref().zip(forward.number()).map(|(log, of)| log.turn(Call::Pause { of }, Some(now)));
    forward.pause_now(now);
}

#[cold]
pub(super) fn resume(forward: &mut Forward) {
    let shared = Arc::clone(&forward.compiled.shared);
    let _turn =
        shared.log.as_deref().zip(forward.number()).map(|(log, of)| log.turn(Call::Resume { of }, None));
    forward.resume_now();
}

#[cold]
pub(super) fn hedge(forward: &mut Forward, now: Timestamp) -> Option<Forward> {
    let shared = Arc::clone(&forward.compiled.shared);
    let Some((log, of)) = shared.log.as_deref().zip(forward.number()) else { return forward.hedge_now(now) };
    let mut turn = log.begin();
    let mut second = forward.hedge_now(now);
    let n = turn.write(Call::Hedge { of, answer: second.as_ref().map(Answer::of_forward) }, Some(now));
    if let Some(second) = &mut second {
        second.set_number(n);
    }
    second
}

#[cold]
pub(super) fn overtaken(forward: Forward, now: Timestamp) {
    let shared = Arc::clone(&forward.compiled.shared);
    let _turn = shared
        .log
        .as_deref()
        .zip(forward.number())
        .map(|(log, of)| log.turn(Call::Overtaken { of }, Some(now)));
    forward.overtaken_now(now);
}

/// A forward that nobody was given yet is dropped within the turn of another call.
#[cold]
pub(super) fn dropped(forward: &mut Forward) {
    let shared = Arc::clone(&forward.compiled.shared);
    let _turn =
        shared.log.as_deref().zip(forward.number()).map(|(log, of)| log.turn(Call::Drop { of }, None));
    forward.dropped_now();
}

#[cold]
pub(super) fn left(waiting: &mut Waiting) {
    let Some((shared, of)) = waiting.logged.take() else { return };
    let Some(log) = shared.log.as_deref() else { return };
    let mut turn = log.begin();
    // Once its decision was taken, nothing of it is left.
    if turn.waited(waiting.ticket()).is_some() {
        turn.write(Call::Leave { of }, None);
    }
    waiting.left_now();
}
