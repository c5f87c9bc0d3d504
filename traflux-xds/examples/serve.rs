//! Serves a plan on loopback and rotates its weights.
//!
//! ```text
//! cargo run -p traflux-xds --example serve -- bootstrap > envoy.yaml    # then: envoy -c envoy.yaml
//! cargo run -p traflux-xds --example serve -- [seconds per step] [hosts] [http2] [listen address,…]
//! ```
//!
//! Backends are expected at 127.0.0.1:18081 and on; Envoy listens on 127.0.0.1:10010. The weights begin at
//! 70, 20, 10 and move round by one place at each step; 0 seconds keeps them. Of several listen addresses each
//! step takes the next, and the last stays: with `127.0.0.1,203.0.113.1,127.0.0.2` an Envoy refuses the second,
//! which it cannot bind.

use std::time::Duration;

use traflux_core::{
    Actuator as _, EndpointPlan, HostPlan, ListenerPlan, NodeGroup, ServicePlan, TrafficPlan, WeightRow,
};
use traflux_xds::{EnvoyBootstrap, NodeMatcher, XdsActuator, XdsEventKind, XdsOptions, envoy_bootstrap};

const GROUP: &str = "local";

fn plan(weights: &[u32], http2: bool, listen: &str) -> TrafficPlan {
    let endpoints = (0u16..).zip(weights).map(|(ix, _)| EndpointPlan {
        name: format!("ep{}", ix + 1),
        hosts: vec![HostPlan { address: "127.0.0.1".into(), port: 18_081 + ix }],
        region: None,
        tier: 0,
    });
    TrafficPlan::new(vec![ServicePlan {
        name: "checkout".into(),
        listener: Some(ListenerPlan { address: listen.into(), port: 10_010 }),
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        http2,
        endpoints: endpoints.collect(),
        rows: vec![WeightRow { group: NodeGroup(GROUP.into()), listener: None, weights: weights.to_vec() }],
    }])
}

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "an example talks to its reader")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |ix: usize, default: &'static str| arguments.get(ix).map_or(default, String::as_str);
    if argument(0, "2") == "bootstrap" {
        let envoy = EnvoyBootstrap {
            node_id: "edge-1".into(),
            group: GROUP.into(),
            admin: ([127, 0, 0, 1].into(), 19_001),
            ..EnvoyBootstrap::default()
        };
        print!("{}", envoy_bootstrap(&envoy)?);
        return Ok(());
    }
    let step = Duration::from_secs_f64(argument(0, "2").parse()?);
    let hosts: usize = argument(1, "3").parse()?;
    let http2 = argument(2, "http1") == "http2";
    let mut listens = argument(3, "127.0.0.1").split(',');
    let mut listen = listens.next().unwrap_or_default();

    let actuator = XdsActuator::new(NodeMatcher::by_zone(), XdsOptions::default())?;
    let server = actuator.bind("127.0.0.1:18000".parse()?).await?;
    let serving = tokio::spawn(server.serve(async {
        // Without a signal handler the process simply ends.
        let _ = tokio::signal::ctrl_c().await;
    }));

    let mut weights: Vec<u32> = [70, 20, 10].into_iter().chain(std::iter::repeat(10)).take(hosts).collect();
    let mut events = actuator.subscribe();
    actuator.apply(&plan(&weights, http2, listen)).await?;
    let mut rotate = tokio::time::interval(step.max(Duration::from_millis(1)));
    rotate.tick().await;
    while !serving.is_finished() {
        tokio::select! {
            Ok(event) = events.recv() => match event.what {
                XdsEventKind::InForce { plan, .. } => {
                    println!("{plan} in force, push to ACK {:?}", actuator.status().push_to_ack);
                }
                what => println!("{what:?}"),
            },
            _ = rotate.tick(), if !step.is_zero() => {
                weights.rotate_right(1);
                listen = listens.next().unwrap_or(listen);
                if let Err(error) = actuator.apply(&plan(&weights, http2, listen)).await {
                    println!("{}: {error}", error.code());
                }
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    println!("{:#?}", actuator.status());
    serving.await??;
    Ok(())
}
