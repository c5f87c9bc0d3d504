//! How is the master problem solved when almost every commodity stays on one path?
//!
//! The restricted master has a row for each link and one for each set of columns (the paths of a commodity):
//!
//! ```text
//! min Σ_j c_j x_j + Σ_l φ_l(load_l)   s.t.   Σ_{j ∈ set k} x_j = d_k,   load_l = Σ_j a_lj x_j,   x ≥ 0
//! ```
//!
//! with `φ_l` convex and piecewise linear; a hard limit is a slope that turns infinite. Generalised upper
//! bounding (Dantzig & Van Slyke 1967; for multicommodity flows "primal partitioning": Farvolden, Powell & Lustig
//! 1993) keeps one *key* column per set out of the basis that is inverted. What is left, the working basis
//! `W_lj = a_lj − a_l,key(j)`, has a row for each *tight* link only (a link whose load is at a kink of `φ`) and
//! as many columns. A set that is not split has its key and nothing else, so it costs nothing.
//!
//! The price of a link that is not tight is the slope of `φ` at its load; those of tight links make the reduced
//! costs of the basic columns zero. `price` is what one more bit/s on a link costs.

use super::columns::Columns;
use super::inverse::Inverse;

pub(super) const NONE: u32 = u32::MAX;

/// A basic column of the inverse and the reduced cost of none may be smaller than this in a ratio test.
const PIVOT: f64 = 1e-9;
/// Coefficients below this are rounding.
const ZERO: f64 = 1e-12;
/// Primal tolerance of the ratio test, relative to the scales given.
const SLACK: f64 = 1e-12;
const REFACTOR: usize = 64;

/// What enters the basis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Entering {
    Column(u32),
    /// The load of the tight link at this position moves by this sign.
    Load(usize, f64),
}

/// What leaves the basis.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Leaving {
    Basic(usize),
    Key(u32),
    /// The load of a link that was not tight reaches a kink.
    Load(u32),
    /// The entering load reaches its next kink.
    Itself,
}

/// The kinks of `φ` in loads, and its slopes, for each link; without them a limit is hard.
#[derive(Debug, Clone, Default)]
pub(super) struct Curves {
    /// By link, `pieces` slopes each.
    pub(super) slopes: Vec<f64>,
    /// By link, `pieces` upper ends each, the last infinite.
    pub(super) ends: Vec<f64>,
    pub(super) pieces: usize,
    /// The piece each link is on; a tight one is at its end.
    piece: Vec<usize>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Master {
    pub(super) columns: Columns,
    /// Demand by set.
    pub(super) demand: Vec<f64>,
    pub(super) key: Vec<u32>,
    pub(super) key_value: Vec<f64>,
    /// By link: the load at which it is tight.
    pub(super) limit: Vec<f64>,
    pub(super) load: Vec<f64>,
    pub(super) price: Vec<f64>,
    /// Tolerance of each link's load.
    pub(super) load_slack: Vec<f64>,
    /// Tolerance of a column's value.
    pub(super) value_slack: f64,
    pub(super) tight: Vec<u32>,
    pub(super) basic: Vec<u32>,
    pub(super) value: Vec<f64>,
    pub(super) pivots: usize,
    curves: Option<Curves>,
    /// Position of each link among the tight ones.
    place: Vec<u32>,
    inverse: Inverse,
    since_factor: usize,
    // Scratch.
    gather: Vec<f64>,
    image: Vec<f64>,
    left: Vec<f64>,
    matrix: Vec<f64>,
    change: Vec<f64>,
    set_change: Vec<f64>,
    touched: Vec<u32>,
    load_change: Vec<f64>,
    ray: Vec<f64>,
}

impl Curves {
    pub(super) fn new(pieces: usize) -> Self {
        Self { pieces, ..Self::default() }
    }
}

/// A basis without its numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Basis {
    key: Vec<u32>,
    tight: Vec<u32>,
    basic: Vec<u32>,
    inverse: Inverse,
}

impl Master {
    pub(super) fn new(links: usize) -> Self {
        Self {
            limit: vec![0.0; links],
            load: vec![0.0; links],
            price: vec![0.0; links],
            load_slack: vec![0.0; links],
            load_change: vec![0.0; links],
            ray: vec![0.0; links],
            place: vec![NONE; links],
            ..Self::default()
        }
    }

    /// Forgets all columns; memory is kept.
    pub(super) fn clear(&mut self) {
        self.columns.clear();
        self.demand.clear();
        self.key.clear();
        self.key_value.clear();
        self.set_change.clear();
        self.touched.clear();
        self.curves = None;
        self.start_on_keys();
    }

    /// Adds a set with the key `entries`.
    pub(super) fn add_set(
        &mut self,
        demand: f64,
        cost: f64,
        entries: impl IntoIterator<Item = (u32, f64)>,
    ) -> u32 {
        let set = self.demand.len() as u32;
        self.columns.add_set();
        let key = self.columns.add(set, cost, entries);
        self.demand.push(demand);
        self.key.push(key);
        self.key_value.push(demand);
        self.set_change.push(0.0);
        set
    }

    /// Every set on its key, no link tight.
    pub(super) fn start_on_keys(&mut self) {
        self.place.fill(NONE);
        self.tight.clear();
        self.basic.clear();
        self.inverse.clear();
        self.since_factor = 0;
        self.recompute();
    }

    /// Makes a column basic in a link that becomes tight, at the start.
    pub(super) fn start_with(&mut self, column: u32, link: u32, coefficient: f64) {
        self.place[link as usize] = 0;
        self.tight.push(link);
        self.basic.push(column);
        self.inverse.grow(&[], &[], coefficient);
        self.recompute();
    }

    /// Gives links slopes instead of hard limits, each on the piece of its load.
    pub(super) fn set_curves(&mut self, mut curves: Curves) {
        curves.piece.clear();
        for (ends, load) in curves.ends.chunks(curves.pieces).zip(&self.load) {
            curves.piece.push(ends.iter().position(|end| load < end).unwrap_or(curves.pieces - 1));
        }
        for (link, limit) in self.limit.iter_mut().enumerate() {
            *limit = curves.ends[link * curves.pieces + curves.piece[link]];
        }
        self.curves = Some(curves);
    }

    pub(super) fn basis(&self) -> Basis {
        Basis {
            key: self.key.clone(),
            tight: self.tight.clone(),
            basic: self.basic.clone(),
            inverse: self.inverse.clone(),
        }
    }

    /// Goes back to a basis; sets made since then keep their key.
    pub(super) fn restore(&mut self, basis: Basis) {
        self.key[..basis.key.len()].copy_from_slice(&basis.key);
        self.tight = basis.tight;
        self.basic = basis.basic;
        self.inverse = basis.inverse;
        self.value.resize(self.basic.len(), 0.0);
        self.place.fill(NONE);
        for (position, link) in self.tight.iter().enumerate() {
            self.place[*link as usize] = position as u32;
        }
    }

    /// Takes a column out of the basis at its value; the link that is tight for it most ceases to be.
    pub(super) fn drop_basic(&mut self, position: usize) {
        let row = self.inverse.row(position);
        let freed = (0..row.len()).max_by(|a, b| row[*a].abs().total_cmp(&row[*b].abs()));
        if let Some(freed) = freed {
            self.exchange_load_for_basic(freed, position);
        }
    }

    /// Position of a column in the basis, but for keys.
    pub(super) fn position(&self, column: u32) -> Option<usize> {
        self.basic.iter().position(|basic| *basic == column)
    }

    /// What one more unit on the key of a set costs.
    pub(super) fn set_price(&self, set: u32) -> f64 {
        if set == NONE { 0.0 } else { self.full_cost(self.key[set as usize]) }
    }

    pub(super) fn full_cost(&self, column: u32) -> f64 {
        self.columns.cost[column as usize] + self.columns.dot(column, &self.price)
    }

    pub(super) fn reduced_cost(&self, column: u32) -> f64 {
        self.full_cost(column) - self.set_price(self.columns.set(column))
    }

    /// Sets the prices of all links from the basis.
    pub(super) fn update_prices(&mut self) {
        match &self.curves {
            None => self.price.fill(0.0),
            Some(curves) => {
                for link in 0..self.price.len() {
                    let slope = curves.slopes[link * curves.pieces + curves.piece[link]];
                    self.price[link] = if self.place[link] == NONE { slope } else { 0.0 };
                }
            }
        }
        let costs: Vec<f64> = self.basic.iter().map(|column| -self.reduced_cost(*column)).collect();
        self.inverse.times_from_left(&costs, &mut self.left);
        for (link, price) in self.tight.iter().zip(&self.left) {
            self.price[*link as usize] = *price;
        }
    }

    /// The tight link whose load should move most, with the sign; `weight` favours some.
    pub(super) fn wrong_price(
        &self,
        tolerance: impl Fn(usize) -> f64,
        weight: impl Fn(u32) -> f64,
    ) -> Option<Entering> {
        let mut worst = 0.0;
        let mut found = None;
        for (position, link) in self.tight.iter().enumerate() {
            let at = *link as usize;
            let (below, above) = self.slopes_at(at);
            let unit = tolerance(at);
            for (excess, sign) in [(below - self.price[at], -1.0), (self.price[at] - above, 1.0)] {
                let score = excess / unit * weight(*link);
                if excess > unit && score > worst {
                    worst = score;
                    found = Some(Entering::Load(position, sign));
                }
            }
        }
        found
    }

    fn slopes_at(&self, link: usize) -> (f64, f64) {
        match &self.curves {
            None => (0.0, f64::INFINITY),
            Some(curves) => {
                let at = link * curves.pieces + curves.piece[link];
                (curves.slopes[at], curves.slopes[at + 1])
            }
        }
    }

    fn floor(&self, link: usize) -> f64 {
        match &self.curves {
            Some(curves) if curves.piece[link] > 0 => {
                curves.ends[link * curves.pieces + curves.piece[link] - 1]
            }
            _ => f64::NEG_INFINITY,
        }
    }

    /// Lets something enter as far as it goes; how far, or `None` where nothing stops it or the basis has
    /// become singular. Values, keys and loads are good in any case; prices and the inverse are not then.
    #[must_use]
    pub(super) fn enter(&mut self, entering: Entering) -> Option<f64> {
        self.find_direction(entering);
        let (leaving, step) = self.first_to_leave(entering)?;
        self.apply(entering, leaving, step).then_some(step)
    }

    /// How basic columns, keys and loads change per unit of what enters.
    fn find_direction(&mut self, entering: Entering) {
        match entering {
            Entering::Column(column) => {
                self.gather_differences(column);
                self.inverse.times(&self.gather, &mut self.image);
                self.change.clear();
                self.change.extend(self.image.iter().map(|w| if w.abs() > ZERO { -w } else { 0.0 }));
            }
            Entering::Load(position, sign) => {
                self.change.clear();
                for row in 0..self.basic.len() {
                    let entry = sign * self.inverse.at(row, position);
                    self.change.push(if entry.abs() > ZERO { entry } else { 0.0 });
                }
            }
        }
        for set in self.touched.drain(..) {
            self.set_change[set as usize] = 0.0;
        }
        self.load_change.fill(0.0);
        let units = self.basic.iter().copied().zip(self.change.iter().copied());
        let entered = if let Entering::Column(column) = entering { Some((column, 1.0)) } else { None };
        for (column, change) in units.chain(entered) {
            if change == 0.0 {
                continue;
            }
            for (link, part) in self.columns.entries(column) {
                self.load_change[link] += part * change;
            }
            let set = self.columns.set(column);
            if set != NONE {
                self.set_change[set as usize] -= change;
                // A set may be listed twice; the second time its change is no longer to be applied.
                self.touched.push(set);
            }
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for set in &self.touched {
            let change = self.set_change[*set as usize];
            if change.abs() <= ZERO {
                self.set_change[*set as usize] = 0.0;
                continue;
            }
            for (link, part) in self.columns.entries(self.key[*set as usize]) {
                self.load_change[link] += part * change;
            }
        }
        for link in &self.tight {
            self.load_change[*link as usize] = 0.0;
        }
        if let Entering::Load(position, sign) = entering {
            self.load_change[self.tight[position] as usize] = sign;
        }
    }

    /// `a_column − a_key` over the tight links.
    fn gather_differences(&mut self, column: u32) {
        self.gather.clear();
        self.gather.resize(self.tight.len(), 0.0);
        let set = self.columns.set(column);
        let key = if set == NONE { None } else { Some((self.key[set as usize], -1.0)) };
        for (column, sign) in std::iter::once((column, 1.0)).chain(key) {
            for (link, part) in self.columns.entries(column) {
                if self.place[link] != NONE {
                    self.gather[self.place[link] as usize] += sign * part;
                }
            }
        }
    }

    /// Harris' ratio test: of all that would leave within the tolerances, the one with the largest pivot.
    fn first_to_leave(&self, entering: Entering) -> Option<(Leaving, f64)> {
        let mut bound = f64::INFINITY;
        self.each_blocking(entering, |_, room, slack, rate| {
            if room + slack < bound * rate {
                bound = (room + slack) / rate;
            }
        });
        if bound.is_infinite() {
            return None;
        }
        let mut best = None;
        let mut largest = 0.0;
        self.each_blocking(entering, |leaving, room, _, rate| {
            if room <= bound * rate && rate > largest {
                largest = rate;
                best = Some((leaving, (room / rate).max(0.0)));
            }
        });
        best
    }

    fn each_blocking(&self, entering: Entering, mut visit: impl FnMut(Leaving, f64, f64, f64)) {
        for (position, change) in self.change.iter().enumerate() {
            if *change < -PIVOT {
                visit(Leaving::Basic(position), self.value[position], self.value_slack, -change);
            }
        }
        for set in &self.touched {
            let change = self.set_change[*set as usize];
            if change < -PIVOT {
                visit(Leaving::Key(*set), self.key_value[*set as usize], self.value_slack, -change);
            }
        }
        let own = if let Entering::Load(position, _) = entering { self.tight[position] } else { NONE };
        for (link, change) in self.load_change.iter().enumerate() {
            if link == own as usize {
                // From its kink it can go to the other end of the piece it moves into.
                let room = match (&self.curves, *change > 0.0) {
                    (None, _) => f64::INFINITY,
                    (Some(_), false) => self.limit[link] - self.floor(link),
                    (Some(curves), true) => {
                        curves.ends[link * curves.pieces + curves.piece[link] + 1] - self.limit[link]
                    }
                };
                if room.is_finite() {
                    visit(Leaving::Itself, room, self.load_slack[link], 1.0);
                }
            } else if *change > PIVOT {
                if self.limit[link].is_finite() {
                    let room = self.limit[link] - self.load[link];
                    visit(Leaving::Load(link as u32), room, self.load_slack[link], *change);
                }
            } else if *change < -PIVOT {
                let floor = self.floor(link);
                if floor.is_finite() {
                    let room = self.load[link] - floor;
                    visit(Leaving::Load(link as u32), room, self.load_slack[link], -change);
                }
            }
        }
    }

    /// Makes a pivot; false where the basis has become singular, see [`Master::refactor`].
    #[must_use]
    fn apply(&mut self, entering: Entering, leaving: Leaving, step: f64) -> bool {
        self.pivots += 1;
        for (value, change) in self.value.iter_mut().zip(&self.change) {
            *value += step * change;
        }
        for set in &self.touched {
            self.key_value[*set as usize] += step * self.set_change[*set as usize];
        }
        for (load, change) in self.load.iter_mut().zip(&self.load_change) {
            *load += step * change;
        }
        if let Entering::Load(position, sign) = entering {
            let link = self.tight[position] as usize;
            if sign > 0.0 {
                self.move_piece(link, 1);
            }
            if leaving == Leaving::Itself {
                if sign < 0.0 {
                    self.move_piece(link, -1);
                }
                return true;
            }
        }
        if let Leaving::Load(link) = leaving
            && self.load_change[link as usize] < 0.0
        {
            self.move_piece(link as usize, -1);
        }
        let leaving = match leaving {
            Leaving::Key(set) => match (self.largest_member(set), entering) {
                (Some(position), _) => {
                    self.swap_key(set, position, entering);
                    Leaving::Basic(position)
                }
                (None, Entering::Column(column)) => {
                    // Nothing else of the set is basic: the working basis does not see the exchange.
                    self.key[set as usize] = column;
                    self.key_value[set as usize] = step;
                    return true;
                }
                (None, Entering::Load(..)) => unreachable!("a key that is alone does not change"),
            },
            other => other,
        };
        match (entering, leaving) {
            (Entering::Column(column), Leaving::Basic(position)) => {
                self.inverse.replace_column(position, &self.image);
                self.basic[position] = column;
                self.value[position] = step;
            }
            (Entering::Column(column), Leaving::Load(link)) => {
                self.load_row(link);
                self.inverse.times_from_left(&self.gather, &mut self.left);
                let corner = self.difference_at(column, link);
                let along: f64 = self.gather.iter().zip(&self.image).map(|(b, w)| b * w).sum();
                self.inverse.grow(&self.image, &self.left, corner - along);
                self.place[link as usize] = self.tight.len() as u32;
                self.tight.push(link);
                self.basic.push(column);
                self.value.push(step);
            }
            (Entering::Load(freed, _), Leaving::Basic(position)) => {
                self.exchange_load_for_basic(freed, position);
            }
            (Entering::Load(freed, _), Leaving::Load(link)) => {
                self.load_row(link);
                self.inverse.times_from_left(&self.gather, &mut self.left);
                self.inverse.replace_row(freed, &self.left);
                let old = std::mem::replace(&mut self.tight[freed], link);
                self.place[old as usize] = NONE;
                self.place[link as usize] = freed as u32;
            }
            (_, Leaving::Key(_) | Leaving::Itself) => unreachable!("both are done above"),
        }
        self.since_factor += 1;
        self.since_factor < REFACTOR || self.refactor()
    }

    /// The load of the tight link at `freed` becomes basic instead of the column at `position`.
    fn exchange_load_for_basic(&mut self, freed: usize, position: usize) {
        self.inverse.shrink(position, freed);
        self.basic.swap_remove(position);
        self.value.swap_remove(position);
        let link = self.tight.swap_remove(freed);
        self.place[link as usize] = NONE;
        if let Some(moved) = self.tight.get(freed) {
            self.place[*moved as usize] = freed as u32;
        }
    }

    fn move_piece(&mut self, link: usize, by: isize) {
        if let Some(curves) = &mut self.curves {
            curves.piece[link] = curves.piece[link].saturating_add_signed(by);
            self.limit[link] = curves.ends[link * curves.pieces + curves.piece[link]];
        }
    }

    fn largest_member(&self, set: u32) -> Option<usize> {
        let members = (0..self.basic.len()).filter(|at| self.columns.set(self.basic[*at]) == set);
        members.max_by(|a, b| self.value[*a].total_cmp(&self.value[*b]))
    }

    /// The basic column at `position` and the key of its set trade places.
    fn swap_key(&mut self, set: u32, position: usize, entering: Entering) {
        let members: Vec<usize> =
            (0..self.basic.len()).filter(|at| self.columns.set(self.basic[*at]) == set).collect();
        self.inverse.swap_key(position, &members);
        std::mem::swap(&mut self.basic[position], &mut self.key[set as usize]);
        std::mem::swap(&mut self.value[position], &mut self.key_value[set as usize]);
        if let Entering::Column(column) = entering
            && self.image.len() == self.basic.len()
        {
            let own = if self.columns.set(column) == set { 1.0 } else { 0.0 };
            let sum: f64 = members.iter().map(|member| self.image[*member]).sum();
            self.image[position] = own - sum;
        }
    }

    /// `a_basic − a_key` of every basic column at one link.
    fn load_row(&mut self, link: u32) {
        let mut row = std::mem::take(&mut self.gather);
        row.clear();
        row.extend(self.basic.iter().map(|column| self.difference_at(*column, link)));
        self.gather = row;
    }

    fn difference_at(&self, column: u32, link: u32) -> f64 {
        let part = |column: u32| {
            let found = self.columns.entries(column).find(|(at, _)| *at == link as usize);
            found.map_or(0.0, |(_, part)| part)
        };
        let set = self.columns.set(column);
        part(column) - if set == NONE { 0.0 } else { part(self.key[set as usize]) }
    }

    /// Inverts the working basis anew and recomputes all values from it; false where it has become singular:
    /// values stay as they are then, and the inverse is of no use.
    #[must_use]
    pub(super) fn refactor(&mut self) -> bool {
        let size = self.basic.len();
        let mut matrix = std::mem::take(&mut self.matrix);
        matrix.clear();
        matrix.resize(size * size, 0.0);
        for position in 0..size {
            self.gather_differences(self.basic[position]);
            for (row, entry) in self.gather.iter().enumerate() {
                matrix[row * size + position] = *entry;
            }
        }
        let regular = self.inverse.invert(size, &mut matrix);
        self.matrix = matrix;
        self.since_factor = 0;
        if regular {
            self.recompute();
        }
        regular
    }

    /// Values of all columns and loads of all links from demands, limits and the basis.
    pub(super) fn recompute(&mut self) {
        self.load.fill(0.0);
        for (key, demand) in self.key.iter().zip(&self.demand) {
            for (link, part) in self.columns.entries(*key) {
                self.load[link] += part * demand;
            }
        }
        self.gather.clear();
        self.gather
            .extend(self.tight.iter().map(|link| self.limit[*link as usize] - self.load[*link as usize]));
        self.inverse.times(&self.gather, &mut self.value);
        self.key_value.clone_from(&self.demand);
        for (column, value) in self.basic.iter().zip(&self.value) {
            for (link, part) in self.columns.entries(*column) {
                self.load[link] += part * value;
            }
            let set = self.columns.set(*column);
            if set != NONE {
                self.key_value[set as usize] -= value;
                for (link, part) in self.columns.entries(self.key[set as usize]) {
                    self.load[link] -= part * value;
                }
            }
        }
        for link in &self.tight {
            self.load[*link as usize] = self.limit[*link as usize];
        }
    }

    /// What is furthest below zero or above its limit, in its tolerance.
    fn most_infeasible(&self) -> Option<(Leaving, f64)> {
        let mut worst = 1.0;
        let mut found = None;
        let mut consider = |leaving, excess: f64, slack: f64| {
            if excess > worst * slack {
                worst = excess / slack;
                found = Some((leaving, excess));
            }
        };
        for (position, value) in self.value.iter().enumerate() {
            consider(Leaving::Basic(position), -value, self.value_slack);
            let set = self.columns.set(self.basic[position]);
            if set != NONE {
                consider(Leaving::Key(set), -self.key_value[set as usize], self.value_slack);
            }
        }
        for link in 0..self.load.len() {
            if self.place[link] == NONE {
                let excess = self.load[link] - self.limit[link];
                consider(Leaving::Load(link as u32), excess, self.load_slack[link]);
            }
        }
        found
    }

    /// The dual simplex over the columns at hand, hard limits only: makes values feasible while reduced costs
    /// stay so. False where it fails or `may_go_on` says no.
    #[must_use]
    pub(super) fn repair(&mut self, mut may_go_on: impl FnMut() -> bool) -> bool {
        debug_assert!(self.curves.is_none());
        while let Some((leaving, excess)) = self.most_infeasible() {
            if !may_go_on() {
                return false;
            }
            let leaving = match leaving {
                Leaving::Key(set) => {
                    let Some(position) = self.largest_member(set) else { return false };
                    self.image.clear();
                    self.swap_key(set, position, Entering::Load(0, 0.0));
                    Leaving::Basic(position)
                }
                other => other,
            };
            self.update_prices();
            self.find_ray(leaving);
            let Some(entering) = self.dual_ratio() else { return false };
            self.find_direction(entering);
            let rate = match leaving {
                Leaving::Basic(position) => self.change[position],
                Leaving::Load(link) => -self.load_change[link as usize],
                _ => return false,
            };
            if rate < PIVOT {
                return false;
            }
            if !self.apply(entering, leaving, excess / rate) {
                return false;
            }
        }
        true
    }

    /// How prices change per unit of the ratio when `leaving` leaves.
    fn find_ray(&mut self, leaving: Leaving) {
        self.ray.fill(0.0);
        match leaving {
            Leaving::Basic(position) => {
                for (link, entry) in self.tight.iter().zip(self.inverse.row(position)) {
                    self.ray[*link as usize] = *entry;
                }
            }
            Leaving::Load(link) => {
                self.load_row(link);
                self.inverse.times_from_left(&self.gather, &mut self.left);
                for (tight, entry) in self.tight.iter().zip(&self.left) {
                    self.ray[*tight as usize] = -entry;
                }
                self.ray[link as usize] = 1.0;
            }
            Leaving::Key(_) | Leaving::Itself => unreachable!("keys are swapped first"),
        }
    }

    /// The column or tight load whose reduced cost reaches zero first along the ray.
    fn dual_ratio(&self) -> Option<Entering> {
        let mut best: Option<(f64, f64, Entering)> = None;
        let mut consider = |entering, cost: f64, rate: f64| {
            if rate <= PIVOT {
                return;
            }
            let ratio = cost.max(0.0) / rate;
            let better = best.is_none_or(|(known, pivot, _)| {
                ratio < known - ZERO || (ratio < known + ZERO && rate > pivot)
            });
            if better {
                best = Some((ratio, rate, entering));
            }
        };
        for (position, link) in self.tight.iter().enumerate() {
            let link = *link as usize;
            consider(Entering::Load(position, -1.0), self.price[link], -self.ray[link]);
        }
        for set in 0..self.key.len() {
            if self.demand[set] == 0.0 {
                continue;
            }
            let key = self.key[set];
            let mut base = None;
            for column in self.columns.of_set(set).filter(|column| *column != key) {
                let (cost, rate) =
                    *base.get_or_insert_with(|| (self.full_cost(key), self.columns.dot(key, &self.ray)));
                let along = rate - self.columns.dot(column, &self.ray);
                if along > PIVOT && !self.basic.contains(&column) {
                    consider(Entering::Column(column), self.full_cost(column) - cost, along);
                }
            }
        }
        best.map(|(_, _, entering)| entering)
    }
}

/// Tolerances from the scales of demands and capacities.
pub(super) fn slack(scale: f64) -> f64 {
    SLACK * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basis_that_has_become_singular_stops_the_pivots_and_leaves_the_values() {
        let mut master = Master::new(3);
        let set = master.add_set(2.0, 0.0, [(0, 1.0)]);
        let entering = master.columns.add(set, -1.0, [(1, 1.0)]);
        master.limit = vec![5.0, 1.0, 1.0];
        master.start_on_keys();
        // Columns of no set that are the same make the next inversion fail.
        for link in 0..3 {
            let twin = master.columns.add(NONE, 0.0, [(0, 1.0), (1, 1.0), (2, 1.0)]);
            master.basic.push(twin);
            master.tight.push(link);
            master.value.push(0.5);
            master.place[link as usize] = link;
        }
        assert!(master.inverse.invert(3, &mut [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]));
        master.since_factor = REFACTOR - 1;
        assert_eq!(master.enter(Entering::Column(entering)), None);
        assert_eq!(master.pivots, 1);
        assert!(master.value.iter().chain(&master.key_value).all(|value| value.is_finite()));
    }
}
