//! Encryption, client certificates and their renewal.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::path::Path;

use common::certificates::{Authority, options};
use common::*;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use traflux_xds::{ResourceKind, TlsOptions};

async fn connect(
    served: &Served,
    authority: &Authority,
    identity: Option<(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("traflux.test");
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Endpoint::from_shared(format!("https://{}", served.address)).unwrap().tls_config(tls)?.connect().await
}

async fn subscribes(channel: Channel, id: &str) -> Result<(), tonic::Status> {
    let mut envoy = Sotw::open(channel, node(id, "eu")).await?;
    envoy.ask(ResourceKind::Cluster, &[], "", None).await;
    envoy.next().await.map(|response| assert_eq!(response.unwrap().resources.len(), 1))
}

#[tokio::test]
async fn a_node_connects_over_tls_and_not_without() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let served = serve(options(folder.path(), &authority, false, false)).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    subscribes(connect(&served, &authority, None).await.unwrap(), "edge-1").await.unwrap();
    assert!(connect(&served, &Authority::new(), None).await.is_err(), "another authority is not trusted");
    let plain = Endpoint::from_shared(format!("http://{}", served.address)).unwrap().connect().await;
    match plain {
        Err(_) => {}
        Ok(channel) => assert!(subscribes(channel, "edge-1").await.is_err()),
    }
}

#[tokio::test]
async fn with_a_client_authority_a_certificate_of_it_is_needed() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let served = serve(options(folder.path(), &authority, true, false)).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    let known = authority.issue(&["anyone"]);
    subscribes(connect(&served, &authority, Some(known)).await.unwrap(), "edge-1").await.unwrap();
    for identity in [None, Some(Authority::new().issue(&["anyone"]))] {
        // With TLS 1.3 the client learns of its rejection only when it first reads.
        if let Ok(channel) = connect(&served, &authority, identity).await {
            assert!(subscribes(channel, "edge-1").await.is_err());
        }
    }
}

#[tokio::test]
async fn the_node_id_must_stand_in_the_certificate_where_that_is_asked() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let served = serve(options(folder.path(), &authority, true, true)).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    for names in [&["other", "edge-1"][..], &["spiffe://mesh/ns/edge-1"][..]] {
        let channel = connect(&served, &authority, Some(authority.issue(names))).await.unwrap();
        subscribes(channel, "edge-1").await.unwrap();
    }
    let channel = connect(&served, &authority, Some(authority.issue(&["edge-2"]))).await.unwrap();
    let status = subscribes(channel, "edge-1").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(served.actuator.status().counters.unauthorized_nodes, 1);
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_and_a_broken_one_is_not() {
    let (folder, old) = (tempfile::tempdir().unwrap(), Authority::new());
    let served = serve(options(folder.path(), &old, false, false)).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    subscribes(connect(&served, &old, None).await.unwrap(), "edge-1").await.unwrap();

    let broken = folder.path().join("server.pem");
    std::fs::write(&broken, "half a certifi").unwrap();
    touch(&broken, 1);
    subscribes(connect(&served, &old, None).await.unwrap(), "edge-1").await.unwrap();

    let new = Authority::new();
    options(folder.path(), &new, false, false);
    touch(&broken, 2);
    subscribes(connect(&served, &new, None).await.unwrap(), "edge-1").await.unwrap();
    assert!(connect(&served, &old, None).await.is_err());
}

/// Two writes within one tick of the file system's clock would look like one.
fn touch(path: &Path, minutes: u64) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    let now = std::time::SystemTime::now();
    file.set_modified(now + std::time::Duration::from_secs(60 * minutes)).unwrap();
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_refused_at_the_start() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let good = options(folder.path(), &authority, false, false);
    let bind = |change: fn(&mut TlsOptions)| {
        let mut options = good.clone();
        change(options.server.tls.as_mut().unwrap());
        async move {
            let matcher = traflux_xds::NodeMatcher::by_zone();
            let actuator = traflux_xds::XdsActuator::new(matcher, options).unwrap();
            actuator.bind("127.0.0.1:0".parse().unwrap()).await.unwrap_err().to_string()
        }
    };
    assert!(bind(|tls| tls.key = "/nowhere.key".into()).await.starts_with("/nowhere.key: "));
    assert!(bind(|tls| tls.certificate = tls.key.clone()).await.ends_with("it holds no certificate"));
    assert!(bind(|tls| tls.authorize_node_id = true).await.contains("needs client_ca"));
}
