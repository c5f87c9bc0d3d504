//! How does an answer pass, and when is it settled?
//!
//! A [`Passing`] body hands each piece on as it comes. It settles the request exactly once: at the end of the body,
//! when the backend breaks or is silent for too long, or when it is dropped, which means that the client has gone.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::gateway::State;
use super::hosts::Received;
use super::live::Live;
use super::tally::Row;
use super::{proxy, streams};
use crate::congestion::Feedback;
use crate::engine::{End, Forward};
use crate::outcome::Outcome;
use crate::wire::{Usage, UsageReader, opens_object};

/// Why an answer ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection to the backend broke.
    #[error("the backend broke off: {0}")]
    Backend(hyper::Error),
    /// Nothing came for too long.
    #[error("the backend was silent for {0:?}")]
    Idle(Duration),
    /// The whole took too long.
    #[error("the answer took longer than {0:?}")]
    Late(Duration),
    /// The body of the request was too long or malformed.
    #[error("the body of the request: {0}")]
    Request(&'static str),
    /// The body of the request is an object of JSON under another name, which could say anything.
    #[error("the body of the request is an object of JSON that is called something else")]
    Undeclared,
    /// The body of the request did not come in time.
    #[error("the body of the request did not come in time")]
    RequestLate,
}

/// The body of a request on its way to a backend.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// Read before; may be sent again.
    Whole(Option<Bytes>),
    /// Passed on as it comes.
    Stream {
        /// What comes.
        body: Incoming,
        /// Bytes that may still come.
        left: usize,
        /// When all of it must have come.
        until: Pin<Box<Sleep>>,
        /// Whether it may yet turn out to be an object of JSON, which nobody has looked into.
        suspect: bool,
    },
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream { body, left, until, suspect } => match Pin::new(body).poll_frame(cx) {
                Poll::Pending => until.as_mut().poll(cx).map(|()| Some(Err(Broken::RequestLate))),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    if let Some(opens) =
                        frame.data_ref().filter(|_| *suspect).and_then(|data| opens_object(data))
                    {
                        *suspect = false;
                        if opens {
                            return Poll::Ready(Some(Err(Broken::Undeclared)));
                        }
                    }
                    Poll::Ready(Some(match left.checked_sub(length) {
                        Some(rest) => {
                            *left = rest;
                            Ok(frame)
                        }
                        None => Err(Broken::Request("too long")),
                    }))
                }
                Poll::Ready(Some(Err(_))) => {
                    Poll::Ready(Some(Err(Broken::Request("it broke off or is malformed"))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream { body, .. } => body.size_hint(),
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// The gateway's own.
    Whole(Option<Bytes>),
    /// A backend's.
    Passing(Box<Passing>),
}

impl AnswerBody {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Passing(passing) => passing.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Passing(passing) => passing.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Passing(passing) => passing.body.size_hint(),
        }
    }
}

/// A backend's answer on its way to a client.
#[derive(Debug)]
pub(crate) struct Passing {
    body: Received,
    /// What is settled at the end; `None` where that has been done.
    meter: Option<Meter>,
    idle: Duration,
    /// When the whole must have come, and how long that is; not for streams.
    until: Option<(Instant, Duration)>,
    last: Instant,
    /// Whether its stream is quiet and its place at the backend given to another.
    paused: bool,
    /// Made when nothing was there for the first time.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Why it ends, once what came before has been sent on.
    broken: Option<Broken>,
}

/// What an answer is measured by.
#[derive(Debug)]
pub(super) struct Meter {
    pub(super) state: Arc<State>,
    pub(super) live: Arc<Live>,
    pub(super) forward: Forward,
    pub(super) row: Arc<Row>,
    pub(super) sent: Instant,
    /// What the status means if the body comes whole.
    pub(super) outcome: Outcome,
    pub(super) feedback: Feedback,
    pub(super) reader: Option<UsageReader>,
    pub(super) model: String,
    pub(super) estimated_input: u64,
    pub(super) stream: bool,
    pub(super) begun: bool,
}

impl Passing {
    pub(super) fn new(
        body: Received,
        meter: Option<Meter>,
        idle: Duration,
        until: Option<(Instant, Duration)>,
    ) -> Self {
        let mut passing =
            Self { body, meter, idle, until, last: Instant::now(), paused: false, alarm: None, broken: None };
        if passing.body.is_end_stream() {
            passing.settle(None);
        }
        passing
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        let polled = match self.poll_body(cx) {
            // A server drops what it has not written yet when a body breaks: it gets a turn to write before that.
            Poll::Ready(Some(Err(broken))) => {
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            polled => polled,
        };
        if polled.is_pending() {
            streams::wait_for_backend();
        } else {
            streams::wait_for_client();
        }
        polled
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.last = Instant::now();
                if let (Some(meter), Some(trailers)) = (&self.meter, frame.trailers_mut()) {
                    meter.see_trailers(trailers);
                }
                if std::mem::take(&mut self.paused)
                    && let Some(meter) = &mut self.meter
                {
                    meter.forward.resume();
                }
                if let (Some(meter), Some(data)) = (&mut self.meter, frame.data_ref()) {
                    meter.see(data, self.last);
                }
                if self.body.is_end_stream() {
                    self.settle(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.settle(Some(Outcome::Reset));
                Poll::Ready(Some(Err(Broken::Backend(error))))
            }
            Poll::Ready(None) => {
                self.settle(None);
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_alarm(cx).map(|broken| {
                self.settle(Some(Outcome::Timeout));
                Some(Err(broken))
            }),
        }
    }

    /// Ready when it has waited too long.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        loop {
            let idle_until = self.last + self.idle;
            let (end, broken) = match self.until {
                Some((until, whole)) if until < idle_until => (until, Broken::Late(whole)),
                _ => (idle_until, Broken::Idle(self.idle)),
            };
            let quiet_at = self.quiet_at().filter(|at| *at < end);
            let at = quiet_at.unwrap_or(end);
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if alarm.as_mut().poll(cx).is_pending() {
                // It may ring early, for pieces only note their time; then it is set again.
                return Poll::Pending;
            }
            if Instant::now() < at {
                alarm.as_mut().reset(at);
            } else if quiet_at.is_none() {
                return Poll::Ready(broken);
            } else if let Some(meter) = &mut self.meter {
                self.paused = true;
                alarm.as_mut().reset(end);
                meter.forward.pause(meter.state.clock.now());
                meter.state.pump();
            }
        }
    }

    /// When its stream counts as quiet.
    fn quiet_at(&self) -> Option<Instant> {
        let meter = self.meter.as_ref().filter(|meter| meter.stream && meter.begun && !self.paused)?;
        Some(self.last + meter.live.plan.server.stream_quiet_after)
    }

    fn settle(&mut self, broken: Option<Outcome>) {
        if let Some(meter) = self.meter.take() {
            meter.settle(broken);
        }
    }
}

/// The client has gone, unless the end was seen before.
impl Drop for Passing {
    fn drop(&mut self) {
        self.settle(Some(Outcome::Cancelled));
    }
}

impl Meter {
    fn see(&mut self, data: &[u8], at: Instant) {
        if !self.begun {
            self.begun = true;
            self.row.first_byte.record(at - self.sent);
            self.forward.first_byte(self.state.clock.now());
        }
        if let Some(reader) = &mut self.reader {
            reader.push(data);
        }
    }

    fn see_trailers(&self, trailers: &mut HeaderMap) {
        proxy::report_load(&self.state, &self.forward, &self.model, trailers);
        if !self.live.plan.congestion.pass_load_reports {
            for name in proxy::LOAD_HEADERS {
                trailers.remove(name);
            }
        }
    }

    /// What was used, as far as it can be told: of a stream that does not say, or was cut off before it did, each
    /// event counts as a token.
    fn usage(&self, whole: bool) -> Option<Usage> {
        let reader = self.reader.as_ref()?;
        match reader.usage() {
            Some(usage) if whole || !self.stream => Some(usage),
            Some(usage) => Some(Usage { output: usage.output.max(reader.pieces()), ..usage }),
            None if self.stream && reader.pieces() > 0 => {
                Some(Usage { input: self.estimated_input, cached: 0, output: reader.pieces() })
            }
            None => None,
        }
    }

    fn settle(self, broken: Option<Outcome>) {
        let usage = self.usage(broken.is_none());
        let outcome = broken.unwrap_or(self.outcome);
        if let Some(usage) = usage {
            self.row.used(usage, self.live.price(self.forward.backend(), &self.model, usage));
        }
        self.row.ended(outcome);
        if broken.is_none() {
            self.row.total.record(self.sent.elapsed());
        }
        self.forward.finish(self.state.clock.now(), &End { outcome, usage, feedback: &self.feedback });
        self.state.pump();
    }
}
