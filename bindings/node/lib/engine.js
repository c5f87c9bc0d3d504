'use strict';
const { native, InputError, guarded, translated, written } = require('./native.js');
const { blockOf, isGiven, numberOf, packPairs, promptOf, readied } = require('./request.js');

const OUTCOMES = new Map(native.outcomeNames().map((name, ix) => [name, -1 - ix]));
const text = (value, what) => (typeof value === 'string' ? value : written(value, what));

// Decisions are watched in groups of so many: to watch each takes longer than to make it.
const GROUP = 64;

// Gives back what decisions hold that were dropped without a word, once all of a group are.
const dropped = new FinalizationRegistry(({ core, slots }) => {
  for (const slot of slots) if (slot >= 0) native.engineDropSlot(core.id, slot);
  core.pump();
});
const abandoned = new FinalizationRegistry((id) => native.engineDrop(id));

/** What keeps the decisions of a group together until the last of them is gone. */
class Group {
  constructor(core) {
    this.slots = [];
    dropped.register(this, { core, slots: this.slots });
  }
}

function ended() {
  return new InputError('it has ended; a decision ends once', 'input_ended');
}

function outcomeOf(outcome) {
  if (outcome === undefined) return OUTCOMES.get('success');
  if (typeof outcome === 'number') {
    if (Number.isInteger(outcome) && outcome >= 100 && outcome <= 999) return outcome;
  } else if (OUTCOMES.has(outcome)) return OUTCOMES.get(outcome);
  throw new InputError(`${outcome} is neither a status nor one of ${[...OUTCOMES.keys()].join(', ')}`, 'input_outcome');
}

/** The end of an attempt as Rust takes it: what is not said is NaN. */
function endOf(end, now) {
  const headers = isGiven(end.headers) ? packPairs(end.headers, 'headers') : undefined;
  return [
    outcomeOf(end.outcome), numberOf(end.inputTokens, NaN, 'inputTokens'), numberOf(end.cachedTokens, NaN, 'cachedTokens'),
    numberOf(end.outputTokens, NaN, 'outputTokens'), now, headers?.text, headers?.count ?? 0,
  ];
}

class Held {
  constructor(engine, slot) {
    this._engine = engine;
    this._slot = slot;
    this._group = engine.group();
    this._place = this._group.slots.push(slot) - 1;
  }

  /** Whether it has ended. */
  get ended() { return this._slot < 0; }

  _owned() {
    if (this._slot < 0) throw ended();
    return this._slot;
  }

  _release() {
    const slot = this._owned();
    this._group.slots[this._place] = -1;
    this._slot = -1;
    return slot;
  }

  /** Gives back what it holds: a request that is not sent, or no longer wanted. */
  cancel() {
    const slot = this._release();
    guarded(() => native.engineDropSlot(this._engine.id, slot));
    this._engine.pump();
  }
}

class Forward extends Held {
  get kind() { return 'forward'; }
  _words() { return (this._described ??= guarded(() => this._engine.describe(this._owned()))); }
  get backend() { return this._words()[0]; }
  get url() { return this._words()[1]; }
  get rule() { return this._words()[2]; }
  get algorithm() { return this._words()[3]; }
  get attempt() { return guarded(() => native.engineAttempt(this._engine.id, this._owned())); }
  get sendAfterMs() { return guarded(() => native.engineSendAfter(this._engine.id, this._owned())); }

  firstByte(now = NaN) { guarded(() => native.engineFirstByte(this._engine.id, this._owned(), now)); }
  pause(now = NaN) { guarded(() => native.enginePause(this._engine.id, this._owned(), now)); this._engine.pump(); }
  resume() { guarded(() => native.engineResume(this._engine.id, this._owned())); }

  finish(end = {}, now = NaN) {
    const said = endOf(end, now);
    const slot = this._owned();
    guarded(() => native.engineFinish(this._engine.id, slot, ...said));
    this._release();
    this._engine.pump();
  }

  settle(end, now) { this.finish(end, now); }

  retry(end = {}, now = NaN) {
    const said = endOf(end, now);
    const slot = this._owned();
    const answer = guarded(() => native.engineRetry(this._engine.id, slot, ...said));
    this._release();
    const decision = this._engine.decision(answer);
    this._engine.pump();
    return decision;
  }
}

class Wait extends Held {
  constructor(engine, slot) {
    super(engine, slot);
    const view = guarded(() => native.engineWaitView(engine.id, slot));
    this.ticket = view.ticket;
    this.position = view.position;
    this.tokensBefore = view.tokensBefore;
    this.startsInMs = view.startsInMs ?? null;
  }

  get kind() { return 'wait'; }

  /** Leaves the queue; a decision that came meanwhile and that nobody took is given back. */
  cancel() {
    const decision = this._engine.takeLeft(this.ticket);
    super.cancel();
    if (decision !== undefined && decision.kind !== 'refuse') decision.cancel();
  }

  ready(signal) {
    if (signal?.aborted) { this.cancel(); return Promise.reject(signal.reason); }
    this._owned();
    return (this._ready ??= new Promise((resolve, reject) => {
      const core = this._engine;
      const abort = () => {
        core.waiting.delete(this.ticket);
        if (!this.ended) this.cancel();
        reject(signal.reason);
      };
      const settle = (decision) => {
        signal?.removeEventListener('abort', abort);
        if (!this.ended) guarded(() => native.engineDropSlot(core.id, this._release()));
        resolve(decision);
      };
      // It may have come while others were told.
      const left = core.takeLeft(this.ticket);
      if (left !== undefined) { settle(left); return; }
      signal?.addEventListener('abort', abort, { once: true });
      core.waiting.set(this.ticket, settle);
      core.pump();
      if (core.waiting.has(this.ticket) && !guarded(() => native.engineIsWaiting(core.id, this._slot))) {
        // `takeReady` gave it to somebody.
        core.waiting.delete(this.ticket);
        signal?.removeEventListener('abort', abort);
        guarded(() => native.engineDropSlot(core.id, this._release()));
        reject(ended());
      }
    }));
  }
}

class Later extends Held {
  get kind() { return 'later'; }
  _words() { return guarded(() => native.engineDescribeLater(this._engine.id, this._owned())).split('\0'); }
  get rule() { return this._words()[0]; }
  get limit() { return this._words()[1] || null; }
  dueInMs(now = NaN) { return guarded(() => native.engineDueIn(this._engine.id, this._owned(), now)); }

  goOn(now = NaN) {
    const answer = guarded(() => native.engineGoOn(this._engine.id, this._owned(), now));
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
  constructor(id) {
    this.id = id;
    this.waiting = new Map();
    this.left = [];
    this._words = new Map();
    // Only decisions hold their group, so that the last one can be collected like the others.
    this._group = new WeakRef(new Group(this));
    abandoned.register(this, id);
  }

  /** The group of the next decision. */
  group() {
    let group = this._group.deref();
    if (group === undefined || group.slots.length === GROUP) {
      group = new Group(this);
      this._group = new WeakRef(group);
    }
    return group;
  }

  /** Backend, URL, rule and algorithm of a forward. */
  describe(slot) {
    const number = native.engineDescribe(this.id, slot);
    let words = this._words.get(number);
    if (words === undefined) {
      words = native.engineWords(this.id, slot).split('\0');
      // As many as there are numbers of.
      if (this._words.size === 4096) this._words.clear();
      this._words.set(number, words);
    }
    return words;
  }

  decision(answer) {
    const slot = answer >>> 2;
    switch (answer & 3) {
      case 0: return new Forward(this, slot);
      case 1: return new Wait(this, slot);
      case 2: return new Later(this, slot);
      default: return new Refuse(native.engineTakeRefusal(this.id));
    }
  }

  /** The decision of a ticket that came while others were told, which then is no longer there for takeReady. */
  takeLeft(ticket) {
    const at = this.left.findIndex((one) => one.ticket === ticket);
    return at < 0 ? undefined : this.left.splice(at, 1)[0].decision;
  }

  // Hands decisions to those whose promise waits for them; the others are for takeReady.
  pump() {
    if (this.waiting.size === 0) return;
    for (let ready = native.engineTakeReady(this.id); ready; ready = native.engineTakeReady(this.id)) {
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
    this.#core = new Core(guarded(() => native.engineNew(text(plan, 'plan'), settings === undefined ? undefined : text(settings, 'settings'), now)));
    if (upkeepMs > 0) {
      const core = new WeakRef(this.#core);
      const timer = setInterval(() => {
        const alive = core.deref();
        if (!alive) { clearInterval(timer); return; }
        native.engineUpkeep(alive.id, NaN);
        alive.pump();
      }, upkeepMs);
      timer.unref();
      this.#timer = timer;
    }
  }

  decide(request = {}, now = NaN) {
    const core = this.#core;
    const ready = readied(request, core.id);
    const prompt = promptOf(ready);
    const block = blockOf(ready);
    try {
      return core.decision(prompt === undefined
        ? native.engineDecide(core.id, block, now)
        : native.engineDecidePrompt(core.id, block, now, prompt));
    } catch (error) {
      throw translated(error);
    }
  }

  decideMany(requests, now = NaN) {
    const at = Number.isNaN(now) ? native.engineNow(this.#core.id) : now;
    return Array.from(requests, (request) => this.decide(request, at));
  }

  takeReady() {
    const core = this.#core;
    const left = core.left.shift();
    if (left) return left;
    const ready = guarded(() => native.engineTakeReady(core.id));
    return ready ? { ticket: ready.ticket, decision: core.decision(ready.answer) } : null;
  }

  explain(request, now = NaN) {
    const block = blockOf(readied(request, this.#core.id));
    return guarded(() => native.engineExplain(this.#core.id, block, now));
  }

  metrics(options = {}) {
    return guarded(() => native.engineMetrics(this.#core.id, options.openmetrics ?? false, options.now ?? NaN));
  }

  reload(plan, options = {}) {
    const { settings, now = NaN } = options;
    guarded(() => native.engineReload(this.#core.id, text(plan, 'plan'), settings === undefined ? undefined : text(settings, 'settings'), now));
  }

  setWeights(rule, weights, now = NaN) {
    guarded(() => native.engineSetWeights(this.#core.id, rule, Object.keys(weights), Object.values(weights), now));
  }

  upkeep(now = NaN) {
    guarded(() => native.engineUpkeep(this.#core.id, now));
    this.#core.pump();
  }

  get plan() { return JSON.parse(guarded(() => native.enginePlan(this.#core.id))); }
  get open() { return native.engineOpen(this.#core.id); }
  now() { return native.engineNow(this.#core.id); }
  close() { clearInterval(this.#timer); }
}

module.exports = { Engine };
