//! Which requests belong together, and where do they go?
//!
//! Requests with equal [`AffinityKey`] (of a header, a cookie, a user or the beginning of a prompt) go to the same
//! endpoint, as far as its load allows:
//!
//! - [`Maglev`] hashes a key to an endpoint in constant time, and moves few keys when endpoints come or go;
//! - bounded load: an endpoint over its share of what is in flight passes on to the key's next choice;
//! - [`PinTable`] remembers where a key went, for a time to live, in bounded memory;
//! - [`Session`] puts these together with any [`Pool`](crate::balance::Pool): pins, fail-over that pins anew, prompt prefixes of
//!   several lengths.

mod bounded;
pub mod key;
pub mod maglev;
pub mod pins;
pub mod session;

pub use key::{AffinityKey, prefix_chain};
pub use maglev::Maglev;
pub use pins::PinTable;
pub use session::{Placement, Session, Stay};
pub use traflux_core::plan::affinity::{AffinityPlan, AffinitySource};
