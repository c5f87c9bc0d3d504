//! Transitions of fleets of different sizes as tensors of one shape.

use burn::tensor::{Device, Tensor, TensorData};
use traflux_core::{Observation, Transition};

use super::model::BLOCKED;

/// Observations padded to the largest fleet among them.
pub(super) struct Padded {
    /// `[batch, groups, features]`, zero for padding.
    pub(super) groups: Tensor<3>,
    /// `[batch, features]`.
    pub(super) context: Tensor<2>,
    /// `[batch, groups, 1]`: 1 for a group, 0 for padding.
    pub(super) present: Tensor<3>,
    /// Groups of the largest fleet.
    pub(super) width: usize,
}

impl Padded {
    pub(super) fn new(observations: &[&Observation], device: &Device) -> Self {
        let batch = observations.len();
        let width = observations.iter().map(|o| o.len()).max().unwrap_or(0);
        let features = observations.first().map_or(0, |o| o.groups.ncols());
        let context_features = observations.first().map_or(0, |o| o.context.len());
        let mut groups = Vec::with_capacity(batch * width * features);
        let mut context = Vec::with_capacity(batch * context_features);
        let mut present = Vec::with_capacity(batch * width);
        for (row, observation) in observations.iter().enumerate() {
            groups.extend(observation.groups.iter());
            groups.resize((row + 1) * width * features, 0.0);
            context.extend(observation.context.iter());
            present.resize(row * width + observation.len(), 1.0);
            present.resize((row + 1) * width, 0.0);
        }
        Self {
            groups: tensor(groups, [batch, width, features], device),
            context: tensor(context, [batch, context_features], device),
            present: tensor(present, [batch, width, 1], device),
            width,
        }
    }
}

/// The actions of a batch, laid out for the log-probability of ordered sets.
pub(super) struct Actions {
    /// `[batch, K, groups]`: 0 for a group that could still be chosen at this place of the order, else blocked.
    pub(super) blocked: Tensor<3>,
    /// `[batch, K, groups]`: 1 for the group that was chosen at this place; all 0 where fewer were chosen.
    pub(super) chosen: Tensor<3>,
    /// `[batch, K]`: 1 where a group was chosen at this place.
    pub(super) taken: Tensor<2>,
    /// `[batch, K]`: latents of the chosen groups' multipliers.
    pub(super) multipliers: Tensor<2>,
    /// `[batch]`: latents of the headroom.
    pub(super) headroom: Tensor<1>,
    /// `[batch, groups]`: 0 for a group that may be chosen at all, else blocked.
    pub(super) closed: Tensor<2>,
}

impl Actions {
    /// Lays out the actions of usable transitions (see [`usable`]) for fleets padded to `width`.
    pub(super) fn new(transitions: &[&Transition], width: usize, device: &Device) -> Self {
        let batch = transitions.len();
        let places = transitions.iter().map(|t| t.action.critical.len()).max().unwrap_or(0).max(1);
        let cells = batch * places * width;
        let mut blocked = Vec::with_capacity(cells);
        let mut chosen = vec![0.0; cells];
        let mut taken = vec![0.0; batch * places];
        let mut multipliers = vec![0.0; batch * places];
        let mut headroom = Vec::with_capacity(batch);
        let mut closed = Vec::with_capacity(batch * width);
        for (row, transition) in transitions.iter().enumerate() {
            let (mask, action) = (&transition.observation.mask, &transition.action);
            let mut open: Vec<f32> =
                (0..width).map(|ix| if mask.get(ix) == Some(&true) { 0.0 } else { BLOCKED }).collect();
            closed.extend(&open);
            for place in 0..places {
                blocked.extend(&open);
                if let Some(group) = action.critical.get(place) {
                    let at = row * places + place;
                    chosen[at * width + group.ix()] = 1.0;
                    taken[at] = 1.0;
                    multipliers[at] = action.latent[place + 1];
                    open[group.ix()] = BLOCKED;
                }
            }
            headroom.push(action.latent[0]);
        }
        Self {
            blocked: tensor(blocked, [batch, places, width], device),
            chosen: tensor(chosen, [batch, places, width], device),
            taken: tensor(taken, [batch, places], device),
            multipliers: tensor(multipliers, [batch, places], device),
            headroom: tensor(headroom, [batch], device),
            closed: tensor(closed, [batch, width], device),
        }
    }
}

/// A tensor from numbers of the host.
pub(super) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Whether a learner can use a transition: the action is one that a network of these features drew, and
/// every number is finite. Actions of a fallback or of another policy carry no latent and are not.
pub(super) fn usable(transition: &Transition, group_features: usize, context_features: usize) -> bool {
    let fits = |o: &Observation| {
        o.groups.ncols() == group_features
            && o.context.len() == context_features
            && o.mask.len() == o.len()
            && o.groups.iter().chain(&o.context).all(|v| v.is_finite())
    };
    let action = &transition.action;
    let mut open = transition.observation.mask.clone();
    let drawn = action
        .critical
        .iter()
        .all(|g| open.get_mut(g.ix()).is_some_and(|open| std::mem::replace(open, false)));
    drawn
        && !transition.observation.is_empty()
        && action.latent.len() == action.critical.len() + 1
        && action.latent.iter().all(|v| v.is_finite())
        && action.log_probability.is_finite()
        && transition.reward.total.is_finite()
        && fits(&transition.observation)
        && fits(&transition.next_observation)
}
