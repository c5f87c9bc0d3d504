//! Which numbers make up a policy?
//!
//! Dense layers, two log standard deviations, the scale of the critic, and the range of inputs seen in
//! training. The layout is fixed by [`NetworkShape`]; inference, learner and checkpoint all read it from
//! here.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::range::InputRange;

/// Sizes of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkShape {
    /// Features per group.
    pub group_features: usize,
    /// Features of the whole fleet.
    pub context_features: usize,
    /// Width of every hidden layer.
    pub hidden: usize,
    /// How many groups have a bias of their own in the first layer, by their position. Such a network knows which
    /// group is which and serves this number of groups only; with 0 all groups are alike and any number is served.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub identities: usize,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// The layers, in the order in which they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerIx {
    EncoderIn,
    EncoderOut,
    TrunkIn,
    TrunkOut,
    GroupHidden,
    GroupOut,
    HeadroomOut,
    ValueHidden,
    ValueOut,
}

/// How many layers there are.
pub(crate) const LAYERS: usize = 9;

/// Name of the tensor of biases of single groups.
pub(crate) const OWN: &str = "encoder.own";

/// Bounds of the log standard deviations: exploration neither dies nor drowns the mean.
pub(crate) const LOG_STD_RANGE: (f32, f32) = (-4.0, 0.5);

impl LayerIx {
    pub(crate) const ALL: [Self; LAYERS] = [
        Self::EncoderIn,
        Self::EncoderOut,
        Self::TrunkIn,
        Self::TrunkOut,
        Self::GroupHidden,
        Self::GroupOut,
        Self::HeadroomOut,
        Self::ValueHidden,
        Self::ValueOut,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EncoderIn => "encoder.0",
            Self::EncoderOut => "encoder.1",
            Self::TrunkIn => "trunk.0",
            Self::TrunkOut => "trunk.1",
            Self::GroupHidden => "group.0",
            Self::GroupOut => "group.1",
            Self::HeadroomOut => "headroom",
            Self::ValueHidden => "value.0",
            Self::ValueOut => "value.1",
        }
    }

    /// Whether its outputs are outputs of the network: those start near zero, so that an untrained policy is
    /// neutral.
    const fn is_output(self) -> bool {
        matches!(self, Self::GroupOut | Self::HeadroomOut | Self::ValueOut)
    }
}

impl NetworkShape {
    /// Inputs and outputs of one layer.
    pub(crate) const fn layer(&self, layer: LayerIx) -> (usize, usize) {
        let h = self.hidden;
        match layer {
            LayerIx::EncoderIn => (self.group_features, h),
            LayerIx::TrunkIn => (2 * h + self.context_features, h),
            LayerIx::GroupHidden => (2 * h, h),
            LayerIx::EncoderOut | LayerIx::TrunkOut | LayerIx::ValueHidden => (h, h),
            LayerIx::GroupOut => (h, 2),
            LayerIx::HeadroomOut | LayerIx::ValueOut => (h, 1),
        }
    }

    /// Number of trained parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        LayerIx::ALL.iter().map(|l| self.layer(*l)).map(|(i, o)| i * o + o).sum::<usize>()
            + self.identities * self.hidden
            + 2
    }
}

/// One dense layer, `y = x·W + b`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    /// `[inputs, outputs]`, row-major.
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`.
    pub(crate) bias: Vec<f32>,
}

/// All numbers of one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    pub(crate) shape: NetworkShape,
    pub(crate) dense: Vec<Dense>,
    /// `[identities, hidden]`: what the first layer adds for each group; empty where all are alike.
    pub(crate) own: Vec<f32>,
    /// Of the headroom's latent and of the multipliers' latents.
    pub(crate) log_std: [f32; 2],
    /// The critic's output times `value_scale` plus `value_shift` is the value.
    pub(crate) value_shift: f32,
    pub(crate) value_scale: f32,
    pub(crate) range: Option<InputRange>,
}

impl Parameters {
    /// Untrained parameters: every group scores about alike, headroom and multipliers are neutral.
    #[must_use]
    pub fn seeded(shape: NetworkShape, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let dense = LayerIx::ALL
            .iter()
            .map(|layer| {
                let (inputs, outputs) = shape.layer(*layer);
                // He initialisation for inputs of unit scale.
                let gain = if layer.is_output() { 0.01 } else { 1.0 };
                let bound = gain * (6.0 / inputs.max(1) as f32).sqrt();
                let weight = (0..inputs * outputs).map(|_| bound * (2.0 * uniform(&mut rng) - 1.0)).collect();
                Dense { weight, bias: vec![0.0; outputs] }
            })
            .collect();
        // At first all groups are alike.
        let own = vec![0.0; shape.identities * shape.hidden];
        Self { shape, dense, own, log_std: [-0.7, -1.2], value_shift: 0.0, value_scale: 1.0, range: None }
    }

    /// The same network for features of groups in another order, with new ones (`None`) that have no influence
    /// yet. `places`: where each feature was before.
    #[must_use]
    pub(crate) fn with_group_features(mut self, places: &[Option<usize>]) -> Self {
        let hidden = self.shape.hidden;
        let first = &mut self.dense[LayerIx::EncoderIn as usize].weight;
        let rows = places.iter().map(|place| match place {
            Some(place) => first[place * hidden..(place + 1) * hidden].to_vec(),
            None => vec![0.0; hidden],
        });
        *first = rows.collect::<Vec<_>>().concat();
        self.range = self.range.map(|range| range.with_group_features(places));
        self.shape.group_features = places.len();
        self
    }

    /// Sizes of the network.
    #[must_use]
    pub fn shape(&self) -> NetworkShape {
        self.shape
    }

    /// The range of inputs seen in training, where there was training.
    #[must_use]
    pub fn range(&self) -> Option<&InputRange> {
        self.range.as_ref()
    }

    /// Standard deviations of the headroom's and the multipliers' latents.
    #[must_use]
    pub fn deviations(&self) -> [f64; 2] {
        self.log_std.map(|s| f64::from(s.clamp(LOG_STD_RANGE.0, LOG_STD_RANGE.1)).exp())
    }

    /// Whether every number is finite.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.tensors().iter().all(|(_, _, values)| values.iter().all(|v| v.is_finite()))
    }

    /// What the first layer adds for one group beside its bias; empty where all groups are alike.
    pub(crate) fn own(&self, group: usize) -> &[f32] {
        if self.own.is_empty() { &[] } else { &self.own[group * self.shape.hidden..][..self.shape.hidden] }
    }

    pub(crate) fn layer(&self, layer: LayerIx) -> &Dense {
        &self.dense[layer as usize]
    }

    /// Every tensor with its name and shape, in a fixed order.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let mut out = Vec::with_capacity(2 * LAYERS + 6);
        for layer in LayerIx::ALL {
            let (inputs, outputs) = self.shape.layer(layer);
            let dense = self.layer(layer);
            out.push((format!("{}.weight", layer.name()), vec![inputs, outputs], dense.weight.clone()));
            out.push((format!("{}.bias", layer.name()), vec![outputs], dense.bias.clone()));
        }
        if self.shape.identities > 0 {
            out.push((OWN.to_owned(), vec![self.shape.identities, self.shape.hidden], self.own.clone()));
        }
        out.push(("log_std".to_owned(), vec![2], self.log_std.to_vec()));
        out.push(("value.range".to_owned(), vec![2], vec![self.value_shift, self.value_scale]));
        if let Some(range) = &self.range {
            for (name, values) in range.tensors() {
                out.push((format!("input.{name}"), vec![values.len()], values.clone()));
            }
        }
        out
    }

    /// Rebuilds parameters from tensors of exactly the names and lengths of [`tensors`](Self::tensors).
    ///
    /// # Errors
    /// The name of the tensor that is missing or has another length.
    pub(crate) fn from_tensors(
        shape: NetworkShape,
        has_range: bool,
        mut take: impl FnMut(&str, &[usize]) -> Option<Vec<f32>>,
    ) -> Result<Self, String> {
        let mut tensor = |name: String, shape: &[usize]| take(&name, shape).ok_or(name);
        let mut dense = Vec::with_capacity(LAYERS);
        for layer in LayerIx::ALL {
            let (inputs, outputs) = shape.layer(layer);
            dense.push(Dense {
                weight: tensor(format!("{}.weight", layer.name()), &[inputs, outputs])?,
                bias: tensor(format!("{}.bias", layer.name()), &[outputs])?,
            });
        }
        let own = match shape.identities {
            0 => Vec::new(),
            identities => tensor(OWN.to_owned(), &[identities, shape.hidden])?,
        };
        let pair = |values: Vec<f32>, name: &str| <[f32; 2]>::try_from(values).map_err(|_| name.to_owned());
        let log_std = pair(tensor("log_std".to_owned(), &[2])?, "log_std")?;
        let [value_shift, value_scale] = pair(tensor("value.range".to_owned(), &[2])?, "value.range")?;
        let range = if has_range {
            Some(InputRange::from_tensors(shape.group_features, shape.context_features, |name, length| {
                tensor(format!("input.{name}"), &[length])
            })?)
        } else {
            None
        };
        Ok(Self { shape, dense, own, log_std, value_shift, value_scale, range })
    }
}

/// Uniform in [0, 1) with 24 random bits.
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_network_stays_below_twenty_thousand_parameters() {
        let shape = NetworkShape { group_features: 30, context_features: 8, hidden: 32, identities: 0 };
        assert!(shape.parameters() < 20_000, "{}", shape.parameters());
        let counted: usize = Parameters::seeded(shape, 1)
            .tensors()
            .iter()
            .filter(|t| t.0 != "value.range")
            .map(|t| t.2.len())
            .sum();
        assert_eq!(counted, shape.parameters());
    }

    #[test]
    fn equal_seeds_give_equal_parameters() {
        let shape = NetworkShape { group_features: 5, context_features: 3, hidden: 8, identities: 0 };
        assert_eq!(Parameters::seeded(shape, 7), Parameters::seeded(shape, 7));
        assert_ne!(Parameters::seeded(shape, 7), Parameters::seeded(shape, 8));
    }

    #[test]
    fn parameters_survive_the_way_through_tensors() {
        let shape = NetworkShape { group_features: 5, context_features: 3, hidden: 8, identities: 0 };
        let parameters = Parameters::seeded(shape, 7);
        let tensors = parameters.tensors();
        let find = |name: &str, shape: &[usize]| {
            tensors.iter().find(|t| t.0 == name && t.1 == shape).map(|t| t.2.clone())
        };
        assert_eq!(Parameters::from_tensors(shape, false, find).unwrap(), parameters);
        assert_eq!(Parameters::from_tensors(shape, true, find).unwrap_err(), "input.group_low");
    }
}
