//! How good is the network when somebody chose the pairs to reroute?
//!
//! For every matrix each selector sees the same observation and chooses at most K pairs; an exact solver reroutes
//! these (least utilisation, then least rerouted traffic), everything else follows ECMP. The yardstick is the
//! optimum over all paths of all pairs.
//!
//! With [`EvaluateOptions::stale`] both choice and paths come from the matrix before, as in a real controller,
//! which acts on what it measured.

use std::time::Instant;

use serde::Serialize;
use traflux_core::{
    BaseRouting, EncodeError, Network, NetworkError, Observation, Policy, PolicyError, Routing, TrafficMatrix,
};
use traflux_lp::multicommodity::select::{LeastMoved, SelectionEvaluator};
use traflux_lp::multicommodity::{DelayCurve, FlowError, FlowProblem, least_delay};
use traflux_policy::Checkpoint;
use traflux_te::metrics::{BootstrapConfig, PairedDifference, Summary};
use traflux_te::select::SearchConfig;
use traflux_te::{
    FixedSet, NetworkEncoder, TeError, delay_ratio, ecmp, performance_ratio, routing_change, selected_share,
};

use super::selector::SelectorKind;
use super::train::from_checkpoint;

/// Beyond so many nodes every matrix would take minutes.
const MOST_NODES: usize = 400;
/// Pieces of the delay curve of the reference.
const DELAY_PIECES: usize = 20;
/// Matrices of the history on which sets are compared in the search for the best fixed one.
const SEARCH_MATRICES: usize = 48;
/// Neighbouring matrices resemble each other: that many are drawn together for intervals.
const BLOCK: usize = 12;

/// What can go wrong between network, matrices and selectors.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// Network and matrices do not fit.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A parameter of a generator or a metric.
    #[error(transparent)]
    Te(#[from] TeError),
    /// The solver.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// The observation.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A selector.
    #[error("{selector}: {source}")]
    Policy {
        /// Which one.
        selector: String,
        /// What it says.
        source: PolicyError,
    },
    /// The simulator.
    #[error(transparent)]
    Sim(#[from] traflux_sim::SimError),
    /// A training.
    #[error(transparent)]
    Train(#[from] traflux_policy::bandit::BanditError),
    /// A checkpoint that does not fit.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// Too large a network for exact comparisons.
    #[error(
        "{nodes} nodes, comparisons are exact and for at most {limit}; `traflux te solve` takes larger ones"
    )]
    TooLarge {
        /// How many nodes it has.
        nodes: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Too few matrices.
    #[error("{what} needs {least} matrices, there are {found}")]
    TooFew {
        /// What needs them.
        what: &'static str,
        /// How many it needs.
        least: usize,
        /// How many there are.
        found: usize,
    },
}

impl EvaluateError {
    /// A stable name.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Network(error) => error.code(),
            Self::Te(error) => error.code(),
            Self::Flow(error) => error.code(),
            Self::Encode(error) => error.code(),
            Self::Policy { source, .. } => source.code(),
            Self::Sim(error) => error.code(),
            Self::Train(error) => error.code(),
            Self::Checkpoint(_) => "te_checkpoint",
            Self::TooFew { .. } => "te_too_few",
            Self::TooLarge { .. } => "te_too_large",
        }
    }

    /// Whether the same call may succeed later with nothing changed here.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Network(error) => error.is_transient(),
            Self::Te(error) => error.is_transient(),
            Self::Flow(error) => error.is_transient(),
            Self::Encode(error) => error.is_transient(),
            Self::Policy { source, .. } => source.is_transient(),
            Self::Sim(error) => error.is_transient(),
            Self::Train(error) => error.is_transient(),
            Self::Checkpoint(_) | Self::TooFew { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// What to compare.
#[derive(Debug, Clone)]
pub struct EvaluateOptions {
    /// Most pairs that may be rerouted.
    pub count: usize,
    /// Who chooses.
    pub selectors: Vec<SelectorKind>,
    /// The first matrices are history, on which a fixed set is found; the others are played. 0: no fixed set.
    pub history: usize,
    /// A trained selector.
    pub checkpoint: Option<Checkpoint>,
    /// Choice and paths of one matrix are applied to the next.
    pub stale: bool,
    /// Compare end-to-end delay too.
    pub delay: bool,
}

/// One selector on all matrices played.
#[derive(Debug, Clone, Serialize)]
pub struct ArmScore {
    /// Its name.
    pub name: String,
    /// `PR_U` by matrix: optimal over achieved utilisation, at most 1.
    pub performance: Vec<f64>,
    /// Share of the traffic that belongs to the chosen pairs, by matrix.
    pub selected: Vec<f64>,
    /// Share of the traffic that really leaves ECMP, by matrix.
    pub rerouted: Vec<f64>,
    /// Pairs whose paths differ from those of the matrix before, by matrix from the second on.
    pub changed_pairs: Vec<f64>,
    /// `PR_Ω` by matrix: least possible delay over achieved delay; empty unless asked for.
    pub delay_ratio: Vec<f64>,
    /// Time to encode and choose, in microseconds, by matrix.
    pub selection_us: Vec<f64>,
    /// How often each pair was chosen: (position, times), most often first.
    pub chosen: Vec<(usize, usize)>,
}

/// All selectors on the same matrices.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Most pairs that could be rerouted.
    pub count: usize,
    /// Of how many.
    pub pairs: usize,
    /// Matrices of history that were not played.
    pub history: usize,
    /// Whether choices were one matrix old.
    pub stale: bool,
    /// Least possible utilisation of each matrix played.
    pub optimal: Vec<f64>,
    /// `PR_U` by matrix that no choice of so many pairs can exceed: that of the fractional choice. Empty where
    /// choices are old, for which it says nothing.
    pub bound: Vec<f64>,
    /// The arms, in the order asked for.
    pub arms: Vec<ArmScore>,
}

impl ArmScore {
    /// Statistics of `PR_U`; `None` without matrices.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.performance, &bootstrap(self.performance.len()))
    }

    /// By how much `PR_U` is above that of another arm, matrix by matrix.
    #[must_use]
    pub fn gain_over(&self, other: &Self) -> Option<PairedDifference> {
        PairedDifference::of(&self.performance, &other.performance, &bootstrap(self.performance.len()))
    }
}

/// A resample of less than eight blocks would hardly differ from the sample.
fn bootstrap(count: usize) -> BootstrapConfig {
    BootstrapConfig { block: BLOCK.min(count / 8).max(1), ..BootstrapConfig::default() }
}

/// Plays selectors on matrices. `progress` is called with the part that is done.
///
/// # Errors
/// [`EvaluateError`].
pub fn evaluate(
    network: &Network,
    matrices: &[TrafficMatrix],
    options: &EvaluateOptions,
    progress: &mut dyn FnMut(f64),
) -> Result<Comparison, EvaluateError> {
    let least = options.history + 1 + usize::from(options.stale);
    if matrices.len() < least {
        return Err(EvaluateError::TooFew { what: "the comparison", least, found: matrices.len() });
    }
    let nodes = network.nodes().len();
    if nodes > MOST_NODES {
        return Err(EvaluateError::TooLarge { nodes, limit: MOST_NODES });
    }
    let base = ecmp(network)?;
    let mut lab = Lab::new(network, &base);
    let mut arms: Vec<(String, Box<dyn Policy>)> = Vec::new();
    for kind in &options.selectors {
        arms.push((kind.name().to_owned(), kind.policy(network, &base, options.count)));
    }
    let (history, played) = matrices.split_at(options.history);
    if !history.is_empty() {
        let set = fixed_set(&mut lab, history, options.count, &mut |done| progress(0.2 * done))?;
        arms.push(("fixed-set".to_owned(), Box::new(set)));
    }
    let mut learned = None;
    if let Some(checkpoint) = &options.checkpoint {
        learned = Some(from_checkpoint(checkpoint, network, &base, options.count)?);
    }
    let optimal = lab.optima(played, &mut |done| progress(0.2 + 0.1 * done))?;
    let mut bound = Vec::new();
    if !options.stale {
        for (demands, optimal) in played.iter().zip(&optimal) {
            let least = lab.evaluator.lower_bound(demands, options.count)?;
            bound.push(performance_ratio(*optimal, least).min(1.0));
        }
    }
    let delays = if options.delay { lab.least_delays(played)? } else { Vec::new() };
    let mut scores = Vec::with_capacity(arms.len() + 1);
    let steps = (arms.len() + usize::from(learned.is_some())) * played.len();
    for (at, (name, policy)) in arms.iter_mut().enumerate() {
        let done = &mut |ix: usize| progress(0.3 + 0.7 * (at * played.len() + ix) as f64 / steps as f64);
        let mut encoder = NetworkEncoder::new(network, &base);
        let see = &mut |demands: &TrafficMatrix, seen: &mut Observation| encoder.encode_into(demands, seen);
        scores.push(lab.play(name, policy.as_mut(), see, played, &optimal, &delays, options.stale, done)?);
    }
    if let Some((mut policy, mut encoder)) = learned {
        let at = arms.len() * played.len();
        let done = &mut |ix: usize| progress(0.3 + 0.7 * (at + ix) as f64 / steps as f64);
        let see = &mut |demands: &TrafficMatrix, seen: &mut Observation| encoder.encode_into(demands, seen);
        scores.push(lab.play("learned", &mut policy, see, played, &optimal, &delays, options.stale, done)?);
    }
    let first = usize::from(options.stale);
    Ok(Comparison {
        count: options.count,
        pairs: network.pair_count(),
        history: options.history,
        stale: options.stale,
        optimal: optimal[first..].to_vec(),
        bound,
        arms: scores,
    })
}

/// The set of pairs that did best on the past.
fn fixed_set(
    lab: &mut Lab<'_>,
    history: &[TrafficMatrix],
    count: usize,
    progress: &mut dyn FnMut(f64),
) -> Result<FixedSet, EvaluateError> {
    let sample: Vec<&TrafficMatrix> =
        history.iter().step_by(history.len().div_ceil(SEARCH_MATRICES)).collect();
    let mut optima = Vec::with_capacity(sample.len());
    let mut moved = Vec::with_capacity(sample.len());
    let mut rule = LeastMoved::new(lab.network, lab.base, count);
    let mut encoder = NetworkEncoder::new(lab.network, lab.base);
    for demands in &sample {
        optima.push(lab.evaluator.optimum(demands)?);
        let action = rule.act(&encoder.encode(demands)?);
        let failed = |source| EvaluateError::Policy { selector: "fixed-set".to_owned(), source };
        moved.push(action.map_err(failed)?.critical);
    }
    let config = SearchConfig::default();
    let mut asked = 0;
    let search = FixedSet::from_history(&moved, count, &config, |pairs| {
        asked += 1;
        progress(f64::from(asked) / config.evaluations as f64);
        let mut sum = 0.0;
        for (demands, optimal) in sample.iter().zip(&optima) {
            sum += performance_ratio(*optimal, lab.evaluator.utilization(demands, pairs)?);
        }
        Ok::<f64, EvaluateError>(sum / sample.len() as f64)
    })?;
    Ok(search.set)
}

/// Shows a policy one matrix.
type See<'a> = dyn FnMut(&TrafficMatrix, &mut Observation) -> Result<(), EncodeError> + 'a;

/// A network with what is kept from one matrix to the next.
struct Lab<'a> {
    network: &'a Network,
    base: &'a BaseRouting,
    evaluator: SelectionEvaluator,
}

impl<'a> Lab<'a> {
    fn new(network: &'a Network, base: &'a BaseRouting) -> Self {
        Self { network, base, evaluator: SelectionEvaluator::new(network, base) }
    }

    fn optima(
        &mut self,
        matrices: &[TrafficMatrix],
        progress: &mut dyn FnMut(f64),
    ) -> Result<Vec<f64>, EvaluateError> {
        let mut optima = Vec::with_capacity(matrices.len());
        for (ix, demands) in matrices.iter().enumerate() {
            progress(ix as f64 / matrices.len() as f64);
            optima.push(self.evaluator.optimum(demands)?);
        }
        Ok(optima)
    }

    /// Loads of the routing of least delay, by matrix, with loads scaled as the metric scales them.
    fn least_delays(&mut self, matrices: &[TrafficMatrix]) -> Result<Vec<Vec<f64>>, EvaluateError> {
        let curve = DelayCurve::queueing(DELAY_PIECES);
        let of = |demands: &TrafficMatrix| {
            let fullest = self.network.max_utilization(&self.base.loads(self.network, demands));
            let factor = if fullest > 0.0 { traflux_te::metrics::DELAY_UTILIZATION / fullest } else { 1.0 };
            let scaled = demands.scaled(factor);
            let mut loads = least_delay(&FlowProblem::all(self.network, &scaled)?, &curve, None)?.loads;
            loads.iter_mut().for_each(|load| *load /= factor);
            Ok(loads)
        };
        matrices.iter().map(of).collect()
    }

    fn play(
        &mut self,
        name: &str,
        policy: &mut dyn Policy,
        see: &mut See<'_>,
        played: &[TrafficMatrix],
        optimal: &[f64],
        delays: &[Vec<f64>],
        stale: bool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<ArmScore, EvaluateError> {
        let mut score = ArmScore {
            name: name.to_owned(),
            performance: Vec::with_capacity(played.len()),
            selected: Vec::with_capacity(played.len()),
            rerouted: Vec::with_capacity(played.len()),
            changed_pairs: Vec::with_capacity(played.len()),
            delay_ratio: Vec::with_capacity(delays.len()),
            selection_us: Vec::with_capacity(played.len()),
            chosen: Vec::new(),
        };
        let mut times = vec![0usize; self.network.pair_count()];
        let mut previous: Option<Routing> = None;
        let mut observation = Observation::default();
        let decided = played.len() - usize::from(stale);
        for ix in 0..decided {
            progress(ix);
            let seen = &played[ix];
            let began = Instant::now();
            see(seen, &mut observation)?;
            let action = policy
                .act(&observation)
                .map_err(|source| EvaluateError::Policy { selector: name.to_owned(), source })?;
            score.selection_us.push(began.elapsed().as_secs_f64() * 1e6);
            for pair in &action.critical {
                times[pair.ix()] += 1;
            }
            let routing = self.evaluator.outcome(seen, &action.critical)?.routing;
            let at = ix + usize::from(stale);
            let demands = &played[at];
            let loads = routing.loads(self.network, self.base, demands);
            let achieved = self.network.max_utilization(&loads);
            // The optimum is exact to rounding only, and so is what is measured against it.
            score.performance.push(performance_ratio(optimal[at], achieved).min(1.0));
            score.selected.push(selected_share(self.network, demands, &action.critical));
            score.rerouted.push(self.rerouted(&routing, demands));
            if let Some(previous) = &previous {
                let change = routing_change(self.network, self.base, previous, &routing, demands)?;
                score.changed_pairs.push(change.pairs as f64);
            }
            if let Some(reference) = delays.get(at) {
                let ecmp = self.base.loads(self.network, demands);
                score.delay_ratio.push(delay_ratio(self.network, &ecmp, reference, &loads));
            }
            previous = Some(routing);
        }
        let mut chosen: Vec<(usize, usize)> = times.into_iter().enumerate().filter(|(_, n)| *n > 0).collect();
        chosen.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        score.chosen = chosen;
        Ok(score)
    }

    fn rerouted(&self, routing: &Routing, demands: &TrafficMatrix) -> f64 {
        let total = demands.total();
        let leaves = routing.reroutings().iter().map(|rerouting| {
            let (source, target) = self.network.pair(rerouting.pair);
            demands.demand(source, target) * (1.0 - rerouting.base_share)
        });
        // An empty sum is −0.
        if total > 0.0 { leaves.sum::<f64>() / total + 0.0 } else { 0.0 }
    }
}
