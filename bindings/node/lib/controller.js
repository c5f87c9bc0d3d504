'use strict';
const { native, InputError, errors, guarded, written } = require('./native.js');

const snake = (name) => name.replace(/[A-Z]/g, (letter) => '_' + letter.toLowerCase());
const camel = (name) => name.replace(/_([a-z0-9])/g, (_, letter) => letter.toUpperCase());

/** Keys of what was measured, by name of a route or a resource; names and signals stay as they are. */
function measured(values, rename) {
  const keys = ([key, value]) => [rename(key), value];
  return Object.fromEntries(Object.entries(values ?? {}).map(([name, one]) => [name, Object.fromEntries(Object.entries(one).map(keys))]));
}

function telemetry(given, rename) {
  if (typeof given !== 'object' || given === null) throw new TypeError(`telemetry is ${given === null ? 'null' : typeof given}`);
  const { routes, resources, ...rest } = given;
  return { routes: measured(routes, rename), resources: measured(resources, rename), ...rest };
}

/** Keys of a decision in camelCase; weights are by name. */
function view(value) {
  if (Array.isArray(value)) return value.map(view);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [camel(key), key === 'weights' ? one : view(one)]));
}

function finite(value, what) {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new TypeError(`${what} is ${value}`);
  return value;
}

const reader = {
  source: (given) => telemetry(given, snake),
  policy(given) {
    const chosen = Array.isArray(given) ? { critical: given } : given;
    if (typeof chosen !== 'object' || chosen === null) throw new TypeError(`an action is ${given}`);
    if (chosen.headroom !== undefined) finite(chosen.headroom, 'headroom');
    for (const [name, value] of Object.entries(chosen.costMultipliers ?? {})) finite(value, `the multiplier of ${name}`);
    return chosen;
  },
  reward(given) {
    const terms = typeof given === 'number' ? { reward: given } : given;
    if (typeof terms !== 'object' || terms === null) throw new TypeError(`a reward is ${given}`);
    for (const [name, value] of Object.entries(terms)) finite(value, name);
    return terms;
  },
  actuator: () => null,
};

const LONGEST_MS = 2 ** 31 - 1;

class Controller {
  #native;
  #stages;
  #ticks = new Map();
  #last = 0;
  #tail = Promise.resolve();
  #stageDeadlineMs;

  constructor({ config, source, policy, reward, actuator, stageDeadlineMs = 1000 }) {
    const bound = (what, stage, method) => {
      if (typeof stage === 'function') return stage;
      if (typeof stage?.[method] === 'function') return stage[method].bind(stage);
      if (stage === undefined && what !== 'source') return undefined;
      throw new InputError(`${what} is neither a function nor an object with ${method}`, 'input_stage');
    };
    this.#stages = {
      source: bound('source', source, 'collect'), policy: bound('policy', policy, 'act'),
      reward: bound('reward', reward, 'reward'), actuator: bound('actuator', actuator, 'apply'),
    };
    this.#stageDeadlineMs = stageDeadlineMs;
    const self = new WeakRef(this);
    const ask = (number, what, payload) => self.deref()?.#asked(number, what, payload);
    this.#native = guarded(() => new native.NativeController(
      typeof config === 'string' ? config : written(config, 'config'),
      { policy: policy !== undefined, reward: reward !== undefined, actuator: actuator !== undefined, deadlineMs: stageDeadlineMs },
      ask,
    ));
  }

  async #asked(number, what, payload) {
    if (what === 'done' || what === 'failed') {
      const tick = this.#ticks.get(number);
      this.#ticks.delete(number);
      if (what === 'done') tick?.resolve(view(JSON.parse(payload)));
      else tick?.reject(new errors.InternalPanic(payload, 'internal_panic'));
      return;
    }
    try {
      const given = await this.#stages[what](...this.#arguments(what, JSON.parse(payload)));
      this.#native.answer(number, written(reader[what](given), `the answer of ${what}`), undefined);
    } catch (error) {
      this.#native.answer(number, undefined, String(error?.message ?? error));
    }
  }

  #arguments(what, given) {
    if (what === 'policy') {
      const { values, context, features, groups, mask } = given;
      return [{ names: groups, mask, groups: { data: Float32Array.from(values), shape: [groups.length, features] }, context: { data: Float32Array.from(context), shape: [context.length] } }];
    }
    if (what === 'reward') return [telemetry(given.before, camel), telemetry(given.after, camel)];
    return [given];
  }

  tick(options = {}) {
    const run = () => this.#tick(options);
    // One after another: a tick goes on from the one before.
    const ticked = this.#tail.then(run);
    this.#tail = ticked.then(() => undefined, () => undefined);
    return ticked;
  }

  #tick({ now = NaN, signal, deadlineMs = 30_000 }) {
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (typeof deadlineMs !== 'number' || Number.isNaN(deadlineMs)) return Promise.reject(new InputError(`deadlineMs is ${deadlineMs}`, 'input_time'));
    return new Promise((resolve, reject) => {
      const number = ++this.#last;
      // A timer of more than 2³¹ − 1 ms fires at once.
      const timer = deadlineMs <= LONGEST_MS ? setTimeout(() => this.#native.abort(), deadlineMs) : undefined;
      // Keeps the process alive until the tick has ended; the timer does so no longer once it has fired.
      const alive = setInterval(() => {}, LONGEST_MS);
      const abort = () => { this.#native.abort(); reject(signal.reason); };
      const settle = (end) => (value) => {
        clearTimeout(timer);
        clearInterval(alive);
        signal?.removeEventListener('abort', abort);
        end(value);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#ticks.set(number, { resolve: settle(resolve), reject: settle(reject) });
      try {
        guarded(() => this.#native.tick(number, now));
      } catch (error) {
        this.#ticks.delete(number);
        settle(reject)(error);
      }
    });
  }
}

module.exports = { Controller };
