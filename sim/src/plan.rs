//! What a simulated collection does on its client. It travels as the artifact's
//! parameter, so that the client learns it only from the task.

use serde::{Deserialize, Serialize};

/// Artifact with one source.
pub const ONE: &str = "Custom.Sim.One";
/// Artifact with two named sources.
pub const TWO: &str = "Custom.Sim.Two";
/// Event artifacts.
pub const EVENTS: &str = "Custom.Sim.Events";

/// Definitions of all of them.
pub const DEFINITIONS: &[&str] = &[
    "name: Custom.Sim.One\nparameters:\n  - name: Plan\nsources:\n  - query: SELECT Plan FROM scope()\n",
    "name: Custom.Sim.Two\nparameters:\n  - name: Plan\nsources:\n  - name: A\n    query: SELECT Plan \
     FROM scope()\n  - name: B\n    query: SELECT Plan FROM scope()\n",
    "name: Custom.Sim.Events\ntype: CLIENT_EVENT\nsources:\n  - query: SELECT * FROM \
     clock(period=1)\n",
];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Parts per source.
    pub parts: u64,
    /// Rows per part.
    pub rows: u64,
    /// Log lines per part.
    pub logs: u64,
    /// Sizes of uploads, bytes.
    pub uploads: Vec<u64>,
    /// Milliseconds between parts.
    pub pause_ms: u64,
    /// Two sources instead of one.
    pub two: bool,
    /// Does not wait for a slot.
    pub urgent: bool,
    /// The query fails in the end.
    pub fails: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            parts: 3,
            rows: 10,
            logs: 1,
            uploads: vec![],
            pause_ms: 200,
            two: false,
            urgent: false,
            fails: false,
        }
    }
}

impl Plan {
    /// `parts` parts of `rows` rows.
    pub fn rows(parts: u64, rows: u64) -> Self {
        Self { parts, rows, ..Self::default() }
    }

    /// And these uploads.
    pub fn uploads(mut self, sizes: &[u64]) -> Self {
        self.uploads = sizes.to_vec();
        self
    }

    /// Over so many milliseconds altogether.
    pub fn lasting(mut self, ms: u64) -> Self {
        self.pause_ms = ms / self.parts.max(1);
        self
    }

    /// The artifact that carries it.
    pub fn artifact(&self) -> &'static str {
        if self.two { TWO } else { ONE }
    }

    /// As text.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From text; anything else is the default.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }
}
