//! How many bytes of bodies does the process hold?
//!
//! A body that is read before it is sent on counts from its first byte until the last copy of it is gone. Bytes count
//! as they come, so that whoever only announces a long body keeps nobody out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// The bytes that are held.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<AtomicUsize>);

/// A body that comes.
#[derive(Debug)]
pub(super) struct Gathered {
    buffers: Buffers,
    first: Bytes,
    /// Where it came in more than one piece, all of it.
    rest: BytesMut,
    counted: usize,
}

/// A body that is held.
struct Held {
    bytes: Bytes,
    // Dropped with the bytes.
    _count: Count,
}

struct Count {
    buffers: Buffers,
    bytes: usize,
}

impl Buffers {
    /// What is held now.
    pub(super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Begins to hold a body.
    pub(super) fn begin(&self) -> Gathered {
        Gathered { buffers: self.clone(), first: Bytes::new(), rest: BytesMut::new(), counted: 0 }
    }
}

impl Gathered {
    /// How much of it has come.
    pub(super) fn len(&self) -> usize {
        self.counted
    }

    /// Takes another piece, unless the process would then hold more than `most` bytes.
    pub(super) fn push(&mut self, piece: Bytes, most: usize) -> bool {
        let room = |held: usize| held.checked_add(piece.len()).filter(|all| *all <= most);
        if self.buffers.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            return false;
        }
        if self.counted == 0 {
            self.first = piece.clone();
        } else {
            if self.rest.is_empty() {
                self.rest.extend_from_slice(&std::mem::take(&mut self.first));
            }
            self.rest.extend_from_slice(&piece);
        }
        self.counted += piece.len();
        true
    }

    /// All of it.
    pub(super) fn whole(mut self) -> Bytes {
        let bytes = if self.rest.is_empty() {
            std::mem::take(&mut self.first)
        } else {
            std::mem::take(&mut self.rest).freeze()
        };
        let count = Count { buffers: self.buffers.clone(), bytes: std::mem::take(&mut self.counted) };
        Bytes::from_owner(Held { bytes, _count: count })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.buffers.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        self.buffers.0.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_the_last_copy_of_a_body_is_gone() {
        let buffers = Buffers::default();
        let mut body = buffers.begin();
        assert!(body.push(Bytes::from_static(b"abc"), 8) && body.push(Bytes::from_static(b"de"), 8));
        assert!(!body.push(Bytes::from_static(b"more"), 8), "nine would be held");
        assert_eq!((body.len(), buffers.bytes()), (5, 5));
        let whole = body.whole();
        let copy = whole.clone();
        assert_eq!(whole, "abcde");
        drop(whole);
        assert_eq!(buffers.bytes(), 5);
        drop(copy);
        assert_eq!(buffers.bytes(), 0);
        let mut given_up = buffers.begin();
        assert!(given_up.push(Bytes::from_static(b"abc"), 3));
        drop(given_up);
        assert_eq!(buffers.bytes(), 0);
    }
}
