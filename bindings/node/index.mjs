import traflux from './index.js';

export const { TrafluxError, Request, Engine, Controller, solveEndpoints, minMaxUtilization, readNetwork, solvers } = traflux;
export default traflux;
