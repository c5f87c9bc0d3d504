//! Is there room for one more?
//!
//! A queue is bounded in items, bytes and tokens. Of each, a band with minimum share `σ` has `σ · limit` to itself:
//! a band that finds no room to wait would not get its share of the service either. The rest is for whoever comes.

use super::settings::{Limits, QueueSettings};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Requests.
    Items,
    /// Bytes held for them.
    Bytes,
    /// Their expected tokens.
    Tokens,
}

impl Bound {
    const ALL: [Self; 3] = [Self::Items, Self::Bytes, Self::Tokens];

    /// A stable name for metrics and bindings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Bytes => "bytes",
            Self::Tokens => "tokens",
        }
    }
}

/// Items, bytes, tokens.
pub(super) type Load = [u64; 3];

#[derive(Debug)]
pub(super) struct Room {
    limit: Load,
    used: Load,
    bands: Vec<(Load, Load)>,
    /// Σ of what bands have to themselves.
    reserved: Load,
}

impl Room {
    pub(super) fn new(settings: &QueueSettings) -> Self {
        let Limits { max_items, max_bytes, max_tokens } = settings.limits;
        let limit = [u64::from(max_items), max_bytes, max_tokens];
        let mut reserved = [0; 3];
        let own = |share: f64, reserved: &mut Load| {
            std::array::from_fn(|d| {
                // Shares that sum to one in decimal may sum to a little more in binary.
                let own = ((limit[d] as f64 * share) as u64).min(limit[d] - reserved[d]);
                reserved[d] += own;
                own
            })
        };
        let bands = settings.bands.iter().map(|b| (own(b.minimum_share, &mut reserved), [0; 3])).collect();
        Self { limit, used: [0; 3], bands, reserved }
    }

    pub(super) fn used(&self) -> Load {
        self.used
    }

    pub(super) fn free(&self) -> Load {
        std::array::from_fn(|d| self.limit[d] - self.used[d])
    }

    pub(super) fn used_by(&self, band: usize) -> Load {
        self.bands[band].1
    }

    /// The bound that this load can never meet, however empty the queue is.
    pub(super) fn never(&self, band: usize, load: &Load) -> Option<Bound> {
        let own = &self.bands[band].0;
        (0..3).find(|&d| load[d] > self.limit[d] - (self.reserved[d] - own[d])).map(|d| Bound::ALL[d])
    }

    /// By how much this load exceeds what the band may take now.
    #[inline]
    pub(super) fn missing(&self, band: usize, load: &Load) -> Option<(usize, u64)> {
        // Where it fits with all reserves untouched it fits.
        if (0..3).all(|d| self.used[d] + load[d] <= self.limit[d] - self.reserved[d]) {
            return None;
        }
        (0..3).find_map(|d| {
            let held: u64 = self.others(band).map(|(r, u)| r[d].saturating_sub(u[d])).sum();
            let needed = self.used[d] + held + load[d];
            (needed > self.limit[d]).then(|| (d, needed - self.limit[d]))
        })
    }

    fn others(&self, band: usize) -> impl Iterator<Item = &(Load, Load)> {
        self.bands.iter().enumerate().filter(move |(b, _)| *b != band).map(|(_, x)| x)
    }

    /// What `band` uses beyond its own part.
    pub(super) fn excess(&self, band: usize, dimension: usize) -> u64 {
        let (reserve, used) = &self.bands[band];
        used[dimension].saturating_sub(reserve[dimension])
    }

    /// Whether pushing out requests of lower bands would make room in every dimension.
    pub(super) fn could_push_out(&self, band: usize, load: &Load) -> bool {
        (0..3).all(|d| {
            let held: u64 = self.others(band).map(|(r, u)| r[d].saturating_sub(u[d])).sum();
            let gain: u64 = (band + 1..self.bands.len()).map(|b| self.excess(b, d)).sum();
            self.used[d] + held + load[d] <= self.limit[d] + gain
        })
    }

    #[inline]
    pub(super) fn take(&mut self, band: usize, load: &Load) {
        for d in 0..3 {
            self.used[d] += load[d];
            self.bands[band].1[d] += load[d];
        }
    }

    #[inline]
    pub(super) fn give(&mut self, band: usize, load: &Load) {
        for d in 0..3 {
            self.used[d] -= load[d];
            self.bands[band].1[d] -= load[d];
        }
    }

    pub(super) fn bound(dimension: usize) -> Bound {
        Bound::ALL[dimension]
    }
}
