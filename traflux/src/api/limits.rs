//! What can one caller use up?
//!
//! Little: bodies, requests at a time, time per request and connections are bounded. Liveness is answered
//! whatever the load, or a supervisor would restart a controller that is merely asked a lot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use super::{ApiError, Shared};

/// Most bytes of a body.
pub const BODY_LIMIT: usize = 1024 * 1024;
/// Most time for one request.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Most requests in flight.
pub const REQUESTS_AT_A_TIME: usize = 64;

/// Counts requests in flight.
pub(super) struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(REQUESTS_AT_A_TIME))
    }
}

/// Runs one request inside its limits and adds the headers that every answer carries.
pub(super) async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = within_limits(&shared, request, next).await;
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        elapsed_ms = began.elapsed().as_millis() as u64,
        "request"
    );
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

async fn within_limits(shared: &Shared, request: Request, next: Next) -> Response {
    if request.uri().path() == "/healthz" {
        return next.run(request).await;
    }
    let Ok(_permit) = shared.gate.0.try_acquire() else { return ApiError::Busy.into_response() };
    match tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::Deadline.into_response(),
    }
}
