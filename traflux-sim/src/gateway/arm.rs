//! What is compared?

use traflux_core::plan::routing::Algorithm;
use traflux_gateway::affinity::AffinitySettings;
use traflux_gateway::{EngineSettings, GatewayError, QueueSettings};

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
        /// Its settings; the seed is that of the run, and conversations are kept where there are any.
        settings: Box<EngineSettings>,
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
            settings: Box::default(),
            tells_deadlines: true,
        }
    }

    /// The engine with this queue.
    #[must_use]
    pub fn queued(name: &'static str, queue: QueueSettings, tells_deadlines: bool) -> Self {
        Self::with_queue(name, Some(queue), tells_deadlines)
    }

    fn with_queue(name: &'static str, queue: Option<QueueSettings>, tells_deadlines: bool) -> Self {
        let settings = EngineSettings { queue, ..EngineSettings::default() };
        Self::Engine { name, algorithm: Algorithm::default(), settings: Box::new(settings), tells_deadlines }
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
                let plain =
                    QueueSettings { refuse_hopeless: false, ..QueueSettings::first_come_first_served() };
                vec![
                    Self::queued("engine, queue", QueueSettings::default(), true),
                    Self::queued("engine, FCFS queue", plain, false),
                    Self::with_queue("engine, no queue", None, true),
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
            Self::Engine { algorithm, settings, tells_deadlines, .. } => {
                let sessions = scenario.tenants.iter().any(|tenant| tenant.sessions.is_some());
                let affinity = settings.affinity.clone();
                let settings = EngineSettings {
                    seed,
                    affinity: affinity.or(sessions.then(AffinitySettings::default)),
                    ..(**settings).clone()
                };
                Box::new(EngineClient::new(scenario, *algorithm, &settings, *tells_deadlines)?)
            }
            Self::Peer(peer) => Box::new(PeerClient::new(*peer, scenario.servers.len(), seed)),
        })
    }
}
