// What Rust, Python and Node must agree on; see tests/conformance/README.md.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Controller, Engine, Request, TrafluxError, minMaxUtilization, readNetwork, solveEndpoints } from 'traflux';

const folder = process.env.TRAFLUX_CONFORMANCE ?? fileURLToPath(new URL('../../../tests/conformance/', import.meta.url));
const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
const camelKeys = (object) => Object.fromEntries(Object.entries(object).map(([key, value]) => [camel(key), value]));
const rows = ({ data, shape: [, width] }) => Array.from({ length: data.length / width || 0 }, (_, row) => [...data.slice(row * width, (row + 1) * width)]);
const plain = (value) => (ArrayBuffer.isView(value) ? [...value] : value);

/** Reads every key once, so that one that nobody read is found. */
function reading(object) {
  const left = new Set(Object.keys(object));
  const take = (key) => { left.delete(key); return object[key]; };
  take.rest = () => { const rest = Object.fromEntries([...left].map((key) => [key, object[key]])); left.clear(); return rest; };
  take.done = (where) => assert.deepEqual([...left], [], `${where}: nobody read these keys`);
  return take;
}

function close(found, expected, tolerance, where) {
  found = plain(found);
  if (typeof expected === 'number') {
    assert.equal(typeof found, 'number', `${where}: ${found}`);
    assert.ok(Math.abs(found - expected) <= tolerance * Math.max(1, Math.abs(expected)), `${where}: ${found}, expected ${expected}`);
  } else if (Array.isArray(expected)) {
    assert.equal(found.length, expected.length, `${where}: length`);
    expected.forEach((one, ix) => close(found[ix], one, tolerance, `${where}[${ix}]`));
  } else if (typeof expected === 'object' && expected !== null) {
    for (const [key, one] of Object.entries(expected)) close(found[key], one, tolerance, `${where}.${key}`);
  } else {
    assert.deepEqual(found, expected, where);
  }
}

function described(decision, now) {
  const { kind } = decision;
  if (kind === 'forward') return { kind, backend: decision.backend, rule: decision.rule, url: decision.url, algorithm: decision.algorithm, attempt: decision.attempt };
  if (kind === 'wait') return { kind, position: decision.position };
  if (kind === 'later') return { kind, due_in_s: decision.dueInMs(now) / 1e3, limit: decision.limit, rule: decision.rule };
  return { kind, reason: decision.reason, status: decision.status, limit: decision.limit, rule: decision.rule, retry_after_s: decision.retryAfterMs === null ? null : decision.retryAfterMs / 1e3 };
}

/** What is known of every code: the class of its error, and who provokes it. */
const codes = JSON.parse(readFileSync(join(folder, 'codes.json'), 'utf8'));
const classOf = (code) => (code.startsWith('input_') ? 'InputError' : codes[code].class);

async function code(call) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof TrafluxError, error.stack);
    assert.equal(error.constructor.name, classOf(error.code), error.stack);
    assert.equal(error.name, error.constructor.name);
    return [error.code, error.isTransient];
  }
  return [null, null];
}

const calls = {
  async 'lp.endpoints'(input) {
    const objective = input('objective');
    const [solver, deadline] = [input('solver'), input('deadline_s')];
    const problem = { ...camelKeys(input.rest()), objective: objective && camelKeys(objective) };
    const s = await solveEndpoints(problem, { solver, deadlineMs: deadline === undefined ? undefined : deadline * 1e3 });
    return { shares: rows(s.shares), theta: s.maxUtilization, objective: s.objective, status: s.status, loads_rps: s.loadsRps, capacity_duals: s.capacityDuals, demand_duals: s.demandDuals, budget_dual: s.budgetDual };
  },
  async 'lp.min_max_utilization'(input) {
    const s = await minMaxUtilization(camelKeys(input.rest()));
    return { utilization: s.utilization, lower_bound: s.lowerBound, loads_bps: s.loadsBps, link_prices: s.linkPrices };
  },
  async 'te.read_network'(input) {
    const content = input('text') ?? Uint8Array.from(input('bytes'));
    const file = readNetwork(content, camelKeys(input.rest()));
    const { tail, head, capacityBps, weight, delayS } = file.links;
    return { nodes: file.nodes, demands_bps: file.demandsBps && rows(file.demandsBps), links: Array.from(tail, (from, ix) => [from, head[ix], capacityBps[ix], weight[ix], delayS[ix]]) };
  },
  async 'gateway.decisions'(input, tolerance) {
    const steps = input('steps');
    const engine = new Engine(input('plan'), { now: steps[0].at_s * 1e3, settings: { ...input('settings'), seed: input('seed') ?? 0 } });
    const [held, counts] = [new Map(), {}];
    const names = new Map();
    for (const [ix, step] of steps.entries()) {
      const take = reading(step);
      const now = take('at_s') * 1e3;
      let [name, decision] = [undefined, undefined];
      const end = (key) => { name = take(key); return [camelKeys({ ...take.end, ...Object.fromEntries(['outcome', 'input_tokens', 'output_tokens', 'cached_tokens', 'headers'].filter((k) => k in step).map((k) => [k, take(k)])) }), now]; };
      if ('decide' in step) {
        name = take('as');
        decision = engine.decide(camelKeys(take('decide')), now);
        if (decision.kind === 'wait') names.set(decision.ticket, name);
      } else if ('finish' in step) { const said = end('finish'); held.get(name).finish(...said); }
      else if ('retry' in step) { const said = end('retry'); decision = held.get(name).retry(...said); }
      else if ('first_byte' in step) held.get(take('first_byte')).firstByte(now);
      else if ('drop' in step) held.get(take('drop')).cancel();
      else if ('go_on' in step) { name = take('go_on'); decision = held.get(name).goOn(now); }
      else if (take('upkeep')) engine.upkeep(now);
      else if ('reload' in step) {
        const refused = take('error') ?? null;
        assert.equal((await code(() => engine.reload(take('reload'), { now })))[0], refused, `step ${ix}`);
      } else if (take('take_ready')) {
        const ready = engine.takeReady();
        name = ready ? names.get(ready.ticket) : null;
        decision = ready?.decision;
      } else assert.fail(`step ${ix} does nothing`);
      if (decision) {
        held.set(name, decision);
        if (decision.kind === 'forward') counts[decision.backend] = (counts[decision.backend] ?? 0) + 1;
      }
      const expect = take('expect');
      if (expect) close({ ...(decision && described(decision, now)), of: name }, expect, tolerance, `step ${ix}`);
      take.done(`step ${ix}`);
    }
    return { counts };
  },
  async 'gateway.plan_error'(input) { new Engine(input('plan'), { now: 0, settings: input('settings') }); },
  async 'gateway.request_error'(input) { new Request({ body: input('body') }); },
  async 'controller.ticks'(input) {
    let now;
    const ticks = input('ticks');
    const controller = new Controller({
      config: input('config'),
      source() { if (now.telemetry === null) throw new Error('nothing measured'); const { routes, resources, ...rest } = now.telemetry; return { ...rest, routes: named(routes), resources: named(resources) }; },
      policy: ticks.some((tick) => 'critical' in tick) ? () => { if (now.critical === null) throw new Error('no idea'); return now.critical; } : undefined,
    });
    const named = (values = {}) => Object.fromEntries(Object.entries(values).map(([name, one]) => [name, camelKeys(one)]));
    const seen = [];
    for (now of ticks) {
      const decision = await controller.tick({ now: now.at_s * 1e3 });
      const shares = decision.flows.flatMap((flow) => flow.shares.map(([endpoint, share]) => [`${flow.source}/${endpoint}`, share]));
      const weights = Object.assign({}, ...Object.values(decision.weights));
      seen.push({ rung: decision.rung, mode: decision.mode, solver: decision.solver?.name ?? null, chosen: decision.action?.chosen ?? null, pushed: decision.pushed, shares: Object.fromEntries(shares), weights, failures: decision.failures.map((failure) => [failure.stage, failure.code]) });
    }
    return { ticks: seen };
  },
  async 'controller.config_error'(input) { new Controller({ config: input('config'), source() {} }); },
};

const files = readdirSync(folder).filter((name) => name.endsWith('.json') && name !== 'codes.json');
assert.ok(files.length > 0, `no cases in ${folder}`);
for (const file of files) {
  for (const one of JSON.parse(readFileSync(join(folder, file), 'utf8')).cases) {
    test(`${one.call}: ${one.name}`, async () => {
      const take = reading(one);
      const call = calls[take('call')];
      assert.ok(call, `${one.call} is unknown`);
      assert.ok(take('name') && take('why'), 'a case has a name and says why');
      const input = reading(take('input'));
      const [error, transient, tolerance, expected] = [take('error'), take('transient') ?? false, take('tolerance') ?? 0, take('expected')];
      take.done(one.name);
      if (error) {
        assert.deepEqual(await code(() => call(input, tolerance)), [error, transient]);
      } else {
        assert.ok(expected || one.input.steps, 'a case expects something');
        const found = await call(input, tolerance);
        if (expected) close(found, expected, tolerance, 'expected');
      }
      input.done('input');
    });
  }
}
