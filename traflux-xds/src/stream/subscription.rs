//! Which names does a client want?

use std::collections::BTreeSet;

/// What a client asked for, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// An empty list means "all" only until the client has named something.
    named_before: bool,
}

/// The explicit wildcard.
const ALL: &str = "*";

impl Subscription {
    /// Whether all resources are wanted.
    pub(super) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names wanted one by one.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Whether nothing at all is wanted.
    pub(super) fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// Whether a resource of that name would be sent.
    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Takes the full list of a state-of-the-world request. Tells whether something new is wanted.
    ///
    /// An empty list is the legacy wildcard for kinds that allow it, unless the client has named something
    /// before: then it means "nothing any more".
    pub(super) fn replace(&mut self, list: Vec<String>, allows_wildcard: bool) -> bool {
        let before = self.clone();
        let legacy = list.is_empty() && !self.named_before;
        self.named_before |= !list.is_empty();
        self.names = list.into_iter().collect();
        self.wildcard = allows_wildcard && (self.names.remove(ALL) || legacy);
        (self.wildcard && !before.wildcard) || !self.names.is_subset(&before.names)
    }

    /// Takes the changes of an incremental request; `first` is the first of its kind on the stream.
    pub(super) fn change(
        &mut self,
        subscribe: &[String],
        unsubscribe: &[String],
        first: bool,
        allows_wildcard: bool,
    ) {
        if allows_wildcard && ((first && subscribe.is_empty()) || subscribe.iter().any(|n| n == ALL)) {
            self.wildcard = true;
        }
        if unsubscribe.iter().any(|n| n == ALL) {
            self.wildcard = false;
        }
        for name in unsubscribe {
            self.names.remove(name);
        }
        self.names.extend(subscribe.iter().filter(|n| *n != ALL).cloned());
    }
}
