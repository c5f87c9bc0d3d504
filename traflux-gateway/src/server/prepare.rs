//! Could this plan be served?
//!
//! Everything that a gateway does before it opens a port: the engine, keys and certificates, the file of levels,
//! addresses. [`Gateway::start`](super::Gateway::start) goes on from here and [`validate`] stops, so that a check and a
//! start refuse the same.

use std::net::{SocketAddr, ToSocketAddrs};

use traflux_core::PlanError;
use traflux_core::plan::requests::RequestPlan;

use super::keeper;
use super::live::Live;
use super::settings::ServerSettings;
use crate::adapter::Clock;
use crate::decision_log::LogSettings;
use crate::engine::Engine;
use crate::error::GatewayError;

/// A plan with everything that it needs but its ports.
pub(super) struct Prepared {
    pub(super) clock: Clock,
    pub(super) live: Live,
    pub(super) engine: Engine,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) admin: Option<Vec<SocketAddr>>,
}

impl Prepared {
    pub(super) fn new(plan: &RequestPlan, settings: &ServerSettings) -> Result<Self, GatewayError> {
        let clock = Clock::start();
        let live = Live::new(plan, settings, None)?;
        let engine = match &settings.decision_log {
            None => Engine::new(plan, &settings.engine, clock.now())?,
            Some(_) => Engine::with_log(plan, &settings.engine, &LogSettings::default(), clock.now())?,
        };
        keeper::look(plan)?;
        let listen = resolve(&plan.server.listen)?;
        let admin = plan.server.admin.as_deref().map(resolve).transpose()?;
        if let Some(admin) = &admin {
            check_apart(plan, &listen, admin)?;
        }
        Ok(Self { clock, live, engine, listen, admin })
    }
}

/// Checks that a plan can be served, as far as that can be told without opening a port: everything that
/// [`Gateway::start`](super::Gateway::start) would refuse of the plan itself, with the keys, certificates and files that
/// it names. Names of hosts to listen on are looked up, which may block.
///
/// # Errors
/// The [`GatewayError`] with which the start would fail.
pub fn validate(plan: &RequestPlan, settings: &ServerSettings) -> Result<(), GatewayError> {
    Prepared::new(plan, settings).map(drop)
}

/// Refuses an administrative side that everybody can reach and nobody needs a token for.
pub(super) fn check_admin(plan: &RequestPlan) -> Result<(), GatewayError> {
    let Some(address) = plan.server.admin.as_deref().filter(|_| plan.server.admin_key.is_none()) else {
        return Ok(());
    };
    if resolve(address)?.iter().all(|found| found.ip().is_loopback()) {
        return Ok(());
    }
    Err(GatewayError::Listen {
        address: address.to_owned(),
        reason: "the administrative side needs a token (server.admin_key) to listen beyond this machine"
            .into(),
    })
}

/// Refuses one port for clients and administration.
fn check_apart(plan: &RequestPlan, listen: &[SocketAddr], admin: &[SocketAddr]) -> Result<(), PlanError> {
    let meets = |a: &SocketAddr, b: &SocketAddr| {
        let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() != 0 && a.port() == b.port() && (everywhere || a.ip() == b.ip())
    };
    if !listen.iter().any(|own| admin.iter().any(|other| meets(own, other))) {
        return Ok(());
    }
    let (listen, admin) = (&plan.server.listen, plan.server.admin.as_deref().unwrap_or_default());
    Err(PlanError::Key {
        path: "server.admin".to_owned(),
        problem: format!("{admin}, expected another port than that of server.listen ({listen})"),
    })
}

fn resolve(address: &str) -> Result<Vec<SocketAddr>, GatewayError> {
    let wrong = |reason: String| GatewayError::Listen { address: address.to_owned(), reason };
    let found: Vec<_> = address.to_socket_addrs().map_err(|e| wrong(e.to_string()))?.collect();
    if found.is_empty() { Err(wrong("the name has no address".into())) } else { Ok(found) }
}
