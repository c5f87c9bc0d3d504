//! What does a training that goes on have to remember, so that nobody can tell it was ever left?

use serde::{Deserialize, Serialize};

use super::adam::{Adam, parts, parts_mut};
use crate::parameters::Parameters;

/// Where a training is at a report: all that its next update depends on beside its arguments and the averaged parameters.
///
/// As JSON it is exact: numbers are kept as their bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BanditMemory {
    pub(super) update: usize,
    pub(super) rewards: u64,
    pub(super) rejected: usize,
    /// Bits of `σ`, once it is known.
    pub(super) deviation: Option<u64>,
    steps: i32,
    /// Bits of the parameters that are stepped, and of both moments of Adam, in the order of layers.
    current: Vec<u32>,
    first: Vec<u32>,
    second: Vec<u32>,
}

impl BanditMemory {
    pub(super) fn new(parameters: &Parameters, adam: &Adam) -> Self {
        Self {
            update: 0,
            rewards: 0,
            rejected: 0,
            deviation: None,
            steps: adam.steps,
            current: bits(&parts(parameters)),
            first: bits(&adam.first.parts()),
            second: bits(&adam.second.parts()),
        }
    }

    /// Updates made.
    #[must_use]
    pub fn update(&self) -> usize {
        self.update
    }

    /// Puts numbers back; `false` when they are not those of such a network, or one is not finite.
    pub(super) fn restore(&self, parameters: &mut Parameters, adam: &mut Adam) -> bool {
        adam.steps = self.steps;
        put(&self.current, parts_mut(parameters))
            && put(&self.first, adam.first.parts_mut())
            && put(&self.second, adam.second.parts_mut())
    }
}

fn bits(parts: &[&[f32]]) -> Vec<u32> {
    parts.iter().copied().flatten().map(|value| value.to_bits()).collect()
}

fn put(bits: &[u32], parts: Vec<&mut [f32]>) -> bool {
    let mut targets: Vec<&mut f32> = parts.into_iter().flatten().collect();
    let fits = targets.len() == bits.len() && bits.iter().all(|bits| f32::from_bits(*bits).is_finite());
    if fits {
        for (target, bits) in targets.iter_mut().zip(bits) {
            **target = f32::from_bits(*bits);
        }
    }
    fits
}
