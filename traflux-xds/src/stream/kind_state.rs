//! What does one client know of one kind of resource?

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use traflux_core::Timestamp;

use crate::resource::ResourceVersion;

use super::subscription::Subscription;

/// How many refused versions are remembered; a client that refuses more than these in a row is told of the
/// oldest again only when the content goes back to it.
const PARKED: usize = 256;

/// A response that waits for its ACK or NACK.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub version: ResourceVersion,
    pub at: Timestamp,
    /// Names sent with their versions, or `None` for a removal.
    pub content: BTreeMap<String, Option<ResourceVersion>>,
}

/// Everything a stream remembers of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct KindState {
    /// `None` until the first request.
    pub subscription: Option<Subscription>,
    pub in_flight: Option<InFlight>,
    pub last_nonce: Option<String>,
    /// What the client was told last, refused or not.
    pub sent: BTreeMap<String, ResourceVersion>,
    /// What it acknowledged.
    pub acked: BTreeMap<String, ResourceVersion>,
    pub acked_version: Option<ResourceVersion>,
    pub sent_version: Option<ResourceVersion>,
    /// Answer even when nothing changed.
    pub must_answer: bool,
    /// Incremental only: names to send even when they did not change.
    pub forced: BTreeSet<String>,
    /// Whether newer content replaced older that was never sent.
    pub waiting: bool,
    parked: VecDeque<(String, ResourceVersion)>,
}

impl KindState {
    /// Remembers a refusal. The name is empty for a whole response.
    pub(super) fn park(&mut self, name: &str, version: &ResourceVersion) {
        if self.is_parked(name, version) {
            return;
        }
        if self.parked.len() == PARKED {
            self.parked.pop_front();
        }
        self.parked.push_back((name.to_owned(), version.clone()));
    }

    pub(super) fn is_parked(&self, name: &str, version: &ResourceVersion) -> bool {
        self.parked.iter().any(|(n, v)| n == name && v == version)
    }

    pub(super) fn wants_something(&self) -> bool {
        self.subscription.as_ref().is_some_and(|s| !s.is_empty())
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|s| s.covers(name))
    }

    /// Forgets what the client no longer wants, so that wanting it again is answered.
    pub(super) fn forget_unwanted(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        self.sent.retain(|name, _| subscription.covers(name));
        self.acked.retain(|name, _| subscription.covers(name));
        self.forced.retain(|name| subscription.covers(name));
    }
}
