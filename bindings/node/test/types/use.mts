// What programs write: the types let it pass, and nothing else. Checked by `tsc --strict`, never run.
import traflux, {
  Controller, Engine, InputError, Request, SolveError, TrafluxError, minMaxUtilization, readNetwork, solveEndpoints, solvers,
  type Action, type Decision, type EndpointSolution, type Forward, type Observation, type Refuse, type Telemetry,
} from 'traflux';

// The engine.
const engine = new Engine({ routing: {} }, { now: 0, settings: { seed: 7 }, upkeepMs: 0 });
const other: Engine = new traflux.Engine('routing: {}');
const decision: Decision = engine.decide(new Request({ path: '/', body: new Uint8Array() }), 1_000);
switch (decision.kind) {
  case 'forward': {
    const forward: Forward = decision;
    const again: Decision = forward.retry({ outcome: 502, headers: { 'retry-after': '1', 'set-cookie': ['a', 'b'] } });
    forward.finish({ outcome: 'timeout', inputTokens: 1, cachedTokens: 0, outputTokens: 2 }, 2_000);
    void again;
    break;
  }
  case 'wait': {
    const promise: Promise<Decision> = decision.ready(AbortSignal.timeout(1));
    const starts: number | null = decision.startsInMs;
    void [promise, starts];
    break;
  }
  case 'later': void (decision.goOn(decision.dueInMs()) satisfies Decision); break;
  case 'refuse': {
    const refusal: Refuse = decision;
    const [status, after]: [number, number | null] = [refusal.status, refusal.retryAfterMs];
    void [status, after];
    break;
  }
  default: decision satisfies never;
}
const ready: { ticket: string; decision: Decision } | null = engine.takeReady();
engine.decideMany(new Set([{ path: '/' }])).forEach((one) => one.kind);
engine.setWeights('rule', { near: 3 });
engine.decide({ headers: new Map([['accept', 'x']]), claims: [['team', 'a'], ['roles', ['b', 'c']]] });
const text: string = engine.metrics({ openmetrics: true }) + engine.explain({ tenant: 'a' });

// @ts-expect-error: a request has no such field
engine.decide({ modle: 'x' });
// @ts-expect-error: tokens are a number
engine.decide({ inputTokens: '12' });
// @ts-expect-error: what waits has no backend
if (decision.kind === 'wait') void decision.backend;
// @ts-expect-error: a refusal ends nothing
if (decision.kind === 'refuse') decision.finish();
// @ts-expect-error: an end has no such number
if (decision.kind === 'forward') decision.finish({ tokens: 3 });
// @ts-expect-error: pairs, not names and values in turns
engine.decide({ headers: ['accept', 'x'] });
// @ts-expect-error: weights are numbers
engine.setWeights('rule', { near: 'much' });
// @ts-expect-error: a plan is needed
new Engine();
// @ts-expect-error: the plan in force is read, not written
engine.plan = {};

// Linear programs.
const solution: EndpointSolution = await solveEndpoints(
  { demandRps: [1], capacityRps: Float64Array.of(1), delayS: [[null]], objective: { maxUtilization: 0.8 } },
  { solver: solvers()[0] as string, signal: new AbortController().signal },
);
const shares: Float64Array = solution.shares.data;
const flows = await minMaxUtilization({ nodes: ['a'], links: [[0, 1, 1e9]], demandsBps: [[0]] }, { deadlineMs: 5 });
const status: 'optimal' | 'deadline' | 'stalled' = flows.status;
const { links, demandsBps } = readNetwork('graph []', { format: 'gml' });
void minMaxUtilization({ nodes: ['a'], links, demandsBps: demandsBps ?? new Float64Array(1) });
// @ts-expect-error: delays are needed
void solveEndpoints({ demandRps: [1], capacityRps: [1] });
// @ts-expect-error: it is a promise
void solveEndpoints({ demandRps: [1], capacityRps: [1], delayS: [[0]] }).shares;
// @ts-expect-error: a deadline is in milliseconds, by this name
void minMaxUtilization({ nodes: ['a'], links: [], demandsBps: [[0]] }, { deadline: 5 });

// The loop.
const act = async ({ names, groups, mask }: Observation): Promise<Action> => names.filter((_, ix) => mask[ix] && groups.data.length > ix);
const source = { collect: ({ atMs }: { atMs: number }): Telemetry => ({ routes: { 'eu/near': { throughputRps: atMs } } }) };
const controller = new Controller({ config: '', source, policy: { act }, reward: () => ({ speed: 1 }), actuator: async () => undefined });
const { rung, failures } = await controller.tick({ now: 1, deadlineMs: 2 });
const place: 'normal' | 'hold' | 'alarm' | 'ramp' = rung;
// @ts-expect-error: a source is needed
new Controller({ config: '' });
// @ts-expect-error: measurements have no such name
new Controller({ config: '', source: () => ({ routes: { 'eu/near': { throughput: 1 } } }) });
// @ts-expect-error: a policy gives names or an action
new Controller({ config: '', source, policy: () => 7 });
// @ts-expect-error: there is no such rung
const nowhere: 'fallen' = rung;

try {
  void [other, ready, text, shares, status, place, nowhere, failures[0]?.code];
} catch (error) {
  if (error instanceof TrafluxError) {
    const [code, transient]: [string, boolean] = [error.code, error.isTransient];
    const own: boolean = error instanceof InputError || error instanceof SolveError;
    void [code, transient, own];
  }
}
