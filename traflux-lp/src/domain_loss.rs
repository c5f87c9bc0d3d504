//! If one failure domain is lost, does the rest carry its traffic?
//!
//! When domain `d` fails, its traffic `X_d` is spread over the survivors in proportion to what they carry, so
//! the load of survivor `i` grows by `L / (L − X_d)`, with `L` the total demand. It must stay at most
//! `s μ_i`:
//!
//! `L · X_i + (s μ_i − background_i) · X_d ≤ (s μ_i − background_i) · L`,
//!
//! linear in the split. `X_i` here counts the traffic that survives and not the background, which does not
//! grow. With several flows this is the picture of the whole fleet; a flow that has much of its own traffic
//! in `d` may spread more of it to one place.

use crate::stage::Stage;

/// One survivor of one loss: `Σ own + weight · X_d ≤ limit`, in the survivor's units/s.
#[derive(Debug, Clone)]
pub(crate) struct LossRow {
    pub(crate) resource: usize,
    /// Position in [`LossRows::domains`].
    pub(crate) domain: usize,
    /// (route, units per request) of the routes to the survivor that do not touch the domain.
    pub(crate) own: Vec<(usize, f64)>,
    /// Units of the survivor per request/s lost.
    pub(crate) weight: f64,
    pub(crate) limit: f64,
}

/// All rows, and for each domain the routes that touch it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LossRows {
    pub(crate) domains: Vec<(usize, Vec<usize>)>,
    pub(crate) rows: Vec<LossRow>,
}

impl LossRows {
    /// The rows of a stage; none where N−1 is not asked for.
    pub(crate) fn new(stage: &Stage<'_>) -> Self {
        let Some(level) = stage.goal.survive_domain_loss else { return Self::default() };
        let problem = stage.problem;
        let mut names: Vec<usize> = problem.domain.iter().flatten().copied().collect();
        names.sort_unstable();
        names.dedup();
        let mut out = Self::default();
        for (at, name) in names.into_iter().enumerate() {
            let touches =
                |route: usize| problem.uses(route).iter().any(|(r, _)| problem.domain[*r] == Some(name));
            let touching: Vec<usize> = (0..problem.routes()).filter(|r| touches(*r)).collect();
            let mut own: Vec<Vec<(usize, f64)>> = vec![Vec::new(); problem.resources()];
            for route in (0..problem.routes()).filter(|r| !touches(*r)) {
                for &(resource, rate) in problem.uses(route) {
                    own[resource].push((route, rate));
                }
            }
            for (resource, own) in own.into_iter().enumerate() {
                let capacity = problem.capacity[resource];
                if own.is_empty() || capacity <= 0.0 || problem.domain[resource] == Some(name) {
                    continue;
                }
                let limit = (level * capacity - problem.background[resource]).max(0.0);
                let weight = limit / problem.total_demand;
                out.rows.push(LossRow { resource, domain: at, own, weight, limit });
            }
            out.domains.push((name, touching));
        }
        out
    }

    /// By how much each row is exceeded, in its resource's units/s; negative where there is room.
    pub(crate) fn excess(&self, stage: &Stage<'_>, added: &[f64]) -> Vec<f64> {
        let volume = |route: usize| stage.floor_volume(route) + added[route];
        let lost: Vec<f64> =
            self.domains.iter().map(|(_, routes)| routes.iter().map(|r| volume(*r)).sum()).collect();
        self.rows
            .iter()
            .map(|row| {
                let own: f64 = row.own.iter().map(|(r, rate)| rate * volume(*r)).sum();
                own + row.weight * lost[row.domain] - row.limit
            })
            .collect()
    }

    /// One sentence for each domain whose loss overloads a survivor.
    pub(crate) fn words(&self, stage: &Stage<'_>, added: &[f64]) -> Vec<String> {
        let excess = self.excess(stage, added);
        let level = stage.goal.survive_domain_loss.unwrap_or(1.0);
        let mut out = Vec::new();
        for (at, (name, _)) in self.domains.iter().enumerate() {
            let worst = self
                .rows
                .iter()
                .zip(&excess)
                .filter(|(row, over)| row.domain == at && **over > 1e-6 * row.limit.max(1e-9))
                .map(|(row, over)| (over / stage.problem.capacity[row.resource], row.resource))
                .reduce(|a, b| if b.0 > a.0 { b } else { a });
            if let Some((over, resource)) = worst {
                out.push(format!(
                    "survival of the loss of domain {name}: resource {resource} exceeds {:.0} % by {:.1} %",
                    level * 100.0,
                    over * 100.0
                ));
            }
        }
        out
    }
}

/// Whether these volumes survive the loss of any one domain.
pub(crate) fn is_met(stage: &Stage<'_>, added: &[f64]) -> bool {
    let rows = LossRows::new(stage);
    let excess = rows.excess(stage, added);
    rows.rows.iter().zip(excess).all(|(row, over)| over <= 1e-9 * row.limit)
}
