//! What has each client been told, and what did it say?

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;
use traflux_core::{InForce, NodeGroup, PlanVersion, Timestamp};

use crate::resource::{ResourceKind, ResourceVersion};
use crate::stream::Protocol;

/// The longest refusal text that is kept: Envoy's words contain the whole resource.
pub const REASON_LIMIT: usize = 512;

/// How many acknowledgements the latency figures look back on.
const LATENCIES: usize = 1024;

/// How many events are kept.
const EVENTS: usize = 512;

/// Everything there is to know of the discovery server.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct XdsStatus {
    /// By group.
    pub groups: Vec<GroupStatus>,
    /// By stream.
    pub nodes: Vec<NodeStatus>,
    /// Counters since the start.
    pub counters: XdsCounters,
    /// From making a response to its acknowledgement.
    pub push_to_ack: LatencySummary,
}

/// The state of one node group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupStatus {
    /// The group.
    pub group: NodeGroup,
    /// The plan that was applied last.
    pub target: Option<PlanVersion>,
    /// What every connected node acknowledged last.
    pub in_force: Option<InForce>,
    /// Nodes connected.
    pub nodes: usize,
    /// Whether refused content has been replaced by the last known good.
    pub rolled_back: bool,
    /// Refused content, with the last words of a node about it.
    pub parked: Vec<ParkedResource>,
}

/// One refused version of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedResource {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name.
    pub name: String,
    /// The version refused.
    pub version: ResourceVersion,
    /// Why, cut to [`REASON_LIMIT`] characters.
    pub reason: String,
}

/// The state of one stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.zone`.
    pub zone: String,
    /// Its group.
    pub group: NodeGroup,
    /// Remote address.
    pub peer: String,
    /// Variant of the protocol.
    pub protocol: Protocol,
    /// Since when.
    pub connected_since: Timestamp,
    /// Whether it acknowledged all it wants of what its group was sent last.
    pub in_sync: bool,
    /// The plan it acknowledged last as a whole.
    pub plan: Option<PlanVersion>,
    /// By kind.
    pub kinds: BTreeMap<ResourceKind, KindStatus>,
    /// Content that was replaced before it was sent.
    pub coalesced: u64,
}

/// What one stream knows of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct KindStatus {
    /// Version sent last.
    pub sent: Option<ResourceVersion>,
    /// Version acknowledged last.
    pub acked: Option<ResourceVersion>,
    /// What was refused last.
    pub refused: Option<Refusal>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The version refused.
    pub version: ResourceVersion,
    /// When.
    pub at: Timestamp,
    /// The client's words, cut to [`REASON_LIMIT`] characters.
    pub reason: String,
}

/// Counters since the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct XdsCounters {
    /// Streams that were accepted.
    pub streams: u64,
    /// Streams refused because their node belongs to no group.
    pub unknown_nodes: u64,
    /// Streams refused because the certificate does not bear the node's id.
    pub unauthorized_nodes: u64,
    /// Streams refused because there were too many.
    pub excess_streams: u64,
    /// Streams ended because a response was not answered in time.
    pub slow_streams: u64,
    /// Requests for kinds that are not served.
    pub unknown_kinds: u64,
    /// Requests with a stale nonce.
    pub stale_requests: u64,
    /// Responses, by kind.
    pub responses: BTreeMap<ResourceKind, u64>,
    /// Acknowledgements, by kind.
    pub acks: BTreeMap<ResourceKind, u64>,
    /// Refusals, by kind.
    pub nacks: BTreeMap<ResourceKind, u64>,
    /// Content that was replaced by newer before it was sent.
    pub coalesced: u64,
    /// Times refused content was replaced by the last known good.
    pub rollbacks: u64,
}

/// Percentiles over the latest acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LatencySummary {
    /// How many they cover.
    pub count: usize,
    /// Median, in microseconds.
    pub p50_micros: u64,
    /// 95th percentile, in microseconds.
    pub p95_micros: u64,
    /// Maximum, in microseconds.
    pub max_micros: u64,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct XdsEvent {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: XdsEventKind,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum XdsEventKind {
    /// A node opened a stream.
    Connected {
        /// `node.id`.
        node: String,
        /// Its group.
        group: NodeGroup,
    },
    /// A node's stream ended.
    Disconnected {
        /// `node.id`.
        node: String,
        /// Its group.
        group: NodeGroup,
        /// Why.
        reason: String,
    },
    /// A stream was not accepted.
    Rejected {
        /// `node.id`.
        node: String,
        /// Why.
        reason: String,
    },
    /// A group is being led to a plan.
    Published {
        /// The group.
        group: NodeGroup,
        /// The plan.
        plan: PlanVersion,
    },
    /// Every connected node of a group acknowledged a plan.
    InForce {
        /// The group.
        group: NodeGroup,
        /// The plan.
        plan: PlanVersion,
    },
    /// A node refused a response.
    Refused {
        /// `node.id`.
        node: String,
        /// Its group.
        group: NodeGroup,
        /// Kind of the response.
        kind: ResourceKind,
        /// Its version.
        version: ResourceVersion,
        /// The node's words, cut to [`REASON_LIMIT`] characters.
        reason: String,
    },
    /// Refused content of a group was replaced by the last known good.
    RolledBack {
        /// The group.
        group: NodeGroup,
        /// The plan that is not wholly in force.
        plan: PlanVersion,
    },
}

/// The latest events, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventLog(VecDeque<XdsEvent>);

impl EventLog {
    pub(crate) fn push(&mut self, event: XdsEvent) {
        if self.0.len() == EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub(crate) fn to_vec(&self) -> Vec<XdsEvent> {
        self.0.iter().cloned().collect()
    }
}

/// The latest acknowledgement latencies.
#[derive(Debug, Default)]
pub(crate) struct Latencies(VecDeque<Duration>);

impl Latencies {
    pub(crate) fn push(&mut self, latency: Duration) {
        if self.0.len() == LATENCIES {
            self.0.pop_front();
        }
        self.0.push_back(latency);
    }

    /// Percentiles by the nearest-rank method.
    pub(crate) fn summary(&self) -> LatencySummary {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let ix = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(ix).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
        };
        LatencySummary {
            count: sorted.len(),
            p50_micros: rank(50),
            p95_micros: rank(95),
            max_micros: rank(100),
        }
    }
}

/// Cuts a text to [`REASON_LIMIT`] characters.
pub(crate) fn cut(reason: &str) -> String {
    reason.trim().chars().take(REASON_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks_over_the_latest_acknowledgements() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), LatencySummary::default());
        for micros in 1..=2000 {
            latencies.push(Duration::from_micros(micros));
        }
        // The latest 1024 are 977..=2000: rank 512 is 1488, rank 973 is 1949.
        let expected = LatencySummary { count: 1024, p50_micros: 1488, p95_micros: 1949, max_micros: 2000 };
        assert_eq!(latencies.summary(), expected);
    }

    #[test]
    fn a_refusal_text_is_cut_at_a_character() {
        assert_eq!(cut(&"é".repeat(2000)).chars().count(), REASON_LIMIT);
        assert_eq!(cut("short"), "short");
    }
}
