//! Who waits, how long, and what is before them?

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use traflux_core::Timestamp;

use super::Engine;
use super::compile::Compiled;
use super::waiting::{Position, Room};
use crate::queue::{Outlook, Ticket, Waits};

/// A queue as it stands: that of all requests that want the same backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueReading {
    /// The backends, sorted.
    pub backends: Vec<String>,
    /// Whether it is that of an earlier plan, which nobody joins any more.
    pub former: bool,
    /// All that waits.
    pub load: WaitingLoad,
    /// The bands, best first.
    pub bands: Vec<(String, WaitingLoad)>,
    /// Tenants of whom something waits, those with the most requests first; `None` for all those together that the
    /// queue does not tell apart.
    pub tenants: Vec<(Option<String>, WaitingLoad)>,
    /// The requests that have waited longest, in that order.
    pub requests: Vec<QueuedReading>,
}

/// How much waits, and how long it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WaitingLoad {
    /// Requests.
    pub requests: u64,
    /// Their expected tokens.
    pub tokens: u64,
    /// How long the oldest has waited; `None` where nothing waits.
    pub oldest: Option<Duration>,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedReading {
    /// Its name in this queue, the one of [`Waiting::ticket`](super::Waiting::ticket).
    pub ticket: Ticket,
    /// The rule that decided for it.
    pub rule: Arc<str>,
    /// Its band.
    pub band: String,
    /// Its tenant, empty where it has none; `None` where tenants are not told apart.
    pub tenant: Option<String>,
    /// How long it has waited.
    pub waited: Duration,
    /// What is before it, and when it starts.
    pub outlook: Outlook,
}

impl WaitingLoad {
    fn add(&mut self, waits: &Waits) {
        self.requests += 1;
        self.tokens += waits.cost_tokens;
        self.oldest = self.oldest.max(Some(waits.waited));
    }
}

impl Engine {
    /// Queues of the plan in force, and those of earlier ones in which somebody still waits; of each, at most `most`
    /// requests and tenants. Changes nothing, and holds a queue for as long as its requests are counted.
    ///
    /// Requests that have a turn at a limit ([`Decision::Later`](super::Decision::Later)) are in no queue.
    #[must_use]
    pub fn queues(&self, now: Timestamp, most: usize) -> Vec<QueueReading> {
        let compiled = self.compiled.load_full();
        let names = TenantNames::of(&compiled);
        let own = compiled.rooms.iter().map(|room| reading(room, false, &names, now, most));
        let former = compiled.former.iter().filter_map(Weak::upgrade);
        let former = former.filter(|room| room.is_waiting());
        own.chain(former.map(|room| reading(&room, true, &names, now, most))).collect()
    }
}

fn reading(room: &Room, former: bool, names: &TenantNames, now: Timestamp, most: usize) -> QueueReading {
    let (all, positions) = room.reading(now, most);
    let band = |band: u8| room.plan.bands.get(usize::from(band)).map_or("", |band| &band.name).to_owned();
    let mut load = WaitingLoad::default();
    let mut bands: Vec<_> =
        room.plan.bands.iter().map(|band| (band.name.clone(), WaitingLoad::default())).collect();
    let mut by_tenant: HashMap<u32, WaitingLoad> = HashMap::new();
    for waits in &all {
        load.add(waits);
        if let Some((_, load)) = bands.get_mut(usize::from(waits.band)) {
            load.add(waits);
        }
        by_tenant.entry(waits.tenant).or_default().add(waits);
    }
    let mut tenants: Vec<_> = by_tenant.into_iter().collect();
    tenants.sort_unstable_by_key(|(tenant, load)| (u64::MAX - load.requests, *tenant));
    tenants.truncate(most);
    // Those from the last number on share its place.
    let shared = room.plan.max_tenants - 1;
    let tenants = tenants.into_iter().map(|(tenant, load)| {
        let told_apart = tenant < shared || names.has_it_alone(shared);
        (names.get(tenant).filter(|_| told_apart), load)
    });
    let request = |Position { waits, rule, tenant, outlook }| QueuedReading {
        ticket: waits.ticket,
        rule,
        band: band(waits.band),
        tenant: names.get(tenant),
        waited: waits.waited,
        outlook,
    };
    QueueReading {
        backends: room.backends.clone(),
        former,
        load,
        bands,
        tenants: tenants.collect(),
        requests: positions.into_iter().map(request).collect(),
    }
}

/// Names of tenants by their number.
struct TenantNames {
    names: HashMap<u32, String>,
    count: usize,
    room: usize,
}

impl TenantNames {
    fn of(compiled: &Compiled) -> Self {
        let mut names = HashMap::new();
        compiled.tenants.for_each(|name, slot| {
            names.extend(u32::try_from(slot).ok().map(|slot| (slot, name.to_owned())));
        });
        Self { names, count: compiled.tenants.len(), room: compiled.tenants.capacity() }
    }

    /// Whether nobody has come yet who would share the last number of a queue with the tenant that has it.
    fn has_it_alone(&self, last: u32) -> bool {
        self.count <= last as usize + 1 && self.count < self.room
    }

    fn get(&self, tenant: u32) -> Option<String> {
        self.names.get(&tenant).cloned()
    }
}
