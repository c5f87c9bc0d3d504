//! How does the simulator route with a pool?

use std::sync::Arc;
use std::time::Duration;

use traflux_core::Timestamp;
use traflux_core::plan::balance::LatencyPlan;
use traflux_core::plan::routing::Algorithm;

use super::choice::PickRequest;
use super::endpoint::{Answer, Endpoint, EndpointTable};
use super::pool::{Member, Pool};
use super::settings::BalanceSettings;
use crate::outcome::Outcome;
use crate::picker::{Candidate, Completion, Picker};
use crate::rng::Rng;

/// Any [`Algorithm`] behind the [`Picker`] trait, with its own endpoints.
///
/// What is in flight is counted by the caller. A picker is not told what an answer's own request met, so the
/// mean of what recent ones did stands in.
#[derive(Debug)]
pub struct PoolPicker {
    settings: BalanceSettings,
    endpoints: Vec<Arc<Endpoint>>,
    table: EndpointTable,
    pool: Option<Pool>,
    met: Vec<f32>,
    rng: Rng,
    seed: u64,
}

impl PoolPicker {
    /// A picker without endpoints yet, with default settings.
    #[must_use]
    pub fn new(algorithm: Algorithm, seed: u64) -> Self {
        Self {
            settings: BalanceSettings::of(algorithm),
            endpoints: Vec::new(),
            table: EndpointTable::new(&LatencyPlan::default()),
            pool: None,
            met: Vec::new(),
            rng: Rng::new(seed),
            seed,
        }
    }
}

impl Picker for PoolPicker {
    fn configure(&mut self, candidates: &[Candidate]) {
        for ix in self.endpoints.len()..candidates.len() {
            self.endpoints.push(self.table.endpoint(&ix.to_string(), Timestamp::ZERO));
        }
        self.met.resize(candidates.len(), 0.0);
        let members = candidates.iter().zip(&self.endpoints).map(|(candidate, endpoint)| {
            Member::new(Arc::clone(endpoint), if candidate.is_open() { candidate.weight } else { 0 })
        });
        let pool = match &self.pool {
            Some(pool) => pool.reconfigured(self.settings, members),
            None => Pool::new(self.settings, members, self.seed),
        };
        // Default settings are valid; too many members for a pool are the same as none.
        self.pool = pool.ok();
    }

    fn pick(&mut self, now: Timestamp, in_flight: &[u32]) -> Option<usize> {
        let request = PickRequest::new(now, self.rng.next_u64());
        let position = self.pool.as_ref()?.pick_by(&request, in_flight)?;
        self.met[position] += (in_flight[position] as f32 - self.met[position]) * 0.1;
        Some(position)
    }

    fn observe(&mut self, now: Timestamp, endpoint: usize, latency: Duration, completion: Completion) {
        let Some(pool) = self.pool.as_ref().filter(|pool| endpoint < pool.len()) else { return };
        let outcome = match completion {
            Completion::Success => Outcome::Success,
            Completion::Failure => Outcome::ServerError,
        };
        pool.observe(now, endpoint, &Answer::plain(outcome, latency, self.met[endpoint].round() as u32));
    }
}
