//! What do requests and answers say about models and tokens?
//!
//! Readers of what passes through: they look, they never change or hold back a byte. Everything is bounded, and
//! whatever is too long, torn or no JSON at all only means that nothing is known.

mod facts;
mod sse;
mod usage;

pub use facts::RequestFacts;
#[cfg(feature = "server")]
pub(crate) use facts::opens_object;
pub use sse::{SseEvent, SseParser};
pub use traflux_core::plan::tokens::{ModelTokensPlan, TokensPlan};
pub use usage::{BodyKind, Usage, UsageReader};
