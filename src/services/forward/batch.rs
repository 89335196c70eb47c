//! What is delivered together: read from journals, in order, with ids.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Backlog, Owed};
use crate::services::events::decorate;
use crate::services::flows::job::{Hash, hash, lines};
use crate::services::server::{Server, ServiceError};
use crate::store::journal::{Position, ProcessId};

/// One row to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Stays the same however often the row is delivered.
    pub id: String,
    /// A JSON object with `_Id` and `_OrgId` among its members.
    pub json: Bytes,
}

/// Rows to deliver together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows, in order.
    pub lines: Vec<Line>,
    /// Where their messages are.
    places: Vec<(ProcessId, Position)>,
}

impl Batch {
    /// Bytes of the rows.
    pub fn bytes(&self) -> usize {
        self.lines.iter().map(|l| l.json.len() + 1).sum()
    }

    /// An id of some of its rows: the same whenever they are delivered together.
    pub fn id(lines: &[Line]) -> String {
        let ids: Vec<&str> = lines.iter().map(|l| l.id.as_str()).collect();
        hex::encode(hash(ids.join("\n").as_bytes()))
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The rows of a message with their ids.
fn numbered(org: &str, message: &Hash, blob: &Bytes) -> Vec<Line> {
    let one = |(n, line): (usize, &[u8])| {
        let id = format!("{}-{n}", hex::encode(message));
        let members = format!("\"_Id\":{},\"_OrgId\":{}", quoted(&id), quoted(org));
        let json = decorate(line, &members);
        Line { id, json: json.slice(..json.len().saturating_sub(1)) }
    };
    lines(blob).enumerate().map(one).collect()
}

impl Backlog {
    /// Messages to deliver next, oldest first; of this process only those before
    /// which nothing can come any more.
    fn next(&self, own: &ProcessId, settled: Option<Position>) -> Vec<(ProcessId, Position, Owed)> {
        let (mut rows, mut bytes) = (0, 0);
        let mut out: Vec<(ProcessId, Position, Owed)> = Vec::new();
        self.with(|q| {
            let mut heads: Vec<_> = q
                .waiting
                .iter()
                .map(|(p, all)| {
                    let limit = if p == own { settled } else { None };
                    let ready = move |at: &Position| limit.is_none_or(|l| *at < l);
                    (p, all.iter().take_while(move |(at, _)| ready(at)).peekable())
                })
                .collect();
            loop {
                let first = heads
                    .iter_mut()
                    .enumerate()
                    .filter_map(|(i, (_, all))| all.peek().map(|(_, o)| (o.part.received, i)))
                    .min();
                let Some((_, i)) = first else { break };
                let (process, all) = &mut heads[i];
                let Some((at, owed)) = all.peek() else { break };
                let (r, b) = (owed.part.rows, owed.part.extent.len);
                let full = rows + r > self.sink.batch_rows || bytes + b > self.sink.batch_bytes;
                if full && !out.is_empty() {
                    break;
                }
                (rows, bytes) = (rows + r, bytes + b);
                out.push(((*process).clone(), **at, (*owed).clone()));
                all.next();
            }
        });
        out
    }
}

impl Server {
    /// What to deliver next; `None` when nothing is owed that can be now.
    pub async fn next_batch(&self, b: &Backlog) -> Result<Option<Batch>, ServiceError> {
        let owed = b.next(&self.process(), self.backlogs.settled_to());
        if owed.is_empty() {
            return Ok(None);
        }
        let mut batch = Batch { lines: Vec::new(), places: Vec::new() };
        for (process, at, owed) in owed {
            match self.event_rows(&owed.key, &owed.part).await {
                Ok(blob) => {
                    let org = owed.org.to_string();
                    batch.lines.extend(numbered(&org, &owed.part.hash, &blob));
                }
                Err(e) if is_lost(&e) => {
                    b.dropped.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        sink = b.sink.name, artifact = owed.key.artifact, error = %e,
                        "event rows cannot be read and are not forwarded"
                    );
                }
                Err(e) => return Err(e),
            }
            batch.places.push((process, at));
        }
        Ok(Some(batch))
    }

    /// Everything in it was delivered, or never will be.
    pub async fn delivered(&self, b: &Backlog, batch: &Batch) -> Result<(), ServiceError> {
        b.with(|q| {
            for (process, at) in &batch.places {
                q.remove(process, *at);
            }
        });
        self.save_cursor(b).await
    }
}

/// Whether trying again cannot help.
fn is_lost(e: &ServiceError) -> bool {
    match e {
        ServiceError::Invalid(_) => true,
        ServiceError::Store(crate::store::StoreError::Io(e)) => {
            e.kind() == std::io::ErrorKind::NotFound
        }
        ServiceError::Store(_) => true,
        _ => false,
    }
}
