//! What does a request ask for: which model, how much, as a stream?

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use traflux_core::plan::tokens::TokensPlan;

use crate::error::GatewayError;
use crate::request::TokenEstimate;

/// What the body of a request says, in any of the common forms (chat completions, completions, responses,
/// messages, embeddings).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestFacts<'a> {
    /// The model; empty where none is named.
    pub model: Cow<'a, str>,
    /// Whether the answer is asked for as a stream.
    pub stream: bool,
    /// Whether a stream is asked to end with its usage.
    pub stream_usage: bool,
    /// The most tokens to write, where the request says so, for all choices together.
    pub max_output: Option<u64>,
    /// The most tokens of one choice, where the request says so.
    pub max_answer: Option<u64>,
    /// The prompt as it stands in the body: what a cache of prompts would see first.
    pub prompt: &'a [u8],
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_completion_tokens: Option<u64>,
    #[serde(default)]
    max_output_tokens: Option<u64>,
    #[serde(default)]
    n: Option<u64>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl<'a> RequestFacts<'a> {
    /// Reads a JSON body. Fields that it does not know are left alone.
    ///
    /// # Errors
    /// [`GatewayError::Body`] when it is no JSON object, or a field that it knows has another type.
    pub fn read(body: &'a [u8]) -> Result<Self, GatewayError> {
        // Derived readers also take a list, field by field.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(GatewayError::Body { reason: "expected an object at line 1 column 1".into() });
        }
        let body: Body<'a> =
            serde_json::from_slice(body).map_err(|error| GatewayError::Body { reason: error.to_string() })?;
        let max_output = body.max_completion_tokens.or(body.max_output_tokens).or(body.max_tokens);
        let prompt = body.messages.or(body.prompt).or(body.input);
        Ok(Self {
            model: body.model.unwrap_or_default(),
            stream: body.stream.unwrap_or(false),
            stream_usage: body.stream_options.is_some_and(|o| o.include_usage),
            max_answer: max_output,
            max_output: max_output.map(|most| most.saturating_mul(body.n.unwrap_or(1).max(1))),
            prompt: prompt.map_or(&[], |raw| raw.get().as_bytes()),
        })
    }

    /// Tokens that the request will use, as far as can be told before anyone has counted them.
    #[must_use]
    pub fn estimate(&self, plan: &TokensPlan) -> TokenEstimate {
        let (input, output) = plan.estimate(&self.model, self.prompt.len(), self.max_output);
        TokenEstimate { input, output }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read_and_the_rest_left_alone() {
        let body = br#"{"model": "gpt-5", "temperature": 0.1, "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "12345678"}], "max_completion_tokens": 50, "n": 2}"#;
        let facts = RequestFacts::read(body).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(
            (facts.model.as_ref(), facts.stream, facts.stream_usage, facts.max_output),
            ("gpt-5", true, true, Some(100))
        );
        assert!(facts.prompt.starts_with(b"[{\"role\""));
        let estimate = facts.estimate(&TokensPlan::default());
        assert_eq!(estimate, TokenEstimate { input: 11, output: 100 });
    }

    #[test]
    fn a_body_that_is_no_object_is_an_error_with_its_place() {
        let error = RequestFacts::read(b"[1, 2").map(|_| ()).map_err(|e| e.to_string());
        assert!(error.is_err_and(|e| e.contains("line 1 column")));
        let error = RequestFacts::read(br#"["gpt-5", true]"#).map(|_| ()).map_err(|e| e.code());
        assert_eq!(error, Err("gateway_body"));
        let error = RequestFacts::read(br#"{"max_tokens": "many"}"#).map(|_| ()).map_err(|e| e.code());
        assert_eq!(error, Err("gateway_body"));
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let facts = RequestFacts::read(b"{}").unwrap_or_default();
        assert_eq!(facts.estimate(&TokensPlan::default()), TokenEstimate { input: 0, output: 4096 });
    }
}
