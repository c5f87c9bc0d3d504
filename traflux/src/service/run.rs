//! The service from start to shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use traflux_core::{FleetReward, NodeGroup, PlanError, PlanVersion, SolveError, Timestamp};
use traflux_policy::{CheckpointError, SharedParameters};
use traflux_prom::{Exporter, PromError, PrometheusSource};
use traflux_xds::{XdsError, XdsEvent, XdsEventKind};

use super::assemble::Given;
use super::command::{Command, CommandError};
use super::discovery::{Discovery, Found, Names};
use super::learner::Learning;
use super::parameters::{ParameterPatch, Parameters, invalid};
use super::policy::Count;
use super::prepare::{Prepared, prepare};
use super::save::Saver;
use super::state::{ServiceState, TrainingView};
use super::{export, source};
use crate::config::{Config, ConfigError, Resolved, ServiceConfig, has_hosts};
use crate::controller::{Controller, Decision, Mode, StateStore, StoreError};

/// Why the service could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file with services.
    #[error("discovery.file: {source}")]
    Discovery {
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The connection to Prometheus.
    #[error("metrics.prometheus: {0}")]
    Prometheus(#[from] PromError),
    /// Where prices come from.
    #[error("prices: {0}")]
    Prices(PromError),
    /// The discovery server.
    #[error("xds: {0}")]
    Xds(#[from] XdsError),
    /// The checkpoint.
    #[error("{key}: {source}")]
    Checkpoint {
        /// The key that led to it.
        key: &'static str,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The saved weights.
    #[error("state_file: {0}")]
    Store(#[from] StoreError),
    /// The solver's name.
    #[error("objective.solver: {0}")]
    Solver(#[from] SolveError),
    /// The static weights.
    #[error("static weights: {0}")]
    Plan(#[from] PlanError),
    /// The API cannot listen.
    #[error("api.listen: {reason}")]
    Api {
        /// Why.
        reason: String,
    },
    /// A file that a key names cannot be used.
    #[error("{key}: {reason}")]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// Why.
        reason: String,
    },
    /// The learner cannot start.
    #[error("policy: {reason}")]
    Learner {
        /// Why.
        reason: String,
    },
    /// The mode needs a feature that this program was built without.
    #[error("policy.mode: `{mode}` needs a program built with `--features {feature}`")]
    Feature {
        /// The mode.
        mode: &'static str,
        /// The feature.
        feature: &'static str,
    },
}

impl RunError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(error) | Self::Discovery { source: error } => error.code(),
            Self::Prometheus(error) | Self::Prices(error) => error.code(),
            Self::Xds(error) => error.code(),
            Self::Checkpoint { source, .. } => source.code(),
            Self::Store(error) => error.code(),
            Self::Solver(error) => error.code(),
            Self::Plan(error) => error.code(),
            Self::Api { .. } => "run_api",
            Self::File { .. } => "run_file",
            Self::Learner { .. } => "run_learner",
            Self::Feature { .. } => "run_feature",
        }
    }

    /// Whether the same start may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Xds(error) => error.is_transient(),
            // The port may be free again.
            Self::Api { .. } => true,
            _ => false,
        }
    }
}

/// Commands waiting for the loop; more wait at their sender.
const COMMANDS: usize = 32;

/// Runs until `shutdown` completes.
///
/// # Errors
/// [`RunError`] for whatever keeps the service from starting. Once it runs, failures are logged, shown and
/// ridden out.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let clock = Clock::start();
    let Prepared { config, services_file, token, mut assembly, prometheus, prices, actuator, .. } =
        prepare(config).await?;
    let mut names = Names::of_system();
    let resolved = names.addresses_of(&config.dns_names()).await;
    let built = config.reachable(&resolved).build(&resolved)?;
    prometheus.set_labels(source::label_map(&config, &built.fleet.services));
    report_reachability(&config, &prometheus).await;
    let learning = Learning::start(&assembly)?;
    let (count, learned) = (assembly.count.take(), assembly.learned.take());
    let given = Given {
        source: Box::new(source::PricedSource::new(Arc::clone(&prometheus), prices)),
        actuator: Box::new(actuator.clone()),
        estimator: None,
        policy: None,
        reward: None,
        recorder: learning.recorder(),
    };
    let mut controller = assembly.controller(built, given)?;
    if let Some(path) = &config.state_file {
        controller = controller.with_store(StateStore::new(path))?;
    }
    let handed_over = match controller.start().await {
        Ok(()) => true,
        Err(problem) => {
            error!(code = problem.code(), "first plan: {problem}");
            false
        }
    };

    let xds = actuator.bind(config.xds.listen).await?;
    let listener = tokio::net::TcpListener::bind(config.api.listen)
        .await
        .map_err(|e| RunError::Api { reason: format!("{}: {e}", config.api.listen) })?;
    let (stop, stopped) = watch::channel(false);
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let status = actuator.clone();
    let state = Arc::new(ServiceState::new(
        config.control.decisions_kept,
        Arc::new(Exporter::new()),
        commands,
        Box::new(move || serde_json::to_value(status.status()).unwrap_or_default()),
    ));
    info!(xds = %config.xds.listen, api = %config.api.listen, mode = config.policy.mode.name(), "traflux runs");
    let xds = tokio::spawn(xds.serve(until(stopped.clone())));
    let api = tokio::spawn(crate::api::serve(
        listener,
        crate::api::router(Arc::clone(&state), token),
        until(stopped.clone()),
    ));

    let events = actuator.subscribe();
    let saver = learned
        .as_ref()
        .and_then(|(parameters, began)| Saver::of(&config, began.clone(), parameters.clone()));
    let mut service = Service {
        clock,
        discovery: Discovery::start(&config, services_file, names),
        resolved,
        config,
        controller,
        handed_over,
        prometheus,
        state,
        learning,
        saver,
        count,
        parameters: learned.map(|(parameters, _)| parameters),
        events,
        lag: BTreeMap::new(),
        failing: Vec::new(),
        rung: traflux_core::Rung::Normal.name(),
    };
    tokio::select! {
        () = service.run(inbox) => {}
        () = shutdown => info!("shutting down"),
    }
    // Nobody listens any more when the tasks ended by themselves; that is no failure.
    let _ = stop.send(true);
    let ends = async {
        let learned = service.learning.received();
        service.learning.stop().await;
        if let Some(saver) = &mut service.saver {
            saver.save_last(learned).await;
        }
        match xds.await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(problem)) => warn!("discovery server: {problem}"),
        }
        match api.await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(problem)) => warn!("api: {problem}"),
        }
    };
    if tokio::time::timeout(Duration::from_secs(5), ends).await.is_err() {
        warn!("servers did not end within 5 s");
    }
    Ok(())
}

/// The wall clock at the start, carried on by a clock that never jumps: a step of the wall clock would stall
/// the loop or make every measurement old.
struct Clock {
    start: Duration,
    instant: Instant,
}

impl Clock {
    fn start() -> Self {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start, instant: Instant::now() }
    }

    fn now(&self) -> Timestamp {
        Timestamp::new(self.start + self.instant.elapsed())
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// What the loop owns.
struct Service {
    clock: Clock,
    config: Config,
    controller: Controller,
    /// Whether the actuator has taken a plan.
    handed_over: bool,
    prometheus: Arc<PrometheusSource>,
    discovery: Discovery,
    /// Addresses of the names in force.
    resolved: Resolved,
    state: Arc<ServiceState>,
    learning: Learning,
    saver: Option<Saver>,
    count: Option<Count>,
    parameters: Option<SharedParameters>,
    events: tokio::sync::broadcast::Receiver<XdsEvent>,
    /// By group: the plan that is not yet in force, and since when.
    lag: BTreeMap<NodeGroup, (PlanVersion, Instant)>,
    /// (stage, code) of what failed in the last tick.
    failing: Vec<(&'static str, &'static str)>,
    rung: &'static str,
}

impl Service {
    async fn run(&mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut interval = tokio::time::interval(Duration::from_secs_f64(self.config.control.interval_s));
        // After a pause one tick is enough; a burst would only repeat it.
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interval.tick() => self.tick().await,
                event = self.events.recv() => match event {
                    Ok(event) => self.note(event),
                    // Fell behind: the status still tells where every group stands.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                found = self.discovery.next() => self.take_over(found),
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
            }
        }
    }

    async fn tick(&mut self) {
        let began = Instant::now();
        let decision = self.controller.tick(self.clock.now()).await;
        self.log_failures(&decision);
        if decision.pushed {
            info!(plan = decision.plan_version, churn = decision.churn, "pushed");
        }
        if self.controller.mode() == Mode::Shadow {
            info!(proposed = ?decision.proposed, "shadow decision");
        }
        export::record(self.state.exporter(), &self.controller, &decision, began.elapsed());
        self.export_lag();
        self.state.set_training(self.training());
        if let Some(saver) = &mut self.saver {
            saver.save_new(self.learning.received()).await;
        }
        self.handed_over |= decision.pushed;
        self.state.record(decision);
        self.state.set_ready(self.handed_over);
    }

    /// A failure is logged when it begins and when it ends, not at every tick between.
    fn log_failures(&mut self, decision: &Decision) {
        for failure in &decision.failures {
            if !self.failing.contains(&(failure.stage, failure.code)) {
                warn!(stage = failure.stage, code = failure.code, "{}", failure.message);
            }
        }
        let failing: Vec<_> = decision.failures.iter().map(|f| (f.stage, f.code)).collect();
        for (stage, code) in self.failing.iter().filter(|before| !failing.contains(before)) {
            info!(stage, code, "no longer fails");
        }
        self.failing = failing;
        if self.rung != decision.rung.name() {
            self.rung = decision.rung.name();
            warn!(rung = self.rung, "ladder of failure");
        }
    }

    fn training(&self) -> TrainingView {
        let mut view = self.learning.view();
        view.steps = self.controller.learning().clone();
        view.parameters_version = self.parameters.as_ref().map_or(0, SharedParameters::version);
        view
    }

    /// Acknowledgements and refusals.
    fn note(&mut self, event: XdsEvent) {
        let exporter = self.state.exporter();
        match event.what {
            XdsEventKind::InForce { group, plan } => {
                if let Some((version, since)) = self.lag.get(&group)
                    && *version == plan
                {
                    exporter.record_ack(&group, since.elapsed());
                }
                if let Err(problem) = self.controller.save_acknowledged() {
                    warn!(code = problem.code(), "{problem}");
                }
            }
            XdsEventKind::Refused { group, node, kind, reason, .. } => {
                warn!(%group, node, ?kind, "refused: {reason}");
                exporter.record_nack(&group);
            }
            XdsEventKind::Published { group, plan } => {
                self.lag.insert(group, (plan, Instant::now()));
            }
            XdsEventKind::Connected { group, node } => info!(%group, node, "connected"),
            XdsEventKind::Disconnected { group, node, reason } => info!(%group, node, reason, "disconnected"),
            XdsEventKind::Rejected { node, reason } => warn!(node, reason, "rejected"),
            XdsEventKind::RolledBack { group, plan } => warn!(%group, %plan, "rolled back"),
        }
    }

    /// How long each group lags behind the plan.
    fn export_lag(&self) {
        let exporter = self.state.exporter();
        let groups = self.controller.plan().node_groups();
        let version = self.controller.plan().version();
        let lags: Vec<(NodeGroup, Duration)> = groups
            .into_iter()
            .map(|group| {
                let current = self.controller.in_force(&group).is_some_and(|f| f.version == *version);
                let since = self.lag.get(&group).map_or(Duration::ZERO, |(_, since)| since.elapsed());
                (group, if current { Duration::ZERO } else { since })
            })
            .collect();
        exporter.record_in_force(lags.iter().map(|(group, lag)| (group, *lag)));
    }

    fn take_over(&mut self, found: Found) {
        match found {
            Found::Services { services, addresses, reply } => {
                match reply {
                    Some(reply) => {
                        let result = with_hosts(&services, &addresses)
                            .and_then(|()| self.replace_services(services, addresses));
                        // A caller that no longer waits for its reply is no failure.
                        drop(reply.send(result));
                    }
                    // Nobody would send the file again once its names can be resolved.
                    None => {
                        if let Err(problem) = self.replace_services(services, addresses) {
                            warn!("discovery.file: {problem}; the endpoints in force stay");
                        }
                    }
                }
            }
            Found::Addresses(addresses) => {
                let mut resolved = self.resolved.clone();
                resolved.extend(addresses);
                if let Err(problem) = self.rebuild(self.config.clone(), resolved) {
                    warn!("dns: {problem}; the endpoints in force stay");
                }
            }
        }
    }

    fn replace_services(
        &mut self,
        services: Vec<ServiceConfig>,
        addresses: Resolved,
    ) -> Result<(), CommandError> {
        let config = self.with_services(services)?;
        let mut resolved = self.resolved.clone();
        resolved.extend(addresses);
        self.rebuild(config, resolved)
    }

    fn with_services(&self, services: Vec<ServiceConfig>) -> Result<Config, CommandError> {
        let config = Config { services, ..self.config.clone() };
        config.check_replaced().map_err(|problem| invalid("services", problem))?;
        Ok(config)
    }

    /// Takes over a configuration and the addresses of its names; names that it does not use are forgotten.
    fn rebuild(&mut self, config: Config, mut resolved: Resolved) -> Result<(), CommandError> {
        let refuse = |problem: String| CommandError::Invalid { key: "services".to_owned(), problem };
        let names = config.dns_names();
        resolved.retain(|name, _| names.contains(name));
        let built =
            config.reachable(&resolved).build(&resolved).map_err(|problem| invalid("services", problem))?;
        let labels = source::label_map(&config, &built.fleet.services);
        self.controller.set_fleet(built.fleet).map_err(|e| refuse(e.to_string()))?;
        self.prometheus.set_labels(labels);
        self.prometheus.set_timeouts(source::timeouts(&config));
        let topology = self.controller.fleet().topology.as_ref().clone();
        self.controller.set_reward(Box::new(FleetReward::new(topology, config.objective.reward)));
        self.discovery.in_force(&config);
        self.resolved = resolved;
        self.config = config;
        info!(generation = self.controller.fleet().topology.generation().0, "endpoints replaced");
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        // A caller that no longer waits for its reply is no failure.
        match command {
            Command::Freeze(reply) => {
                self.freeze(true);
                let _ = reply.send(Ok(()));
            }
            Command::Resume(reply) => {
                self.freeze(false);
                let _ = reply.send(Ok(()));
            }
            Command::Parameters(reply) => {
                let _ = reply.send(Ok(self.read_parameters()));
            }
            Command::Patch(patch, reply) => {
                let _ = reply.send(self.patch(&patch));
            }
            // What is wrong in itself is refused before its names are looked up.
            Command::Services(services, reply) => match self.with_services(services) {
                Ok(config) => self.discovery.resolve(config.services, reply),
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Command::Train(request, reply) => self.learning.train(&request, reply),
        }
    }

    fn freeze(&mut self, frozen: bool) {
        info!(frozen, "weights");
        self.controller.set_frozen(frozen);
        if let Some(parameters) = &self.parameters {
            if frozen { parameters.freeze() } else { parameters.resume() }
        }
    }

    fn read_parameters(&self) -> Parameters {
        let k = self.count.as_ref().and_then(Count::current);
        Parameters::of(&self.config, k, self.learning.learning_rate())
    }

    /// All of the patch, or nothing and what is wrong with it.
    fn patch(&mut self, patch: &ParameterPatch) -> Result<Parameters, CommandError> {
        let config = patch.applied_to(&self.config)?;
        if patch.k.is_some() && self.count.is_none() {
            return Err(CommandError::NotAvailable {
                what: "k",
                needs: "a policy that chooses: set policy.k or another policy.mode",
            });
        }
        if let Some(rate) = patch.learning_rate {
            self.learning.set_learning_rate(rate)?;
        }
        if let (Some(count), Some(k)) = (&self.count, patch.k) {
            count.set(k);
            self.controller.end_step();
        }
        self.controller.set_config(config.control());
        self.config = config;
        Ok(self.read_parameters())
    }
}

/// Refuses a service whose names all fail: no plan could be made of it.
fn with_hosts(services: &[ServiceConfig], resolved: &Resolved) -> Result<(), CommandError> {
    match services.iter().position(|service| !has_hosts(service, resolved)) {
        None => Ok(()),
        Some(ix) => Err(CommandError::Invalid {
            key: format!("services[{ix}].endpoints"),
            problem: "none of its names can be resolved".to_owned(),
        }),
    }
}

/// One clear message when Prometheus cannot be reached. The service runs all the same: Envoys that connect
/// must get the last weights that were known to be good.
async fn report_reachability(config: &Config, prometheus: &PrometheusSource) {
    if let Err(problem) = prometheus.client().instant("vector(1)").await {
        error!(
            code = problem.code(),
            "metrics.prometheus.url: {}: {problem}; weights are held until it answers",
            config.metrics.prometheus.url
        );
    }
}
