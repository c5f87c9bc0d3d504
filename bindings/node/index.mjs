import traflux from './index.js';

export const { TrafluxError, InputError, ConfigError, TopologyError, PlanError, NetworkError, PolicyError, SolveError, StoreError, GatewayError, InternalPanic } = traflux;
export const { Request, Engine, Controller, solveEndpoints, minMaxUtilization, readNetwork, solvers } = traflux;
export default traflux;
