//! How do thousands of lists and heaps live in one array, without allocating?
//!
//! An element of the array carries the links of the one structure that it is in, so joining and leaving write links
//! and allocate nothing. A structure is then one number, its first element. There are two: a circular doubly linked
//! list (first in, first out) and a pairing heap (M. Fredman, R. Sedgewick, D. Sleator, R. Tarjan, "The pairing
//! heap: a new form of self-adjusting heap", Algorithmica 1, 1986): insert O(1), remove any element O(log n)
//! amortised. The element with the least `(key, sequence)` is first in a heap.

/// No element.
pub(super) const NIL: u32 = u32::MAX;

/// The links and the key of one element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    /// The order in a heap.
    pub(super) key: u64,
    /// The order among equal keys.
    pub(super) sequence: u64,
    /// List: the element before. Heap: the sibling before, or the parent of a first child.
    previous: u32,
    /// List: the element behind. Heap: the sibling behind.
    next: u32,
    /// Heap: the first child.
    child: u32,
}

impl Link {
    pub(super) const LOOSE: Self = Self { key: 0, sequence: 0, previous: NIL, next: NIL, child: NIL };
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
                (link.previous, link.next, link.child) = (NIL, NIL, NIL);
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
pub(super) fn last(links: &[Link], first: u32) -> u32 {
    if first == NIL { NIL } else { links[first as usize].previous }
}

/// The element behind `ix` in its list.
#[inline]
pub(super) fn behind(links: &[Link], ix: u32) -> u32 {
    links[ix as usize].next
}

#[inline]
fn push_back(links: &mut [Link], first: &mut u32, ix: u32) {
    if *first == NIL {
        let link = &mut links[ix as usize];
        (link.previous, link.next) = (ix, ix);
        *first = ix;
        return;
    }
    let last = links[*first as usize].previous;
    let link = &mut links[ix as usize];
    (link.previous, link.next) = (last, *first);
    links[last as usize].next = ix;
    links[*first as usize].previous = ix;
}

#[inline]
fn unlink(links: &mut [Link], first: &mut u32, ix: u32) {
    let Link { previous, next, .. } = links[ix as usize];
    if next == ix {
        *first = NIL;
        return;
    }
    links[previous as usize].next = next;
    links[next as usize].previous = previous;
    if *first == ix {
        *first = next;
    }
}

/// Joins two heaps; gives the root.
#[inline]
fn meld(links: &mut [Link], a: u32, b: u32) -> u32 {
    let (x, y) = (&links[a as usize], &links[b as usize]);
    let a_first = x.key < y.key || (x.key == y.key && x.sequence <= y.sequence);
    let (root, child) = if a_first { (a, b) } else { (b, a) };
    let eldest = links[root as usize].child;
    let link = &mut links[child as usize];
    (link.previous, link.next) = (root, eldest);
    if eldest != NIL {
        links[eldest as usize].previous = child;
    }
    let link = &mut links[root as usize];
    (link.previous, link.next, link.child) = (NIL, NIL, child);
    root
}

fn heap_remove(links: &mut [Link], first: &mut u32, ix: u32) {
    let orphans = merge_children(links, ix);
    if *first == ix {
        *first = orphans;
        return;
    }
    let Link { previous, next, .. } = links[ix as usize];
    if links[previous as usize].child == ix {
        links[previous as usize].child = next;
    } else {
        links[previous as usize].next = next;
    }
    if next != NIL {
        links[next as usize].previous = previous;
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
        let b = links[a as usize].next;
        let pair = if b == NIL {
            rest = NIL;
            a
        } else {
            rest = links[b as usize].next;
            meld(links, a, b)
        };
        links[pair as usize].next = merged;
        merged = pair;
    }
    let mut root = NIL;
    while merged != NIL {
        let next = links[merged as usize].next;
        root = if root == NIL { merged } else { meld(links, root, merged) };
        merged = next;
    }
    if root != NIL {
        let link = &mut links[root as usize];
        (link.previous, link.next) = (NIL, NIL);
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn a_heap_gives_the_same_order_as_sorting_under_random_removals() {
        let mut rng = Rng::new(3);
        for shape in [Shape::Heap, Shape::List] {
            let mut links = vec![Link::LOOSE; 300];
            let (mut first, mut inside, mut sequence) = (NIL, Vec::<u32>::new(), 0);
            for _ in 0..20_000 {
                let ix = rng.below(300) as u32;
                if let Some(at) = inside.iter().position(|i| *i == ix) {
                    inside.remove(at);
                    shape.remove(&mut links, &mut first, ix);
                } else {
                    links[ix as usize].key = if shape == Shape::Heap { rng.below(50) as u64 } else { 0 };
                    links[ix as usize].sequence = sequence;
                    sequence += 1;
                    inside.push(ix);
                    shape.insert(&mut links, &mut first, ix);
                }
                let least = |i: &&u32| (links[**i as usize].key, links[**i as usize].sequence);
                assert_eq!(inside.iter().min_by_key(least).copied().unwrap_or(NIL), first);
                if shape == Shape::List {
                    assert_eq!(inside.last().copied().unwrap_or(NIL), last(&links, first));
                }
            }
        }
    }
}
