//! What is compared?

use traflux_core::plan::routing::Algorithm;
use traflux_gateway::{GatewayError, QueuePlan};

use super::client::Client;
use super::engine::EngineClient;
use super::peer::{Peer, PeerClient};
use super::scenario::{Loads, Scenario};

/// One way to treat requests.
#[derive(Debug, Clone, PartialEq)]
pub enum Arm {
    /// The engine.
    Engine {
        /// Name in tables.
        name: &'static str,
        /// How it balances.
        algorithm: Algorithm,
        /// How requests wait.
        queue: Box<QueuePlan>,
        /// Whether it is told of deadlines.
        tells_deadlines: bool,
    },
    /// Another's algorithm.
    Peer(Peer),
}

impl Arm {
    /// The engine with its defaults.
    #[must_use]
    pub fn engine(algorithm: Algorithm) -> Self {
        Self::Engine {
            name: match algorithm {
                Algorithm::Adaptive => "engine, adaptive",
                Algorithm::LeastLatency => "engine, least latency",
                _ => "engine",
            },
            algorithm,
            queue: Box::default(),
            tells_deadlines: true,
        }
    }

    /// The engine with another queue than its own.
    #[must_use]
    pub fn queued(name: &'static str, queue: QueuePlan, tells_deadlines: bool) -> Self {
        Self::Engine { name, algorithm: Algorithm::default(), queue: Box::new(queue), tells_deadlines }
    }

    /// What a scenario compares; first the engine with its defaults.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Vec<Self> {
        match scenario.loads {
            Loads::Balance(_) => {
                let peers = Peer::all(scenario.tenants.iter().any(|tenant| tenant.sessions.is_some()));
                [Algorithm::Adaptive, Algorithm::LeastLatency]
                    .map(Self::engine)
                    .into_iter()
                    .chain(peers.into_iter().map(Self::Peer))
                    .collect()
            }
            Loads::Overload(_) => {
                let plain = QueuePlan { refuse_hopeless: false, ..QueuePlan::first_come_first_served() };
                vec![
                    Self::queued("engine, queue", QueuePlan::default(), true),
                    Self::queued("engine, FCFS queue", plain, false),
                    Self::queued("engine, no queue", QueuePlan::none(), true),
                    Self::Peer(Peer::LeastRequest),
                ]
            }
        }
    }

    /// Its name in tables.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Engine { name, .. } => name,
            Self::Peer(peer) => peer.name(),
        }
    }

    /// Whether it is the engine.
    #[must_use]
    pub const fn is_engine(&self) -> bool {
        matches!(self, Self::Engine { .. })
    }

    pub(super) fn client<'a>(
        &self,
        scenario: &'a Scenario,
        seed: u64,
    ) -> Result<Box<dyn Client + 'a>, GatewayError> {
        Ok(match self {
            Self::Engine { algorithm, queue, tells_deadlines, .. } => {
                Box::new(EngineClient::new(scenario, *algorithm, queue, seed, *tells_deadlines)?)
            }
            Self::Peer(peer) => Box::new(PeerClient::new(*peer, scenario.servers.len(), seed)),
        })
    }
}
