//! What does a request ask for: which model, how much, as a stream?
//!
//! Limits and prices are reserved by what is read here, and a backend reads the same bytes by itself. So whatever the
//! two could read differently is refused or counted as the larger: a key twice, in letters of another case (Go matches
//! keys so), two bounds of the answer.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem;
use serde::de::{Error as _, IgnoredAny, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use traflux_core::plan::tokens::TokensPlan;

use crate::error::GatewayError;
use crate::request::TokenEstimate;

/// Bytes that a picture in base64 counts as: 1,600 tokens of four bytes, about the most that providers count for one at
/// full resolution. Its own length says little about that.
const PICTURE_BYTES: usize = 6_400;
/// Lists within each other in which pictures are looked for: messages, their parts, and the parts of what a tool gave.
const PICTURE_DEPTH: usize = 3;

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
    /// The most tokens to write, where the request says so, for all choices of all prompts together.
    pub max_output: Option<u64>,
    /// The most tokens of one choice, where the request says so: the largest bound, where it names several.
    pub max_answer: Option<u64>,
    /// The prompt as it stands in the body: what a cache of prompts would see first.
    pub prompt: &'a [u8],
    /// Bytes that count as read: all of the body, for instructions, tools and formats are read like the prompt. Only a
    /// picture in base64 among the parts of a message (`image_url` with a data URL, `source` with a `media_type` of
    /// `image/…`) counts as 6,400, 1,600 tokens of four bytes, however long it is.
    pub input_bytes: usize,
}

impl<'a> RequestFacts<'a> {
    /// Reads a JSON body, with or without the mark of UTF-8 before it. Fields that it does not know are left alone.
    ///
    /// # Errors
    /// [`GatewayError::Body`] when it is no JSON object, names a field that is known here twice, letters of any case, or
    /// with another type. A number of tokens may be written as `100.0`; a negative one counts as not said.
    pub fn read(body: &'a [u8]) -> Result<Self, GatewayError> {
        let json = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let known: Known<'a> =
            serde_json::from_slice(json).map_err(|error| GatewayError::Body { reason: error.to_string() })?;
        let [first, second, third] = known.most;
        let max_answer = first.max(second).max(third);
        let choices = known.choices.max(known.best_of).unwrap_or(1).max(1);
        let prompt = known.messages.or(known.prompt).or(known.input).map_or("", RawValue::get);
        let prompts = if max_answer.is_some() { known.prompt.map_or(1, prompts) } else { 1 };
        let pictures = Pictures::of(body, prompt);
        Ok(Self {
            model: known.model.unwrap_or_default(),
            stream: known.stream.unwrap_or(false),
            stream_usage: known.stream_options.and_then(|o| o.include_usage).unwrap_or(false),
            max_answer,
            max_output: max_answer.map(|most| most.saturating_mul(choices).saturating_mul(prompts)),
            prompt: prompt.as_bytes(),
            input_bytes: (body.len() - pictures.bytes).saturating_add(pictures.count * PICTURE_BYTES),
        })
    }

    /// Tokens that the request will use, as far as can be told before anyone has counted them: an upper bound, where
    /// [`bytes_per_token`](TokensPlan::bytes_per_token) is one, for a request that states the most tokens of its answer
    /// and holds all that is read. What a provider adds by itself is not in it: a history that it keeps, files and
    /// addresses that the request only names.
    #[must_use]
    pub fn estimate(&self, plan: &TokensPlan) -> TokenEstimate {
        let (input, output) = plan.estimate(&self.model, self.input_bytes, self.max_output);
        TokenEstimate { input, output }
    }
}

/// Whether bytes begin an object of JSON, in any encoding of Unicode; `None` while there is only what may stand before
/// one: space, NULs, which the wider encodings put beside each character of ASCII, and the bytes of their marks.
#[cfg(feature = "server")]
pub(crate) fn opens_object(bytes: &[u8]) -> Option<bool> {
    let before = |byte: &u8| byte.is_ascii_whitespace() || b"\0\xef\xbb\xbf\xff\xfe".contains(byte);
    bytes.iter().find(|byte| !before(byte)).map(|first| *first == b'{')
}

/// The fields of a body that are known here.
#[derive(Default)]
struct Known<'a> {
    model: Option<Cow<'a, str>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    /// Bounds of the answer under the names that they have.
    most: [Option<u64>; 3],
    choices: Option<u64>,
    best_of: Option<u64>,
    messages: Option<&'a RawValue>,
    prompt: Option<&'a RawValue>,
    input: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

/// Names of known fields, in lower case.
const NAMES: [&str; 11] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "messages",
    "prompt",
    "input",
];

/// The position of a known name; `None` for any other.
struct Name(Option<usize>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))))
            }
        }
        deserializer.deserialize_identifier(Reader)
    }
}

impl<'de> Deserialize<'de> for Known<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Known<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Known<'de>, A::Error> {
                let (mut known, mut seen) = (Known::default(), [false; NAMES.len()]);
                while let Some(Name(name)) = map.next_key()? {
                    let Some(at) = name else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if std::mem::replace(&mut seen[at], true) {
                        return Err(A::Error::duplicate_field(NAMES[at]));
                    }
                    match NAMES[at] {
                        "model" => known.model = map.next_value::<Option<Text<'de>>>()?.map(|text| text.0),
                        "stream" => known.stream = map.next_value()?,
                        "stream_options" => known.stream_options = map.next_value()?,
                        "max_tokens" => known.most[0] = map.next_value::<Count>()?.0,
                        "max_completion_tokens" => known.most[1] = map.next_value::<Count>()?.0,
                        "max_output_tokens" => known.most[2] = map.next_value::<Count>()?.0,
                        "n" => known.choices = map.next_value::<Count>()?.0,
                        "best_of" => known.best_of = map.next_value::<Count>()?.0,
                        "messages" => known.messages = map.next_value()?,
                        "prompt" => known.prompt = map.next_value()?,
                        _ => known.input = map.next_value()?,
                    }
                }
                Ok(known)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A number of tokens or choices, however it is written; `None` for null and for a negative one, by which some backends
/// mean that there is no bound.
struct Count(Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_unit<E>(self) -> Result<Count, E> {
                Ok(Count(None))
            }

            fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
                Ok(Count(Some(count)))
            }

            fn visit_i64<E>(self, count: i64) -> Result<Count, E> {
                Ok(Count(count.try_into().ok()))
            }

            fn visit_f64<E: serde::de::Error>(self, count: f64) -> Result<Count, E> {
                if count.fract() != 0.0 {
                    return Err(E::invalid_value(Unexpected::Float(count), &self));
                }
                Ok(Count((count >= 0.0).then_some(count as u64)))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// How many prompts a field `prompt` holds, each of which is answered: a text or a list of tokens is one, of a list of
/// those each is.
fn prompts(prompt: &RawValue) -> u64 {
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(prompt.get()) else { return 1 };
    let are_prompts = list.first().is_some_and(|first| first.get().starts_with(['"', '[']));
    if are_prompts { list.len() as u64 } else { 1 }
}

fn picture_of(raw: &RawValue) -> Option<Picture<'_>> {
    serde_json::from_str(raw.get()).ok()
}

/// Pictures among the parts of messages, and their bytes.
#[derive(Default)]
struct Pictures {
    count: usize,
    bytes: usize,
}

/// A message, or a part of one; a picture stands in two forms.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    image_url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    source: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Picture<'a> {
    #[serde(borrow, default)]
    url: Option<&'a RawValue>,
    #[serde(borrow, default)]
    media_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

impl Pictures {
    /// Only where one can be: what stands elsewhere is read as text, whatever it looks like.
    fn of(body: &[u8], messages: &str) -> Self {
        let mut pictures = Self::default();
        if memmem::find(body, b"base64").is_some() {
            pictures.look(messages, PICTURE_DEPTH);
        }
        pictures
    }

    fn look(&mut self, parts: &str, depth: usize) {
        let Some(depth) = depth.checked_sub(1).filter(|_| parts.starts_with('[')) else { return };
        let parts: Vec<&RawValue> = serde_json::from_str(parts).unwrap_or_default();
        for part in parts {
            let Ok(Part { content, image_url, source }) = serde_json::from_str(part.get()) else { continue };
            if let Some(content) = content {
                self.look(content.get(), depth);
            }
            if let Some(url) = image_url {
                self.count(picture_of(url).and_then(|picture| picture.url).unwrap_or(url), "\"data:image");
            }
            if let Some(Picture { media_type: Some(kind), data: Some(data), .. }) =
                source.and_then(picture_of)
                && kind.get().starts_with("\"image")
            {
                self.count(data, "\"");
            }
        }
    }

    /// Counts a text that begins so.
    fn count(&mut self, text: &RawValue, begins: &str) {
        if text.get().starts_with(begins) {
            self.count += 1;
            self.bytes += text.get().len();
        }
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
        assert_eq!(estimate, TokenEstimate { input: body.len().div_ceil(4) as u64, output: 100 });
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
        assert_eq!(facts.estimate(&TokensPlan::default()), TokenEstimate { input: 1, output: 4096 });
    }

    fn read(body: &str) -> RequestFacts<'_> {
        RequestFacts::read(body.as_bytes()).unwrap_or_else(|e| panic!("{body}: {e}"))
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for body in [
            r#"{"model": "a", "model": "b"}"#,
            r#"{"model": "a", "mod\u0065l": "b"}"#,
            r#"{"model": "a", "Model": "b"}"#,
            r#"{"max_tokens": 1, "max_tokens": 2}"#,
            r#"{"max_tokens": "1"}"#,
            r#"{"max_tokens": 1.5}"#,
            r#"{"model": 5}"#,
            r#"{"stream": 1}"#,
            r#"{"model": "a"} {"model": "b"}"#,
            r#"{"model": "a", "temperature": NaN}"#,
            "{\0",
        ] {
            let error = RequestFacts::read(body.as_bytes()).map(|_| ()).map_err(|e| e.code());
            assert_eq!(error, Err("gateway_body"), "{body}");
        }
    }

    #[test]
    fn numbers_marks_and_letters_are_read_as_backends_read_them() {
        let facts = read("\u{feff} {\"Model\": \"m\", \"max_tokens\": 100.0, \"n\": 2.0, \"stream\": null}");
        assert_eq!((facts.model.as_ref(), facts.max_output, facts.max_answer), ("m", Some(200), Some(100)));
        let most = |text: &str| read(text).max_output;
        assert_eq!(most(r#"{"max_tokens": -1, "n": -1}"#), None, "no bound is stated");
        assert_eq!(most(r#"{"max_tokens": 1e99}"#), Some(u64::MAX));
        assert_eq!(most(r#"{"max_tokens": 99999999999999999999}"#), Some(u64::MAX));
        assert_eq!(most(r#"{"max_tokens": null}"#), None);
    }

    #[test]
    fn of_several_bounds_the_largest_holds_for_all_choices_of_all_prompts() {
        let most = |text: &str| read(text).max_output;
        assert_eq!(
            most(r#"{"max_completion_tokens": 1, "max_tokens": 900, "max_output_tokens": 2}"#),
            Some(900)
        );
        assert_eq!(most(r#"{"max_tokens": 10, "n": 2, "best_of": 5}"#), Some(50));
        assert_eq!(most(r#"{"max_tokens": 10, "n": 2, "prompt": ["a", "b", "c"]}"#), Some(60));
        assert_eq!(most(r#"{"max_tokens": 10, "prompt": [[1, 2], [3]]}"#), Some(20));
        assert_eq!(most(r#"{"max_tokens": 10, "prompt": [1, 2, 3]}"#), Some(10));
        assert_eq!(most(r#"{"max_tokens": 10, "prompt": []}"#), Some(10));
    }

    #[test]
    fn all_that_a_model_reads_is_estimated() {
        let text = "word ".repeat(800);
        for body in [
            format!(r#"{{"system": "{text}", "messages": []}}"#),
            format!(r#"{{"instructions": "{text}", "input": "x"}}"#),
            format!(r#"{{"tools": [{{"description": "{text}"}}], "messages": []}}"#),
            format!(r#"{{"response_format": {{"schema": "{text}"}}, "messages": []}}"#),
        ] {
            let estimate = read(&body).estimate(&TokensPlan::default());
            assert_eq!(estimate.input, body.len().div_ceil(4) as u64);
            assert!(read(&body).prompt.len() < 10, "sessions go by the prompt");
        }
    }

    #[test]
    fn a_picture_counts_as_one_whatever_its_length_and_only_where_one_is_seen() {
        let data = "A".repeat(1_000_000);
        let url = format!("data:image/png;base64,{data}");
        let tokens = |messages: String| {
            read(&format!(r#"{{"messages": {messages}}}"#)).estimate(&TokensPlan::default()).input
        };
        let one = 1_600..1_700;
        for part in [
            format!(r#"{{"type": "image_url", "image_url": {{"url": "{url}"}}}}"#),
            format!(r#"{{"type": "input_image", "image_url": "{url}"}}"#),
            format!(r#"{{"source": {{"type": "base64", "media_type": "image/png", "data": "{data}"}}}}"#),
            format!(r#"{{"content": [{{"image_url": "{}"}}]}}"#, url.replace('/', "\\/")),
        ] {
            let counted = tokens(format!(r#"[{{"role": "user", "content": [{part}]}}]"#));
            assert!(one.contains(&counted), "{counted}: {}", &part[..60]);
            let two = tokens(format!(r#"[{{"content": [{part}]}}, {{"content": [{part}]}}]"#));
            assert!((3_200..3_400).contains(&two), "{two}");
        }
        for text in [
            format!(r#"[{{"role": "user", "content": "{url}"}}]"#),
            format!(r#"[{{"content": [{{"type": "text", "text": "{url}"}}]}}]"#),
            format!(r#"[{{"content": [{{"type": "tool_use", "input": {{"image_url": "{url}"}}}}]}}]"#),
            format!(r#"[{{"content": [{{"source": {{"type": "text", "base64": 1, "data": "{data}"}}}}]}}]"#),
            format!(
                r#"[{{"content": [{{"source": {{"type": "base64", "media_type": "application/pdf", "data": "{data}"}}}}]}}]"#
            ),
        ] {
            assert!(tokens(text) > 250_000);
        }
    }

    #[test]
    #[cfg(feature = "server")]
    fn the_beginning_of_an_object_is_seen_in_every_encoding() {
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
        for opening in
            [&b"{"[..], b" \r\n\t{", b"\xef\xbb\xbf {", b"\xff\xfe{\0", b"{\0", b"\0\0\0{", &wide(" {")]
        {
            assert_eq!(opens_object(opening), Some(true), "{opening:?}");
        }
        for other in [&b"[{"[..], b"--boundary", b"\x1f\x8b", b"grant={"] {
            assert_eq!(opens_object(other), Some(false), "{other:?}");
        }
        assert_eq!((opens_object(b""), opens_object(b" \n")), (None, None));
    }
}
