use traflux_core::{EndpointPlan, ListenerPlan, WeightRow};

use super::*;

fn endpoint(name: &str, ports: &[u16]) -> EndpointPlan {
    EndpointPlan {
        name: name.into(),
        hosts: ports.iter().map(|port| HostPlan { address: "127.0.0.1".into(), port: *port }).collect(),
        region: None,
        tier: 0,
    }
}

fn row(group: &str, weights: &[u32]) -> WeightRow {
    WeightRow { group: NodeGroup(group.into()), listener: None, weights: weights.to_vec() }
}

fn service(name: &str) -> ServicePlan {
    ServicePlan {
        name: name.into(),
        listener: Some(ListenerPlan { address: "127.0.0.1".into(), port: 10_000 }),
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_millis(500),
        http2: false,
        endpoints: vec![endpoint("aws.eu:1", &[8081]), endpoint("gcp-1", &[8082])],
        rows: vec![row("eu", &[70, 30]), row("us", &[10, 0])],
    }
}

fn compiled(services: Vec<ServicePlan>) -> Result<BTreeMap<NodeGroup, Snapshot>, XdsError> {
    compile(&TrafficPlan::new(services), &CompileOptions::default())
}

fn code(services: Vec<ServicePlan>) -> &'static str {
    compiled(services).expect_err("refused").code()
}

fn decode<M: Message + Default>(snapshot: &Snapshot, kind: ResourceKind, name: &str) -> M {
    M::decode(snapshot.set(kind).get(name).expect("published").body()).expect("our own encoding")
}

#[test]
fn each_endpoint_is_a_zone_and_its_integer_stands_twice() {
    let snapshots = compiled(vec![service("checkout")]).unwrap();
    let eu = &snapshots[&NodeGroup("eu".into())];
    let assignment: ClusterLoadAssignment = decode(eu, ResourceKind::Endpoint, "checkout");
    let seen: Vec<_> = assignment
        .endpoints
        .iter()
        .map(|l| {
            let locality = l.locality.as_ref().unwrap();
            (
                locality.region.as_str(),
                locality.zone.as_str(),
                l.load_balancing_weight.unwrap().value,
                l.lb_endpoints[0].load_balancing_weight.unwrap().value,
            )
        })
        .collect();
    assert_eq!(seen, [("checkout", "aws_eu_1", 70, 70), ("checkout", "gcp-1", 30, 30)]);
}

#[test]
fn each_group_gets_its_own_row_and_weight_zero_is_left_out() {
    let snapshots = compiled(vec![service("checkout")]).unwrap();
    let us: ClusterLoadAssignment =
        decode(&snapshots[&NodeGroup("us".into())], ResourceKind::Endpoint, "checkout");
    assert_eq!(us.endpoints.len(), 1);
    let [eu, us] = ["eu", "us"].map(|g| &snapshots[&NodeGroup(g.into())]);
    for kind in [ResourceKind::Cluster, ResourceKind::Listener, ResourceKind::Route] {
        assert_eq!(eu.set(kind), us.set(kind), "only endpoints differ by group");
    }
}

#[test]
fn the_listener_leads_to_the_route_and_that_to_the_cluster() {
    let snapshots = compiled(vec![service("check.out")]).unwrap();
    let eu = &snapshots[&NodeGroup("eu".into())];
    let listener: Listener = decode(eu, ResourceKind::Listener, "listener/check_out");
    let Some(filter::ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type else {
        panic!("a typed filter");
    };
    let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    let Some(http_connection_manager::RouteSpecifier::Rds(rds)) = manager.route_specifier else {
        panic!("routes by RDS");
    };
    let route: RouteConfiguration = decode(eu, ResourceKind::Route, &rds.route_config_name);
    let Some(route::Action::Route(action)) = &route.virtual_hosts[0].routes[0].action else {
        panic!("a route");
    };
    assert_eq!(action.timeout.unwrap().seconds, 2);
    let cluster = Some(route_action::ClusterSpecifier::Cluster("check_out".into()));
    assert_eq!(action.cluster_specifier, cluster);
    let cluster: Cluster = decode(eu, ResourceKind::Cluster, "check_out");
    assert_eq!(cluster.connect_timeout.unwrap().nanos, 500_000_000);
}

#[test]
fn a_grpc_client_finds_a_listener_under_the_bare_name_that_a_wildcard_does_not_see() {
    let snapshots = compiled(vec![service("check.out")]).unwrap();
    let eu = &snapshots[&NodeGroup("eu".into())];
    assert!(eu.set(ResourceKind::Listener).get("check.out").unwrap().is_on_request_only());
    let listener: Listener = decode(eu, ResourceKind::Listener, "check.out");
    assert!(listener.api_listener.is_some() && listener.address.is_none());
}

#[test]
fn without_a_listener_only_grpc_clients_get_one() {
    let mut one = service("checkout");
    one.listener = None;
    let plan = TrafficPlan::new(vec![one]);
    let counts = |options: &CompileOptions| {
        let snapshots = compile(&plan, options).unwrap();
        ResourceKind::ALL.map(|kind| snapshots[&NodeGroup("eu".into())].set(kind).resources().len())
    };
    assert_eq!(counts(&CompileOptions::default()), [1, 1, 1, 1]);
    let without = CompileOptions { grpc_listeners: false, ..CompileOptions::default() };
    assert_eq!(counts(&without), [1, 1, 0, 0]);
}

#[test]
fn a_group_may_listen_elsewhere_and_two_groups_at_one_address() {
    let mut one = service("checkout");
    one.rows[1].listener = Some(ListenerPlan { address: "127.0.0.1".into(), port: 10_001 });
    let snapshots = compiled(vec![one]).unwrap();
    let port = |group: &str| {
        let snapshot = &snapshots[&NodeGroup(group.into())];
        let listener: Listener = decode(snapshot, ResourceKind::Listener, "listener/checkout");
        let Some(address::Address::SocketAddress(socket)) = listener.address.unwrap().address else {
            panic!("a socket");
        };
        socket.port_specifier
    };
    assert_eq!(port("eu"), Some(socket_address::PortSpecifier::PortValue(10_000)));
    assert_eq!(port("us"), Some(socket_address::PortSpecifier::PortValue(10_001)));
    let mut other = service("other");
    other.rows.clear();
    assert!(compiled(vec![service("checkout"), other]).is_ok(), "a service without rows listens nowhere");
}

#[test]
fn a_change_of_weights_changes_the_version_of_endpoints_only() {
    let one = compiled(vec![service("checkout")]).unwrap();
    let mut other = service("checkout");
    other.rows[0].weights = vec![60, 40];
    let other = compiled(vec![other]).unwrap();
    let group = NodeGroup("eu".into());
    let differs = ResourceKind::ALL.map(|k| one[&group].set(k).version() != other[&group].set(k).version());
    assert_eq!(differs, [false, true, false, false]);
    let us = NodeGroup("us".into());
    assert!(one[&us].same_content(&other[&us]), "the other group is not touched");
}

#[test]
fn compiling_twice_gives_the_same_bytes() {
    let services = || {
        (0..20).map(|ix| {
            let mut one = service(&format!("s{ix}"));
            one.listener = None;
            one
        })
    };
    assert_eq!(compiled(services().collect()).unwrap(), compiled(services().collect()).unwrap());
}

#[test]
fn hosts_of_one_endpoint_share_its_locality() {
    let mut one = service("checkout");
    one.endpoints = vec![endpoint("cluster-a", &[1, 2, 3]), endpoint("cluster-b", &[4])];
    one.endpoints[0].region = Some("eu-west-1".into());
    let snapshots = compiled(vec![one]).unwrap();
    let eu: ClusterLoadAssignment =
        decode(&snapshots[&NodeGroup("eu".into())], ResourceKind::Endpoint, "checkout");
    assert_eq!(eu.endpoints[0].locality.as_ref().unwrap().region, "eu-west-1");
    let hosts: Vec<u32> =
        eu.endpoints[0].lb_endpoints.iter().map(|h| h.load_balancing_weight.unwrap().value).collect();
    assert_eq!(hosts, [70, 70, 70]);
    assert_eq!(eu.endpoints[0].load_balancing_weight.unwrap().value, 210);
    assert_eq!(eu.endpoints[1].load_balancing_weight.unwrap().value, 90);
}

#[test]
fn what_a_proxy_would_refuse_is_refused_here() {
    let with = |change: fn(&mut ServicePlan)| {
        let mut one = service("checkout");
        change(&mut one);
        code(vec![one])
    };
    assert_eq!(with(|s| s.name.clear()), "xds_empty_name");
    assert_eq!(with(|s| s.endpoints[0].name.clear()), "xds_empty_name");
    assert_eq!(with(|s| s.rows[0].group.0.clear()), "xds_empty_name");
    assert_eq!(with(|s| s.endpoints[1].name = "aws.eu:1".into()), "xds_duplicate");
    assert_eq!(with(|s| s.endpoints[1].name = "aws_eu.1".into()), "xds_name_collision");
    assert_eq!(with(|s| s.rows[1].group.0 = "eu".into()), "xds_duplicate");
    assert_eq!(with(|s| s.endpoints[1].hosts[0].port = 8081), "xds_duplicate");
    assert_eq!(with(|s| s.endpoints[1].hosts.clear()), "xds_no_host");
    assert_eq!(with(|s| s.endpoints[1].hosts[0].address = "host.example".into()), "xds_address");
    assert_eq!(with(|s| s.endpoints[1].hosts[0].port = 0), "xds_port");
    assert_eq!(with(|s| s.listener.as_mut().unwrap().address = "localhost".into()), "xds_address");
    assert_eq!(with(|s| s.listener.as_mut().unwrap().port = 0), "xds_port");
    assert_eq!(with(|s| s.rows[0].weights = vec![0, 0]), "xds_empty_row");
    assert_eq!(with(|s| s.rows[0].weights = vec![1]), "xds_row_shape");
    assert_eq!(with(|s| s.rows[0].weights = vec![u32::MAX, 1]), "xds_weight_sum");
    assert_eq!(with(|s| s.timeout = Duration::ZERO), "xds_duration_range");
    assert_eq!(with(|s| s.connect_timeout = Duration::MAX), "xds_duration_range");
    assert_eq!(code(vec![service("a.b"), service("a_b")]), "xds_name_collision");
    assert_eq!(code(vec![service("a"), service("a")]), "xds_duplicate");
    assert_eq!(code(vec![service("a"), service("b")]), "xds_listener_conflict");
}

#[test]
fn an_option_outside_its_limits_is_refused_with_value_and_limit() {
    let options = CompileOptions { panic_threshold_percent: 101, ..CompileOptions::default() };
    let error = compile(&TrafficPlan::new(vec![]), &options).unwrap_err();
    assert_eq!(error.to_string(), "option panic_threshold_percent is 101, which is outside [0, 100]");
}

#[test]
fn the_type_urls_are_those_of_the_messages() {
    use prost::Name;
    let urls = [
        Cluster::type_url(),
        ClusterLoadAssignment::type_url(),
        Listener::type_url(),
        RouteConfiguration::type_url(),
    ];
    assert_eq!(ResourceKind::ALL.map(|kind| kind.type_url().to_owned()), urls);
}

#[test]
fn ten_thousand_endpoints_compile() {
    let mut one = service("checkout");
    one.endpoints = (0..10_000u32)
        .map(|ix| EndpointPlan {
            name: format!("e{ix}"),
            hosts: vec![HostPlan { address: format!("10.{}.{}.1", ix / 250, ix % 250), port: 80 }],
            region: None,
            tier: 0,
        })
        .collect();
    one.rows = vec![row("eu", &vec![7; 10_000])];
    let snapshots = compiled(vec![one]).unwrap();
    let eu: ClusterLoadAssignment =
        decode(&snapshots[&NodeGroup("eu".into())], ResourceKind::Endpoint, "checkout");
    assert_eq!(eu.endpoints.len(), 10_000);
}

#[test]
fn a_plan_without_services_compiles_to_nothing() {
    assert!(compiled(vec![]).unwrap().is_empty());
}
