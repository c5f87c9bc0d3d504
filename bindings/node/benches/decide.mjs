// What does a decision cost beside what Node programs use for parts of it? All in one process, in turns.
//
// In a folder of its own, with the package of `cargo xtask npm`:
//   npm install CHECKOUT/target/npm/traflux-*.tgz limiter@3.0.0 cockatiel@3.2.1 opossum@9.0.0
//   node --expose-gc CHECKOUT/bindings/node/benches/decide.mjs
import { createRequire } from 'node:module';

const require = createRequire(`${process.cwd()}/`);
const { Engine, Request } = require('traflux');
const optional = (name) => { try { return require(name); } catch { return null; } };
const CALLS = 200_000;
const ROUNDS = 7;

const engine = new Engine({
  routing: { rules: [{ name: 'chat', match: { path: '/v1/chat' }, route: { backend: ['east', 'west'] } }] },
  limits: [{ name: 'tokens per minute', unit: 'tokens', amount: 1e12, by: 'tenant' }],
});
const fields = { method: 'POST', path: '/v1/chat/completions', tenant: 'acme', model: '', inputTokens: 900, outputTokens: 4096 };
const prepared = new Request(fields);
const used = { inputTokens: 900, outputTokens: 120 };
const arms = {
  // The time of the decision alone; its end is told outside of it.
  'traflux decide': { batch: true, request: fields },
  'traflux decide, Request made before': { batch: true, request: prepared },
  'traflux decide, backend, finish': { call: () => { const forward = engine.decide(fields); void forward.backend; forward.finish(used); } },
};
const limiter = optional('limiter');
if (limiter) {
  const bucket = new limiter.RateLimiter({ tokensPerInterval: 1e12, interval: 'minute' });
  arms['limiter tryRemoveTokens (one limit)'] = { call: () => bucket.tryRemoveTokens(1) };
}
const cockatiel = optional('cockatiel');
if (cockatiel) {
  const policy = cockatiel.wrap(cockatiel.bulkhead(1000), cockatiel.circuitBreaker(cockatiel.handleAll, { halfOpenAfter: 1e4, breaker: new cockatiel.ConsecutiveBreaker(5) }));
  arms['cockatiel bulkhead + breaker'] = { asynchronous: () => policy.execute(() => 1) };
}
const opossum = optional('opossum');
if (opossum) {
  const breaker = new opossum(async () => 1, { timeout: false, capacity: 1000 });
  arms['opossum breaker + semaphore'] = { asynchronous: () => breaker.fire() };
}

async function measure({ batch, request, call, asynchronous }) {
  if (asynchronous) {
    const started = process.hrtime.bigint();
    for (let n = 0; n < CALLS; n += 1) await asynchronous();
    return Number(process.hrtime.bigint() - started) / CALLS;
  }
  if (!batch) {
    const started = process.hrtime.bigint();
    for (let n = 0; n < CALLS; n += 1) call();
    return Number(process.hrtime.bigint() - started) / CALLS;
  }
  // Few enough to find room, many enough that reading the clock costs nothing.
  let spent = 0n;
  const size = 16;
  const decisions = new Array(size);
  for (let n = 0; n < CALLS; n += size) {
    const started = process.hrtime.bigint();
    for (let i = 0; i < size; i += 1) decisions[i] = engine.decide(request);
    spent += process.hrtime.bigint() - started;
    for (const decision of decisions) decision.finish(used);
  }
  return Number(spent) / CALLS;
}

const times = Object.fromEntries(Object.keys(arms).map((name) => [name, []]));
const processor = Object.fromEntries(Object.keys(arms).map((name) => [name, []]));
for (let round = 0; round <= ROUNDS; round += 1) {
  for (const [name, arm] of Object.entries(arms)) {
    globalThis.gc?.();
    const before = process.cpuUsage();
    const time = await measure(arm);
    const { user, system } = process.cpuUsage(before);
    if (round === 0) continue;
    times[name].push(time);
    processor[name].push((user + system) * 1e3 / CALLS);
  }
}
const median = (all) => all.sort((a, b) => a - b)[ROUNDS >> 1].toFixed(0).padStart(6);
console.log(`node ${process.version}; ${ROUNDS} rounds: median (least to greatest); processor time of all, the end of each decision included`);
for (const [name, all] of Object.entries(times)) {
  const spent = median(processor[name]);
  console.log(`${name.padEnd(40)} ${median(all)} ns  (${all[0].toFixed(0)} to ${all.at(-1).toFixed(0)}); ${spent} ns of processor time`);
}
engine.close();
