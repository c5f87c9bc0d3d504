//! How does a plan become a gateway that people can send requests to?
//!
//! [`Gateway::start`] listens where the plan says, with TLS if it says so, and passes requests of HTTP/1.1 and
//! HTTP/2 on to backends through pools of connections; the [`Engine`](crate::Engine) decides about each. Bodies of
//! answers stream through as they come, with a [`UsageReader`](crate::UsageReader) looking on for the settlement of
//! limits. Nothing is translated between the interfaces of providers.
//!
//! | what | where |
//! |---|---|
//! | whether a plan can be served | `prepare` |
//! | connections, TLS, drain | `listener`, `streams`, `tls` |
//! | the way of a request, its answer | `proxy`, `racing`, `passing`, `answer` |
//! | what is taken of a request, and in which form | `intake` |
//! | bodies that are held | `buffers` |
//! | clients' tokens and claims | `tokens` |
//! | backends and their keys | `upstream` |
//! | connections to backends | `hosts`, `http1` |
//! | questions to backends whether they are well | `probing` |
//! | questions to backends how busy they are | `scraping` |
//! | metrics, explanations, levels, anomalies | `admin` |
//! | the decision log on disk | `recording` |
//! | plans, certificates and keys that change | `attempts` |
//! | budgets over a restart | `keeper` |
//! | a backend without costs, a load, a show | [`mock`], [`load`], [`demo`](fn@demo) |
//!
//! Everything is bounded: connections, heads, bodies, times. A client that is slow, too large or malformed gets a
//! 4xx or is cut off; a backend that breaks gives a 502 or 504 before the first byte of an answer, and a connection
//! that ends visibly unclean after it.

mod admin;
mod answer;
mod attempts;
mod buffers;
mod demo;
mod gateway;
mod histogram;
mod hosts;
mod http1;
mod intake;
mod keeper;
mod lingering;
mod listener;
mod live;
pub mod load;
pub mod mock;
mod passing;
mod pem;
mod prepare;
mod probing;
mod proxy;
mod queues;
mod racing;
mod recording;
mod run;
mod scraping;
mod settings;
mod streams;
mod tally;
mod tls;
mod tokens;
mod upstream;
mod verified;

pub use demo::{DemoSettings, demo};
pub use gateway::{Drained, Gateway};
pub use histogram::Histogram;
pub use prepare::validate;
pub use run::{RunSettings, run};
pub use settings::ServerSettings;
pub use tally::{Row, Tally};
