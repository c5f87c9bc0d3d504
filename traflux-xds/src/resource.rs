//! What is sent, and under which version?
//!
//! A [`Resource`] is one encoded message, a [`ResourceSet`] all resources of one kind, a [`Snapshot`] the
//! four sets that belong together. Versions are hashes of content: replicas that hold equal plans publish
//! equal versions, and a restart does not look like a change. The protobuf types stay inside this crate.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use traflux_core::PlanVersion;

/// The kinds of resources, in the order in which additions are sent: a cluster before its endpoints, both
/// before the listeners and routes that refer to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceKind {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoint,
    /// LDS.
    Listener,
    /// RDS.
    Route,
}

impl ResourceKind {
    /// All kinds, in sending order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// The type URL of the protocol.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    /// Finds a kind by its type URL.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The customary abbreviation: cds, eds, lds, rds.
    #[must_use]
    pub const fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }

    /// Whether a client may ask for all resources of this kind, and whether a response lists the full state,
    /// so that what is missing from it is thereby removed.
    #[must_use]
    pub const fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    pub(crate) const fn ix(self) -> usize {
        self as usize
    }
}

/// Content hash of one resource or of a set of them: 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ResourceVersion(Arc<str>);

impl From<String> for ResourceVersion {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<ResourceVersion> for String {
    fn from(version: ResourceVersion) -> Self {
        version.0.as_ref().to_owned()
    }
}

impl ResourceVersion {
    /// Takes a version as text, for example one that a client reports.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(hash: Sha256) -> Self {
        let digest = hash.finalize();
        Self(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        Self::of(Sha256::new_with_prefix(bytes))
    }

    /// The version of a selection of resources, by name and version.
    pub(crate) fn of_selection<'a>(items: impl Iterator<Item = (&'a String, &'a Self)>) -> Self {
        let mut hash = Sha256::new();
        for (name, version) in items {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(version.0.as_bytes());
        }
        Self::of(hash)
    }
}

impl std::fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One encoded resource. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    version: ResourceVersion,
    body: Arc<[u8]>,
    on_request_only: bool,
}

impl Resource {
    /// Takes an encoded message.
    #[must_use]
    pub fn new(body: Vec<u8>) -> Self {
        Self { version: ResourceVersion::of_bytes(&body), body: body.into(), on_request_only: false }
    }

    /// Leaves it out of wildcard subscriptions: only who asks for its name gets it. The listeners of
    /// proxyless gRPC clients are of this sort, as an Envoy cannot use them.
    #[must_use]
    pub fn on_request_only(mut self) -> Self {
        self.on_request_only = true;
        self
    }

    /// Content hash.
    #[must_use]
    pub fn version(&self) -> &ResourceVersion {
        &self.version
    }

    /// The encoded message.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether only a subscription by name gets it.
    #[must_use]
    pub fn is_on_request_only(&self) -> bool {
        self.on_request_only
    }
}

/// All resources of one kind, by name, under a version of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceSet {
    version: ResourceVersion,
    resources: BTreeMap<String, Resource>,
}

impl ResourceSet {
    /// Takes resources by name.
    #[must_use]
    pub fn new(resources: BTreeMap<String, Resource>) -> Self {
        let version = ResourceVersion::of_selection(resources.iter().map(|(n, r)| (n, &r.version)));
        Self { version, resources }
    }

    /// Hash of all names and versions.
    #[must_use]
    pub fn version(&self) -> &ResourceVersion {
        &self.version
    }

    /// The resources by name.
    #[must_use]
    pub fn resources(&self) -> &BTreeMap<String, Resource> {
        &self.resources
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Resource> {
        self.resources.get(name)
    }
}

impl Default for ResourceSet {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

/// The resources of one node group that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    plan: PlanVersion,
    sets: [ResourceSet; 4],
}

impl Snapshot {
    /// Takes four sets, in the order of [`ResourceKind::ALL`].
    #[must_use]
    pub fn new(plan: PlanVersion, sets: [ResourceSet; 4]) -> Self {
        Self { plan, sets }
    }

    /// The plan it was compiled from.
    #[must_use]
    pub fn plan(&self) -> &PlanVersion {
        &self.plan
    }

    /// The resources of one kind.
    #[must_use]
    pub fn set(&self, kind: ResourceKind) -> &ResourceSet {
        &self.sets[kind.ix()]
    }

    /// Whether every resource is the same, whatever the plans.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.sets == other.sets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_has_equal_versions_and_a_changed_byte_another() {
        let one = Resource::new(vec![1, 2, 3]);
        assert_eq!(one.version(), Resource::new(vec![1, 2, 3]).version());
        assert_ne!(one.version(), Resource::new(vec![1, 2, 4]).version());
        assert_eq!(one.version().as_str().len(), 16);
    }

    #[test]
    fn the_version_of_a_set_depends_on_names_and_content() {
        let set = |name: &str, byte| {
            ResourceSet::new([(name.to_owned(), Resource::new(vec![byte]))].into_iter().collect())
        };
        assert_eq!(set("a", 1).version(), set("a", 1).version());
        assert_ne!(set("a", 1).version(), set("b", 1).version());
        assert_ne!(set("a", 1).version(), set("a", 2).version());
    }

    #[test]
    fn type_urls_lead_back_to_their_kinds() {
        for kind in ResourceKind::ALL {
            assert_eq!(ResourceKind::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(ResourceKind::from_type_url("type.googleapis.com/other"), None);
    }
}
