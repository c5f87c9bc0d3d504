//! When does a reward belong to an action?
//!
//! A measured window spans several ticks, so an action is *held* for the dead time plus one window, and the
//! reward of that window is paid to it only if every plan pushed before the window began was acknowledged by
//! every node group before it began, or within a second of being sent: a tick and a window often begin at the
//! same moment. Otherwise the transition is dropped and counted.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use traflux_core::{Action, NodeGroup, Observation, PlanVersion, Telemetry, Timestamp, Transition};

use super::Controller;
use super::decision::Decision;
use super::store::StoreError;

/// An acknowledgement this soon after sending is not late, wherever the window begins.
const PROMPT: Duration = Duration::from_secs(1);

/// One held action and what is needed to pay for it.
#[derive(Debug, Clone)]
pub struct HeldStep {
    since: Timestamp,
    length: Duration,
    window: Duration,
    observation: Observation,
    action: Action,
    before: Telemetry,
    plans: Vec<SentPlan>,
}

#[derive(Debug, Clone)]
struct SentPlan {
    version: PlanVersion,
    sent: Timestamp,
    acknowledged: Option<Timestamp>,
}

/// What became of learning steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub struct LearningStats {
    /// Steps whose reward was paid and recorded.
    pub recorded: u64,
    /// Steps dropped because a plan was not acknowledged before its window.
    pub dropped_unacknowledged: u64,
    /// Steps dropped because metrics were missing at their end.
    pub dropped_unmeasured: u64,
}

impl HeldStep {
    pub(super) fn new(
        since: Timestamp,
        length: Duration,
        window: Duration,
        observation: Observation,
        action: Action,
        before: Telemetry,
    ) -> Self {
        Self { since, length, window, observation, action, before, plans: Vec::new() }
    }

    /// The action held.
    #[must_use]
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// Whether the step has lasted its dead time and window.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.since) >= self.length
    }

    pub(super) fn sent(&mut self, version: PlanVersion, at: Timestamp) {
        self.plans.push(SentPlan { version, sent: at, acknowledged: None });
    }

    /// Notes which plans every group has in force. A plan that a later one replaced counts as acknowledged
    /// when that one is.
    fn note(&mut self, in_force: Option<(&PlanVersion, Timestamp)>) {
        let Some((version, since)) = in_force else { return };
        let Some(last) = self.plans.iter().rposition(|plan| plan.version == *version) else { return };
        for plan in &mut self.plans[..=last] {
            plan.acknowledged.get_or_insert(since);
        }
    }

    /// Whether the window that ends at `now` shows this action: plans sent within the window re-solve under it,
    /// those before must have been in force when it began.
    fn is_payable(&self, now: Timestamp) -> bool {
        let window_began = Timestamp::new(now.since_epoch().saturating_sub(self.window));
        self.plans.iter().all(|plan| {
            let latest = window_began.max(plan.sent + PROMPT);
            plan.sent > window_began || plan.acknowledged.is_some_and(|at| at <= latest)
        })
    }
}

impl Controller {
    /// Ends the held step, pays for it where that is right, and begins the next.
    pub(super) fn begin_step(&mut self, mut next: HeldStep, telemetry: &Telemetry) {
        // The plan at hand counts too: nothing is paid while nobody has it in force.
        let at_hand = self.untaken.as_ref().map_or(&self.plan, |(plan, _)| plan);
        next.sent(at_hand.version().clone(), telemetry.at);
        let previous = self.held.replace(next);
        let (Some(held), Some(next)) = (previous, &self.held) else { return };
        if !held.is_payable(telemetry.at) {
            self.learning.dropped_unacknowledged += 1;
            return;
        }
        let reward = self.stages.reward.reward(&held.before, telemetry);
        self.last_reward = Some(reward.clone());
        if let Some(recorder) = &mut self.stages.recorder {
            self.learning.recorded += 1;
            recorder.record(Transition {
                observation: held.observation,
                action: held.action,
                reward,
                next_observation: next.observation.clone(),
                terminated: false,
                truncated: false,
            });
        }
    }

    /// Notes acknowledgements; drops a step during which the state could not be estimated: what happened then was
    /// not what the action asked for.
    pub(super) fn learn(&mut self, now: Timestamp, estimated: bool, decision: &mut Decision) {
        let in_force = self.in_force_everywhere();
        if let Some(held) = &mut self.held {
            held.note(in_force.as_ref().map(|(version, since)| (version, *since)));
            if !estimated && held.is_over(now) {
                self.held = None;
                self.learning.dropped_unmeasured += 1;
            }
        }
        decision.reward = self.last_reward.clone();
    }

    /// The version that every node group has in force, and since when the last of them has.
    pub(super) fn in_force_everywhere(&self) -> Option<(PlanVersion, Timestamp)> {
        let groups: Vec<NodeGroup> = self.plan.node_groups();
        let mut found: Option<(PlanVersion, Timestamp)> = None;
        for group in &groups {
            let in_force = self.stages.actuator.in_force(group)?;
            match &mut found {
                None => found = Some((in_force.version, in_force.since)),
                Some((version, since)) if *version == in_force.version => {
                    *since = (*since).max(in_force.since)
                }
                Some(_) => return None,
            }
        }
        found
    }

    /// Saves the rows of the plan that their node groups acknowledged. Each tick does so before it decides; a
    /// service that hears of an acknowledgement need not wait for the next tick.
    ///
    /// # Errors
    /// [`StoreError`]; the next call tries again.
    pub fn save_acknowledged(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.store else { return Ok(()) };
        let version = self.plan.version();
        let acknowledged: BTreeSet<String> = self
            .plan
            .node_groups()
            .into_iter()
            .filter(|group| self.stages.actuator.in_force(group).is_some_and(|f| f.version == *version))
            .map(|group| group.0)
            .collect();
        if acknowledged.is_empty() || self.saved.as_ref() == Some(&(version.clone(), acknowledged.clone())) {
            return Ok(());
        }
        store.save(&self.fleet.topology, &self.current, version, |source| acknowledged.contains(source))?;
        self.saved = Some((version.clone(), acknowledged));
        Ok(())
    }
}
