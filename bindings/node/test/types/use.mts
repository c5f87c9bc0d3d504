import { Controller, Engine, Request, TrafluxError, minMaxUtilization, solveEndpoints, type Decision } from 'traflux';
const engine = new Engine({ routing: {} }, { now: 0 });
const decision: Decision = engine.decide(new Request({ path: '/' }));
switch (decision.kind) {
  case 'forward': { const again: Decision = decision.retry({ outcome: 502 }); void again; break; }
  case 'wait': void decision.ready(AbortSignal.timeout(1)); break;
  case 'later': decision.goOn(decision.dueInMs()); break;
  case 'refuse': { const status: number = decision.status; void status; break; }
}
// @ts-expect-error: a request has no such field
engine.decide({ modle: 'x' });
const shares: Float64Array = (await solveEndpoints({ demandRps: [1], capacityRps: [1], delayS: [[null]] })).shares.data;
const flows = await minMaxUtilization({ nodes: ['a'], links: [[0, 1, 1e9]], demandsBps: [[0]] }, { deadlineMs: 5 });
const controller = new Controller({ config: '', source: () => ({}), policy: { act: async () => ['a'] } });
const rung: 'normal' | 'hold' | 'alarm' | 'ramp' = (await controller.tick()).rung;
try { void [shares, flows, rung]; } catch (error) { if (error instanceof TrafluxError) { const code: string = error.code; void code; } }
