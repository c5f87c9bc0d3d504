//! Which demands have the same choice?
//!
//! Only links that are nearly the fullest matter to the master: its *rows*. Two paths that cross the same rows
//! are one column, and demands whose columns are the same, but for rows that all of their columns cross, are one
//! class. So a hundred thousand demands become some hundred classes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::master::{Class, Master};
use super::oracle::Flow;
use super::pool::{Path, Pool};
use super::reduce::{CoreDemands, NONE, Place, Reduced};

/// Multiply and rotate: keys here are small numbers that nobody chose with ill intent.
#[derive(Debug, Clone, Copy, Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u32(u32::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
}

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mix>>;

/// Lists of rows by number; number 0 is the empty list.
#[derive(Debug)]
struct RowLists {
    lists: Vec<Vec<u32>>,
    numbers: Map<Vec<u32>, u32>,
}

impl RowLists {
    fn new() -> Self {
        let mut numbers = Map::default();
        numbers.insert(Vec::new(), 0);
        Self { lists: vec![Vec::new()], numbers }
    }

    /// `rows` is sorted first.
    fn number(&mut self, mut rows: Vec<u32>) -> u32 {
        rows.sort_unstable();
        rows.dedup();
        if let Some(number) = self.numbers.get(&rows) {
            return *number;
        }
        let number = self.lists.len() as u32;
        self.lists.push(rows.clone());
        self.numbers.insert(rows, number);
        number
    }
}

/// What the master's columns stand for.
#[derive(Debug)]
pub(super) struct Classes {
    pub(super) master: Master,
    /// By raw class: the class in the master, and by place of a path's row list its column there.
    raw: Vec<(u32, Vec<u32>)>,
    /// By commodity with a choice: its raw class.
    members: Vec<(u32, u32)>,
    /// By path of such a commodity, in order: the place of its row list.
    places: Vec<u32>,
    /// By class of the master: where its columns start.
    starts: Vec<usize>,
}

impl Classes {
    /// `row_of`: by link its row or [`NONE`]; `rows`: the link of each row; utilisations are divided by `unit`.
    pub(super) fn new(
        pool: &Pool,
        reduced: &Reduced,
        demands: &CoreDemands,
        capacities: &[f64],
        rows: &[u32],
        row_of: &[u32],
        unit: f64,
    ) -> Self {
        let count = reduced.core.len();
        let mut lists = RowLists::new();
        let mut links = Vec::new();
        let crossed = |links: &[u32]| -> Vec<u32> {
            links
                .iter()
                .filter(|link| **link != NONE)
                .map(|link| row_of[*link as usize])
                .filter(|row| *row != NONE)
                .collect()
        };
        let mut ways = [vec![[0; 2]; count], vec![[0; 2]; count]];
        for node in 0..count as u32 {
            if let Place::Inside(..) = reduced.places[node as usize] {
                for side in 0..2 {
                    links.clear();
                    reduced.exit_links(node, side, &mut links);
                    ways[0][node as usize][side] = lists.number(crossed(&links));
                    links.clear();
                    reduced.entry_links(node, side, &mut links);
                    ways[1][node as usize][side] = lists.number(crossed(&links));
                }
            }
        }
        let segments: Vec<Vec<u32>> = reduced.segments.iter().map(|links| crossed(links)).collect();
        let mut extended: Map<(u32, u32), u32> = Map::default();
        let mut between: Vec<u32> = Vec::with_capacity(pool.tree.len());
        for path in 0..pool.tree.len() as u32 {
            let number = match pool.tree.last(path) {
                None => 0,
                Some((parent, segment)) => {
                    let before = between[parent as usize];
                    let more = &segments[segment as usize];
                    if more.is_empty() {
                        before
                    } else {
                        *extended.entry((before, segment)).or_insert_with(|| {
                            let mut all = lists.lists[before as usize].clone();
                            all.extend(more);
                            lists.number(all)
                        })
                    }
                }
            };
            between.push(number);
        }
        let mut joined: Map<(u32, u32, u32), u32> = Map::default();
        let mut number_of =
            |lists: &mut RowLists, source: usize, target: usize, path: Path| match path.parts() {
                Some((path, exit, entry)) => {
                    let (a, b, c) = (ways[0][source][exit], between[path as usize], ways[1][target][entry]);
                    if a == 0 && c == 0 {
                        return b;
                    }
                    *joined.entry((a, b, c)).or_insert_with(|| {
                        let mut all = lists.lists[a as usize].clone();
                        all.extend(&lists.lists[b as usize]);
                        all.extend(&lists.lists[c as usize]);
                        lists.number(all)
                    })
                }
                None => {
                    let mut links = Vec::new();
                    reduced.direct_links(source as u32, target as u32, &mut links);
                    lists.number(crossed(&links))
                }
            };

        let mut flow = Flow::new(reduced);
        let mut carried = vec![0.0; pool.tree.len()];
        let mut raw_of: Map<Vec<u32>, u32> = Map::default();
        let mut raw_keys: Vec<(Vec<u32>, f64)> = Vec::new();
        let (mut members, mut places) = (Vec::new(), Vec::new());
        let (mut numbers, mut key) = (Vec::new(), Vec::new());
        for commodity in 0..count * count {
            let demand = demands.matrix[commodity];
            if demand == 0.0 {
                continue;
            }
            let (source, target) = (commodity / count, commodity % count);
            numbers.clear();
            if !pool.single(commodity) {
                numbers.extend(
                    pool.of(commodity).map(|entry| number_of(&mut lists, source, target, pool.path(entry))),
                );
                key.clone_from(&numbers);
                key.sort_unstable();
                key.dedup();
            }
            if numbers.is_empty() || key.len() == 1 {
                for entry in pool.of(commodity) {
                    let part = demand * pool.share(entry);
                    if part > 0.0 {
                        flow.add_path(reduced, &mut carried, source, target, pool.path(entry), part);
                    }
                }
                continue;
            }
            let raw = match raw_of.get(&key) {
                Some(raw) => *raw,
                None => {
                    let raw = raw_keys.len() as u32;
                    raw_of.insert(key.clone(), raw);
                    raw_keys.push((key.clone(), 0.0));
                    raw
                }
            };
            raw_keys[raw as usize].1 += demand;
            members.push((commodity as u32, raw));
            places.extend(numbers.iter().map(|n| key.partition_point(|k| k < n) as u32));
        }
        pool.tree.load(&mut carried, &mut flow.segments);
        let mut loads = demands.background.clone();
        flow.load(reduced, &mut loads);
        let mut fixed: Vec<f64> = rows.iter().map(|link| loads[*link as usize]).collect();

        // Raw classes that differ only in rows common to all columns are one.
        let mut merged: Map<Vec<Vec<u32>>, u32> = Map::default();
        let mut sums: Vec<(Vec<Vec<u32>>, f64)> = Vec::new();
        let mut raw = Vec::with_capacity(raw_keys.len());
        for (key, demand) in raw_keys {
            let mut common = lists.lists[key[0] as usize].clone();
            for number in &key[1..] {
                let other = &lists.lists[*number as usize];
                common.retain(|row| other.binary_search(row).is_ok());
            }
            for row in &common {
                fixed[*row as usize] += demand;
            }
            let columns: Vec<Vec<u32>> = key
                .iter()
                .map(|number| {
                    let list = &lists.lists[*number as usize];
                    list.iter().copied().filter(|row| common.binary_search(row).is_err()).collect()
                })
                .collect();
            let mut order: Vec<usize> = (0..columns.len()).collect();
            order.sort_by(|a, b| columns[*a].cmp(&columns[*b]));
            let mut column_of = vec![0; columns.len()];
            for (place, column) in order.iter().enumerate() {
                column_of[*column] = place as u32;
            }
            let sorted: Vec<Vec<u32>> = order.iter().map(|column| columns[*column].clone()).collect();
            let class = *merged.entry(sorted.clone()).or_insert_with(|| {
                sums.push((sorted, 0.0));
                sums.len() as u32 - 1
            });
            sums[class as usize].1 += demand;
            raw.push((class, column_of));
        }
        let scale: Vec<f64> = rows.iter().map(|link| 1.0 / (capacities[*link as usize] * unit)).collect();
        fixed.iter_mut().zip(&scale).for_each(|(f, s)| *f *= s);
        let mut starts = Vec::with_capacity(sums.len());
        let mut start = 0;
        let classes = sums
            .into_iter()
            .map(|(columns, demand)| {
                starts.push(start);
                start += columns.len();
                let mut rows: Vec<u32> = columns.iter().flatten().copied().collect();
                rows.sort_unstable();
                rows.dedup();
                let place = |row: &u32| rows.partition_point(|r| r < row) as u32;
                let columns = columns.iter().map(|column| column.iter().map(place).collect()).collect();
                let rows = rows.iter().map(|row| (*row, demand * scale[*row as usize])).collect();
                Class { rows, columns }
            })
            .collect();
        let master = Master { fixed, classes, shares: Vec::new() };
        let mut all = Self { master, raw, members, places, starts };
        all.master.shares = all.in_force(pool, demands);
        all
    }

    /// The part of its class that each column of the master has now.
    fn in_force(&self, pool: &Pool, demands: &CoreDemands) -> Vec<f64> {
        let columns = self.master.classes.iter().map(|class| class.columns.len()).sum();
        let mut shares = vec![0.0; columns];
        let mut places = self.places.iter();
        for (commodity, raw) in &self.members {
            let (class, column_of) = &self.raw[*raw as usize];
            let of_class = &mut shares[self.starts[*class as usize]..];
            let demand = demands.matrix[*commodity as usize];
            for (entry, place) in pool.of(*commodity as usize).zip(&mut places) {
                of_class[column_of[*place as usize] as usize] += demand * pool.share(entry);
            }
        }
        for (class, start) in self.master.classes.iter().zip(&self.starts) {
            let of_class = &mut shares[*start..][..class.columns.len()];
            let sum: f64 = of_class.iter().sum();
            of_class.iter_mut().for_each(|share| *share /= sum);
        }
        shares
    }

    /// Hands the shares of the master's columns to the paths: `set(path's entry, share)`.
    pub(super) fn hand_out(&self, pool: &Pool, shares: &[f64], target: &mut [f64]) {
        let mut places = self.places.iter();
        let mut of_column = Vec::new();
        for (commodity, raw) in &self.members {
            let (class, column_of) = &self.raw[*raw as usize];
            let start = self.starts[*class as usize];
            // Paths of one column keep their proportions; new ones get nothing beside one in use.
            of_column.clear();
            of_column.resize(column_of.len(), (0.0, 0u32));
            let entries: Vec<(usize, usize)> =
                pool.of(*commodity as usize).zip(&mut places).map(|(e, p)| (e, *p as usize)).collect();
            for (entry, place) in &entries {
                of_column[*place].0 += pool.share(*entry);
                of_column[*place].1 += 1;
            }
            for (entry, place) in entries {
                let share = shares[start + column_of[place] as usize];
                let (sum, number) = of_column[place];
                target[entry] =
                    if sum > 1e-12 { share * pool.share(entry) / sum } else { share / f64::from(number) };
            }
        }
    }
}
