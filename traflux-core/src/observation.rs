//! What does the policy see?

use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::PolicyError;

/// The shape of observations and actions of one encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationSpace {
    /// Names of the features of a group, in order.
    pub group_features: Vec<String>,
    /// Names of the features of the whole fleet, in order.
    pub context_features: Vec<String>,
}

impl ObservationSpace {
    /// What a policy of this space sees of an observation of another: the features that it was made for, by name, in its
    /// order.
    ///
    /// # Errors
    /// [`PolicyError::Feature`] for one that is not observed, [`PolicyError::Shape`] for an observation that is not of
    /// `from`.
    pub fn of(&self, from: &Self, observation: &Observation) -> Result<Observation, PolicyError> {
        for (expected, found) in [
            (from.group_features.len(), observation.groups.ncols()),
            (from.context_features.len(), observation.context.len()),
        ] {
            if expected != found {
                return Err(PolicyError::Shape { expected, found });
            }
        }
        let places = |wanted: &[String], given: &[String]| {
            let place = |name: &String| {
                let place = given.iter().position(|one| one == name);
                place.ok_or_else(|| PolicyError::Feature { name: name.clone() })
            };
            wanted.iter().map(place).collect::<Result<Vec<usize>, _>>()
        };
        Ok(Observation {
            groups: observation.groups.select(Axis(1), &places(&self.group_features, &from.group_features)?),
            context: observation
                .context
                .select(Axis(0), &places(&self.context_features, &from.context_features)?),
            mask: observation.mask.clone(),
        })
    }
}

/// The state as tensors. The number of groups may change from one observation to the next.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observation {
    /// `[groups, features]`, about unit scale.
    pub groups: Array2<f32>,
    /// `[context features]`, about unit scale.
    pub context: Array1<f32>,
    /// `[groups]`: whether the group may be chosen.
    pub mask: Vec<bool>,
}

impl Observation {
    /// How many groups there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.nrows()
    }

    /// Whether there is no group at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_sees_the_features_it_was_made_for() {
        let space = |group: &[&str], context: &[&str]| ObservationSpace {
            group_features: group.iter().map(|name| (*name).to_owned()).collect(),
            context_features: context.iter().map(|name| (*name).to_owned()).collect(),
        };
        let observed = space(&["load", "signal", "latency"], &["demand"]);
        let observation = Observation {
            groups: ndarray::array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
            context: ndarray::array![7.0],
            mask: vec![true, false],
        };
        let seen = space(&["latency", "load"], &["demand"]).of(&observed, &observation).unwrap();
        assert_eq!(seen.groups, ndarray::array![[3.0, 1.0], [6.0, 4.0]]);
        assert_eq!((seen.context, seen.mask), (ndarray::array![7.0], vec![true, false]));
        let lost = space(&["price"], &[]).of(&observed, &observation).unwrap_err();
        assert_eq!((lost.code(), lost.is_transient()), ("policy_feature", false));
        let other = observed.of(&space(&["load"], &["demand"]), &observation).unwrap_err();
        assert_eq!(other, PolicyError::Shape { expected: 1, found: 3 });
    }
}
