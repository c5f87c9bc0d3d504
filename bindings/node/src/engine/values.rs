//! What do texts and numbers from Node say?

use napi::Result;
use traflux_core::Timestamp;
use traflux_core::plan::requests::RequestPlan;
use traflux_gateway::congestion::{Feedback, FeedbackPlan};
use traflux_gateway::queue::Ticket;
use traflux_gateway::{EngineSettings, Outcome, Usage};

use crate::errors::{coded, input};
use crate::request::{count, pairs};

/// A plan from YAML or JSON, checked.
pub(crate) fn read_plan(text: &str) -> Result<RequestPlan> {
    let plan = traflux::gateway::read_plan(text).map_err(coded)?;
    plan.validate().map_err(coded)?;
    Ok(plan)
}

/// Settings that are given, with what is not said as it is in force.
pub(crate) fn read_settings(in_force: &EngineSettings, text: Option<&str>) -> Result<EngineSettings> {
    text.map_or_else(
        || Ok(in_force.clone()),
        |text| in_force.changed(text).map_err(|error| input("input_settings", format!("settings: {error}"))),
    )
}

pub(crate) fn ticket((room, ticket): (usize, Ticket)) -> String {
    format!("{room:x}.{:x}", ticket.get())
}

pub(crate) fn usage(input: f64, cached: f64, output: f64) -> Result<Option<Usage>> {
    if input.is_nan() && output.is_nan() {
        return Ok(None);
    }
    let tokens = |value: f64, what| if value.is_nan() { Ok(0) } else { count(value, what) };
    Ok(Some(Usage {
        input: tokens(input, "inputTokens")?,
        cached: tokens(cached, "cachedTokens")?,
        output: tokens(output, "outputTokens")?,
    }))
}

pub(crate) fn said(
    outcome: i32,
    headers: Option<&str>,
    count: u32,
    now: Timestamp,
    settings: &FeedbackPlan,
) -> Result<(Outcome, Feedback)> {
    let headers = pairs(headers.unwrap_or_default(), count)?;
    let has_retry_after = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let feedback = if headers.is_empty() {
        Feedback::NONE
    } else {
        let bytes = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        Feedback::read(bytes, now.since_epoch(), settings)
    };
    let outcome = match u16::try_from(outcome) {
        Ok(status) => Outcome::of_status(status, has_retry_after),
        Err(_) => *usize::try_from(-1 - i64::from(outcome))
            .ok()
            .and_then(|ix| Outcome::ALL.get(ix))
            .ok_or_else(|| input("input_outcome", format!("{outcome} is no outcome")))?,
    };
    Ok((outcome, feedback))
}
