//! Who may connect, and how is a connection kept or ended?

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::drive::{OUTBOX, Peer, drive};
use crate::error::XdsError;
use crate::hub::{Hub, Rejection};
use crate::proto::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer, DeltaDiscoveryRequest, DiscoveryRequest,
};
use crate::stream::StreamLimits;
use crate::wire::{Delta, Outgoing, StateOfTheWorld, Wire};

/// Limits and habits of the server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Streams at a time; more are refused.
    pub max_streams: usize,
    /// A stream that has not answered a response for this long is ended; its node may connect again.
    pub ack_deadline: Duration,
    /// The largest request. A NACK bears the words of the client, which may quote whole resources.
    pub max_request_bytes: usize,
    /// How often an idle connection is pinged.
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take.
    pub keepalive_timeout: Duration,
    /// On shutdown, how long streams may take to acknowledge what was sent.
    pub drain_grace: Duration,
    /// A connection is closed gracefully after this long, so that nodes spread over replicas again.
    pub max_connection_age: Option<Duration>,
    /// Limits of each stream.
    pub stream: StreamLimits,
    /// Encryption, and who may connect; without it anyone who reaches the socket may.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::TlsOptions>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_streams: 10_000,
            ack_deadline: Duration::from_secs(30),
            max_request_bytes: 16 << 20,
            keepalive_interval: Duration::from_secs(15),
            keepalive_timeout: Duration::from_secs(10),
            drain_grace: Duration::from_secs(2),
            max_connection_age: None,
            stream: StreamLimits::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl ServerOptions {
    pub(crate) fn validate(&self) -> Result<(), XdsError> {
        let positive = |option, value: u128| {
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            if value == 0 { Err(XdsError::Option { option, value, low: 1, high: u64::MAX }) } else { Ok(()) }
        };
        positive("max_streams", self.max_streams as u128)?;
        positive("max_request_bytes", self.max_request_bytes as u128)?;
        positive("ack_deadline_ms", self.ack_deadline.as_millis())?;
        positive("keepalive_interval_ms", self.keepalive_interval.as_millis())?;
        positive("keepalive_timeout_ms", self.keepalive_timeout.as_millis())
    }
}

/// A bound socket that is not yet served.
pub struct XdsServer {
    hub: Arc<Hub>,
    options: ServerOptions,
    incoming: TcpIncoming,
    address: SocketAddr,
    #[cfg(feature = "tls")]
    tls: Option<crate::tls::Acceptor>,
}

impl std::fmt::Debug for XdsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XdsServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl XdsServer {
    pub(crate) async fn bind(
        hub: Arc<Hub>,
        options: ServerOptions,
        address: SocketAddr,
    ) -> Result<Self, XdsError> {
        let failed = |error: std::io::Error| XdsError::Serve {
            address: address.to_string(),
            reason: error.to_string(),
        };
        #[cfg(feature = "tls")]
        let tls = options.tls.clone().map(crate::tls::Acceptor::new).transpose()?;
        let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Weights are small messages that should not wait for more.
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Ok(Self {
            hub,
            options,
            incoming,
            address,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    /// The address that it is bound to, with the port that was chosen.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` completes, then stops accepting, lets streams finish what is in flight, and
    /// ends them; nodes keep what they have and connect elsewhere.
    ///
    /// # Errors
    /// [`XdsError::Serve`] when the transport fails.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), XdsError> {
        let Self { hub, options, incoming, address, .. } = self;
        let (drain, draining) = watch::channel(false);
        let discovery = Discovery {
            hub,
            streams: Arc::new(Semaphore::new(options.max_streams.min(Semaphore::MAX_PERMITS))),
            options: options.clone(),
            draining,
        };
        let service = AggregatedDiscoveryServiceServer::new(discovery)
            .max_decoding_message_size(options.max_request_bytes);
        let mut builder = Server::builder()
            .http2_keepalive_interval(Some(options.keepalive_interval))
            .http2_keepalive_timeout(Some(options.keepalive_timeout))
            // One stream per connection is usual; a few more do no harm, many would.
            .max_concurrent_streams(Some(100));
        if let Some(age) = options.max_connection_age {
            builder = builder.max_connection_age(age).max_connection_age_grace(options.drain_grace);
        }
        let router = builder.add_service(service);
        let stop = async move {
            shutdown.await;
            // The receivers live in the service, which outlives this.
            drain.send_replace(true);
        };
        #[cfg(feature = "tls")]
        let served = match self.tls {
            Some(acceptor) => router.serve_with_incoming_shutdown(acceptor.accept(incoming), stop).await,
            None => router.serve_with_incoming_shutdown(incoming, stop).await,
        };
        #[cfg(not(feature = "tls"))]
        let served = router.serve_with_incoming_shutdown(incoming, stop).await;
        served.map_err(|error| XdsError::Serve { address: address.to_string(), reason: error.to_string() })
    }
}

/// The aggregated discovery service, both variants.
struct Discovery {
    hub: Arc<Hub>,
    options: ServerOptions,
    streams: Arc<Semaphore>,
    draining: watch::Receiver<bool>,
}

type Responses<W> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Outgoing<W>> + Send>>;

impl Discovery {
    fn open<W: Wire>(&self, request: Request<Streaming<W::In>>) -> Result<Response<Responses<W>>, Status> {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            let limit = self.options.max_streams;
            self.hub.reject("", &format!("{limit} streams are open, limit {limit}"), Rejection::TooMany);
            return Err(Status::resource_exhausted(format!("limit of {limit} streams")));
        };
        let peer = self.peer(request.extensions());
        let (outbox, responses) = mpsc::channel::<Outgoing<W>>(OUTBOX);
        let stream = drive::<W>(
            Arc::clone(&self.hub),
            self.options.clone(),
            peer,
            request.into_inner(),
            outbox,
            self.draining.clone(),
        );
        tokio::spawn(hold(permit, stream));
        Ok(Response::new(Box::pin(ReceiverStream::new(responses).fuse())))
    }

    fn peer(&self, extensions: &Extensions) -> Peer {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.options.tls {
            return crate::tls::peer(tls, extensions);
        }
        let info = extensions.get::<TcpConnectInfo>();
        Peer { address: text(info.and_then(TcpConnectInfo::remote_addr)), certified: None }
    }
}

pub(crate) fn text(address: Option<SocketAddr>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

async fn hold(permit: OwnedSemaphorePermit, stream: impl Future<Output = ()>) {
    stream.await;
    drop(permit);
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = Responses<StateOfTheWorld>;
    type DeltaAggregatedResourcesStream = Responses<Delta>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.open::<StateOfTheWorld>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.open::<Delta>(request)
    }
}
