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
  const front = proxy(engine, new Map([['key of t', 't'], ['key of u', 'u']]));
  const at = await listening(front);
  t.after(() => { front.close(); front.closeAllConnections(); backend.close(); backend.closeAllConnections(); engine.close(); });
  const ask = (tenant) => fetch(`${at}/x?y=1`, { headers: { authorization: `Bearer key of ${tenant}` } });
  for (const answer of [await ask('t'), await ask('t')]) {
    assert.deepEqual([answer.status, await answer.text()], [200, 'GET /x?y=1']);
  }
  const refused = await ask('t');
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get('retry-after')) > 1700);
  assert.equal((await refused.json()).error.code, 'limited');
  assert.equal((await ask('u')).status, 200);
  assert.equal((await ask('nobody')).status, 401);
  assert.equal((await fetch(at, { headers: { 'x-tenant': 't' } })).status, 401);
  assert.equal(engine.open, 0);
});

test('what a call used is settled by what its answer says', { timeout: 20_000 }, async (t) => {
  const usage = { prompt_tokens: 7, completion_tokens: 3 };
  const backend = createServer(async (incoming, outgoing) => {
    let body = '';
    for await (const chunk of incoming) body += chunk;
    const answer = { asked: JSON.parse(body).model, key: incoming.headers.authorization ?? null, usage };
    outgoing.end(incoming.url === '/stream' ? `data: {"usage": null}\n\ndata: ${JSON.stringify(answer)}\n\ndata: [DONE]\n\n` : JSON.stringify(answer));
  });
  const url = await listening(backend);
  const engine = new Engine({ backends: { a: { url } }, routing: { default: { backend: 'a' } }, limits: [{ name: 'tokens', unit: 'tokens', amount: 100, period_ms: 3_600_000 }] });
  const front = proxy(engine, new Map([['k', 't']]));
  const at = await listening(front);
  t.after(() => { front.close(); front.closeAllConnections(); backend.close(); backend.closeAllConnections(); engine.close(); });
  const headers = { authorization: 'Bearer k', 'content-type': 'application/json' };
  const body = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'hello' }], max_tokens: 50 });
  // Each reserves more than 60 of 100 tokens and uses 10: without what the answers say, the second would be refused.
  for (const path of ['/whole', '/stream', '/whole', '/stream']) {
    const answer = await fetch(at + path, { method: 'POST', headers, body });
    assert.equal(answer.status, 200);
    assert.match(await answer.text(), /"asked":"m","key":null/);
  }
  assert.equal((await fetch(at, { method: 'POST', headers, body: ' '.repeat(2 ** 20 + 1) })).status, 413);
  assert.equal(engine.open, 0);
});

test('a backend that is not there is 502', { timeout: 20_000 }, async (t) => {
  const engine = new Engine({ backends: { a: { url: 'http://127.0.0.1:1' } }, routing: { default: { backend: 'a' } } });
  const front = proxy(engine, new Map([['key of t', 't'], ['key of u', 'u']]));
  const at = await listening(front);
  t.after(() => { front.close(); front.closeAllConnections(); engine.close(); });
  assert.equal((await fetch(at, { headers: { authorization: 'Bearer key of t' } })).status, 502);
  assert.equal(engine.open, 0);
});
