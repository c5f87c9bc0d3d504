import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import traflux, { Engine, Request, TrafluxError, solveEndpoints } from 'traflux';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc');
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

test('who asks after others were told gets what came meanwhile', { timeout: 5_000 }, async () => {
  const engine = new Engine(one);
  const first = engine.decide({});
  const [early, late] = [engine.decide({}), engine.decide({})];
  // Nobody asks for the early one yet when the place goes to it; the late one has asked.
  const told = late.ready();
  first.finish();
  const forward = await early.ready();
  assert.equal(forward.kind, 'forward');
  forward.finish();
  (await told).finish();
  assert.equal(engine.open, 0);
});

test('who gives up what came meanwhile gives its place to the next', { timeout: 5_000 }, async () => {
  const engine = new Engine(one);
  const first = engine.decide({});
  const [early, late] = [engine.decide({}), engine.decide({})];
  const told = late.ready();
  first.finish();
  early.cancel();
  (await told).finish();
  assert.equal(engine.open, 0);
  assert.equal(engine.takeReady(), null);
});

test('who waits for what takeReady gave away is told so', { timeout: 5_000 }, async () => {
  const engine = new Engine(one);
  const first = engine.decide({});
  const wait = engine.decide({});
  first.finish();
  const { ticket, decision } = engine.takeReady();
  assert.equal(ticket, wait.ticket);
  await assert.rejects(wait.ready(), { code: 'input_ended' });
  decision.finish();
  assert.equal(engine.open, 0);
});

test('what is undefined or null is not given, and then the body says', () => {
  const limited = { ...plan, limits: [{ name: 'tpm', unit: 'tokens', amount: 1000, period_ms: 3_600_000 }] };
  const body = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'word '.repeat(600) }], max_tokens: 10 });
  for (const fields of [{}, { inputTokens: undefined, model: undefined }, { inputTokens: null, outputTokens: null, stream: null, prompt: undefined }]) {
    const engine = new Engine(limited);
    // More than 500 tokens and less than 1000: one fits, two do not.
    assert.deepEqual([0, 1].map(() => engine.decide({ body, ...fields }).kind), ['forward', 'refuse'], JSON.stringify(fields));
    assert.equal(engine.decide(new Request({ body, ...fields })).kind, 'refuse');
    assert.match(String(new Request({ body, ...fields }).prompt), /word word/);
  }
  assert.equal(new Engine(limited).decide({ body, inputTokens: 1 }).kind, 'forward');
  assert.equal(String(new Request({ body, prompt: 'mine' }).prompt), 'mine');
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

test('texts of all kinds arrive whole', () => {
  const long = 'ü'.repeat(5_000);
  const engine = new Engine({
    routing: { rules: [
      { name: 'short', match: { path: '/grüße' }, route: { backend: 'a' } },
      { name: 'long', match: { path: `/${long}` }, route: { backend: 'b' } },
      { name: 'by header', match: { headers: { 'x-place': 'Zürich' } }, route: { backend: 'c' } },
    ] },
  });
  const rule = (fields) => { const forward = engine.decide(fields); const { rule: name } = forward; forward.finish(); return name; };
  for (const made of [(fields) => fields, (fields) => new Request(fields)]) {
    assert.equal(rule(made({ path: '/grüße' })), 'short');
    assert.equal(rule(made({ path: `/${long}`, tenant: long })), 'long');
    assert.equal(rule(made({ headers: { accept: 'x'.repeat(20_000), 'x-place': 'Zürich' }, claims: { team: 'a' } })), 'by header');
  }
});

test('what is lost is given back with those decided around it', async () => {
  const engine = new Engine(plan);
  const kept = engine.decide({});
  const lose = (times) => { for (let n = 0; n < times; n += 1) engine.decide({}); };
  // Fewer than a group has: they live as long as the one that is kept.
  lose(10);
  const collected = async () => { for (let n = 0; n < 5; n += 1) { gc(); await new Promise(setImmediate); } };
  await collected();
  assert.equal(engine.open, 11);
  kept.finish();
  assert.equal(engine.open, 10);
});

test('what has the wrong form is refused', () => {
  const engine = new Engine(plan);
  assert.throws(() => engine.decide({ modle: 'm' }), { code: 'input_key' });
  assert.throws(() => engine.decide({ inputTokens: -1 }), { code: 'input_count' });
  assert.throws(() => engine.decide({ inputTokens: 0.5 }), { code: 'input_count' });
  assert.throws(() => engine.decide({ outputTokens: 2 ** 60 }), { code: 'input_count' });
  assert.throws(() => engine.decide({ maxAnswerTokens: '12' }), { code: 'input_type' });
  assert.throws(() => engine.decide({}, -5), { code: 'input_time' });
  assert.throws(() => engine.decide({}).finish({ outcome: 'fine' }), { code: 'input_outcome' });
  assert.throws(() => new Engine(plan, { settings: { sed: 1 } }), { code: 'input_settings' });
});

test('headers come as an object, as Headers, as a Map or as pairs', () => {
  const engine = new Engine({ routing: {
    rules: [{ name: 'zurich', match: { headers: { 'x-place': 'Z' } }, route: { backend: 'a' } }], default: { backend: 'b' },
  } });
  const pairs = [['accept', 'x'], ['x-place', 'Z']];
  const forms = [Object.fromEntries(pairs), { 'x-place': ['Z', 'Y'] }, Object.assign(Object.create(null), { 'x-place': 'Z' }), new Headers(pairs), new Map(pairs), pairs];
  for (const headers of forms) {
    for (const given of [{ headers }, new Request({ headers })]) {
      const forward = engine.decide(given);
      assert.equal(forward.rule, 'zurich');
      forward.finish({ headers });
    }
  }
  class Kept { #of = new Map(pairs); get(name) { return this.#of.get(name); } }
  for (const headers of [['accept', 'x', 'x-place', 'Z'], new Set(['x-place']), 'x-place: Z', 7, new Kept(), { 'x-place': { value: 'Z' } }, [[1, 'Z']]]) {
    assert.throws(() => engine.decide({ headers }), { name: 'InputError', code: 'input_pairs' });
    assert.throws(() => engine.decide({ claims: headers }), { name: 'InputError', code: 'input_pairs' });
    const forward = engine.decide({});
    assert.throws(() => forward.finish({ headers }), { name: 'InputError', code: 'input_pairs' });
    forward.finish();
  }
  assert.equal(engine.open, 0);
});

test('headers of an answer are read whatever their form', () => {
  // Where the answer asks to come back later, the next request goes to the fallback.
  const second = (headers) => {
    const engine = new Engine({ routing: { default: { backend: 'a', fallback: 'b' } } }, { now: 1e6 });
    engine.decide({}, 1e6).finish({ outcome: 429, headers }, 1e6);
    const forward = engine.decide({}, 1e6 + 20_000);
    const { backend } = forward;
    forward.cancel();
    return backend;
  };
  const pairs = [['content-type', 'text/plain'], ['retry-after', '30']];
  assert.equal(second(undefined), 'a');
  for (const headers of [Object.fromEntries(pairs), new Headers(pairs), new Map(pairs), pairs]) assert.equal(second(headers), 'b');
});

test('weights are integers for backends of a rule', () => {
  const engine = new Engine({ routing: { rules: [{ name: 'all', route: { backend: ['near', 'far'] } }] } }, { settings: { seed: 1 } });
  const shares = () => [...engine.metrics().matchAll(/plan_share_ratio\{rule="all",backend="(\w+)"\} ([\d.]+)/g)].map(([, name, share]) => [name, Number(share)]);
  const before = shares();
  assert.equal(before.length, 2);
  for (const weight of [-1, 0.9, NaN, Infinity, 2 ** 32]) {
    assert.throws(() => engine.setWeights('all', { near: weight, far: 1 }), { name: 'InputError', code: 'input_count' });
  }
  assert.throws(() => engine.setWeights('al', { near: 1 }), { name: 'GatewayError', code: 'gateway_setting' });
  assert.throws(() => engine.setWeights('all', { nera: 1 }), { name: 'GatewayError', code: 'gateway_setting' });
  assert.deepEqual(shares(), before);
  engine.setWeights('all', { near: 9000, far: 1000 });
  assert.deepEqual(Object.fromEntries(shares()), { near: 0.9, far: 0.1 });
});

test('NaN is an error, not what was not given', () => {
  const engine = new Engine(plan);
  for (const fields of [{ maxAnswerTokens: NaN }, { deadline: NaN }, { inputTokens: NaN }]) assert.throws(() => engine.decide(fields), { code: 'input_number' });
  const forward = engine.decide({});
  assert.throws(() => forward.finish({ outputTokens: NaN }), { code: 'input_number' });
  forward.finish();
  assert.throws(() => new Engine({ ...plan, limits: [{ name: 'tpm', unit: 'tokens', amount: NaN, period_ms: 1000 }] }), { code: 'input_number' });
  assert.throws(() => new Engine(plan, { settings: { seed: Infinity } }), { code: 'input_number' });
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
