//! What do the attributes of a node or a link of a graph file mean?
//!
//! GraphML, GML and node-link JSON all attach named values to nodes and links; the names are those of the
//! Topology Zoo and of NetworkX files in use.

use std::borrow::Cow;

use traflux_core::units::Latency;

use super::draft::LinkValues;
use super::error::FormatError;
use super::options::ReadOptions;
use super::text::{Range, Source};
use super::unit::RateUnit;

/// Light in fibre takes 5 µs per kilometre (refractive index 1.5).
const SECONDS_PER_KILOMETRE: f64 = 5e-6;

/// A named value as text.
#[derive(Debug, Clone)]
pub(super) struct Attribute<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) text: Cow<'a, str>,
    /// Offset of the value in the file.
    pub(super) at: usize,
}

/// The values of one node or link; the first of a name counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes<'a>(pub(super) Vec<Attribute<'a>>);

impl<'a> Attributes<'a> {
    pub(super) fn find(&self, name: &str) -> Option<&Attribute<'a>> {
        self.0.iter().find(|attribute| attribute.name == name)
    }

    /// The name of a node; empty where it has none.
    pub(super) fn node_name(&self) -> &str {
        let named =
            |key| self.find(key).map(|found| found.text.as_ref()).filter(|name| !name.trim().is_empty());
        named("label").or_else(|| named("name")).unwrap_or("")
    }

    /// Longitude and latitude; `None` unless both are there.
    pub(super) fn position(&self, source: &Source<'_>) -> Result<Option<[f64; 2]>, FormatError> {
        let (Some(x), Some(y)) = (self.find("Longitude"), self.find("Latitude")) else {
            return Ok(None);
        };
        let x = source.number(x.at, x.text.trim(), "a longitude", Range::Finite)?;
        let y = source.number(y.at, y.text.trim(), "a latitude", Range::Finite)?;
        Ok(Some([x, y]))
    }

    /// Capacity, weight and delay of a link.
    pub(super) fn link(&self, source: &Source<'_>, options: &ReadOptions) -> Result<LinkValues, FormatError> {
        let capacity = |found: &Attribute<'_>, unit| {
            source.rate(found.at, found.text.trim(), unit, "a capacity", Range::Positive)
        };
        let capacity = if let Some(found) = self.find("LinkSpeedRaw") {
            Some(capacity(found, RateUnit::BIT)?)
        } else if let Some(found) = self.find("capacity") {
            Some(capacity(found, options.capacity_unit(RateUnit::BIT))?)
        } else {
            match (
                self.find("LinkSpeed"),
                self.find("LinkSpeedUnits").and_then(|found| speed_unit(&found.text)),
            ) {
                // Speeds are free text here, such as `<2.5`: what is no number says nothing.
                (Some(found), Some(unit)) => capacity(found, unit).ok(),
                _ => None,
            }
        };
        let weight = self
            .find("weight")
            .map(|found| source.number(found.at, found.text.trim(), "a weight", Range::Positive));
        let delay = if let Some(found) = self.find("delay_s") {
            Some(source.delay(found.at, found.text.trim(), 0)?)
        } else if let Some(found) = self.find("dist") {
            let kilometres = source.number(found.at, found.text.trim(), "a distance", Range::NotNegative)?;
            Some(Latency::saturating(kilometres * SECONDS_PER_KILOMETRE))
        } else {
            None
        };
        Ok(LinkValues { capacity, weight: weight.transpose()?, delay })
    }
}

/// `LinkSpeedUnits` of the Topology Zoo.
fn speed_unit(text: &str) -> Option<RateUnit> {
    match text.trim() {
        "K" | "k" => Some(RateUnit::KILOBIT),
        "M" => Some(RateUnit::MEGABIT),
        "G" => Some(RateUnit::GIGABIT),
        "T" => Some(RateUnit::TERABIT),
        _ => None,
    }
}
