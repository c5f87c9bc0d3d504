//! What can a program be told about the API?
//!
//! An OpenAPI 3.1 document, made of the table of calls and the schemas of the types that are really sent.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::ApiError;
use super::operation::{Answers, Operation, table};
use crate::service::CommandError;

/// The document.
#[must_use]
pub fn document() -> Value {
    // Answers are described as they are written, bodies as they are read.
    let settings = || {
        SchemaSettings::draft2020_12().with(|s| {
            s.definitions_path = "/components/schemas".into();
            s.meta_schema = None;
        })
    };
    let mut written = settings().for_serialize().into_generator();
    let mut read = settings().for_deserialize().into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for operation in table() {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        item[operation.method.as_str().to_ascii_lowercase()] = describe(&operation, &mut written, &mut read);
    }
    let mut schemas = read.take_definitions(true);
    schemas.extend(written.take_definitions(true));
    schemas.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Traflux",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Looks into a running Traflux controller and steers it. Reading needs no token; \
                            whatever changes state needs the bearer token of `api.token_file`.",
            "license": { "name": "MIT OR Apache-2.0" }
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } }
        }
    })
}

fn describe(operation: &Operation, written: &mut SchemaGenerator, read: &mut SchemaGenerator) -> Value {
    let content = match &operation.answers {
        Answers::Json(schema) => json!({ "application/json": { "schema": schema(written) } }),
        Answers::AnyJson => json!({ "application/json": { "schema": { "type": "object" } } }),
        Answers::Text(media_type) => json!({ *media_type: { "schema": { "type": "string" } } }),
    };
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json!({ "description": "Done.", "content": content }));
    for error in errors(operation) {
        let status = error.status().as_u16().to_string();
        let entry = responses.entry(status).or_insert_with(|| {
            json!({
                "description": "",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } }
            })
        });
        let known = entry["description"].as_str().unwrap_or("").to_owned();
        let separator = if known.is_empty() { "" } else { ", " };
        entry["description"] = json!(format!("{known}{separator}`{}`", error.code()));
    }
    if operation.may_be_unready {
        let description = responses
            .get("503")
            .and_then(|r| r["description"].as_str())
            .map_or_else(String::new, |codes| format!("Not ready, or {codes}."));
        let either = json!({ "anyOf": [
            content["application/json"]["schema"], { "$ref": "#/components/schemas/Error" }
        ] });
        responses.insert(
            "503".to_owned(),
            json!({ "description": description, "content": { "application/json": { "schema": either } } }),
        );
    }
    let mut out = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses
    });
    if !operation.query.is_empty() {
        out["parameters"] = json!(operation.query);
    }
    if let Some(takes) = &operation.takes {
        out["requestBody"] = json!({
            "required": takes.required,
            "content": { "application/json": { "schema": (takes.schema)(read) } }
        });
    }
    if operation.guarded {
        out["security"] = json!([{ "token": [] }]);
    }
    out
}

/// How a call can fail.
fn errors(operation: &Operation) -> Vec<ApiError> {
    ApiError::examples()
        .into_iter()
        .filter(|error| match error {
            ApiError::ChangesDisabled | ApiError::Unauthorized => operation.guarded,
            ApiError::InvalidQuery { .. } => !operation.query.is_empty(),
            ApiError::UnreadableBody { .. }
            | ApiError::BodyTooLarge
            | ApiError::UnsupportedMediaType { .. }
            | ApiError::MalformedJson { .. }
            | ApiError::InvalidBody { .. } => operation.guarded,
            ApiError::Command(CommandError::NoAnswer { .. }) => operation.commands,
            ApiError::Command(_) => operation.guarded,
            ApiError::Busy | ApiError::Deadline => operation.path != "/healthz",
            ApiError::NotFound { .. } | ApiError::MethodNotAllowed { .. } => false,
        })
        .collect()
}

fn error_schema() -> Value {
    let codes: Vec<&str> = ApiError::examples().iter().map(ApiError::code).collect();
    json!({
        "type": "object",
        "description": "Why a call failed.",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string", "enum": codes, "description": "Stable; to be matched by programs." },
                    "message": { "type": "string", "description": "For people." }
                }
            }
        }
    })
}
