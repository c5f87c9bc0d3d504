//! The service from start to shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use traflux_core::estimator::FleetEstimator;
use traflux_core::{FleetReward, NodeGroup, PlanError, PlanVersion, SolveError, Timestamp};
use traflux_policy::{CheckpointError, CriticalCount, SharedParameters};
use traflux_prom::{Exporter, PromError, PrometheusSource};
use traflux_xds::{
    NodeCondition, NodeMatcher, NodeRule, ServerOptions, XdsActuator, XdsError, XdsEvent, XdsEventKind,
    XdsOptions,
};

use super::command::{Command, CommandError, ParameterPatch, Parameters, TrainReply, TrainRequest};
use super::discovery::Discovery;
use super::learner::Learning;
use super::state::{ServiceState, TrainingView};
use super::{export, policy, source};
use crate::config::{Config, ConfigError, ServiceConfig};
use crate::controller::{Controller, Decision, Mode, Stages, StateStore, StoreError};

/// Why the service could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Metrics or prices.
    #[error("metrics.prometheus: {0}")]
    Prometheus(#[from] PromError),
    /// The discovery server.
    #[error("xds: {0}")]
    Xds(#[from] XdsError),
    /// The checkpoint.
    #[error("policy.checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The saved weights.
    #[error("state_file: {0}")]
    Store(#[from] StoreError),
    /// The solver's name.
    #[error("objective.solver: {0}")]
    Solver(#[from] SolveError),
    /// The static weights.
    #[error("static weights: {0}")]
    Plan(#[from] PlanError),
    /// The API cannot listen, or its token cannot be read.
    #[error("{key}: {reason}")]
    Api {
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

/// Commands waiting for the loop; more wait at their sender.
const COMMANDS: usize = 32;

/// Runs until `shutdown` completes.
///
/// # Errors
/// [`RunError`] for whatever keeps the service from starting. Once it runs, failures are logged, shown and
/// ridden out.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let token = read_token(&config)?;
    let mut discovery = Discovery::new(&config);
    let mut config = config;
    match discovery.services().await {
        Ok(Some(services)) => {
            config.services = services;
            config.check()?;
        }
        Ok(None) => {}
        Err(problem) => return Err(problem.into()),
    }
    for warning in discovery.resolve(&config).await.1 {
        warn!("{warning}");
    }

    let built = config.build(discovery.resolved())?;
    let prometheus = source::prometheus(&config, &built.fleet.services)?;
    report_reachability(&config, &prometheus).await;
    let prices = config.prices.as_ref().map(source::price_book).transpose()?;
    let actuator = XdsActuator::new(node_matcher(&config), xds_options(&config))?;
    let setup = policy::set_up(&config)?;
    let learning = Learning::start(&config, &setup)?;
    let stages = Stages {
        source: Box::new(source::PricedSource::new(Arc::clone(&prometheus), prices)),
        estimator: Box::new(FleetEstimator::new(estimator_config(&config))),
        encoder: setup.encoder,
        policy: setup.policy,
        solver: traflux_lp::by_name(&config.objective.solver)?,
        actuator: Box::new(actuator.clone()),
        reward: Box::new(FleetReward::new(built.fleet.topology.as_ref().clone(), config.objective.reward)),
        recorder: learning.recorder(),
    };
    let mut controller = Controller::new(built.fleet, stages, built.control)?.with_mode(config.policy.mode);
    if let Some(path) = &config.state_file {
        controller = controller.with_store(StateStore::new(path))?;
    }
    if let Err(problem) = controller.start().await {
        error!(code = problem.code(), "first plan: {problem}");
    }

    let xds = actuator.bind(config.xds.listen).await?;
    let listener = tokio::net::TcpListener::bind(config.api.listen)
        .await
        .map_err(|e| RunError::Api { key: "api.listen", reason: format!("{}: {e}", config.api.listen) })?;
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
    let mut service = Service {
        config,
        controller,
        prometheus,
        discovery,
        state,
        learning,
        count: setup.count,
        parameters: setup.parameters,
        events,
        lag: BTreeMap::new(),
        failing: Vec::new(),
        rung: traflux_core::Rung::Normal.name(),
    };
    tokio::select! {
        () = service.run(inbox) => {}
        () = shutdown => info!("shutting down"),
    }
    service.learning.stop();
    // Nobody listens any more when the tasks ended by themselves; that is no failure.
    let _ = stop.send(true);
    let ends = async {
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

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// What the loop owns.
struct Service {
    config: Config,
    controller: Controller,
    prometheus: Arc<PrometheusSource>,
    discovery: Discovery,
    state: Arc<ServiceState>,
    learning: Learning,
    count: Option<CriticalCount>,
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
                command = inbox.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
            }
        }
    }

    async fn tick(&mut self) {
        self.discover().await;
        let began = Instant::now();
        let decision = self.controller.tick(now()).await;
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
        self.state.record(decision);
        self.state.set_ready(true);
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

    async fn discover(&mut self) {
        match self.discovery.services().await {
            Ok(Some(services)) => {
                if let Err(problem) = self.replace_services(services) {
                    warn!("discovery.file: {problem}; the endpoints in force stay");
                }
            }
            Ok(None) => {}
            Err(problem) => warn!("discovery.file: {problem}; the endpoints in force stay"),
        }
        let (changed, warnings) = self.discovery.resolve(&self.config).await;
        for warning in warnings {
            warn!("{warning}");
        }
        if changed && let Err(problem) = self.rebuild(&self.config.clone()) {
            warn!("dns: {problem}; the endpoints in force stay");
        }
    }

    fn replace_services(&mut self, services: Vec<ServiceConfig>) -> Result<(), CommandError> {
        let mut config = self.config.clone();
        config.services = services;
        let invalid = |problem: ConfigError| match problem {
            ConfigError::Key { path, problem } => CommandError::Invalid { key: path, problem },
            other => CommandError::Invalid { key: "services".to_owned(), problem: other.to_string() },
        };
        config.check_replaced().map_err(invalid)?;
        self.rebuild(&config)?;
        self.config = config;
        Ok(())
    }

    fn rebuild(&mut self, config: &Config) -> Result<(), CommandError> {
        let invalid = |problem: String| CommandError::Invalid { key: "services".to_owned(), problem };
        let built = config.build(self.discovery.resolved()).map_err(|e| invalid(e.to_string()))?;
        self.prometheus.set_labels(source::label_map(config, &built.fleet.services));
        self.controller.set_fleet(built.fleet).map_err(|e| invalid(e.to_string()))?;
        let topology = self.controller.fleet().topology.as_ref().clone();
        self.controller.set_reward(Box::new(FleetReward::new(topology, config.objective.reward)));
        info!(generation = self.controller.fleet().topology.generation().0, "endpoints replaced");
        Ok(())
    }

    async fn obey(&mut self, command: Command) {
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
            Command::Services(services, reply) => {
                let result = self.replace_services(services);
                if result.is_ok() {
                    for warning in self.discovery.resolve(&self.config).await.1 {
                        warn!("{warning}");
                    }
                }
                let _ = reply.send(result);
            }
            Command::Train(request, reply) => {
                let _ = reply.send(self.train(&request));
            }
        }
    }

    fn freeze(&mut self, frozen: bool) {
        info!(frozen, "weights");
        self.controller.set_frozen(frozen);
        if let Some(parameters) = &self.parameters {
            if frozen { parameters.freeze() } else { parameters.resume() }
        }
    }

    fn train(&mut self, request: &TrainRequest) -> Result<TrainReply, CommandError> {
        self.learning.train(request, self.parameters.as_ref())
    }

    fn read_parameters(&self) -> Parameters {
        let objective = &self.config.objective;
        let guard = &self.config.control.guard;
        Parameters {
            k: self.count.as_ref().map(CriticalCount::current),
            max_utilization: objective.max_utilization,
            usd_per_million_for_10_ms: objective.usd_per_million_for_10_ms,
            error_ms: objective.error_ms,
            churn_ms: objective.churn_ms,
            headroom: objective.headroom,
            min_share: guard.min_share,
            max_share: guard.max_share,
            step_per_s: guard.step_per_s,
            learning_rate: self.learning.learning_rate(),
        }
    }

    /// All of the patch, or nothing and what is wrong with it.
    fn patch(&mut self, patch: &ParameterPatch) -> Result<Parameters, CommandError> {
        let mut config = self.config.clone();
        let objective = &mut config.objective;
        let guard = &mut config.control.guard;
        let set = |target: &mut f64, value: Option<f64>| {
            if let Some(value) = value {
                *target = value;
            }
        };
        set(&mut objective.max_utilization, patch.max_utilization);
        set(&mut objective.error_ms, patch.error_ms);
        set(&mut objective.churn_ms, patch.churn_ms);
        set(&mut objective.headroom, patch.headroom);
        set(&mut guard.min_share, patch.min_share);
        set(&mut guard.max_share, patch.max_share);
        set(&mut guard.step_per_s, patch.step_per_s);
        set(&mut config.policy.learning_rate, patch.learning_rate);
        if patch.usd_per_million_for_10_ms.is_some() {
            objective.usd_per_million_for_10_ms = patch.usd_per_million_for_10_ms;
        }
        if patch.k.is_some() {
            config.policy.k = patch.k;
        }
        config.check_replaced().map_err(|problem| match problem {
            ConfigError::Key { path, problem } => CommandError::Invalid { key: path, problem },
            other => CommandError::Invalid { key: "parameters".to_owned(), problem: other.to_string() },
        })?;
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
        }
        self.controller.set_config(config.control());
        self.config = config;
        Ok(self.read_parameters())
    }
}

fn now() -> Timestamp {
    Timestamp::new(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Limits of the user's signals go to the estimator, which calls what exceeds them in breach.
fn estimator_config(config: &Config) -> traflux_core::estimator::EstimatorConfig {
    let mut estimator = config.control.estimator.clone();
    for signal in &config.metrics.prometheus.signals {
        if let Some(limit) = signal.limit {
            estimator.health.signal_limits.entry(signal.name.clone()).or_insert(limit);
        }
    }
    estimator
}

fn node_matcher(config: &Config) -> NodeMatcher {
    let rules = config
        .sources
        .iter()
        .map(|source| {
            let nodes = &source.nodes;
            let conditions: Vec<NodeCondition> = [
                nodes.zone.clone().map(NodeCondition::Zone),
                nodes.region.clone().map(NodeCondition::Region),
                nodes.cluster.clone().map(NodeCondition::Cluster),
                nodes.id_prefix.clone().map(NodeCondition::IdPrefix),
            ]
            .into_iter()
            .flatten()
            .collect();
            // Unset: the zone is the source's name.
            let conditions = if conditions.is_empty() {
                vec![NodeCondition::Zone(source.name.clone())]
            } else {
                conditions
            };
            NodeRule { group: NodeGroup(source.name.clone()), conditions }
        })
        .collect();
    NodeMatcher { rules, ..NodeMatcher::default() }
}

fn xds_options(config: &Config) -> XdsOptions {
    let tls = config.xds.tls.as_ref().map(|tls| traflux_xds::TlsOptions {
        certificate: tls.cert_file.clone(),
        key: tls.key_file.clone(),
        client_ca: tls.client_ca_file.clone(),
        authorize_node_id: tls.authorize_node_id,
    });
    XdsOptions {
        server: ServerOptions { max_streams: config.xds.max_streams, tls, ..ServerOptions::default() },
        ..XdsOptions::default()
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

fn read_token(config: &Config) -> Result<Option<String>, RunError> {
    let Some(path) = &config.api.token_file else { return Ok(None) };
    let refuse = |reason: String| RunError::Api { key: "api.token_file", reason };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(format!("{}: {e}", path.display())))?;
    let token = text.trim();
    if token.len() < 16 {
        return Err(refuse(format!(
            "{}: token has {} characters, must have at least 16",
            path.display(),
            token.len()
        )));
    }
    Ok(Some(token.to_owned()))
}
