//! Where does a key go, in constant time, and stay when others come or go?
//!
//! Maglev hashing (D. E. Eisenbud et al., "Maglev: a fast and reliable software network load balancer",
//! NSDI 2016, § 3.4): each endpoint has its own permutation of a table's slots and takes the next free one of
//! it in turn, until the table is full. Weights as in Envoy: of the greatest weight `m`, one of weight `w` takes part
//! in `w / m` of the rounds.

use super::key::hash;

/// A table from keys to positions.
#[derive(Debug, Clone)]
pub struct Maglev {
    slots: Box<[u32]>,
}

/// Sizes beyond the one asked for: the primes above powers of four, so that the size seldom changes with the number of
/// endpoints; every change of it moves all keys.
const LARGER: [usize; 4] = [262_147, 1_048_583, 4_194_319, 16_777_259];

impl Maglev {
    /// A table of `(position, name, weight)`; zero weights have no slots. It depends on names and weights, not
    /// on their order. It has `slots` slots, rounded up to a prime, or more where there would be fewer than
    /// 100 for each endpoint.
    #[must_use]
    pub fn new<'a>(members: impl Iterator<Item = (u32, &'a str, u32)>, slots: usize) -> Self {
        let mut entries: Vec<Entry> = members
            .filter(|(_, _, weight)| *weight > 0)
            .map(|(position, name, weight)| Entry {
                hashes: (hash(name.as_bytes(), 1), hash(name.as_bytes(), 2)),
                position,
                weight: u64::from(weight),
                owed: 0,
                at: 0,
                step: 0,
            })
            .collect();
        if entries.is_empty() {
            return Self { slots: Box::default() };
        }
        entries.sort_by_key(|entry| (entry.hashes, entry.position));
        let asked = next_prime(slots.max(2));
        let enough = |size: &usize| *size >= entries.len() * 100;
        let size = Some(asked)
            .filter(enough)
            .or_else(|| LARGER.into_iter().filter(|size| *size > asked).find(enough));
        let size = size.unwrap_or_else(|| next_prime(entries.len()).max(asked)) as u64;
        for entry in &mut entries {
            entry.at = entry.hashes.0 % size;
            entry.step = entry.hashes.1 % (size - 1) + 1;
        }
        let greatest = entries.iter().map(|entry| entry.weight).max().unwrap_or(1);
        const FREE: u32 = u32::MAX;
        let mut slots = vec![FREE; size as usize];
        let mut left = size;
        while left > 0 {
            for entry in &mut entries {
                entry.owed += entry.weight;
                if entry.owed < greatest {
                    continue;
                }
                entry.owed -= greatest;
                while slots[entry.at as usize] != FREE {
                    entry.at = (entry.at + entry.step) % size;
                }
                slots[entry.at as usize] = entry.position;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Self { slots: slots.into() }
    }

    /// The position that a hash falls to; `None` from an empty table.
    #[inline]
    #[must_use]
    pub fn position(&self, hash: u64) -> Option<u32> {
        let slot = (u128::from(hash) * self.slots.len() as u128) >> 64;
        self.slots.get(slot as usize).copied()
    }

    /// The slots of the table.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

struct Entry {
    hashes: (u64, u64),
    position: u32,
    weight: u64,
    owed: u64,
    at: u64,
    step: u64,
}

fn next_prime(from: usize) -> usize {
    let is_prime = |n: usize| n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
    (from..).find(|n| is_prime(*n)).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[(String, u32)], slots: usize) -> Maglev {
        Maglev::new(
            names.iter().enumerate().map(|(ix, (name, weight))| (ix as u32, name.as_str(), *weight)),
            slots,
        )
    }

    fn named(n: usize) -> Vec<(String, u32)> {
        (0..n).map(|ix| (format!("backend-{ix}"), 1)).collect()
    }

    #[test]
    fn slots_are_shared_evenly_to_one() {
        let maglev = table(&named(10), 1009);
        assert_eq!(maglev.slots().len(), 1009);
        for position in 0..10 {
            let own = maglev.slots().iter().filter(|slot| **slot == position).count();
            assert!((100..=101).contains(&own), "{own}");
        }
    }

    #[test]
    fn slots_follow_weights_within_one_per_cent() {
        let mut names = named(3);
        for (member, weight) in names.iter_mut().zip([1, 3, 6]) {
            member.1 = weight;
        }
        let maglev = table(&names, 65_537);
        for (position, weight) in [1.0, 3.0, 6.0].into_iter().enumerate() {
            let own = maglev.slots().iter().filter(|slot| **slot == position as u32).count() as f64;
            assert!((own / 65_537.0 / (weight / 10.0) - 1.0).abs() < 0.01, "{own} of weight {weight}");
        }
    }

    #[test]
    fn a_removed_endpoint_moves_its_own_keys_and_few_others() {
        let names = named(50);
        let all = table(&names, 65_537);
        let mut without = names.clone();
        without[17].1 = 0;
        let rest = table(&without, 65_537);
        let moved = all.slots().iter().zip(rest.slots()).filter(|(a, b)| a != b && **a != 17).count();
        let share = moved as f64 / 65_537.0;
        // The paper's figure 12 finds some per cent at this ratio of slots to endpoints (1300).
        assert!(share < 0.02, "{share} of the keys of others moved");
        assert!(rest.slots().iter().all(|slot| *slot != 17));
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let names = named(20);
        let forward = table(&names, 1009);
        let backward = Maglev::new(
            names.iter().enumerate().rev().map(|(ix, (name, weight))| (ix as u32, name.as_str(), *weight)),
            1009,
        );
        assert_eq!(forward.slots(), backward.slots());
    }

    #[test]
    fn nobody_and_many_are_ordinary() {
        assert_eq!(table(&[], 101).position(7), None);
        assert_eq!(table(&[("a".into(), 0)], 101).position(7), None);
        assert_eq!(table(&named(1000), 65_537).slots().len(), 262_147);
        assert!(LARGER.iter().all(|size| next_prime(*size) == *size));
        assert_eq!(table(&named(1), 1).position(u64::MAX), Some(0));
    }
}
