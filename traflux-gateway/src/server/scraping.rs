//! What load do model servers show?
//!
//! Each backend whose plan says so is asked for its metrics on an interval, through the connections, and with the TLS
//! and the key, that requests use. All its endpoints are asked at once, and the mean of those that answer in time is
//! the backend's report; where none does there is no report, and the last one fades. A backend has one round of
//! questions at a time.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use http::header::{ACCEPT, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use tokio::task::JoinSet;
use tokio::time::Instant;
use traflux_core::PlanError;
use traflux_core::plan::backend::BackendPlan;
use traflux_core::plan::requests::RequestPlan;

use super::gateway::State;
use super::live::Live;
use super::passing::RequestBody;
use crate::congestion::LoadReport;
use crate::congestion::exposition::{MAX_LENGTH, server_metrics};
use crate::observe::exposition::Escaped;

/// How long a new plan may go unnoticed.
const LOOK: Duration = Duration::from_millis(250);

/// Endpoints that were asked, by backend: those that answered and those that did not.
#[derive(Debug, Default)]
pub(super) struct Scrapes(Mutex<BTreeMap<String, [u64; 2]>>);

impl Scrapes {
    fn count(&self, backend: &str, answered: usize, silent: usize) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [well, failed] = counts.entry(backend.to_owned()).or_default();
        *well += answered as u64;
        *failed += silent as u64;
    }

    /// The counters for Prometheus.
    pub(super) fn exposition(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (backend, [well, failed]) in counts.iter() {
            if text.is_empty() {
                text.push_str("# TYPE traflux_gateway_load_scrapes_total counter\n");
            }
            let backend = Escaped(backend);
            for (result, count) in [("success", well), ("failure", failed)] {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "traflux_gateway_load_scrapes_total{{backend=\"{backend}\",result=\"{result}\"}} {count}"
                );
            }
        }
        text
    }
}

/// Asks, for as long as the gateway lives.
pub(super) async fn scrape(state: Arc<State>) {
    let mut asking = JoinSet::new();
    // Until when a backend is left alone; while it is asked, that is not known.
    let mut next: HashMap<String, Option<Instant>> = HashMap::new();
    loop {
        let live = state.live.load_full();
        let now = Instant::now();
        next.retain(|name, _| live.plan.backends.get(name).is_some_and(|backend| backend.load.is_some()));
        for (name, backend) in &live.plan.backends {
            let Some(load) = &backend.load else { continue };
            if next.get(name).is_none_or(|at| at.is_some_and(|at| at <= now)) {
                next.insert(name.clone(), None);
                let (state, live, name, at) =
                    (Arc::clone(&state), Arc::clone(&live), name.clone(), now + load.interval);
                asking.spawn(async move {
                    ask(&state, &live, &name).await;
                    (name, at)
                });
            }
        }
        let due = next.values().flatten().min().copied();
        tokio::select! {
            Some(done) = asking.join_next() => {
                if let Ok((name, at)) = done {
                    next.insert(name, Some(at));
                }
            }
            () = tokio::time::sleep_until(due.unwrap_or(now + LOOK).min(now + LOOK)) => {}
        }
    }
}

async fn ask(state: &State, live: &Live, name: &str) {
    let Some(backend) = live.plan.backends.get(name) else { return };
    let urls = backend.url.iter().map(|endpoint| metrics(live, name, backend, &endpoint.url));
    let texts: Vec<_> = join_all(urls).await.into_iter().flatten().collect();
    state.scrapes.count(name, texts.len(), backend.url.len().saturating_sub(texts.len()));
    if texts.is_empty() {
        return;
    }
    let tell = |model: &str, label: Option<&str>| {
        let reports = texts.iter().map(|text| {
            let report = server_metrics(text, label);
            // A server may have another name for its only model.
            if report == LoadReport::default() { server_metrics(text, None) } else { report }
        });
        let report = mean(&reports.collect::<Vec<_>>());
        if report != LoadReport::default() {
            state.engine.report_load(state.clock.now(), name, model, report);
        }
    };
    if backend.models.is_empty() {
        tell("", None);
    }
    for model in backend.models.keys() {
        tell(model, Some(model));
    }
    // Room may have come free for those who wait.
    state.pump();
}

/// The metrics of one endpoint; `None` where it does not answer in time, or with too much.
async fn metrics(live: &Live, name: &str, backend: &BackendPlan, url: &str) -> Option<Vec<u8>> {
    let load = backend.load.as_ref()?;
    let upstream = live.upstreams.find(name)?;
    let mut request = Request::new(RequestBody::Whole(None));
    *request.uri_mut() = Uri::from(PathAndQuery::try_from(load.path.as_str()).ok()?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("traflux-load"));
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/plain; version=0.0.4"));
    upstream.authorize(request.headers_mut(), false);
    let asking = async {
        let response = upstream.host(url)?.ask(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        let body = Limited::new(response.into_body(), MAX_LENGTH).collect().await.ok()?;
        Some(body.to_bytes().to_vec())
    };
    tokio::time::timeout(load.timeout, asking).await.ok().flatten()
}

/// The mean of what endpoints say, each field over those that say it.
fn mean(reports: &[LoadReport]) -> LoadReport {
    let of = |field: fn(&LoadReport) -> Option<f64>| {
        let said: Vec<f64> = reports.iter().filter_map(field).collect();
        // Each part first, for a sum of finite numbers need not be finite.
        (!said.is_empty()).then(|| said.iter().map(|value| value / said.len() as f64).sum())
    };
    LoadReport {
        waiting: of(|report| report.waiting),
        running: of(|report| report.running),
        cache_use: of(|report| report.cache_use),
        ..LoadReport::default()
    }
}

/// Checks that the questions of a plan can be asked.
///
/// # Errors
/// [`PlanError::Key`] for a path that HTTP does not allow.
pub(super) fn check(plan: &RequestPlan) -> Result<(), PlanError> {
    for (name, backend) in &plan.backends {
        let Some(load) = &backend.load else { continue };
        if PathAndQuery::try_from(load.path.as_str()).is_err() {
            return Err(PlanError::Key {
                path: format!("backends.{name}.load.path"),
                problem: format!("`{}` is no path of HTTP", load.path),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_speak_for_their_backend_as_far_as_they_say_something() {
        let report = |waiting, cache_use| LoadReport { waiting, cache_use, ..LoadReport::default() };
        let all = mean(&[report(Some(10.0), Some(0.5)), report(Some(0.0), None), LoadReport::default()]);
        assert_eq!(all, report(Some(5.0), Some(0.5)));
        assert_eq!(mean(&[]), LoadReport::default());
    }
}
