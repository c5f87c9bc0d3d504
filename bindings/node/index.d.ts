/** What goes wrong in Traflux. */
export class TrafluxError extends Error {
  /** Stable name, the same in Rust, Python and Node, such as `gateway_setting`. */
  readonly code: string;
  /** Whether the same call may succeed later with nothing changed here. */
  readonly isTransient: boolean;
}

/** A value does not have the form that is asked for: codes `input_…`. */
export class InputError extends TrafluxError {}
/** A configuration cannot mean anything; the message has the path of the key. */
export class ConfigError extends TrafluxError {}
/** Flows, routes and resources do not hold together. */
export class TopologyError extends TrafluxError {}
/** A plan cannot be expressed. */
export class PlanError extends TrafluxError {}
/** A network, a matrix or one of their files does not hold together. */
export class NetworkError extends TrafluxError {}
/** A policy cannot act here, or a checkpoint cannot be read. */
export class PolicyError extends TrafluxError {}
/** A problem cannot be solved, or is none. */
export class SolveError extends TrafluxError {}
/** A file of saved state cannot be read or written. */
export class StoreError extends TrafluxError {}
/** A plan or a setting of the request engine cannot mean anything. */
export class GatewayError extends TrafluxError {}
/** A fault of Traflux itself; please report it. */
export class InternalPanic extends TrafluxError {}

/** An object of texts by name, or pairs of name and text, such as `Headers`, a `Map` or an array. Anything else is `input_pairs`. */
export type Pairs = Record<string, string | string[] | undefined> | Iterable<readonly [string, string | string[]]>;

/** What is known of a request; everything may be left out. */
export interface RequestFields {
  /** In capitals; `GET` without it. */
  method?: string;
  /** Without port, in lower case. */
  host?: string;
  /** Without the query; `/` without it. */
  path?: string;
  query?: string;
  /** As `node:http` has them, or as `Headers`; of several values the first counts. */
  headers?: Pairs;
  /** Only what is verified. */
  claims?: Pairs;
  tenant?: string;
  /** Name of the API key, never the key. */
  key?: string;
  user?: string;
  userTier?: string;
  model?: string;
  /** Tokens read. */
  inputTokens?: number;
  /** The most tokens written; budgets hold exactly where this is an upper bound. */
  outputTokens?: number;
  /** The most tokens of one answer, where the request says so. */
  maxAnswerTokens?: number;
  stream?: boolean;
  /** Whether sending it twice does no harm; without it the method and `idempotency-key` tell. */
  idempotent?: boolean;
  /** Such as `batch`, for the bands of the queue. */
  kind?: string;
  /** Its beginning is compared to find caches of it. */
  prompt?: string | Uint8Array;
  /** Bytes held while it waits. */
  heldBytes?: number;
  /** When an answer is of no more use, milliseconds since 1970. */
  deadline?: number;
  /** JSON of a call of a language model, from which model, tokens, stream and prompt are read where they are not given; tokens by the `tokens` of the engine's plan, in a `Request` as they are usual. */
  body?: string | Uint8Array;
}

/** A request put together once, to be decided about as often as you like. */
export class Request {
  private readonly block: Uint8Array;
  constructor(fields?: RequestFields);
}

/** The end of an attempt. */
export interface End {
  /** HTTP status, or a name such as `success`, `connect_failure`, `timeout`; `success` without it. */
  outcome?: number | string;
  inputTokens?: number;
  cachedTokens?: number;
  outputTokens?: number;
  /** Headers of the answer: `retry-after`, `x-ratelimit-*`. */
  headers?: Pairs;
}

interface Held {
  readonly ended: boolean;
  /** Gives back what it holds. One that is lost is cancelled when it and those decided around it (64) have been collected. */
  cancel(): void;
}

/** Send it there, then say how it ended. */
export interface Forward extends Held {
  readonly kind: 'forward';
  readonly backend: string;
  /** Base URL of the endpoint; empty for a backend that is known by its name alone. */
  readonly url: string;
  readonly rule: string;
  readonly algorithm: string;
  /** From 1. */
  readonly attempt: number;
  /** Milliseconds to wait before sending; 0 at the first attempt. */
  readonly sendAfterMs: number;
  /** The first byte of the answer has come: the end of all trying again. */
  firstByte(now?: number): void;
  /** Its stream is quiet: its place goes to another. */
  pause(now?: number): void;
  resume(): void;
  /** Settles every limit with what was used, exactly once. */
  finish(end?: End, now?: number): void;
  /** The same as `finish`. */
  settle(end?: End, now?: number): void;
  /** Settles this attempt and looks for another one. */
  retry(end?: End, now?: number): Decision;
}

/** Let it wait. */
export interface Wait extends Held {
  readonly kind: 'wait';
  readonly ticket: string;
  /** Requests before it. */
  readonly position: number;
  readonly tokensBefore: number;
  /** Milliseconds, where they are known. */
  readonly startsInMs: number | null;
  /** What becomes of it. A signal that is aborted leaves the queue; `input_ended` where `takeReady` gave it away. */
  ready(signal?: AbortSignal): Promise<Decision>;
}

/** Its turn under a limit comes later. */
export interface Later extends Held {
  readonly kind: 'later';
  readonly rule: string;
  readonly limit: string | null;
  /** Milliseconds until then. */
  dueInMs(now?: number): number;
  goOn(now?: number): Decision;
}

/** Answer it yourself. */
export interface Refuse {
  readonly kind: 'refuse';
  /** Stable name, such as `limited`. */
  readonly reason: string;
  /** HTTP status. */
  readonly status: number;
  readonly rule: string | null;
  readonly limit: string | null;
  /** When to come back, milliseconds; `null` where time alone does not help. */
  readonly retryAfterMs: number | null;
  readonly message: string;
}

export type Decision = Forward | Wait | Later | Refuse;

export interface EngineOptions {
  /** What a plan does not say: `EngineSettings` of the Rust crate, in snake_case. */
  settings?: object | string;
  /** When it begins, milliseconds since 1970, for programs with a clock of their own; then give `now` to all calls. */
  now?: number;
  /** How often `upkeep` is called, milliseconds; 250, and 0 (never) with `now`. */
  upkeepMs?: number;
}

/** Where does this request go, now or later, and if nowhere, why? Times are milliseconds since 1970. */
export class Engine {
  /** @param plan an object with the keys of a plan, or YAML or JSON. */
  constructor(plan: object | string, options?: EngineOptions);
  decide(request: RequestFields | Request, now?: number): Decision;
  /** About many at one moment, in their order. */
  decideMany(requests: Iterable<RequestFields | Request>, now?: number): Decision[];
  /** The next decision for somebody who waits and did not call `ready`. */
  takeReady(): { ticket: string; decision: Decision } | null;
  /** What `decide` would look at, in words. */
  explain(request: RequestFields | Request, now?: number): string;
  /** The answer to a scrape of Prometheus. */
  metrics(options?: { openmetrics?: boolean; now?: number }): string;
  /** Puts another plan in force; where it throws, the old one stays. Settings that are not given stay as they are in force. */
  reload(plan: object | string, options?: { settings?: object | string; now?: number }): void;
  /** Weights, integers by backend, that a controller computed for a rule under `adaptive`; `gateway_setting` for a rule or backend that there is not. */
  setWeights(rule: string, weights: Record<string, number>, now?: number): void;
  upkeep(now?: number): void;
  /** The plan in force, with every default. */
  readonly plan: Record<string, unknown>;
  /** Decisions that have not ended. */
  readonly open: number;
  /** By its clock, which never goes back. */
  now(): number;
  /** Ends its timer. */
  close(): void;
}

export type Vector = Float64Array | ArrayLike<number>;
/** Row by row. */
export interface Table { data: Float64Array; shape: number[] }
export type TableLike = Float64Array | { data: Vector; shape: number[] } | (number | null)[][];

export interface SolveOptions {
  signal?: AbortSignal;
  /** Longest time to solve, milliseconds: 5,000 for endpoints, 30,000 for networks. Flows at hand are given then, with the gap proven so far. */
  deadlineMs?: number;
}

export interface EndpointProblem {
  /** By flow, requests/s. */
  demandRps: Vector;
  /** By resource, requests/s. */
  capacityRps: Vector;
  /** flows × resources, seconds; `null` or infinite: no such route. */
  delayS: TableLike;
  /** flows × resources, dollars per request. */
  priceUsd?: TableLike;
  /** flows × resources: shares in force. */
  previous?: TableLike;
  lower?: TableLike;
  upper?: TableLike;
  /** By resource, requests/s. */
  backgroundRps?: Vector;
  /** By resource, seconds. */
  serviceTimeS?: Vector;
  servers?: Vector;
  /** By resource: what fails together has equal numbers. */
  domains?: ArrayLike<number>;
  flows?: string[];
  resources?: string[];
  objective?: {
    maxUtilization?: number; slack?: number; secondsPerDollar?: number; churnSeconds?: number; tangents?: number;
    budgetPerHour?: number; surviveDomainLoss?: number;
  };
  /** By route, instead of an objective: the literal min max of share × cost. */
  routeCosts?: Vector;
}

export interface EndpointSolution {
  /** flows × resources. */
  shares: Table;
  /** Least possible maximum utilisation. */
  maxUtilization: number;
  /** Seconds of delay per second. */
  objective: number;
  status: 'optimal' | 'gap' | 'overloaded' | 'no_demand';
  gap: number;
  loadsRps: Float64Array;
  capacityDuals: Float64Array;
  demandDuals: Float64Array;
  /** flows × resources, NaN where there is no route. */
  reducedCosts: Table;
  budgetDual: number;
  softened: string[];
  explanation: string[];
  iterations: number;
  solver: string;
}

/** Which share of each flow goes to each endpoint; arrays are copied before it returns. */
export function solveEndpoints(problem: EndpointProblem, options?: SolveOptions & { solver?: string }): Promise<EndpointSolution>;
export function solvers(): string[];

export interface FlowProblem {
  nodes: string[];
  /** `[tail, head, bit/s]`, or columns as `readNetwork` gives them. */
  links: [number, number, number][] | { tail: ArrayLike<number>; head: ArrayLike<number>; capacityBps: Vector };
  /** nodes × nodes, bit/s. */
  demandsBps: TableLike;
  /** By link, bit/s. */
  backgroundBps?: Vector;
}

export interface FlowSolution {
  utilization: number;
  lowerBound: number;
  status: 'optimal' | 'deadline' | 'stalled';
  loadsBps: Float64Array;
  linkPrices: Float64Array;
  sources: Uint32Array;
  targets: Uint32Array;
  paths: { source: number; target: number; share: number; links: Uint32Array }[];
  iterations: number;
}

/** How evenly demands can be spread over the links of a network. */
export function minMaxUtilization(problem: FlowProblem, options?: SolveOptions): Promise<FlowSolution>;

export interface NetworkFile {
  format: string;
  name: string | null;
  nodes: string[];
  links: { tail: Uint32Array; head: Uint32Array; capacityBps: Float64Array; weight: Float64Array; delayS: Float64Array };
  demandsBps: Table | null;
  warnings: string[];
}

/** Reads SNDlib, GraphML, GML, REPETITA, CFR-RL and node-link JSON. */
export function readNetwork(content: string | Uint8Array, options?: { format?: string; defaultCapacityBps?: number; unit?: string }): NetworkFile;

export interface Measured {
  throughputRps?: number; latencyMeanMs?: number; latencyP95Ms?: number; errorRatio?: number; censoredRatio?: number;
  concurrency?: number; priceUsdPerMillion?: number; healthy?: boolean; capacityRps?: number; backgroundRps?: number;
  signals?: Record<string, number>; ageS?: number;
}

/** By name: routes are `source/endpoint`. NaN and infinite numbers are failures of the source; leave out what is not known. */
export interface Telemetry { routes?: Record<string, Measured>; resources?: Record<string, Measured>; warnings?: string[] }

export interface Observation {
  names: string[];
  mask: boolean[];
  /** names × features. */
  groups: { data: Float32Array; shape: number[] };
  context: { data: Float32Array; shape: number[] };
}

export type Action = string[] | { critical: string[]; headroom?: number; costMultipliers?: Record<string, number> };
type Stage<Method extends string, Call> = Call | { [name in Method]: Call };

export interface ControllerOptions {
  /** An object with the keys of `traflux.yaml`, or its text; `metrics` may be left out. */
  config: object | string;
  source: Stage<'collect', (window: { atMs: number; windowMs: number }) => Telemetry | Promise<Telemetry>>;
  policy?: Stage<'act', (observation: Observation) => Action | Promise<Action>>;
  /** What the action of a whole step (dead time and window) was worth; with it, `policy` is asked once a step. */
  reward?: Stage<'reward', (before: Telemetry, after: Telemetry) => number | Record<string, number> | Promise<number | Record<string, number>>>;
  actuator?: Stage<'apply', (plan: { version: string; weights: Record<string, Record<string, Record<string, number>>> }) => unknown>;
  /** Longest time for one stage, milliseconds; 1000. While a call that was late or aborted has not come back, its stage fails at once. */
  stageDeadlineMs?: number;
}

export interface ControlDecision {
  tick: number;
  rung: 'normal' | 'hold' | 'alarm' | 'ramp';
  /** Stages that failed, and why. */
  failures: { stage: string; code: string; message: string }[];
  flows: { name: string; source: string; service: string; shares: [string, number][]; weights: [string, number][] }[];
  /** By service, source and endpoint. */
  weights: Record<string, Record<string, Record<string, number>>>;
  pushed: boolean;
  /** Flows that stand still because the actuator has not taken the plan before. */
  heldFlows: string[];
  explanation: string[];
  [key: string]: unknown;
}

/** The closed loop. A stage that throws, hangs or answers nonsense is reported and leaves the weights in force as they are. */
export class Controller {
  constructor(options: ControllerOptions);
  /** `now` in milliseconds since 1970. When `deadlineMs` (30,000; `Infinity`: never) passes, what is waited for fails. */
  tick(options?: { now?: number; signal?: AbortSignal; deadlineMs?: number }): Promise<ControlDecision>;
}
