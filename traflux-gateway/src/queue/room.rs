//! Is there room for one more?
//!
//! A queue is bounded in items, bytes and tokens. Of each, a band with minimum share `σ` has `σ · limit` to itself:
//! a band that finds no room to wait would not get its share of the service either. Better bands leave that part
//! free; lower bands may use it, because a better band pushes them out when it needs it.

use traflux_core::plan::queue::QueuePlan;

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
    bands: Vec<Part>,
    /// What each band could hold with the parts of all lower bands empty.
    largest: Vec<Load>,
}

#[derive(Debug)]
struct Part {
    own: Load,
    used: Load,
}

impl Room {
    pub(super) fn new(plan: &QueuePlan) -> Self {
        let limit = [u64::from(plan.max_waiting), plan.max_bytes, plan.max_tokens];
        let mut reserved = [0; 3];
        let own = |share: f64, reserved: &mut Load| {
            std::array::from_fn(|d| {
                // Shares that sum to one in decimal may sum to a little more in binary.
                let own = ((limit[d] as f64 * share) as u64).min(limit[d] - reserved[d]);
                reserved[d] += own;
                own
            })
        };
        let part = |share| Part { own: own(share, &mut reserved), used: [0; 3] };
        let bands: Vec<Part> = plan.bands.iter().map(|b| b.min_share).map(part).collect();
        let lower = |b: usize, d: usize| bands[b + 1..].iter().map(|p| p.own[d]).sum::<u64>();
        let largest = (0..bands.len()).map(|b| std::array::from_fn(|d| limit[d] - lower(b, d))).collect();
        Self { limit, used: [0; 3], bands, largest }
    }

    pub(super) fn used(&self) -> Load {
        self.used
    }

    /// What is free or could be pushed out for a band.
    #[inline]
    pub(super) fn reach(&self, band: usize) -> Load {
        std::array::from_fn(|d| {
            let lower = band + 1..self.bands.len();
            self.limit[d] - self.used[d] + lower.map(|b| self.excess(b, d)).sum::<u64>()
        })
    }

    #[inline]
    pub(super) fn used_by(&self, band: usize) -> Load {
        self.bands[band].used
    }

    /// The bound that this load can never meet, however empty the queue is.
    #[inline]
    pub(super) fn never(&self, band: usize, load: &Load) -> Option<Bound> {
        let largest = &self.largest[band];
        (0..3).find(|&d| load[d] > largest[d]).map(|d| Bound::ALL[d])
    }

    /// The dimension in which this load exceeds what the band may take now.
    #[inline]
    pub(super) fn missing(&self, band: usize, load: &Load) -> Option<usize> {
        // Where it fits with the parts of lower bands untouched it fits.
        let largest = &self.largest[band];
        if (0..3).all(|d| self.used[d] + load[d] <= largest[d]) {
            return None;
        }
        (0..3).find(|&d| self.used[d] + self.held_for_lower(band, d) + load[d] > self.limit[d])
    }

    fn held_for_lower(&self, band: usize, d: usize) -> u64 {
        self.bands[band + 1..].iter().map(|p| p.own[d].saturating_sub(p.used[d])).sum()
    }

    /// What `band` uses beyond its own part.
    #[inline]
    pub(super) fn excess(&self, band: usize, dimension: usize) -> u64 {
        let Part { own, used } = &self.bands[band];
        used[dimension].saturating_sub(own[dimension])
    }

    /// Whether pushing out requests of lower bands would make room in every dimension.
    pub(super) fn could_push_out(&self, band: usize, load: &Load) -> bool {
        (0..3).all(|d| {
            let held = self.held_for_lower(band, d);
            let gain: u64 = (band + 1..self.bands.len()).map(|b| self.excess(b, d)).sum();
            self.used[d] + held + load[d] <= self.limit[d] + gain
        })
    }

    #[inline]
    pub(super) fn take(&mut self, band: usize, load: &Load) {
        for d in 0..3 {
            self.used[d] += load[d];
            self.bands[band].used[d] += load[d];
        }
    }

    #[inline]
    pub(super) fn give(&mut self, band: usize, load: &Load) {
        for d in 0..3 {
            self.used[d] -= load[d];
            self.bands[band].used[d] -= load[d];
        }
    }

    pub(super) fn bound(dimension: usize) -> Bound {
        Bound::ALL[dimension]
    }
}
