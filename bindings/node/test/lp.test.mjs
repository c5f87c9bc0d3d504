// Tables have the shape that they are asked for, and what takes long ends.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { InputError, NetworkError, SolveError, TrafluxError, minMaxUtilization, solveEndpoints } from 'traflux';

const problem = { demandRps: [100, 50], capacityRps: [100, 100, 100] };
const delays = [0.002, 0.08, 0.1, 0.08, 0.002, 0.1];

test('a table of rows and one with its shape are the same', async () => {
  const rows = await solveEndpoints({ ...problem, delayS: [delays.slice(0, 3), delays.slice(3)] });
  const shaped = await solveEndpoints({ ...problem, delayS: { data: Float64Array.from(delays), shape: [2, 3] } });
  assert.deepEqual(rows.shares, shaped.shares);
  assert.deepEqual(rows.shares.shape, [2, 3]);
});

for (const [what, delayS, message] of [
  ['the other way around', { data: Float64Array.from(delays), shape: [3, 2] }, /shape \[3,2\], expected \[2,3\]/],
  ['flat', { data: Float64Array.from(delays), shape: [6] }, /shape \[6\], expected \[2,3\]/],
  ['of another size than its numbers', { data: Float64Array.from(delays), shape: [2, 2] }, /6 numbers/],
  ['without a shape', { data: Float64Array.from(delays) }, /6 numbers/],
  ['of as many rows as columns are asked for', [delays.slice(0, 2), delays.slice(2, 4), delays.slice(4)], /shape \[3,2\]/],
  ['of rows of several lengths', [delays.slice(0, 2), delays.slice(2)], /rows of 2 and 4/],
]) {
  test(`a table ${what} is refused`, async () => {
    await assert.rejects(solveEndpoints({ ...problem, delayS }), (error) => {
      assert.ok(error instanceof InputError && error instanceof TrafluxError);
      assert.equal(error.code, 'input_shape');
      assert.match(error.message, message);
      return true;
    });
  });
}

test('an objective with NaN is refused, not one without a limit', async () => {
  const delayS = [delays.slice(0, 3), delays.slice(3)];
  for (const budgetPerHour of [NaN, Infinity]) {
    await assert.rejects(solveEndpoints({ ...problem, delayS, objective: { budgetPerHour } }), { name: 'InputError', code: 'input_number' });
  }
});

test('an error has the class of its family', async () => {
  await assert.rejects(solveEndpoints({ ...problem, delayS: [[1]] }), SolveError);
  await assert.rejects(solveEndpoints({ ...problem, delayS: 7 }), { name: 'InputError', code: 'input_type' });
  await assert.rejects(minMaxUtilization({ nodes: ['a'], links: [[0, 0, 1e9]], demandsBps: [[0]] }), NetworkError);
});

test('flows end at their deadline, and by default at one', { timeout: 60_000 }, async () => {
  const count = 60;
  const nodes = Array.from({ length: count }, (_, ix) => `n${ix}`);
  const links = nodes.flatMap((_, tail) => [1, 7, 23].flatMap((step) => [[tail, (tail + step) % count, 1e9 + tail * 1e6], [(tail + step) % count, tail, 1e9]]));
  const demandsBps = nodes.map((_, row) => nodes.map((_, column) => (row === column ? 0 : 1e6 + ((row * 7 + column * 13) % 31) * 1e5)));
  const started = performance.now();
  const { status, utilization, lowerBound } = await minMaxUtilization({ nodes, links, demandsBps }, { deadlineMs: 1 });
  assert.ok(performance.now() - started < 10_000);
  assert.equal(status, 'deadline');
  assert.ok(utilization >= lowerBound);
});
