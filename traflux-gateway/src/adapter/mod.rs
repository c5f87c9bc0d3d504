//! What do adapters to HTTP have in common?
//!
//! A clock, a view of headers, and the meeting point of requests that wait with the decisions that end their
//! waiting. Nothing of it knows a server or a runtime.

mod clock;
mod headers;
mod waiters;

pub use clock::Clock;
pub use headers::Headers;
pub use waiters::Waiters;
