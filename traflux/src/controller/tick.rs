//! The loop, once around.

use std::time::{Duration, Instant};

use traflux_core::assemble::assemble;
use traflux_core::ladder::capacity_split;
use traflux_core::{
    Action, ActuateError, Assembled, Estimate, FlowIx, GroupIx, Guard, GuardContext, Guarded, Health,
    NodeGroup, Observation, Rung, Split, SplitSolution, Telemetry, Timestamp, TrafficPlan, Window,
};

use super::decision::Decision;
use super::learning::HeldStep;
use super::{Controller, Evidence, Mode, Offer, weigh};

impl Controller {
    /// Observe → estimate → act → optimise → guard → quantise → control → learn.
    ///
    /// Never fails: whatever a stage reports goes into the decision, and the ladder of failure
    /// ([`traflux_core::ladder`]) says what happens instead. Equal inputs give bit-identical decisions.
    pub async fn tick(&mut self, now: Timestamp) -> Decision {
        let elapsed = self.last_tick.map_or(Duration::ZERO, |last| now.since(last));
        if self.last_tick.is_some_and(|last| last > now) {
            self.clock_went_back(now);
        }
        self.last_tick = Some(now);
        // Nothing is known of the time before the first tick, so it allows no step.
        self.current_since.get_or_insert(now);
        self.ticks += 1;
        let mut decision = Decision::new(self.ticks, now, self.mode, self.frozen);

        if let Err(error) = self.save_acknowledged() {
            decision.fail("store", error.code(), &error);
        }
        let telemetry = self.observe(now, &mut decision).await;
        let fresh = telemetry.as_ref().and_then(Telemetry::freshest);
        let rung = self.ladder.advance(elapsed, fresh);
        decision.rung = rung;

        self.evidence = Evidence::default();
        let mut shares = self.current.shares().to_vec();
        let mut state = None;
        if let (Rung::Normal, Some(telemetry)) = (rung, &telemetry)
            && let Some(estimate) = self.estimate(telemetry, &mut decision)
        {
            let observation = self.encode(telemetry, &estimate, &mut decision);
            let action = self.act(now, telemetry, observation, &mut decision);
            let (assembled, solution) = self.optimise(&estimate, &action, now, &mut decision);
            shares = match &solution {
                Some(solution) => solution.split.shares().to_vec(),
                None => capacity_split(&self.fleet.topology, &estimate).shares().to_vec(),
            };
            self.evidence.solution = solution;
            state = Some((estimate, assembled));
        }
        let mut guarded = self.guard(now, rung, state.as_ref(), &shares, &mut decision);
        self.hold_unreached(&mut guarded, &mut decision);
        self.control(now, &guarded, &mut decision).await;
        self.learn(now, state.is_some(), &mut decision);
        decision.finish(&self.fleet.topology, &self.current, &self.plan, state.as_ref().map(|s| &s.0));
        self.evidence.guard = guarded.actions;
        self.evidence.estimate = state.map(|(estimate, _)| estimate);
        self.evidence.telemetry = telemetry;
        decision
    }

    async fn observe(&mut self, now: Timestamp, decision: &mut Decision) -> Option<Telemetry> {
        let window = Window { at: now, length: self.window() };
        match self.stages.source.collect(&self.fleet.topology, window).await {
            Ok(telemetry) => {
                decision.warnings.extend(telemetry.warnings.iter().cloned());
                Some(telemetry)
            }
            Err(error) => {
                decision.fail("observe", error.code(), &error);
                None
            }
        }
    }

    fn estimate(&mut self, telemetry: &Telemetry, decision: &mut Decision) -> Option<Estimate> {
        match self.stages.estimator.estimate(&self.fleet.topology, telemetry) {
            Ok(estimate) => Some(estimate),
            Err(error) => {
                decision.fail("estimate", error.code(), &error);
                None
            }
        }
    }

    fn encode(
        &mut self,
        telemetry: &Telemetry,
        estimate: &Estimate,
        decision: &mut Decision,
    ) -> Option<Observation> {
        self.stages.policy.as_ref()?;
        let encoder = &mut self.stages.encoder;
        match encoder.encode(&self.fleet.topology, telemetry, estimate, &self.current) {
            Ok(observation) => Some(observation),
            Err(error) => {
                decision.fail("encode", error.code(), &error);
                None
            }
        }
    }

    /// Takes the held action, or a new one when the learning step is over. Without a policy, or with one that
    /// fails, everything may move.
    fn act(
        &mut self,
        now: Timestamp,
        telemetry: &Telemetry,
        observation: Option<Observation>,
        decision: &mut Decision,
    ) -> Action {
        let groups = self.fleet.topology.groups().len();
        let everything = || Action::choose((0..groups).map(GroupIx::from).collect());
        let (Some(policy), Some(observation)) = (&mut self.stages.policy, observation) else {
            return everything();
        };
        if let Some(held) = self.held.as_ref().filter(|held| !held.is_over(now)) {
            return held.action().clone();
        }
        let action = match policy.act(&observation) {
            Ok(action) => action.clamped(&self.config.action_bounds, groups),
            Err(error) => {
                decision.fail("act", error.code(), &error);
                self.held = None;
                let freezes = policy.freezes_when_it_fails();
                return if freezes { Action::choose(Vec::new()) } else { everything() };
            }
        };
        decision.acted = true;
        if !policy.holds() {
            self.held = None;
            return action;
        }
        let length = Duration::from_secs_f64(self.config.dead_time_s + self.config.window_s);
        let next = HeldStep::new(now, length, self.window(), observation, action.clone(), telemetry.clone());
        self.begin_step(next, telemetry);
        action
    }

    fn optimise(
        &mut self,
        estimate: &Estimate,
        action: &Action,
        now: Timestamp,
        decision: &mut Decision,
    ) -> (Assembled, Option<SplitSolution>) {
        let topology = &self.fleet.topology;
        let guard = &self.config.guard;
        let elapsed = self.since_change(now);
        let assembled =
            assemble(topology, estimate, action, &self.current, guard, &self.config.assemble, elapsed);
        decision.describe_action(topology, action, &assembled);
        let asked = Instant::now();
        let answer = self.stages.solver.solve(&assembled.problem);
        self.evidence.solve_time = asked.elapsed();
        let solution = match answer {
            Ok(solution) => {
                decision.describe_solution(topology, &solution);
                Some(solution)
            }
            Err(error) => {
                decision.fail("optimise", error.code(), &error);
                None
            }
        };
        (assembled, solution)
    }

    fn guard(
        &mut self,
        now: Timestamp,
        rung: Rung,
        state: Option<&(Estimate, Assembled)>,
        shares: &[f64],
        decision: &mut Decision,
    ) -> Guarded {
        let unknown;
        let health: &[Health] = match state {
            Some((_, assembled)) => &assembled.health,
            None => {
                unknown = vec![Health::Unknown; self.fleet.topology.routes().len()];
                &unknown
            }
        };
        let context = GuardContext {
            topology: &self.fleet.topology,
            current: &self.current,
            fallback: &self.fleet.fallback,
            health,
            active: state.map_or(&[], |(_, assembled)| &assembled.active),
            estimate: state.map(|(estimate, _)| estimate),
            // Without an estimate there is nothing to act on, whatever the age of the metrics.
            rung: if state.is_none() && rung == Rung::Normal { Rung::Hold } else { rung },
            elapsed: self.since_change(now),
        };
        let guarded = self.guard.constrain(&context, shares);
        decision.describe_guard(&self.fleet.topology, &guarded.actions);
        guarded
    }

    /// Quantises and pushes, unless nothing worth a push changed or nothing may be pushed.
    async fn control(&mut self, now: Timestamp, guarded: &Guarded, decision: &mut Decision) {
        let rested = self
            .last_push
            .is_none_or(|last| now.since(last).as_secs_f64() >= self.config.min_push_interval_s * 0.999);
        let may_move = self.mode != Mode::Shadow && !self.frozen;
        decision.proposed = guarded.split.shares().to_vec();
        if let Some(untaken) = self.untaken.take() {
            return self.offer(untaken, now, decision).await;
        }
        if may_move && rested && self.is_worth_a_push(&guarded.split) {
            let plan = weigh(&guarded.split, self.config.weight_total).and_then(|weights| {
                let plan = TrafficPlan::from_weights(&self.fleet.topology, &self.fleet.services, &weights)?;
                Ok((plan, Some(weights.shares()?)))
            });
            match plan {
                Ok(offer) if offer.0.version() != self.plan.version() => {
                    return self.offer(offer, now, decision).await;
                }
                Ok(_) => {}
                Err(error) => decision.fail("quantise", error.code(), &error),
            }
        }
        if self.unsent {
            self.offer((self.plan.clone(), None), now, decision).await;
        }
    }

    /// Offers a plan to the actuator. A plan that cannot be expressed changes nothing: what was sent before stays
    /// the truth. One that a node group refuses is in force for all others. Of one that the actuator failed to take
    /// nobody knows whether it is in force: it is offered again at every tick until it is taken, and nothing else moves
    /// meanwhile, so that either way traffic is one step at most from what is known.
    async fn offer(&mut self, (plan, split): Offer, now: Timestamp, decision: &mut Decision) {
        let outcome = self.stages.actuator.apply(&plan).await;
        if let Err(error) = &outcome {
            decision.fail("control", error.code(), error);
            if matches!(error, ActuateError::Compile { .. }) {
                self.unsent = false;
                return;
            }
            if error.is_transient() {
                self.unsent = true;
                self.untaken = Some((plan, split));
                return;
            }
        }
        if let Some(split) = split {
            decision.churn = split.churn(&self.current);
            self.current = split;
            self.current_since = Some(now);
        }
        self.plan = plan;
        self.unsent = false;
        self.last_push = Some(now);
        decision.pushed = true;
        if let Some(held) = &mut self.held {
            held.sent(self.plan.version().clone(), now);
        }
    }

    /// Whether some share moved by more than the dead band, which shrinks with the even share where there are
    /// many routes; leaving zero always counts.
    fn is_worth_a_push(&self, split: &Split) -> bool {
        (0..split.flows()).map(FlowIx::from).any(|flow| {
            let (new, old) = (split.row(flow), self.current.row(flow));
            let band = self.config.dead_band * (10.0 / new.len() as f64).min(1.0);
            new.iter().zip(old).any(|(a, b)| (a - b).abs() > band || (*a > 0.0 && *b == 0.0))
        })
    }

    /// Whatever happened lies in the future now: it counts as having happened just now, so that control goes on.
    fn clock_went_back(&mut self, now: Timestamp) {
        self.last_push = self.last_push.map(|at| at.min(now));
        self.current_since = self.current_since.map(|at| at.min(now));
        self.held = None;
    }

    /// Holds the rows of node groups in which nobody is connected, and all rows while the actuator owes a success: a row
    /// that ran ahead of its data planes would reach them in one jump when they come back, and is not what traffic
    /// does meanwhile.
    fn hold_unreached(&self, guarded: &mut Guarded, decision: &mut Decision) {
        let topology = &self.fleet.topology;
        let mut shares = guarded.split.shares().to_vec();
        for (ix, flow) in topology.flows().iter().enumerate() {
            let is_reached =
                self.untaken.is_none() && self.stages.actuator.is_connected(&NodeGroup(flow.source.clone()));
            if !is_reached {
                let range = topology.route_range(FlowIx::from(ix));
                shares[range.clone()].copy_from_slice(&self.current.shares()[range]);
                decision.held_flows.push(flow.name.clone());
            }
        }
        if decision.held_flows.is_empty() {
            return;
        }
        // Rows of valid splits make a valid split; should they ever not, what is in force is safe.
        let offsets = self.current.offsets().to_vec();
        guarded.split =
            Split::new(self.current.generation(), offsets, shares).unwrap_or_else(|_| self.current.clone());
    }

    /// Time since the split in force was decided, for the step limit.
    fn since_change(&self, now: Timestamp) -> Duration {
        let limit = Duration::from_secs_f64(self.config.guard.max_elapsed_s);
        self.current_since.map_or(limit, |since| now.since(since)).min(limit)
    }
}
