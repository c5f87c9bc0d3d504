//! How do thousands of lists and heaps live in one array, without allocating?
//!
//! An element of the array carries the links of the one structure that it is in, so joining and leaving write links
//! and allocate nothing. A structure is then one number, its first element. There are two: a circular doubly linked
//! list (first in, first out) and a pairing heap (M. Fredman, R. Sedgewick, D. Sleator, R. Tarjan, "The pairing
//! heap: a new form of self-adjusting heap", Algorithmica 1, 1986): insert O(1), remove any element O(log n)
//! amortised; the first removal after n inserts in a row takes n steps. The element with the least `(key, sequence)` is first in a heap.

/// No element.
pub(super) const NIL: u32 = u32::MAX;

/// The elements before and behind one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// List: the element before. Heap: the sibling before, or the parent of a first child.
    previous: u32,
    /// List: the element behind. Heap: the sibling behind.
    next: u32,
}

impl Around {
    pub(super) const LOOSE: Self = Self { previous: NIL, next: NIL };
}

/// What can be in a list.
pub(super) trait Listed {
    fn around(&self) -> Around;
    fn around_mut(&mut self) -> &mut Around;
}

impl Listed for Around {
    #[inline]
    fn around(&self) -> Around {
        *self
    }
    #[inline]
    fn around_mut(&mut self) -> &mut Around {
        self
    }
}

/// What can be in a list or in a heap. Small, because neighbours are touched wherever they lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// The order in a heap.
    pub(super) key: u64,
    /// The order among equal keys, by the sign of the difference: it may wrap.
    pub(super) sequence: u32,
    around: Around,
    /// Heap: the first child.
    child: u32,
}

impl Link {
    pub(super) const LOOSE: Self = Self { key: 0, sequence: 0, around: Around::LOOSE, child: NIL };

    #[inline]
    fn is_before(&self, other: &Self) -> bool {
        let age = other.sequence.wrapping_sub(self.sequence) as i32;
        self.key < other.key || (self.key == other.key && age >= 0)
    }
}

impl Listed for Link {
    #[inline]
    fn around(&self) -> Around {
        self.around
    }
    #[inline]
    fn around_mut(&mut self) -> &mut Around {
        &mut self.around
    }
}

/// Which of the two structures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    List,
    Heap,
}

impl Shape {
    /// Adds element `ix`: behind all others of a list, by its key into a heap.
    #[inline]
    pub(super) fn insert(self, links: &mut [Link], first: &mut u32, ix: u32) {
        match self {
            Self::List => push_back(links, first, ix),
            Self::Heap => {
                let link = &mut links[ix as usize];
                (link.around, link.child) = (Around::LOOSE, NIL);
                *first = if *first == NIL { ix } else { meld(links, *first, ix) };
            }
        }
    }

    /// Takes out element `ix`, wherever it is.
    #[inline]
    pub(super) fn remove(self, links: &mut [Link], first: &mut u32, ix: u32) {
        match self {
            Self::List => unlink(links, first, ix),
            Self::Heap => heap_remove(links, first, ix),
        }
    }
}

/// The last element of a list.
#[inline]
pub(super) fn last<T: Listed>(links: &[T], first: u32) -> u32 {
    if first == NIL { NIL } else { links[first as usize].around().previous }
}

/// The element behind `ix` in its list.
#[inline]
pub(super) fn behind<T: Listed>(links: &[T], ix: u32) -> u32 {
    links[ix as usize].around().next
}

/// Adds element `ix` behind all others of a list.
#[inline]
pub(super) fn push_back<T: Listed>(links: &mut [T], first: &mut u32, ix: u32) {
    if *first == NIL {
        *links[ix as usize].around_mut() = Around { previous: ix, next: ix };
        *first = ix;
        return;
    }
    let last = links[*first as usize].around().previous;
    *links[ix as usize].around_mut() = Around { previous: last, next: *first };
    links[last as usize].around_mut().next = ix;
    links[*first as usize].around_mut().previous = ix;
}

/// Takes element `ix` out of a list.
#[inline]
pub(super) fn unlink<T: Listed>(links: &mut [T], first: &mut u32, ix: u32) {
    let Around { previous, next } = links[ix as usize].around();
    if next == ix {
        *first = NIL;
        return;
    }
    links[previous as usize].around_mut().next = next;
    links[next as usize].around_mut().previous = previous;
    if *first == ix {
        *first = next;
    }
}

/// Joins two heaps; gives the root.
#[inline]
fn meld(links: &mut [Link], a: u32, b: u32) -> u32 {
    let a_first = links[a as usize].is_before(&links[b as usize]);
    let (root, child) = if a_first { (a, b) } else { (b, a) };
    let link = &mut links[root as usize];
    let eldest = link.child;
    (link.around, link.child) = (Around::LOOSE, child);
    links[child as usize].around = Around { previous: root, next: eldest };
    if eldest != NIL {
        links[eldest as usize].around.previous = child;
    }
    root
}

fn heap_remove(links: &mut [Link], first: &mut u32, ix: u32) {
    let orphans = merge_children(links, ix);
    if *first == ix {
        *first = orphans;
        return;
    }
    let Around { previous, next } = links[ix as usize].around;
    if links[previous as usize].child == ix {
        links[previous as usize].child = next;
    } else {
        links[previous as usize].around.next = next;
    }
    if next != NIL {
        links[next as usize].around.previous = previous;
    }
    if orphans != NIL {
        *first = meld(links, *first, orphans);
    }
}

/// The two passes: melds neighbours from left to right, then the results from right to left.
fn merge_children(links: &mut [Link], parent: u32) -> u32 {
    let mut rest = links[parent as usize].child;
    let mut merged = NIL;
    while rest != NIL {
        let a = rest;
        let b = links[a as usize].around.next;
        let pair = if b == NIL {
            rest = NIL;
            a
        } else {
            rest = links[b as usize].around.next;
            meld(links, a, b)
        };
        links[pair as usize].around.next = merged;
        merged = pair;
    }
    if merged == NIL {
        return NIL;
    }
    let mut root = merged;
    merged = links[root as usize].around.next;
    while merged != NIL {
        let next = links[merged as usize].around.next;
        root = meld(links, root, merged);
        merged = next;
    }
    links[root as usize].around = Around::LOOSE;
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn a_heap_gives_the_same_order_as_sorting_under_random_removals() {
        let mut rng = Rng::new(3);
        // 24 bytes: more would be felt in the cache.
        assert_eq!(size_of::<Link>(), 24);
        for shape in [Shape::Heap, Shape::List] {
            let mut links = vec![Link::LOOSE; 300];
            // The sequence wraps on the way.
            let (mut first, mut inside, mut sequence) = (NIL, Vec::<u32>::new(), u32::MAX - 5_000);
            for _ in 0..20_000 {
                let ix = rng.below(300) as u32;
                if let Some(at) = inside.iter().position(|i| *i == ix) {
                    inside.remove(at);
                    shape.remove(&mut links, &mut first, ix);
                } else {
                    links[ix as usize].key = if shape == Shape::Heap { rng.below(50) as u64 } else { 0 };
                    links[ix as usize].sequence = sequence;
                    sequence = sequence.wrapping_add(1);
                    inside.push(ix);
                    shape.insert(&mut links, &mut first, ix);
                }
                let age = |ix: u32| sequence.wrapping_sub(links[ix as usize].sequence);
                let least = |i: &&u32| (links[**i as usize].key, std::cmp::Reverse(age(**i)));
                assert_eq!(inside.iter().min_by_key(least).copied().unwrap_or(NIL), first);
                if shape == Shape::List {
                    assert_eq!(inside.last().copied().unwrap_or(NIL), last(&links, first));
                }
            }
        }
    }
}
