//! What does Node read of an engine that is more than a number?

use napi::bindgen_prelude::Buffer;
use napi_derive::napi;

/// A refusal in words and numbers.
#[napi(object)]
pub struct RefusalView {
    /// Why: a stable name such as `limited`.
    pub reason: String,
    /// HTTP status to answer with.
    pub status: u32,
    /// The rule that decided.
    pub rule: Option<String>,
    /// The limit that refused.
    pub limit: Option<String>,
    /// Milliseconds after which to come back.
    pub retry_after_ms: Option<f64>,
    /// In words.
    pub message: String,
}

/// Somebody's turn in a queue.
#[napi(object)]
pub struct ReadyView {
    /// As [`super::engine_wait_view`] gives it.
    pub ticket: String,
    /// As [`super::engine_decide`] gives it.
    pub answer: u32,
}

/// What was before a request when it began to wait.
#[napi(object)]
pub struct WaitView {
    /// Its name while it waits.
    pub ticket: String,
    /// Requests before it.
    pub position: u32,
    /// Their tokens.
    pub tokens_before: f64,
    /// Milliseconds after which it starts, where that is known.
    pub starts_in_ms: Option<f64>,
}

/// What a body says of a call of a language model.
#[napi(object, object_from_js = false)]
pub struct FactsView {
    /// The model.
    pub model: String,
    /// Tokens read, estimated.
    pub input_tokens: f64,
    /// Most tokens written.
    pub output_tokens: f64,
    /// Most tokens of one answer.
    pub max_answer_tokens: Option<f64>,
    /// The prompt.
    pub prompt: Buffer,
    /// Whether a stream is asked for.
    pub stream: bool,
}
