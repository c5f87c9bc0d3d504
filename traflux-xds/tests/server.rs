//! The discovery server against clients in this process.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]

mod common;

use std::time::Duration;

use common::*;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use prost::Message as _;
use tonic::Code;
use traflux_core::{ActuateError, Actuator as _};
use traflux_xds::{ResourceKind, ServerOptions, XdsEventKind, XdsOptions};

fn weights(bytes: &[u8]) -> Vec<u32> {
    let assignment = ClusterLoadAssignment::decode(bytes).unwrap();
    assignment.endpoints.iter().map(|l| l.load_balancing_weight.unwrap().value).collect()
}

#[tokio::test]
async fn a_node_takes_everything_and_the_plan_is_in_force() {
    let served = serve(XdsOptions::default()).await;
    let first = plan(&[("eu", [70, 30])], 10_000);
    apply(&served, &first).await;
    assert_eq!(served.actuator.in_force(&group("eu")), None, "nobody is connected");
    let mut envoy = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    envoy.settle().await;
    served.in_force("eu", &first).await;

    let second = plan(&[("eu", [60, 40])], 10_000);
    apply(&served, &second).await;
    let endpoints = envoy.take(ResourceKind::Endpoint).await;
    assert_eq!(weights(&endpoints.resources[0].value), [60, 40]);
    assert_eq!(served.actuator.in_force(&group("eu")).unwrap().version, *first.version());
    envoy.ask(ResourceKind::Endpoint, &["checkout"], &endpoints.nonce, None).await;
    served.in_force("eu", &second).await;

    let again = served.actuator.apply(&second).await.unwrap();
    assert!(!again.changed);
    let status = served.actuator.status();
    assert_eq!(status.nodes.len(), 1);
    assert!(status.nodes[0].in_sync);
    assert_eq!(status.counters.acks[&ResourceKind::Endpoint], 2);
    assert_eq!(status.push_to_ack.count, 5);
    assert!(serde_json::to_string(&status).unwrap().contains("\"edge-1\""));
}

#[tokio::test]
async fn an_incremental_node_gets_what_changed_and_after_a_reconnect_only_that() {
    let served = serve(XdsOptions::default()).await;
    let first = plan(&[("eu", [70, 30])], 10_000);
    apply(&served, &first).await;
    let mut envoy = Delta::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    let mut held = Vec::new();
    for (kind, names) in everything() {
        envoy.ask(kind, names, &[]).await;
        let response = envoy.take(kind).await;
        envoy.answer(kind, &response.nonce, None).await;
        assert_eq!(response.resources.len(), 1);
        held.push((kind, response.resources[0].name.clone(), response.resources[0].version.clone()));
    }
    served.in_force("eu", &first).await;
    let second = plan(&[("eu", [60, 40])], 10_000);
    apply(&served, &second).await;
    let endpoints = envoy.take(ResourceKind::Endpoint).await;
    assert_eq!(weights(&endpoints.resources[0].resource.as_ref().unwrap().value), [60, 40]);
    drop(envoy);

    // It never acknowledged the second; on the new stream it says what it holds.
    let mut envoy = Delta::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    for ((kind, names), (_, name, version)) in everything().into_iter().zip(&held) {
        envoy.ask(kind, names, &[(name, version)]).await;
        let response = envoy.take(kind).await;
        assert_eq!(response.resources.len(), usize::from(kind == ResourceKind::Endpoint));
        envoy.answer(kind, &response.nonce, None).await;
    }
    served.in_force("eu", &second).await;
}

#[tokio::test]
async fn a_group_that_is_gone_does_not_hold_up_another() {
    let served = serve(XdsOptions::default()).await;
    let first = plan(&[("eu", [70, 30]), ("us", [1, 9])], 10_000);
    apply(&served, &first).await;
    let mut eu = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    let mut us = Sotw::open(served.channel().await, node("edge-2", "us")).await.unwrap();
    eu.settle().await;
    us.settle().await;
    served.in_force("eu", &first).await;
    served.in_force("us", &first).await;
    drop(us);
    let second = plan(&[("eu", [60, 40]), ("us", [2, 8])], 10_000);
    apply(&served, &second).await;
    let endpoints = eu.take(ResourceKind::Endpoint).await;
    eu.ask(ResourceKind::Endpoint, &["checkout"], &endpoints.nonce, None).await;
    served.in_force("eu", &second).await;
}

#[tokio::test]
async fn a_refused_listener_is_sent_once_and_the_next_good_one_is_taken() {
    let served = serve(XdsOptions::default()).await;
    let good = plan(&[("eu", [70, 30])], 10_000);
    apply(&served, &good).await;
    let mut envoy = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    envoy.settle().await;
    served.in_force("eu", &good).await;

    let bad = plan(&[("eu", [60, 40])], 10_001);
    apply(&served, &bad).await;
    let endpoints = envoy.take(ResourceKind::Endpoint).await;
    envoy.ask(ResourceKind::Endpoint, &["checkout"], &endpoints.nonce, None).await;
    let refused = envoy.take(ResourceKind::Listener).await;
    envoy.ask(ResourceKind::Listener, &[], &refused.nonce, Some(&"x".repeat(5000))).await;
    // The last known good listener is sent again; the weights stay those of the new plan.
    let restored = envoy.take(ResourceKind::Listener).await;
    assert_ne!(restored.version_info, refused.version_info);
    envoy.ask(ResourceKind::Listener, &[], &restored.nonce, None).await;

    let again = served.actuator.apply(&bad).await.unwrap_err();
    assert!(matches!(again, ActuateError::Refused { .. }), "{again}");
    assert_eq!(served.actuator.in_force(&group("eu")).unwrap().version, *good.version());
    let status = served.actuator.status();
    assert_eq!(status.counters.nacks[&ResourceKind::Listener], 1);
    assert_eq!(status.counters.rollbacks, 1);
    assert_eq!(status.groups[0].parked[0].reason.len(), 512);
    assert!(status.groups[0].rolled_back);

    let next = plan(&[("eu", [50, 50])], 10_002);
    apply(&served, &next).await;
    let endpoints = envoy.take(ResourceKind::Endpoint).await;
    envoy.ask(ResourceKind::Endpoint, &["checkout"], &endpoints.nonce, None).await;
    let taken = envoy.take(ResourceKind::Listener).await;
    assert_ne!(taken.version_info, refused.version_info);
    envoy.ask(ResourceKind::Listener, &[], &taken.nonce, None).await;
    served.in_force("eu", &next).await;
    assert!(!served.actuator.status().groups[0].rolled_back);
    let told = served.actuator.events();
    assert!(told.iter().any(|e| matches!(&e.what, XdsEventKind::RolledBack { .. })));
}

#[tokio::test]
async fn a_node_without_a_group_is_refused_and_counted() {
    let served = serve(XdsOptions::default()).await;
    let mut stranger = Sotw::open(served.channel().await, node("edge-1", "")).await.unwrap();
    stranger.ask(ResourceKind::Cluster, &[], "", None).await;
    let status = stranger.next().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "node `edge-1`: no rule gives it a group");
    assert_eq!(served.actuator.status().counters.unknown_nodes, 1);
}

#[tokio::test]
async fn a_plan_that_does_not_compile_is_refused_and_what_is_in_force_stays() {
    let served = serve(XdsOptions::default()).await;
    let good = plan(&[("eu", [70, 30])], 10_000);
    apply(&served, &good).await;
    let mut envoy = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    envoy.settle().await;
    served.in_force("eu", &good).await;
    let error = served.actuator.apply(&plan(&[("eu", [0, 0])], 10_000)).await.unwrap_err();
    assert_eq!(error.code(), "actuate_compile");
    assert_eq!(served.actuator.in_force(&group("eu")).unwrap().version, *good.version());
}

#[tokio::test]
async fn a_group_that_loses_its_row_keeps_what_it_has() {
    let served = serve(XdsOptions::default()).await;
    let both = plan(&[("eu", [70, 30]), ("us", [1, 9])], 10_000);
    apply(&served, &both).await;
    apply(&served, &plan(&[("us", [1, 9])], 10_000)).await;
    let mut envoy = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    envoy.settle().await;
    served.in_force("eu", &both).await;
}

#[tokio::test]
async fn more_streams_than_the_limit_are_refused() {
    let server = ServerOptions { max_streams: 1, ..ServerOptions::default() };
    let served = serve(XdsOptions { server, ..XdsOptions::default() }).await;
    let _first = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    let error = Sotw::open(served.channel().await, node("edge-2", "eu")).await.err().unwrap();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(served.actuator.status().counters.excess_streams, 1);
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_ended() {
    let server = ServerOptions { ack_deadline: Duration::from_millis(50), ..ServerOptions::default() };
    let served = serve(XdsOptions { server, ..XdsOptions::default() }).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    let mut silent = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    silent.ask(ResourceKind::Cluster, &[], "", None).await;
    silent.take(ResourceKind::Cluster).await;
    assert_eq!(silent.next().await.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(served.actuator.status().counters.slow_streams, 1);
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_ignored() {
    let served = serve(XdsOptions::default()).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    let mut envoy = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    envoy.ask_for("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret").await;
    envoy.ask(ResourceKind::Cluster, &[], "", None).await;
    envoy.take(ResourceKind::Cluster).await;
    assert_eq!(served.actuator.status().counters.unknown_kinds, 1);
}

#[tokio::test]
async fn on_shutdown_streams_end_and_serving_returns() {
    let mut served = serve(XdsOptions::default()).await;
    apply(&served, &plan(&[("eu", [70, 30])], 10_000)).await;
    let mut envoy = Sotw::open(served.channel().await, node("edge-1", "eu")).await.unwrap();
    envoy.settle().await;
    served.stop.take();
    assert!(envoy.next().await.unwrap().is_none(), "the stream ends without an error");
    drop(envoy);
    tokio::time::timeout(PATIENCE, served.serving).await.unwrap().unwrap().unwrap();
    assert!(served.actuator.status().nodes.is_empty());
}
