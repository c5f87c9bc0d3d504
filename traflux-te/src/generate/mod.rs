//! Which networks and which traffic are there to try things on, where real ones cannot be had?
//!
//! Everything is made from a seed: equal arguments give bit-identical networks and matrices.

mod diurnal;
mod scale;
mod topology;
mod traffic;

pub use diurnal::{Diurnal, DiurnalConfig};
pub use scale::{Over, scaled_to};
pub use topology::{
    BackboneConfig, LinkModel, WaxmanConfig, WeightRule, backbone, full_mesh, grid, ring, waxman,
};
pub use traffic::{NodeMass, TrafficModel, gravity};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Random numbers of one purpose: streams of one seed do not overlap.
fn rng(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}
