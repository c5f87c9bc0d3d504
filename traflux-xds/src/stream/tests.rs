use traflux_core::PlanVersion;

use super::*;
use crate::resource::ResourceSet;

use ResourceKind::{Cluster, Endpoint, Listener, Route};

fn at(second: u64) -> Timestamp {
    Timestamp::new(Duration::from_secs(second))
}

/// A snapshot of resources `(name, content)` by kind.
fn snapshot(parts: [&[(&str, u8)]; 4]) -> Arc<Snapshot> {
    let sets = parts.map(|part| {
        ResourceSet::new(part.iter().map(|(n, byte)| ((*n).to_owned(), Resource::new(vec![*byte]))).collect())
    });
    Arc::new(Snapshot::new(PlanVersion::new("p"), sets))
}

fn usual(weights: u8) -> Arc<Snapshot> {
    snapshot([&[("a", 1)], &[("a", weights)], &[("l", 1)], &[("r", 1)]])
}

/// A client of one stream, for the state of the world.
struct Client(XdsStream);

impl Client {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut stream = XdsStream::new(Protocol::StateOfTheWorld, StreamLimits::default());
        stream.set_snapshot(snapshot);
        Self(stream)
    }

    fn ask(&mut self, kind: ResourceKind, names: &[&str], nonce: &str) -> Outcome {
        let names = Names::All(names.iter().map(|n| (*n).to_owned()).collect());
        self.0.on_request(Request { kind, nonce: nonce.to_owned(), error: None, names })
    }

    fn refuse(&mut self, kind: ResourceKind, names: &[&str], nonce: &str) -> Outcome {
        let names = Names::All(names.iter().map(|n| (*n).to_owned()).collect());
        let error = Some("bad".to_owned());
        self.0.on_request(Request { kind, nonce: nonce.to_owned(), error, names })
    }

    fn next(&mut self) -> Option<Response> {
        self.0.next_response(at(0))
    }

    fn take(&mut self, kind: ResourceKind) -> Response {
        let response = self.next().expect("a response is due");
        assert_eq!(response.kind, kind);
        response
    }

    /// Starts as Envoy does and acknowledges everything.
    fn settled(snapshot: Arc<Snapshot>) -> Self {
        let mut client = Self::new(snapshot);
        for (kind, names) in
            [(Cluster, &[][..]), (Endpoint, &["a"][..]), (Listener, &[][..]), (Route, &["r"][..])]
        {
            client.ask(kind, names, "");
            let response = client.take(kind);
            client.ask(kind, names, &response.nonce);
        }
        assert_eq!(client.next(), None);
        assert!(client.0.is_in_sync());
        client
    }
}

fn contents(response: &Response) -> Vec<(&str, u8)> {
    response.resources.iter().map(|(name, r)| (name.as_str(), r.body()[0])).collect()
}

#[test]
fn a_request_before_the_first_snapshot_is_answered_when_it_comes() {
    let mut client = Client(XdsStream::new(Protocol::StateOfTheWorld, StreamLimits::default()));
    client.ask(Cluster, &[], "");
    assert_eq!(client.next(), None);
    client.0.set_snapshot(usual(1));
    assert_eq!(contents(&client.take(Cluster)), [("a", 1)]);
}

#[test]
fn an_ack_is_not_answered_and_the_same_snapshot_is_not_sent_again() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(usual(1));
    assert_eq!(client.next(), None);
    assert!(client.0.is_in_sync());
}

#[test]
fn a_change_of_weights_sends_endpoints_only() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(usual(2));
    assert!(!client.0.is_in_sync());
    let response = client.take(Endpoint);
    assert_eq!(contents(&response), [("a", 2)]);
    assert_eq!(client.next(), None);
    client.ask(Endpoint, &["a"], &response.nonce);
    assert!(client.0.is_in_sync());
}

#[test]
fn a_stale_nonce_is_ignored_together_with_its_names() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(usual(2));
    let newest = client.take(Endpoint);
    assert_eq!(client.ask(Endpoint, &["a", "b"], "1"), Outcome::Stale);
    assert_eq!(client.refuse(Endpoint, &["a"], "1"), Outcome::Stale);
    assert!(client.0.oldest_in_flight().is_some(), "the newest still waits for its answer");
    assert!(matches!(client.ask(Endpoint, &["a"], &newest.nonce), Outcome::Acknowledged { .. }));
}

#[test]
fn only_the_newest_of_several_snapshots_is_sent() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(usual(2));
    let two = client.take(Endpoint);
    for weights in 3..=9 {
        client.0.set_snapshot(usual(weights));
        assert_eq!(client.next(), None, "one response of a kind is in flight at a time");
    }
    client.ask(Endpoint, &["a"], &two.nonce);
    assert_eq!(contents(&client.take(Endpoint)), [("a", 9)]);
    assert_eq!(client.0.coalesced(), 6, "3 to 8 were never sent");
}

#[test]
fn a_refused_version_is_parked_until_the_content_changes() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(usual(2));
    let bad = client.take(Endpoint);
    let Outcome::Refused { suspects, reason, .. } = client.refuse(Endpoint, &["a"], &bad.nonce) else {
        panic!("a request with an error refuses");
    };
    assert_eq!(reason, "bad");
    assert_eq!(suspects, [("a".to_owned(), bad.resources[0].1.version().clone())]);
    assert_eq!(client.next(), None);
    client.0.set_snapshot(usual(2));
    assert_eq!(client.next(), None);
    assert!(!client.0.is_in_sync());

    // What the client holds of the refused response is unknown: older content is sent again.
    client.0.set_snapshot(usual(1));
    let good = client.take(Endpoint);
    assert_eq!(contents(&good), [("a", 1)]);
    client.ask(Endpoint, &["a"], &good.nonce);
    assert!(client.0.is_in_sync());

    client.0.set_snapshot(usual(2));
    assert_eq!(client.next(), None, "parked still");
    client.0.set_snapshot(usual(3));
    assert_eq!(contents(&client.take(Endpoint)), [("a", 3)]);
}

#[test]
fn a_refusal_with_the_version_of_success_is_a_refusal_and_the_reverse() {
    // Only `error_detail` counts; the request carries no version in this model at all, and a request that
    // changes names under the last nonce acknowledges.
    let mut client = Client::new(usual(1));
    client.ask(Endpoint, &["a"], "");
    let response = client.take(Endpoint);
    assert!(matches!(client.ask(Endpoint, &["a", "b"], &response.nonce), Outcome::Acknowledged { .. }));
    assert_eq!(client.0.acked_version(Endpoint), Some(&response.version));
}

#[test]
fn only_resources_that_were_not_acknowledged_are_suspects() {
    let one = snapshot([&[], &[("a", 1), ("b", 1)], &[], &[]]);
    let mut client = Client::new(one);
    client.ask(Endpoint, &["a", "b"], "");
    let first = client.take(Endpoint);
    client.ask(Endpoint, &["a", "b"], &first.nonce);
    client.0.set_snapshot(snapshot([&[], &[("a", 1), ("b", 2)], &[], &[]]));
    let second = client.take(Endpoint);
    let Outcome::Refused { suspects, .. } = client.refuse(Endpoint, &["a", "b"], &second.nonce) else {
        panic!("refused");
    };
    assert_eq!(suspects.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_newly_wanted_name_is_answered_even_though_nothing_changed() {
    let mut client = Client::new(snapshot([&[], &[("a", 1), ("b", 2)], &[], &[]]));
    client.ask(Endpoint, &["a"], "");
    let first = client.take(Endpoint);
    assert_eq!(contents(&first), [("a", 1)]);
    client.ask(Endpoint, &["a", "b"], &first.nonce);
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1), ("b", 2)]);
}

#[test]
fn a_name_no_longer_wanted_is_not_answered_and_not_sent_when_it_changes() {
    let mut client = Client::new(snapshot([&[], &[("a", 1), ("b", 1)], &[], &[]]));
    client.ask(Endpoint, &["a", "b"], "");
    let first = client.take(Endpoint);
    client.ask(Endpoint, &["a"], &first.nonce);
    assert_eq!(client.next(), None);
    client.0.set_snapshot(snapshot([&[], &[("a", 1), ("b", 2)], &[], &[]]));
    assert_eq!(client.next(), None);
    assert_eq!(client.ask(Endpoint, &["a", "b"], &first.nonce), Outcome::Subscribed);
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1), ("b", 2)]);
}

#[test]
fn a_subset_is_answered_and_the_missing_name_follows_when_it_comes() {
    let mut client = Client::new(snapshot([&[], &[("a", 1)], &[], &[]]));
    client.ask(Endpoint, &["a", "later"], "");
    let first = client.take(Endpoint);
    assert_eq!(contents(&first), [("a", 1)]);
    client.ask(Endpoint, &["a", "later"], &first.nonce);
    client.0.set_snapshot(snapshot([&[], &[("a", 1), ("later", 7)], &[], &[]]));
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1), ("later", 7)]);
}

#[test]
fn endpoints_that_do_not_exist_wait_but_missing_clusters_are_told() {
    let mut client = Client::new(usual(1));
    client.ask(Endpoint, &["none"], "");
    assert_eq!(client.next(), None);
    client.ask(Cluster, &["none"], "");
    assert_eq!(contents(&client.take(Cluster)), []);
}

#[test]
fn an_empty_list_means_all_at_first_and_nothing_after_names() {
    let mut client = Client::new(usual(1));
    client.ask(Cluster, &[], "");
    let all = client.take(Cluster);
    assert_eq!(contents(&all), [("a", 1)]);
    client.ask(Cluster, &["a"], &all.nonce);
    let one = client.take(Cluster);
    assert_eq!(contents(&one), [("a", 1)], "a name asked for is answered, held or not");
    client.ask(Cluster, &[], &one.nonce);
    client.0.set_snapshot(snapshot([&[("a", 9)], &[], &[], &[]]));
    assert_eq!(client.next(), None, "nothing is wanted any more");
    client.ask(Cluster, &["*"], &one.nonce);
    assert_eq!(contents(&client.take(Cluster)), [("a", 9)]);
}

#[test]
fn an_empty_list_of_endpoints_means_none() {
    let mut client = Client::new(usual(1));
    client.ask(Endpoint, &[], "");
    assert_eq!(client.next(), None);
}

#[test]
fn a_wildcard_does_not_see_what_is_sent_on_request_only() {
    let hidden = Resource::new(vec![5]).on_request_only();
    let shown = Resource::new(vec![6]);
    let listeners = ResourceSet::new([("svc".to_owned(), hidden), ("listener/svc".to_owned(), shown)].into());
    let sets = [ResourceSet::default(), ResourceSet::default(), listeners, ResourceSet::default()];
    let snapshot = Arc::new(Snapshot::new(PlanVersion::new("p"), sets));
    let mut envoy = Client::new(Arc::clone(&snapshot));
    envoy.ask(Listener, &[], "");
    assert_eq!(contents(&envoy.take(Listener)), [("listener/svc", 6)]);
    let mut grpc = Client::new(Arc::clone(&snapshot));
    grpc.ask(Listener, &["svc"], "");
    assert_eq!(contents(&grpc.take(Listener)), [("svc", 5)]);
    let mut both = Client::new(snapshot);
    both.ask(Listener, &["*", "svc"], "");
    assert_eq!(both.take(Listener).resources.len(), 2);
}

#[test]
fn after_a_reconnect_the_first_request_is_answered_although_the_version_is_ours() {
    // A new stream; the client holds everything, and says so with a version and an empty nonce.
    let mut client = Client::new(usual(1));
    client.ask(Endpoint, &["a"], "");
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1)]);
}

#[test]
fn a_request_without_nonce_asks_anew_and_one_that_crosses_a_response_adds_names() {
    let mut client = Client::settled(usual(1));
    client.ask(Endpoint, &["a"], "");
    let again = client.take(Endpoint);
    assert_eq!(contents(&again), [("a", 1)]);
    client.ask(Endpoint, &["a", "b"], "");
    assert_eq!(client.next(), None, "one in flight");
    client.ask(Endpoint, &["a", "b"], &again.nonce);
    client.take(Endpoint);
}

#[test]
fn endpoints_are_answered_again_after_their_cluster_changed() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(snapshot([&[("a", 2)], &[("a", 1)], &[("l", 1)], &[("r", 1)]]));
    let cluster = client.take(Cluster);
    // Envoy acknowledges the cluster only when it is warm.
    let endpoints = client.take(Endpoint);
    assert_eq!(contents(&endpoints), [("a", 1)]);
    client.ask(Endpoint, &["a"], &endpoints.nonce);
    assert!(!client.0.is_in_sync(), "the cluster is not acknowledged yet");
    client.ask(Cluster, &[], &cluster.nonce);
    assert!(client.0.is_in_sync());
    assert_eq!(client.next(), None);
}

#[test]
fn a_new_cluster_does_not_answer_endpoints_of_others_again() {
    let mut client = Client::settled(usual(1));
    client.0.set_snapshot(snapshot([&[("a", 1), ("b", 1)], &[("a", 1), ("b", 1)], &[("l", 1)], &[("r", 1)]]));
    let clusters = client.take(Cluster);
    client.ask(Cluster, &[], &clusters.nonce);
    assert_eq!(client.next(), None, "the client will ask for b");
    assert!(!client.0.is_in_sync());
    client.ask(Endpoint, &["a", "b"], "2");
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1), ("b", 1)]);
}

#[test]
fn additions_go_clusters_endpoints_listeners_routes() {
    let mut client = Client::settled(usual(1));
    let more = snapshot([
        &[("a", 1), ("b", 1)],
        &[("a", 1), ("b", 1)],
        &[("l", 1), ("m", 1)],
        &[("r", 1), ("s", 1)],
    ]);
    client.0.set_snapshot(more);
    let clusters = client.take(Cluster);
    assert_eq!(client.next(), None);
    client.ask(Cluster, &[], &clusters.nonce);
    assert_eq!(client.next(), None, "listeners wait until the endpoints of b are asked for");
    client.ask(Endpoint, &["a", "b"], "2");
    let endpoints = client.take(Endpoint);
    assert_eq!(client.next(), None, "and acknowledged");
    client.ask(Endpoint, &["a", "b"], &endpoints.nonce);
    let listeners = client.take(Listener);
    client.ask(Listener, &[], &listeners.nonce);
    client.ask(Route, &["r", "s"], "4");
    let routes = client.take(Route);
    client.ask(Route, &["r", "s"], &routes.nonce);
    assert!(client.0.is_in_sync());
}

#[test]
fn listeners_wait_for_a_client_that_never_asks_for_endpoints_only_so_long() {
    let mut client = Client::settled(usual(1));
    let parts: [&[(&str, u8)]; 4] = [&[("a", 1), ("b", 1)], &[("a", 1), ("b", 1)], &[("l", 2)], &[("r", 1)]];
    client.0.set_snapshot(snapshot(parts));
    let clusters = client.take(Cluster);
    client.ask(Cluster, &[], &clusters.nonce);
    assert_eq!(client.0.next_response(at(10)), None);
    assert_eq!(client.0.deadline(), Some(at(12)));
    assert_eq!(client.0.next_response(at(11)), None);
    assert_eq!(client.0.next_response(at(12)).unwrap().kind, Listener);
}

#[test]
fn a_cluster_is_removed_only_after_the_listener_that_used_it() {
    let both: [&[(&str, u8)]; 4] =
        [&[("a", 1), ("b", 1)], &[("a", 1), ("b", 1)], &[("l", 1), ("m", 1)], &[("r", 1), ("s", 1)]];
    let mut client = Client::new(snapshot(both));
    for (kind, names) in
        [(Cluster, &[][..]), (Endpoint, &["a", "b"][..]), (Listener, &[][..]), (Route, &["r", "s"][..])]
    {
        client.ask(kind, names, "");
        let response = client.take(kind);
        client.ask(kind, names, &response.nonce);
    }
    client.0.set_snapshot(usual(1));
    let listeners = client.take(Listener);
    assert_eq!(contents(&listeners), [("l", 1)]);
    assert_eq!(client.next(), None, "the cluster stays while the listener drains");
    assert!(!client.0.is_in_sync());
    client.ask(Listener, &[], &listeners.nonce);
    let clusters = client.take(Cluster);
    assert_eq!(contents(&clusters), [("a", 1)]);
    client.ask(Cluster, &[], &clusters.nonce);
    client.ask(Route, &["r"], "4");
    client.ask(Endpoint, &["a"], "2");
    assert_eq!(client.next(), None);
    assert!(client.0.is_in_sync());
}

#[test]
fn a_client_on_its_way_from_listener_to_endpoints_is_not_in_sync() {
    let mut client = Client::new(usual(1));
    assert!(!client.0.is_in_sync());
    for (kind, names) in
        [(Listener, &["l"][..]), (Route, &["r"][..]), (Cluster, &["a"][..]), (Endpoint, &["a"][..])]
    {
        client.ask(kind, names, "");
        let response = client.take(kind);
        client.ask(kind, names, &response.nonce);
        assert_eq!(client.0.is_in_sync(), kind == Endpoint, "after {kind:?}");
    }
}

#[test]
fn nonces_are_never_used_twice_on_a_stream() {
    let mut client = Client::settled(usual(0));
    let mut seen = std::collections::BTreeSet::new();
    for weights in 1..50 {
        client.0.set_snapshot(usual(weights));
        let response = client.take(Endpoint);
        assert!(seen.insert(response.nonce.clone()));
        client.ask(Endpoint, &["a"], &response.nonce);
    }
}

/// A client of one stream, incremental.
struct DeltaClient(XdsStream);

impl DeltaClient {
    fn new(snapshot: Arc<Snapshot>) -> Self {
        let mut stream = XdsStream::new(Protocol::Delta, StreamLimits::default());
        stream.set_snapshot(snapshot);
        Self(stream)
    }

    fn change(&mut self, kind: ResourceKind, subscribe: &[&str], unsubscribe: &[&str]) -> Outcome {
        self.first(kind, subscribe, unsubscribe, &[])
    }

    fn first(
        &mut self,
        kind: ResourceKind,
        subscribe: &[&str],
        unsubscribe: &[&str],
        held: &[(&str, ResourceVersion)],
    ) -> Outcome {
        let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let names = Names::Change {
            subscribe: owned(subscribe),
            unsubscribe: owned(unsubscribe),
            held: held.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect(),
        };
        self.0.on_request(Request { kind, nonce: String::new(), error: None, names })
    }

    fn answer(&mut self, response: &Response, error: Option<&str>) -> Outcome {
        let names = Names::Change { subscribe: vec![], unsubscribe: vec![], held: BTreeMap::new() };
        let error = error.map(str::to_owned);
        self.0.on_request(Request { kind: response.kind, nonce: response.nonce.clone(), error, names })
    }

    fn next(&mut self) -> Option<Response> {
        self.0.next_response(at(0))
    }

    fn take(&mut self, kind: ResourceKind) -> Response {
        let response = self.next().expect("a response is due");
        assert_eq!(response.kind, kind);
        response
    }
}

fn version(byte: u8) -> ResourceVersion {
    Resource::new(vec![byte]).version().clone()
}

#[test]
fn delta_sends_what_changed_and_what_is_gone() {
    let mut client = DeltaClient::new(snapshot([&[("a", 1), ("b", 1), ("c", 1)], &[], &[], &[]]));
    client.change(Cluster, &[], &[]);
    let first = client.take(Cluster);
    assert_eq!(contents(&first), [("a", 1), ("b", 1), ("c", 1)]);
    client.answer(&first, None);
    client.0.set_snapshot(snapshot([&[("a", 1), ("b", 2), ("d", 1)], &[], &[], &[]]));
    let second = client.take(Cluster);
    assert_eq!(contents(&second), [("b", 2), ("d", 1)]);
    assert_eq!(second.removed, ["c"]);
    client.answer(&second, None);
    assert_eq!(client.next(), None);
}

#[test]
fn delta_after_a_reconnect_sends_the_difference_only_and_removals_with_it() {
    let mut client = DeltaClient::new(snapshot([&[("a", 1), ("b", 2)], &[], &[], &[]]));
    client.first(Cluster, &[], &[], &[("a", version(1)), ("b", version(1)), ("gone", version(1))]);
    let first = client.take(Cluster);
    assert_eq!(contents(&first), [("b", 2)]);
    assert_eq!(first.removed, ["gone"]);
}

#[test]
fn delta_after_a_reconnect_answers_even_when_nothing_changed() {
    let mut client = DeltaClient::new(snapshot([&[], &[("a", 1)], &[], &[]]));
    client.first(Endpoint, &["a"], &[], &[("a", version(1))]);
    let first = client.take(Endpoint);
    assert!(first.resources.is_empty() && first.removed.is_empty());
    client.answer(&first, None);
    assert!(client.0.is_in_sync());
}

#[test]
fn delta_always_answers_a_subscription_even_to_what_the_client_holds() {
    let mut client = DeltaClient::new(snapshot([&[], &[("a", 1)], &[], &[]]));
    client.change(Endpoint, &["a"], &[]);
    let first = client.take(Endpoint);
    client.answer(&first, None);
    client.change(Endpoint, &["a"], &[]);
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1)]);
}

#[test]
fn delta_says_that_a_name_does_not_exist_and_sends_it_when_it_does() {
    let mut client = DeltaClient::new(snapshot([&[], &[("a", 1)], &[], &[]]));
    client.change(Endpoint, &["later"], &[]);
    let first = client.take(Endpoint);
    assert_eq!(first.removed, ["later"]);
    client.answer(&first, None);
    client.0.set_snapshot(snapshot([&[], &[("a", 1), ("later", 4)], &[], &[]]));
    assert_eq!(contents(&client.take(Endpoint)), [("later", 4)]);
}

#[test]
fn delta_names_stay_beside_a_wildcard_that_is_given_up() {
    let mut client = DeltaClient::new(snapshot([&[("a", 1), ("b", 1)], &[], &[], &[]]));
    client.change(Cluster, &["*", "a"], &[]);
    let first = client.take(Cluster);
    client.answer(&first, None);
    client.change(Cluster, &[], &["*"]);
    client.0.set_snapshot(snapshot([&[("a", 2), ("b", 2)], &[], &[], &[]]));
    assert_eq!(contents(&client.take(Cluster)), [("a", 2)]);
}

#[test]
fn delta_takes_changes_of_names_beside_a_stale_nonce() {
    let mut client = DeltaClient::new(snapshot([&[], &[("a", 1), ("b", 1)], &[], &[]]));
    client.change(Endpoint, &["a"], &[]);
    let first = client.take(Endpoint);
    let names = Names::Change { subscribe: vec!["b".into()], unsubscribe: vec![], held: BTreeMap::new() };
    let stale = Request { kind: Endpoint, nonce: "999".into(), error: None, names };
    assert_eq!(client.0.on_request(stale), Outcome::Stale);
    assert_eq!(client.next(), None);
    client.answer(&first, None);
    assert_eq!(contents(&client.take(Endpoint)), [("b", 1)]);
}

#[test]
fn delta_parks_a_refused_resource_and_sends_the_others_on() {
    let mut client = DeltaClient::new(snapshot([&[], &[("a", 1), ("b", 1)], &[], &[]]));
    client.change(Endpoint, &["a", "b"], &[]);
    let first = client.take(Endpoint);
    client.answer(&first, None);
    client.0.set_snapshot(snapshot([&[], &[("a", 2), ("b", 1)], &[], &[]]));
    let bad = client.take(Endpoint);
    assert!(matches!(client.answer(&bad, Some("no")), Outcome::Refused { .. }));
    assert_eq!(client.next(), None);
    client.0.set_snapshot(snapshot([&[], &[("a", 2), ("b", 2)], &[], &[]]));
    let others = client.take(Endpoint);
    assert_eq!(contents(&others), [("b", 2)]);
    client.answer(&others, None);
    assert!(!client.0.is_in_sync(), "a is not what it should be");
    client.0.set_snapshot(snapshot([&[], &[("a", 1), ("b", 2)], &[], &[]]));
    let back = client.take(Endpoint);
    assert_eq!(contents(&back), [("a", 1)], "the refused response may have been taken in part");
    client.answer(&back, None);
    assert!(client.0.is_in_sync());
}

#[test]
fn delta_answers_endpoints_again_after_their_cluster_changed() {
    let mut client = DeltaClient::new(usual(1));
    for (kind, names) in [(Cluster, &[][..]), (Endpoint, &["a"][..])] {
        client.change(kind, names, &[]);
        let response = client.take(kind);
        client.answer(&response, None);
    }
    client.0.set_snapshot(snapshot([&[("a", 2)], &[("a", 1)], &[], &[]]));
    let cluster = client.take(Cluster);
    assert_eq!(contents(&client.take(Endpoint)), [("a", 1)]);
    client.answer(&cluster, None);
    assert_eq!(client.next(), None);
}

#[test]
fn delta_removes_listeners_before_routes_and_clusters() {
    let mut client = DeltaClient::new(usual(1));
    for (kind, names) in
        [(Cluster, &[][..]), (Endpoint, &["a"][..]), (Listener, &[][..]), (Route, &["r"][..])]
    {
        client.change(kind, names, &[]);
        let response = client.take(kind);
        client.answer(&response, None);
    }
    client.0.set_snapshot(snapshot([&[], &[], &[], &[]]));
    let mut order = Vec::new();
    while let Some(response) = client.next() {
        assert!(response.resources.is_empty());
        order.push((response.kind, response.removed.clone()));
        client.answer(&response, None);
    }
    let kinds: Vec<_> = order.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Listener, Route, Cluster, Endpoint]);
    assert!(client.0.is_in_sync());
}
