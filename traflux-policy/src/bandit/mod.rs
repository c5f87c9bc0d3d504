//! How does a policy learn to choose sets when every choice is judged at once?
//!
//! Where an action has no consequences beyond its own reward, many sets can be judged in one and the same state: a
//! contextual bandit. One forward and one backward pass per state then serve as many rewards as one likes, and the
//! mean of the other sets is a baseline that knows the state. [`train_bandit`] learns from judged sets, and before
//! that, if wanted, from examples of good ones.
//!
//! The gradient is written out in [`Gradients`] and needs no machine-learning framework; only scores and value are trained,
//! headroom and multipliers stay neutral.

mod adam;
mod gradient;
mod memory;
mod objective;
mod train;

pub use gradient::{GradientWorkspace, Gradients};
pub use memory::BanditMemory;
pub use train::{
    BanditConfig, BanditError, BanditProgress, BanditReport, BanditStart, Scene, SetJudge, train_bandit,
};
