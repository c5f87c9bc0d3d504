//! The network of [`crate::network`] as a burn module: same layers, same names, same equations.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::optim::GradientsParams;
use burn::tensor::activation::leaky_relu;
use burn::tensor::{Device, Tensor, TensorData};

use crate::network::LEAK;
use crate::parameters::{Dense, LayerIx, NetworkShape, Parameters};

/// Added to what must not win a maximum or a softmax.
pub(super) const BLOCKED: f32 = -1e9;

/// The network with gradients.
#[derive(Module, Debug)]
pub(super) struct ActorCritic {
    layers: Vec<Linear>,
    log_std: Param<Tensor<1>>,
}

/// What the network says about a padded batch.
pub(super) struct BatchOutputs {
    /// `[batch, groups]`.
    pub(super) scores: Tensor<2>,
    /// `[batch, groups]`.
    pub(super) multipliers: Tensor<2>,
    /// `[batch]`.
    pub(super) headroom: Tensor<1>,
    /// `[batch]`, in the critic's own scale: before `value_scale` and `value_shift`.
    pub(super) value: Tensor<1>,
}

impl ActorCritic {
    pub(super) fn from_parameters(parameters: &Parameters, device: &Device) -> Self {
        let layers = LayerIx::ALL
            .iter()
            .map(|layer| {
                let (inputs, outputs) = parameters.shape.layer(*layer);
                let dense = parameters.layer(*layer);
                let weight = TensorData::new(dense.weight.clone(), [inputs, outputs]);
                let bias = TensorData::new(dense.bias.clone(), [outputs]);
                Linear {
                    weight: Param::from_data(weight, device),
                    bias: Some(Param::from_data(bias, device)),
                }
            })
            .collect();
        let log_std = Param::from_data(TensorData::new(parameters.log_std.to_vec(), [2]), device);
        Self { layers, log_std }
    }

    /// The same numbers as plain parameters; scale of the critic and range of inputs are those of `like`.
    pub(super) fn to_parameters(&self, like: &Parameters) -> Parameters {
        let dense = self
            .layers
            .iter()
            .map(|layer| Dense {
                weight: values(layer.weight.val()),
                bias: layer.bias.as_ref().map(|bias| values(bias.val())).unwrap_or_default(),
            })
            .collect();
        let log_std = values(self.log_std.val());
        Parameters { dense, log_std: [log_std[0], log_std[1]], ..like.clone() }
    }

    /// `groups` is `[batch, groups, features]`, `context` `[batch, features]`, `present` `[batch, groups, 1]`
    /// with 1 for groups and 0 for padding. Every row has at least one group.
    pub(super) fn forward(
        &self,
        shape: &NetworkShape,
        groups: Tensor<3>,
        context: Tensor<2>,
        present: Tensor<3>,
    ) -> BatchOutputs {
        let [batch, count, _] = groups.dims();
        let h = shape.hidden;
        let flat = groups.reshape([batch * count, shape.group_features]);
        let encoded = self.rectified(LayerIx::EncoderIn, flat);
        let encoded = self.rectified(LayerIx::EncoderOut, encoded);

        let by_row = encoded.clone().reshape([batch, count, h]);
        let counted: Tensor<2> = present.clone().sum_dim(1).reshape([batch, 1]);
        let sum: Tensor<2> = (by_row.clone() * present.clone()).sum_dim(1).reshape([batch, h]);
        let padding = (present - 1.0) * -BLOCKED;
        let max: Tensor<2> = (by_row + padding).max_dim(1).reshape([batch, h]);
        let pooled = Tensor::cat(vec![sum / counted, max, context], 1);
        let trunk = self.rectified(LayerIx::TrunkIn, pooled);
        let trunk = self.rectified(LayerIx::TrunkOut, trunk);

        let beside: Tensor<2> =
            trunk.clone().reshape([batch, 1, h]).expand([batch, count, h]).reshape([batch * count, h]);
        let head = self.rectified(LayerIx::GroupHidden, Tensor::cat(vec![encoded, beside], 1));
        let out = self.linear(LayerIx::GroupOut, head).reshape([batch, count, 2]);
        let column = |ix: usize| -> Tensor<2> { out.clone().narrow(2, ix, 1).reshape([batch, count]) };
        let headroom = self.linear(LayerIx::HeadroomOut, trunk.clone()).reshape([batch]);
        let value = self.rectified(LayerIx::ValueHidden, trunk);
        BatchOutputs {
            scores: column(0),
            multipliers: column(1),
            headroom,
            value: self.linear(LayerIx::ValueOut, value).reshape([batch]),
        }
    }

    /// Log standard deviations of the headroom's and the multipliers' latents, `[2]`.
    pub(super) fn log_std(&self) -> Tensor<1> {
        let (low, high) = crate::parameters::LOG_STD_RANGE;
        self.log_std.val().clamp(low, high)
    }

    /// Scales all gradients so that their norm together is at most `limit`; returns the norm before.
    pub(super) fn clip(&self, gradients: &mut GradientsParams, limit: f64) -> f64 {
        let mut squares = 0.0;
        let square = |tensor: Vec<f32>| tensor.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
        for layer in &self.layers {
            squares += gradients.get::<2>(layer.weight.id).map_or(0.0, |g| square(values(g)));
            if let Some(bias) = &layer.bias {
                squares += gradients.get::<1>(bias.id).map_or(0.0, |g| square(values(g)));
            }
        }
        squares += gradients.get::<1>(self.log_std.id).map_or(0.0, |g| square(values(g)));
        let norm = squares.sqrt();
        if norm > limit {
            let factor = limit / norm;
            let mut scale1 = |id| {
                if let Some(gradient) = gradients.remove::<1>(id) {
                    gradients.register(id, gradient * factor);
                }
            };
            self.layers.iter().filter_map(|l| l.bias.as_ref()).for_each(|bias| scale1(bias.id));
            scale1(self.log_std.id);
            for layer in &self.layers {
                if let Some(gradient) = gradients.remove::<2>(layer.weight.id) {
                    gradients.register(layer.weight.id, gradient * factor);
                }
            }
        }
        norm
    }

    fn linear(&self, layer: LayerIx, input: Tensor<2>) -> Tensor<2> {
        self.layers[layer as usize].forward(input)
    }

    fn rectified(&self, layer: LayerIx, input: Tensor<2>) -> Tensor<2> {
        leaky_relu(self.linear(layer, input), f64::from(LEAK))
    }
}

/// A tensor's numbers on the host.
///
/// # Panics
/// When the device does not give its data back as `f32`, which the CPU device always does.
pub(super) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("a float tensor of the CPU device is f32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::batch::Padded;
    use crate::network::Workspace;
    use ndarray::{Array1, Array2};
    use traflux_core::Observation;

    #[test]
    fn the_burn_network_and_plain_inference_agree_on_padded_batches_of_fleets_of_any_size() {
        let shape = NetworkShape { group_features: 7, context_features: 3, hidden: 16, identities: 0 };
        let device = Device::flex();
        for seed in 0..4 {
            let mut parameters = Parameters::seeded(shape, seed);
            // Outputs start near zero: let them count.
            for dense in &mut parameters.dense {
                dense.weight.iter_mut().for_each(|w| *w *= 3.0);
                dense.bias.iter_mut().enumerate().for_each(|(ix, b)| *b = 0.1 * ix as f32 - 0.2);
            }
            let model = ActorCritic::from_parameters(&parameters, &device);
            let states: Vec<Observation> = [1usize, 9, 4, 30]
                .iter()
                .map(|groups| Observation {
                    groups: Array2::from_shape_fn((*groups, 7), |(i, j)| {
                        ((i * 7 + j * 3) as f32 * 0.37).sin()
                    }),
                    context: Array1::from_shape_fn(3, |j| (*groups as f32 * 0.1 + j as f32).cos()),
                    mask: vec![true; *groups],
                })
                .collect();
            let batch = Padded::new(&states.iter().collect::<Vec<_>>(), &device);
            let out = model.forward(&shape, batch.groups, batch.context, batch.present);
            let (scores, multipliers) = (values(out.scores), values(out.multipliers));
            let (headroom, value) = (values(out.headroom), values(out.value));
            let mut workspace = Workspace::default();
            for (row, state) in states.iter().enumerate() {
                let plain = parameters.forward(state, &mut workspace);
                let near = |a: f32, b: f32| assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{a} and {b}");
                for group in 0..state.len() {
                    near(scores[row * 30 + group], plain.scores[group]);
                    near(multipliers[row * 30 + group], plain.multipliers[group]);
                }
                near(headroom[row], plain.headroom);
                near(value[row], plain.value);
            }
        }
    }

    #[test]
    fn parameters_survive_the_way_through_burn_bit_by_bit() {
        let shape = NetworkShape { group_features: 5, context_features: 2, hidden: 8, identities: 0 };
        let parameters = Parameters::seeded(shape, 3);
        let model = ActorCritic::from_parameters(&parameters, &Device::flex().autodiff());
        assert_eq!(model.to_parameters(&parameters), parameters);
    }
}
