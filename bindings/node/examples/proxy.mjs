// A plain proxy on node:http that asks the engine about every request: where it goes, whether it waits, what it used.
//
//   node proxy.mjs plan.yaml 8080
import { createServer, request as send } from 'node:http';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { Engine } from 'traflux';

/** A server that decides by this engine. Backends of its plan have URLs of http. */
export function proxy(engine) {
  return createServer(async (incoming, outgoing) => {
    const gone = new AbortController();
    outgoing.on('close', () => gone.abort());
    let forward;
    try {
      const [path, query = ''] = incoming.url.split('?');
      const { method, headers } = incoming;
      let decision = engine.decide({ method, path, query, headers, tenant: headers['x-tenant'] ?? '' });
      while (decision.kind === 'wait' || decision.kind === 'later') {
        if (decision.kind === 'wait') {
          decision = await decision.ready(gone.signal);
        } else {
          const turn = decision;
          await sleep(turn.dueInMs(), undefined, { signal: gone.signal }).catch((error) => { turn.cancel(); throw error; });
          decision = turn.goOn();
        }
      }
      if (decision.kind === 'refuse') {
        const after = decision.retryAfterMs === null ? {} : { 'retry-after': String(Math.ceil(decision.retryAfterMs / 1e3)) };
        outgoing.writeHead(decision.status, { 'content-type': 'application/json', ...after });
        outgoing.end(JSON.stringify({ error: { code: decision.reason, message: decision.message } }));
        return;
      }
      forward = decision;
      await pass(forward, incoming, outgoing, gone.signal);
    } catch (error) {
      if (forward && !forward.ended) forward.finish({ outcome: gone.signal.aborted ? 'cancelled' : error.syscall === 'connect' ? 'connect_failure' : 'reset' });
      if (outgoing.headersSent) outgoing.destroy();
      else outgoing.writeHead(502).end();
    }
  });
}

function pass(forward, incoming, outgoing, signal) {
  return new Promise((resolve, reject) => {
    // Only path and query are the client's: `//elsewhere/` as a relative URL would name another host.
    const url = new URL(forward.url);
    const query = incoming.url.indexOf('?');
    url.pathname = query < 0 ? incoming.url : incoming.url.slice(0, query);
    url.search = query < 0 ? '' : incoming.url.slice(query);
    const { connection, ...headers } = incoming.headers;
    const upstream = send(url, { method: incoming.method, headers: { ...headers, host: url.host }, signal }, (answer) => {
      forward.firstByte();
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.on('error', reject);
      answer.on('end', () => {
        forward.finish({ outcome: answer.statusCode, headers: answer.headers });
        resolve();
      });
      answer.pipe(outgoing);
    });
    upstream.on('error', reject);
    incoming.pipe(upstream);
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [plan, port] = process.argv.slice(2);
  proxy(new Engine(readFileSync(plan, 'utf8'))).listen(Number(port), '127.0.0.1');
}
