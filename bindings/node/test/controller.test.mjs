// A stage that misbehaves leaves the controller safe, and it says so.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { Controller } from 'traflux';

const config = {
  sources: [{ name: 'eu', rtt_ms: { near: 2, far: 80 } }],
  services: [{ name: 'api', endpoints: [{ name: 'near', address: '10.0.0.1:80', capacity_rps: 50 }, { name: 'far', address: '10.0.0.2:80', capacity_rps: 150 }] }],
};
const healthy = () => ({ routes: { 'eu/near': { throughputRps: 5, latencyMeanMs: 22, errorRatio: 0 }, 'eu/far': { throughputRps: 15, latencyMeanMs: 100, errorRatio: 0 } } });
const never = () => new Promise(() => {});
const START = { api: { eu: { near: 2500, far: 7500 } } };

async function ticks(stages) {
  const controller = new Controller({ config, source: healthy, stageDeadlineMs: 100, ...stages });
  await controller.tick({ now: 1_000_000 });
  return controller.tick({ now: 1_005_000 });
}

test('with healthy stages weights move', async () => {
  assert.deepEqual((await ticks({})).weights, { api: { eu: { near: 3500, far: 6500 } } });
});

for (const [how, source, code] of [
  ['throws', () => { throw new Error('no metrics'); }, 'observe_bad_answer'],
  ['hangs', never, 'observe_timeout'],
  ['answers nonsense', () => 'fine', 'observe_bad_answer'],
  ['answers a ratio of 7', () => ({ routes: { 'eu/near': { errorRatio: 7 } } }), 'observe_bad_answer'],
  ['answers NaN', () => ({ ...healthy(), routes: { ...healthy().routes, 'eu/near': { throughputRps: NaN } } }), 'observe_bad_answer'],
  ['answers an infinite number', () => ({ resources: { near: { signals: { heat: Infinity } } } }), 'observe_bad_answer'],
]) {
  test(`a source that ${how} holds`, async () => {
    const decision = await ticks({ source });
    assert.deepEqual([decision.rung, decision.weights, decision.pushed], ['hold', START, false]);
    assert.deepEqual(decision.failures.map(({ stage, code: of }) => [stage, of]), [['observe', code]]);
  });
}

for (const [how, policy] of [
  ['throws', () => { throw new Error('no idea'); }],
  ['hangs', never],
  ['answers nothing', () => undefined],
  ['names nobody', () => ['nobody']],
  ['answers what is not finite', () => ({ critical: ['near'], headroom: NaN })],
]) {
  test(`a policy that ${how} lets nothing move`, async () => {
    const decision = await ticks({ policy });
    assert.deepEqual(decision.weights, START);
    assert.deepEqual(decision.failures.map(({ stage, code }) => [stage, code]), [['act', 'policy_failed']]);
  });
}

test('a policy that hangs is late by its deadline and no more', async () => {
  const started = performance.now();
  await ticks({ policy: never });
  assert.ok(performance.now() - started < 2_000);
});

test('a configuration with NaN is refused', () => {
  const broken = structuredClone(config);
  broken.services[0].endpoints[0].capacity_rps = NaN;
  assert.throws(() => new Controller({ config: broken, source: healthy }), { name: 'InputError', code: 'input_number', message: /capacity_rps is NaN/ });
});

test('while an actuator throws the shares stay, and then move by one step', async () => {
  let down = false;
  const asked = [];
  const actuator = (plan) => {
    asked.push(plan.weights.api.eu.near);
    if (down) throw new Error('nobody listens');
  };
  const controller = new Controller({ config, source: healthy, actuator, stageDeadlineMs: 100 });
  let now = 1_000_000;
  const tick = () => controller.tick({ now: now += 5_000 });
  await tick();
  down = true;
  for (let n = 0; n < 10; n += 1) {
    const decision = await tick();
    assert.deepEqual(decision.failures.map(({ stage, code }) => [stage, code]), [['control', 'actuate_unavailable']]);
    assert.deepEqual([decision.pushed, decision.weights, Object.fromEntries(decision.flows[0].shares)], [false, START, { near: 0.25, far: 0.75 }]);
    assert.equal(decision.heldFlows.length, n === 0 ? 0 : 1);
  }
  down = false;
  const back = await tick();
  assert.deepEqual([back.pushed, back.weights], [true, { api: { eu: { near: 3500, far: 6500 } } }]);
  assert.deepEqual((await tick()).weights, { api: { eu: { near: 4500, far: 5500 } } });
  // The plan that it failed to take is the one that it is asked for, once a tick.
  assert.deepEqual(asked, [2500, ...Array(11).fill(3500), 4500]);
});

test('a call of an actuator that is late does not overlap the next one', async () => {
  const begun = [];
  const done = [];
  let release;
  const actuator = async (plan) => {
    const { near } = plan.weights.api.eu;
    begun.push(near);
    if (begun.length === 2) await new Promise((resolve) => { release = resolve; });
    done.push(near);
  };
  const controller = new Controller({ config, source: healthy, actuator, stageDeadlineMs: 100 });
  let now = 1_000_000;
  const tick = () => controller.tick({ now: now += 5_000 });
  await tick();
  const late = await tick();
  assert.match(late.failures[0].message, /within 100 ms/);
  const began = performance.now();
  for (let n = 0; n < 20; n += 1) {
    const busy = await tick();
    assert.deepEqual(busy.failures.map(({ stage, code }) => [stage, code]), [['control', 'actuate_unavailable']]);
    assert.match(busy.failures[0].message, /still busy/);
  }
  assert.ok(performance.now() - began < 1_900, 'it fails at once');
  assert.deepEqual(begun, [2500, 3500]);
  release();
  await new Promise(setImmediate);
  for (let n = 0; n < 3; n += 1) assert.deepEqual((await tick()).failures, []);
  assert.deepEqual(done, [2500, 3500, 3500, 4500, 5500], 'in the order in which they were decided');
});

test('a source that hangs is asked once, and again when it has come back', async () => {
  let asked = 0;
  let release;
  const source = () => { asked += 1; return asked === 1 ? new Promise((resolve) => { release = () => resolve(healthy()); }) : healthy(); };
  const controller = new Controller({ config, source, stageDeadlineMs: 50 });
  for (const now of [1_000_000, 1_005_000, 1_010_000]) {
    const { failures } = await controller.tick({ now });
    assert.deepEqual(failures.map(({ stage, code }) => [stage, code]), [['observe', 'observe_timeout']]);
  }
  assert.equal(asked, 1);
  release();
  await new Promise(setImmediate);
  assert.deepEqual((await controller.tick({ now: 1_015_000 })).failures, []);
});

async function paid(reward) {
  const controller = new Controller({ config, source: healthy, policy: () => ['near', 'far'], reward, stageDeadlineMs: 100 });
  for (let at = 1_000_000; at < 1_600_000; at += 5_000) {
    const decision = await controller.tick({ now: at });
    if (decision.failures.length > 0 || decision.reward !== null) return decision;
  }
  return assert.fail('no step ended');
}

test('a reward in JavaScript is paid', async () => {
  const seen = [];
  const { reward, failures } = await paid((before, after) => { seen.push(before, after); return { speed: 1, price: 0.5 }; });
  assert.deepEqual([failures, reward.total, Object.fromEntries(reward.terms)], [[], 1.5, { speed: 1, price: 0.5 }]);
  assert.equal(seen[1].routes['eu/near'].throughputRps, 5);
});

for (const [how, reward] of [
  ['throws', () => { throw new Error('no money'); }],
  ['hangs', never],
  ['is not finite', () => NaN],
  ['has a term that is not finite', () => ({ speed: Infinity })],
  ['is no number', () => 'much'],
  ['is nothing', () => undefined],
]) {
  test(`a reward that ${how} pays nothing, and weights go on`, async () => {
    const decision = await paid(reward);
    assert.deepEqual(decision.failures.map(({ stage, code }) => [stage, code]), [['reward', 'stage_failed']]);
    assert.equal(decision.rung, 'normal');
    assert.equal(decision.reward.total, 0);
  });
}

test('a stage without its method is refused at once', () => {
  for (const stages of [{ source: {} }, { source: healthy, policy: {} }, { source: healthy, reward: 7 }, { source: healthy, actuator: { apply: 'x' } }]) {
    assert.throws(() => new Controller({ config, ...stages }), { code: 'input_stage' });
  }
});

test('a tick that is aborted rejects, and the next one goes on when the stage has come back', async () => {
  let release;
  let source = () => new Promise((resolve) => { release = () => resolve(healthy()); });
  const controller = new Controller({ config, source: () => source() });
  await assert.rejects(controller.tick({ now: 1_000_000, signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' });
  source = healthy;
  release();
  await new Promise(setImmediate);
  const { rung, failures } = await controller.tick({ now: 1_005_000 });
  assert.deepEqual([rung, failures], ['normal', []]);
});

test('a tick past its deadline ends in a decision, though nothing else keeps the process alive', () => {
  const program = `
    const { Controller } = require('traflux');
    const controller = new Controller({ config: ${JSON.stringify(config)}, source: () => new Promise(() => {}), stageDeadlineMs: 60_000 });
    controller.tick({ deadlineMs: 50 }).then(({ failures }) => console.log(failures[0].message));
  `;
  const { stdout, status } = spawnSync(process.execPath, ['-e', program], { cwd: import.meta.dirname, encoding: 'utf8', timeout: 20_000 });
  assert.deepEqual([stdout.trim().split(': ').pop(), status], ['the tick was aborted', 0]);
});

test('an infinite deadline is none, and NaN is refused', async () => {
  const source = () => new Promise((resolve) => { setTimeout(() => resolve(healthy()), 50); });
  const controller = new Controller({ config, source });
  assert.deepEqual((await controller.tick({ now: 1_000_000, deadlineMs: Infinity })).failures, []);
  await assert.rejects(controller.tick({ deadlineMs: NaN }), { code: 'input_time' });
});
