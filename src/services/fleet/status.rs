//! What there is to know of every node: for people, the API and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use velociraptor_proto::fleet::NodeStats;

use super::hub::{Hub, NodeStatus};
use crate::services::server::Server;
use crate::store::journal::Position;

/// One node as its master sees it.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// `master` or `minion`.
    pub role: &'static str,
    /// The start of it that this is about.
    pub epoch: String,
    /// Whether the master hears it.
    pub connected: bool,
    /// For how long it has been heard, or not, seconds.
    pub since: u64,
    /// Milliseconds since its last beat; 0 for the master.
    pub beat_age_ms: u64,
    /// Streams so far: more than one shows broken connections.
    pub streams: u64,
    /// Program and version.
    pub product: String,
    /// Clients held there now.
    pub clients: u64,
    /// Bytes of its journal that the master has not applied yet; whole files in
    /// between are not counted.
    pub lag_bytes: u64,
    /// Journal files ahead of the position that has been applied.
    pub lag_files: u64,
    /// Frames and bytes that wait to be sent to it.
    pub waiting_frames: u64,
    /// See there.
    pub waiting_bytes: u64,
    /// It takes no clients, since somebody drained it.
    pub drained: bool,
    /// What it tells of itself.
    pub stats: NodeStats,
}

fn lag(end: Position, applied: Position) -> (u64, u64) {
    match end.file.checked_sub(applied.file) {
        None => (0, 0),
        Some(0) => (end.offset.saturating_sub(applied.offset), 0),
        Some(files) => (end.offset, files),
    }
}

impl NodeView {
    fn minion(n: NodeStatus) -> Self {
        let (beat, age) = n.beat.unzip();
        let beat = beat.unwrap_or_default();
        let end: Position = beat.end.unwrap_or_default().into();
        let (lag_bytes, lag_files) = lag(end, n.applied);
        Self {
            node: n.process.node,
            role: "minion",
            epoch: n.process.epoch,
            connected: n.connected,
            since: n.since.as_secs(),
            beat_age_ms: age.map_or(0, |d| d.as_millis() as u64),
            streams: n.streams,
            product: n.product,
            clients: n.clients as u64,
            lag_bytes,
            lag_files,
            waiting_frames: n.waiting.0 as u64,
            waiting_bytes: n.waiting.1 as u64,
            drained: false,
            stats: beat.stats.unwrap_or_default(),
        }
    }

    fn master(server: &Server) -> Self {
        let held = server.sessions.by_process();
        Self {
            node: server.options.node.clone(),
            role: "master",
            epoch: server.epoch.name(),
            connected: true,
            since: server.env.clock.unix().saturating_sub(server.started),
            product: crate::ABOUT.to_owned(),
            clients: held.get(&None).copied().unwrap_or(0) as u64,
            stats: own_stats(server),
            ..Self::default()
        }
    }

    /// All nodes: the master first, then minions by name.
    pub fn all(server: &Server, hub: Option<&Hub>) -> Vec<Self> {
        let mut out = vec![Self::master(server)];
        out.extend(hub.map(Hub::status).unwrap_or_default().into_iter().map(Self::minion));
        let drained = server.steer.drained();
        out.iter_mut().for_each(|n| n.drained = drained.contains(&n.node));
        out
    }
}

/// What services know of this process.
pub fn own_stats(server: &Server) -> NodeStats {
    let (c, j) = (&server.counters, server.journal.stats());
    let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
    let delivery = server.delivery().measured();
    NodeStats {
        delivery_p50: delivery.p50,
        delivery_p99: delivery.p99,
        product: crate::ABOUT.to_owned(),
        started: server.started,
        jobs: get(&c.jobs),
        rows: get(&c.rows),
        upload_bytes: get(&c.upload_bytes),
        refused: get(&c.refused),
        journal_bytes: get(&j.bytes),
        journal_groups: get(&j.groups),
        journal_files: get(&j.files),
        leaving: server.steer.leaves(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_was_not_applied() {
        let at = |file, offset| Position { file, offset };
        assert_eq!(lag(at(0, 100), at(0, 16)), (84, 0));
        assert_eq!(lag(at(2, 100), at(0, 16)), (100, 2));
        // A beat that is older than what came since.
        assert_eq!(lag(at(0, 100), at(1, 16)), (0, 0));
    }
}
