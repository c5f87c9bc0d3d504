//! What does the engine get to know of a request?
//!
//! Borrowed views only, so that a decision copies and allocates nothing. An adapter fills a [`Request`] from
//! what its HTTP library gives it.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use traflux_core::Timestamp;

use crate::retry::Idempotence;

/// Values by name: headers or claims.
///
/// Names are asked for in lower case; of several values under one name the first counts.
pub trait Lookup {
    /// The value under a name.
    fn value(&self, name: &str) -> Option<&str>;
}

impl<N: AsRef<str>, V: AsRef<str>> Lookup for [(N, V)] {
    fn value(&self, name: &str) -> Option<&str> {
        // Nearly all names are in lower case.
        let is = |n: &str| n.len() == name.len() && (n == name || n.eq_ignore_ascii_case(name));
        self.iter().find(|(n, _)| is(n.as_ref())).map(|(_, v)| v.as_ref())
    }
}

impl<N: AsRef<str>, V: AsRef<str>, const LENGTH: usize> Lookup for [(N, V); LENGTH] {
    fn value(&self, name: &str) -> Option<&str> {
        self.as_slice().value(name)
    }
}

impl<N: AsRef<str>, V: AsRef<str>> Lookup for Vec<(N, V)> {
    fn value(&self, name: &str) -> Option<&str> {
        self.as_slice().value(name)
    }
}

impl Lookup for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl<S: BuildHasher> Lookup for HashMap<String, String, S> {
    fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// Nothing to look up.
pub const NOTHING: &[(&str, &str)] = &[];

impl Lookup for &[(&str, &str)] {
    fn value(&self, name: &str) -> Option<&str> {
        (**self).value(name)
    }
}

/// Who asks, as far as it was verified. Empty texts where nothing is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Client<'a> {
    /// Whose limits and fair share it draws on.
    pub tenant: &'a str,
    /// Name of the API key, never the key.
    pub key: &'a str,
    /// End user.
    pub user: &'a str,
    /// Tier.
    pub user_tier: &'a str,
}

/// Tokens that a request will use, as far as can be told before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenEstimate {
    /// Tokens read.
    pub input: u64,
    /// The most tokens written (`max_tokens` of the request, or the model's limit). Budgets hold exactly where this
    /// is an upper bound.
    pub output: u64,
}

impl TokenEstimate {
    /// Both together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

/// A request as the engine sees it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Method, in capitals.
    pub method: &'a str,
    /// Host asked for, without port, in lower case.
    pub host: &'a str,
    /// Path without the query.
    pub path: &'a str,
    /// Query without the question mark.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a dyn Lookup,
    /// Verified claims.
    pub claims: &'a dyn Lookup,
    /// Who asks.
    pub client: Client<'a>,
    /// Model asked for; empty where there is none.
    pub model: &'a str,
    /// Tokens.
    pub tokens: TokenEstimate,
    /// The most tokens of one answer, where the request says so (`max_tokens`); `None` where an answer ends where the
    /// model's context does.
    pub max_answer: Option<u64>,
    /// Whether the answer is asked for as a stream.
    pub stream: bool,
    /// Whether acting on it twice does harm, which decides what may be tried again.
    pub idempotence: Idempotence,
    /// What kind of request it is (chat, embedding, batch, ...), for bands of the queue; empty where it is not known.
    pub kind: &'a str,
    /// The prompt, of which beginnings are compared to find caches of it; empty where that is not wanted.
    pub prompt: &'a [u8],
    /// Bytes that are held for it while it waits, such as its body; 0 where nothing is.
    pub bytes: u64,
    /// When an answer is of no more use.
    pub deadline: Option<Timestamp>,
}

impl Request<'_> {
    /// The tokens that its model must have room for: the prompt and one answer.
    #[must_use]
    pub fn context_tokens(&self) -> u64 {
        self.tokens.input.saturating_add(self.max_answer.unwrap_or(0))
    }
}

impl Default for Request<'_> {
    fn default() -> Self {
        Self {
            method: "GET",
            host: "",
            path: "/",
            query: "",
            headers: &NOTHING,
            claims: &NOTHING,
            client: Client::default(),
            model: "",
            tokens: TokenEstimate::default(),
            max_answer: None,
            stream: false,
            idempotence: Idempotence::Idempotent,
            kind: "",
            prompt: &[],
            bytes: 0,
            deadline: None,
        }
    }
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("path", &self.path)
            .field("client", &self.client)
            .field("model", &self.model)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}
