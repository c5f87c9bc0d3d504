'use strict';
const { native, TrafluxError, guarded } = require('./native.js');
const { Request, packPairs } = require('./request.js');

const OUTCOMES = new Map(native.outcomeNames().map((name, ix) => [name, -1 - ix]));
const text = (value) => (typeof value === 'string' ? value : JSON.stringify(value));
const requestOf = (value) => (value instanceof Request ? value : new Request(value));

// Gives back what a decision holds that was dropped without a word.
const dropped = new FinalizationRegistry(({ engine, slot }) => {
  try { engine.native.dropSlot(slot); } catch { /* it has ended meanwhile */ }
  engine.pump();
});

function ended() {
  return new TrafluxError('it has ended; a decision ends once', 'input_ended');
}

function outcomeOf(outcome) {
  if (outcome === undefined) return OUTCOMES.get('success');
  if (typeof outcome === 'number') {
    if (Number.isInteger(outcome) && outcome >= 100 && outcome <= 999) return outcome;
  } else if (OUTCOMES.has(outcome)) return OUTCOMES.get(outcome);
  throw new TrafluxError(`${outcome} is neither a status nor one of ${[...OUTCOMES.keys()].join(', ')}`, 'input_outcome');
}

class Held {
  constructor(engine, slot) {
    this._engine = engine;
    this._slot = slot;
    dropped.register(this, { engine, slot }, this);
  }

  /** Whether it has ended. */
  get ended() { return this._slot < 0; }

  _owned() {
    if (this._slot < 0) throw ended();
    return this._slot;
  }

  _release() {
    const slot = this._owned();
    dropped.unregister(this);
    this._slot = -1;
    return slot;
  }

  /** Gives back what it holds: a request that is not sent, or no longer wanted. */
  cancel() {
    const slot = this._release();
    guarded(() => this._engine.native.dropSlot(slot));
    this._engine.pump();
  }
}

class Forward extends Held {
  get kind() { return 'forward'; }
  _words() { return (this._described ??= guarded(() => this._engine.native.describe(this._owned())).split('\0')); }
  get backend() { return this._words()[0]; }
  get url() { return this._words()[1]; }
  get rule() { return this._words()[2]; }
  get algorithm() { return this._words()[3]; }
  get attempt() { return guarded(() => this._engine.native.attempt(this._owned())); }
  get sendAfterMs() { return guarded(() => this._engine.native.sendAfter(this._owned())); }

  firstByte(now = NaN) { guarded(() => this._engine.native.firstByte(this._owned(), now)); }
  pause(now = NaN) { guarded(() => this._engine.native.pause(this._owned(), now)); this._engine.pump(); }
  resume() { guarded(() => this._engine.native.resume(this._owned())); }

  finish(end = {}, now = NaN) {
    const outcome = outcomeOf(end.outcome);
    const headers = end.headers ? packPairs(end.headers) : undefined;
    const slot = this._owned();
    const { native: inner } = this._engine;
    guarded(() => inner.finish(slot, outcome, end.inputTokens ?? NaN, end.cachedTokens ?? NaN, end.outputTokens ?? NaN,
      now, headers?.text, headers?.count ?? 0));
    this._release();
    this._engine.pump();
  }

  settle(end, now) { this.finish(end, now); }

  retry(end = {}, now = NaN) {
    const outcome = outcomeOf(end.outcome);
    const headers = end.headers ? packPairs(end.headers) : undefined;
    const slot = this._owned();
    const { native: inner } = this._engine;
    const answer = guarded(() => inner.retry(slot, outcome, end.inputTokens ?? NaN, end.cachedTokens ?? NaN,
      end.outputTokens ?? NaN, now, headers?.text, headers?.count ?? 0));
    this._release();
    const decision = this._engine.decision(answer);
    this._engine.pump();
    return decision;
  }
}

class Wait extends Held {
  constructor(engine, slot) {
    super(engine, slot);
    const view = guarded(() => engine.native.waitView(slot));
    this.ticket = view.ticket;
    this.position = view.position;
    this.tokensBefore = view.tokensBefore;
    this.startsInMs = view.startsInMs ?? null;
  }

  get kind() { return 'wait'; }

  ready(signal) {
    if (signal?.aborted) { this.cancel(); return Promise.reject(signal.reason); }
    this._owned();
    return (this._ready ??= new Promise((resolve, reject) => {
      const abort = () => {
        this._engine.waiting.delete(this.ticket);
        if (!this.ended) this.cancel();
        reject(signal.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this._engine.waiting.set(this.ticket, (decision) => {
        signal?.removeEventListener('abort', abort);
        if (!this.ended) guarded(() => this._engine.native.dropSlot(this._release()));
        resolve(decision);
      });
      this._engine.pump();
    }));
  }
}

class Later extends Held {
  get kind() { return 'later'; }
  _words() { return guarded(() => this._engine.native.describeLater(this._owned())).split('\0'); }
  get rule() { return this._words()[0]; }
  get limit() { return this._words()[1] || null; }
  dueInMs(now = NaN) { return guarded(() => this._engine.native.dueIn(this._owned(), now)); }

  goOn(now = NaN) {
    const answer = guarded(() => this._engine.native.goOn(this._owned(), now));
    this._release();
    return this._engine.decision(answer);
  }
}

class Refuse {
  constructor(view) {
    this.reason = view.reason;
    this.status = view.status;
    this.rule = view.rule ?? null;
    this.limit = view.limit ?? null;
    this.retryAfterMs = view.retryAfterMs ?? null;
    this.message = view.message;
  }

  get kind() { return 'refuse'; }
}

// What decisions share; they must not keep the engine's timer alive.
class Core {
  constructor(inner) {
    this.native = inner;
    this.waiting = new Map();
    this.left = [];
  }

  decision(answer) {
    const kind = answer % 4;
    if (kind === 0) return new Forward(this, answer / 4);
    if (kind === 3) return new Refuse(this.native.takeRefusal());
    const slot = (answer - kind) / 4;
    return kind === 1 ? new Wait(this, slot) : new Later(this, slot);
  }

  // Hands decisions to those whose promise waits for them; the others are for takeReady.
  pump() {
    if (this.waiting.size === 0) return;
    for (let ready = this.native.takeReady(); ready; ready = this.native.takeReady()) {
      const decision = this.decision(ready.answer);
      const resolve = this.waiting.get(ready.ticket);
      if (resolve) {
        this.waiting.delete(ready.ticket);
        resolve(decision);
      } else {
        this.left.push({ ticket: ready.ticket, decision });
      }
    }
  }
}

class Engine {
  #core;
  #timer;

  constructor(plan, options = {}) {
    const { now = NaN, settings, upkeepMs = Number.isNaN(now) ? 250 : 0 } = options;
    const inner = guarded(() => new native.NativeEngine(text(plan), settings === undefined ? undefined : text(settings), now));
    this.#core = new Core(inner);
    if (upkeepMs > 0) {
      const core = new WeakRef(this.#core);
      const timer = setInterval(() => {
        const alive = core.deref();
        if (!alive) { clearInterval(timer); return; }
        alive.native.upkeep(NaN);
        alive.pump();
      }, upkeepMs);
      timer.unref();
      this.#timer = timer;
    }
  }

  decide(request, now = NaN) {
    const r = request instanceof Request ? request : new Request(request);
    const core = this.#core;
    try {
      return core.decision(r.prompt === undefined
        ? core.native.decide(r.text, r.headers, r.claims, r.input, r.output, r.maxAnswer, r.flags, r.bytes, r.deadline, now)
        : core.native.decidePrompt(r.text, r.headers, r.claims, r.input, r.output, r.maxAnswer, r.flags, r.bytes, r.deadline, now, r.prompt));
    } catch (error) {
      return guarded(() => { throw error; });
    }
  }

  decideMany(requests, now = NaN) {
    const at = Number.isNaN(now) ? this.#core.native.now() : now;
    return Array.from(requests, (request) => this.decide(request, at));
  }

  takeReady() {
    const core = this.#core;
    const left = core.left.shift();
    if (left) return left;
    const ready = guarded(() => core.native.takeReady());
    return ready ? { ticket: ready.ticket, decision: core.decision(ready.answer) } : null;
  }

  explain(request, now = NaN) {
    const r = requestOf(request);
    return guarded(() => this.#core.native.explain(r.text, r.headers, r.claims, r.input, r.output, r.maxAnswer, r.flags, r.bytes, r.deadline, now));
  }

  metrics(options = {}) {
    return guarded(() => this.#core.native.metrics(options.openmetrics ?? false, options.now ?? NaN));
  }

  reload(plan, options = {}) {
    const { settings, now = NaN } = options;
    guarded(() => this.#core.native.reload(text(plan), settings === undefined ? undefined : text(settings), now));
  }

  setWeights(rule, weights, now = NaN) {
    guarded(() => this.#core.native.setWeights(rule, Object.keys(weights), Object.values(weights), now));
  }

  upkeep(now = NaN) {
    guarded(() => this.#core.native.upkeep(now));
    this.#core.pump();
  }

  get plan() { return JSON.parse(guarded(() => this.#core.native.plan())); }
  get open() { return this.#core.native.open(); }
  now() { return this.#core.native.now(); }
  close() { clearInterval(this.#timer); }
}

module.exports = { Engine };
