'use strict';
// Loads the library of this platform, and makes a TrafluxError of what goes wrong in it.

const musl = process.platform === 'linux' && !process.report?.getReport().header.glibcVersionRuntime;
const platform = `${process.platform}-${process.arch}${musl ? '-musl' : ''}`;

let native;
try {
  native = require(`../traflux.${platform}.node`);
} catch (cause) {
  if (cause.code !== 'MODULE_NOT_FOUND') throw cause;
  throw new Error(`traflux has no library for ${platform}`, { cause });
}

/** What goes wrong in Traflux. */
class TrafluxError extends Error {
  /**
   * @param {string} message
   * @param {string} code stable name, the same in every language
   * @param {boolean} isTransient whether the same call may succeed later with nothing changed here
   */
  constructor(message, code = 'traflux', isTransient = false) {
    super(message);
    this.name = new.target.name;
    this.code = code;
    this.isTransient = isTransient;
  }
}

/** By name, what goes wrong in classes that a caller can act on; the same as in Python. */
const errors = Object.fromEntries([
  'InputError', 'ConfigError', 'TopologyError', 'PlanError', 'NetworkError', 'PolicyError', 'SolveError', 'StoreError', 'GatewayError', 'InternalPanic',
].map((name) => [name, { [name]: class extends TrafluxError {} }[name]]));
const { InputError } = errors;

const MARK = 'traflux\u0001';

/** An error of the library as people get it; one of napi is about a value of the wrong type. */
function translated(error) {
  if (error instanceof TrafluxError || !(error instanceof Error)) return error;
  if (!error.message.startsWith(MARK)) {
    return error.code && error.code !== 'GenericFailure' ? new InputError(error.message, 'input_type') : error;
  }
  const [, name, code, isTransient, ...message] = error.message.split('\u0001');
  return new (errors[name] ?? TrafluxError)(message.join('\u0001'), code, isTransient === '1');
}

/** Calls, and translates what is thrown. */
function guarded(call) {
  try {
    return call();
  } catch (error) {
    throw translated(error);
  }
}

/** The same for what takes longer than a millisecond; a signal that is aborted rejects at once. */
function promised(call, signal) {
  if (signal?.aborted) return Promise.reject(signal.reason);
  let promise;
  try {
    promise = call();
  } catch (error) {
    return Promise.reject(translated(error));
  }
  if (!signal) return promise.catch((error) => { throw translated(error); });
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise
      .then(resolve, (error) => reject(translated(error)))
      .finally(() => signal.removeEventListener('abort', abort));
  });
}

/** JSON of what people gave. JSON makes `null`, which is "nothing given", of numbers that it has no name for; here they are errors. */
function written(given, what) {
  return JSON.stringify(given, (key, value) => {
    if (typeof value === 'number' && !Number.isFinite(value)) throw new InputError(`${what}: ${key || 'it'} is ${value}, expected a finite number`, 'input_number');
    return value;
  });
}

module.exports = { native, TrafluxError, InputError, errors, guarded, promised, translated, written };
