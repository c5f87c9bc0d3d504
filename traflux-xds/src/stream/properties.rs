//! Random clients against random snapshots: what never happens, and what always does in the end.

use proptest::prelude::*;
use traflux_core::PlanVersion;

use super::*;
use crate::resource::ResourceSet;

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    /// New content: for each kind and name, absent (0) or a content.
    Snapshot([[u8; 3]; 4]),
    /// The client names what it wants (a bit mask) under its last nonce or none.
    Ask {
        kind: usize,
        mask: u8,
        with_nonce: bool,
    },
    /// The client answers what it received last of a kind.
    Answer {
        kind: usize,
        refuse: bool,
    },
    /// An answer to something older.
    Stale {
        kind: usize,
        refuse: bool,
    },
    Seconds(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => prop::array::uniform4(prop::array::uniform3(0u8..4)).prop_map(Step::Snapshot),
        3 => (0usize..4, 1u8..8, any::<bool>())
            .prop_map(|(kind, mask, with_nonce)| Step::Ask { kind, mask, with_nonce }),
        6 => (0usize..4, prop::bool::weighted(0.3)).prop_map(|(kind, refuse)| Step::Answer { kind, refuse }),
        1 => (0usize..4, any::<bool>()).prop_map(|(kind, refuse)| Step::Stale { kind, refuse }),
        1 => (0u8..4).prop_map(Step::Seconds),
    ];
    prop::collection::vec(step, 1..60)
}

fn snapshot(content: [[u8; 3]; 4]) -> Arc<Snapshot> {
    let sets = content.map(|of_kind| {
        let present = NAMES.iter().zip(of_kind).filter(|(_, byte)| *byte > 0);
        ResourceSet::new(present.map(|(n, byte)| ((*n).to_owned(), Resource::new(vec![byte]))).collect())
    });
    Arc::new(Snapshot::new(PlanVersion::new("p"), sets))
}

/// The client's side of one kind.
#[derive(Debug, Default, Clone)]
struct Side {
    asked: bool,
    names: BTreeSet<String>,
    received: Option<Response>,
    answered: bool,
    holds: BTreeMap<String, ResourceVersion>,
    refused: BTreeSet<(String, ResourceVersion)>,
    refused_whole: BTreeSet<ResourceVersion>,
}

struct Model {
    stream: XdsStream,
    sides: [Side; 4],
    now: Timestamp,
    nonces: BTreeSet<String>,
}

impl Model {
    fn new(protocol: Protocol) -> Self {
        Self {
            stream: XdsStream::new(protocol, StreamLimits::default()),
            sides: Default::default(),
            now: Timestamp::ZERO,
            nonces: BTreeSet::new(),
        }
    }

    fn sotw(&self) -> bool {
        self.stream.protocol() == Protocol::StateOfTheWorld
    }

    fn ask(&mut self, kind: usize, wanted: BTreeSet<String>, with_nonce: bool) {
        let side = &mut self.sides[kind];
        let nonce = match &side.received {
            Some(response) if with_nonce && side.answered => response.nonce.clone(),
            _ => String::new(),
        };
        let names = if self.stream.protocol() == Protocol::StateOfTheWorld {
            Names::All(wanted.iter().cloned().collect())
        } else {
            Names::Change {
                subscribe: wanted.difference(&side.names).cloned().collect(),
                unsubscribe: side.names.difference(&wanted).cloned().collect(),
                held: BTreeMap::new(),
            }
        };
        side.asked = true;
        side.holds.retain(|name, _| wanted.contains(name));
        side.names = wanted;
        let kind = ResourceKind::ALL[kind];
        self.stream.on_request(Request { kind, nonce, error: None, names });
    }

    fn answer(&mut self, kind: usize, refuse: bool) {
        let sotw = self.sotw();
        let side = &mut self.sides[kind];
        let Some(response) = side.received.clone().filter(|_| !side.answered) else { return };
        side.answered = true;
        if refuse {
            side.refused_whole.insert(response.version.clone());
            for (name, r) in &response.resources {
                if side.holds.get(name) != Some(r.version()) {
                    side.refused.insert((name.clone(), r.version().clone()));
                }
            }
        } else {
            if sotw {
                let tells_removal = ResourceKind::ALL[kind].is_full_state();
                side.holds.retain(|_, _| !tells_removal);
            }
            for (name, r) in response.resources.iter().filter(|(name, _)| side.names.contains(name)) {
                side.holds.insert(name.clone(), r.version().clone());
            }
            for name in &response.removed {
                side.holds.remove(name);
            }
        }
        let names = if sotw {
            Names::All(side.names.iter().cloned().collect())
        } else {
            Names::Change { subscribe: vec![], unsubscribe: vec![], held: BTreeMap::new() }
        };
        let error = refuse.then(|| "no".to_owned());
        let outcome = self.stream.on_request(Request {
            kind: ResourceKind::ALL[kind],
            nonce: response.nonce,
            error,
            names,
        });
        match outcome {
            Outcome::Acknowledged { .. } => assert!(!refuse),
            Outcome::Refused { .. } => assert!(refuse),
            other => panic!("the answer to what is in flight is {other:?}"),
        }
    }

    /// Takes what the stream sends, checking what must never happen.
    fn pump(&mut self) {
        while let Some(response) = self.stream.next_response(self.now) {
            let sotw = self.sotw();
            let side = &mut self.sides[response.kind.ix()];
            assert!(side.asked, "nothing is sent unasked");
            assert!(side.received.is_none() || side.answered, "two of one kind in flight");
            assert!(self.nonces.insert(response.nonce.clone()), "a nonce is used once");
            if sotw {
                assert!(!side.refused_whole.contains(&response.version), "a refused version is parked");
            } else {
                for (name, r) in &response.resources {
                    let one = (name.clone(), r.version().clone());
                    assert!(!side.refused.contains(&one), "a refused resource is parked");
                }
            }
            for (name, _) in &response.resources {
                assert!(side.names.contains(name), "only what is wanted is sent");
            }
            side.received = Some(response);
            side.answered = false;
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Snapshot(content) => self.stream.set_snapshot(snapshot(content)),
            Step::Ask { kind, mask, with_nonce } => {
                let wanted = (0..3).filter(|ix| mask & (1 << ix) != 0).map(|ix| NAMES[ix].to_owned());
                self.ask(kind, wanted.collect(), with_nonce);
            }
            Step::Answer { kind, refuse } => self.answer(kind, refuse),
            Step::Stale { kind, refuse } => {
                let names = if self.sotw() {
                    Names::All(vec!["c".to_owned()])
                } else {
                    Names::Change { subscribe: vec![], unsubscribe: vec![], held: BTreeMap::new() }
                };
                if self.sides[kind].asked {
                    let error = refuse.then(|| "late".to_owned());
                    let request =
                        Request { kind: ResourceKind::ALL[kind], nonce: "stale".into(), error, names };
                    assert_eq!(self.stream.on_request(request), Outcome::Stale);
                }
            }
            Step::Seconds(seconds) => self.now = self.now + Duration::from_secs(seconds.into()),
        }
        self.pump();
    }

    /// From here the client takes everything: it must end with the latest, except what it refused.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.now = self.now + Duration::from_secs(1);
            self.pump();
            for kind in 0..4 {
                self.answer(kind, false);
            }
            self.pump();
        }
        assert!(self.stream.oldest_in_flight().is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_client_that_takes_everything_in_the_end_holds_the_latest(
        delta in any::<bool>(),
        steps in steps(),
        last in prop::array::uniform4(prop::array::uniform3(4u8..8)),
    ) {
        let protocol = if delta { Protocol::Delta } else { Protocol::StateOfTheWorld };
        let mut model = Model::new(protocol);
        for step in steps {
            model.step(step);
        }
        // Contents from 4 on were never refused.
        let last = snapshot(last);
        model.stream.set_snapshot(Arc::clone(&last));
        model.pump();
        model.settle();
        for kind in ResourceKind::ALL {
            let side = &model.sides[kind.ix()];
            if !side.asked {
                continue;
            }
            let should: BTreeMap<String, ResourceVersion> = side
                .names
                .iter()
                .map(|name| (name.clone(), last.set(kind).get(name).unwrap().version().clone()))
                .collect();
            prop_assert_eq!(&side.holds, &should, "{:?}", kind);
        }
    }
}
