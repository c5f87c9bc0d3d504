//! How does a dense inverse follow a basis that grows, shrinks and changes by one row or column at a time?

/// The inverse of the working basis: one row for each basic column, one column for each tight link.
#[derive(Debug, Clone, Default)]
pub(super) struct Inverse {
    size: usize,
    stride: usize,
    entries: Vec<f64>,
    line: Vec<f64>,
}

impl Inverse {
    pub(super) fn clear(&mut self) {
        self.size = 0;
    }

    pub(super) fn row(&self, at: usize) -> &[f64] {
        &self.entries[at * self.stride..][..self.size]
    }

    pub(super) fn at(&self, row: usize, column: usize) -> f64 {
        self.entries[row * self.stride + column]
    }

    /// `product = W⁻¹ vector`.
    pub(super) fn times(&self, vector: &[f64], product: &mut Vec<f64>) {
        product.clear();
        product.extend((0..self.size).map(|row| dot(self.row(row), vector)));
    }

    /// `product = vectorᵀ W⁻¹`.
    pub(super) fn times_from_left(&self, vector: &[f64], product: &mut Vec<f64>) {
        product.clear();
        product.resize(self.size, 0.0);
        for (row, factor) in vector.iter().enumerate() {
            if *factor != 0.0 {
                add(product, *factor, self.row(row));
            }
        }
    }

    /// Column `at` of `W` becomes the vector with `W⁻¹ vector = image`.
    pub(super) fn replace_column(&mut self, at: usize, image: &[f64]) {
        let pivot = 1.0 / image[at];
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.extend(self.row(at).iter().map(|entry| entry * pivot));
        for row in 0..self.size {
            if row == at {
                self.row_mut(row).copy_from_slice(&line);
            } else if image[row] != 0.0 {
                add(self.row_mut(row), -image[row], &line);
            }
        }
        self.line = line;
    }

    /// Row `at` of `W` becomes the vector with `vectorᵀ W⁻¹ = image`.
    pub(super) fn replace_row(&mut self, at: usize, image: &[f64]) {
        let pivot = 1.0 / image[at];
        for row in 0..self.size {
            let entries = self.row_mut(row);
            let factor = entries[at] * pivot;
            if factor != 0.0 {
                add(entries, -factor, image);
                entries[at] = factor;
            }
        }
    }

    /// `W` gains a column with `W⁻¹ column = right`, a row with `rowᵀ W⁻¹ = left`, and a corner such that
    /// `corner − rowᵀ W⁻¹ column = rest`.
    pub(super) fn grow(&mut self, right: &[f64], left: &[f64], rest: f64) {
        let size = self.size;
        if size == self.stride {
            let stride = (2 * self.stride).max(8);
            let mut entries = vec![0.0; stride * stride];
            for row in 0..size {
                entries[row * stride..][..size].copy_from_slice(self.row(row));
            }
            self.stride = stride;
            self.entries = entries;
        }
        let stride = self.stride;
        for row in 0..size {
            let factor = right[row] / rest;
            let entries = &mut self.entries[row * stride..][..=size];
            if factor != 0.0 {
                add(&mut entries[..size], factor, left);
            }
            entries[size] = -factor;
        }
        let last = &mut self.entries[size * stride..][..=size];
        for (entry, value) in last.iter_mut().zip(left) {
            *entry = -value / rest;
        }
        last[size] = 1.0 / rest;
        self.size = size + 1;
    }

    /// `W` loses a column (row of the inverse) and a row (column of the inverse); the last ones take their
    /// places.
    pub(super) fn shrink(&mut self, row: usize, column: usize) {
        let last = self.size - 1;
        let pivot = 1.0 / self.at(row, column);
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.extend_from_slice(self.row(row));
        for other in (0..self.size).filter(|other| *other != row) {
            let entries = self.row_mut(other);
            let factor = entries[column] * pivot;
            if factor != 0.0 {
                add(entries, -factor, &line);
            }
            entries[column] = entries[last];
        }
        if row != last {
            self.entries.copy_within(last * self.stride..last * self.stride + last, row * self.stride);
        }
        self.line = line;
        self.size = last;
    }

    /// The column `at` becomes the key of its set, and the key takes its place among the `members`.
    pub(super) fn swap_key(&mut self, at: usize, members: &[usize]) {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        line.resize(self.size, 0.0);
        for member in members {
            add(&mut line, -1.0, self.row(*member));
        }
        self.row_mut(at).copy_from_slice(&line);
        self.line = line;
    }

    /// Inverts `matrix` (`size` by `size`, by rows) by Gauss–Jordan elimination with row pivots; false, and
    /// nothing usable, where it is singular.
    pub(super) fn invert(&mut self, size: usize, matrix: &mut [f64]) -> bool {
        if size > self.stride {
            self.stride = size.next_power_of_two().max(8);
            self.entries.clear();
            self.entries.resize(self.stride * self.stride, 0.0);
        }
        self.size = size;
        for row in 0..size {
            self.row_mut(row).fill(0.0);
            self.row_mut(row)[row] = 1.0;
        }
        let mut line = std::mem::take(&mut self.line);
        let mut regular = true;
        for column in 0..size {
            let best = (column..size)
                .max_by(|a, b| matrix[a * size + column].abs().total_cmp(&matrix[b * size + column].abs()));
            let Some(best) = best.filter(|row| matrix[row * size + column].abs() > SINGULAR) else {
                regular = false;
                break;
            };
            if best != column {
                for at in 0..size {
                    matrix.swap(best * size + at, column * size + at);
                    self.entries.swap(best * self.stride + at, column * self.stride + at);
                }
            }
            let pivot = 1.0 / matrix[column * size + column];
            line.clear();
            for at in 0..size {
                matrix[column * size + at] *= pivot;
                line.push(matrix[column * size + at]);
            }
            for entry in self.row_mut(column) {
                *entry *= pivot;
            }
            line.extend_from_slice(self.row(column));
            for row in (0..size).filter(|row| *row != column) {
                let factor = matrix[row * size + column];
                if factor != 0.0 {
                    add(&mut matrix[row * size..][column..size], -factor, &line[column..size]);
                    add(self.row_mut(row), -factor, &line[size..]);
                }
            }
        }
        self.line = line;
        regular
    }

    fn row_mut(&mut self, at: usize) -> &mut [f64] {
        &mut self.entries[at * self.stride..][..self.size]
    }
}

/// Pivots below this are zeros that rounding has blurred; entries are of size 1.
const SINGULAR: f64 = 1e-10;

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums that do not wait for each other.
    let mut sums = [0.0; 4];
    let (a4, b4) = (a.chunks_exact(4), b.chunks_exact(4));
    let tail: f64 = a4.remainder().iter().zip(b4.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a4.zip(b4) {
        for at in 0..4 {
            sums[at] += x[at] * y[at];
        }
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + tail
}

/// `target += factor · other`.
fn add(target: &mut [f64], factor: f64, other: &[f64]) {
    for (entry, value) in target.iter_mut().zip(other) {
        *entry += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    /// The inverse of `matrix`, rows of `W`.
    fn inverse(matrix: &[Vec<f64>]) -> Inverse {
        let mut inverse = Inverse::default();
        assert!(inverse.invert(matrix.len(), &mut matrix.concat()));
        inverse
    }

    #[track_caller]
    fn same(found: &Inverse, matrix: &[Vec<f64>]) {
        let expected = inverse(matrix);
        assert_eq!(found.size, expected.size);
        for row in 0..expected.size {
            for (found, expected) in found.row(row).iter().zip(expected.row(row)) {
                assert!((found - expected).abs() < 1e-9, "found {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn every_update_gives_what_inverting_anew_gives() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut draw =
            |count: usize| -> Vec<f64> { (0..count).map(|_| random.random_range(0.5..2.0)).collect() };
        let mut matrix: Vec<Vec<f64>> = (0..6).map(|_| draw(6)).collect();
        for (at, row) in matrix.iter_mut().enumerate() {
            row[at] += 8.0;
        }
        let mut found = inverse(&matrix);
        let (mut right, mut left) = (Vec::new(), Vec::new());

        let mut column = draw(6);
        column[2] += 8.0;
        found.times(&column, &mut right);
        found.replace_column(2, &right);
        for (row, entry) in matrix.iter_mut().zip(&column) {
            row[2] = *entry;
        }
        same(&found, &matrix);

        let mut row = draw(6);
        row[4] += 8.0;
        found.times_from_left(&row, &mut left);
        found.replace_row(4, &left);
        matrix[4] = row;
        same(&found, &matrix);

        for _ in 0..5 {
            let size = matrix.len();
            let (column, row, corner) = (draw(size), draw(size), 9.0);
            found.times(&column, &mut right);
            found.times_from_left(&row, &mut left);
            found.grow(&right, &left, corner - dot(&row, &right));
            for (row, entry) in matrix.iter_mut().zip(&column) {
                row.push(*entry);
            }
            matrix.push([row, vec![corner]].concat());
            same(&found, &matrix);
        }

        // The column of row 3 of the inverse and row 3 of the matrix go; the last ones take their places.
        found.shrink(3, 3);
        matrix.swap_remove(3);
        for row in &mut matrix {
            row.swap_remove(3);
        }
        same(&found, &matrix);

        // Columns 1, 4 and 5 are of one set: 4 becomes its key.
        found.swap_key(4, &[1, 4, 5]);
        for row in &mut matrix {
            let key = row[4];
            row[1] -= key;
            row[5] -= key;
            row[4] = -key;
        }
        same(&found, &matrix);
    }
}
