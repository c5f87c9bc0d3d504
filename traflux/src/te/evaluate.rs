//! How good is the network when somebody chose the pairs to reroute?
//!
//! For every matrix each selector sees the same observation and chooses at most K pairs; a solver reroutes
//! these (least utilisation, then least rerouted traffic), everything else follows ECMP. The yardstick is the
//! optimum over all paths of all pairs.
//!
//! With [`EvaluateOptions::stale`] both choice and paths come from the matrix before, as in a real controller,
//! which acts on what it measured. Matrices are played one by one by all selectors, so that whatever ends the
//! comparison early leaves one on fewer matrices.

use std::sync::Arc;
use std::time::Instant;

use traflux_core::{BaseRouting, EncodeError, Network, Observation, Policy, Routing, TrafficMatrix};
use traflux_lp::multicommodity::select::{LeastMoved, SelectionEvaluator};
use traflux_lp::multicommodity::{DelayCurve, FlowProblem, least_delay};
use traflux_policy::{Checkpoint, PolicyStatus};
use traflux_te::select::SearchConfig;
use traflux_te::{
    FixedSet, NetworkEncoder, check_served, delay_ratio, ecmp, performance_ratio, routing_change,
};

pub use super::error::EvaluateError;
use super::judge::Judge;
use super::limit::Limit;
pub use super::score::{ArmScore, Comparison, Gain};
use super::selector::SelectorKind;
use super::train::from_checkpoint;

/// Beyond so many nodes optima are found to a tolerance unless told otherwise.
pub const LARGE: usize = 100;
/// That tolerance.
pub const LARGE_TOLERANCE: f64 = 1e-4;
/// Pieces of the delay curve of the reference.
const DELAY_PIECES: usize = 20;
/// Matrices of the history on which sets are compared in the search for the best fixed one.
const SEARCH_MATRICES: usize = 48;
/// Of that many pairs the search tries as many sets as it may; of more, fewer, as programs take longer.
const SEARCH_PAIRS: usize = 420;
/// The part of the time that the search may take.
const SEARCH_TIME: f64 = 0.25;

/// A trained selector to compare.
#[derive(Debug, Clone)]
pub struct TrainedArm {
    /// Its name.
    pub name: String,
    /// All of one family were trained alike, by other seeds.
    pub family: String,
    /// The policy.
    pub checkpoint: Checkpoint,
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
    /// Trained selectors.
    pub trained: Vec<TrainedArm>,
    /// Choice and paths of one matrix are applied to the next.
    pub stale: bool,
    /// Compare end-to-end delay too.
    pub delay: bool,
    /// Neighbouring matrices resemble each other: that many are drawn together for intervals.
    pub block: usize,
    /// Whether trained selectors leave the choice to greedy relief outside the range of their training.
    pub fallback: bool,
    /// Relative gap of optima and flows that is good enough; 0 is exact. `None`: exact up to [`LARGE`] nodes,
    /// [`LARGE_TOLERANCE`] beyond.
    pub tolerance: Option<f64>,
    /// When to end with the matrices played by then.
    pub limit: Limit,
}

impl Default for EvaluateOptions {
    fn default() -> Self {
        Self {
            count: 0,
            selectors: Vec::new(),
            history: 0,
            trained: Vec::new(),
            stale: false,
            delay: false,
            block: 12,
            fallback: true,
            tolerance: None,
            limit: Limit::default(),
        }
    }
}

/// Plays selectors on matrices. `progress` is called with the part that is done.
///
/// # Errors
/// [`EvaluateError`]; [`EvaluateError::Stopped`] when the limit is reached before anybody has played a matrix.
pub fn evaluate(
    network: &Network,
    matrices: &[TrafficMatrix],
    options: &EvaluateOptions,
    progress: &mut dyn FnMut(f64),
) -> Result<Comparison, EvaluateError> {
    let least = options.history + 1 + usize::from(options.stale);
    if matrices.len() < least {
        return Err(EvaluateError::TooFew { what: "the comparison".into(), least, found: matrices.len() });
    }
    let base = ecmp(network)?;
    for demands in matrices {
        check_served(network, &base, demands)?;
    }
    let large = if network.nodes().len() > LARGE { LARGE_TOLERANCE } else { 0.0 };
    let tolerance = options.tolerance.unwrap_or(large);
    let mut lab = Lab {
        network,
        base: &base,
        judge: Judge::new(network, &base, tolerance),
        limit: &options.limit,
        stale: options.stale,
        delay: options.delay,
        optimal: Vec::new(),
        reference: Vec::new(),
    };
    let mut arms = Vec::new();
    for kind in &options.selectors {
        arms.push(Arm::new(kind.name(), kind.policy(network, &base, options.count), plain(&lab), &lab));
    }
    let (history, played) = matrices.split_at(options.history);
    let searched = if history.is_empty() { 0.0 } else { 0.2 };
    if !history.is_empty() {
        let set = fixed_set(&lab, history, options.count, &mut |done| progress(searched * done))?;
        arms.push(Arm::new("fixed-set", Box::new(set), plain(&lab), &lab));
    }
    for TrainedArm { name, family, checkpoint } in &options.trained {
        let (policy, mut encoder) =
            from_checkpoint(checkpoint, network, &base, options.count, options.fallback)?;
        let status = policy.status();
        let see: Box<See<'_>> = Box::new(move |demands, seen| encoder.encode_into(demands, seen));
        let mut arm = Arm::new(name, Box::new(policy), see, &lab);
        arm.score.family = Some(family.clone());
        arm.status = Some(status);
        arms.push(arm);
    }
    let asked = played.len() - usize::from(options.stale);
    let mut bound = Vec::new();
    let steps = (asked * (arms.len() + 1)) as f64;
    'matrices: for ix in 0..asked {
        lab.prepare(played, ix)?;
        if !options.stale
            && let Some(least) = lab.judge.bound(&played[ix], options.count)?
        {
            bound.push(performance_ratio(lab.optimal[ix], least).min(1.0));
        }
        for at in 0..arms.len() {
            if options.limit.reached() {
                break 'matrices;
            }
            progress(searched + (1.0 - searched) * (ix * (arms.len() + 1) + 1 + at) as f64 / steps);
            arms[at].step(&lab, played, ix)?;
        }
    }
    let (arms, late): (Vec<Arm<'_>>, Vec<Arm<'_>>) = {
        // A matrix that not all have played counts for nobody, unless it is the only one.
        let whole = arms.iter().map(|arm| arm.score.performance.len()).min().unwrap_or(0).max(1);
        arms.iter_mut().for_each(|arm| arm.cut(whole));
        arms.into_iter().partition(|arm| !arm.score.performance.is_empty())
    };
    let Some(matrices) = arms.first().map(|arm| arm.score.performance.len()) else {
        return Err(EvaluateError::Stopped { before: "a matrix was played" });
    };
    let first = usize::from(options.stale);
    bound.truncate(matrices);
    Ok(Comparison {
        count: options.count,
        pairs: network.pair_count(),
        history: options.history,
        stale: options.stale,
        tolerance,
        block: options.block,
        asked,
        late: late.into_iter().map(|arm| arm.score.name).collect(),
        optimal: lab.optimal[first..first + matrices].to_vec(),
        bound,
        arms: arms.into_iter().map(Arm::finish).collect(),
    })
}

/// The set of pairs that did best on the past; the best by then when a part of the time is over.
fn fixed_set(
    lab: &Lab<'_>,
    history: &[TrafficMatrix],
    count: usize,
    progress: &mut dyn FnMut(f64),
) -> Result<FixedSet, EvaluateError> {
    let limit = lab.limit.part(SEARCH_TIME);
    let pairs = lab.network.pair_count().max(1);
    let share = (SEARCH_PAIRS as f64 / pairs as f64).powi(2).min(1.0);
    let matrices = ((SEARCH_MATRICES as f64 * share.sqrt()) as usize).max(4);
    let sample: Vec<&TrafficMatrix> = history.iter().step_by(history.len().div_ceil(matrices)).collect();
    let mut evaluator = SelectionEvaluator::new(lab.network, lab.base);
    let mut optima = Vec::with_capacity(sample.len());
    let mut moved = Vec::with_capacity(sample.len());
    let mut rule = LeastMoved::new(lab.network, lab.base, count);
    let mut encoder = NetworkEncoder::new(lab.network, lab.base);
    for (at, demands) in sample.iter().enumerate() {
        if limit.reached() && at > 0 {
            break;
        }
        progress(0.3 * at as f64 / sample.len() as f64);
        optima.push(evaluator.optimum(demands)?);
        let action = rule.act(&encoder.encode(demands)?);
        let failed = |source| EvaluateError::Policy { selector: "fixed-set".to_owned(), source };
        moved.push(action.map_err(failed)?.critical);
    }
    let full = SearchConfig::default();
    let config = SearchConfig { evaluations: ((full.evaluations as f64 * share) as usize).max(20), ..full };
    let mut asked = 0;
    let mut best: (f64, Vec<traflux_core::GroupIx>) = (f64::NEG_INFINITY, Vec::new());
    let search = FixedSet::from_history(&moved, count, &config, |pairs| {
        if limit.reached() && asked > 0 {
            return Err(EvaluateError::Stopped { before: "the search for a fixed set ended" });
        }
        asked += 1;
        progress(0.3 + 0.7 * f64::from(asked) / config.evaluations as f64);
        let mut sum = 0.0;
        for (demands, optimal) in sample.iter().zip(&optima) {
            sum += performance_ratio(*optimal, evaluator.utilization(demands, pairs)?);
        }
        let score = sum / optima.len() as f64;
        if score > best.0 {
            best = (score, pairs.to_vec());
        }
        Ok(score)
    });
    match search {
        Ok(search) => Ok(search.set),
        Err(EvaluateError::Stopped { .. }) => Ok(FixedSet::new(best.1)),
        Err(error) => Err(error),
    }
}

/// Shows a policy one matrix.
type See<'a> = dyn FnMut(&TrafficMatrix, &mut Observation) -> Result<(), EncodeError> + 'a;

/// What selectors without training see.
fn plain<'a>(lab: &Lab<'a>) -> Box<See<'a>> {
    let mut encoder = NetworkEncoder::new(lab.network, lab.base);
    Box::new(move |demands, seen| encoder.encode_into(demands, seen))
}

/// A network with what all arms are measured against.
struct Lab<'a> {
    network: &'a Network,
    base: &'a BaseRouting,
    judge: Judge,
    limit: &'a Limit,
    stale: bool,
    delay: bool,
    /// By matrix, as far as they were needed.
    optimal: Vec<f64>,
    /// Loads of the routing of least delay, by matrix.
    reference: Vec<Vec<f64>>,
}

impl Lab<'_> {
    /// Solves for all that the choice at one matrix is measured against.
    fn prepare(&mut self, played: &[TrafficMatrix], ix: usize) -> Result<(), EvaluateError> {
        while self.optimal.len() <= ix + usize::from(self.stale) {
            let demands = &played[self.optimal.len()];
            self.optimal.push(self.judge.optimum(demands, self.limit)?);
            if self.delay {
                self.reference.push(self.least_delay(demands)?);
            }
        }
        Ok(())
    }

    /// Loads of the routing of least delay, with loads scaled as the metric scales them.
    fn least_delay(&self, demands: &TrafficMatrix) -> Result<Vec<f64>, EvaluateError> {
        let fullest = self.network.max_utilization(&self.base.loads(self.network, demands));
        let factor = if fullest > 0.0 { traflux_te::metrics::DELAY_UTILIZATION / fullest } else { 1.0 };
        let scaled = demands.scaled(factor);
        let problem = FlowProblem::all(self.network, &scaled)?;
        let curve = DelayCurve::queueing(DELAY_PIECES);
        let mut loads = least_delay(&problem, &curve, self.limit.deadline())?.loads;
        loads.iter_mut().for_each(|load| *load /= factor);
        Ok(loads)
    }
}

/// One selector with what is kept from one matrix to the next.
struct Arm<'a> {
    policy: Box<dyn Policy>,
    /// Of a trained one.
    status: Option<Arc<PolicyStatus>>,
    see: Box<See<'a>>,
    judge: Judge,
    score: ArmScore,
    observation: Observation,
    previous: Option<Routing>,
    /// By pair: how often it was chosen.
    times: Vec<usize>,
    /// The last choice.
    last: Vec<traflux_core::GroupIx>,
}

impl<'a> Arm<'a> {
    fn new(name: &str, policy: Box<dyn Policy>, see: Box<See<'a>>, lab: &Lab<'_>) -> Self {
        let score = ArmScore {
            name: name.to_owned(),
            family: None,
            performance: Vec::new(),
            selected: Vec::new(),
            rerouted: Vec::new(),
            changed_pairs: Vec::new(),
            delay_ratio: Vec::new(),
            selection_us: Vec::new(),
            chosen: Vec::new(),
            fallbacks: 0,
        };
        Self {
            policy,
            status: None,
            see,
            judge: lab.judge.clone(),
            score,
            observation: Observation::default(),
            previous: None,
            times: vec![0; lab.network.pair_count()],
            last: Vec::new(),
        }
    }

    fn step(&mut self, lab: &Lab<'_>, played: &[TrafficMatrix], ix: usize) -> Result<(), EvaluateError> {
        let began = Instant::now();
        (self.see)(&played[ix], &mut self.observation)?;
        let action = self.policy.act(&self.observation);
        let critical = action
            .map_err(|source| EvaluateError::Policy { selector: self.score.name.clone(), source })?
            .critical;
        self.score.selection_us.push(began.elapsed().as_secs_f64() * 1e6);
        critical.iter().for_each(|pair| self.times[pair.ix()] += 1);
        let at = ix + usize::from(lab.stale);
        let met = &played[at];
        let judged = self.judge.judge(&critical, &played[ix], met, lab.optimal[at], lab.limit)?;
        let score = &mut self.score;
        score.performance.push(judged.performance_ratio);
        score.selected.push(judged.selected_share);
        score.rerouted.push(judged.moved_share);
        // Flows within a tolerance differ for no reason.
        if let (Some(previous), Judge::Exact(_)) = (&self.previous, &self.judge) {
            let change = routing_change(lab.network, lab.base, previous, &judged.routing, met)?;
            score.changed_pairs.push(change.pairs as f64);
        }
        if let Some(reference) = lab.reference.get(at) {
            let ecmp = lab.base.loads(lab.network, met);
            score.delay_ratio.push(delay_ratio(lab.network, &ecmp, reference, &judged.loads));
        }
        self.previous = Some(judged.routing);
        self.last = critical;
        Ok(())
    }

    /// Takes back the last matrix if there are more than these.
    fn cut(&mut self, matrices: usize) {
        if self.score.performance.len() > matrices {
            self.last.iter().for_each(|pair| self.times[pair.ix()] -= 1);
        }
        let score = &mut self.score;
        for values in [
            &mut score.performance,
            &mut score.selected,
            &mut score.rerouted,
            &mut score.delay_ratio,
            &mut score.selection_us,
        ] {
            values.truncate(matrices);
        }
        score.changed_pairs.truncate(matrices.saturating_sub(1));
    }

    fn finish(mut self) -> ArmScore {
        let mut chosen: Vec<(usize, usize)> =
            self.times.into_iter().enumerate().filter(|(_, n)| *n > 0).collect();
        chosen.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        self.score.chosen = chosen;
        let fallbacks = self.status.map_or(0, |status| status.fallbacks());
        self.score.fallbacks = (fallbacks as usize).min(self.score.performance.len());
        self.score
    }
}
