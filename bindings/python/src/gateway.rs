//! How does Python decide about requests?
//!
//! [`plan`] reads what people write, [`request`] holds what is known of a request, [`engine`] decides, [`decision`] is
//! what comes of it, [`limiter`] is limits alone, [`usage`] reads tokens from answers.

mod decision;
mod engine;
mod limiter;
mod plan;
mod request;
mod usage;

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMapping, PyString};
use traflux_core::Timestamp;
use traflux_gateway::adapter::Clock;

use crate::errors::input;
pub(crate) use plan::{from_json, json_text};

/// The time of a call: the argument in seconds since 1970, else the clock's.
fn time(clock: &Clock, now: Option<f64>) -> PyResult<Timestamp> {
    now.map_or_else(|| Ok(clock.now()), timestamp)
}

/// Seconds since 1970 as a time.
pub(crate) fn timestamp(seconds: f64) -> PyResult<Timestamp> {
    Duration::try_from_secs_f64(seconds)
        .map(Timestamp::new)
        .map_err(|_| input("input_time", format!("{seconds} is no time in seconds since 1970")))
}

/// Pairs of texts from a mapping, or from pairs of `str` or `bytes` as ASGI has them.
fn pairs(value: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<(String, String)>> {
    let Some(value) = value else { return Ok(Vec::new()) };
    if let Ok(dict) = value.cast::<PyDict>() {
        return dict.iter().map(|(name, value)| Ok((text(&name)?, text(&value)?))).collect();
    }
    let items = match value.cast::<PyMapping>() {
        Ok(mapping) => mapping.items()?.into_any(),
        Err(_) => value.clone(),
    };
    items
        .try_iter()?
        .map(|item| {
            let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?
                .extract()
                .map_err(|_| input("input_pairs", "expected a mapping or pairs of name and value"))?;
            Ok((text(&name)?, text(&value)?))
        })
        .collect()
}

/// A text, or bytes in the encoding of HTTP headers, Latin-1.
fn text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(text.to_str()?.to_owned());
    }
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().iter().copied().map(char::from).collect()),
        Err(_) => Err(input("input_pairs", format!("{} is neither text nor bytes", value.get_type()))),
    }
}

/// Puts the names of this file into its module.
pub(crate) fn register(_py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<plan::Plan>()?;
    module.add_class::<plan::Identities>()?;
    module.add_class::<plan::Client>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<decision::Forward>()?;
    module.add_class::<decision::Wait>()?;
    module.add_class::<decision::Later>()?;
    module.add_class::<decision::Refuse>()?;
    module.add_class::<limiter::Limiter>()?;
    module.add_class::<limiter::Reservation>()?;
    module.add_class::<limiter::Denial>()?;
    module.add_class::<usage::UsageReader>()
}
