//! What should the nodes of one group hold, given what they refused?
//!
//! A group is led to its target: the snapshot of the plan applied last. Where a node refuses part of it,
//! the refused versions are parked and the group is led back to the last content that every connected node
//! had acknowledged, for those resources only; weights of other services go on. A plan of which part is
//! replaced so is never reported as in force.
//!
//! A refusal names no resource, so what is parked is every resource of the refused response that the node
//! had not acknowledged before and the group is not known to accept. An innocent one among them moves on
//! with its next change. A resource that was never accepted has nothing to go back to and is left as it is;
//! the stream remembers not to send it again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::watch;
use traflux_core::{InForce, PlanVersion, Timestamp};

use crate::resource::{ResourceKind, ResourceSet, ResourceVersion, Snapshot};
use crate::status::ParkedResource;

/// How many refused versions of one resource a group remembers.
const PARKED_VERSIONS: usize = 16;

/// What the nodes of a group are led to.
#[derive(Debug, Clone)]
pub(crate) struct Publication {
    /// Counts publications to the group.
    pub number: u64,
    pub snapshot: Arc<Snapshot>,
    /// The plan that this is; `None` when it is a mixture.
    pub plan: Option<PlanVersion>,
}

/// What a member of the group has acknowledged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// Whether it asked for anything yet.
    pub subscribed: bool,
    /// Number of the publication that it holds as a whole.
    pub holds: u64,
    /// The latest plan that it held as a whole, with the number of its publication.
    pub plan: Option<(u64, PlanVersion)>,
}

#[derive(Debug)]
pub(crate) struct Group {
    target: Option<Arc<Snapshot>>,
    current: watch::Sender<Option<Publication>>,
    last_good: Option<Publication>,
    parked: BTreeMap<(ResourceKind, String), VecDeque<(ResourceVersion, String)>>,
    in_force: Option<InForce>,
    rolled_back: bool,
}

impl Group {
    pub(crate) fn new() -> Self {
        Self {
            target: None,
            current: watch::Sender::new(None),
            last_good: None,
            parked: BTreeMap::new(),
            in_force: None,
            rolled_back: false,
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Publication>> {
        self.current.subscribe()
    }

    pub(crate) fn target(&self) -> Option<&PlanVersion> {
        self.target.as_ref().map(|snapshot| snapshot.plan())
    }

    pub(crate) fn in_force(&self) -> Option<&InForce> {
        self.in_force.as_ref()
    }

    pub(crate) fn is_rolled_back(&self) -> bool {
        self.rolled_back
    }

    /// Number of the current publication; 0 before the first.
    pub(crate) fn number(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |publication| publication.number)
    }

    pub(crate) fn parked(&self) -> Vec<ParkedResource> {
        let all = self.parked.iter().flat_map(|((kind, name), versions)| {
            versions.iter().map(|(version, reason)| ParkedResource {
                kind: *kind,
                name: name.clone(),
                version: version.clone(),
                reason: reason.clone(),
            })
        });
        all.collect()
    }

    /// Sets a new target. Tells whether it is another than before.
    pub(crate) fn aim(&mut self, snapshot: Snapshot) -> bool {
        if self.target.as_deref() == Some(&snapshot) {
            return false;
        }
        self.target = Some(Arc::new(snapshot));
        self.publish();
        true
    }

    /// Why the target cannot be in force, where a node refused part of it.
    pub(crate) fn refusal(&self) -> Option<&str> {
        let target = self.target.as_ref()?;
        self.parked.iter().find_map(|((kind, name), versions)| {
            let version = target.set(*kind).get(name)?.version();
            versions.iter().find(|(parked, _)| parked == version).map(|(_, reason)| reason.as_str())
        })
    }

    /// A node refused a response. Tells whether the group goes back to earlier content.
    pub(crate) fn refuse(
        &mut self,
        kind: ResourceKind,
        suspects: &[(String, ResourceVersion)],
        reason: &str,
    ) -> bool {
        let good = self.last_good.as_ref().map(|good| good.snapshot.set(kind));
        for (name, version) in suspects {
            if good.and_then(|set| set.get(name)).is_some_and(|r| r.version() == version) {
                // The other nodes took it: this node's trouble is its own.
                continue;
            }
            let versions = self.parked.entry((kind, name.clone())).or_default();
            versions.retain(|(parked, _)| parked != version);
            if versions.len() == PARKED_VERSIONS {
                versions.pop_front();
            }
            versions.push_back((version.clone(), reason.to_owned()));
        }
        let before = self.number();
        self.publish();
        self.number() != before
    }

    /// Takes in how far the members are. Tells whether another plan is in force now.
    pub(crate) fn review<'a>(&mut self, members: impl Iterator<Item = &'a Progress>, now: Timestamp) -> bool {
        let members: Vec<&Progress> = members.collect();
        if members.is_empty() {
            self.in_force = None;
            return false;
        }
        let number = self.number();
        if number > 0 && members.iter().all(|m| m.subscribed && m.holds == number) {
            self.last_good.clone_from(&self.current.borrow());
            self.forgive();
        }
        let oldest = members
            .iter()
            .map(|member| member.plan.as_ref())
            .collect::<Option<Vec<_>>>()
            .and_then(|plans| plans.into_iter().min_by_key(|(number, _)| *number));
        let before = self.in_force.take();
        let Some((_, version)) = oldest else { return false };
        self.in_force = match before {
            Some(before) if before.version == *version => Some(before),
            _ => {
                self.in_force = Some(InForce { version: version.clone(), since: now });
                return true;
            }
        };
        false
    }

    /// What every member holds now is not refused any more: a node may have come back able to take it.
    fn forgive(&mut self) {
        let Some(good) = &self.last_good else { return };
        self.parked.retain(|(kind, name), versions| {
            let held = good.snapshot.set(*kind).get(name).map(|r| r.version());
            versions.retain(|(parked, _)| Some(parked) != held);
            !versions.is_empty()
        });
    }

    /// Publishes the target with refused resources replaced, unless that is what is published already.
    fn publish(&mut self) {
        let Some(target) = &self.target else { return };
        let good = self.last_good.as_ref().map(|good| good.snapshot.as_ref());
        let mut replaced = false;
        let sets = ResourceKind::ALL.map(|kind| {
            let set = target.set(kind);
            let substitutes: Vec<_> = set
                .resources()
                .iter()
                .filter(|(name, resource)| self.is_parked(kind, name, resource.version()))
                .filter_map(|(name, _)| Some((name.clone(), good?.set(kind).get(name)?.clone())))
                .filter(|(name, substitute)| !self.is_parked(kind, name, substitute.version()))
                .collect();
            if substitutes.is_empty() {
                return set.clone();
            }
            replaced = true;
            let mut resources = set.resources().clone();
            resources.extend(substitutes);
            ResourceSet::new(resources)
        });
        let snapshot = Snapshot::new(target.plan().clone(), sets);
        let plan = if replaced {
            // Back to the whole of what was good is that plan again, not a mixture.
            self.last_good
                .as_ref()
                .filter(|g| g.snapshot.same_content(&snapshot))
                .and_then(|g| g.plan.clone())
        } else {
            Some(target.plan().clone())
        };
        self.rolled_back = replaced;
        self.current.send_if_modified(|current| {
            if current.as_ref().is_some_and(|c| *c.snapshot == snapshot && c.plan == plan) {
                return false;
            }
            let number = current.as_ref().map_or(0, |c| c.number) + 1;
            *current = Some(Publication { number, snapshot: Arc::new(snapshot), plan });
            true
        });
    }

    fn is_parked(&self, kind: ResourceKind, name: &str, version: &ResourceVersion) -> bool {
        // A borrowed key of a tuple with a `String` cannot be made without the allocation.
        self.parked
            .get(&(kind, name.to_owned()))
            .is_some_and(|versions| versions.iter().any(|(parked, _)| parked == version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;

    fn snapshot(plan: &str, listener: u8, weights: u8) -> Snapshot {
        let set = |byte: u8| ResourceSet::new([("a".to_owned(), Resource::new(vec![byte]))].into());
        Snapshot::new(PlanVersion::new(plan), [set(0), set(weights), set(listener), set(0)])
    }

    fn holding(group: &Group) -> Progress {
        let current = group.current.borrow().clone().unwrap();
        Progress {
            subscribed: true,
            holds: current.number,
            plan: current.plan.map(|plan| (current.number, plan)),
        }
    }

    fn version(byte: u8) -> ResourceVersion {
        Resource::new(vec![byte]).version().clone()
    }

    fn at(second: f64) -> Timestamp {
        Timestamp::from_secs_f64(second)
    }

    fn published(group: &Group, kind: ResourceKind) -> u8 {
        group.current.borrow().as_ref().unwrap().snapshot.set(kind).get("a").unwrap().body()[0]
    }

    #[test]
    fn a_refused_listener_goes_back_while_weights_go_on() {
        let mut group = Group::new();
        group.aim(snapshot("p1", 1, 10));
        assert!(group.review([&holding(&group)].into_iter(), at(1.0)));
        let on_one = holding(&group);

        group.aim(snapshot("p2", 2, 20));
        assert!(group.refuse(ResourceKind::Listener, &[("a".into(), version(2))], "cannot bind"));
        assert_eq!(
            (published(&group, ResourceKind::Listener), published(&group, ResourceKind::Endpoint)),
            (1, 20)
        );
        assert_eq!(group.refusal(), Some("cannot bind"));
        assert!(group.is_rolled_back());
        assert!(!group.review([&on_one].into_iter(), at(2.0)));
        assert_eq!(group.in_force().unwrap().version.as_str(), "p1");

        // The mixture is taken; it is no plan.
        let mixed = Progress { plan: on_one.plan.clone(), ..holding(&group) };
        group.review([&mixed].into_iter(), at(3.0));
        assert_eq!(group.in_force().unwrap().version.as_str(), "p1");

        // The same listener again is not published; another is.
        group.aim(snapshot("p3", 2, 30));
        assert_eq!(
            (published(&group, ResourceKind::Listener), published(&group, ResourceKind::Endpoint)),
            (1, 30)
        );
        group.aim(snapshot("p4", 4, 30));
        assert_eq!(published(&group, ResourceKind::Listener), 4);
        assert_eq!(group.refusal(), None);
        assert!(group.review([&holding(&group)].into_iter(), at(4.0)));
        assert_eq!(group.in_force().unwrap(), &InForce { version: PlanVersion::new("p4"), since: at(4.0) });
    }

    #[test]
    fn going_back_to_all_of_the_last_good_content_is_the_earlier_plan() {
        let mut group = Group::new();
        group.aim(snapshot("p1", 1, 10));
        group.review([&holding(&group)].into_iter(), at(1.0));
        group.aim(snapshot("p2", 2, 10));
        group.refuse(ResourceKind::Listener, &[("a".into(), version(2))], "no");
        let current = group.current.borrow().clone().unwrap();
        assert_eq!((current.number, current.plan), (3, Some(PlanVersion::new("p1"))));
    }

    #[test]
    fn content_that_nobody_ever_accepted_is_left_as_it_is() {
        let mut group = Group::new();
        group.aim(snapshot("p1", 1, 10));
        assert!(!group.refuse(ResourceKind::Listener, &[("a".into(), version(1))], "no"));
        assert_eq!(published(&group, ResourceKind::Listener), 1);
        assert_eq!(group.refusal(), Some("no"));
    }

    #[test]
    fn a_node_that_refuses_what_the_group_accepted_does_not_move_the_group() {
        let mut group = Group::new();
        group.aim(snapshot("p1", 1, 10));
        group.review([&holding(&group)].into_iter(), at(1.0));
        assert!(!group.refuse(ResourceKind::Listener, &[("a".into(), version(1))], "my own trouble"));
        assert_eq!(group.refusal(), None);
    }

    #[test]
    fn the_plan_in_force_is_the_oldest_among_the_connected_and_none_without_any() {
        let mut group = Group::new();
        group.aim(snapshot("p1", 1, 10));
        let slow = holding(&group);
        group.aim(snapshot("p2", 1, 20));
        let quick = holding(&group);
        assert!(group.review([&slow, &quick].into_iter(), at(1.0)));
        assert_eq!(group.in_force().unwrap().version.as_str(), "p1");
        assert!(group.review([&quick].into_iter(), at(2.0)));
        assert_eq!(group.in_force().unwrap().version.as_str(), "p2");
        group.review([&quick, &Progress::default()].into_iter(), at(3.0));
        assert_eq!(group.in_force(), None);
        group.review([].into_iter(), at(4.0));
        assert_eq!(group.in_force(), None);
    }

    #[test]
    fn the_same_plan_again_is_not_published_again() {
        let mut group = Group::new();
        assert!(group.aim(snapshot("p1", 1, 10)));
        assert!(!group.aim(snapshot("p1", 1, 10)));
        assert_eq!(group.number(), 1);
    }
}
