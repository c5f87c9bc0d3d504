//! The trained policy that comes with the program.

use traflux_policy::{Checkpoint, CheckpointError};

/// Made by the command that `Checkpoint::provenance` names; see `docs/training.md`.
const SHIPPED: &[u8] = include_bytes!("../checkpoints/fleet.safetensors");

/// Reads the checkpoint that comes with the program.
///
/// # Errors
/// [`CheckpointError`] if the program was built with a broken file.
pub fn shipped() -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_bytes(SHIPPED)
}
