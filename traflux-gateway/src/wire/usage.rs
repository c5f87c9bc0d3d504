//! How many tokens did an answer use?
//!
//! Providers say so in an object `usage`: in the body (chat completions, responses, messages), in the last event
//! of a stream, or in the first and the last together (messages). Names differ: `prompt_tokens` or
//! `input_tokens`, `completion_tokens` or `output_tokens`; cached tokens stand in `prompt_tokens_details`,
//! `input_tokens_details`, or in `cache_read_input_tokens` beside the input.
//!
//! The object is found by the bytes `"usage"` before a colon and an opening brace. Within a JSON string a quote
//! is always escaped, so a text that talks about usage is never taken for it. In a body the last object that
//! parses counts.

use memchr::memmem;
use serde::Deserialize;

use super::sse::SseParser;

/// Tokens used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens read, those from a cache among them.
    pub input: u64,
    /// Tokens read from a cache.
    pub cached: u64,
    /// Tokens written.
    pub output: u64,
}

/// How an answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// One JSON document.
    Json,
    /// Server-sent events.
    Stream,
}

impl BodyKind {
    /// Reads a `content-type`; `None` for what holds no usage.
    #[must_use]
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if kind.eq_ignore_ascii_case("text/event-stream") {
            Some(Self::Stream)
        } else if kind.eq_ignore_ascii_case("application/json")
            || kind.to_ascii_lowercase().ends_with("+json")
        {
            Some(Self::Json)
        } else {
            None
        }
    }
}

/// An object `usage` is not looked for beyond so many bytes.
const MAX_OBJECT_BYTES: usize = 8 * 1024;
/// An event beyond so many bytes is not looked into.
const MAX_EVENT_BYTES: usize = 256 * 1024;
const KEY: &[u8] = b"\"usage\"";

/// Reads usage from an answer while it passes.
#[derive(Debug, Clone)]
pub struct UsageReader {
    body: Body,
    found: Option<Usage>,
    pieces: u64,
}

#[derive(Debug, Clone)]
enum Body {
    Json {
        /// The last bytes, in which the key or its object may have begun.
        tail: Vec<u8>,
    },
    Stream(SseParser),
}

impl UsageReader {
    /// A reader for an answer of this kind.
    #[must_use]
    pub fn new(kind: BodyKind) -> Self {
        let body = match kind {
            BodyKind::Json => Body::Json { tail: Vec::new() },
            BodyKind::Stream => Body::Stream(SseParser::new(MAX_EVENT_BYTES)),
        };
        Self { body, found: None, pieces: 0 }
    }

    /// Takes in a chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let Self { body, found, pieces } = self;
        match body {
            Body::Json { tail } => {
                // An object may lie across chunks: the tail keeps what could be the beginning of one.
                for part in chunk.chunks(MAX_OBJECT_BYTES) {
                    tail.extend_from_slice(part);
                    if let Some(usage) = last_usage(tail) {
                        *found = Some(usage);
                    }
                    let excess = tail.len().saturating_sub(MAX_OBJECT_BYTES + KEY.len());
                    tail.drain(..excess);
                }
            }
            Body::Stream(parser) => parser.push(chunk, |event| {
                *pieces += u64::from(event.data != b"[DONE]");
                if let Some(usage) = last_usage(event.data) {
                    // The first event of a message tells the input, the last the output, each in full.
                    let before = found.unwrap_or_default();
                    *found = Some(Usage {
                        input: usage.input.max(before.input),
                        cached: usage.cached.max(before.cached),
                        output: usage.output.max(before.output),
                    });
                }
            }),
        }
    }

    /// What was found so far.
    #[must_use]
    pub const fn usage(&self) -> Option<Usage> {
        self.found
    }

    /// Events of a stream so far: about one token each, for streams that never say how many.
    #[must_use]
    pub const fn pieces(&self) -> u64 {
        self.pieces
    }
}

fn last_usage(bytes: &[u8]) -> Option<Usage> {
    let mut end = bytes.len();
    while let Some(at) = memmem::rfind(&bytes[..end], KEY) {
        let after = skip_space(&bytes[at + KEY.len()..]);
        if let Some(object) = after.strip_prefix(b":").map(skip_space)
            && object.first() == Some(&b'{')
            && bytes[..at].last() != Some(&b'\\')
            && let Some(Ok(usage)) =
                serde_json::Deserializer::from_slice(object).into_iter::<Reported>().next()
        {
            return Some(usage.into());
        }
        end = at;
    }
    None
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii_start()
}

/// An object `usage` as any of the providers writes it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Reported {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Details {
    cached_tokens: Option<u64>,
}

impl From<Reported> for Usage {
    fn from(reported: Reported) -> Self {
        let details = reported.prompt_tokens_details.or(reported.input_tokens_details);
        let beside = reported.cache_read_input_tokens.unwrap_or(0);
        let within = details.and_then(|d| d.cached_tokens).unwrap_or(0);
        let input = reported.prompt_tokens.or(reported.input_tokens).unwrap_or(0);
        Self {
            input: input
                .saturating_add(beside)
                .saturating_add(reported.cache_creation_input_tokens.unwrap_or(0)),
            cached: beside.saturating_add(within),
            output: reported.completion_tokens.or(reported.output_tokens).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: BodyKind, body: &[u8], size: usize) -> Option<Usage> {
        let mut reader = UsageReader::new(kind);
        body.chunks(size).for_each(|chunk| reader.push(chunk));
        reader.usage()
    }

    #[test]
    fn a_body_is_read_wherever_its_chunks_are_cut() {
        let body =
            br#"{"id": "1", "choices": [{"message": {"content": "my \"usage\": {\"prompt_tokens\": 9}"}}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46,
            "prompt_tokens_details": {"cached_tokens": 5}}}"#;
        for size in 1..body.len() {
            let expected = Usage { input: 12, cached: 5, output: 34 };
            assert_eq!(read(BodyKind::Json, body, size), Some(expected), "cut by {size}");
        }
    }

    #[test]
    fn a_long_answer_before_the_usage_does_not_hide_it() {
        let body = format!(
            r#"{{"text": "{}", "usage": {{"input_tokens": 1, "output_tokens": 2}}}}"#,
            "x".repeat(99_999)
        );
        for size in [1, 100, 8192, 200_000] {
            let expected = Usage { input: 1, cached: 0, output: 2 };
            assert_eq!(read(BodyKind::Json, body.as_bytes(), size), Some(expected));
        }
    }

    #[test]
    fn a_stream_of_messages_tells_input_first_and_output_last() {
        let body = b"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"cache_read_input_tokens\":100,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n";
        assert_eq!(read(BodyKind::Stream, body, 10), Some(Usage { input: 125, cached: 100, output: 15 }));
    }

    #[test]
    fn a_stream_without_usage_counts_its_pieces() {
        let mut reader = UsageReader::new(BodyKind::Stream);
        reader.push(b"data: {\"choices\": [], \"usage\": null}\n\ndata: {}\n\ndata: [DONE]\n\n");
        assert_eq!((reader.usage(), reader.pieces()), (None, 2));
    }

    #[test]
    fn kinds_are_told_by_content_type() {
        assert_eq!(BodyKind::of_content_type("Text/Event-Stream; charset=utf-8"), Some(BodyKind::Stream));
        assert_eq!(BodyKind::of_content_type("application/problem+json"), Some(BodyKind::Json));
        assert_eq!(BodyKind::of_content_type("audio/mpeg"), None);
    }
}
