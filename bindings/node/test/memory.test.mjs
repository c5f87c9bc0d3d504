// A million calls leave memory as it was.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Engine, solveEndpoints } from 'traflux';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc');

test('a million decisions leave memory flat', { timeout: 120_000 }, async () => {
  // Room for what is lost until it is found.
  const concurrency = { algorithm: { kind: 'fixed' }, initial: 1_000_000, min: 1, max: 1_000_000 };
  const engine = new Engine({ routing: { default: { backend: ['a', 'b'] } }, congestion: { concurrency }, limits: [{ name: 'l', unit: 'tokens', amount: 1e12, by: 'tenant' }] });
  const request = { path: '/v1/chat', tenant: 'acme', inputTokens: 10, outputTokens: 20, headers: { accept: 'text/plain' } };
  // Apart, so that nothing here holds the last decision, and with it those of its group.
  const some = () => {
    for (let n = 0; n < 10_000; n += 1) {
      const forward = engine.decide(request);
      // One in a hundred is lost, and found by the collector.
      if (n % 100 > 0) forward.finish({ inputTokens: 10, outputTokens: 5 });
    }
  };
  const decide = async (times) => {
    for (let n = 0; n < times; n += 10_000) { some(); await new Promise(setImmediate); }
    for (let n = 0; n < 5; n += 1) { gc(); await new Promise(setImmediate); }
  };
  // Caches and the heap reach their size first.
  await decide(1_000_000);
  const before = process.memoryUsage().rss;
  await decide(1_000_000);
  const grown = (process.memoryUsage().rss - before) / 2 ** 20;
  assert.ok(grown < 8, `${grown.toFixed(1)} MiB more`);
  assert.equal(engine.open, 0, 'what was lost was cancelled');
});

test('a million linear programs leave memory flat', { timeout: 480_000 }, async () => {
  const problem = { demandRps: Float64Array.of(100), capacityRps: Float64Array.of(100, 100), delayS: { data: Float64Array.of(0.002, 0.080), shape: [1, 2] } };
  let wrong = 0;
  // As many at a time as there are threads to solve them, and some that wait.
  const solve = async (times) => {
    for (let n = 0; n < times; n += 100) {
      const solved = await Promise.all(Array.from({ length: 100 }, () => solveEndpoints(problem)));
      wrong += solved.filter(({ shares }) => Math.abs(shares.data[0] - 0.8) > 1e-6).length;
    }
    for (let n = 0; n < 5; n += 1) { gc(); await new Promise(setImmediate); }
  };
  await solve(100_000);
  const before = process.memoryUsage().rss;
  await solve(900_000);
  const grown = (process.memoryUsage().rss - before) / 2 ** 20;
  assert.ok(grown < 8, `${grown.toFixed(1)} MiB more`);
  assert.equal(wrong, 0);
});
