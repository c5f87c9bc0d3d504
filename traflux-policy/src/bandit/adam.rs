//! How long is the step along a gradient?

use super::gradient::Gradients;
use crate::parameters::Parameters;

const BETA: [f32; 2] = [0.9, 0.999];
const EPSILON: f32 = 1e-7;

/// Adam (Kingma and Ba 2015) with a limit on the norm of the gradient.
pub(super) struct Adam {
    pub(super) first: Gradients,
    pub(super) second: Gradients,
    pub(super) steps: i32,
}

impl Adam {
    pub(super) fn new(parameters: &Parameters) -> Self {
        Self { first: Gradients::zero(parameters), second: Gradients::zero(parameters), steps: 0 }
    }

    /// Makes one step down; gives the norm of the gradient before it was limited. A gradient that is not finite
    /// makes none.
    pub(super) fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        rate: f64,
        max_norm: f64,
    ) -> f64 {
        let norm = gradients.norm();
        if !norm.is_finite() {
            return norm;
        }
        let scale = if norm > max_norm { (max_norm / norm) as f32 } else { 1.0 };
        self.steps = self.steps.saturating_add(1);
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(self.steps);
        let rate = (rate * correction(BETA[1]).sqrt() / correction(BETA[0])) as f32;
        let moments = self.first.parts_mut().into_iter().zip(self.second.parts_mut());
        let targets = parts_mut(parameters).into_iter().zip(gradients.parts());
        for ((values, gradient), (first, second)) in targets.zip(moments) {
            for (((value, g), m), v) in values.iter_mut().zip(gradient).zip(first).zip(second) {
                let g = g * scale;
                *m = BETA[0] * *m + (1.0 - BETA[0]) * g;
                *v = BETA[1] * *v + (1.0 - BETA[1]) * g * g;
                *value -= rate * *m / (v.sqrt() + EPSILON);
            }
        }
        norm
    }
}

/// Moves `average` a part of the way to `current`.
pub(super) fn blend(average: &mut Parameters, current: &Parameters, part: f32) {
    let targets = parts_mut(average).into_iter().zip(parts(current));
    for (average, current) in targets {
        for (average, current) in average.iter_mut().zip(current) {
            *average += part * (current - *average);
        }
    }
}

pub(super) fn parts_mut(parameters: &mut Parameters) -> Vec<&mut [f32]> {
    let Parameters { dense, own, .. } = parameters;
    let layers = dense.iter_mut().flat_map(|dense| [&mut dense.weight[..], &mut dense.bias[..]]);
    layers.chain([&mut own[..]]).collect()
}

pub(super) fn parts(parameters: &Parameters) -> Vec<&[f32]> {
    let layers = parameters.dense.iter().flat_map(|dense| [&dense.weight[..], &dense.bias[..]]);
    layers.chain([&parameters.own[..]]).collect()
}
