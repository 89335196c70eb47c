//! What virtual clients were sent and what they were acknowledged. Knows nothing
//! of the server's side.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use velociraptor_proto::proto::VeloMessage;

use crate::agent::Watch;

/// One collection as its client knows it.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// When the task came, for the first time.
    pub received: Option<Instant>,
    /// Rows acknowledged.
    pub rows: u64,
    /// Bytes of files acknowledged.
    pub bytes: u64,
    /// The report that it is over was acknowledged.
    pub complete: bool,
}

/// Sums over all clients.
#[derive(Debug, Default)]
pub struct Sums {
    /// Clients that were heard by the server: something was acknowledged.
    pub connected: AtomicU64,
    /// Tasks received.
    pub tasks: AtomicU64,
    /// Collections whose end was acknowledged.
    pub complete: AtomicU64,
    /// Rows of collections acknowledged.
    pub rows: AtomicU64,
    /// Rows of events and other messages acknowledged.
    pub events: AtomicU64,
    /// Bytes of them, as JSON.
    pub event_bytes: AtomicU64,
    /// Bytes of files acknowledged.
    pub bytes: AtomicU64,
    /// Processes that ended and started again.
    pub restarts: AtomicU64,
}

/// All clients' books.
#[derive(Debug, Default)]
pub struct Book {
    clients: Mutex<BTreeMap<String, Arc<Client>>>,
    sums: Arc<Sums>,
}

/// One client's.
#[derive(Debug, Default)]
pub struct Client {
    flows: Mutex<BTreeMap<String, Flow>>,
    heard: AtomicU64,
    sums: Arc<Sums>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Book {
    /// The page of a client, made when there is none.
    pub fn client(&self, id: &str) -> Arc<Client> {
        let mut all = lock(&self.clients);
        let new = || Arc::new(Client { sums: self.sums.clone(), ..Client::default() });
        all.entry(id.to_owned()).or_insert_with(new).clone()
    }

    /// Ids of all clients.
    pub fn ids(&self) -> Vec<String> {
        lock(&self.clients).keys().cloned().collect()
    }

    /// What a client knows of a flow.
    pub fn flow(&self, client: &str, flow: &str) -> Option<Flow> {
        let page = lock(&self.clients).get(client)?.clone();
        lock(&page.flows).get(flow).cloned()
    }

    /// Every flow every client knows.
    pub fn flows(&self) -> Vec<(String, String, Flow)> {
        let pages: Vec<_> =
            lock(&self.clients).iter().map(|(id, c)| (id.clone(), c.clone())).collect();
        let of = |(id, c): (String, Arc<Client>)| {
            let flows = lock(&c.flows).clone();
            flows.into_iter().map(move |(f, flow)| (id.clone(), f, flow))
        };
        pages.into_iter().flat_map(of).collect()
    }

    /// Sums over all clients.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }
}

impl Client {
    /// Its process ended and another one starts.
    pub(super) fn restarted(&self) {
        self.sums.restarts.fetch_add(1, Ordering::Relaxed);
    }
}

impl Watch for Client {
    fn received(&self, message: &VeloMessage) {
        self.heard();
        if message.flow_request.is_none() {
            return;
        }
        let mut flows = lock(&self.flows);
        let flow = flows.entry(message.session_id.clone()).or_default();
        if flow.received.is_none() {
            flow.received = Some(Instant::now());
            self.sums.tasks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn acknowledged(&self, message: &VeloMessage) {
        self.heard();
        let rows = message.vql_response.as_ref().map_or(0, |r| r.total_rows);
        let is_flow = message.session_id.starts_with("F.") && message.session_id.len() > 12;
        if !is_flow {
            let bytes = message.vql_response.as_ref().map_or(0, |r| r.jsonl_response.len() as u64);
            self.sums.events.fetch_add(rows, Ordering::Relaxed);
            self.sums.event_bytes.fetch_add(bytes, Ordering::Relaxed);
            return;
        }
        // Of the file: what is sent may be compressed, and noise grows by that.
        let bytes = message.file_buffer.as_ref().map_or(0, |b| match b.data_length {
            0 => b.uncompressed_length.max(b.data.len() as u64),
            n => n,
        });
        let over = message.flow_stats.as_ref().is_some_and(|s| s.flow_complete);
        let mut flows = lock(&self.flows);
        let flow = flows.entry(message.session_id.clone()).or_default();
        flow.rows += rows;
        flow.bytes += bytes;
        self.sums.rows.fetch_add(rows, Ordering::Relaxed);
        self.sums.bytes.fetch_add(bytes, Ordering::Relaxed);
        if over && !std::mem::replace(&mut flow.complete, true) {
            self.sums.complete.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Client {
    fn heard(&self) {
        if self.heard.swap(1, Ordering::Relaxed) == 0 {
            self.sums.connected.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::{FileBuffer, FlowRequest, FlowStats, VqlResponse};

    #[test]
    fn a_task_counts_once_and_rows_as_they_are_acknowledged() {
        let book = Book::default();
        let c = book.client("C.1");
        let of = |m: VeloMessage| VeloMessage { session_id: "F.ABCDEFGHIJKLM".into(), ..m };
        let task =
            || of(VeloMessage { flow_request: Some(FlowRequest::default()), ..Default::default() });
        c.received(&task());
        c.received(&task());
        let rows = VqlResponse { total_rows: 3, ..Default::default() };
        let rows = of(VeloMessage { vql_response: Some(rows), ..Default::default() });
        c.acknowledged(&rows);
        c.acknowledged(&rows);
        let over = FlowStats { flow_complete: true, ..Default::default() };
        let over = of(VeloMessage { flow_stats: Some(over), ..Default::default() });
        c.acknowledged(&over);
        c.acknowledged(&over);
        for uncompressed_length in [0, 1000] {
            let data = vec![0; 7].into();
            let piece = FileBuffer { data, uncompressed_length, ..Default::default() };
            c.acknowledged(&of(VeloMessage { file_buffer: Some(piece), ..Default::default() }));
        }
        let events = VeloMessage { session_id: "F.Monitoring".into(), ..rows };
        c.acknowledged(&events);
        let flow = book.flow("C.1", "F.ABCDEFGHIJKLM").unwrap();
        assert_eq!((flow.rows, flow.bytes, flow.complete), (6, 1007, true));
        let s = book.sums();
        let all = [&s.connected, &s.tasks, &s.complete, &s.rows, &s.events];
        assert_eq!(all.map(|n| n.load(Ordering::Relaxed)), [1, 1, 1, 6, 3]);
    }
}
