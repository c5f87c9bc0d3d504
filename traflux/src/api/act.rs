//! What can be changed?
//!
//! Every call here becomes one [`Command`] to the task that owns the controller, and answers when it was
//! carried out between two ticks. Whether the caller may is decided before, for all of them at once.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::body::{Body, Nothing, OptionalBody};
use super::view::{FreezeReply, ServicesReply, ServicesRequest};
use super::{ApiError, Shared};
use crate::service::{Command, ParameterPatch, Parameters, TrainReply, TrainRequest};

type Context = State<Arc<Shared>>;

pub(super) async fn patch_parameters(
    State(shared): Context,
    Body(patch): Body<ParameterPatch>,
) -> Result<Json<Parameters>, ApiError> {
    let parameters = shared.service.ask(|reply| Command::Patch(patch.clone(), reply)).await?;
    tracing::info!(?patch, "parameters changed");
    Ok(Json(parameters))
}

pub(super) async fn train(
    State(shared): Context,
    OptionalBody(request): OptionalBody<TrainRequest>,
) -> Result<Json<TrainReply>, ApiError> {
    let reply = shared.service.ask(|reply| Command::Train(request, reply)).await?;
    tracing::info!(updates = reply.updates, version = reply.parameters_version, "trained on request");
    Ok(Json(reply))
}

pub(super) async fn freeze(
    State(shared): Context,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<Json<FreezeReply>, ApiError> {
    shared.service.ask(Command::Freeze).await?;
    tracing::info!("weights frozen on request");
    Ok(Json(FreezeReply { frozen: true }))
}

pub(super) async fn resume(
    State(shared): Context,
    OptionalBody(Nothing {}): OptionalBody<Nothing>,
) -> Result<Json<FreezeReply>, ApiError> {
    shared.service.ask(Command::Resume).await?;
    tracing::info!("weights resumed on request");
    Ok(Json(FreezeReply { frozen: false }))
}

pub(super) async fn replace_services(
    State(shared): Context,
    Body(request): Body<ServicesRequest>,
) -> Result<Json<ServicesReply>, ApiError> {
    let taken = ServicesReply {
        services: request.services.len(),
        endpoints: request.services.iter().map(|s| s.endpoints.len()).sum(),
    };
    shared.service.ask(|reply| Command::Services(request.services, reply)).await?;
    tracing::info!(services = taken.services, endpoints = taken.endpoints, "services replaced on request");
    Ok(Json(taken))
}
