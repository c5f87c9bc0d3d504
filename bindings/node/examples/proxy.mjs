// A plain proxy on node:http that asks the engine about every request: where it goes, whether it waits, what it used.
//
//   API_KEYS='{"secret of acme": "acme"}' node proxy.mjs plan.yaml 8080
//
// Who sends a request is told by its key, never by what a client says of itself.
import { createServer, request as send } from 'node:http';
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';
import { Engine } from 'traflux';

/** Longest body that is read before a decision, and of an answer that is searched for what was used. */
const LONGEST = 1 << 20;

/** A server that decides by this engine, for tenants by their key. Backends of its plan have URLs of http. */
export function proxy(engine, tenants) {
  return createServer(async (incoming, outgoing) => {
    const gone = new AbortController();
    outgoing.on('close', () => gone.abort());
    let forward;
    try {
      const [path, query = ''] = incoming.url.split('?');
      const { method, headers } = incoming;
      const tenant = tenants.get(headers.authorization?.replace(/^Bearer /, ''));
      if (tenant === undefined) { outgoing.writeHead(401).end(); return; }
      const body = await whole(incoming);
      if (body === undefined) { outgoing.writeHead(413, { connection: 'close' }).end(); return; }
      const isJson = headers['content-type']?.startsWith('application/json');
      let decision = engine.decide({ method, path, query, headers, tenant, heldBytes: body.length, body: isJson ? body : undefined });
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
      await pass(forward, incoming, body, outgoing, gone.signal);
    } catch (error) {
      if (forward && !forward.ended) forward.finish({ outcome: gone.signal.aborted ? 'cancelled' : error.syscall === 'connect' ? 'connect_failure' : 'reset' });
      if (outgoing.headersSent) outgoing.destroy();
      else outgoing.writeHead(502).end();
    }
  });
}

/** The body of a request; `undefined` where it is too long. */
async function whole(incoming) {
  const chunks = [];
  let size = 0;
  for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
    size += chunk.length;
    if (size > LONGEST) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Tokens that an answer says were used, as JSON or in the last event of a stream that tells; nothing where it does not. */
function used(text) {
  const parts = text.startsWith('{') ? [text] : text.split('\n').filter((line) => line.startsWith('data: {')).map((line) => line.slice(6));
  for (const part of parts.reverse()) {
    try {
      const { usage } = JSON.parse(part);
      if (usage) return { inputTokens: usage.prompt_tokens, outputTokens: usage.completion_tokens };
    } catch {
      // Cut off, or not JSON after all.
    }
  }
  return {};
}

function pass(forward, incoming, body, outgoing, signal) {
  return new Promise((resolve, reject) => {
    // Only path and query are the client's: `//elsewhere/` as a relative URL would name another host.
    const url = new URL(forward.url);
    const query = incoming.url.indexOf('?');
    url.pathname = query < 0 ? incoming.url : incoming.url.slice(0, query);
    url.search = query < 0 ? '' : incoming.url.slice(query);
    const { connection, authorization, 'transfer-encoding': encoding, ...headers } = incoming.headers;
    if (body.length > 0) headers['content-length'] = String(body.length);
    const upstream = send(url, { method: incoming.method, headers: { ...headers, host: url.host }, signal }, (answer) => {
      forward.firstByte();
      outgoing.writeHead(answer.statusCode, answer.headers);
      let text = '';
      answer.on('data', (chunk) => { text = (text + chunk).slice(-LONGEST); });
      answer.on('error', reject);
      answer.on('end', () => {
        forward.finish({ outcome: answer.statusCode, headers: answer.headers, ...used(text) });
        resolve();
      });
      answer.pipe(outgoing);
    });
    upstream.on('error', reject);
    upstream.end(body);
  });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [plan, port] = process.argv.slice(2);
  const tenants = new Map(Object.entries(JSON.parse(process.env.API_KEYS ?? '{}')));
  proxy(new Engine(readFileSync(plan, 'utf8')), tenants).listen(Number(port), '127.0.0.1');
}
