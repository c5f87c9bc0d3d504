//! What does the engine get to know of a request?

use pyo3::prelude::*;
use traflux_core::Timestamp;
use traflux_gateway::retry::Idempotence;
use traflux_gateway::{Client, Engine, Request as Asked, RequestFacts, TokenEstimate, TokensPlan};

use super::{pairs, timestamp};
use crate::errors::{guarded, py_err};

/// A request, as far as decisions look at it. Made once, decided about as often as you like.
///
/// Parameters
/// ----------
/// method, host, path, query
///     Of the HTTP request: the method in capitals, the host without port in lower case, the path without the query.
/// headers, claims
///     Mappings, or pairs of ``str`` or ``bytes`` as ASGI has them; claims only if they are verified.
/// tenant, key, user, user_tier
///     Who asks, as far as it is verified: `Identities` tells it from headers.
/// model
///     The model asked for; empty where there is none.
/// input_tokens, output_tokens
///     Tokens read, and the most tokens written. Budgets hold exactly where both are upper bounds.
/// max_answer_tokens
///     The most tokens of one answer, where the request says so.
/// stream
///     Whether the answer is asked for as a stream.
/// idempotent
///     Whether sending it twice does no harm; without it the method and the header ``idempotency-key`` tell.
/// kind
///     Such as ``"batch"``, for the bands of the queue.
/// prompt
///     Bytes whose beginning is compared to find caches of it.
/// held_bytes
///     Bytes that are held for it while it waits.
/// deadline
///     When an answer is of no more use, in seconds since 1970.
/// body
///     JSON of a call of a language model: model, tokens, stream and prompt are read from it where they are not given.
#[pyclass(module = "traflux.gateway", frozen)]
pub(crate) struct Request {
    method: String,
    host: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    claims: Vec<(String, String)>,
    tenant: String,
    key: String,
    user: String,
    user_tier: String,
    model: String,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    /// Of its body: bytes that count as read, and the most tokens to write.
    measured: Option<(usize, Option<u64>)>,
    max_answer: Option<u64>,
    stream: bool,
    idempotence: Idempotence,
    kind: String,
    prompt: Vec<u8>,
    bytes: u64,
    deadline: Option<Timestamp>,
}

impl Request {
    /// What it takes by the `tokens` of a plan, where it was not said.
    fn tokens(&self, plan: &TokensPlan) -> TokenEstimate {
        let (input, output) =
            self.measured.map_or((0, 0), |(bytes, most)| plan.estimate(&self.model, bytes, most));
        TokenEstimate {
            input: self.input_tokens.unwrap_or(input),
            output: self.output_tokens.unwrap_or(output),
        }
    }

    /// As an engine takes it.
    pub(super) fn asked(&self, engine: &Engine) -> Asked<'_> {
        let tokens = match self.measured {
            Some(_) => self.tokens(&engine.plan().tokens),
            None => self.tokens(&TokensPlan::default()),
        };
        Asked {
            method: &self.method,
            host: &self.host,
            path: &self.path,
            query: &self.query,
            headers: &self.headers,
            claims: &self.claims,
            client: Client {
                tenant: &self.tenant,
                key: &self.key,
                user: &self.user,
                user_tier: &self.user_tier,
            },
            model: &self.model,
            tokens,
            max_answer: self.max_answer,
            stream: self.stream,
            idempotence: self.idempotence,
            kind: &self.kind,
            prompt: &self.prompt,
            bytes: self.bytes,
            deadline: self.deadline,
        }
    }
}

#[pymethods]
impl Request {
    #[new]
    #[pyo3(signature = (
        *, method="GET", host="", path="/", query="", headers=None, claims=None, tenant="", key="", user="",
        user_tier="", model="", input_tokens=None, output_tokens=None, max_answer_tokens=None, stream=None,
        idempotent=None, kind="", prompt=None, held_bytes=0, deadline=None, body=None,
    ))]
    fn new(
        method: &str,
        host: &str,
        path: &str,
        query: &str,
        headers: Option<&Bound<'_, PyAny>>,
        claims: Option<&Bound<'_, PyAny>>,
        tenant: &str,
        key: &str,
        user: &str,
        user_tier: &str,
        model: &str,
        input_tokens: Option<u64>,
        output_tokens: Option<u64>,
        max_answer_tokens: Option<u64>,
        stream: Option<bool>,
        idempotent: Option<bool>,
        kind: &str,
        prompt: Option<&[u8]>,
        held_bytes: u64,
        deadline: Option<f64>,
        body: Option<&[u8]>,
    ) -> PyResult<Self> {
        guarded(|| {
            let headers = pairs(headers)?;
            let facts = body.map(RequestFacts::read).transpose().map_err(py_err)?;
            let measured = facts.as_ref().map(|facts| (facts.input_bytes, facts.max_output));
            let facts = facts.unwrap_or_default();
            let idempotence = match idempotent {
                Some(true) => Idempotence::Idempotent,
                Some(false) => Idempotence::NonIdempotent,
                None => {
                    let has_key =
                        headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("idempotency-key"));
                    Idempotence::of_method(method, has_key)
                }
            };
            Ok(Self {
                method: method.to_owned(),
                host: host.to_owned(),
                path: path.to_owned(),
                query: query.to_owned(),
                headers,
                claims: pairs(claims)?,
                tenant: tenant.to_owned(),
                key: key.to_owned(),
                user: user.to_owned(),
                user_tier: user_tier.to_owned(),
                model: if model.is_empty() { facts.model.into_owned() } else { model.to_owned() },
                input_tokens,
                output_tokens,
                measured,
                max_answer: max_answer_tokens.or(facts.max_answer),
                stream: stream.unwrap_or(facts.stream),
                idempotence,
                kind: kind.to_owned(),
                prompt: prompt.unwrap_or(facts.prompt).to_vec(),
                bytes: held_bytes,
                deadline: deadline.map(timestamp).transpose()?,
            })
        })
    }

    /// The method.
    #[getter]
    fn method(&self) -> &str {
        &self.method
    }

    /// The path.
    #[getter]
    fn path(&self) -> &str {
        &self.path
    }

    /// The model asked for; empty where there is none.
    #[getter]
    fn model(&self) -> &str {
        &self.model
    }

    /// Whose limits it draws on.
    #[getter]
    fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Tokens read, as far as can be told before; an engine goes by `tokens` of its plan.
    #[getter]
    fn input_tokens(&self) -> PyResult<u64> {
        guarded(|| Ok(self.tokens(&TokensPlan::default()).input))
    }

    /// The most tokens written; an engine goes by `tokens` of its plan.
    #[getter]
    fn output_tokens(&self) -> PyResult<u64> {
        guarded(|| Ok(self.tokens(&TokensPlan::default()).output))
    }

    /// Whether the answer is asked for as a stream.
    #[getter]
    fn stream(&self) -> bool {
        self.stream
    }

    fn __repr__(&self) -> PyResult<String> {
        guarded(|| {
            let Self { method, path, tenant, model, .. } = self;
            Ok(format!("Request(method={method:?}, path={path:?}, tenant={tenant:?}, model={model:?})"))
        })
    }
}
