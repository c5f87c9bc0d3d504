'use strict';
const { TrafluxError, errors } = require('./lib/native.js');
const { Request } = require('./lib/request.js');
const { Engine } = require('./lib/engine.js');
const { Controller } = require('./lib/controller.js');
const { solveEndpoints, minMaxUtilization, readNetwork, solvers } = require('./lib/lp.js');

module.exports = { TrafluxError, ...errors, Request, Engine, Controller, solveEndpoints, minMaxUtilization, readNetwork, solvers };
