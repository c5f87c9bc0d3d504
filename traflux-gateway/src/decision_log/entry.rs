//! What stands in one line of the log?
//!
//! A line is one JSON object: a [`Header`] or an [`Entry`]. What a request or an end has as usual is left out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;

use crate::affinity::AffinityKey;
use crate::congestion::{Feedback, LoadReport, Quota, Refill, Resource, Wait};
use crate::engine::{Decision, End, EngineSettings, Forward, ProbeQuestion};
use crate::error::GatewayError;
use crate::health::{Outcome, ProbePlan, ProbeResult};
use crate::limit::Levels;
use crate::request::{Client, Request, TokenEstimate};
use crate::retry::Idempotence;
use crate::units::{duration_nanos, nanos};
use crate::wire::Usage;

/// What a header calls itself.
pub const FORMAT: &str = "traflux decision log";
/// The version of the format that is written and read.
pub const VERSION: u32 = 1;

/// The first line of a file: all that an engine is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// When the engine began, nanoseconds since the epoch: files of one run have the same.
    pub run: u64,
    /// Number of the first entry behind this line; 0 only at the beginning of a run.
    pub first: u64,
    /// Time of this line, nanoseconds since the epoch.
    pub t: u64,
    /// The first 16 hexadecimal digits of the SHA-256 of the plan as it stands here.
    pub plan_sha256: String,
    /// Why the run cannot be replayed, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_replayable: Option<String>,
    /// Settings of the engine, the seed among them.
    pub settings: EngineSettings,
    /// The plan in force, without secrets, identities and what only a server looks at.
    pub plan: RequestPlan,
}

/// One call of the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry<'a> {
    /// Its number in the run; numbers that are missing are a gap.
    pub n: u64,
    /// The time it was given, nanoseconds since the epoch; of calls without time the latest seen before.
    pub t: u64,
    /// What was called.
    #[serde(rename = "do")]
    pub call: Call<'a>,
}

/// A call that changes what the engine knows. `of` is the number of the entry that decided about the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call<'a> {
    /// [`Engine::decide`](crate::Engine::decide).
    Decide(Decide<'a>),
    /// [`Engine::explain`](crate::Engine::explain).
    Explain(Asked<'a>),
    /// [`Forward::first_byte`].
    FirstByte {
        /// Of which request.
        of: u64,
    },
    /// [`Forward::finish`].
    Finish(Ended),
    /// [`Forward::retry`].
    Retry {
        /// How the attempt ended.
        end: Ended,
        /// What follows.
        answer: Answer<'a>,
    },
    /// [`Later::go_on`](crate::engine::Later::go_on).
    GoOn {
        /// Which request.
        of: u64,
        /// What becomes of it.
        answer: Answer<'a>,
    },
    /// [`Forward::pause`].
    Pause {
        /// Which request.
        of: u64,
    },
    /// [`Forward::resume`].
    Resume {
        /// Which request.
        of: u64,
    },
    /// [`Forward::hedge`]. The second attempt is called by the number of this entry.
    Hedge {
        /// Of which request.
        of: u64,
        /// Where it goes, if it may begin.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<Answer<'a>>,
    },
    /// [`Forward::overtaken`].
    Overtaken {
        /// Of which request or second attempt.
        of: u64,
    },
    /// A [`Forward`] was dropped.
    Drop {
        /// Of which request.
        of: u64,
    },
    /// A request that waits has gone.
    Leave {
        /// Which.
        of: u64,
    },
    /// [`Engine::take_ready`](crate::Engine::take_ready) gave a decision.
    TakeReady {
        /// About which request.
        of: u64,
        /// Which.
        answer: Answer<'a>,
    },
    /// [`Engine::upkeep`](crate::Engine::upkeep).
    Upkeep,
    /// [`Engine::set_weights`](crate::Engine::set_weights).
    SetWeights {
        /// The rule.
        rule: Cow<'a, str>,
        /// Weights of backends.
        weights: Vec<(Cow<'a, str>, u32)>,
    },
    /// [`Engine::probes`](crate::Engine::probes) found some that were due.
    AskProbes {
        /// How many were asked for at most.
        most: u64,
    },
    /// [`Engine::on_probe`](crate::Engine::on_probe).
    Probe {
        /// Of which backend.
        backend: Cow<'a, str>,
        /// Of which endpoint.
        url: Cow<'a, str>,
        /// Which question to it.
        attempt: u64,
        /// When it was given up, nanoseconds since the epoch.
        give_up: u64,
        /// Whether the answer was as expected.
        passed: bool,
    },
    /// [`Engine::restore`](crate::Engine::restore).
    Restore {
        /// How many were not written, because their keys are secrets.
        #[serde(default, skip_serializing_if = "is_zero")]
        withheld: u64,
        /// The others.
        levels: Cow<'a, Levels>,
    },
    /// [`Engine::report_load`](crate::Engine::report_load).
    Load {
        /// The backend.
        backend: Cow<'a, str>,
        /// The model.
        model: Cow<'a, str>,
        /// What it measured.
        report: LoadReport,
    },
    /// [`Engine::reload`](crate::Engine::reload).
    Reload {
        /// Whether the plan came into force.
        in_force: bool,
        /// Why the run cannot be replayed beyond, where it cannot.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_replayable: Option<String>,
        /// The settings.
        settings: Box<EngineSettings>,
        /// The plan, as in a header.
        plan: Box<RequestPlan>,
    },
    /// The log was closed in order.
    Close,
}

/// A request, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide<'a> {
    /// The request.
    pub request: Asked<'a>,
    /// The decision.
    pub answer: Answer<'a>,
}

/// What of a request its way depends on. Headers, claims and parameters are those that the plan looks at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked<'a> {
    /// Method; POST where it is left out.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: Cow<'a, str>,
    /// Host, where the plan looks at it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: Cow<'a, str>,
    /// Path.
    pub path: Cow<'a, str>,
    /// Parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Headers, names in lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// Claims.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// Tenant.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tenant: Cow<'a, str>,
    /// Name of the API key.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub key: Cow<'a, str>,
    /// User.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user: Cow<'a, str>,
    /// Tier.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub tier: Cow<'a, str>,
    /// Model.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub model: Cow<'a, str>,
    /// Tokens read, estimated.
    #[serde(rename = "in", skip_serializing_if = "is_zero")]
    pub input: u64,
    /// Tokens written at most.
    #[serde(rename = "out", skip_serializing_if = "is_zero")]
    pub output: u64,
    /// The most tokens of one answer, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<u64>,
    /// Bytes that are held for it while it waits.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Whether a stream is asked for.
    #[serde(skip_serializing_if = "is_false")]
    pub stream: bool,
    /// Whether acting twice does harm.
    #[serde(skip_serializing_if = "is_false")]
    pub once: bool,
    /// Kind.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: Cow<'a, str>,
    /// Deadline, nanoseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// Keys of the session, hashes of what the plan makes them of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub session: Vec<u64>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A decision as far as it can be told: what two runs are compared by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer<'a> {
    /// It goes to a backend.
    Forward {
        /// The rule.
        rule: Cow<'a, str>,
        /// The backend.
        backend: Cow<'a, str>,
        /// Base URL of the endpoint.
        #[serde(default, skip_serializing_if = "str::is_empty")]
        url: Cow<'a, str>,
        /// Nanoseconds to wait before sending.
        #[serde(default, skip_serializing_if = "is_zero")]
        after: u64,
    },
    /// It has a turn under a limit.
    Later {
        /// The rule.
        rule: Cow<'a, str>,
        /// When the turn comes, nanoseconds since the epoch.
        due: u64,
    },
    /// It waits behind so many requests and tokens.
    Wait {
        /// Requests before it.
        behind: u32,
    },
    /// It is refused.
    Refuse {
        /// Code of the reason.
        reason: Cow<'a, str>,
        /// The rule.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<Cow<'a, str>>,
        /// The limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<Cow<'a, str>>,
        /// Nanoseconds after which to come back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// Of which request.
    pub of: u64,
    /// What came of it.
    pub outcome: Outcome,
    /// Tokens read, of these from a cache, and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<(u64, u64, u64)>,
    /// What the backend said about its limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
}

/// What a backend said about its limits. Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Said {
    /// The wait to keep, and as stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<(u64, u64)>,
    /// Whether it wants the request again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub again: Option<bool>,
    /// Quotas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<SaidQuota>,
}

/// One quota of a backend. Times in nanoseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaidQuota {
    /// What it counts.
    pub of: Resource,
    /// What a window allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// What is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
    /// Time until it is reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<u64>,
    /// Length of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Whether it comes back steadily rather than all at once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub steady: bool,
}

impl Header {
    /// Whether it can be read.
    ///
    /// # Errors
    /// What it is instead, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format `{}`, expected `{FORMAT}`", self.format));
        }
        if self.version != VERSION {
            return Err(format!("version {}, this program reads {VERSION}", self.version));
        }
        Ok(())
    }
}

impl Entry<'_> {
    /// The time of the call.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        time(self.t)
    }
}

/// A time of the log.
pub(super) const fn time(nanos: u64) -> Timestamp {
    Timestamp::new(Duration::from_nanos(nanos))
}

impl Asked<'_> {
    /// Calls `with` with the request as the engine gets it.
    pub(crate) fn with<T>(&self, with: impl FnOnce(&Request<'_>) -> T) -> T {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.query.iter().map(|(name, value)| (&**name, &**value)));
        let query = if self.query.is_empty() { String::new() } else { query.finish() };
        let pairs = |map: &BTreeMap<Cow<'_, str>, Cow<'_, str>>| -> BTreeMap<String, String> {
            map.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let (headers, claims) = (pairs(&self.headers), pairs(&self.claims));
        with(&Request {
            method: if self.method.is_empty() { "POST" } else { &self.method },
            host: &self.host,
            path: &self.path,
            query: &query,
            headers: &headers,
            claims: &claims,
            client: Client { tenant: &self.tenant, key: &self.key, user: &self.user, user_tier: &self.tier },
            model: &self.model,
            tokens: TokenEstimate { input: self.input, output: self.output },
            max_answer: self.most,
            bytes: self.bytes,
            stream: self.stream,
            idempotence: if self.once { Idempotence::NonIdempotent } else { Idempotence::Idempotent },
            kind: &self.kind,
            prompt: &[],
            deadline: self.deadline.map(time),
        })
    }

    /// Keys of the session.
    pub(crate) fn session(&self) -> impl Iterator<Item = AffinityKey> + '_ {
        self.session.iter().map(|key| AffinityKey(*key))
    }
}

impl<'a> Answer<'a> {
    /// What can be told of a decision.
    #[must_use]
    pub fn of(decision: &'a Decision) -> Self {
        match decision {
            Decision::Forward(forward) => Self::of_forward(forward),
            Decision::Later(later) => Self::Later { rule: later.rule().into(), due: stamp(later.due()) },
            Decision::Wait(waiting) => Self::Wait { behind: waiting.outlook().position },
            Decision::Refuse(refusal) => Self::Refuse {
                reason: refusal.reason.code().into(),
                rule: refusal.rule.as_deref().map(Cow::Borrowed),
                limit: refusal.limit.as_deref().map(Cow::Borrowed),
                retry_after: refusal.retry_after.map(duration_nanos),
            },
        }
    }

    pub(crate) fn of_forward(forward: &'a Forward) -> Self {
        Self::Forward {
            rule: forward.rule().into(),
            backend: forward.backend().into(),
            url: forward.url().into(),
            after: duration_nanos(forward.send_after()),
        }
    }
}

impl Ended {
    /// An end as it is written.
    #[must_use]
    pub fn of(of: u64, end: &End<'_>) -> Self {
        Self {
            of,
            outcome: end.outcome,
            usage: end.usage.map(|usage| (usage.input, usage.cached, usage.output)),
            said: (*end.feedback != Feedback::NONE).then(|| Said::of(end.feedback)),
        }
    }

    /// Tokens used.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        self.usage.map(|(input, cached, output)| Usage { input, cached, output })
    }

    /// What the backend said.
    #[must_use]
    pub fn feedback(&self) -> Feedback {
        Said::feedback_of(self.said.as_ref())
    }
}

impl Said {
    fn of(feedback: &Feedback) -> Self {
        Self {
            wait: feedback.retry_after.map(|w| (duration_nanos(w.wait), duration_nanos(w.stated))),
            again: feedback.should_retry,
            quotas: feedback
                .quotas()
                .iter()
                .map(|quota| SaidQuota {
                    of: quota.resource,
                    limit: quota.limit,
                    left: quota.remaining,
                    reset: quota.reset.map(duration_nanos),
                    window: quota.window.map(duration_nanos),
                    steady: quota.refill == Refill::Continuous,
                })
                .collect(),
        }
    }

    /// What the engine gets to know; nothing where nothing was said.
    pub(super) fn feedback_of(said: Option<&Self>) -> Feedback {
        said.map_or(Feedback::NONE, Self::feedback)
    }

    fn feedback(&self) -> Feedback {
        let wait =
            |(wait, stated)| Wait { wait: Duration::from_nanos(wait), stated: Duration::from_nanos(stated) };
        let quotas = self.quotas.iter().map(|quota| Quota {
            resource: quota.of,
            limit: quota.limit,
            remaining: quota.left,
            reset: quota.reset.map(Duration::from_nanos),
            window: quota.window.map(Duration::from_nanos),
            refill: if quota.steady { Refill::Continuous } else { Refill::AtReset },
        });
        Feedback::of(self.wait.map(wait), self.again, quotas)
    }
}

impl Call<'_> {
    /// The answer to a question.
    pub(crate) fn probe(question: &ProbeQuestion, result: ProbeResult) -> Call<'_> {
        Call::Probe {
            backend: (&*question.backend).into(),
            url: (&*question.url).into(),
            attempt: question.attempt,
            give_up: stamp(question.give_up),
            passed: result == ProbeResult::Passed,
        }
    }

    /// The question and the answer of [`Call::Probe`].
    pub(super) fn question(&self) -> Option<(ProbeQuestion, ProbeResult)> {
        let Self::Probe { backend, url, attempt, give_up, passed } = self else { return None };
        let question = ProbeQuestion {
            backend: (&**backend).into(),
            url: (&**url).into(),
            // What was asked does not matter to the answer.
            kind: ProbePlan::default().probe,
            give_up: time(*give_up),
            attempt: *attempt,
        };
        Some((question, if *passed { ProbeResult::Passed } else { ProbeResult::Failed }))
    }

    /// Its name in messages.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Decide(_) => "decide",
            Self::Explain(_) => "explain",
            Self::FirstByte { .. } => "first_byte",
            Self::Finish(_) => "finish",
            Self::Retry { .. } => "retry",
            Self::GoOn { .. } => "go_on",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Hedge { .. } => "hedge",
            Self::Overtaken { .. } => "overtaken",
            Self::Drop { .. } => "drop",
            Self::Leave { .. } => "leave",
            Self::TakeReady { .. } => "take_ready",
            Self::Upkeep => "upkeep",
            Self::SetWeights { .. } => "set_weights",
            Self::AskProbes { .. } => "ask_probes",
            Self::Probe { .. } => "probe",
            Self::Restore { .. } => "restore",
            Self::Load { .. } => "load",
            Self::Reload { .. } => "reload",
            Self::Close => "close",
        }
    }
}

/// Reads a line.
///
/// # Errors
/// [`GatewayError::DecisionLog`] with the number of the line.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str, line: usize) -> Result<T, GatewayError> {
    serde_json::from_str(text)
        .map_err(|problem| GatewayError::DecisionLog { line, problem: problem.to_string() })
}

/// Nanoseconds since the epoch.
pub(super) fn stamp(now: Timestamp) -> u64 {
    nanos(now)
}
