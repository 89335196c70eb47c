//! Reports in sum.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Fault, Report};

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How many do.
    pub of: usize,
    /// Out of how many.
    pub all: usize,
}

impl Share {
    fn count(
        reports: &[Report],
        among: impl Fn(&Report) -> bool,
        good: impl Fn(&Report) -> bool,
    ) -> Share {
        let all: Vec<_> = reports.iter().filter(|r| among(r)).collect();
        Share { of: all.iter().filter(|r| good(r)).count(), all: all.len() }
    }

    /// Per cent; 100 of nothing.
    pub fn percent(self) -> f64 {
        if self.all == 0 { 100.0 } else { 100.0 * self.of as f64 / self.all as f64 }
    }
}

/// Reports in sum.
#[derive(Clone, Debug, Serialize)]
pub struct Sum {
    /// Files that are artifacts.
    pub parse: Share,
    /// Files whose queries all parse and compile.
    pub compile: Share,
    /// Files in which all names and arguments are known.
    pub known: Share,
    /// Artifacts of which all is implemented here.
    pub implemented: Share,
    /// The same of those for clients that may run on Linux.
    pub implemented_linux: Share,
    /// The same of those for the server.
    pub implemented_server: Share,
    /// What is not here, and how many artifacts of Linux clients and of the
    /// server need it; most needed first.
    pub missing: Vec<(String, usize)>,
}

/// Adds reports up.
pub fn sum(reports: &[Report]) -> Sum {
    let without = |faults: &'static [Fault]| {
        move |r: &Report| !r.problems.iter().any(|p| faults.contains(&p.fault))
    };
    let all = |_: &Report| true;
    let whole = |r: &Report| !r.artifact.is_empty() && r.missing.is_empty();
    let mut needed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for report in reports.iter().filter(|r| r.linux || r.server) {
        for name in &report.missing {
            needed.entry(name).or_default().insert(&report.path);
        }
    }
    let mut missing: Vec<_> = needed.iter().map(|(n, by)| ((*n).to_owned(), by.len())).collect();
    missing.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Sum {
        parse: Share::count(reports, all, without(&[Fault::Parse])),
        compile: Share::count(reports, all, without(&[Fault::Parse, Fault::Compile])),
        known: Share::count(
            reports,
            all,
            without(&[Fault::Parse, Fault::Compile, Fault::Name, Fault::Argument]),
        ),
        implemented: Share::count(reports, all, whole),
        implemented_linux: Share::count(reports, |r| r.linux, whole),
        implemented_server: Share::count(reports, |r| r.server, whole),
        missing,
    }
}
