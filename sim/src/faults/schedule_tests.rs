use std::collections::BTreeSet;
use std::time::Duration;

use super::{Fault, Menu, Schedule, Trouble};

#[test]
fn the_seed_makes_the_schedule_and_every_kind_comes() {
    let menu = Menu::all(&["p1", "p2"], &["m1", "m2"]);
    let mut kinds = BTreeSet::new();
    for seed in 0..400 {
        let s = Schedule::from_seed(seed, &menu);
        assert_eq!(s, Schedule::from_seed(seed, &menu));
        assert!(s.faults().all(|(at, _)| at >= menu.during.start));
        kinds.extend(s.faults().map(|(_, f)| f.kind()));
    }
    assert_ne!(Schedule::from_seed(1, &menu), Schedule::from_seed(2, &menu));
    let all = [
        "link cut one way",
        "link flaky",
        "kill at a call planned",
        "clock drifts",
        "machine frozen",
        "store nearly full",
        "store off",
        "disk capacity",
    ];
    for kind in all {
        assert!(kinds.contains(kind), "{kind} never came: {kinds:?}");
    }
    assert_eq!(kinds.len(), 30, "{kinds:?}");
}

#[test]
fn what_begins_ends() {
    for trouble in Trouble::ALL {
        let menu = Menu { count: 4..5, ..Menu::all(&["p", "q"], &["m"]).only(&[*trouble]) };
        let s = Schedule::from_seed(3, &menu);
        let count = |f: fn(&Fault) -> bool| s.faults().filter(|(_, x)| f(x)).count();
        assert!(s.faults().count() >= 4, "{trouble:?}");
        assert_eq!(
            count(|f| matches!(f, Fault::Cut(..))),
            count(|f| matches!(f, Fault::Uncut(..)))
        );
        let stops = count(|f| matches!(f, Fault::Stop(_) | Fault::Freeze(_)));
        assert_eq!(stops, count(|f| matches!(f, Fault::Continue(_))));
        let off = count(|f| matches!(f, Fault::PowerOff(_)));
        assert_eq!(off, count(|f| matches!(f, Fault::PowerOn(_))));
    }
}

#[test]
fn what_is_due_comes_in_order() {
    let mut s = Schedule::default();
    let at = Duration::from_secs;
    s.add(at(2), Fault::StoreOn);
    s.add(at(1), Fault::StoreOff);
    s.add(at(1), Fault::StoreForgets);
    assert_eq!(s.due(at(0)), []);
    assert_eq!(s.due(at(1)), [Fault::StoreOff, Fault::StoreForgets]);
    assert_eq!(s.end(), at(2));
    assert_eq!(s.due(at(9)), [Fault::StoreOn]);
}
