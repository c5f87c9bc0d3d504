'use strict';
const { native, TrafluxError, guarded } = require('./native.js');

const FIELDS = new Set(['method', 'host', 'path', 'query', 'headers', 'claims', 'tenant', 'key', 'user', 'userTier',
  'model', 'inputTokens', 'outputTokens', 'maxAnswerTokens', 'stream', 'idempotent', 'kind', 'prompt', 'heldBytes',
  'deadline', 'body']);

/** Pairs as one text; headers of node:http may have several values, of which the first counts. */
function packPairs(values) {
  let text = '';
  let count = 0;
  for (const name in values) {
    let value = values[name];
    if (value === undefined) continue;
    if (Array.isArray(value)) value = value[0];
    text += (count === 0 ? '' : '\0') + name + '\0' + value;
    count += 1;
  }
  return { text, count };
}

const NONE = { text: '', count: 0 };

/** A request whose fields were put together once, to be decided about as often as you like. */
class Request {
  constructor(fields = {}) {
    for (const name in fields) {
      if (!FIELDS.has(name)) throw new TrafluxError(`a request has no \`${name}\``, 'input_key');
    }
    const { body } = fields;
    const facts = body === undefined ? {} : guarded(() => native.readRequest(Buffer.from(body)));
    const f = body === undefined ? fields : { ...facts, ...fields };
    const headers = f.headers ? packPairs(f.headers) : NONE;
    const claims = f.claims ? packPairs(f.claims) : NONE;
    let text = (f.method ?? 'GET') + '\0' + (f.host ?? '') + '\0' + (f.path ?? '/') + '\0' + (f.query ?? '') + '\0' +
      (f.tenant ?? '') + '\0' + (f.key ?? '') + '\0' + (f.user ?? '') + '\0' + (f.userTier ?? '') + '\0' +
      (f.model ?? '') + '\0' + (f.kind ?? '');
    if (headers.count > 0) text += '\0' + headers.text;
    if (claims.count > 0) text += '\0' + claims.text;
    this.text = text;
    this.headers = headers.count;
    this.claims = claims.count;
    this.input = f.inputTokens ?? 0;
    this.output = f.outputTokens ?? 0;
    this.maxAnswer = f.maxAnswerTokens ?? NaN;
    this.flags = (f.stream ? 1 : 0) | (f.idempotent === undefined ? 0 : f.idempotent ? 2 : 4);
    this.bytes = f.heldBytes ?? 0;
    this.deadline = f.deadline ?? NaN;
    this.prompt = f.prompt === undefined ? undefined : Buffer.from(f.prompt);
  }
}

module.exports = { Request, packPairs };
