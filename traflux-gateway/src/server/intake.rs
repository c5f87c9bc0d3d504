//! What is taken from a client before anybody decides: is it a request that can be passed on, in which form, and what does
//! its body say?

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::gateway::State;
use super::live::Live;
use super::passing::RequestBody;
use super::proxy::{BUFFERS_FULL, Wrong, wrong};
use crate::rule::normal_path;
use crate::wire::{RequestFacts, opens_object};

const UNREADABLE: Wrong = wrong(
    StatusCode::BAD_REQUEST,
    "request_body",
    "the body begins an object of JSON and is none, or says something twice or in a form that is not known",
);

pub(super) const ENCODED: Wrong = wrong(
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    "content_encoding",
    "bodies in JSON are taken without a content encoding",
);

pub(super) const LATE_BODY: Wrong =
    wrong(StatusCode::REQUEST_TIMEOUT, "request_timeout", "the body did not come in time");

/// Whether the other side wants to go on in WebSocket. What else it would rather speak is left alone, as an answer in
/// HTTP/1.1 says (RFC 9110, section 7.8).
pub(super) fn wants_websocket(parts: &Parts) -> bool {
    let names = |header: HeaderName, name: &str| {
        let values = parts.headers.get_all(header).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| {
            // A protocol may come with its version.
            one.split('/').next().unwrap_or_default().trim().eq_ignore_ascii_case(name)
        })
    };
    parts.version == Version::HTTP_11
        && parts.headers.contains_key(UPGRADE)
        && names(CONNECTION, "upgrade")
        && names(UPGRADE, "websocket")
}

/// Gives cookies and path the form that rules look at and backends get.
pub(super) fn in_one_form(parts: &mut Parts) {
    // HTTP/2 may send each cookie by itself (RFC 9113, section 8.2.3).
    if parts.headers.get_all(COOKIE).iter().nth(1).is_some() {
        let cookies: Vec<_> = parts.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookies) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
            parts.headers.insert(COOKIE, cookies);
        }
    }
    let Cow::Owned(path) = normal_path(parts.uri.path()) else { return };
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    // Nothing was added that was not in one before.
    uri.path_and_query = PathAndQuery::try_from(path + &query).ok().or(uri.path_and_query);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
}

/// Reads the body of a request where it may say what is asked for; others pass as they come.
pub(super) async fn take_body(
    state: &State,
    live: &Live,
    parts: &Parts,
    mut body: Incoming,
) -> Result<RequestBody, Wrong> {
    let server = &live.plan.server;
    const TOO_LONG: Wrong = wrong(
        StatusCode::PAYLOAD_TOO_LARGE,
        "request_too_large",
        "the body is longer than this gateway takes",
    );
    if body.is_end_stream() {
        return Ok(RequestBody::Whole(None));
    }
    if body.size_hint().lower() > server.max_body_bytes as u64 {
        return Err(TOO_LONG);
    }
    let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !may_be_text(kind) {
        let until = Box::pin(tokio::time::sleep(server.body_timeout));
        // The first bytes of gRPC are a flag and a length, which may look like anything.
        let suspect = live.goes_by_bodies && !begins(kind, "application/grpc");
        return Ok(RequestBody::Stream { body, left: server.max_body_bytes, until, suspect });
    }
    let encoded = || {
        let codings = parts.headers.get_all(CONTENT_ENCODING);
        codings.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    };
    if live.goes_by_bodies && encoded() && may_be_json(kind) {
        return Err(ENCODED);
    }
    let gathering = async {
        let mut gathered = state.buffers.begin();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                wrong(StatusCode::BAD_REQUEST, "request_body", "the body is malformed or broke off")
            })?;
            // What comes after the body says nothing about where it goes.
            let Ok(piece) = frame.into_data() else { continue };
            if gathered.len() + piece.len() > server.max_body_bytes {
                return Err(TOO_LONG);
            }
            if !gathered.push(piece, server.max_buffered_bytes) {
                return Err(BUFFERS_FULL);
            }
        }
        Ok(RequestBody::Whole((gathered.len() > 0).then(|| gathered.whole())))
    };
    tokio::time::timeout(server.body_timeout, gathering).await.unwrap_or(Err(LATE_BODY))
}

/// Whether a body may be JSON. Only what is surely something else is not looked into, for a backend may not care
/// what a client calls it.
fn may_be_text(kind: &str) -> bool {
    let binary = ["multipart/", "audio/", "video/", "image/", "application/octet-stream", "application/grpc"];
    !binary.iter().any(|prefix| begins(kind, prefix))
}

/// Whether a body that may be text may be JSON before it was compressed, by what it is called or by what programs call
/// it that do not say.
fn may_be_json(kind: &str) -> bool {
    let common = ["text/", "application/x-www-form-urlencoded", "application/json"];
    kind.is_empty()
        || common.iter().any(|prefix| begins(kind, prefix))
        || kind.to_ascii_lowercase().contains("+json")
}

fn begins(kind: &str, prefix: &str) -> bool {
    kind.get(..prefix.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(prefix))
}

/// What a body says. Where that decides, an object that cannot be read is refused: a backend may be able to.
pub(super) fn read_facts(bytes: &Bytes, goes_by_bodies: bool) -> Result<RequestFacts<'_>, Wrong> {
    match RequestFacts::read(bytes) {
        Ok(facts) => Ok(facts),
        Err(_) if goes_by_bodies && opens_object(bytes) == Some(true) => Err(UNREADABLE),
        Err(_) => Ok(RequestFacts { prompt: bytes, input_bytes: bytes.len(), ..RequestFacts::default() }),
    }
}
