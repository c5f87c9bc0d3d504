//! What can be read?

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::body::Parameters as QueryParameters;
use super::view::{
    DecisionPage, HealthReport, MetricsReport, Readiness, StatusReport, WeightMetrics, WeightsReport,
};
use super::{ApiError, Shared};
use crate::service::{Command, Parameters, TrainingView};

/// Decisions of a page unless told.
pub const DECISIONS_DEFAULT: usize = 50;
/// Most decisions of a page.
pub const DECISIONS_LIMIT: usize = 1000;
/// Most entries (endpoints, shares, changes) that the decisions of a page hold together, or the page ends.
const ENTRIES_LIMIT: usize = 200_000;

type Context = State<Arc<Shared>>;

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

pub(super) async fn readyz(State(shared): Context) -> Response {
    let readiness = Readiness::of(&shared.service);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

pub(super) async fn metrics(State(shared): Context) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, traflux_prom::exporter::CONTENT_TYPE)], shared.service.exporter().encode())
}

pub(super) async fn health(State(shared): Context) -> Json<HealthReport> {
    Json(HealthReport::of(&shared.service))
}

pub(super) async fn status(State(shared): Context) -> Json<StatusReport> {
    Json(StatusReport::of(&shared.service))
}

pub(super) async fn weights(State(shared): Context) -> Json<WeightsReport> {
    Json(WeightsReport::of(&shared.service))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<usize>,
    before: Option<u64>,
}

pub(super) async fn decisions(
    State(shared): Context,
    QueryParameters(page): QueryParameters<Page>,
) -> Result<Json<DecisionPage>, ApiError> {
    let limit = page.limit.unwrap_or(DECISIONS_DEFAULT);
    if !(1..=DECISIONS_LIMIT).contains(&limit) {
        return Err(ApiError::InvalidQuery {
            problem: format!("limit is {limit}, must be within 1 to {DECISIONS_LIMIT}"),
        });
    }
    Ok(Json(shared.service.decisions(|log| {
        let mut rest =
            log.newest_first().filter(|d| page.before.is_none_or(|before| d.tick < before)).peekable();
        let (mut decisions, mut entries) = (Vec::new(), 0);
        while let Some(decision) = rest.peek() {
            entries += decision.entries();
            if decisions.len() == limit || (entries > ENTRIES_LIMIT && !decisions.is_empty()) {
                break;
            }
            decisions.extend(rest.next().cloned());
        }
        let more = rest.peek().is_some();
        let next_before = if more { decisions.last().map(|d| d.tick) } else { None };
        DecisionPage { decisions, next_before }
    })))
}

pub(super) async fn metrics_all(State(shared): Context) -> Json<MetricsReport> {
    Json(MetricsReport::of(&shared.service))
}

pub(super) async fn metrics_training(State(shared): Context) -> Json<TrainingView> {
    Json(shared.service.training())
}

pub(super) async fn metrics_weights(State(shared): Context) -> Json<WeightMetrics> {
    Json(WeightMetrics::of(&shared.service))
}

pub(super) async fn parameters(State(shared): Context) -> Result<Json<Parameters>, ApiError> {
    Ok(Json(shared.service.ask(Command::Parameters).await?))
}

pub(super) async fn openapi(State(shared): Context) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], shared.document.clone())
}

/// The page loads nothing and talks to nobody but this API.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY)),
    ];
    (headers, include_str!("page.html"))
}
