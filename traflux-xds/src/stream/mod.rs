//! What is the next message to one client?
//!
//! [`XdsStream`] is the protocol without the network: requests and snapshots go in, responses come out. It
//! serves both variants of the aggregated protocol, because they differ only in how names are asked for and
//! in whether a response lists everything or what changed. The rules, with their reasons:
//!
//! - **ACK or NACK is told by `error_detail` alone.** Comparing versions mistakes a request that changes a
//!   subscription for a refusal.
//! - **A stale nonce is ignored**: it answers a response that a newer one has replaced.
//! - **One response per kind is in flight.** The newest snapshot waits in one slot; those in between are
//!   never sent.
//! - **A refused version is parked**: it is not sent again until the content changes, or a client that
//!   cannot take it would be told for ever.
//! - **After a refusal, what the client holds is unknown**, since proxies apply the good part of a refused
//!   response. So the content that was refused counts as told, and going back to older content sends it.
//! - **The first request of a kind is answered even when its version equals ours**: after a reconnect the
//!   client waits for an answer. A name that is newly wanted is answered too.
//! - **Endpoints are answered again after their cluster changed**, even when they did not, and before the
//!   cluster is acknowledged: an Envoy warms the new cluster, waits for its endpoints, and only then
//!   acknowledges it.
//! - **Additions go clusters, endpoints, listeners, routes; removals the other way round**: listeners and
//!   routes wait for what they refer to (for at most [`StreamLimits::ordering_grace`]), and clusters,
//!   endpoints and routes that a new snapshot lacks stay until no listener refers to them.
//! - **A name that we do not have is not refused**: the rest is answered, and the name when it comes.

mod kind_state;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use traflux_core::Timestamp;

use crate::resource::{Resource, ResourceKind, ResourceVersion, Snapshot};

use kind_state::{InFlight, KindState};

/// The two variants of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// A response lists all resources that are subscribed to.
    StateOfTheWorld,
    /// A response lists what changed and what is gone.
    Delta,
}

/// How a request speaks of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// The full list.
    All(Vec<String>),
    /// What changes in the list.
    Change {
        /// Newly wanted, or wanted again.
        subscribe: Vec<String>,
        /// No longer wanted.
        unsubscribe: Vec<String>,
        /// What the client holds from an earlier stream; counts in the first request of a kind only.
        held: BTreeMap<String, ResourceVersion>,
    },
}

/// One request, of either variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The kind of resource.
    pub kind: ResourceKind,
    /// The response it answers; empty when it answers none.
    pub nonce: String,
    /// The words of a refusal.
    pub error: Option<String>,
    /// The names.
    pub names: Names,
}

/// What a request meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It answers a response that is no longer the last: ignored.
    Stale,
    /// It changes or repeats what is wanted.
    Subscribed,
    /// It acknowledges the response that was in flight.
    Acknowledged {
        /// Version of that response.
        version: ResourceVersion,
        /// When the response was made.
        sent_at: Timestamp,
    },
    /// It refuses the response that was in flight.
    Refused {
        /// Version of that response.
        version: ResourceVersion,
        /// When the response was made.
        sent_at: Timestamp,
        /// The client's words.
        reason: String,
        /// The resources in it that the client had not acknowledged before.
        suspects: Vec<(String, ResourceVersion)>,
    },
}

/// One response, of either variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The kind of resource.
    pub kind: ResourceKind,
    /// Names this response on this stream.
    pub nonce: String,
    /// Hash of everything that the client holds when it takes this.
    pub version: ResourceVersion,
    /// The resources: all that are wanted, or those that changed.
    pub resources: Vec<(String, Resource)>,
    /// Names that are gone; incremental only.
    pub removed: Vec<String>,
}

/// How long a stream may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// Listeners and routes wait at most this long for the clusters and endpoints they refer to.
    pub ordering_grace: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self { ordering_grace: Duration::from_secs(2) }
    }
}

/// The protocol with one client, without the network.
#[derive(Debug)]
pub struct XdsStream {
    protocol: Protocol,
    limits: StreamLimits,
    responses: u64,
    snapshot: Option<Arc<Snapshot>>,
    kinds: [KindState; 4],
    /// What the snapshot lacks but the client still needs until its listeners have moved on.
    retained: [BTreeMap<String, Resource>; 4],
    gated_since: Option<Timestamp>,
    coalesced: u64,
}

impl XdsStream {
    /// Starts a stream that has no snapshot yet.
    #[must_use]
    pub fn new(protocol: Protocol, limits: StreamLimits) -> Self {
        Self {
            protocol,
            limits,
            responses: 0,
            snapshot: None,
            kinds: Default::default(),
            retained: Default::default(),
            gated_since: None,
            coalesced: 0,
        }
    }

    /// The variant it speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The snapshot that the client is led to.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Arc<Snapshot>> {
        self.snapshot.as_ref()
    }

    /// How many times newer content replaced content of a kind that had not been sent yet.
    #[must_use]
    pub fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// Takes the newest snapshot; what was not sent of older ones never will be.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        for kind in ResourceKind::ALL {
            let state = &mut self.kinds[kind.ix()];
            if std::mem::take(&mut state.waiting) {
                self.coalesced += 1;
            }
        }
        if let Some(old) = self.snapshot.take() {
            for kind in [ResourceKind::Cluster, ResourceKind::Endpoint, ResourceKind::Route] {
                let new = snapshot.set(kind).resources();
                let retained = &mut self.retained[kind.ix()];
                if self.kinds[ResourceKind::Listener.ix()].wants_something() {
                    for (name, resource) in old.set(kind).resources() {
                        retained.insert(name.clone(), resource.clone());
                    }
                }
                retained.retain(|name, _| !new.contains_key(name));
            }
        }
        self.snapshot = Some(snapshot);
        for kind in ResourceKind::ALL {
            let waits = self.kinds[kind.ix()].subscription.is_some() && self.differs(kind);
            self.kinds[kind.ix()].waiting = waits;
        }
        self.release_retained();
    }

    /// Takes one request.
    pub fn on_request(&mut self, request: Request) -> Outcome {
        let Request { kind, nonce, error, names } = request;
        let state = &mut self.kinds[kind.ix()];
        let answers_last = !nonce.is_empty() && state.last_nonce.as_deref() == Some(&nonce);
        let is_stale = !nonce.is_empty() && !answers_last;
        // An incremental request may carry a change of names beside any nonce; a full list beside a stale
        // nonce is older than the one that will answer the response in flight.
        if is_stale && matches!(names, Names::All(_)) {
            return Outcome::Stale;
        }
        self.subscribe(kind, names, nonce.is_empty());
        if is_stale {
            return Outcome::Stale;
        }
        let outcome = if answers_last { self.conclude(kind, error) } else { Outcome::Subscribed };
        self.release_retained();
        outcome
    }

    /// The next response, if one may be sent now. Call it until it gives `None`, after every request, every
    /// snapshot, and when [`deadline`](Self::deadline) passes.
    pub fn next_response(&mut self, now: Timestamp) -> Option<Response> {
        let mut gated = false;
        for kind in ResourceKind::ALL {
            let state = &self.kinds[kind.ix()];
            if state.in_flight.is_some() || state.subscription.is_none() {
                continue;
            }
            let Some((version, resources, removed)) = self.pending(kind) else { continue };
            if matches!(kind, ResourceKind::Listener | ResourceKind::Route) && self.must_wait(now) {
                gated = true;
                continue;
            }
            return Some(self.send(kind, version, resources, removed, now));
        }
        if gated {
            self.gated_since.get_or_insert(now);
        } else {
            self.gated_since = None;
        }
        None
    }

    /// When to call [`next_response`](Self::next_response) again although nothing happened.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.gated_since.map(|since| since + self.limits.ordering_grace)
    }

    /// When the oldest response without ACK or NACK was made.
    #[must_use]
    pub fn oldest_in_flight(&self) -> Option<Timestamp> {
        self.kinds.iter().filter_map(|state| state.in_flight.as_ref().map(|f| f.at)).min()
    }

    /// Whether the client has asked for anything yet.
    #[must_use]
    pub fn is_subscribed(&self) -> bool {
        self.kinds.iter().any(KindState::wants_something)
    }

    /// Whether the client acknowledged all of the snapshot that it wants.
    ///
    /// Our listeners refer to routes, routes to clusters and clusters to endpoints; a client that took the
    /// former and has not yet asked for the latter is still on its way.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        let holds = |kind: ResourceKind| !self.kinds[kind.ix()].acked.is_empty();
        let wants = |kind: ResourceKind| self.kinds[kind.ix()].wants_something();
        self.snapshot.is_some()
            && self.is_subscribed()
            && self.retained.iter().all(BTreeMap::is_empty)
            && ResourceKind::ALL.into_iter().all(|kind| self.is_kind_in_sync(kind))
            && (!holds(ResourceKind::Listener) || wants(ResourceKind::Route))
            && (!holds(ResourceKind::Route) || wants(ResourceKind::Cluster))
            && self.endpoints_not_asked_for().next().is_none()
    }

    /// Version of the last response of a kind.
    #[must_use]
    pub fn sent_version(&self, kind: ResourceKind) -> Option<&ResourceVersion> {
        self.kinds[kind.ix()].sent_version.as_ref()
    }

    /// Version of the last response of a kind that was acknowledged.
    #[must_use]
    pub fn acked_version(&self, kind: ResourceKind) -> Option<&ResourceVersion> {
        self.kinds[kind.ix()].acked_version.as_ref()
    }

    /// Whether the client has asked for resources of a kind.
    #[must_use]
    pub fn wants(&self, kind: ResourceKind) -> bool {
        self.kinds[kind.ix()].wants_something()
    }

    fn subscribe(&mut self, kind: ResourceKind, names: Names, unprompted: bool) {
        let state = &mut self.kinds[kind.ix()];
        let first = state.subscription.is_none();
        let subscription = state.subscription.get_or_insert_default();
        match names {
            Names::All(list) => {
                let wants_more = subscription.replace(list, kind.is_full_state());
                // A request without nonce while nothing is in flight starts the kind anew: a client that
                // dropped all its watches and asks again expects an answer.
                let restarts = unprompted && state.in_flight.is_none();
                state.must_answer |= first || wants_more || restarts;
            }
            Names::Change { subscribe, unsubscribe, held } => {
                subscription.change(&subscribe, &unsubscribe, first, kind.is_full_state());
                if first {
                    // The client holds these from an earlier stream: only the difference is sent.
                    state.forced.extend(subscribe.iter().filter(|n| !held.contains_key(*n)).cloned());
                    state.acked.clone_from(&held);
                    state.sent = held;
                    state.must_answer = true;
                } else {
                    state.forced.extend(subscribe);
                }
                state.forced.remove("*");
            }
        }
        state.forget_unwanted();
        if state.subscription.as_ref().is_some_and(subscription::Subscription::is_empty) {
            state.must_answer = false;
        }
    }

    fn conclude(&mut self, kind: ResourceKind, error: Option<String>) -> Outcome {
        let state = &mut self.kinds[kind.ix()];
        let Some(flight) = state.in_flight.take() else {
            // The nonce of a response already concluded: only the names could be new.
            return Outcome::Subscribed;
        };
        match error {
            None => {
                if self.protocol == Protocol::StateOfTheWorld {
                    state.acked.clear();
                }
                for (name, version) in &flight.content {
                    match version {
                        Some(version) if state.covers(name) => {
                            state.acked.insert(name.clone(), version.clone());
                        }
                        _ => {
                            state.acked.remove(name);
                        }
                    }
                }
                state.acked_version = Some(flight.version.clone());
                Outcome::Acknowledged { version: flight.version, sent_at: flight.at }
            }
            Some(reason) => {
                let suspects: Vec<_> = flight
                    .content
                    .iter()
                    .filter_map(|(name, version)| Some((name.clone(), version.clone()?)))
                    .filter(|(name, version)| state.acked.get(name) != Some(version))
                    .collect();
                match self.protocol {
                    Protocol::StateOfTheWorld => state.park("", &flight.version),
                    Protocol::Delta => suspects.iter().for_each(|(name, version)| state.park(name, version)),
                }
                Outcome::Refused { version: flight.version, sent_at: flight.at, reason, suspects }
            }
        }
    }

    fn send(
        &mut self,
        kind: ResourceKind,
        version: ResourceVersion,
        resources: Vec<(String, Resource)>,
        removed: Vec<String>,
        now: Timestamp,
    ) -> Response {
        self.responses += 1;
        let nonce = self.responses.to_string();
        if kind == ResourceKind::Cluster {
            self.rewarm(&resources);
        }
        let content: BTreeMap<String, Option<ResourceVersion>> = resources
            .iter()
            .map(|(name, r)| (name.clone(), Some(r.version().clone())))
            .chain(removed.iter().map(|name| (name.clone(), None)))
            .collect();
        let state = &mut self.kinds[kind.ix()];
        if self.protocol == Protocol::StateOfTheWorld {
            state.sent.clear();
        }
        for (name, version) in &content {
            match version {
                Some(version) => state.sent.insert(name.clone(), version.clone()),
                None => state.sent.remove(name),
            };
        }
        state.must_answer = false;
        state.waiting = false;
        state.forced.clear();
        state.last_nonce = Some(nonce.clone());
        state.sent_version = Some(version.clone());
        state.in_flight = Some(InFlight { version: version.clone(), at: now, content });
        Response { kind, nonce, version, resources, removed }
    }

    /// Has the endpoints of changed clusters answered again, right after the clusters: an Envoy acknowledges
    /// clusters only when they are warm, so waiting for that would be waiting for ever.
    fn rewarm(&mut self, clusters: &[(String, Resource)]) {
        let known = &self.kinds[ResourceKind::Cluster.ix()].sent;
        let changed = clusters.iter().filter(|(name, r)| known.get(name) != Some(r.version()));
        let changed: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
        let endpoints = &mut self.kinds[ResourceKind::Endpoint.ix()];
        let again: Vec<String> = changed.into_iter().filter(|name| endpoints.covers(name)).collect();
        match self.protocol {
            Protocol::StateOfTheWorld => endpoints.must_answer |= !again.is_empty(),
            Protocol::Delta => endpoints.forced.extend(again),
        }
    }

    /// What the client wants and there is.
    fn selection(&self, kind: ResourceKind) -> BTreeMap<&String, &Resource> {
        let (Some(snapshot), Some(subscription)) = (&self.snapshot, &self.kinds[kind.ix()].subscription)
        else {
            return BTreeMap::new();
        };
        let sets = [snapshot.set(kind).resources(), &self.retained[kind.ix()]];
        if subscription.is_wildcard() {
            let wanted = |(name, r): &(&String, &Resource)| {
                !r.is_on_request_only() || subscription.names().contains(*name)
            };
            return sets.into_iter().flatten().filter(wanted).collect();
        }
        let find = |name: &String| sets.iter().find_map(|set| set.get_key_value(name));
        subscription.names().iter().filter_map(find).collect()
    }

    /// Whether the client was told something else than what it should hold.
    fn differs(&self, kind: ResourceKind) -> bool {
        let state = &self.kinds[kind.ix()];
        self.disagrees(kind, &state.sent)
    }

    fn disagrees(&self, kind: ResourceKind, known: &BTreeMap<String, ResourceVersion>) -> bool {
        let selection = self.selection(kind);
        // A response of endpoints or routes cannot say that one is gone, except an incremental one.
        let tells_removal = kind.is_full_state() || self.protocol == Protocol::Delta;
        selection.iter().any(|(name, r)| known.get(*name) != Some(r.version()))
            || (tells_removal && known.keys().any(|name| !selection.contains_key(name)))
    }

    #[allow(clippy::type_complexity, reason = "the three parts of a response")]
    fn pending(&self, kind: ResourceKind) -> Option<(ResourceVersion, Vec<(String, Resource)>, Vec<String>)> {
        self.snapshot.as_ref()?;
        let state = &self.kinds[kind.ix()];
        let selection = self.selection(kind);
        let version = ResourceVersion::of_selection(selection.iter().map(|(name, r)| (*name, r.version())));
        match self.protocol {
            Protocol::StateOfTheWorld => {
                if !(state.must_answer || self.differs(kind))
                    || (selection.is_empty() && !kind.is_full_state())
                    || state.is_parked("", &version)
                {
                    return None;
                }
                let all = selection.into_iter().map(|(name, r)| (name.clone(), r.clone())).collect();
                Some((version, all, Vec::new()))
            }
            Protocol::Delta => {
                let changed: Vec<(String, Resource)> = selection
                    .iter()
                    .filter(|(name, r)| {
                        (state.sent.get(**name) != Some(r.version()) || state.forced.contains(**name))
                            && !state.is_parked(name, r.version())
                    })
                    .map(|(name, r)| ((*name).clone(), (*r).clone()))
                    .collect();
                let gone: BTreeSet<&String> = state
                    .sent
                    .keys()
                    .chain(&state.forced)
                    .filter(|name| !selection.contains_key(name))
                    .collect();
                if changed.is_empty() && gone.is_empty() && !state.must_answer {
                    return None;
                }
                Some((version, changed, gone.into_iter().cloned().collect()))
            }
        }
    }

    fn is_kind_in_sync(&self, kind: ResourceKind) -> bool {
        let state = &self.kinds[kind.ix()];
        if !state.wants_something() {
            return true;
        }
        state.in_flight.is_none()
            && !self.disagrees(kind, &state.acked)
            // A refused response may have been applied in part.
            && state.sent.iter().all(|(name, version)| state.acked.get(name) == Some(version))
            && ((!state.must_answer && state.forced.is_empty()) || self.pending(kind).is_none())
    }

    /// Clusters that the client took without asking for their endpoints yet.
    fn endpoints_not_asked_for(&self) -> impl Iterator<Item = &String> {
        let endpoints = &self.kinds[ResourceKind::Endpoint.ix()];
        let held = self.kinds[ResourceKind::Cluster.ix()].acked.keys();
        held.filter(move |name| {
            !endpoints.covers(name)
                && self.snapshot.as_ref().is_some_and(|s| s.set(ResourceKind::Endpoint).get(name).is_some())
        })
    }

    /// Whether listeners and routes must wait for the clusters and endpoints that they refer to.
    fn must_wait(&self, now: Timestamp) -> bool {
        if self.gated_since.is_some_and(|since| now.since(since) >= self.limits.ordering_grace) {
            return false;
        }
        let busy = |kind: ResourceKind| {
            let state = &self.kinds[kind.ix()];
            state.subscription.is_some() && (state.in_flight.is_some() || self.pending(kind).is_some())
        };
        busy(ResourceKind::Cluster)
            || busy(ResourceKind::Endpoint)
            || (self.kinds[ResourceKind::Endpoint.ix()].subscription.is_some()
                && self.endpoints_not_asked_for().next().is_some())
    }

    /// Lets go of what was kept for listeners and routes that have moved on.
    fn release_retained(&mut self) {
        if self.retained.iter().all(BTreeMap::is_empty) {
            return;
        }
        if self.is_kind_in_sync(ResourceKind::Listener) {
            self.retained[ResourceKind::Route.ix()].clear();
            if self.is_kind_in_sync(ResourceKind::Route) {
                self.retained[ResourceKind::Cluster.ix()].clear();
                self.retained[ResourceKind::Endpoint.ix()].clear();
            }
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
