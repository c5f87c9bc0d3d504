//! Who is this client, and whose weights does it get?

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use traflux_core::NodeGroup;

use crate::proto::{Node, value};

/// What a client says of itself. It is a claim: only a client certificate makes the id more than that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeIdentity {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.locality.region`.
    pub region: String,
    /// `node.locality.zone`.
    pub zone: String,
    /// `node.metadata`, as far as its values are text, numbers or truth values.
    pub metadata: BTreeMap<String, String>,
}

impl NodeIdentity {
    pub(crate) fn of(node: Node) -> Self {
        let locality = node.locality.unwrap_or_default();
        let fields = node.metadata.map(|m| m.fields).unwrap_or_default();
        let text = |value: value::Kind| match value {
            value::Kind::StringValue(text) => Some(text),
            value::Kind::NumberValue(number) => Some(number.to_string()),
            value::Kind::BoolValue(truth) => Some(truth.to_string()),
            _ => None,
        };
        Self {
            id: node.id,
            cluster: node.cluster,
            region: locality.region,
            zone: locality.zone,
            metadata: fields.into_iter().filter_map(|(key, v)| Some((key, text(v.kind?)?))).collect(),
        }
    }
}

/// One condition on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeCondition {
    /// `node.locality.zone` is this.
    Zone(String),
    /// `node.locality.region` is this.
    Region(String),
    /// `node.cluster` is this.
    Cluster(String),
    /// `node.id` is this.
    Id(String),
    /// `node.id` begins with this.
    IdPrefix(String),
    /// `node.metadata` has this value under this key.
    Metadata {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

impl NodeCondition {
    fn holds(&self, node: &NodeIdentity) -> bool {
        match self {
            Self::Zone(zone) => node.zone == *zone,
            Self::Region(region) => node.region == *region,
            Self::Cluster(cluster) => node.cluster == *cluster,
            Self::Id(id) => node.id == *id,
            Self::IdPrefix(prefix) => node.id.starts_with(prefix),
            Self::Metadata { key, value } => node.metadata.get(key) == Some(value),
        }
    }
}

/// A group, and what a node must fulfil to belong to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRule {
    /// The group.
    pub group: NodeGroup,
    /// All of these must hold; none means any node.
    pub conditions: Vec<NodeCondition>,
}

/// Finds the group of a node: the first rule that holds, then the group of its zone where that is asked
/// for, then the default group. Without any of these a node is refused.
///
/// ```
/// use traflux_core::NodeGroup;
/// use traflux_xds::{NodeIdentity, NodeMatcher};
///
/// let node = NodeIdentity { id: "edge-1".into(), zone: "eu-west".into(), ..NodeIdentity::default() };
/// assert_eq!(NodeMatcher::by_zone().group_of(&node), Some(NodeGroup("eu-west".into())));
/// assert_eq!(NodeMatcher::default().group_of(&node), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeMatcher {
    /// Tried in order.
    pub rules: Vec<NodeRule>,
    /// Whether a node's zone, where it has one, names its group.
    pub zone_is_group: bool,
    /// The group of nodes that nothing else holds for.
    pub default_group: Option<NodeGroup>,
}

impl NodeMatcher {
    /// A node's zone names its group. This is what the bootstrap of this crate sets up.
    #[must_use]
    pub fn by_zone() -> Self {
        Self { zone_is_group: true, ..Self::default() }
    }

    /// Every node belongs to one group.
    #[must_use]
    pub fn everyone(group: NodeGroup) -> Self {
        Self { default_group: Some(group), ..Self::default() }
    }

    /// The group of a node; `None` when it is to be refused.
    #[must_use]
    pub fn group_of(&self, node: &NodeIdentity) -> Option<NodeGroup> {
        let rule = self.rules.iter().find(|rule| rule.conditions.iter().all(|c| c.holds(node)));
        let by_zone = || (self.zone_is_group && !node.zone.is_empty()).then(|| NodeGroup(node.zone.clone()));
        rule.map(|rule| rule.group.clone()).or_else(by_zone).or_else(|| self.default_group.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeIdentity {
        NodeIdentity {
            id: "edge-eu-7".into(),
            cluster: "edge".into(),
            region: "eu".into(),
            zone: "eu-west".into(),
            metadata: [("tier".to_owned(), "gold".to_owned())].into(),
        }
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let group = |name: &str| NodeGroup(name.into());
        let rule = |name, conditions| NodeRule { group: group(name), conditions };
        let matcher = NodeMatcher {
            rules: vec![
                rule(
                    "wrong",
                    vec![NodeCondition::IdPrefix("edge-".into()), NodeCondition::Region("us".into())],
                ),
                rule(
                    "gold",
                    vec![
                        NodeCondition::Metadata { key: "tier".into(), value: "gold".into() },
                        NodeCondition::Cluster("edge".into()),
                    ],
                ),
                rule("late", vec![NodeCondition::Id("edge-eu-7".into())]),
            ],
            zone_is_group: true,
            default_group: Some(group("rest")),
        };
        assert_eq!(matcher.group_of(&node()), Some(group("gold")));
        let stranger = NodeIdentity { zone: "us-1".into(), ..NodeIdentity::default() };
        assert_eq!(matcher.group_of(&stranger), Some(group("us-1")));
        assert_eq!(matcher.group_of(&NodeIdentity::default()), Some(group("rest")));
    }
}
