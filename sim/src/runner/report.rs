//! What a child tells its parent, and how people are told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Outcome;

/// The outcome of one run, as it crosses processes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Told {
    /// Invariant and story.
    pub violations: Vec<(String, String)>,
    /// What was met.
    pub coverage: BTreeMap<String, u64>,
    /// What led to them.
    pub story: Vec<String>,
    /// The frontends' last warnings.
    pub log: Vec<String>,
    /// Virtual seconds.
    pub seconds: f64,
}

/// Lines of the log that are worth showing.
const LINES: usize = 12;

impl Told {
    /// Of an outcome.
    pub fn of(o: &Outcome) -> Self {
        let skip = o.log.len().saturating_sub(LINES);
        Self {
            violations: o
                .violations
                .iter()
                .map(|v| (v.invariant.to_owned(), v.story.clone()))
                .collect(),
            story: o.story.clone(),
            coverage: o.coverage.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            log: o.log[skip..].to_vec(),
            seconds: o.virtual_time.as_secs_f64(),
        }
    }

    /// Whether this invariant was broken.
    pub fn broke(&self, invariant: &str) -> bool {
        self.violations.iter().any(|v| v.0 == invariant)
    }

    /// The story of a failure.
    pub fn story(&self, scenario: &str, seed: u64, mutant: Option<&str>) -> String {
        let mut out = format!("FAILED {scenario}, seed {seed}");
        if let Some(m) = mutant {
            out += &format!(", with {m}");
        }
        out.push('\n');
        for (invariant, story) in self.violations.iter().take(6) {
            out += &format!("  {invariant}: {story}\n");
        }
        if self.violations.len() > 6 {
            out += &format!("  and {} more\n", self.violations.len() - 6);
        }
        if !self.story.is_empty() {
            out += "  what led to it:\n";
            for l in &self.story {
                out += &format!("    {l}\n");
            }
        }
        if !self.log.is_empty() {
            out += "  the frontends' last warnings:\n";
            for l in &self.log {
                let short: String = l.chars().take(220).collect();
                out += &format!("    {short}\n");
            }
        }
        out += &format!(
            "  again: cargo run -p sim --release -- --scenario {scenario} --seeds {seed}..{}",
            seed + 1
        );
        if let Some(m) = mutant {
            out += &format!(" --mutant {m}");
        }
        out += " --trace run.txt\n";
        out
    }
}
