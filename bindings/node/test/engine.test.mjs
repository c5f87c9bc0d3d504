import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import traflux, { Engine, Request, TrafluxError, solveEndpoints } from 'traflux';

const require = createRequire(import.meta.url);
const plan = { routing: { default: { backend: ['a', 'b'] } } };
const one = { routing: { default: { backend: 'a' } }, congestion: { concurrency: { algorithm: { kind: 'fixed' }, initial: 1, min: 1, max: 1 } } };

test('CommonJS and ESM are the same', () => {
  assert.equal(require('traflux'), traflux);
});

test('a decision ends once', () => {
  const forward = new Engine(plan).decide({});
  forward.finish();
  assert.throws(() => forward.finish(), { code: 'input_ended', isTransient: false });
  assert.throws(() => forward.cancel(), TrafluxError);
});

test('who waits is told by a promise', async () => {
  const engine = new Engine(one);
  const first = engine.decide({});
  const wait = engine.decide({});
  assert.equal(wait.kind, 'wait');
  const ready = wait.ready();
  first.finish();
  const forward = await ready;
  assert.equal(forward.kind, 'forward');
  forward.finish();
  assert.equal(engine.open, 0);
});

test('who gives up waiting leaves the queue', async () => {
  const engine = new Engine(one);
  const first = engine.decide({});
  const gone = new AbortController();
  const ready = engine.decide({}).ready(gone.signal);
  gone.abort();
  await assert.rejects(ready, { name: 'AbortError' });
  first.finish();
  assert.equal(engine.open, 0);
});

test('a NUL in a text is an error and moves no other field', () => {
  const engine = new Engine(plan);
  for (const fields of [{ path: '/a\0b' }, { kind: 'a\0b' }, { headers: { a: 'b\0c' } }, { path: '/\0', headers: { a: 'b' } }]) {
    assert.throws(() => engine.decide(fields), { code: 'input_text' });
  }
});

test('what has the wrong form is refused', () => {
  const engine = new Engine(plan);
  assert.throws(() => engine.decide({ modle: 'm' }), { code: 'input_key' });
  assert.throws(() => engine.decide({ inputTokens: -1 }), { code: 'input_count' });
  assert.throws(() => engine.decide({}, -5), { code: 'input_time' });
  assert.throws(() => engine.decide({}).finish({ outcome: 'fine' }), { code: 'input_outcome' });
  assert.throws(() => new Engine(plan, { settings: { sed: 1 } }), { code: 'input_settings' });
});

test('a panic in Rust is an error with a code', () => {
  const { native, guarded } = require(join(dirname(require.resolve('traflux')), 'lib/native.js'));
  assert.throws(() => guarded(() => native.panicForTests('broken')), { code: 'internal_panic', message: 'broken' });
});

test('a solver that is aborted rejects at once', async () => {
  const problem = { demandRps: [1], capacityRps: [9], delayS: [[0]] };
  await assert.rejects(solveEndpoints(problem, { signal: AbortSignal.abort() }), { name: 'AbortError' });
});

test('metrics, explanation and plan are there', () => {
  const engine = new Engine(plan);
  engine.decideMany([{}, new Request({ path: '/x' })]).forEach((forward) => forward.finish({ outcome: 200 }));
  assert.match(engine.metrics(), /^traflux_gateway_/m);
  assert.match(engine.explain({}), /weight 1/);
  assert.deepEqual(engine.plan.routing.default.backend.map(({ name }) => name), ['a', 'b']);
});
