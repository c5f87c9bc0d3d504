//! A plan, a server on loopback, and a client that speaks both variants.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "helpers of tests, of which each file uses its part"
)]

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use traflux_core::{
    Actuator as _, EndpointPlan, HostPlan, ListenerPlan, NodeGroup, ServicePlan, TrafficPlan, WeightRow,
};
use traflux_xds::{NodeMatcher, ResourceKind, XdsActuator, XdsError, XdsOptions};

/// Nothing on loopback takes this long, however busy the machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn group(name: &str) -> NodeGroup {
    NodeGroup(name.into())
}

/// One service; each row is a group with its weights.
pub fn plan(rows: &[(&str, [u32; 2])], port: u16) -> TrafficPlan {
    let endpoint = |name: &str, port| EndpointPlan {
        name: name.into(),
        hosts: vec![HostPlan { address: "127.0.0.1".into(), port }],
        region: None,
        tier: 0,
    };
    TrafficPlan::new(vec![ServicePlan {
        name: "checkout".into(),
        listener: Some(ListenerPlan { address: "127.0.0.1".into(), port }),
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        http2: false,
        endpoints: vec![endpoint("a", 8081), endpoint("b", 8082)],
        rows: rows
            .iter()
            .map(|(g, weights)| WeightRow { group: group(g), listener: None, weights: weights.to_vec() })
            .collect(),
    }])
}

pub struct Served {
    pub actuator: XdsActuator,
    pub address: std::net::SocketAddr,
    pub stop: Option<oneshot::Sender<()>>,
    pub serving: JoinHandle<Result<(), XdsError>>,
}

pub async fn serve(options: XdsOptions) -> Served {
    let actuator = XdsActuator::new(NodeMatcher::by_zone(), options).unwrap();
    let server = actuator.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.local_address();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(server.serve(async { stopped.await.unwrap_or(()) }));
    Served { actuator, address, stop: Some(stop), serving }
}

impl Served {
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    /// Waits until a group has this plan in force.
    pub async fn in_force(&self, name: &str, plan: &TrafficPlan) {
        let reached = async {
            let mut events = self.actuator.subscribe();
            while self.actuator.in_force(&group(name)).map(|f| f.version).as_ref() != Some(plan.version()) {
                events.recv().await.unwrap();
            }
        };
        if timeout(PATIENCE, reached).await.is_err() {
            panic!("not in force in time: {:#?}", self.actuator.status());
        }
    }
}

pub fn node(id: &str, zone: &str) -> Node {
    Node {
        id: id.into(),
        cluster: "edge".into(),
        locality: Some(Locality { zone: zone.into(), ..Locality::default() }),
        ..Node::default()
    }
}

fn refusal(words: &str) -> rpc::Status {
    rpc::Status { code: 13, message: words.into(), ..rpc::Status::default() }
}

/// A client of the state of the world.
pub struct Sotw {
    node: Option<Node>,
    requests: mpsc::Sender<DiscoveryRequest>,
    pub responses: Streaming<DiscoveryResponse>,
}

impl Sotw {
    pub async fn open(channel: Channel, node: Node) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.stream_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { node: Some(node), requests, responses })
    }

    pub async fn ask(&mut self, kind: ResourceKind, names: &[&str], nonce: &str, error: Option<&str>) {
        let request = DiscoveryRequest {
            node: self.node.take(),
            resource_names: names.iter().map(|n| (*n).to_owned()).collect(),
            type_url: kind.type_url().into(),
            response_nonce: nonce.into(),
            error_detail: error.map(refusal),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub async fn ask_for(&mut self, type_url: &str) {
        let node = self.node.take();
        let request = DiscoveryRequest { node, type_url: type_url.into(), ..DiscoveryRequest::default() };
        self.requests.send(request).await.unwrap();
    }

    pub async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        timeout(PATIENCE, self.responses.message()).await.expect("the server answers")
    }

    pub async fn take(&mut self, kind: ResourceKind) -> DiscoveryResponse {
        let response = self.next().await.unwrap().expect("a response");
        assert_eq!(response.type_url, kind.type_url());
        response
    }

    /// Asks for and acknowledges everything, as Envoy does.
    pub async fn settle(&mut self) {
        for (kind, names) in everything() {
            self.ask(kind, names, "", None).await;
            let response = self.take(kind).await;
            self.ask(kind, names, &response.nonce, None).await;
        }
    }
}

pub fn everything() -> [(ResourceKind, &'static [&'static str]); 4] {
    [
        (ResourceKind::Cluster, &[]),
        (ResourceKind::Endpoint, &["checkout"]),
        (ResourceKind::Listener, &[]),
        (ResourceKind::Route, &["route/checkout"]),
    ]
}

/// An incremental client.
pub struct Delta {
    node: Option<Node>,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub responses: Streaming<DeltaDiscoveryResponse>,
}

impl Delta {
    pub async fn open(channel: Channel, node: Node) -> Result<Self, Status> {
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { node: Some(node), requests, responses })
    }

    pub async fn ask(&mut self, kind: ResourceKind, names: &[&str], held: &[(&str, &str)]) {
        let request = DeltaDiscoveryRequest {
            node: self.node.take(),
            resource_names_subscribe: names.iter().map(|n| (*n).to_owned()).collect(),
            initial_resource_versions: held.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            type_url: kind.type_url().into(),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub async fn answer(&mut self, kind: ResourceKind, nonce: &str, error: Option<&str>) {
        let request = DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            response_nonce: nonce.into(),
            error_detail: error.map(refusal),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(request).await.unwrap();
    }

    pub async fn take(&mut self, kind: ResourceKind) -> DeltaDiscoveryResponse {
        let response = timeout(PATIENCE, self.responses.message()).await.expect("the server answers");
        let response = response.unwrap().expect("a response");
        assert_eq!(response.type_url, kind.type_url());
        response
    }
}

pub async fn apply(served: &Served, plan: &TrafficPlan) {
    assert!(served.actuator.apply(plan).await.unwrap().changed);
}

/// Certificates for tests.
#[cfg(feature = "tls")]
pub mod certificates {
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
    use traflux_xds::{ServerOptions, TlsOptions, XdsOptions};

    pub struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        pub fn new() -> Self {
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            // Of its own name: with the default a certificate would seem to be issued by itself.
            parameters.distinguished_name.push(DnType::CommonName, "authority of the tests");
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
        }

        pub fn pem(&self) -> String {
            self.0.pem()
        }

        /// A certificate and its key for these names; those with a scheme are URIs.
        pub fn issue(&self, names: &[&str]) -> (String, String) {
            let key = KeyPair::generate().unwrap();
            let mut parameters = CertificateParams::new(Vec::new()).unwrap();
            parameters.subject_alt_names = names
                .iter()
                .map(|name| match name.contains("://") {
                    true => SanType::URI((*name).try_into().unwrap()),
                    false => SanType::DnsName((*name).try_into().unwrap()),
                })
                .collect();
            let certificate = parameters.signed_by(&key, &self.0).unwrap();
            (certificate.pem(), key.serialize_pem())
        }
    }

    /// Server options with certificates in a folder: `server.pem`, `server.key`, `ca.pem`.
    pub fn options(
        folder: &Path,
        authority: &Authority,
        client_ca: bool,
        authorize_node_id: bool,
    ) -> XdsOptions {
        let (certificate, key) = authority.issue(&["traflux.test"]);
        std::fs::write(folder.join("server.pem"), certificate).unwrap();
        std::fs::write(folder.join("server.key"), key).unwrap();
        std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
        let tls = TlsOptions {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            client_ca: client_ca.then(|| folder.join("ca.pem")),
            authorize_node_id,
        };
        let server = ServerOptions { tls: Some(tls), ..ServerOptions::default() };
        XdsOptions { server, ..XdsOptions::default() }
    }
}
