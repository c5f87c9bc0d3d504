//! What does a client get when the gateway answers by itself?

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::Serialize;
use traflux_core::plan::limit::LimitUnit;
use traflux_core::plan::requests::RequestPlan;

use super::passing::AnswerBody;
use crate::congestion::{ClientHint, Level, Resource};
use crate::engine::{LimitTrace, Reason, Refusal};

/// When to come back where that is not known: what is full is so until a request has passed.
const SOON: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Document<'a> {
    error: Problem<'a>,
}

/// The shape of errors that clients of model providers know.
#[derive(Serialize)]
struct Problem<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'static str>,
    code: &'a str,
}

/// An answer with an error.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response<AnswerBody> {
    let kind = match status.as_u16() {
        401 | 403 => "authentication_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    };
    let document = Document { error: Problem { message, r#type: kind, param: None, code } };
    // Texts serialise always.
    let json = serde_json::to_vec(&document).unwrap_or_default();
    let mut response = Response::new(AnswerBody::whole(Bytes::from(json)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750, section 3.
        let scheme = if code == "invalid_token" { "Bearer error=\"invalid_token\"" } else { "Bearer" };
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    response
}

/// An answer to a request that was refused. `limits` are those that hold for it, where it was a limit that refused.
pub(super) fn refusal(refusal: &Refusal, limits: &[LimitTrace], plan: &RequestPlan) -> Response<AnswerBody> {
    let status = StatusCode::from_u16(refusal.reason.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut message = String::new();
    // Writing to a string cannot fail.
    let _ = write!(message, "{refusal}");
    let mut response = error(status, refusal.reason.code(), &message);
    let levels: Vec<_> = limits.iter().filter_map(|trace| level(trace, plan)).collect();
    let retry_after = refusal.retry_after.or_else(|| passes(refusal.reason).then_some(SOON));
    let hint = ClientHint { retry_after, levels: &levels };
    hint.write(plan.server.limit_headers, &mut message, |name, value| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            response.headers_mut().insert(name, value);
        }
    });
    response
}

/// Whether what refuses a request passes, however long that takes.
const fn passes(reason: Reason) -> bool {
    use crate::queue::Refusal::{Full, MaxWait, Shed, TenantFull};
    matches!(
        reason,
        Reason::Saturated
            | Reason::NoBackend
            | Reason::TooManyKeys
            | Reason::Dropped(_)
            | Reason::Queue(Full(_) | TenantFull(_) | MaxWait | Shed)
    )
}

/// What headers can say of a limit; nothing of money, nor of what is left at one backend, for which another may stand in.
fn level<'a>(trace: &LimitTrace, plan: &'a RequestPlan) -> Option<Level<'a>> {
    if trace.backend.is_some() {
        return None;
    }
    let limit = plan.limits.iter().find(|limit| limit.name == trace.limit)?;
    let level = trace.level.as_ref()?;
    let resource = match limit.unit {
        LimitUnit::Requests => Resource::Requests,
        LimitUnit::Tokens => Resource::Tokens,
        LimitUnit::InputTokens => Resource::InputTokens,
        LimitUnit::OutputTokens => Resource::OutputTokens,
        LimitUnit::Concurrency => Resource::Concurrency,
        LimitUnit::Dollars => return None,
    };
    Some(Level {
        name: &limit.name,
        resource,
        limit: level.limit,
        remaining: level.remaining,
        reset: level.reset.unwrap_or_default(),
        window: limit.usual_period(),
    })
}
