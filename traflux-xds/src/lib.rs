//! Envoy xDS control plane for traffic weights.
//!
//! [`compile()`] turns a [`TrafficPlan`](traflux_core::TrafficPlan) into resources, purely; [`XdsStream`] is
//! the protocol with one client, without the network; [`XdsActuator`] publishes plans and knows what is in
//! force; [`XdsServer`] serves Envoys and proxyless gRPC clients; [`envoy_bootstrap`] writes the
//! configuration an Envoy starts with. [`requests`] does the same for the plan of a gateway: rules, limits, health.
//!
//! ```
//! use std::time::Duration;
//! use traflux_core::{Actuator, EndpointPlan, HostPlan, NodeGroup, ServicePlan, TrafficPlan, WeightRow};
//! use traflux_xds::{NodeMatcher, XdsActuator, XdsOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = |name: &str, port| EndpointPlan {
//!     name: name.into(),
//!     hosts: vec![HostPlan { address: "127.0.0.1".into(), port }],
//!     region: None,
//!     tier: 0,
//! };
//! let plan = TrafficPlan::new(vec![ServicePlan {
//!     name: "checkout".into(),
//!     listener: None,
//!     timeout: Duration::from_secs(2),
//!     connect_timeout: Duration::from_secs(1),
//!     http2: false,
//!     endpoints: vec![endpoint("aws-1", 8081), endpoint("gcp-1", 8082)],
//!     rows: vec![WeightRow { group: NodeGroup("eu".into()), listener: None, weights: vec![70, 30] }],
//! }]);
//!
//! let actuator = XdsActuator::new(NodeMatcher::by_zone(), XdsOptions::default())?;
//! let server = actuator.bind("127.0.0.1:0".parse()?).await?;
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let serving = tokio::spawn(server.serve(async { stopped.await.unwrap_or(()) }));
//!
//! assert!(actuator.apply(&plan).await?.changed);
//! assert_eq!(actuator.in_force(&NodeGroup("eu".into())), None, "nobody is connected yet");
//! drop(stop);
//! serving.await??;
//! # Ok(())
//! # }
//! ```

mod actuator;
mod assignment;
pub mod bootstrap;
pub mod compile;
mod drive;
mod error;
mod group;
mod hub;
mod name;
pub mod node;
mod options;
mod proto;
pub mod requests;
pub mod resource;
mod server;
pub mod status;
pub mod stream;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use actuator::{XdsActuator, XdsOptions};
pub use bootstrap::{BootstrapTls, EnvoyBootstrap, envoy_bootstrap};
pub use compile::compile;
pub use error::XdsError;
pub use name::{ENDPOINT_LABEL, METRIC_LABEL_REGEX, cluster_name, listener_name, metric_name, route_name};
pub use node::{NodeCondition, NodeIdentity, NodeMatcher, NodeRule};
pub use options::{CircuitOptions, CompileOptions, OutlierOptions};
pub use resource::{Resource, ResourceKind, ResourceSet, ResourceVersion, Snapshot};
pub use server::{ServerOptions, XdsServer};
pub use status::{LatencySummary, XdsCounters, XdsEvent, XdsEventKind, XdsStatus};
pub use stream::{Protocol, XdsStream};
#[cfg(feature = "tls")]
pub use tls::TlsOptions;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
