import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { once } from 'node:events';
import { test } from 'node:test';
import { Engine } from 'traflux';
import { proxy } from '../examples/proxy.mjs';

async function listening(server) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${server.address().port}`;
}

test('the example passes requests on, refuses beyond the limit and holds nothing afterwards', { timeout: 20_000 }, async (t) => {
  const backend = createServer((incoming, outgoing) => outgoing.end(`${incoming.method} ${incoming.url}`));
  const url = await listening(backend);
  const engine = new Engine({
    backends: { a: { url } }, routing: { default: { backend: 'a' } },
    limits: [{ name: 'per hour', unit: 'requests', amount: 2, period_ms: 3_600_000, by: 'tenant' }],
  });
  const front = proxy(engine);
  const at = await listening(front);
  t.after(() => { front.close(); front.closeAllConnections(); backend.close(); backend.closeAllConnections(); engine.close(); });
  const ask = (tenant) => fetch(`${at}/x?y=1`, { headers: { 'x-tenant': tenant } });
  for (const answer of [await ask('t'), await ask('t')]) {
    assert.deepEqual([answer.status, await answer.text()], [200, 'GET /x?y=1']);
  }
  const refused = await ask('t');
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get('retry-after')) > 1700);
  assert.equal((await refused.json()).error.code, 'limited');
  assert.equal((await ask('u')).status, 200);
  assert.equal(engine.open, 0);
});

test('a backend that is not there is 502', { timeout: 20_000 }, async (t) => {
  const engine = new Engine({ backends: { a: { url: 'http://127.0.0.1:1' } }, routing: { default: { backend: 'a' } } });
  const front = proxy(engine);
  const at = await listening(front);
  t.after(() => { front.close(); front.closeAllConnections(); engine.close(); });
  assert.equal((await fetch(at)).status, 502);
  assert.equal(engine.open, 0);
});
