//! What waits to be sent: two queues (urgent, normal) of messages serialised
//! once, and the ids of cancelled collections, whose rows and uploads are left
//! out when a batch is made.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message;
use velociraptor_proto::proto::{MessageList, VeloMessage};

use super::buffer::{Buffer, Lease};

/// Largest batch, whatever is configured: it is held in memory several times
/// over while it is wrapped.
const MAX_POST: u64 = 2 << 20;

/// Sees what crosses the wire, to keep books of it.
pub trait Watch: Send + Sync {
    /// A message of the server was received.
    fn received(&self, message: &VeloMessage);
    /// A message of ours was sent and acknowledged.
    fn acknowledged(&self, message: &VeloMessage);
}

/// See the module.
pub struct Outbox {
    urgent: Buffer,
    normal: Buffer,
    max_post: u64,
    cancelled: Mutex<BTreeSet<String>>,
    watch: Option<Arc<dyn Watch>>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("normal", &self.normal).finish_non_exhaustive()
    }
}

/// Messages for one POST. Dropping it leaves them queued.
#[derive(Debug)]
pub struct Batch {
    /// Serialised `MessageList`s; empty when all messages were left out.
    pub lists: Vec<Vec<u8>>,
    /// From the urgent queue.
    pub urgent: bool,
    lease: Lease,
    /// Which items of the lease are in `lists`.
    sent: Vec<usize>,
}

impl Outbox {
    /// Queues around `normal`, which may hold messages from before a restart.
    pub fn new(normal: Buffer, max_post: u64) -> Outbox {
        let max_post = max_post.clamp(64 << 10, MAX_POST);
        Outbox {
            urgent: Buffer::memory(2 * max_post),
            normal,
            max_post,
            cancelled: Mutex::default(),
            watch: None,
        }
    }

    /// Tells `watch` what is acknowledged.
    pub fn watched(self, watch: Arc<dyn Watch>) -> Outbox {
        Outbox { watch: Some(watch), ..self }
    }

    /// In memory only; for tests and tools.
    pub fn in_memory() -> Outbox {
        Outbox::new(Buffer::memory(u64::MAX), 5 << 20)
    }

    /// Queues a message; waits while the queue is over its limit.
    pub async fn post(&self, message: VeloMessage) {
        let urgent = message.urgent;
        let list = MessageList { job: vec![message] }.encode_to_vec();
        let queue = if urgent { &self.urgent } else { &self.normal };
        queue.push(list.into()).await;
    }

    fn cancelled(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.cancelled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows and uploads of this collection are not sent from now on.
    pub fn suppress(&self, session: &str) {
        self.cancelled().insert(session.to_owned());
    }

    /// Undoes [`Outbox::suppress`].
    pub fn unsuppress(&self, session: &str) {
        self.cancelled().remove(session);
    }

    /// The next batch, urgent first; `None` when nothing waits.
    pub async fn next(&self) -> Option<Batch> {
        for (queue, urgent) in [(&self.urgent, true), (&self.normal, false)] {
            let lease = queue.lease(self.max_post).await;
            if !lease.is_empty() {
                let (lists, sent) = self.lists(&lease.items);
                return Some(Batch { lists, urgent, lease, sent });
            }
        }
        None
    }

    fn lists(&self, items: &[Bytes]) -> (Vec<Vec<u8>>, Vec<usize>) {
        let cancelled = self.cancelled().clone();
        let mut lists: Vec<Vec<u8>> = Vec::new();
        let mut sent = Vec::new();
        for (i, item) in items.iter().enumerate() {
            if !cancelled.is_empty() && suppressed(item, &cancelled) {
                continue;
            }
            sent.push(i);
            match lists.last_mut() {
                Some(l) if (l.len() + item.len()) as u64 <= self.max_post / 4 => {
                    l.extend_from_slice(item);
                }
                _ => lists.push(item.to_vec()),
            }
        }
        (lists, sent)
    }

    /// The batch was acknowledged.
    pub async fn commit(&self, batch: Batch) {
        if let Some(watch) = &self.watch {
            let sent = batch.sent.iter().filter_map(|i| batch.lease.items.get(*i));
            for list in sent.filter_map(|item| MessageList::decode(item.as_ref()).ok()) {
                list.job.iter().for_each(|m| watch.acknowledged(m));
            }
        }
        let queue = if batch.urgent { &self.urgent } else { &self.normal };
        queue.commit(batch.lease).await;
    }

    /// Resolves when something was queued since the last call.
    pub async fn filled(&self) {
        tokio::select! {
            biased;
            () = self.urgent.filled() => {}
            () = self.normal.filled() => {}
        }
    }

    /// Bytes waiting.
    pub async fn bytes(&self) -> u64 {
        self.urgent.bytes().await + self.normal.bytes().await
    }

    /// Whether a POST is worth sending before the round is due.
    pub async fn is_large(&self) -> bool {
        self.bytes().await > self.max_post
    }

    /// Puts everything on stable storage.
    pub async fn sync(&self) {
        self.normal.sync().await;
    }

    /// Takes everything queued as messages, in the order they would be sent.
    #[cfg(test)]
    pub async fn drain(&self) -> Vec<VeloMessage> {
        let mut out = Vec::new();
        while let Some(batch) = self.next().await {
            for list in &batch.lists {
                out.extend(MessageList::decode(list.as_slice()).unwrap().job);
            }
            self.commit(batch).await;
        }
        out
    }
}

/// Logs and states of cancelled collections still go out.
fn suppressed(item: &[u8], cancelled: &BTreeSet<String>) -> bool {
    let Ok(list) = MessageList::decode(item) else { return false };
    list.job.iter().all(|m| {
        cancelled.contains(&m.session_id) && m.log_message.is_none() && m.flow_stats.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use velociraptor_proto::proto::{FlowStats, LogMessage, VqlResponse};

    #[tokio::test]
    async fn urgent_first_and_cancelled_rows_stay_behind() {
        let out = Outbox::in_memory();
        let rows = |id: &str| VeloMessage {
            session_id: id.into(),
            vql_response: Some(VqlResponse::default()),
            ..Default::default()
        };
        out.post(rows("F.1")).await;
        out.post(rows("F.2")).await;
        out.post(VeloMessage {
            session_id: "F.1".into(),
            log_message: Some(LogMessage::default()),
            ..Default::default()
        })
        .await;
        out.post(VeloMessage {
            session_id: "F.1".into(),
            flow_stats: Some(FlowStats::default()),
            urgent: true,
            ..Default::default()
        })
        .await;
        out.suppress("F.1");
        let got = out.drain().await;
        let ids: Vec<_> = got.iter().map(|m| m.session_id.as_str()).collect();
        assert_eq!(ids, ["F.1", "F.2", "F.1"]);
        assert!(got[0].flow_stats.is_some() && got[2].log_message.is_some());
        assert_eq!(out.bytes().await, 0);
    }

    #[tokio::test]
    async fn a_batch_not_committed_comes_again() {
        let out = Outbox::in_memory();
        out.post(VeloMessage { session_id: "F.1".into(), ..Default::default() }).await;
        let first = out.next().await.unwrap().lists;
        assert_eq!(out.next().await.unwrap().lists, first);
    }
}
