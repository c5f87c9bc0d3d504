// A stage that misbehaves leaves the controller safe, and it says so.
import assert from 'node:assert/strict';
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
  ['answers numbers that cannot be', () => ({ routes: { 'eu/near': { throughputRps: NaN, errorRatio: 7 } } }), 'observe_bad_answer'],
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

test('an actuator that throws is reported, and asked again', async () => {
  let asked = 0;
  const decision = await ticks({ actuator: () => { asked += 1; throw new Error('nobody listens'); } });
  assert.equal(decision.failures[0].code, 'actuate_unavailable');
  // The first plan; then the second, and the second again since nobody took it.
  assert.equal(asked, 3);
});

test('an actuator that hangs is late, reported, and asked again', async () => {
  let asked = 0;
  const decision = await ticks({ actuator: () => { asked += 1; return never(); } });
  assert.deepEqual(decision.failures.map(({ stage, code }) => [stage, code]), [['control', 'actuate_unavailable'], ['control', 'actuate_unavailable']]);
  assert.match(decision.failures[0].message, /within 100 ms/);
  assert.equal(asked, 3);
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

test('a tick that is aborted rejects, and the next one goes on', async () => {
  let source = never;
  const controller = new Controller({ config, source: () => source() });
  await assert.rejects(controller.tick({ now: 1_000_000, signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' });
  source = healthy;
  assert.equal((await controller.tick({ now: 1_005_000 })).rung, 'normal');
});
