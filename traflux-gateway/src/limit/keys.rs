//! Which cell belongs to this tenant?
//!
//! A [`KeyTable`] gives each key string (tenant, API key, model, backend, or several joined by the caller) a slot:
//! a small number that indexes the cells of all limits of one scope. A look-up hashes once, takes no allocation
//! and one shared lock of one of 32 shards.
//!
//! The number of keys is bounded. When all slots are taken, a new key gets that of a key whose limits are all
//! idle: full buckets, empty windows, nothing in flight. Such a cell is as good as new, so eviction changes no
//! decision, and a key in debt or with a reservation is never evicted. Where no idle key is found among a
//! bounded number, the new key is refused.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;

const SHARDS: usize = 32;

/// How many slots a new key looks at for an idle one.
const LOOKED_AT: usize = 256;

/// State of a slot: the number of its owner (upper half), and how many reservations hold it.
const OWNER: u64 = 1 << 32;
const HOLDS: u64 = OWNER - 1;

/// Names up to this length lie in the table itself: one miss of the cache less.
const SHORT: usize = 22;

/// A key that has a slot. It goes stale when the slot passes to another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub(super) slot: u32,
    owner: u32,
}

impl Key {
    /// The only key of a scope that has no keys.
    pub const ONLY: Self = Self { slot: 0, owner: 0 };

    /// Its slot: a number below the capacity of the table, its own as long as it is not stale.
    #[must_use]
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

/// Slots of key strings.
#[derive(Debug)]
pub struct KeyTable {
    hasher: SeedableRandomState,
    shards: Vec<Shard>,
    states: Vec<AtomicU64>,
    free: Mutex<Free>,
}

/// On cache lines of its own, so that readers of different shards do not slow each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    entries: RwLock<HashTable<Entry>>,
}

/// 32 bytes, two to a cache line.
#[derive(Debug)]
struct Entry {
    name: Name,
    slot: u32,
    /// Used since the last look for an idle key.
    used: AtomicBool,
}

#[derive(Debug)]
enum Name {
    Short(u8, [u8; SHORT]),
    Long(Box<str>),
}

impl Name {
    fn new(name: &str) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..name.len()) {
            Some(start) => {
                start.copy_from_slice(name.as_bytes());
                Self::Short(name.len() as u8, bytes)
            }
            None => Self::Long(name.into()),
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => &bytes[..usize::from(*length).min(SHORT)],
            Self::Long(name) => name.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        // The bytes are those of a string: never the empty default.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl Shard {
    fn read(&self) -> RwLockReadGuard<'_, HashTable<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashTable<Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Free {
    /// Slots that were never taken begin here.
    fresh: usize,
    /// Slots given up.
    slots: Vec<u32>,
    /// The slot to look at next.
    hand: usize,
    /// The hash of the key of each taken slot.
    hashes: Vec<u64>,
}

impl KeyTable {
    /// A table for at most `most` keys (at least one, at most 2³¹). The seed keys the hash: a secret one keeps
    /// clients from making keys that collide.
    #[must_use]
    pub fn new(most: usize, seed: u64) -> Self {
        let most = most.clamp(1, 1 << 31);
        Self {
            hasher: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            states: (0..most).map(|_| AtomicU64::new(0)).collect(),
            free: Mutex::default(),
        }
    }

    /// The most keys.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.states.len()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.fresh - free.slots.len()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The slot of a key that has one.
    #[inline]
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Key> {
        self.with_slot(name, |slot| {
            // The owner changes under the lock of the shard alone, which is held here.
            Key { slot, owner: (self.states[slot as usize].load(Ordering::Acquire) / OWNER) as u32 }
        })
    }

    /// Does something with the slot of a key while it cannot be evicted, if it has one.
    #[inline]
    pub(super) fn with_slot<T>(&self, name: &str, work: impl FnOnce(u32) -> T) -> Option<T> {
        let hash = self.hasher.hash_one(name);
        let entries = self.shards[shard(hash)].read();
        let entry = entries.find(hash, |entry| entry.name.as_bytes() == name.as_bytes())?;
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(work(entry.slot))
    }

    /// The slot of a key, a new one if it has none. `idle` says whether all cells of a slot are as good as new.
    /// `None` when the table is full of keys in use.
    pub fn insert(&self, name: &str, idle: impl Fn(usize) -> bool) -> Option<Key> {
        if let Some(key) = self.find(name) {
            return Some(key);
        }
        let hash = self.hasher.hash_one(name);
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster; from here on, new keys are made one at a time.
        if let Some(key) = self.find(name) {
            return Some(key);
        }
        let slot = match free.slots.pop() {
            Some(slot) => slot,
            None if free.fresh < self.states.len() => {
                free.fresh += 1;
                free.hashes.push(0);
                free.fresh as u32 - 1
            }
            None => self.evict(&mut free, idle)?,
        };
        free.hashes[slot as usize] = hash;
        let owner = (self.states[slot as usize].load(Ordering::Acquire) / OWNER) as u32;
        let entry = Entry { name: Name::new(name), slot, used: AtomicBool::new(true) };
        let rehash = |entry: &Entry| self.hasher.hash_one(entry.name.as_str());
        self.shards[shard(hash)].write().insert_unique(hash, entry, rehash);
        Some(Key { slot, owner })
    }

    /// Gives up idle keys, as many as there are; returns how many.
    pub fn sweep(&self, idle: impl Fn(usize) -> bool) -> usize {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = vec![true; free.fresh];
        for slot in &free.slots {
            taken[*slot as usize] = false;
        }
        let slots = (0..free.fresh).filter(|slot| taken[*slot]);
        let gone: Vec<u32> =
            slots.filter(|slot| self.give_up(&free, *slot, &idle)).map(|s| s as u32).collect();
        free.slots.extend(&gone);
        gone.len()
    }

    /// Calls with every key and its slot, shard by shard.
    pub fn for_each(&self, mut visit: impl FnMut(&str, usize)) {
        for shard in &self.shards {
            for entry in shard.read().iter() {
                visit(entry.name.as_str(), entry.slot as usize);
            }
        }
    }

    /// Keeps the slot from being evicted; `false` when the key is stale.
    #[inline]
    pub(super) fn hold(&self, key: Key) -> bool {
        let Some(state) = self.states.get(key.slot as usize) else { return false };
        // Acquire: what the last owner did to the cells comes before. One increment also checks the owner.
        let seen = state.fetch_add(1, Ordering::Acquire);
        if (seen / OWNER) as u32 == key.owner {
            return true;
        }
        state.fetch_sub(1, Ordering::Release);
        false
    }

    /// Ends a [`hold`](Self::hold).
    #[inline]
    pub(super) fn release(&self, slot: u32) {
        self.states[slot as usize].fetch_sub(1, Ordering::Release);
    }

    /// Second chance (F. Corbató's clock): a slot used since the last look is passed over once.
    fn evict(&self, free: &mut Free, idle: impl Fn(usize) -> bool) -> Option<u32> {
        for _ in 0..(2 * self.states.len()).min(LOOKED_AT) {
            let slot = free.hand;
            free.hand = (slot + 1) % self.states.len();
            let hash = free.hashes[slot];
            let entries = self.shards[shard(hash)].read();
            let entry = entries.find(hash, |entry| entry.slot as usize == slot);
            let used = entry.is_some_and(|entry| entry.used.swap(false, Ordering::Relaxed));
            drop(entries);
            if !used && self.give_up(free, slot, &idle) {
                return Some(slot as u32);
            }
        }
        None
    }

    /// Takes the slot from its key if it is idle. The lock of the shard keeps out those who come by name, the change of
    /// owner those who come by key.
    fn give_up(&self, free: &Free, slot: usize, idle: &impl Fn(usize) -> bool) -> bool {
        let hash = free.hashes[slot];
        let mut entries = self.shards[shard(hash)].write();
        let state = &self.states[slot];
        let seen = state.load(Ordering::Relaxed);
        if seen & HOLDS != 0 || !idle(slot) {
            return false;
        }
        // From here on a holder of the old key fails; one that came before makes this fail.
        let next = (seen / OWNER).wrapping_add(1) << 32;
        if state.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // It may have come and gone between the look at the cells and the exchange: then the key stays, and only its
        // handles are stale.
        if !idle(slot) {
            return false;
        }
        if let Ok(entry) = entries.find_entry(hash, |entry| entry.slot as usize == slot) {
            entry.remove();
        }
        true
    }
}

/// The table inside a shard uses the upper seven and the lower bits of the hash; these are between.
#[inline]
fn shard(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_slot_and_a_full_table_takes_that_of_an_idle_one() {
        let table = KeyTable::new(3, 1);
        let busy = |slot: usize| slot != 1;
        let keys: Vec<_> = ["a", "b", "c"].iter().map(|n| table.insert(n, busy).unwrap()).collect();
        assert_eq!(table.find("b"), Some(keys[1]));
        assert_eq!(table.insert("d", |_| false), None, "all are in use");
        let d = table.insert("d", |slot| slot == 1).unwrap();
        assert_eq!(d.slot, keys[1].slot);
        assert_eq!(table.find("b"), None);
        assert!(!table.hold(keys[1]), "the old key is stale");
        assert!(table.hold(d));
        assert_eq!(table.insert("e", |slot| slot == 1), None, "a held key stays");
        table.release(d.slot);
        assert!(table.insert("e", |slot| slot == 1).is_some());
        assert_eq!(table.len(), 3);
    }

    #[test]
    fn a_sweep_gives_up_idle_keys_alone() {
        let table = KeyTable::new(100, 7);
        for ix in 0..60 {
            table.insert(&format!("tenant-{ix}"), |_| true).unwrap();
        }
        assert_eq!(table.sweep(|slot| slot % 2 == 0), 30);
        assert_eq!((table.len(), table.sweep(|slot| slot % 2 == 0)), (30, 0));
        assert!(table.find("tenant-1").is_some() && table.find("tenant-2").is_none());
        let mut names = 0;
        table.for_each(|name, slot| {
            assert_eq!(table.find(name).map(|k| k.slot as usize), Some(slot));
            names += 1;
        });
        assert_eq!(names, 30);
        assert_eq!(size_of::<Entry>(), 32);
    }
}
