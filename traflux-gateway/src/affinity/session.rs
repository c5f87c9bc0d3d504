//! Does a session stay where it was?

use std::time::Duration;

use arrayvec::ArrayVec;
use traflux_core::plan::affinity::AffinityPlan;
use traflux_core::plan::routing::Algorithm;

use super::key::AffinityKey;
use super::pins::PinTable;
use crate::balance::{PickRequest, Pool};
use crate::error::GatewayError;

/// Endpoints that are looked at for a new session.
const OFFERS: usize = 4;
/// How many times as much latency, as the pool counts it, a new session takes for an endpoint with less in flight. More
/// than what prompts that are known there save, less than what a slow endpoint costs for as long as the session lasts.
const MOST_DEARER: f32 = 4.0;

/// Whether a request went where its session was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// There was no session: it begins here.
    New,
    /// It stayed.
    Kept,
    /// Its endpoint was over its share of load: this request went elsewhere, the session stays.
    Overflowed,
    /// Its endpoint may not be chosen: the session has moved here, and stays here when that one recovers.
    Moved {
        /// Id of the endpoint it was at.
        from: u32,
    },
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The position in the pool.
    pub position: usize,
    /// Whether that is where its session was.
    pub stay: Stay,
    /// How many of its keys were met there before; 0 or 1 for keys that are not prefixes.
    pub matched: usize,
}

/// The sessions of one rule.
///
/// A new session goes where the pool's algorithm says, under those that go by latency not to who has more than the mean
/// load while others are nearly as fast. Scope keys by tenant ([`AffinityKey::scoped`]), so that no tenant can find another's sessions.
#[derive(Debug)]
pub struct Session {
    pins: PinTable,
    ttl: Duration,
}

impl Session {
    /// No sessions yet.
    ///
    /// # Errors
    /// As [`AffinityPlan::validate`].
    pub fn new(plan: &AffinityPlan) -> Result<Self, GatewayError> {
        plan.validate()?;
        Ok(Self { pins: PinTable::new(plan.max_pins as usize), ttl: plan.ttl })
    }

    /// Chooses for a request of session `key`; `None` where nobody may be chosen.
    #[must_use]
    pub fn pick(&self, pool: &Pool, request: &PickRequest<'_>, key: AffinityKey) -> Option<Placement> {
        self.pick_prefix(pool, request, &[key])
    }

    /// Chooses for a request whose prompt has these keys, of its first block, of more blocks, and so on
    /// ([`prefix_chain`](super::prefix_chain)): where the longest of them was met last.
    ///
    /// With the table of pins this is a radix tree of prompts in outline: a conversation that grows finds the
    /// endpoint that served its beginning.
    #[must_use]
    pub fn pick_prefix(
        &self,
        pool: &Pool,
        request: &PickRequest<'_>,
        chain: &[AffinityKey],
    ) -> Option<Placement> {
        let now = request.now;
        let longest = chain.iter().enumerate().rev();
        let found = longest
            .into_iter()
            .find_map(|(ix, key)| self.pins.find(*key, now, Some(self.ttl)).map(|id| (ix + 1, id)));
        let keyed = PickRequest { key: request.key.or(chain.first().copied()), ..*request };
        let (position, stay, matched) = match found {
            None => (begin(pool, &keyed)?, Stay::New, 0),
            Some((matched, id)) => match pool.position_of(id).filter(|p| pool.is_open_to(*p, request)) {
                Some(home) if pool.has_room(home) => (home, Stay::Kept, matched),
                Some(home) => {
                    let position = pool.pick(&keyed)?;
                    let stay = if position == home { Stay::Kept } else { Stay::Overflowed };
                    (position, stay, if position == home { matched } else { 0 })
                }
                None => (begin(pool, &keyed)?, Stay::Moved { from: id }, 0),
            },
        };
        let id = pool.endpoint(position)?.id();
        let pin = |keys: &[AffinityKey]| {
            for key in keys {
                self.pins.pin(*key, id, now, self.ttl);
            }
        };
        match stay {
            Stay::New | Stay::Moved { .. } => pin(chain),
            // What was already known is renewed when it is found; only what is longer is new here.
            Stay::Kept => pin(&chain[matched..]),
            Stay::Overflowed => {}
        }
        Some(Placement { position, stay, matched })
    }

    /// Ends a session.
    pub fn end(&self, key: AffinityKey) {
        self.pins.unpin(key);
    }
}

/// Where a session begins: where the pool says, but, where that goes by latency, with nobody who has more than the mean
/// in flight, as long as another of its tier has not and costs at most [`MOST_DEARER`] times as much.
///
/// Who knows a session's prompts answers them sooner, looks fast for it and would be chosen by ever more new sessions.
fn begin(pool: &Pool, request: &PickRequest<'_>) -> Option<usize> {
    let first = pool.pick(request)?;
    let algorithm = pool.settings().algorithm;
    let by_latency = matches!(algorithm, Algorithm::Adaptive | Algorithm::LeastLatency | Algorithm::HotCold);
    if !by_latency || pool.is_below_mean(first) || !request.excluded.is_empty() {
        return Some(first);
    }
    let most = MOST_DEARER * pool.latency_cost(first, request);
    let mut busy = ArrayVec::<u32, OFFERS>::new();
    busy.push(first as u32);
    while !busy.is_full() {
        let next = pool.pick(&PickRequest { excluded: &busy, ..*request });
        let Some(next) = next.filter(|next| pool.tier(*next) == pool.tier(first)) else { break };
        if pool.latency_cost(next, request) > most {
            break;
        }
        if pool.is_below_mean(next) {
            return Some(next);
        }
        busy.push(next as u32);
    }
    Some(first)
}
