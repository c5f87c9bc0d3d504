//! How good is it to let this group move, seen in its fleet?
//!
//! With features `x_i` of group `i` and `c` of the fleet, and `φ` a leaky rectifier:
//!
//! ```text
//! h_i = φ(E₁ φ(E₀ x_i + o_i))                  one encoder for all groups
//! g   = φ(T₁ φ(T₀ [mean h_i, max h_i, c]))     the fleet as every group sees it
//! (s_i, m_i) = G₁ φ(G₀ [h_i, g])               score, latent of the cost multiplier
//! r   = R g,   v = σ · V₁ φ(V₀ g) + μ          latent of the headroom, value
//! ```
//!
//! Nothing depends on the order or the number of groups (Zaheer et al., "Deep Sets", 2017): permuting the
//! groups permutes `s` and `m` and leaves `r` and `v`. Groups that may not be chosen still count in the pools,
//! since an endpoint that is down matters to the others.
//!
//! With [`NetworkShape::identities`](crate::NetworkShape::identities) each group has a bias `o_i` of its own, and the
//! network is for these groups in this order; without, `o_i = 0`.
//!
//! The forward pass is plain `f32` and allocates nothing once a [`Workspace`] has seen the size.

use ndarray::ArrayView1;
use traflux_core::Observation;

use crate::parameters::{Dense, LayerIx, Parameters};

/// Slope of the rectifier below zero.
pub(crate) const LEAK: f32 = 0.01;

/// Memory of forward passes, kept from one call to the next.
#[derive(Debug, Clone, Default)]
pub struct Workspace {
    input: Vec<f32>,
    first: Vec<f32>,
    encoded: Vec<f32>,
    pooled: Vec<f32>,
    trunk: Vec<f32>,
    head: Vec<f32>,
    scores: Vec<f32>,
    multipliers: Vec<f32>,
}

/// What the network says about one observation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outputs<'a> {
    /// Score of each group; higher is chosen earlier.
    pub scores: &'a [f32],
    /// Mean of the latent of each group's cost multiplier, 0 = neutral.
    pub multipliers: &'a [f32],
    /// Mean of the latent of the headroom, 0 = neutral.
    pub headroom: f32,
    /// Value of the state.
    pub value: f32,
}

impl Outputs<'_> {
    /// The name and value of the first output that is not finite.
    #[must_use]
    pub fn not_finite(&self) -> Option<(&'static str, f32)> {
        let bad = |name, values: &[f32]| values.iter().find(|v| !v.is_finite()).map(|v| (name, *v));
        bad("score", self.scores)
            .or_else(|| bad("cost multiplier", self.multipliers))
            .or_else(|| bad("headroom", &[self.headroom]))
            .or_else(|| bad("value", &[self.value]))
    }
}

impl Parameters {
    /// Runs the network on one observation.
    ///
    /// # Panics
    /// When the observation does not have the features of [`shape`](Self::shape), or, with identities, another
    /// number of groups.
    pub fn forward<'w>(&self, observation: &Observation, workspace: &'w mut Workspace) -> Outputs<'w> {
        let shape = self.shape;
        assert_eq!(observation.groups.ncols(), shape.group_features, "features per group");
        assert_eq!(observation.context.len(), shape.context_features, "features of the fleet");
        assert!(shape.identities == 0 || observation.len() == shape.identities, "groups with an identity");
        let h = shape.hidden;
        let n = observation.len();
        let w = workspace;
        w.first.resize(h, 0.0);
        w.encoded.resize(n * h, 0.0);
        w.pooled.resize(2 * h + shape.context_features, 0.0);
        w.trunk.resize(h, 0.0);
        w.head.resize(h, 0.0);
        w.scores.resize(n, 0.0);
        w.multipliers.resize(n, 0.0);

        let (mean, rest) = w.pooled.split_at_mut(h);
        let (max, context) = rest.split_at_mut(h);
        mean.fill(0.0);
        max.fill(if n == 0 { 0.0 } else { f32::NEG_INFINITY });
        let rows = observation.groups.rows().into_iter().zip(w.encoded.chunks_exact_mut(h));
        for (group, (row, encoded)) in rows.enumerate() {
            dense(self.layer(LayerIx::EncoderIn), contiguous(&row, &mut w.input), &mut w.first);
            for (value, own) in w.first.iter_mut().zip(self.own(group)) {
                *value += own;
            }
            rectify(&mut w.first);
            dense(self.layer(LayerIx::EncoderOut), &w.first, encoded);
            rectify(encoded);
            for ((sum, max), value) in mean.iter_mut().zip(max.iter_mut()).zip(encoded.iter()) {
                *sum += value;
                *max = max.max(*value);
            }
        }
        mean.iter_mut().for_each(|sum| *sum /= n.max(1) as f32);
        context.copy_from_slice(contiguous(&observation.context.view(), &mut w.input));

        dense(self.layer(LayerIx::TrunkIn), &w.pooled, &mut w.first);
        rectify(&mut w.first);
        dense(self.layer(LayerIx::TrunkOut), &w.first, &mut w.trunk);
        rectify(&mut w.trunk);

        // The part of G₀ that multiplies g is the same for every group: computed once, as a bias.
        let group_hidden = self.layer(LayerIx::GroupHidden);
        let (of_group, of_trunk) = group_hidden.weight.split_at(h * h);
        w.first.copy_from_slice(&group_hidden.bias);
        accumulate(of_trunk, &w.trunk, &mut w.first);
        let mut out = [0.0; 2];
        for (ix, encoded) in w.encoded.chunks_exact(h).enumerate() {
            w.head.copy_from_slice(&w.first);
            accumulate(of_group, encoded, &mut w.head);
            rectify(&mut w.head);
            dense(self.layer(LayerIx::GroupOut), &w.head, &mut out);
            [w.scores[ix], w.multipliers[ix]] = out;
        }

        let mut headroom = [0.0];
        dense(self.layer(LayerIx::HeadroomOut), &w.trunk, &mut headroom);
        dense(self.layer(LayerIx::ValueHidden), &w.trunk, &mut w.head);
        rectify(&mut w.head);
        let mut value = [0.0];
        dense(self.layer(LayerIx::ValueOut), &w.head, &mut value);
        Outputs {
            scores: &w.scores,
            multipliers: &w.multipliers,
            headroom: headroom[0],
            value: value[0] * self.value_scale + self.value_shift,
        }
    }
}

/// The values as one slice: the array's own memory, or a copy where that is strided.
fn contiguous<'a>(row: &'a ArrayView1<'_, f32>, copy: &'a mut Vec<f32>) -> &'a [f32] {
    match row.as_slice() {
        Some(slice) => slice,
        None => {
            copy.clear();
            copy.extend(row.iter());
            copy
        }
    }
}

pub(crate) fn dense(layer: &Dense, input: &[f32], output: &mut [f32]) {
    output.copy_from_slice(&layer.bias);
    accumulate(&layer.weight, input, output);
}

/// `output += input · weight`, with `weight` as `[inputs, outputs]`.
///
/// For the usual widths the output stays in registers: most of the cost of narrow layers is loading and storing it.
/// Either way the numbers are added in the same order.
pub(crate) fn accumulate(weight: &[f32], input: &[f32], output: &mut [f32]) {
    match output.len() {
        2 => accumulate_fixed::<2>(weight, input, output),
        8 => accumulate_fixed::<8>(weight, input, output),
        16 => accumulate_fixed::<16>(weight, input, output),
        24 => accumulate_fixed::<24>(weight, input, output),
        32 => accumulate_fixed::<32>(weight, input, output),
        _ => accumulate_any(weight, input, output),
    }
}

fn accumulate_fixed<const WIDTH: usize>(weight: &[f32], input: &[f32], output: &mut [f32]) {
    let ([sums], []) = output.as_chunks_mut::<WIDTH>() else { return };
    let mut y = *sums;
    let (rows, _) = weight.as_chunks::<WIDTH>();
    let (blocks, rest) = input.as_chunks::<4>();
    let (of_blocks, of_rest) = rows.split_at(blocks.len() * 4);
    for (x, rows) in blocks.iter().zip(of_blocks.as_chunks::<4>().0) {
        let [a, b, c, d] = rows;
        for at in 0..WIDTH {
            y[at] += (x[0] * a[at] + x[1] * b[at]) + (x[2] * c[at] + x[3] * d[at]);
        }
    }
    for (x, row) in rest.iter().zip(of_rest) {
        for at in 0..WIDTH {
            y[at] += x * row[at];
        }
    }
    *sums = y;
}

/// Four inputs at a time.
fn accumulate_any(weight: &[f32], input: &[f32], output: &mut [f32]) {
    let width = output.len();
    let (blocks, rest) = input.as_chunks::<4>();
    let (of_blocks, of_rest) = weight.split_at(blocks.len() * 4 * width);
    for (x, rows) in blocks.iter().zip(of_blocks.chunks_exact(4 * width)) {
        let (first, second) = rows.split_at(2 * width);
        let ((a, b), (c, d)) = (first.split_at(width), second.split_at(width));
        for ((((y, a), b), c), d) in output.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *y += (x[0] * a + x[1] * b) + (x[2] * c + x[3] * d);
        }
    }
    for (x, row) in rest.iter().zip(of_rest.chunks_exact(width)) {
        for (y, w) in output.iter_mut().zip(row) {
            *y += x * w;
        }
    }
}

pub(crate) fn rectify(values: &mut [f32]) {
    for value in values {
        *value = if *value >= 0.0 { *value } else { LEAK * *value };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::NetworkShape;
    use ndarray::{Array1, Array2, Axis};
    use proptest::prelude::*;

    const SHAPE: NetworkShape =
        NetworkShape { group_features: 6, context_features: 3, hidden: 16, identities: 0 };

    fn observation(values: &[f32], groups: usize) -> Observation {
        Observation {
            groups: Array2::from_shape_fn((groups, 6), |(i, j)| values[(i * 6 + j) % values.len()]),
            context: Array1::from_shape_fn(3, |j| values[(j * 7 + 1) % values.len()]),
            mask: vec![true; groups],
        }
    }

    fn owned(parameters: &Parameters, observation: &Observation) -> (Vec<f32>, Vec<f32>, f32, f32) {
        let mut workspace = Workspace::default();
        let out = parameters.forward(observation, &mut workspace);
        (out.scores.to_vec(), out.multipliers.to_vec(), out.headroom, out.value)
    }

    proptest! {
        #[test]
        fn permuting_the_groups_permutes_scores_and_leaves_the_fleet_outputs(
            values in prop::collection::vec(-3.0f32..3.0, 6 * 9 + 1),
            groups in 1usize..9,
            rotation in 0usize..9,
            seed in 0u64..1000,
        ) {
            let parameters = Parameters::seeded(SHAPE, seed);
            let original = observation(&values, groups);
            let mut order: Vec<usize> = (0..groups).collect();
            order.rotate_left(rotation % groups);
            if groups > 2 { order.swap(0, groups - 1); }
            let permuted = Observation { groups: original.groups.select(Axis(0), &order), ..original.clone() };
            let (scores, multipliers, headroom, value) = owned(&parameters, &original);
            let after = owned(&parameters, &permuted);
            for (position, from) in order.iter().enumerate() {
                prop_assert!((after.0[position] - scores[*from]).abs() < 1e-5);
                prop_assert!((after.1[position] - multipliers[*from]).abs() < 1e-5);
            }
            prop_assert!((after.2 - headroom).abs() < 1e-5 && (after.3 - value).abs() < 1e-5);
        }
    }

    #[test]
    fn the_same_parameters_serve_any_number_of_groups() {
        let parameters = Parameters::seeded(SHAPE, 3);
        let mut workspace = Workspace::default();
        for groups in [0, 1, 8, 10_000, 3, 0] {
            let observation = observation(&[0.3, -1.0, 0.7, 2.0, -0.2], groups);
            let out = parameters.forward(&observation, &mut workspace);
            assert_eq!((out.scores.len(), out.multipliers.len()), (groups, groups));
            assert_eq!(out.not_finite(), None);
        }
    }

    #[test]
    fn a_group_that_joins_changes_no_memory_of_the_last_call() {
        let parameters = Parameters::seeded(SHAPE, 3);
        let (five, six) = (observation(&[0.1, 0.9, -0.4], 5), observation(&[0.1, 0.9, -0.4], 6));
        let fresh = owned(&parameters, &five);
        let mut workspace = Workspace::default();
        parameters.forward(&six, &mut workspace);
        let again = parameters.forward(&five, &mut workspace);
        assert_eq!((again.scores, again.value), (&fresh.0[..], fresh.3));
    }

    #[test]
    fn an_array_in_column_order_gives_the_same_outputs() {
        let parameters = Parameters::seeded(SHAPE, 3);
        let row_major = observation(&[0.1, 0.9, -0.4, 0.5], 7);
        let column_major = Observation {
            groups: row_major.groups.t().as_standard_layout().into_owned().reversed_axes(),
            ..row_major.clone()
        };
        assert!(!column_major.groups.is_standard_layout());
        assert_eq!(owned(&parameters, &row_major), owned(&parameters, &column_major));
    }

    #[test]
    fn a_weight_that_is_not_a_number_is_named_by_its_output() {
        let mut parameters = Parameters::seeded(SHAPE, 3);
        parameters.dense[LayerIx::HeadroomOut as usize].bias[0] = f32::NAN;
        let mut workspace = Workspace::default();
        let out = parameters.forward(&observation(&[0.5], 2), &mut workspace);
        assert_eq!(out.not_finite().unwrap().0, "headroom");
    }
}
