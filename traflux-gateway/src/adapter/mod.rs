//! What do adapters to HTTP have in common?
//!
//! A clock, views of headers and claims, and the meeting point of requests that wait with the decisions that end their
//! waiting. Nothing of it knows a server or a runtime.

mod claims;
mod clock;
mod headers;
mod waiters;

pub use claims::Claims;
pub use clock::Clock;
pub use headers::Headers;
pub(crate) use headers::host;
pub use waiters::Waiters;
