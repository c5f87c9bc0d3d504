//! How does an operator look into the running controller, and steer it?
//!
//! Every call is one operation of one table: the router and the OpenAPI document are
//! both made from it, so neither can say what the other does not. Reading needs no token; whatever changes
//! state does. Errors are JSON with a stable code ([`ApiError`]).
//!
//! ```no_run
//! # use std::sync::Arc;
//! # async fn run(state: Arc<traflux::service::ServiceState>) -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:9902").await?;
//! let router = traflux::api::router(state, Some("a long random text".to_owned()));
//! traflux::api::serve(listener, router, async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await
//! # }
//! ```

mod act;
mod auth;
mod body;
mod error;
mod limits;
mod listener;
mod openapi;
mod operation;
mod read;
mod view;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::service::ServiceState;

pub use error::ApiError;
pub use limits::{BODY_LIMIT, REQUEST_LIMIT, REQUESTS_AT_A_TIME};
pub use openapi::document;
pub use read::{DECISIONS_DEFAULT, DECISIONS_LIMIT};
pub use view::{
    Alarm, DecisionPage, DecisionSummary, EndpointHealth, EndpointWeight, FreezeReply, GroupInForce,
    HealthReport, LoopMetrics, MetricsReport, Readiness, ServicesReply, ServicesRequest, StatusReport,
    Verdict, WeightMetrics, WeightMoment, WeightsReport,
};

use auth::Token;
use limits::Gate;

/// What every handler sees.
pub(crate) struct Shared {
    service: Arc<ServiceState>,
    token: Option<Token>,
    gate: Gate,
    /// The OpenAPI document, as text: it never changes.
    document: String,
}

/// The API over a running service.
///
/// Without a `token` every call that changes state is refused, with a message that names the key to set.
pub fn router(state: Arc<ServiceState>, token: Option<String>) -> Router {
    let shared = Arc::new(Shared {
        service: state,
        token: token.map(Token::new),
        gate: Gate::default(),
        document: document().to_string(),
    });
    let mut router = Router::new();
    for operation in operation::table() {
        router = router.route(operation.path, operation.method_router(&shared));
    }
    router
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), limits::around))
        .with_state(shared)
}

/// Serves until `shutdown` completes; requests in flight may then finish within [`REQUEST_LIMIT`].
///
/// # Errors
/// What the listener says when it can no longer be used.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (stop, mut stopped) = watch::channel(false);
    let graceful = {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is the end as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let watcher = tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
        // Kept until the server has ended, so that `wait_for` never sees a closed channel before the stop.
        stop.closed().await;
    });
    let overdue = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
        tokio::time::sleep(REQUEST_LIMIT).await;
    };
    let served = axum::serve(listener::Bounded::new(listener), router).with_graceful_shutdown(graceful);
    let result = tokio::select! {
        result = served => result,
        () = overdue => {
            tracing::warn!(limit_s = REQUEST_LIMIT.as_secs(), "requests did not end in time after the stop");
            Ok(())
        }
    };
    watcher.abort();
    result
}
