//! The stream between nodes over networks that fail: partitions, one-way partitions,
//! hosts that die. Real TLS and gRPC, virtual time.
//!
//! A test binary of its own: one simulation per process at a time.
#![allow(missing_docs)]

mod lab;

use std::time::Duration;

use lab::{Lab, MASTER, Node, simulate};
use velociraptor::crypto::Revocations;

/// Time in which a broken stream is noticed: three beats and a half, and a trip.
const NOTICED: Duration = Duration::from_millis(3600);
/// Time from a whole network to a stream.
const HEALED: Duration = Duration::from_secs(3);
/// The longest pause between attempts, and what an attempt takes.
const RECONNECTED: Duration = Duration::from_millis(5000 + 500);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Everything that was reported has come to `start` of the master, once and in order.
fn all_once(lab: &Lab, node: &str, start: u32) {
    let got = lab.world.reports(node, start);
    let said = lab.world.said(node);
    assert!(said > 20, "reports were made: {said}");
    assert_eq!(got, (1..=said).collect::<Vec<_>>());
}

#[test]
fn a_partition_is_noticed_and_healed() {
    simulate(1, |lab| {
        lab.start(Node::named("a", 1));
        lab.start(Node::named("b", 1));
        lab.run(secs(3));
        assert_eq!(lab.world.up(), ["a", "b"]);
        lab.sim.partition(MASTER, "a");
        lab.run(NOTICED);
        assert_eq!(lab.world.up(), ["b"], "noticed by the minion");
        assert_eq!(lab.world.count("master gone a/1"), 1, "and by the master");
        lab.run(secs(20));
        assert_eq!(lab.world.count("master gone b/1"), 0);
        lab.sim.repair(MASTER, "a");
        lab.run(HEALED);
        assert_eq!(lab.world.up(), ["a", "b"]);
        lab.quiet();
        all_once(lab, "a", 1);
        all_once(lab, "b", 1);
        assert!(lab.world.tasks("a") > 20 && lab.world.tasks("b") > 20);
    });
}

#[test]
fn whenever_the_network_is_whole_again_the_minion_is_back_soon() {
    simulate(5, |lab| {
        lab.start(Node::named("a", 1));
        lab.run(secs(3));
        for phase in 0..12 {
            lab.sim.partition(MASTER, "a");
            lab.run(secs(8) + Duration::from_millis(730) * phase);
            assert!(lab.world.up().is_empty(), "{phase}");
            lab.sim.repair(MASTER, "a");
            lab.run(HEALED);
            assert_eq!(lab.world.up(), ["a"], "{phase}");
        }
        lab.quiet();
        all_once(lab, "a", 1);
    });
}

#[test]
fn a_minion_that_is_not_heard_loses_its_stream_though_it_hears() {
    simulate(2, |lab| {
        lab.start(Node::named("a", 1));
        lab.run(secs(3));
        lab.sim.partition_oneway("a", MASTER);
        lab.run(NOTICED);
        assert_eq!(lab.world.count("master gone a/1"), 1);
        // The end of the stream passes: it is told at once.
        lab.run(Duration::from_millis(100));
        assert!(lab.world.up().is_empty());
        lab.run(secs(10));
        lab.sim.repair_oneway("a", MASTER);
        lab.run(HEALED);
        assert_eq!(lab.world.up(), ["a"]);
        lab.quiet();
        all_once(lab, "a", 1);
    });
}

#[test]
fn a_master_that_is_not_heard_loses_its_minion_though_it_hears() {
    simulate(3, |lab| {
        lab.start(Node::named("a", 1));
        lab.run(secs(3));
        lab.sim.partition_oneway(MASTER, "a");
        lab.run(NOTICED);
        assert!(lab.world.up().is_empty());
        lab.run(Duration::from_millis(100));
        assert_eq!(lab.world.count("master gone a/1"), 1, "it is told at once");
        lab.run(secs(10));
        lab.sim.repair_oneway(MASTER, "a");
        lab.run(HEALED);
        assert_eq!(lab.world.up(), ["a"]);
        lab.quiet();
        all_once(lab, "a", 1);
    });
}

#[test]
fn many_short_breaks_lose_and_double_nothing() {
    for seed in 10..14 {
        simulate(seed, |lab| {
            lab.start(Node::named("a", 1));
            lab.run(secs(2));
            for i in 0..6 {
                match (seed + i) % 3 {
                    0 => lab.sim.partition(MASTER, "a"),
                    1 => lab.sim.partition_oneway(MASTER, "a"),
                    _ => lab.sim.partition_oneway("a", MASTER),
                }
                // Shorter and longer than it takes to notice.
                lab.run(Duration::from_millis(700 * (1 + (seed * 7 + i * 5) % 9)));
                lab.sim.repair(MASTER, "a");
                lab.run(secs(4));
            }
            lab.run(HEALED);
            lab.quiet();
            all_once(lab, "a", 1);
        });
    }
}

#[test]
fn a_master_that_starts_again_gets_what_it_has_not_acknowledged() {
    for seed in 20..23 {
        simulate(seed, |lab| {
            lab.start(Node::named("a", 1));
            lab.run(secs(2) + Duration::from_millis(37 * (seed - 20)));
            lab.sim.crash(MASTER);
            lab.run(secs(2));
            lab.sim.bounce(MASTER);
            lab.run(HEALED);
            assert_eq!(lab.world.up(), ["a"]);
            lab.quiet();
            let (first, second) = (lab.world.reports("a", 1), lab.world.reports("a", 2));
            let said = lab.world.said("a");
            assert_eq!(first, (1..=first.len() as u64).collect::<Vec<_>>());
            let from = second[0];
            assert!(from <= first.len() as u64 + 1, "nothing between {} and {from}", first.len());
            assert_eq!(second, (from..=said).collect::<Vec<_>>());
        });
    }
}

#[test]
fn a_twin_waits_for_proof_that_the_first_is_dead() {
    simulate(30, |lab| {
        lab.start(Node::named("a", 1));
        lab.run(secs(3));
        // While the first one beats.
        lab.start(Node { host: "x", ..Node::named("a", 2) });
        lab.run(secs(2));
        let told = lab.world.count("a/2 refused for good: another process of node a is connected");
        assert_eq!(told, 1);
        assert_eq!(lab.world.up(), ["a"]);
        assert_eq!(lab.world.count("hello a/2"), 0);
        // Its host is cut off, and it is started elsewhere: the old stream still seems to be up.
        lab.sim.partition("a", MASTER);
        lab.run(Duration::from_millis(300));
        lab.start(Node { host: "y", ..Node::named("a", 3) });
        lab.run(NOTICED + Duration::from_millis(500));
        assert_eq!(lab.world.count("master hello a/3"), 1);
        assert!(lab.world.before("master gone a/1", "master hello a/3"));
        // The first one comes back to find its place taken.
        lab.sim.repair("a", MASTER);
        lab.run(RECONNECTED + secs(6));
        let told = lab.world.count("a/1 refused for good: another process of node a is connected");
        assert_eq!(told, 1);
        assert_eq!(lab.world.count("refused for good"), 2);
    });
}

#[test]
fn certificates_that_do_not_hold() {
    simulate(40, |lab| {
        lab.start(Node::named("a", 1));
        lab.start(Node { days: 1, ..Node::named("b", 1) });
        lab.start(Node { foreign: true, ..Node::named("c", 1) });
        lab.run(secs(3));
        assert_eq!(lab.world.up(), ["a", "b"]);
        // Two days go by on the wall clock: b's has run out, on a live stream too.
        lab.world.set_skew(secs(2 * 86_400));
        lab.run(secs(2));
        assert_eq!(lab.world.up(), ["a"]);
        assert!(lab.world.count("b/1 refused: the certificate no longer proves the node") >= 1);
        lab.run(secs(10));
        assert_eq!(lab.world.up(), ["a"], "TLS refuses it from now on");
        assert_eq!(lab.world.count("b/1 refused for good"), 0, "a clock may be wrong");
        lab.world.set_skew(Duration::ZERO);
        lab.run(RECONNECTED);
        assert_eq!(lab.world.up(), ["a", "b"]);
        // Withdrawn.
        lab.world.revoked.send_replace(Revocations::parse(&["a"]).unwrap());
        lab.run(Duration::from_millis(1100));
        assert_eq!(lab.world.up(), ["b"]);
        assert_eq!(lab.world.count("a/1 refused for good: the certificate no longer"), 1);
        lab.run(secs(10));
        assert_eq!(lab.world.count("master hello a/1"), 1);
        assert_eq!(lab.world.count("master hello c"), 0);
        assert_eq!(lab.world.count("c/1 is up"), 0);
    });
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let mut told = vec![];
        simulate(seed, |lab| {
            lab.start(Node::named("a", 1));
            lab.start(Node::named("b", 1));
            lab.run(secs(3));
            lab.sim.partition(MASTER, "a");
            lab.run(secs(6));
            lab.sim.repair(MASTER, "a");
            lab.sim.crash(MASTER);
            lab.sim.bounce(MASTER);
            lab.run(secs(12));
            told = lab.world.story();
        });
        told
    };
    let (one, two) = (story(50), story(50));
    assert!(one.len() > 200, "{}", one.len());
    let differ = one.iter().zip(&two).position(|(a, b)| a != b);
    assert_eq!(differ.map(|i| (&one[i], &two[i])), None);
    assert_eq!(one.len(), two.len());
    assert_ne!(one, story(51));
}
