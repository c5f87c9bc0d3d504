//! Was the policy ever trained on anything like this?
//!
//! Training keeps the least and greatest value of every feature. An input outside by more than a margin,
//! counted in spans of that range, is out of distribution: a network's answer there means nothing.

use serde::{Deserialize, Serialize};
use traflux_core::Observation;

/// Spans shorter than this count as this long: a feature that never moved in training may still jitter.
const SPAN_MIN: f32 = 0.2;

/// Least and greatest value of every feature seen in training.
#[derive(Debug, Clone, PartialEq)]
pub struct InputRange {
    group_low: Vec<f32>,
    group_high: Vec<f32>,
    context_low: Vec<f32>,
    context_high: Vec<f32>,
}

/// An input outside the range of training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OutOfRange {
    /// Position of the group; `None` for a feature of the whole fleet.
    pub group: Option<usize>,
    /// Position of the feature.
    pub feature: usize,
    /// Its value.
    pub value: f32,
    /// Least value in training.
    pub low: f32,
    /// Greatest value in training.
    pub high: f32,
}

impl InputRange {
    /// An empty range; it contains nothing until extended.
    #[must_use]
    pub fn empty(group_features: usize, context_features: usize) -> Self {
        Self {
            group_low: vec![f32::MAX; group_features],
            group_high: vec![f32::MIN; group_features],
            context_low: vec![f32::MAX; context_features],
            context_high: vec![f32::MIN; context_features],
        }
    }

    /// Takes in one observation of the same shape; values that are not finite are passed over.
    pub fn extend(&mut self, observation: &Observation) {
        for row in observation.groups.rows() {
            widen(&mut self.group_low, &mut self.group_high, row.iter());
        }
        widen(&mut self.context_low, &mut self.context_high, observation.context.iter());
    }

    /// The first value outside by more than `margin` spans, the fleet's features first; NaN is outside.
    #[must_use]
    pub fn check(&self, observation: &Observation, margin: f32) -> Option<OutOfRange> {
        let context = outside(&self.context_low, &self.context_high, observation.context.iter(), margin);
        let found = |group, (feature, value, low, high)| OutOfRange { group, feature, value, low, high };
        context.map(|hit| found(None, hit)).or_else(|| {
            observation.groups.rows().into_iter().enumerate().find_map(|(group, row)| {
                outside(&self.group_low, &self.group_high, row.iter(), margin)
                    .map(|hit| found(Some(group), hit))
            })
        })
    }

    /// The same range for features of groups in another order; a new one (`None`) may have any value.
    pub(crate) fn with_group_features(mut self, places: &[Option<usize>]) -> Self {
        let at = |bounds: &[f32], any: f32| {
            places.iter().map(|place| place.map_or(any, |place| bounds[place])).collect::<Vec<f32>>()
        };
        self.group_low = at(&self.group_low, f32::MIN / 4.0);
        self.group_high = at(&self.group_high, f32::MAX / 4.0);
        self
    }

    pub(crate) fn tensors(&self) -> [(&'static str, &Vec<f32>); 4] {
        [
            ("group_low", &self.group_low),
            ("group_high", &self.group_high),
            ("context_low", &self.context_low),
            ("context_high", &self.context_high),
        ]
    }

    pub(crate) fn from_tensors(
        group_features: usize,
        context_features: usize,
        mut take: impl FnMut(&str, usize) -> Result<Vec<f32>, String>,
    ) -> Result<Self, String> {
        Ok(Self {
            group_low: take("group_low", group_features)?,
            group_high: take("group_high", group_features)?,
            context_low: take("context_low", context_features)?,
            context_high: take("context_high", context_features)?,
        })
    }
}

fn widen<'a>(low: &mut [f32], high: &mut [f32], values: impl Iterator<Item = &'a f32>) {
    for ((low, high), value) in low.iter_mut().zip(high).zip(values) {
        if value.is_finite() {
            *low = low.min(*value);
            *high = high.max(*value);
        }
    }
}

fn outside<'a>(
    low: &[f32],
    high: &[f32],
    values: impl Iterator<Item = &'a f32>,
    margin: f32,
) -> Option<(usize, f32, f32, f32)> {
    low.iter().zip(high).zip(values).enumerate().find_map(|(feature, ((low, high), value))| {
        let slack = margin * (high - low).max(SPAN_MIN);
        let inside = *value >= low - slack && *value <= high + slack;
        (!inside).then_some((feature, *value, *low, *high))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{arr1, arr2};

    fn observation(group: f32, context: f32) -> Observation {
        Observation { groups: arr2(&[[group]]), context: arr1(&[context]), mask: vec![true] }
    }

    #[test]
    fn a_value_within_the_margin_of_training_is_inside() {
        let mut range = InputRange::empty(1, 1);
        range.extend(&observation(0.0, 0.0));
        range.extend(&observation(1.0, 2.0));
        assert_eq!(range.check(&observation(1.4, 2.9), 0.5), None);
        let hit = range.check(&observation(1.6, 1.0), 0.5).unwrap();
        assert_eq!((hit.group, hit.feature, hit.low, hit.high), (Some(0), 0, 0.0, 1.0));
        assert_eq!(range.check(&observation(0.5, 3.1), 0.5).unwrap().group, None);
    }

    #[test]
    fn nan_is_outside_and_an_empty_range_contains_nothing() {
        let mut range = InputRange::empty(1, 1);
        assert!(range.check(&observation(0.0, 0.0), 1.0).is_some());
        range.extend(&observation(0.0, 0.0));
        assert!(range.check(&observation(f32::NAN, 0.0), 1.0).is_some());
    }
}
