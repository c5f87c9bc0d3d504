// The same types from CommonJS.
import traflux = require('traflux');

const engine: traflux.Engine = new traflux.Engine({ routing: {} });
const decision: traflux.Decision = engine.decide({ path: '/' });
// @ts-expect-error: there is no such export
void traflux.Motor;
void decision;
