//! What does a file leave unsaid?

use traflux_core::units::BitRate;

use super::unit::RateUnit;

/// What a reader takes for granted where the file is silent.
///
/// ```
/// use traflux_core::units::BitRate;
/// use traflux_te::format::ReadOptions;
///
/// let options = ReadOptions {
///     default_capacity: Some(BitRate::gigabits_per_second(10.0)),
///     ..ReadOptions::default()
/// };
/// assert_eq!(options.default_weight, 1.0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Unit of capacities and demands, instead of what the file or its format says. `None`: as they say.
    ///
    /// It does not apply to `LinkSpeedRaw` and `LinkSpeed` of the Topology Zoo, whose unit is fixed.
    pub unit: Option<RateUnit>,
    /// Unit of demands alone, where it differs from that of capacities. `None`: as `unit`.
    pub demand_unit: Option<RateUnit>,
    /// Capacity of links for which the file says none. `None`: such a link is an error.
    pub default_capacity: Option<BitRate>,
    /// Weight of links for which the file says none; dimensionless, positive, 1 by default.
    pub default_weight: f64,
    /// Whether a link leads one way only. `None`: as the file or its format says.
    pub directed: Option<bool>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { unit: None, demand_unit: None, default_capacity: None, default_weight: 1.0, directed: None }
    }
}

impl ReadOptions {
    /// The unit of capacities where the file or its format say `otherwise`.
    pub(super) fn capacity_unit(&self, otherwise: RateUnit) -> RateUnit {
        self.unit.unwrap_or(otherwise)
    }

    /// The unit of demands where the file or its format say `otherwise`.
    pub(super) fn demand_unit(&self, otherwise: RateUnit) -> RateUnit {
        self.demand_unit.or(self.unit).unwrap_or(otherwise)
    }
}

/// How a writer writes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WriteOptions {
    /// Unit of capacities and demands. `None`: the default of the format.
    pub unit: Option<RateUnit>,
    /// Unit of demands alone. `None`: as `unit`. SNDlib has one unit for a whole file and takes `unit`.
    pub demand_unit: Option<RateUnit>,
    /// Name of the network, in formats with room for it.
    pub name: Option<String>,
}

impl WriteOptions {
    pub(super) fn capacity_unit(&self, otherwise: RateUnit) -> RateUnit {
        self.unit.unwrap_or(otherwise)
    }

    pub(super) fn demand_unit(&self, otherwise: RateUnit) -> RateUnit {
        self.demand_unit.or(self.unit).unwrap_or(otherwise)
    }
}
