//! How do classes of demands share out their known paths, and what are links worth then?
//!
//! The restricted master of column generation, by rows `l` (links that may become the fullest) and classes `k`
//! with columns `p`, in utilisation:
//!
//! ```text
//! min θ   s.t.   Σ_{p ∈ k} x_p = 1,    f_l + Σ_p a_lp x_p + s_l = θ,    x, s ≥ 0
//! ```
//!
//! An interior-point method (Mehrotra's predictor and corrector) stops early, while the prices `w` (`Σ w = 1`)
//! are still well inside: such prices change little from one master to the next, where those of a simplex
//! method jump between corners (Gondzio, González-Brevis, Munari 2013, *New developments in the primal–dual
//! column generation technique*). It starts near the shares in force, which are good, at a reduced cost for each
//! column that fits its share; what such costs miss to be those of the prices falls to zero on the way (an
//! infeasible start, on the side of the prices only). Classes are eliminated from Newton's equations in closed form, what remains
//! is dense in rows:
//!
//! ```text
//! M = diag(s/w) + Σ_k Σ_{p ∈ k} D_p (a_p − ā_k)(a_p − ā_k)ᵀ,    D = x/z,   ā_k = Σ_p D_p a_p / Σ_p D_p
//! ```

/// How far to the boundary a step goes.
const DAMPING: f64 = 0.95;

/// The shares start from those in force and this part of equal ones.
const INSIDE: f64 = 0.02;

/// The products of shares and reduced costs start at this many times the mean of those of slacks and prices.
const START: f64 = 3.0;

/// Newton steps of one solve; a dozen is usual.
const STEPS: usize = 60;

/// Demands that have the same choice.
#[derive(Debug, Clone)]
pub(super) struct Class {
    /// Rows that some but not all columns cross, each with `demand / capacity`.
    pub(super) rows: Vec<(u32, f64)>,
    /// By column: the positions in `rows` that it crosses.
    pub(super) columns: Vec<Vec<u32>>,
}

/// The linear program.
#[derive(Debug, Clone, Default)]
pub(super) struct Master {
    /// `f`: utilisation of each row that is not shared out here.
    pub(super) fixed: Vec<f64>,
    pub(super) classes: Vec<Class>,
    /// Shares in force of all columns, class after class; each class has the sum 1.
    pub(super) shares: Vec<f64>,
}

/// When the master need go on no longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Enough {
    /// `θ` less its bound.
    pub(super) gap: f64,
    /// `θ`.
    pub(super) utilization: f64,
}

/// Where the method stopped.
#[derive(Debug, Clone)]
pub(super) struct Interior {
    /// Shares of all columns, class after class.
    pub(super) shares: Vec<f64>,
    /// Prices by row, `Σ w = 1`.
    pub(super) weights: Vec<f64>,
    /// The complementarity at the end, a slack times its price.
    pub(super) smoothing: f64,
}

/// Iterate: primal feasible at all times.
struct Point {
    x: Vec<f64>,
    z: Vec<f64>,
    s: Vec<f64>,
    w: Vec<f64>,
    theta: f64,
    /// What reduced costs miss: `a_pᵀw − π_k − z_p`.
    missed: Vec<f64>,
}

struct Direction {
    x: Vec<f64>,
    z: Vec<f64>,
    s: Vec<f64>,
    w: Vec<f64>,
    theta: f64,
}

impl Master {
    /// Solves until `enough` or `late` says so, starting near the shares in force and the prices `weights`
    /// (positive), where `θ` less its bound is about `start_gap`.
    pub(super) fn solve(
        &self,
        weights: &[f64],
        start_gap: f64,
        enough: Enough,
        late: &impl Fn() -> bool,
    ) -> Interior {
        let rows = self.fixed.len();
        let pairs = (rows + self.shares.len()) as f64;
        let gap = enough.gap;
        let mut point = self.start(weights, start_gap.max(gap) / pairs);
        let mut matrix = vec![0.0; rows * rows];
        let mut steps = 0;
        let complement = |point: &Point| dot(&point.x, &point.z) + dot(&point.s, &point.w);
        let mut total = complement(&point);
        while total > gap && point.theta > enough.utilization && steps < STEPS && !late() {
            steps += 1;
            self.normal(&point, &mut matrix);
            if !factor(&mut matrix, rows) {
                break;
            }
            let rx: Vec<f64> = point.x.iter().zip(&point.z).map(|(x, z)| -x * z).collect();
            let rs: Vec<f64> = point.s.iter().zip(&point.w).map(|(s, w)| -s * w).collect();
            let predictor = self.direction(&point, &matrix, &rx, &rs);
            let (primal, dual) = lengths(&point, &predictor);
            let after = dot_moved(&point.x, &predictor.x, primal, &point.z, &predictor.z, dual)
                + dot_moved(&point.s, &predictor.s, primal, &point.w, &predictor.w, dual);
            let centering = (after / total).powi(3).clamp(1e-4, 0.5);
            // Never aims far below what was asked for: the prices are to stay inside.
            let target = (centering * total).max(0.3 * gap) / pairs;
            let second = |r: &[f64], a: &[f64], b: &[f64]| -> Vec<f64> {
                r.iter().zip(a.iter().zip(b)).map(|(r, (a, b))| r + target - a * b).collect()
            };
            let direction = self.direction(
                &point,
                &matrix,
                &second(&rx, &predictor.x, &predictor.z),
                &second(&rs, &predictor.s, &predictor.w),
            );
            let (primal, dual) = lengths(&point, &direction);
            let (primal, dual) = ((DAMPING * primal).min(1.0), (DAMPING * dual).min(1.0));
            let after = dot_moved(&point.x, &direction.x, primal, &point.z, &direction.z, dual)
                + dot_moved(&point.s, &direction.s, primal, &point.w, &direction.w, dual);
            if !after.is_finite() {
                // Rounding has got the better of the factors; the point before is as good as it gets.
                break;
            }
            advance(&mut point.x, &direction.x, primal);
            advance(&mut point.s, &direction.s, primal);
            point.theta += primal * direction.theta;
            advance(&mut point.z, &direction.z, dual);
            advance(&mut point.w, &direction.w, dual);
            point.missed.iter_mut().for_each(|missed| *missed *= 1.0 - dual);
            let before = total;
            total = complement(&point);
            if primal.max(dual) < 1e-8 && total >= before {
                break;
            }
        }
        normalize(&mut point.w);
        Interior { shares: point.x, weights: point.w, smoothing: total / pairs }
    }

    /// A point near the shares in force, all of whose products are about `smoothing` or more.
    fn start(&self, weights: &[f64], smoothing: f64) -> Point {
        let mut x = self.shares.clone();
        for of_class in self.by_class(&mut x) {
            let equal = INSIDE / of_class.len() as f64;
            of_class.iter_mut().for_each(|x| *x = (1.0 - INSIDE) * *x + equal);
        }
        let u = self.utilization(&x);
        let mut w: Vec<f64> = weights.to_vec();
        normalize(&mut w);
        let top = u.iter().copied().fold(0.0, f64::max);
        let theta = top + smoothing / w.iter().copied().fold(0.0, f64::max);
        let s: Vec<f64> = u.iter().map(|u| theta - u).collect();
        let smoothing = smoothing.max(START * dot(&w, &s) / (x.len() + s.len()) as f64);
        // A slack far from its price would make the first step short.
        for (w, s) in w.iter_mut().zip(&s) {
            *w = w.max(smoothing / s);
        }
        normalize(&mut w);
        let (mut z, mut missed) = (Vec::with_capacity(x.len()), Vec::with_capacity(x.len()));
        let mut lengths = Vec::new();
        for class in &self.classes {
            lengths.clear();
            lengths.extend(class.columns.iter().map(|column| class.length(column, &w)));
            let x = &x[z.len()..][..lengths.len()];
            // Costs that are those of the prices have Σ x z = n μ at this π; too small ones are raised.
            let price = dot(&lengths, x) - smoothing * lengths.len() as f64;
            for (length, x) in lengths.iter().zip(x) {
                let cost = length - price;
                let inside = cost.max(smoothing / x);
                z.push(inside);
                missed.push(cost - inside);
            }
        }
        Point { x, z, s, w, theta, missed }
    }

    /// The columns' numbers, class after class.
    fn by_class<'x>(&self, x: &'x mut [f64]) -> impl Iterator<Item = &'x mut [f64]> {
        let mut rest = x;
        self.classes.iter().map(move |class| {
            let (of_class, others) = std::mem::take(&mut rest).split_at_mut(class.columns.len());
            rest = others;
            of_class
        })
    }

    pub(super) fn utilization(&self, x: &[f64]) -> Vec<f64> {
        let mut u = self.fixed.clone();
        let mut x = x.iter();
        for class in &self.classes {
            for (column, x) in class.columns.iter().zip(&mut x) {
                for row in column {
                    let (row, per_share) = class.rows[*row as usize];
                    u[row as usize] += per_share * x;
                }
            }
        }
        u
    }

    /// Writes the lower triangle of `M`.
    ///
    /// With `b_p = a_p − a_q` for the column `q` of the largest `D`, the part of a class is
    /// `Σ_{p≠q} D_p b_p b_pᵀ − (Σ_{p≠q} D_p b_p)(Σ_{p≠q} D_p b_p)ᵀ / Σ_p D_p`: two columns differ in few rows, and
    /// no difference of large numbers is taken.
    fn normal(&self, point: &Point, matrix: &mut [f64]) {
        let rows = self.fixed.len();
        matrix.fill(0.0);
        for row in 0..rows {
            matrix[row * rows + row] = point.s[row] / point.w[row];
        }
        let mut at = 0;
        let (mut sum, mut differences) = (Vec::new(), Vec::new());
        let mut all: Vec<(u32, f64)> = Vec::new();
        for class in &self.classes {
            let range = at..at + class.columns.len();
            at = range.end;
            let scale = |p: usize| point.x[p] / point.z[p];
            let total: f64 = range.clone().map(scale).sum();
            let Some(largest) = range.clone().max_by(|a, b| scale(*a).total_cmp(&scale(*b))) else {
                continue;
            };
            let key = &class.columns[largest - range.start];
            sum.clear();
            sum.resize(class.rows.len(), 0.0);
            for (column, p) in class.columns.iter().zip(range) {
                if p == largest {
                    continue;
                }
                differ(column, key, &mut differences);
                let d = scale(p);
                for (row, sign) in &differences {
                    sum[*row as usize] += d * sign;
                }
                // Two columns: both terms are one.
                let d = if class.columns.len() == 2 { d - d * d / total } else { d };
                class.add_outer(&differences, d, matrix, rows);
            }
            if class.columns.len() > 2 {
                all.clear();
                let entries = sum.iter().enumerate().filter(|(_, sum)| **sum != 0.0);
                all.extend(entries.map(|(row, sum)| (row as u32, *sum)));
                class.add_outer(&all, -1.0 / total, matrix, rows);
            }
        }
    }

    /// Newton's direction for `z Δx + x Δz = rx`, `w Δs + s Δw = rs`, to reduced costs that miss nothing.
    fn direction(&self, point: &Point, factor: &[f64], rx: &[f64], rs: &[f64]) -> Direction {
        let rows = self.fixed.len();
        let columns = rx.len();
        let rx: Vec<f64> = rx
            .iter()
            .zip(point.x.iter().zip(&point.missed))
            .map(|(rx, (x, missed))| rx - x * missed)
            .collect();
        // Shares as they would change at fixed prices.
        let mut dx = vec![0.0; columns];
        let mut at = 0;
        for class in &self.classes {
            let range = at..at + class.columns.len();
            at = range.end;
            let (mut sum, mut total) = (0.0, 0.0);
            for p in range.clone() {
                dx[p] = rx[p] / point.z[p];
                sum += dx[p];
                total += point.x[p] / point.z[p];
            }
            for p in range {
                dx[p] -= point.x[p] / point.z[p] * sum / total;
            }
        }
        let mut right: Vec<f64> = rs.iter().zip(&point.w).map(|(r, w)| r / w).collect();
        self.add_change(&dx, &mut right);
        // M Δw + 1 Δθ = right, 1ᵀΔw = 0.
        let mut ones = vec![1.0; rows];
        back_solve(factor, rows, &mut right);
        back_solve(factor, rows, &mut ones);
        let theta = right.iter().sum::<f64>() / ones.iter().sum::<f64>();
        let mut dw: Vec<f64> = right.iter().zip(&ones).map(|(r, o)| r - theta * o).collect();
        let drift = dw.iter().sum::<f64>() / rows as f64;
        dw.iter_mut().for_each(|d| *d -= drift);
        let mut dz = vec![0.0; columns];
        at = 0;
        for class in &self.classes {
            let range = at..at + class.columns.len();
            at = range.end;
            let (mut mean, mut total) = (0.0, 0.0);
            for (column, p) in class.columns.iter().zip(range.clone()) {
                dz[p] = class.length(column, &dw);
                let d = point.x[p] / point.z[p];
                mean += d * dz[p];
                total += d;
            }
            mean /= total;
            // π also answers for what the right side of the class asks: z Δx + x Δz = rx must hold.
            let given: f64 = range.clone().map(|p| rx[p] / point.z[p]).sum::<f64>() / total;
            for p in range {
                let d = point.x[p] / point.z[p];
                dx[p] -= d * (dz[p] - mean);
                dz[p] += given - mean + point.missed[p];
            }
        }
        let mut change = vec![0.0; rows];
        self.add_change(&dx, &mut change);
        let ds = change.iter().map(|c| theta - c).collect();
        Direction { x: dx, z: dz, s: ds, w: dw, theta }
    }

    /// Adds what a change of shares does to the rows.
    fn add_change(&self, dx: &[f64], rows: &mut [f64]) {
        let mut dx = dx.iter();
        for class in &self.classes {
            for (column, dx) in class.columns.iter().zip(&mut dx) {
                for row in column {
                    let (row, per_share) = class.rows[*row as usize];
                    rows[row as usize] += per_share * dx;
                }
            }
        }
    }
}

impl Class {
    /// Length of a column under prices.
    fn length(&self, column: &[u32], weights: &[f64]) -> f64 {
        column
            .iter()
            .map(|row| {
                let (row, per_share) = self.rows[*row as usize];
                per_share * weights[row as usize]
            })
            .sum()
    }

    /// Adds `scale v vᵀ` to the lower triangle, `v` by rising position in `rows` and in shares.
    fn add_outer(&self, v: &[(u32, f64)], scale: f64, matrix: &mut [f64], width: usize) {
        for (i, (place, value)) in v.iter().enumerate() {
            let (row, per_share) = self.rows[*place as usize];
            let left = scale * value * per_share;
            let line = &mut matrix[row as usize * width..][..width];
            // Rows rise, so this is the lower triangle.
            for (place, value) in &v[..=i] {
                let (other, per_share) = self.rows[*place as usize];
                line[other as usize] += left * value * per_share;
            }
        }
    }
}

/// The rows that only one of two columns crosses: 1 for the first, −1 for the second.
fn differ(column: &[u32], key: &[u32], differences: &mut Vec<(u32, f64)>) {
    differences.clear();
    let (mut column, mut key) = (column.iter().peekable(), key.iter().peekable());
    loop {
        match (column.peek(), key.peek()) {
            (Some(a), Some(b)) if a == b => {
                column.next();
                key.next();
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => {
                differences.push((**a, 1.0));
                column.next();
            }
            (_, Some(b)) => {
                differences.push((**b, -1.0));
                key.next();
            }
            (_, None) => return,
        }
    }
}

/// Step lengths to the boundary: primal, dual.
fn lengths(point: &Point, direction: &Direction) -> (f64, f64) {
    let most = |a: &[f64], d: &[f64]| {
        a.iter()
            .zip(d)
            .map(|(a, d)| if *d < 0.0 { -a / d } else { f64::INFINITY })
            .fold(f64::INFINITY, f64::min)
    };
    let primal = most(&point.x, &direction.x).min(most(&point.s, &direction.s));
    let dual = most(&point.z, &direction.z).min(most(&point.w, &direction.w));
    (primal.min(1.0 / DAMPING), dual.min(1.0 / DAMPING))
}

/// Scales to the sum 1.
fn normalize(weights: &mut [f64]) {
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|w| *w /= sum);
}

fn advance(point: &mut [f64], direction: &[f64], step: f64) {
    for (a, d) in point.iter_mut().zip(direction) {
        *a += step * d;
    }
}

fn dot_moved(a: &[f64], da: &[f64], step_a: f64, b: &[f64], db: &[f64], step_b: f64) -> f64 {
    let moved = a.iter().zip(da).map(|(a, d)| a + step_a.min(1.0) * d);
    moved.zip(b.iter().zip(db)).map(|(a, (b, d))| a * (b + step_b.min(1.0) * d)).sum()
}

/// Inner product in eight sums, so that it is vectorised.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (left, right) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in left.zip(right) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}

/// Rows of a tile of Cholesky's method.
const TILE: usize = 4;

/// Cholesky's factor in place of the lower triangle; false when the matrix is not positive definite.
fn factor(matrix: &mut [f64], width: usize) -> bool {
    for first in (0..width).step_by(TILE) {
        let count = TILE.min(width - first);
        let (above, lines) = matrix.split_at_mut(first * width);
        let lines = &mut lines[..count * width];
        // Whole tiles: each number that is read counts four times.
        if count == TILE {
            let (a, rest) = lines.split_at_mut(width);
            let (b, rest) = rest.split_at_mut(width);
            let (c, d) = rest.split_at_mut(width);
            for column in 0..first {
                let other = &above[column * width..][..=column];
                let sums = dot4([&a[..column], &b[..column], &c[..column], &d[..column]], &other[..column]);
                let pivot = other[column];
                a[column] = (a[column] - sums[0]) / pivot;
                b[column] = (b[column] - sums[1]) / pivot;
                c[column] = (c[column] - sums[2]) / pivot;
                d[column] = (d[column] - sums[3]) / pivot;
            }
        } else {
            for line in lines.chunks_mut(width) {
                for column in 0..first {
                    let other = &above[column * width..][..=column];
                    line[column] = (line[column] - dot(&line[..column], &other[..column])) / other[column];
                }
            }
        }
        for at in 0..count {
            let row = first + at;
            let (before, line) = lines.split_at_mut(at * width);
            for (place, other) in before.chunks(width).enumerate() {
                let column = first + place;
                line[column] = (line[column] - dot(&line[..column], &other[..column])) / other[column];
            }
            let square = line[row] - dot(&line[..row], &line[..row]);
            if !(square > 0.0 && square.is_finite()) {
                return false;
            }
            line[row] = square.sqrt();
        }
    }
    true
}

/// Inner products of four lines with one.
fn dot4(lines: [&[f64]; TILE], other: &[f64]) -> [f64; TILE] {
    const LANES: usize = 4;
    let length = other.len();
    let whole = length - length % LANES;
    let mut sums = [[0.0; LANES]; TILE];
    let [a, b, c, d] = lines.map(|line| &line[..length]);
    let mut at = 0;
    while at < whole {
        let o = &other[at..at + LANES];
        let (a, b, c, d) = (&a[at..at + LANES], &b[at..at + LANES], &c[at..at + LANES], &d[at..at + LANES]);
        for lane in 0..LANES {
            sums[0][lane] += a[lane] * o[lane];
            sums[1][lane] += b[lane] * o[lane];
            sums[2][lane] += c[lane] * o[lane];
            sums[3][lane] += d[lane] * o[lane];
        }
        at += LANES;
    }
    let mut products = sums.map(|sums| (sums[0] + sums[1]) + (sums[2] + sums[3]));
    for at in whole..length {
        for (product, line) in products.iter_mut().zip([a, b, c, d]) {
            *product += line[at] * other[at];
        }
    }
    products
}

/// Solves with Cholesky's factor in place.
fn back_solve(factor: &[f64], width: usize, right: &mut [f64]) {
    for row in 0..width {
        let line = &factor[row * width..][..=row];
        right[row] = (right[row] - dot(&line[..row], &right[..row])) / line[row];
    }
    for row in (0..width).rev() {
        let line = &factor[row * width..][..=row];
        right[row] /= line[row];
        let value = right[row];
        for (other, l) in right[..row].iter_mut().zip(line) {
            *other -= value * l;
        }
    }
}
