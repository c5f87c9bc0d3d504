//! How do scores and value change with every number of the network?
//!
//! The derivative of [`network`](crate::network), layer by layer backwards (Rumelhart, Hinton and Williams 1986). Of
//! the pooled maximum only the group that attains it has a part; of several the first.

use traflux_core::Observation;

use crate::network::{LEAK, accumulate, dense, rectify};
use crate::parameters::{Dense, LayerIx, Parameters};

/// A derivative by every weight and bias; those of multipliers and headroom are zero.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients {
    dense: Vec<Dense>,
    own: Vec<f32>,
}

impl Gradients {
    /// Zero, in the shape of these parameters.
    #[must_use]
    pub fn zero(parameters: &Parameters) -> Self {
        let zero = |values: &Vec<f32>| vec![0.0; values.len()];
        let like = |dense: &Dense| Dense { weight: zero(&dense.weight), bias: zero(&dense.bias) };
        Self { dense: parameters.dense.iter().map(like).collect(), own: zero(&parameters.own) }
    }

    /// Adds another of the same shape.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.parts_mut().into_iter().zip(other.parts()) {
            for (sum, part) in sum.iter_mut().zip(part) {
                *sum += part;
            }
        }
    }

    /// Makes every number zero.
    pub fn clear(&mut self) {
        self.parts_mut().into_iter().for_each(|part| part.fill(0.0));
    }

    /// Root of the sum of squares.
    #[must_use]
    pub fn norm(&self) -> f64 {
        let squares = |part: &[f32]| part.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        self.parts().into_iter().map(squares).sum::<f64>().sqrt()
    }

    /// The numbers of each layer, weights before biases, and last those of single groups.
    #[must_use]
    pub fn parts(&self) -> Vec<&[f32]> {
        let layers = self.dense.iter().flat_map(|dense| [&dense.weight[..], &dense.bias[..]]);
        layers.chain([&self.own[..]]).collect()
    }

    pub(super) fn parts_mut(&mut self) -> Vec<&mut [f32]> {
        let layers = self.dense.iter_mut().flat_map(|dense| [&mut dense.weight[..], &mut dense.bias[..]]);
        layers.chain([&mut self.own[..]]).collect()
    }
}

/// Memory of forward and backward passes, kept from one call to the next.
#[derive(Debug, Clone, Default)]
pub struct GradientWorkspace {
    inputs: Vec<f32>,
    /// `[groups, hidden]` each.
    first: Vec<f32>,
    encoded: Vec<f32>,
    head: Vec<f32>,
    pooled: Vec<f32>,
    /// Group that attains the maximum of each column.
    argmax: Vec<usize>,
    trunk_in: Vec<f32>,
    trunk: Vec<f32>,
    value_hidden: Vec<f32>,
    scores: Vec<f32>,
    /// Derivatives.
    d_encoded: Vec<f32>,
    d_row: Vec<f32>,
    d_sum: Vec<f32>,
    d_trunk: Vec<f32>,
    d_pooled: Vec<f32>,
}

impl GradientWorkspace {
    /// Runs the network and keeps what [`backward`](Self::backward) needs; gives scores and value.
    ///
    /// # Panics
    /// As [`Parameters::forward`].
    pub fn forward(&mut self, parameters: &Parameters, observation: &Observation) -> (&[f32], f32) {
        let shape = parameters.shape;
        assert_eq!(observation.groups.ncols(), shape.group_features, "features per group");
        assert_eq!(observation.context.len(), shape.context_features, "features of the fleet");
        assert!(shape.identities == 0 || observation.len() == shape.identities, "groups with an identity");
        let (h, n, features) = (shape.hidden, observation.len(), shape.group_features);
        self.inputs.clear();
        self.inputs.extend(observation.groups.iter());
        self.first.resize(n * h, 0.0);
        self.encoded.resize(n * h, 0.0);
        self.head.resize(n * h, 0.0);
        self.scores.resize(n, 0.0);
        self.pooled.clear();
        self.pooled.resize(2 * h, 0.0);
        self.argmax.clear();
        self.argmax.resize(h, 0);
        if n > 0 {
            self.pooled[h..].fill(f32::NEG_INFINITY);
        }
        for group in 0..n {
            let first = &mut self.first[group * h..][..h];
            let encoded = &mut self.encoded[group * h..][..h];
            dense(parameters.layer(LayerIx::EncoderIn), &self.inputs[group * features..][..features], first);
            for (value, own) in first.iter_mut().zip(parameters.own(group)) {
                *value += own;
            }
            rectify(first);
            dense(parameters.layer(LayerIx::EncoderOut), first, encoded);
            rectify(encoded);
            for (column, value) in encoded.iter().enumerate() {
                self.pooled[column] += value;
                if *value > self.pooled[h + column] {
                    self.pooled[h + column] = *value;
                    self.argmax[column] = group;
                }
            }
        }
        self.pooled[..h].iter_mut().for_each(|sum| *sum /= n.max(1) as f32);
        self.pooled.extend(observation.context.iter());
        for vector in [&mut self.trunk_in, &mut self.trunk, &mut self.value_hidden, &mut self.d_sum] {
            vector.resize(h, 0.0);
        }
        dense(parameters.layer(LayerIx::TrunkIn), &self.pooled, &mut self.trunk_in);
        rectify(&mut self.trunk_in);
        dense(parameters.layer(LayerIx::TrunkOut), &self.trunk_in, &mut self.trunk);
        rectify(&mut self.trunk);
        let group_hidden = parameters.layer(LayerIx::GroupHidden);
        let (of_group, of_trunk) = group_hidden.weight.split_at(h * h);
        self.d_sum.copy_from_slice(&group_hidden.bias);
        accumulate(of_trunk, &self.trunk, &mut self.d_sum);
        let out = parameters.layer(LayerIx::GroupOut);
        for group in 0..n {
            let head = &mut self.head[group * h..][..h];
            head.copy_from_slice(&self.d_sum);
            accumulate(of_group, &self.encoded[group * h..][..h], head);
            rectify(head);
            // The second output is the multiplier's.
            let weights = out.weight.iter().step_by(2);
            self.scores[group] = out.bias[0] + head.iter().zip(weights).map(|(x, w)| x * w).sum::<f32>();
        }
        dense(parameters.layer(LayerIx::ValueHidden), &self.trunk, &mut self.value_hidden);
        rectify(&mut self.value_hidden);
        let mut value = [0.0];
        dense(parameters.layer(LayerIx::ValueOut), &self.value_hidden, &mut value);
        (&self.scores, value[0] * parameters.value_scale + parameters.value_shift)
    }

    /// Adds to `gradients` the derivatives of a loss of which the derivatives by each score and by the value are
    /// given, at the observation of the last [`forward`](Self::forward).
    ///
    /// # Panics
    /// When `by_scores` has another length than there are groups.
    pub fn backward(
        &mut self,
        parameters: &Parameters,
        by_scores: &[f32],
        by_value: f32,
        gradients: &mut Gradients,
    ) {
        let shape = parameters.shape;
        let (h, n, features) = (shape.hidden, self.scores.len(), shape.group_features);
        assert_eq!(by_scores.len(), n, "one derivative per group");
        for vector in [&mut self.d_row, &mut self.d_trunk] {
            vector.clear();
            vector.resize(h, 0.0);
        }
        self.d_pooled.clear();
        self.d_pooled.resize(self.pooled.len(), 0.0);
        self.d_encoded.clear();
        self.d_encoded.resize(n * h, 0.0);
        self.d_sum.fill(0.0);

        let out = &parameters.layer(LayerIx::GroupOut).weight;
        let group_hidden = &parameters.layer(LayerIx::GroupHidden).weight;
        for group in 0..n {
            let d_score = by_scores[group];
            if d_score == 0.0 {
                continue;
            }
            let head = &self.head[group * h..][..h];
            let d_out = &mut gradients.dense[LayerIx::GroupOut as usize];
            d_out.bias[0] += d_score;
            for (column, value) in head.iter().enumerate() {
                d_out.weight[2 * column] += d_score * value;
                self.d_row[column] = d_score * out[2 * column] * leak(*value);
            }
            for (sum, d) in self.d_sum.iter_mut().zip(&self.d_row) {
                *sum += d;
            }
            let of_group = &mut gradients.dense[LayerIx::GroupHidden as usize].weight[..h * h];
            outer(&self.encoded[group * h..][..h], &self.d_row, of_group);
            back(&group_hidden[..h * h], &self.d_row, &mut self.d_encoded[group * h..][..h]);
        }
        let d_group = &mut gradients.dense[LayerIx::GroupHidden as usize];
        add(&self.d_sum, &mut d_group.bias);
        outer(&self.trunk, &self.d_sum, &mut d_group.weight[h * h..]);
        back(&group_hidden[h * h..], &self.d_sum, &mut self.d_trunk);

        let by_value = by_value * parameters.value_scale;
        let d_value = &mut gradients.dense[LayerIx::ValueOut as usize];
        d_value.bias[0] += by_value;
        let value_out = &parameters.layer(LayerIx::ValueOut).weight;
        for (column, value) in self.value_hidden.iter().enumerate() {
            d_value.weight[column] += by_value * value;
            self.d_row[column] = by_value * value_out[column] * leak(*value);
        }
        let d_hidden = &mut gradients.dense[LayerIx::ValueHidden as usize];
        add(&self.d_row, &mut d_hidden.bias);
        outer(&self.trunk, &self.d_row, &mut d_hidden.weight);
        back(&parameters.layer(LayerIx::ValueHidden).weight, &self.d_row, &mut self.d_trunk);

        through(&self.trunk, &mut self.d_trunk);
        let d_trunk_out = &mut gradients.dense[LayerIx::TrunkOut as usize];
        add(&self.d_trunk, &mut d_trunk_out.bias);
        outer(&self.trunk_in, &self.d_trunk, &mut d_trunk_out.weight);
        self.d_row.fill(0.0);
        back(&parameters.layer(LayerIx::TrunkOut).weight, &self.d_trunk, &mut self.d_row);
        through(&self.trunk_in, &mut self.d_row);
        let d_trunk_in = &mut gradients.dense[LayerIx::TrunkIn as usize];
        add(&self.d_row, &mut d_trunk_in.bias);
        outer(&self.pooled, &self.d_row, &mut d_trunk_in.weight);
        back(&parameters.layer(LayerIx::TrunkIn).weight, &self.d_row, &mut self.d_pooled);

        if n > 0 {
            for column in 0..h {
                self.d_encoded[self.argmax[column] * h + column] += self.d_pooled[h + column];
                self.d_pooled[column] /= n as f32;
            }
        }
        let encoder_out = &parameters.layer(LayerIx::EncoderOut).weight;
        for group in 0..n {
            let d_encoded = &mut self.d_encoded[group * h..][..h];
            add(&self.d_pooled[..h], d_encoded);
            through(&self.encoded[group * h..][..h], d_encoded);
            let first = &self.first[group * h..][..h];
            let d_out = &mut gradients.dense[LayerIx::EncoderOut as usize];
            add(d_encoded, &mut d_out.bias);
            outer(first, d_encoded, &mut d_out.weight);
            self.d_row.fill(0.0);
            back(encoder_out, d_encoded, &mut self.d_row);
            through(first, &mut self.d_row);
            let d_in = &mut gradients.dense[LayerIx::EncoderIn as usize];
            add(&self.d_row, &mut d_in.bias);
            outer(&self.inputs[group * features..][..features], &self.d_row, &mut d_in.weight);
            if !gradients.own.is_empty() {
                add(&self.d_row, &mut gradients.own[group * h..][..h]);
            }
        }
    }
}

/// Slope of the rectifier, seen from its output.
fn leak(value: f32) -> f32 {
    if value >= 0.0 { 1.0 } else { LEAK }
}

fn through(outputs: &[f32], derivatives: &mut [f32]) {
    for (derivative, output) in derivatives.iter_mut().zip(outputs) {
        *derivative *= leak(*output);
    }
}

fn add(part: &[f32], sum: &mut [f32]) {
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}

/// `weight += input ⊗ output`.
fn outer(input: &[f32], output: &[f32], weight: &mut [f32]) {
    for (x, row) in input.iter().zip(weight.chunks_exact_mut(output.len())) {
        if *x != 0.0 {
            for (w, y) in row.iter_mut().zip(output) {
                *w += x * y;
            }
        }
    }
}

/// `input += weight · output`.
fn back(weight: &[f32], output: &[f32], input: &mut [f32]) {
    for (x, row) in input.iter_mut().zip(weight.chunks_exact(output.len())) {
        // Four sums side by side: one would have to wait for itself.
        let (blocks, rest) = row.as_chunks::<4>();
        let (outputs, others) = output.as_chunks::<4>();
        let mut sums = [0.0f32; 4];
        for (w, y) in blocks.iter().zip(outputs) {
            for lane in 0..4 {
                sums[lane] += w[lane] * y[lane];
            }
        }
        *x += (sums[0] + sums[2]) + (sums[1] + sums[3]);
        *x += rest.iter().zip(others).map(|(w, y)| w * y).sum::<f32>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Workspace;
    use crate::parameters::NetworkShape;
    use ndarray::{Array1, Array2};

    fn case(identities: usize) -> (Parameters, Observation) {
        let shape = NetworkShape { group_features: 5, context_features: 3, hidden: 6, identities };
        let mut parameters = Parameters::seeded(shape, 9);
        for dense in &mut parameters.dense {
            dense.weight.iter_mut().for_each(|w| *w *= 2.0);
            dense.bias.iter_mut().enumerate().for_each(|(ix, b)| *b = 0.1 * ix as f32 - 0.2);
        }
        parameters.own.iter_mut().enumerate().for_each(|(ix, o)| *o = (ix as f32 * 0.7).sin());
        (parameters.value_scale, parameters.value_shift) = (0.5, 2.0);
        let observation = Observation {
            groups: Array2::from_shape_fn((7, 5), |(i, j)| ((i * 5 + j * 3) as f32 * 0.37).sin()),
            context: Array1::from_shape_fn(3, |j| (j as f32).cos()),
            mask: vec![true; 7],
        };
        (parameters, observation)
    }

    #[test]
    fn the_forward_pass_is_that_of_inference() {
        for identities in [0, 7] {
            let (parameters, observation) = case(identities);
            let mut workspace = Workspace::default();
            let plain = parameters.forward(&observation, &mut workspace);
            let mut training = GradientWorkspace::default();
            let (scores, value) = training.forward(&parameters, &observation);
            for (a, b) in scores.iter().zip(plain.scores) {
                assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
            assert!((value - plain.value).abs() < 1e-5);
        }
    }

    #[test]
    fn derivatives_agree_with_differences() {
        for identities in [0, 7] {
            let (parameters, observation) = case(identities);
            let by_scores: Vec<f32> = (0..7).map(|i| (i as f32 * 1.3).cos()).collect();
            let mut workspace = GradientWorkspace::default();
            let mut loss = |parameters: &Parameters| {
                let (scores, value) = workspace.forward(parameters, &observation);
                let scores = scores.iter().zip(&by_scores).map(|(s, d)| f64::from(s * d)).sum::<f64>();
                scores + 0.3 * f64::from(value)
            };
            let step = 1e-2;
            let mut differences = Vec::new();
            for layer in 0..parameters.dense.len() {
                for at in 0..parameters.dense[layer].weight.len() {
                    let mut moved = [parameters.clone(), parameters.clone()];
                    moved[0].dense[layer].weight[at] -= step;
                    moved[1].dense[layer].weight[at] += step;
                    differences.push((loss(&moved[1]) - loss(&moved[0])) / f64::from(2.0 * step));
                }
                for at in 0..parameters.dense[layer].bias.len() {
                    let mut moved = [parameters.clone(), parameters.clone()];
                    moved[0].dense[layer].bias[at] -= step;
                    moved[1].dense[layer].bias[at] += step;
                    differences.push((loss(&moved[1]) - loss(&moved[0])) / f64::from(2.0 * step));
                }
            }
            for at in 0..parameters.own.len() {
                let mut moved = [parameters.clone(), parameters.clone()];
                moved[0].own[at] -= step;
                moved[1].own[at] += step;
                differences.push((loss(&moved[1]) - loss(&moved[0])) / f64::from(2.0 * step));
            }
            let mut gradients = Gradients::zero(&parameters);
            workspace.forward(&parameters, &observation);
            workspace.backward(&parameters, &by_scores, 0.3, &mut gradients);
            let found: Vec<f32> = gradients.parts().concat();
            assert_eq!(found.len(), differences.len());
            // A rectifier that bends within the step makes a few differences useless.
            let far = |(a, b): &(&f32, &f64)| (f64::from(**a) - **b).abs() > 2e-3 * (1.0 + b.abs());
            let bad = found.iter().zip(&differences).filter(far).count();
            assert!(bad * 50 <= found.len(), "{bad} of {}", found.len());
        }
    }
}
