//! The stored rows of one event artifact, wherever they are, each once.

use super::events::{EventKey, EventPart};
use super::server::{Org, Server, ServiceError};
use super::settle_events::event_paths;
use super::state::OrgState;
use crate::store::resultset::TimedSet;

/// Rows of an event artifact at one moment.
#[derive(Debug)]
pub struct EventView {
    /// Those in day files.
    pub files: TimedSet,
    /// Those still in journals, by day, in the order received.
    pub live: Vec<(EventKey, EventPart)>,
}

/// What is in journals, and which files hold some of it already.
#[derive(PartialEq, Eq)]
struct Mark {
    key: EventKey,
    filing: Option<String>,
    /// File and offset of the first part.
    first: Option<(String, u64)>,
}

fn marks(state: &OrgState, any: &EventKey) -> Vec<Mark> {
    let mine =
        |k: &&EventKey| k.client == any.client && k.artifact == any.artifact && k.logs == any.logs;
    let events = &state.events;
    let mut keys: Vec<&EventKey> =
        events.sets.keys().chain(events.filing.keys()).filter(mine).collect();
    keys.sort();
    keys.dedup();
    let mark = |key: &EventKey| {
        let part = events.sets.get(key).and_then(|s| s.parts.first());
        Mark {
            key: key.clone(),
            filing: events.filing.get(key).map(|f| f.name.clone()),
            first: part.map(|p| (p.extent.segment.path.clone(), p.extent.offset)),
        }
    };
    keys.into_iter().map(mark).collect()
}

impl Server {
    /// The rows or logs of `any`, whatever its day says.
    ///
    /// A file that is being made of rows in journals is left out until they are
    /// forgotten here; if that happens while files are listed, they are listed again.
    pub async fn events(&self, org: &Org, any: &EventKey) -> Result<EventView, ServiceError> {
        loop {
            let (before, live) = {
                let state = org.state();
                let before = marks(&state, any);
                let of = |m: &Mark| {
                    let set = state.events.sets.get(&m.key).into_iter();
                    set.flat_map(|s| &s.parts)
                        .map(|p| (m.key.clone(), p.clone()))
                        .collect::<Vec<_>>()
                };
                let live = before.iter().flat_map(of).collect();
                (before, live)
            };
            let mut files = TimedSet::open(&self.tree, &event_paths(org, any).dir()).await?;
            if marks(&org.state(), any) == before {
                files.leave_out(|name| before.iter().any(|m| m.filing.as_deref() == Some(name)));
                return Ok(EventView { files, live });
            }
        }
    }
}
