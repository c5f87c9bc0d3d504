'use strict';
const { native, InputError, guarded, promised, written } = require('./native.js');

/** Numbers as a Float64Array; one that is one is used as it is. */
function vector(values, what) {
  if (values === undefined) return undefined;
  if (values instanceof Float64Array) return values;
  if (Array.isArray(values) || ArrayBuffer.isView(values)) return Float64Array.from(values);
  throw new InputError(`${what} is neither an array nor a typed array`, 'input_type');
}

/**
 * Rows, or `{ data, shape }`, as one Float64Array of so many rows and columns; `null` in rows is an infinite number. Of
 * another number of values Rust says what is wrong.
 */
function table(values, what, rows, columns) {
  if (values === undefined) return undefined;
  if (values instanceof Float64Array) return values;
  const wrong = (shape) => new InputError(`${what} has shape [${shape}], expected [${[rows, columns]}]`, 'input_shape');
  if (values.data !== undefined) {
    const { data, shape } = values;
    const size = Array.isArray(shape) ? shape.reduce((product, n) => product * n, 1) : NaN;
    if (size !== data.length) throw new InputError(`${what} has ${data.length} numbers, its shape is [${shape}]`, 'input_shape');
    if (size === rows * columns && (shape.length !== 2 || shape[0] !== rows || shape[1] !== columns)) throw wrong(shape);
    return vector(data, what);
  }
  if (!Array.isArray(values) || !values.every((row) => Array.isArray(row) || ArrayBuffer.isView(row))) {
    throw new InputError(`${what} is neither rows nor { data, shape }`, 'input_type');
  }
  const widths = new Set(values.map((row) => row.length));
  if (widths.size > 1) throw new InputError(`${what} has rows of ${[...widths].join(' and ')} numbers`, 'input_shape');
  const flat = Float64Array.from(values.flatMap((row) => [...row]), (value) => (value === null ? Infinity : value));
  if (flat.length === rows * columns && values.length !== rows) throw wrong([values.length, ...widths]);
  return flat;
}

const shaped = (data, ...shape) => ({ data, shape });

const OBJECTIVE = {
  maxUtilization: 'max_utilization', slack: 'slack', secondsPerDollar: 'seconds_per_dollar', churnSeconds: 'churn_seconds',
  tangents: 'tangents', budgetPerHour: 'budget_per_hour', surviveDomainLoss: 'survive_domain_loss',
};

function objective(given) {
  if (given === undefined) return undefined;
  const named = Object.entries(given).map(([name, value]) => {
    if (!(name in OBJECTIVE)) throw new InputError(`an objective has no \`${name}\``, 'input_key');
    return [OBJECTIVE[name], value];
  });
  return written(Object.fromEntries(named), 'objective');
}

function solveEndpoints(problem, options = {}) {
  return promised(() => {
    const demand = vector(problem.demandRps, 'demandRps');
    const capacity = vector(problem.capacityRps, 'capacityRps');
    const [flows, resources] = [demand.length, capacity.length];
    return native.solveEndpoints({
      demandRps: demand,
      capacityRps: capacity,
      delayS: table(problem.delayS, 'delayS', flows, resources),
      priceUsd: table(problem.priceUsd, 'priceUsd', flows, resources),
      previous: table(problem.previous, 'previous', flows, resources),
      lower: table(problem.lower, 'lower', flows, resources),
      upper: table(problem.upper, 'upper', flows, resources),
      backgroundRps: vector(problem.backgroundRps, 'backgroundRps'),
      serviceTimeS: vector(problem.serviceTimeS, 'serviceTimeS'),
      servers: vector(problem.servers, 'servers'),
      domains: problem.domains && Array.from(problem.domains),
      flows: problem.flows,
      resources: problem.resources,
      objective: objective(problem.objective),
      routeCosts: vector(problem.routeCosts, 'routeCosts'),
      solver: options.solver ?? 'transport',
      deadlineMs: options.deadlineMs ?? 5000,
    }).then((solution) => ({
      ...solution,
      shares: shaped(solution.shares, flows, resources),
      reducedCosts: shaped(solution.reducedCosts, flows, resources),
    }));
  }, options.signal);
}

function minMaxUtilization(problem, options = {}) {
  return promised(() => {
    const { links } = problem;
    const columns = Array.isArray(links)
      ? { tail: links.map((link) => link[0]), head: links.map((link) => link[1]), capacityBps: links.map((link) => link[2]) }
      : links;
    return native.minMaxUtilization({
      nodes: problem.nodes,
      tail: Uint32Array.from(columns.tail),
      head: Uint32Array.from(columns.head),
      capacityBps: vector(columns.capacityBps, 'capacityBps'),
      demandsBps: table(problem.demandsBps, 'demandsBps', problem.nodes.length, problem.nodes.length),
      backgroundBps: vector(problem.backgroundBps, 'backgroundBps'),
      deadlineMs: options.deadlineMs ?? 30_000,
    }).then(({ pathCommodity, pathShare, pathOffsets, pathLinks, ...solution }) => ({
      ...solution,
      paths: Array.from(pathShare, (share, ix) => ({
        source: solution.sources[pathCommodity[ix]],
        target: solution.targets[pathCommodity[ix]],
        share,
        links: pathLinks.slice(pathOffsets[ix], pathOffsets[ix + 1]),
      })),
    }));
  }, options.signal);
}

function readNetwork(content, options = {}) {
  const bytes = typeof content === 'string' ? Buffer.from(content) : Uint8Array.from(content);
  const file = guarded(() => native.readNetwork(bytes, options.format, options.defaultCapacityBps, options.unit));
  const { tail, head, capacityBps, weight, delayS, demandsBps, ...rest } = file;
  const n = file.nodes.length;
  return { ...rest, name: file.name ?? null, links: { tail, head, capacityBps, weight, delayS }, demandsBps: demandsBps ? shaped(demandsBps, n, n) : null };
}

module.exports = { solveEndpoints, minMaxUtilization, readNetwork, solvers: () => native.solvers() };
