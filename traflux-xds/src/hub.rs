//! Where do plans, streams and observers meet?
//!
//! One lock, held for the time of a lookup, never across an await and never while encoding.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, watch};
use traflux_core::{InForce, NodeGroup, PlanVersion, Timestamp};

use crate::group::{Group, Progress, Publication};
use crate::node::{NodeIdentity, NodeMatcher};
use crate::resource::{ResourceKind, ResourceVersion, Snapshot};
use crate::status::{
    EventLog, GroupStatus, KindStatus, Latencies, NodeStatus, Refusal, XdsCounters, XdsEvent, XdsEventKind,
    XdsStatus, cut,
};
use crate::stream::{Protocol, XdsStream};

/// Observers that fall this far behind miss events.
const EVENT_BACKLOG: usize = 256;

/// A clock that never goes back: the wall clock at the start, and from there a monotonic one.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Timestamp,
    instant: Instant,
}

impl Clock {
    fn new() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { start: Timestamp::new(start), instant: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.start + self.instant.elapsed()
    }
}

#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) clock: Clock,
    matcher: NodeMatcher,
    state: Mutex<State>,
    events: broadcast::Sender<XdsEvent>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<NodeGroup, Group>,
    members: BTreeMap<u64, Member>,
    joined: u64,
    applied: Option<PlanVersion>,
    log: EventLog,
    latencies: Latencies,
    counters: XdsCounters,
}

#[derive(Debug)]
struct Member {
    node: NodeIdentity,
    group: NodeGroup,
    peer: String,
    protocol: Protocol,
    since: Timestamp,
    progress: Progress,
    in_sync: bool,
    kinds: BTreeMap<ResourceKind, KindStatus>,
    coalesced: u64,
}

/// Why a stream was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rejection {
    UnknownNode,
    Unauthorized,
    TooMany,
}

/// What happened when a plan was applied.
#[derive(Debug)]
pub(crate) struct Applied {
    pub changed: bool,
    /// A group that refused part of this plan, with the words of a node.
    pub refused: Option<(NodeGroup, String)>,
}

/// A stream's place in its group; leaving the group is dropping it.
#[derive(Debug)]
pub(crate) struct Membership {
    hub: Arc<Hub>,
    id: u64,
    pub(crate) node: String,
    pub(crate) updates: watch::Receiver<Option<Publication>>,
    pub(crate) reason: String,
}

impl Hub {
    pub(crate) fn new(matcher: NodeMatcher) -> Self {
        Self {
            clock: Clock::new(),
            matcher,
            state: Mutex::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
        }
    }

    /// A panic elsewhere leaves the maps whole: each change is finished before anything that could panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<XdsEvent> {
        self.events.subscribe()
    }

    pub(crate) fn events(&self) -> Vec<XdsEvent> {
        self.state().log.to_vec()
    }

    pub(crate) fn count(&self, what: impl FnOnce(&mut XdsCounters)) {
        what(&mut self.state().counters);
    }

    fn tell(&self, state: &mut State, what: XdsEventKind) {
        let event = XdsEvent { at: self.clock.now(), what };
        state.log.push(event.clone());
        // Nobody listening is not a failure.
        let _ = self.events.send(event);
    }

    /// Leads groups to new snapshots. Groups that the plan does not address keep what they have: losing a
    /// row must not take a data plane's configuration away.
    pub(crate) fn apply(&self, plan: &PlanVersion, snapshots: BTreeMap<NodeGroup, Snapshot>) -> Applied {
        let mut state = self.state();
        let changed = state.applied.as_ref() != Some(plan);
        state.applied = Some(plan.clone());
        let mut refused = None;
        for (name, snapshot) in snapshots {
            let group = state.groups.entry(name.clone()).or_insert_with(Group::new);
            let moved = group.aim(snapshot);
            if let Some(reason) = group.refusal() {
                refused.get_or_insert_with(|| (name.clone(), reason.to_owned()));
            }
            if moved {
                tracing::debug!(group = %name, %plan, "published");
                self.tell(&mut state, XdsEventKind::Published { group: name, plan: plan.clone() });
            }
        }
        Applied { changed, refused }
    }

    pub(crate) fn in_force(&self, group: &NodeGroup) -> Option<InForce> {
        self.state().groups.get(group)?.in_force().cloned()
    }

    pub(crate) fn is_connected(&self, group: &NodeGroup) -> bool {
        self.state().members.values().any(|member| member.group == *group)
    }

    pub(crate) fn reject(&self, node: &str, reason: &str, rejection: Rejection) {
        tracing::warn!(node, reason, "stream rejected");
        let mut state = self.state();
        let counter = match rejection {
            Rejection::UnknownNode => &mut state.counters.unknown_nodes,
            Rejection::Unauthorized => &mut state.counters.unauthorized_nodes,
            Rejection::TooMany => &mut state.counters.excess_streams,
        };
        *counter += 1;
        self.tell(&mut state, XdsEventKind::Rejected { node: node.to_owned(), reason: reason.to_owned() });
    }

    /// Finds the group of a node and joins it; `None` when the node belongs to none.
    pub(crate) fn join(
        self: &Arc<Self>,
        node: NodeIdentity,
        peer: String,
        protocol: Protocol,
    ) -> Option<Membership> {
        let group = self.matcher.group_of(&node)?;
        let mut state = self.state();
        state.counters.streams += 1;
        state.joined += 1;
        let id = state.joined;
        let mut updates = state.groups.entry(group.clone()).or_insert_with(Group::new).subscribe();
        // What is there already is news to this stream.
        updates.mark_changed();
        tracing::info!(node = %node.id, %group, %peer, ?protocol, "node connected");
        self.tell(&mut state, XdsEventKind::Connected { node: node.id.clone(), group: group.clone() });
        let name = node.id.clone();
        state.members.insert(
            id,
            Member {
                node,
                group: group.clone(),
                peer,
                protocol,
                since: self.clock.now(),
                progress: Progress::default(),
                in_sync: false,
                kinds: BTreeMap::new(),
                coalesced: 0,
            },
        );
        self.review(&mut state, &group);
        drop(state);
        Some(Membership {
            hub: Arc::clone(self),
            id,
            node: name,
            updates,
            reason: "closed by the node".into(),
        })
    }

    fn review(&self, state: &mut State, name: &NodeGroup) {
        let State { groups, members, .. } = state;
        let Some(group) = groups.get_mut(name) else { return };
        let of_group = members.values().filter(|m| m.group == *name).map(|m| &m.progress);
        if group.review(of_group, self.clock.now()) {
            let plan = group.in_force().map(|f| f.version.clone());
            if let Some(plan) = plan {
                tracing::debug!(group = %name, %plan, "in force");
                self.tell(state, XdsEventKind::InForce { group: name.clone(), plan });
            }
        }
    }

    pub(crate) fn status(&self) -> XdsStatus {
        let state = self.state();
        let groups = state.groups.iter().map(|(name, group)| GroupStatus {
            group: name.clone(),
            target: group.target().cloned(),
            in_force: group.in_force().cloned(),
            nodes: state.members.values().filter(|m| m.group == *name).count(),
            rolled_back: group.is_rolled_back(),
            parked: group.parked(),
        });
        let nodes = state.members.values().map(|member| NodeStatus {
            id: member.node.id.clone(),
            cluster: member.node.cluster.clone(),
            zone: member.node.zone.clone(),
            group: member.group.clone(),
            peer: member.peer.clone(),
            protocol: member.protocol,
            connected_since: member.since,
            in_sync: member.in_sync,
            plan: member.progress.plan.as_ref().map(|(_, plan)| plan.clone()),
            kinds: member.kinds.clone(),
            coalesced: member.coalesced,
        });
        let mut counters = state.counters.clone();
        counters.coalesced += state.members.values().map(|m| m.coalesced).sum::<u64>();
        XdsStatus {
            groups: groups.collect(),
            nodes: nodes.collect(),
            counters,
            push_to_ack: state.latencies.summary(),
        }
    }
}

impl Membership {
    /// Takes in where the stream stands, after each message and each new publication.
    pub(crate) fn report(&self, stream: &XdsStream, publication: Option<&Publication>) {
        let in_sync = stream.is_in_sync();
        let mut state = self.hub.state();
        let Some(member) = state.members.get_mut(&self.id) else { return };
        for kind in ResourceKind::ALL {
            if stream.wants(kind) {
                let known = member.kinds.entry(kind).or_default();
                known.sent = stream.sent_version(kind).cloned();
                known.acked = stream.acked_version(kind).cloned();
            }
        }
        member.coalesced = stream.coalesced();
        let subscribed = stream.is_subscribed();
        let holds = match publication {
            Some(publication) if in_sync => publication.number,
            _ => member.progress.holds,
        };
        let plan = match publication {
            Some(Publication { number, plan: Some(plan), .. }) if in_sync => Some((*number, plan.clone())),
            _ => member.progress.plan.clone(),
        };
        let news = member.progress.subscribed != subscribed || member.progress.holds != holds;
        member.progress = Progress { subscribed, holds, plan };
        member.in_sync = in_sync;
        if news {
            let group = member.group.clone();
            self.hub.review(&mut state, &group);
        }
    }

    pub(crate) fn responded(&self, kind: ResourceKind) {
        *self.hub.state().counters.responses.entry(kind).or_default() += 1;
    }

    pub(crate) fn acknowledged(&self, kind: ResourceKind, sent_at: Timestamp) {
        let latency = self.hub.clock.now().since(sent_at);
        let mut state = self.hub.state();
        *state.counters.acks.entry(kind).or_default() += 1;
        state.latencies.push(latency);
    }

    pub(crate) fn refused(
        &self,
        kind: ResourceKind,
        version: ResourceVersion,
        reason: &str,
        suspects: &[(String, ResourceVersion)],
    ) {
        let reason = cut(reason);
        let at = self.hub.clock.now();
        let mut state = self.hub.state();
        *state.counters.nacks.entry(kind).or_default() += 1;
        let Some(member) = state.members.get_mut(&self.id) else { return };
        let group = member.group.clone();
        let refusal = Refusal { version: version.clone(), at, reason: reason.clone() };
        member.kinds.entry(kind).or_default().refused = Some(refusal);
        tracing::warn!(node = %self.node, %group, kind = kind.short(), %version, %reason, "refused");
        let event = XdsEventKind::Refused {
            node: self.node.clone(),
            group: group.clone(),
            kind,
            version,
            reason: reason.clone(),
        };
        self.hub.tell(&mut state, event);
        let Some(owner) = state.groups.get_mut(&group) else { return };
        if owner.refuse(kind, suspects, &reason) {
            let plan = owner.target().cloned();
            state.counters.rollbacks += 1;
            if let Some(plan) = plan {
                tracing::warn!(%group, %plan, "back to the last known good");
                self.hub.tell(&mut state, XdsEventKind::RolledBack { group, plan });
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        let Some(member) = state.members.remove(&self.id) else { return };
        state.counters.coalesced += member.coalesced;
        tracing::info!(node = %member.node.id, group = %member.group, reason = %self.reason, "node disconnected");
        let event = XdsEventKind::Disconnected {
            node: member.node.id,
            group: member.group.clone(),
            reason: std::mem::take(&mut self.reason),
        };
        self.hub.tell(&mut state, event);
        self.hub.review(&mut state, &member.group);
    }
}
