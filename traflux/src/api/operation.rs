//! Which calls are there?
//!
//! [`table`] lists them once. The router asks each for its handler, the OpenAPI document for the rest.

use std::sync::Arc;

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use super::view::{
    DecisionPage, FreezeReply, HealthReport, MetricsReport, Readiness, ServicesReply, ServicesRequest,
    StatusReport, WeightMetrics, WeightsReport,
};
use super::{Shared, act, auth, read};
use crate::service::{ParameterPatch, Parameters, TrainReply, TrainRequest, TrainingView};

/// Makes the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What a call takes.
pub(super) struct Takes {
    pub(super) schema: SchemaOf,
    pub(super) required: bool,
}

/// What a call answers with when it succeeds.
pub(super) enum Answers {
    /// JSON of this schema.
    Json(SchemaOf),
    /// JSON of any shape.
    AnyJson,
    /// A text of this media type.
    Text(&'static str),
}

/// One call.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Vec<Value>,
    pub(super) takes: Option<Takes>,
    pub(super) answers: Answers,
    /// Changes state, so it needs the token.
    pub(super) guarded: bool,
    /// Asks the task that owns the controller, which may refuse or be busy.
    pub(super) commands: bool,
    /// Answers 503 with the same shape as 200.
    pub(super) may_be_unready: bool,
    handler: MethodRouter<Arc<Shared>>,
}

impl Operation {
    fn new<H, T>(
        method: Method,
        path: &'static str,
        id: &'static str,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Shared>>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("the table holds standard methods only");
        Self {
            method,
            path,
            id,
            summary,
            query: Vec::new(),
            takes: None,
            answers: Answers::AnyJson,
            guarded: false,
            commands: false,
            may_be_unready: false,
            handler: on(filter, handler),
        }
    }

    fn json<T: JsonSchema>(mut self) -> Self {
        self.answers = Answers::Json(SchemaGenerator::subschema_for::<T>);
        self
    }

    fn text(mut self, media_type: &'static str) -> Self {
        self.answers = Answers::Text(media_type);
        self
    }

    fn body<T: JsonSchema>(mut self, required: bool) -> Self {
        self.takes = Some(Takes { schema: SchemaGenerator::subschema_for::<T>, required });
        self
    }

    fn query(mut self, name: &str, description: &str, schema: Value) -> Self {
        self.query.push(json!({ "name": name, "in": "query", "description": description, "schema": schema }));
        self
    }

    fn command(mut self) -> Self {
        self.commands = true;
        self
    }

    fn guarded(mut self) -> Self {
        self.guarded = true;
        self.commands = true;
        self
    }

    fn readiness(mut self) -> Self {
        self.may_be_unready = true;
        self
    }

    /// The handler, behind the token where the call changes state.
    pub(super) fn method_router(self, shared: &Arc<Shared>) -> MethodRouter<Arc<Shared>> {
        if self.guarded {
            let layer = axum::middleware::from_fn_with_state(Arc::clone(shared), auth::authorize);
            self.handler.route_layer(layer)
        } else {
            self.handler
        }
    }
}

/// All calls.
pub(super) fn table() -> Vec<Operation> {
    let mut calls = probes();
    calls.extend(looks());
    calls.extend(changes());
    calls
}

fn get<H, T>(path: &'static str, id: &'static str, summary: &'static str, handler: H) -> Operation
where
    H: Handler<T, Arc<Shared>>,
    T: 'static,
{
    Operation::new(Method::GET, path, id, summary, handler)
}

/// Calls of people, supervisors and scrapers.
fn probes() -> Vec<Operation> {
    vec![
        get("/", "page", "A status page for people; it loads nothing from elsewhere.", read::page)
            .text("text/html"),
        get("/healthz", "healthz", "Says `ok` while the process is alive.", read::healthz).text("text/plain"),
        get(
            "/readyz",
            "readyz",
            "503 with reasons until the first plan was handed over and a tick was made.",
            read::readyz,
        )
        .json::<Readiness>()
        .readiness(),
        get("/metrics", "metrics", "Traflux's own metrics for Prometheus.", read::metrics)
            .text("application/openmetrics-text"),
        get("/openapi.json", "openapi", "This document.", read::openapi),
    ]
}

/// Calls that look into the controller.
fn looks() -> Vec<Operation> {
    let limit = json!({
        "type": "integer",
        "minimum": 1,
        "maximum": read::DECISIONS_LIMIT,
        "default": read::DECISIONS_DEFAULT
    });
    vec![
        get(
            "/api/health",
            "health",
            "Health of endpoints, age of measurements, rung of the ladder of failure, alarms.",
            read::health,
        )
        .json::<HealthReport>(),
        get("/api/status", "status", "Everything at a glance, the latest decision in full.", read::status)
            .json::<StatusReport>(),
        get("/status", "status_alias", "The same as `/api/status`.", read::status).json::<StatusReport>(),
        get(
            "/api/weights",
            "weights",
            "Shares and weights by service, source and endpoint; what each node group has in force.",
            read::weights,
        )
        .json::<WeightsReport>(),
        get("/weights", "weights_alias", "The same as `/api/weights`.", read::weights)
            .json::<WeightsReport>(),
        get(
            "/api/decisions",
            "decisions",
            "Decisions with state, action, outcome of the solver, changes by the guard and explanation.",
            read::decisions,
        )
        .json::<DecisionPage>()
        .query("limit", "Most decisions to return.", limit)
        .query(
            "before",
            "Only decisions of ticks before this one.",
            json!({ "type": "integer", "minimum": 0 }),
        ),
        get("/api/metrics/all", "metrics_all", "All numbers at once.", read::metrics_all)
            .json::<MetricsReport>(),
        get(
            "/api/metrics/training",
            "metrics_training",
            "What became of learning steps; losses; version of the policy's parameters.",
            read::metrics_training,
        )
        .json::<TrainingView>(),
        get(
            "/api/metrics/weights",
            "metrics_weights",
            "How weights moved: the latest pushes with their shares.",
            read::metrics_weights,
        )
        .json::<WeightMetrics>(),
        get("/api/parameters", "parameters", "The parameters in force.", read::parameters)
            .json::<Parameters>()
            .command(),
    ]
}

/// Calls that change something.
fn changes() -> Vec<Operation> {
    vec![
        Operation::new(
            Method::PATCH,
            "/api/parameters",
            "patch_parameters",
            "Changes parameters, all of those given or none; the others stay.",
            act::patch_parameters,
        )
        .body::<ParameterPatch>(true)
        .json::<Parameters>()
        .guarded(),
        Operation::new(
            Method::POST,
            "/api/train",
            "train",
            "Trains on the experience at hand; needs mode `learning`.",
            act::train,
        )
        .body::<TrainRequest>(false)
        .json::<TrainReply>()
        .guarded(),
        Operation::new(
            Method::POST,
            "/api/freeze",
            "freeze",
            "Stops moving traffic; decisions go on and are logged.",
            act::freeze,
        )
        .json::<FreezeReply>()
        .guarded(),
        Operation::new(Method::POST, "/api/resume", "resume", "Moves traffic again.", act::resume)
            .json::<FreezeReply>()
            .guarded(),
        Operation::new(
            Method::PUT,
            "/api/services",
            "replace_services",
            "Replaces services and endpoints; what keeps its name keeps its state.",
            act::replace_services,
        )
        .body::<ServicesRequest>(true)
        .json::<ServicesReply>()
        .guarded(),
    ]
}
