//! How does a plan get into force?

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::broadcast;
use traflux_core::{ActuateError, Actuator, BoxFuture, InForce, NodeGroup, Receipt, TrafficPlan};

use crate::compile::compile;
use crate::error::XdsError;
use crate::hub::Hub;
use crate::node::NodeMatcher;
use crate::options::CompileOptions;
use crate::server::{ServerOptions, XdsServer};
use crate::status::{XdsEvent, XdsStatus};

/// Everything that can be set.
#[derive(Debug, Clone, Default)]
pub struct XdsOptions {
    /// About the resources.
    pub compile: CompileOptions,
    /// About the server.
    pub server: ServerOptions,
}

/// Publishes plans to the nodes that are connected, by group. Cloning shares everything.
///
/// A group is led to a plan as soon as it is applied; whoever connects later gets the same. A group that a
/// later plan does not address keeps what it has. When a node refuses part of a plan, its group goes back to
/// what it had accepted, and applying that content again fails with [`ActuateError::Refused`]: all that was
/// not refused is published all the same.
#[derive(Debug, Clone)]
pub struct XdsActuator {
    hub: Arc<Hub>,
    options: Arc<XdsOptions>,
}

impl XdsActuator {
    /// Makes an actuator without a plan and without a server.
    ///
    /// # Errors
    /// [`XdsError::Option`] for an option outside its limits.
    pub fn new(matcher: NodeMatcher, options: XdsOptions) -> Result<Self, XdsError> {
        options.compile.validate()?;
        options.server.validate()?;
        Ok(Self { hub: Arc::new(Hub::new(matcher)), options: Arc::new(options) })
    }

    /// Opens the socket that nodes connect to; [`XdsServer::serve`] then serves it.
    ///
    /// # Errors
    /// [`XdsError::Serve`] when the address cannot be bound, [`XdsError::Tls`] for certificates that cannot
    /// be used.
    pub async fn bind(&self, address: SocketAddr) -> Result<XdsServer, XdsError> {
        XdsServer::bind(Arc::clone(&self.hub), self.options.server.clone(), address).await
    }

    /// Every node, what it was sent and what it said; counters; push-to-ACK latency.
    #[must_use]
    pub fn status(&self) -> XdsStatus {
        self.hub.status()
    }

    /// The latest events, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<XdsEvent> {
        self.hub.events()
    }

    /// Events from now on. A receiver that falls behind by 256 misses the oldest.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<XdsEvent> {
        self.hub.subscribe()
    }
}

impl Actuator for XdsActuator {
    fn apply<'a>(&'a self, plan: &'a TrafficPlan) -> BoxFuture<'a, Result<Receipt, ActuateError>> {
        Box::pin(async move {
            let version = plan.version();
            let snapshots = compile(plan, &self.options.compile).map_err(|error| ActuateError::Compile {
                version: version.to_string(),
                reason: error.to_string(),
            })?;
            let applied = self.hub.apply(version, snapshots);
            match applied.refused {
                Some((group, reason)) => {
                    Err(ActuateError::Refused { group: group.0, version: version.to_string(), reason })
                }
                None => Ok(Receipt { version: version.clone(), changed: applied.changed }),
            }
        })
    }

    fn in_force(&self, group: &NodeGroup) -> Option<InForce> {
        self.hub.in_force(group)
    }

    fn is_connected(&self, group: &NodeGroup) -> bool {
        self.hub.is_connected(group)
    }
}
