//! What does the policy see?

use ndarray::{Array1, Array2};
use serde::{Deserialize, Serialize};

/// The shape of observations and actions of one encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservationSpace {
    /// Names of the features of a group, in order.
    pub group_features: Vec<String>,
    /// Names of the features of the whole fleet, in order.
    pub context_features: Vec<String>,
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
