//! Sets of rules as rows of bits.

/// Rows of equal length, each a set of the numbers `0..size`.
#[derive(Debug, Clone, Default)]
pub(crate) struct BitRows {
    words: usize,
    bits: Vec<u64>,
}

impl BitRows {
    /// No rows yet, each to be a set of `0..size`.
    pub(crate) fn new(size: usize) -> Self {
        Self { words: size.div_ceil(64), bits: Vec::new() }
    }

    /// Adds a row and returns its number.
    pub(crate) fn push(&mut self, members: impl IntoIterator<Item = usize>) -> usize {
        let row = self.bits.len().checked_div(self.words).unwrap_or(0);
        self.bits.resize(self.bits.len() + self.words, 0);
        for member in members {
            self.bits[row * self.words + member / 64] |= 1 << (member % 64);
        }
        row
    }

    /// All rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.bits.chunks(self.words.max(1))
    }

    /// A row.
    #[inline]
    pub(crate) fn row(&self, row: usize) -> &[u64] {
        &self.bits[row * self.words..(row + 1) * self.words]
    }

    /// The first word of a row of at least one.
    #[inline]
    pub(crate) fn first_word(&self, row: usize) -> u64 {
        self.bits[row * self.words]
    }
}
