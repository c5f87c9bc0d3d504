//! How do the two variants of the protocol look on the wire?

use std::collections::BTreeMap;

use tonic::Status;

use crate::proto::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DeltaResource, DiscoveryRequest, DiscoveryResponse,
    Node,
};
use crate::resource::{Resource, ResourceKind, ResourceVersion};
use crate::stream::{Names, Protocol, Request, Response};

/// One variant.
pub(crate) trait Wire: Send + 'static {
    const PROTOCOL: Protocol;
    type In: Send + 'static;
    type Out: Send + 'static;

    /// Takes the node, which only the first request of a stream must bear.
    fn node(message: &mut Self::In) -> Option<Node>;

    /// Reads a request; the type URL when that kind is not served.
    fn request(message: Self::In) -> Result<Request, String>;

    fn response(response: Response) -> Self::Out;
}

pub(crate) struct StateOfTheWorld;
pub(crate) struct Delta;

impl Wire for StateOfTheWorld {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;
    type In = DiscoveryRequest;
    type Out = DiscoveryResponse;

    fn node(message: &mut DiscoveryRequest) -> Option<Node> {
        message.node.take()
    }

    fn request(message: DiscoveryRequest) -> Result<Request, String> {
        let Some(kind) = ResourceKind::from_type_url(&message.type_url) else { return Err(message.type_url) };
        Ok(Request {
            kind,
            nonce: message.response_nonce,
            error: message.error_detail.map(|status| status.message),
            names: Names::All(message.resource_names),
        })
    }

    fn response(response: Response) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: response.version.as_str().to_owned(),
            resources: response.resources.iter().map(|(_, r)| any(response.kind, r)).collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            ..DiscoveryResponse::default()
        }
    }
}

impl Wire for Delta {
    const PROTOCOL: Protocol = Protocol::Delta;
    type In = DeltaDiscoveryRequest;
    type Out = DeltaDiscoveryResponse;

    fn node(message: &mut DeltaDiscoveryRequest) -> Option<Node> {
        message.node.take()
    }

    fn request(message: DeltaDiscoveryRequest) -> Result<Request, String> {
        let Some(kind) = ResourceKind::from_type_url(&message.type_url) else { return Err(message.type_url) };
        let held: BTreeMap<String, ResourceVersion> = message
            .initial_resource_versions
            .into_iter()
            .map(|(name, version)| (name, ResourceVersion::new(&version)))
            .collect();
        Ok(Request {
            kind,
            nonce: message.response_nonce,
            error: message.error_detail.map(|status| status.message),
            names: Names::Change {
                subscribe: message.resource_names_subscribe,
                unsubscribe: message.resource_names_unsubscribe,
                held,
            },
        })
    }

    fn response(response: Response) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse {
            system_version_info: response.version.as_str().to_owned(),
            resources: response
                .resources
                .iter()
                .map(|(name, r)| DeltaResource {
                    name: name.clone(),
                    version: r.version().as_str().to_owned(),
                    resource: Some(any(response.kind, r)),
                    ..DeltaResource::default()
                })
                .collect(),
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed,
            nonce: response.nonce,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

fn any(kind: ResourceKind, resource: &Resource) -> Any {
    Any { type_url: kind.type_url().to_owned(), value: resource.body().to_vec() }
}

/// What goes to one client.
pub(crate) type Outgoing<W> = Result<<W as Wire>::Out, Status>;
