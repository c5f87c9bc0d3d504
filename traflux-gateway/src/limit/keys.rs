//! Which cell belongs to this tenant?
//!
//! A [`KeyTable`] gives each key string (tenant, API key, model, backend, or several joined by the caller) a slot:
//! a small number that indexes the cells of all limits of one scope. A look-up hashes once and takes no lock, no
//! locked instruction and no allocation: it reads one word of a small index and one cache line, in which the name, its
//! owner and the cell of the scope's first bucket stand together.
//!
//! The number of keys is bounded. When all slots are taken, a new key gets that of a key whose limits are all
//! idle: full buckets, empty windows, nothing in flight. Such a cell is as good as new, so eviction changes no
//! decision, and a key in debt or with a reservation is never evicted. Where no idle key is found among a
//! bounded number, the new key is refused.
//!
//! # Order of memory
//!
//! Changes come one after another, under a lock. A look-up runs beside them:
//!
//! - The number of a slot's owner is odd while the slot is free or changes hands, and another one afterwards. A name
//!   that was read between two sights of the same even number is whole: a sequence lock (H.-J. Boehm, "Can seqlocks
//!   get along with programming language memory models?", MSPC 2012).
//! - Words of the index move when a key is removed, so that a look-up may miss one that is there. What was not found is
//!   looked for again under the lock.
//! - A slot passes on by one exchange of a word with the owner's number and the number of holds, so that who
//!   holds it is not evicted. Who does not hold it first acts and then asks whether the key is still the owner; the exchange comes before the last look at the cells, so that
//!   either the act is seen there or the exchange here. All four are sequentially consistent.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use rustc_hash::FxHashMap;

use super::bucket::BucketCell;

/// How many slots a new key looks at for an idle one.
const LOOKED_AT: usize = 256;

/// State of a slot: the number of its owner (upper half), whether it was used since the last look for an idle key, and
/// how many reservations hold it.
const OWNER: u64 = 1 << 32;
const USED: u64 = 1 << 31;
const HOLDS: u64 = USED - 1;

/// Bytes of a name in its entry; what is longer goes on elsewhere.
const SHORT: usize = 8 * 3 - 1;
/// Bytes of a name in its entry and where that goes on.
const LONG: usize = SHORT + 8 * 4 - 1;

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

    /// As one word; never zero for a key of a table.
    pub(crate) const fn packed(self) -> u64 {
        (self.owner as u64) << 32 | self.slot as u64
    }

    /// The inverse of [`packed`](Self::packed).
    pub(crate) const fn unpacked(word: u64) -> Self {
        Self { slot: word as u32, owner: owner(word) }
    }
}

/// Slots of key strings.
#[derive(Debug)]
pub struct KeyTable {
    hasher: SeedableRandomState,
    /// By hash, at most three quarters full, probed one after another: the slot and one more in the lowest bits, as much
    /// of the hash as fits above; 0 for none.
    index: Box<[AtomicU32]>,
    /// Bits of a slot and one more.
    slot_bits: u32,
    /// By slot.
    entries: Box<[Entry]>,
    /// What of names does not lie in their entries, by slot: apart, so that entries of short names lie dense.
    more: Box<[[AtomicU64; 4]]>,
    /// What of names does not lie there either. Written while the slot changes hands.
    rests: RwLock<FxHashMap<u32, Box<[u8]>>>,
    /// Whether a limit has the first cells.
    first_taken: AtomicBool,
    free: Mutex<Free>,
}

/// A slot, its name and a cell, on one cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    state: AtomicU64,
    name: [AtomicU64; 3],
    first: BucketCell,
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

/// The first bytes of a text, then zeros, in words; the highest byte is the length, or 255 where it goes on.
#[inline]
fn packed<const WORDS: usize>(text: &[u8]) -> [u64; WORDS] {
    let room = 8 * WORDS - 1;
    let start = &text[..text.len().min(room)];
    let mut words = std::array::from_fn(|at| word(start, 8 * at));
    let length = if text.len() <= room { text.len() as u64 } else { 255 };
    words[WORDS - 1] |= length << 56;
    words
}

/// Eight bytes from `at` on, then zeros.
#[inline]
fn word(text: &[u8], at: usize) -> u64 {
    match text.get(at..) {
        None | Some([]) => 0,
        Some(rest) => match (rest.first_chunk(), text.last_chunk()) {
            (Some(eight), _) => u64::from_le_bytes(*eight),
            // The last eight bytes without those that stand in the word before.
            (None, Some(end)) => u64::from_le_bytes(*end) >> (64 - 8 * rest.len()),
            (None, None) => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        },
    }
}

fn store<const WORDS: usize>(place: &[AtomicU64; WORDS], text: &[u8]) {
    place.iter().zip(packed::<WORDS>(text)).for_each(|(place, word)| place.store(word, Ordering::Relaxed));
}

#[inline]
fn holds<const WORDS: usize>(place: &[AtomicU64; WORDS], words: &[u64; WORDS]) -> bool {
    place.iter().zip(words).fold(true, |same, (place, word)| same & (place.load(Ordering::Relaxed) == *word))
}

/// Adds the text to bytes; tells whether it goes on.
fn read<const WORDS: usize>(place: &[AtomicU64; WORDS], bytes: &mut Vec<u8>) -> bool {
    let start = bytes.len();
    bytes.extend(place.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()));
    let length = bytes.pop().map_or(0, usize::from);
    bytes.truncate(start + length);
    length == 255
}

/// Whether a slot of this state has an owner.
const fn is_taken(state: u64) -> bool {
    state & OWNER == 0
}

/// The number of the owner in the state of a slot.
#[inline]
const fn owner(state: u64) -> u32 {
    (state >> 32) as u32
}

impl Entry {
    fn new() -> Self {
        Self { state: AtomicU64::new(OWNER), name: Default::default(), first: BucketCell::default() }
    }
}

impl KeyTable {
    /// A table for at most `most` keys (at least one, at most 2³¹), of about 105 bytes each from the start. The seed keys
    /// the hash: a secret one keeps clients from making keys that collide.
    #[must_use]
    pub fn new(most: usize, seed: u64) -> Self {
        let most = most.clamp(1, 1 << 31);
        Self {
            hasher: SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()),
            index: (0..(most + most / 3 + 1).next_power_of_two()).map(|_| AtomicU32::new(0)).collect(),
            slot_bits: most.ilog2() + 1,
            entries: (0..most).map(|_| Entry::new()).collect(),
            more: (0..most).map(|_| Default::default()).collect(),
            rests: RwLock::default(),
            first_taken: AtomicBool::new(false),
            free: Mutex::default(),
        }
    }

    /// The most keys.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        let free = self.lock();
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
        let hash = self.hasher.hash_one(name);
        self.seek(hash, name).or_else(|| self.seek_again(hash, name))
    }

    /// A look-up during which nothing changes.
    #[cold]
    fn seek_again(&self, hash: u64, name: &str) -> Option<Key> {
        let _unchanged = self.lock();
        self.seek(hash, name)
    }

    /// A look-up that may miss a key while another is removed.
    #[inline]
    fn seek(&self, hash: u64, name: &str) -> Option<Key> {
        let mask = self.index.len() - 1;
        let tag = self.tag(hash);
        let short = packed(name.as_bytes());
        for step in 0..=mask {
            // Acquire: the name comes before the word that leads to it.
            let word = self.index[(hash as usize).wrapping_add(step) & mask].load(Ordering::Acquire);
            if word == 0 {
                return None;
            }
            // Of another hash this is beyond all slots, or a slot with another name.
            let slot = (word ^ tag).wrapping_sub(1);
            if let Some(entry) = self.entries.get(slot as usize)
                && let Some(owner) = self.owner_by(entry, slot, &short, name)
            {
                return Some(Key { slot, owner });
            }
        }
        None
    }

    /// What of a hash stands in the index, above the slot.
    #[inline]
    fn tag(&self, hash: u64) -> u32 {
        ((hash >> 32) >> self.slot_bits << self.slot_bits) as u32
    }

    /// The owner of a slot, if this is its name, whose beginning is `short`.
    #[inline]
    fn owner_by(&self, entry: &Entry, slot: u32, short: &[u64; 3], name: &str) -> Option<u32> {
        let before = entry.state.load(Ordering::Acquire);
        let name = name.as_bytes();
        let same = holds(&entry.name, short) && (name.len() <= SHORT || self.goes_on(slot, name));
        fence(Ordering::Acquire);
        let after = owner(entry.state.load(Ordering::Relaxed));
        if !same || owner(before) != after || !is_taken(before) {
            return None;
        }
        if before & USED == 0 {
            entry.state.fetch_or(USED, Ordering::Relaxed);
        }
        Some(after)
    }

    /// Whether a long name goes on like this. A function of its own, so that short names do not pay for it.
    #[inline(never)]
    fn goes_on(&self, slot: u32, name: &[u8]) -> bool {
        holds(&self.more[slot as usize], &packed(&name[SHORT..]))
            && (name.len() <= LONG || self.ends(slot, name))
    }

    /// Whether a very long name ends like this.
    #[cold]
    fn ends(&self, slot: u32, name: &[u8]) -> bool {
        let rests = self.rests.read().unwrap_or_else(PoisonError::into_inner);
        rests.get(&slot).is_some_and(|rest| **rest == name[LONG..])
    }

    /// The slot of a key, a new one if it has none. `idle` says whether all cells of a slot are as good as new.
    /// `None` when the table is full of keys in use.
    pub fn insert(&self, name: &str, idle: impl Fn(usize) -> bool) -> Option<Key> {
        let hash = self.hasher.hash_one(name);
        if let Some(key) = self.seek(hash, name) {
            return Some(key);
        }
        let mut free = self.lock();
        // Another thread may have been faster; from here on, new keys are made one at a time.
        if let Some(key) = self.seek(hash, name) {
            return Some(key);
        }
        let slot = match free.slots.pop() {
            Some(slot) => slot,
            None if free.fresh < self.entries.len() => {
                free.fresh += 1;
                free.hashes.push(0);
                free.fresh as u32 - 1
            }
            None => self.evict(&mut free, idle)?,
        };
        free.hashes[slot as usize] = hash;
        let entry = &self.entries[slot as usize];
        // Whoever reads a word of the name sees that the slot has no owner.
        fence(Ordering::Release);
        store(&entry.name, name.as_bytes());
        if let Some(rest @ [_, ..]) = name.as_bytes().get(SHORT..) {
            store(&self.more[slot as usize], rest);
        }
        if let Some(rest @ [_, ..]) = name.as_bytes().get(LONG..) {
            self.rests.write().unwrap_or_else(PoisonError::into_inner).insert(slot, rest.into());
        }
        // Step by step, because a holder of a stale key may be counted for a moment, or mark it as used.
        let owner = owner(entry.state.fetch_add(OWNER, Ordering::Release).wrapping_add(OWNER));
        entry.state.fetch_or(USED, Ordering::Relaxed);
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        while self.index[at].load(Ordering::Relaxed) != 0 {
            at = (at + 1) & mask;
        }
        self.index[at].store(self.tag(hash) | (slot + 1), Ordering::Release);
        Some(Key { slot, owner })
    }

    /// Gives up idle keys, as many as there are; returns how many.
    pub fn sweep(&self, idle: impl Fn(usize) -> bool) -> usize {
        let mut free = self.lock();
        let taken = |slot: &usize| is_taken(self.entries[*slot].state.load(Ordering::Relaxed));
        let slots = (0..free.fresh).filter(taken);
        let gone: Vec<u32> =
            slots.filter(|slot| self.give_up(&free, *slot, &idle)).map(|s| s as u32).collect();
        free.slots.extend(&gone);
        gone.len()
    }

    /// Calls with every key and its slot. Keys that come or go meanwhile may be left out.
    pub fn for_each(&self, mut visit: impl FnMut(&str, usize)) {
        let taken = self.lock().fresh;
        for slot in 0..taken {
            if let Some(name) = self.name(slot) {
                visit(&name, slot);
            }
        }
    }

    /// Slots that have an owner. Keys that come or go meanwhile may be left out.
    pub(super) fn taken(&self) -> impl Iterator<Item = usize> {
        let fresh = self.lock().fresh;
        (0..fresh).filter(|slot| is_taken(self.entries[*slot].state.load(Ordering::Relaxed)))
    }

    fn name(&self, slot: usize) -> Option<String> {
        let _unchanged = self.lock();
        let entry = &self.entries[slot];
        let mut bytes = Vec::new();
        if read(&entry.name, &mut bytes) && read(&self.more[slot], &mut bytes) {
            let rests = self.rests.read().unwrap_or_else(PoisonError::into_inner);
            bytes.extend_from_slice(rests.get(&(slot as u32))?);
        }
        let taken = is_taken(entry.state.load(Ordering::Relaxed));
        // The bytes are those of a string.
        String::from_utf8(bytes).ok().filter(|_| taken)
    }

    /// Lets a limit have the first cells, one for each slot; `false` when another has them.
    pub(super) fn take_first(&self) -> bool {
        !self.first_taken.swap(true, Ordering::Relaxed)
    }

    /// The first cell of a slot.
    #[inline]
    pub(super) fn first(&self, slot: usize) -> &BucketCell {
        &self.entries[slot].first
    }

    /// Whether a key that was found before is still good, as if it was found again.
    #[inline]
    pub(super) fn find_again(&self, key: Key) -> bool {
        let Some(entry) = self.entries.get(key.slot as usize) else { return false };
        let state = entry.state.load(Ordering::Acquire);
        if owner(state) != key.owner {
            return false;
        }
        if state & USED == 0 {
            entry.state.fetch_or(USED, Ordering::Relaxed);
        }
        true
    }

    /// Whether the slot still belongs to the key. See the module for who may ask.
    #[inline]
    pub(super) fn is_owner(&self, key: Key) -> bool {
        owner(self.entries[key.slot as usize].state.load(Ordering::SeqCst)) == key.owner
    }

    /// Keeps the slot from being evicted; `false` when the key is stale.
    #[inline]
    pub(super) fn hold(&self, key: Key) -> bool {
        let Some(entry) = self.entries.get(key.slot as usize) else { return false };
        // Acquire: what the last owner did to the cells comes before. One increment also checks the owner.
        let seen = entry.state.fetch_add(1, Ordering::Acquire);
        if owner(seen) == key.owner {
            return true;
        }
        entry.state.fetch_sub(1, Ordering::Release);
        false
    }

    /// Ends a [`hold`](Self::hold).
    #[inline]
    pub(super) fn release(&self, slot: u32) {
        self.entries[slot as usize].state.fetch_sub(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Second chance (F. Corbató's clock): a slot used since the last look is passed over once.
    fn evict(&self, free: &mut Free, idle: impl Fn(usize) -> bool) -> Option<u32> {
        for _ in 0..(2 * self.entries.len()).min(LOOKED_AT) {
            let slot = free.hand;
            free.hand = (slot + 1) % self.entries.len();
            let used = self.entries[slot].state.fetch_and(!USED, Ordering::Relaxed) & USED != 0;
            if !used && self.give_up(free, slot, &idle) {
                return Some(slot as u32);
            }
        }
        None
    }

    /// Takes the slot from its key if it is idle.
    fn give_up(&self, free: &Free, slot: usize, idle: &impl Fn(usize) -> bool) -> bool {
        let state = &self.entries[slot].state;
        let seen = state.load(Ordering::Relaxed);
        if seen & HOLDS != 0 || !idle(slot) {
            return false;
        }
        // From here on a holder of the old key fails; one that came before makes this fail.
        let next = (seen & !USED).wrapping_add(OWNER);
        if state.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed).is_err() {
            return false;
        }
        // It may have come and gone between the look at the cells and the exchange: then the key stays, and only its
        // handles are stale.
        if !idle(slot) {
            state.fetch_add(OWNER, Ordering::Release);
            return false;
        }
        self.remove(free, slot as u32);
        true
    }

    /// Takes a slot out of the index, and fills the gap with what would not be found behind it (D. Knuth, The Art of
    /// Computer Programming, volume 3, 6.4, algorithm R).
    fn remove(&self, free: &Free, slot: u32) {
        let mask = self.index.len() - 1;
        let hash = free.hashes[slot as usize];
        let wanted = self.tag(hash) | (slot + 1);
        let mut gap = hash as usize & mask;
        while self.index[gap].load(Ordering::Relaxed) != wanted {
            gap = (gap + 1) & mask;
        }
        self.rests.write().unwrap_or_else(PoisonError::into_inner).remove(&slot);
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let word = self.index[at].load(Ordering::Relaxed);
            if word == 0 {
                break;
            }
            let of = (u64::from(word) & ((1 << self.slot_bits) - 1)) - 1;
            let home = free.hashes[of as usize] as usize;
            // What begins behind the gap is found without it.
            if (at.wrapping_sub(home)) & mask >= at.wrapping_sub(gap) & mask {
                self.index[gap].store(word, Ordering::Release);
                gap = at;
            }
        }
        self.index[gap].store(0, Ordering::Release);
    }
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
        assert_eq!(size_of::<Entry>(), 64);
    }

    #[test]
    fn names_of_any_length_are_found_whole() {
        let table = KeyTable::new(301, 3);
        let text = "0123456789".repeat(30);
        for length in 0..=text.len() {
            let key = table.insert(&text[..length], |_| false).unwrap();
            assert_eq!(table.find(&text[..length]), Some(key));
        }
        assert_eq!(table.len(), text.len() + 1);
        for wrong in [3, 22, 23, 24, 53, 54, 55, 119] {
            let mut other = text[..120].to_owned();
            other.replace_range(wrong..=wrong, "x");
            assert_eq!(table.find(&other), None);
        }
        assert_eq!(table.find(&format!("{}\0", &text[..7])), None, "no name is filled up with zeros");
        let mut names = Vec::new();
        table.for_each(|name, _| names.push(name.to_owned()));
        assert_eq!(names, (0..=text.len()).map(|length| text[..length].to_owned()).collect::<Vec<_>>());
    }

    #[test]
    fn a_thousand_changes_in_a_small_table_lose_no_key() {
        let table = KeyTable::new(40, 11);
        let mut rng = crate::Rng::new(2);
        let mut there: Vec<String> = Vec::new();
        for step in 0..5_000 {
            if there.len() < 40 && rng.below(2) == 0 {
                there.push(format!("key {step}"));
                table.insert(there.last().unwrap(), |_| false).unwrap();
            } else if !there.is_empty() {
                let gone = there.swap_remove(rng.below(there.len()));
                let slot = table.find(&gone).unwrap().slot as usize;
                assert_eq!(table.sweep(|idle| idle == slot), 1);
                assert_eq!(table.find(&gone), None);
            }
            assert!(there.iter().all(|name| table.find(name).is_some()));
            assert_eq!(table.len(), there.len());
        }
    }

    #[test]
    fn a_look_up_beside_changes_finds_the_right_slot_or_none() {
        let table = KeyTable::new(8, 5);
        let stays = table.insert("stays", |_| false).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for step in 0..50_000 {
                    let name = format!("{:090}", step % 40);
                    assert!(table.insert(&name, |slot| slot != stays.slot as usize).is_some());
                }
            });
            for step in 0..50_000 {
                assert_eq!(table.find("stays"), Some(stays));
                let name = format!("{:090}", step % 40);
                if let Some(key) = table.find(&name)
                    && table.hold(key)
                {
                    assert_eq!(table.find(&name), Some(key), "who is held stays");
                    table.release(key.slot);
                }
            }
        });
    }
}
