//! How do several attempts of one request run at once?
//!
//! While a first attempt is late, the engine may give leave for another one. The first good head wins, and the others
//! are given up, which ends their exchange with the backend. An attempt that fails while another runs is settled and
//! forgotten; the last one that is left decides what the client sees.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use http::Response;
use tokio::time::Instant;

use super::gateway::State;
use super::hosts::{Answering, Received, Unanswered};
use super::proxy::{Outgoing, read_head};
use super::tally::Row;
use crate::congestion::Feedback;
use crate::engine::{End, Forward};
use crate::outcome::Outcome;

/// One attempt under way.
pub(super) struct Runner {
    pub(super) forward: Forward,
    pub(super) sent: Instant,
    pub(super) row: Arc<Row>,
    response: Answering,
    is_second: bool,
}

/// How the attempt ended that decides; `None` when none had a head in time.
pub(super) type Head = Option<Result<Response<Received>, Unanswered>>;

impl Runner {
    pub(super) fn new(state: &State, forward: Forward, response: Answering) -> Self {
        let row = state.tally.row(forward.rule(), forward.backend());
        Self { forward, sent: Instant::now(), row, response, is_second: false }
    }

    /// Runs it by itself until it has a head or it is too late.
    pub(super) async fn alone(mut self, until: Instant) -> (Self, Head) {
        let head = tokio::time::timeout_at(until, &mut self.response).await;
        (self, head.ok())
    }

    /// Runs it, and others beside it where the engine gives leave, until one has a good head, all have failed or it is
    /// too late.
    pub(super) async fn race(self, state: &State, outgoing: &Outgoing<'_>, until: Instant) -> (Self, Head) {
        let mut running = vec![self];
        loop {
            let late = running[0].late(state);
            let wake = late.unwrap_or(until).min(until);
            match tokio::time::timeout_at(wake, first_of(&mut running)).await {
                Ok((ix, head)) => {
                    let winner = running.swap_remove(ix);
                    let worse = match &head {
                        Ok(response) => {
                            let (feedback, outcome) = read_head(&winner.forward, response);
                            (outcome.is_failure() || outcome == Outcome::Limited)
                                .then_some((outcome, feedback))
                        }
                        Err(none) if none.why.is_full() => Some((Outcome::PoolFull, Feedback::NONE)),
                        Err(none) if none.why.is_connect() => Some((Outcome::ConnectFailure, Feedback::NONE)),
                        Err(_) => Some((Outcome::Reset, Feedback::NONE)),
                    };
                    match worse {
                        Some((outcome, feedback)) if !running.is_empty() => {
                            winner.row.ended(outcome);
                            let end = End { outcome, usage: None, feedback: &feedback };
                            winner.forward.finish(state.clock.now(), &end);
                            state.pump();
                        }
                        _ => return (winner.wins_over(running, state), Some(head)),
                    }
                }
                Err(_) if Instant::now() >= until => {
                    let first = running.swap_remove(0);
                    for other in running {
                        other.row.ended(Outcome::Timeout);
                        other.forward.finish(state.clock.now(), &End::of(Outcome::Timeout));
                    }
                    return (first, None);
                }
                Err(_) => {
                    let second = running[0].forward.hedge(state.clock.now());
                    let sent = second.and_then(|forward| {
                        let response = outgoing.send_again(state, &forward, until)?;
                        Some(Self { is_second: true, ..Self::new(state, forward, response) })
                    });
                    if let Some(second) = sent {
                        second.row.hedged();
                        running.push(second);
                    }
                }
            }
        }
    }

    /// When another one is to begin.
    fn late(&self, state: &State) -> Option<Instant> {
        let at = self.forward.hedge_at()?;
        Some(Instant::now() + at.since(state.clock.now()))
    }

    fn wins_over(self, others: Vec<Self>, state: &State) -> Self {
        if self.is_second {
            self.row.hedge_won();
        }
        for other in others {
            // The exchange ends before its place is given to somebody else.
            drop(other.response);
            other.row.ended(Outcome::Cancelled);
            other.forward.overtaken(state.clock.now());
            state.pump();
        }
        self
    }
}

/// The first that has a head, or none to come.
async fn first_of(running: &mut [Runner]) -> (usize, Result<Response<Received>, Unanswered>) {
    poll_fn(|cx| {
        for (ix, runner) in running.iter_mut().enumerate() {
            if let Poll::Ready(head) = Pin::new(&mut runner.response).poll(cx) {
                return Poll::Ready((ix, head));
            }
        }
        Poll::Pending
    })
    .await
}
