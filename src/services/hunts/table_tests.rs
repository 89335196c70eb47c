use super::*;
use proptest::prelude::*;
use velociraptor_proto::proto::hunt_condition::UnionField;
use velociraptor_proto::proto::{ArtifactCollectorContext, HuntCondition, HuntLabelCondition};

fn pin() -> Arc<Segment> {
    Arc::new(Segment::of_path("x"))
}

fn hunt(id: &str, state: State) -> Hunt {
    Hunt {
        hunt_id: id.into(),
        state: state.into(),
        expires: 1000,
        start_request: Some(ArtifactCollectorArgs::default()),
        ..Default::default()
    }
}

fn schedule(hunt: &str, client: &str) -> Schedule {
    let context = ArtifactCollectorContext {
        session_id: flow_of_hunt(hunt),
        client_id: client.into(),
        create_time: 5_000_000,
        ..Default::default()
    };
    Schedule { context: Some(context), hunt_id: hunt.into(), ..Default::default() }
}

fn done(hunt: &str, rows: u64, failed: bool) -> HuntDone {
    HuntDone {
        hunt_id: hunt.into(),
        flow_id: flow_of_hunt(hunt),
        rows,
        failed,
        bytes: 10,
        ..Default::default()
    }
}

fn anybody(_: &str) -> Option<ClientInfo> {
    Some(ClientInfo::default())
}

#[test]
fn ids_of_hunts_and_their_flows() {
    assert_eq!(flow_of_hunt("H.49BA8939"), "F.49BA8939.H");
    assert_eq!(hunt_of_flow("F.49BA8939.H").unwrap(), "H.49BA8939");
    assert!(hunt_of_flow("F.49BA8939").is_none() && hunt_of_flow("F..H").is_none());
}

#[test]
fn a_client_is_chosen_once_and_only_for_what_runs() {
    let mut h = Hunts::default();
    h.set(&hunt("H.1", State::Paused), &pin());
    h.look_at("C.1");
    assert!(h.choose(1, anybody).is_none());
    h.set(&hunt("H.1", State::Running), &pin());
    h.set(&hunt("H.2", State::Running), &pin());
    assert!(h.take_all() && !h.take_all());
    h.look_at("C.1");
    h.look_at("C.1");
    let one = h.choose(1, anybody).unwrap();
    let two = h.choose(1, anybody).unwrap();
    assert_eq!((one.hunt.as_str(), two.hunt.as_str()), ("H.1", "H.2"));
    assert!(h.choose(1, anybody).is_none(), "both are being decided");
    // One is decided, the other is not and may be chosen again.
    h.scheduled("C.1", &schedule("H.1", "C.1"), &pin());
    h.released(&two);
    h.look_at("C.1");
    assert_eq!(h.choose(1, anybody).unwrap(), two);
    assert!(h.choose(2000, anybody).is_none());
    assert_eq!(h.get("H.1").unwrap().members()["C.1"].since, 5_000_000);
}

#[test]
fn whoever_is_not_there_or_does_not_match_is_chosen_when_that_changes() {
    let mut h = Hunts::default();
    let labels = HuntLabelCondition { label: vec!["red".into()] };
    let condition =
        HuntCondition { union_field: Some(UnionField::Labels(labels)), excluded_labels: None };
    let mut red = hunt("H.1", State::Running);
    red.condition = Some(condition);
    h.set(&red, &pin());
    h.look_at("C.1");
    assert!(h.choose(1, |_| None).is_none());
    h.look_at("C.1");
    assert!(h.choose(1, anybody).is_none());
    h.look_at("C.1");
    let info = ClientInfo { labels: vec!["Red".into()], ..Default::default() };
    assert!(h.choose(1, |_| Some(info.clone())).is_some());
    // Somebody may want one that does not match.
    h.want(Chosen { hunt: "H.1".into(), client: "C.2".into() });
    assert_eq!(h.choose(1, |_| None).unwrap().client, "C.2");
}

#[test]
fn limits_count_those_on_their_way() {
    let mut h = Hunts::default();
    h.set(&Hunt { client_limit: 2, ..hunt("H.1", State::Running) }, &pin());
    ["C.1", "C.2", "C.3"].iter().for_each(|c| h.look_at(c));
    assert!(h.choose(1, anybody).is_some() && h.choose(1, anybody).is_some());
    assert!(h.choose(1, anybody).is_none() && h.over(1).is_empty());
    h.scheduled("C.1", &schedule("H.1", "C.1"), &pin());
    h.scheduled("C.2", &schedule("H.1", "C.2"), &pin());
    assert_eq!(h.over(1), ["H.1"]);
    h.set(&Hunt { expires: 7, ..hunt("H.2", State::Running) }, &pin());
    assert_eq!(h.over(7), ["H.1", "H.2"]);
}

#[test]
fn changes_keep_the_request_and_a_deleted_hunt_leaves_nothing() {
    let mut h = Hunts::default();
    h.set(&hunt("H.1", State::Running), &pin());
    h.join("H.1", "C.1", "F.other", 1, &pin());
    assert_eq!(h.of_flow("C.1", "F.other").len(), 1);
    h.set(&Hunt { start_request: None, ..hunt("H.1", State::Stopped) }, &pin());
    assert!(h.get("H.1").unwrap().hunt.start_request.is_some());
    assert!(h.get("H.1").unwrap().stats().stopped);
    h.set(&hunt("H.1", State::Deleted), &pin());
    assert!(h.get("H.1").is_none() && h.of_flow("C.1", "F.other").is_empty());
    h.done("C.1", &done("H.1", 1, false), &pin());
    h.scheduled("C.1", &schedule("H.1", "C.1"), &pin());
    assert!(h.deleted.contains_key("H.1") && h.iter().next().is_none());
}

#[derive(Clone, Debug)]
enum Told {
    Scheduled(u8),
    Done(u8, u64, bool),
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        (0u8..20).prop_map(Told::Scheduled),
        (0u8..20, 0u64..3, any::<bool>()).prop_map(|(c, n, f)| Told::Done(c, n, f)),
    ]
}

proptest! {
    /// Counts are those of the sets, whatever is told how often and in which order;
    /// and what is told a second time from the start, as after a restart, changes
    /// nothing.
    #[test]
    fn counts_are_those_of_sets(all in prop::collection::vec(told(), 0..80)) {
        let mut h = Hunts::default();
        h.set(&hunt("H.1", State::Running), &pin());
        let mut truth: BTreeMap<u8, Option<(u64, bool)>> = BTreeMap::new();
        for _ in 0..2 {
            for t in &all {
                match t {
                    Told::Scheduled(c) => {
                        let id = format!("C.{c}");
                        h.scheduled(&id, &schedule("H.1", &id), &pin());
                        truth.entry(*c).or_default();
                    }
                    Told::Done(c, rows, failed) => {
                        h.done(&format!("C.{c}"), &done("H.1", *rows, *failed), &pin());
                        if let Some(end) = truth.get_mut(c) {
                            let before = end.map_or(0, |e: (u64, bool)| e.0);
                            *end = Some((before.max(*rows), *failed));
                        }
                    }
                }
            }
            let s = h.get("H.1").unwrap().stats();
            let ends: Vec<_> = truth.values().flatten().collect();
            prop_assert_eq!(s.total_clients_scheduled, truth.len() as u64);
            prop_assert_eq!(s.total_finished_clients, ends.len() as u64);
            prop_assert_eq!(s.total_clients_with_errors, ends.iter().filter(|e| e.1).count() as u64);
            prop_assert_eq!(s.total_clients_with_results, ends.iter().filter(|e| e.0 > 0).count() as u64);
            prop_assert_eq!(s.total_collected_rows, ends.iter().map(|e| e.0).sum::<u64>());
            prop_assert_eq!(s.total_uploaded_bytes, 10 * ends.len() as u64);
        }
    }
}
