'use strict';
const { native, InputError, guarded } = require('./native.js');

const isGiven = (value) => value !== undefined && value !== null;

/** A value of a pair; `undefined` where there is none. Headers of node:http may have several, of which the first counts. */
function first(given, name, what) {
  const value = Array.isArray(given) ? given[0] : given;
  if (typeof value === 'string') return value;
  if (!isGiven(value)) return undefined;
  if (typeof value === 'number' || typeof value === 'boolean') return String(value);
  throw new InputError(`${what}: ${name} is a ${typeof value}, expected a text`, 'input_pairs');
}

/** Whether it is an object of names and values, and not one of a class that keeps them somewhere else. */
function isRecord(values) {
  if (typeof values !== 'object') return false;
  const prototype = Object.getPrototypeOf(values);
  // That of another realm is plain, too.
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}

/** Pairs as one text: an object, or what gives names with their values, such as `Headers`, a `Map` or an array of pairs. */
function packPairs(values, what) {
  let text = '';
  let count = 0;
  const wrong = () => new InputError(`${what}: neither an object of texts by name nor pairs of name and text`, 'input_pairs');
  if (typeof values[Symbol.iterator] === 'function') {
    for (const pair of values) {
      if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string') throw wrong();
      const value = first(pair[1], pair[0], what);
      if (value === undefined) continue;
      text += (count === 0 ? '' : '\0') + pair[0] + '\0' + value;
      count += 1;
    }
    return { text, count };
  }
  if (!isRecord(values)) throw wrong();
  for (const name in values) {
    const value = first(values[name], name, what);
    if (value === undefined) continue;
    text += (count === 0 ? '' : '\0') + name + '\0' + value;
    count += 1;
  }
  return { text, count };
}

const NO_PAIRS = { text: '', count: 0 };

// Compared one by one, these are found in less than half the time that a set of them takes.
function known(fields) {
  for (const name in fields) {
    switch (name) {
      case 'method': case 'host': case 'path': case 'query': case 'headers': case 'claims': case 'tenant': case 'key':
      case 'user': case 'userTier': case 'model': case 'inputTokens': case 'outputTokens': case 'maxAnswerTokens':
      case 'stream': case 'idempotent': case 'kind': case 'prompt': case 'heldBytes': case 'deadline': case 'body': break;
      default: throw new InputError(`a request has no \`${name}\``, 'input_key');
    }
  }
}

// Where the first text begins; src/request.rs has the whole form.
const HEAD = 96;
// Above it, writing in one call is faster than letter by letter.
const SHORT = 48;

function numberOf(value, otherwise, name) {
  if (typeof value === 'number') {
    // To Rust it is what was not given.
    if (Number.isNaN(value)) throw new InputError(`${name} is NaN`, 'input_number');
    return value;
  }
  if (value === undefined || value === null) return otherwise;
  throw new InputError(`${name} is a ${typeof value}, expected a number`, 'input_type');
}

/** The block of bytes that crosses the border, written anew for each request. */
class Block {
  constructor(size) {
    const buffer = new ArrayBuffer(size);
    this.bytes = Buffer.from(buffer);
    this.numbers = new Float64Array(buffer, 0, 5);
    this.words = new Uint32Array(buffer, 40, 14);
  }

  /** Writes a text at a place, and says where it ends; -1: there is no room. */
  write(value, at) {
    const text = typeof value === 'string' ? value : String(value);
    const { bytes } = this;
    const { length } = text;
    // A character is three bytes at most.
    if (at + length * 3 > bytes.length) return -1;
    if (length <= SHORT) {
      let ix = 0;
      for (; ix < length; ix += 1) {
        const letter = text.charCodeAt(ix);
        if (letter > 127) break;
        bytes[at + ix] = letter;
      }
      if (ix === length) return at + length;
    }
    return at + bytes.write(text, at);
  }

  /** Writes a request: its length; -1: there is no room. */
  pack(f) {
    const { words, numbers } = this;
    let at = HEAD;
    if ((words[3] = at = this.write(f.method ?? 'GET', at)) < 0) return -1;
    if ((words[4] = at = this.write(f.host ?? '', at)) < 0) return -1;
    if ((words[5] = at = this.write(f.path ?? '/', at)) < 0) return -1;
    if ((words[6] = at = this.write(f.query ?? '', at)) < 0) return -1;
    if ((words[7] = at = this.write(f.tenant ?? '', at)) < 0) return -1;
    if ((words[8] = at = this.write(f.key ?? '', at)) < 0) return -1;
    if ((words[9] = at = this.write(f.user ?? '', at)) < 0) return -1;
    if ((words[10] = at = this.write(f.userTier ?? '', at)) < 0) return -1;
    if ((words[11] = at = this.write(f.model ?? '', at)) < 0) return -1;
    if ((words[12] = at = this.write(f.kind ?? '', at)) < 0) return -1;
    words[1] = 0;
    words[2] = 0;
    if (isGiven(f.headers) || isGiven(f.claims)) {
      const headers = isGiven(f.headers) ? packPairs(f.headers, 'headers') : NO_PAIRS;
      const claims = isGiven(f.claims) ? packPairs(f.claims, 'claims') : NO_PAIRS;
      words[1] = headers.count;
      words[2] = claims.count;
      const between = headers.count > 0 && claims.count > 0 ? '\0' : '';
      if ((at = this.write(headers.text + between + claims.text, at)) < 0) return -1;
    }
    words[13] = at;
    numbers[0] = numberOf(f.inputTokens, 0, 'inputTokens');
    numbers[1] = numberOf(f.outputTokens, 0, 'outputTokens');
    numbers[2] = numberOf(f.maxAnswerTokens, NaN, 'maxAnswerTokens');
    numbers[3] = numberOf(f.heldBytes, 0, 'heldBytes');
    numbers[4] = numberOf(f.deadline, NaN, 'deadline');
    words[0] = (f.stream ? 1 : 0) | (f.idempotent === undefined || f.idempotent === null ? 0 : f.idempotent ? 2 : 4);
    return at;
  }
}

let block = new Block(4096);

/** Fields with what their body says of those that are not given, by the plan of an engine, where one is named;
 * `undefined` and `null` are not given. */
function complete(fields, engine) {
  known(fields);
  if (!isGiven(fields.body)) return fields;
  const all = guarded(() => native.readRequest(Buffer.from(fields.body), engine));
  for (const name in fields) if (isGiven(fields[name])) all[name] = fields[name];
  return all;
}

/** Writes complete fields where the next request will be written, too: `block.bytes` has it until then. */
function pack(fields) {
  for (;;) {
    const length = block.pack(fields);
    if (length >= 0) return length;
    block = new Block(block.bytes.length * 2);
  }
}

/** The prompt of complete fields as bytes; `undefined` where there is none. */
function promptOf({ prompt }) {
  if (prompt === undefined || prompt === null) return undefined;
  return typeof prompt === 'string' ? Buffer.from(prompt) : prompt;
}

/** A request whose fields were put together once, to be decided about as often as you like. */
class Request {
  constructor(fields = {}) {
    const all = complete(fields);
    const length = pack(all);
    this.block = Buffer.from(block.bytes.subarray(0, length));
    const prompt = promptOf(all);
    this.prompt = prompt && Buffer.from(prompt);
  }
}

/** A request, or its fields with what their body says. */
const readied = (request, engine) => (request instanceof Request ? request : complete(request, engine));

/** The block of what `readied` gave, valid until the next call. */
function blockOf(ready) {
  if (ready instanceof Request) return ready.block;
  pack(ready);
  return block.bytes;
}

module.exports = { Request, blockOf, isGiven, numberOf, packPairs, promptOf, readied };
