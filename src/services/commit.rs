//! How what is decided here, and rows of server events, become durable and then so.

use std::sync::Arc;

use bytes::Bytes;
use velociraptor_proto::journal::record::Kind as RecordKind;
use velociraptor_proto::journal::{Decision, EventRows, Record, decision};

use super::events::EventBatch;
use super::ids::Session;
use super::server::{Org, Server};
use super::state::MONITORING;
use crate::env::{File, Mutant};
use crate::store::journal::{CommitError, Committed, Extent, Segment, Worth};

impl Server {
    /// Commits a decision or the like; see [`Journal::commit_worth`].
    pub async fn commit(
        &self,
        kind: RecordKind,
        payload: Vec<Bytes>,
        spills: Vec<Arc<dyn File>>,
    ) -> Result<Committed, CommitError> {
        self.commit_worth(Worth::Decision, kind, payload, spills).await
    }

    /// The same for what is refused before decisions are when space runs out.
    pub async fn commit_worth(
        &self,
        worth: Worth,
        kind: RecordKind,
        payload: Vec<Bytes>,
        spills: Vec<Arc<dyn File>>,
    ) -> Result<Committed, CommitError> {
        let record = Record { kind: Some(kind) };
        let done = self.journal.commit_worth(worth, record, payload, spills).await?;
        self.note_segment(&done.segment);
        Ok(done)
    }

    /// Commits a decision about a client and applies it. On a minion it is a
    /// fact for the master to apply.
    ///
    /// Refused while another process may have the master role; and told as not
    /// known when that became so meanwhile.
    pub async fn decide(
        &self,
        org: &Org,
        client: &str,
        principal: &str,
        kind: decision::Kind,
    ) -> Result<(), CommitError> {
        // What is received for the flow at the same time comes before or after it,
        // in memory as in the record.
        let flow = match &kind {
            decision::Kind::Cancel(c) => Some(c.flow_id.clone()),
            decision::Kind::FailFlow(f) => Some(Session::parse(&f.flow_id).flow),
            decision::Kind::DeleteFlow(f) => Some(f.flow_id.clone()),
            _ => None,
        };
        let _closed = match flow {
            Some(flow) => Some(org.gates.close((client.to_owned(), flow)).await),
            None => None,
        };
        self.decide_alone(org, client, principal, kind).await.map(drop)
    }

    /// As [`Server::decide`], for a caller that has closed the gate of the flow.
    /// Returns the time in the record, microseconds.
    pub(super) async fn decide_alone(
        &self,
        org: &Org,
        client: &str,
        principal: &str,
        kind: decision::Kind,
    ) -> Result<u64, CommitError> {
        self.sure(false)?;
        // What is decided about a client after it was deleted is told from what was
        // decided before by its time.
        let deleted = org.state().clients.deleted.when(client);
        let d = Decision {
            org_id: org.id.id().to_owned(),
            client_id: client.to_owned(),
            time: self.env.clock.micros().max(deleted + 1),
            principal: principal.to_owned(),
            kind: Some(kind),
            // Filled in when it is written.
            seen: Vec::new(),
        };
        let opens = matches!(d.kind, Some(decision::Kind::Opened(_)));
        if !opens && self.env.sabotage.is(Mutant::TellWithoutCommit) {
            org.state().apply_decision(&d, &Arc::new(Segment::of_path("")));
            return Ok(d.time);
        }
        let done = self.commit(RecordKind::Decision(d.clone()), vec![], vec![]).await?;
        if self.is_master() {
            org.state().apply_decision(&d, &done.segment);
        }
        self.sure(true).map(|()| d.time)
    }

    /// Whether decisions of this process count now.
    pub(super) fn sure(&self, written: bool) -> Result<(), CommitError> {
        match self.standing.may_decide() {
            true => Ok(()),
            false => Err(CommitError::Refused { written }),
        }
    }

    /// Stores rows of a server-side event (`client` is `server` or the client it
    /// is about) and shows them to watchers, who are all on the master. `rows`
    /// are JSON lines.
    pub async fn push_events(
        &self,
        org: &Org,
        client: &str,
        artifact: &str,
        rows: Bytes,
    ) -> Result<(), CommitError> {
        self.push_rows(Worth::Decision, org, client, artifact, rows).await
    }

    /// The same for rows that others made.
    pub async fn push_rows(
        &self,
        worth: Worth,
        org: &Org,
        client: &str,
        artifact: &str,
        rows: Bytes,
    ) -> Result<(), CommitError> {
        let time = self.env.clock.micros();
        let members = format!(
            "\"_ts\":{},\"_Source\":{}",
            time / 1_000_000,
            serde_json::Value::from(artifact)
        );
        let rows = super::events::decorate(&rows, &members);
        let event = EventRows {
            org_id: org.id.id().to_owned(),
            client_id: client.to_owned(),
            artifact: artifact.to_owned(),
            time,
            jsonl: Vec::new(),
        };
        let _open = org.gates.enter(vec![(client.to_owned(), MONITORING.to_owned())]).await;
        let kind = RecordKind::Events(event);
        let _under_way = self.backlogs.begin(self.journal.end());
        let done = self.commit_worth(worth, kind, vec![rows.clone()], vec![]).await?;
        if !self.is_master() {
            return Ok(());
        }
        let extent = Extent { segment: done.segment, offset: done.payload, len: rows.len() as u64 };
        org.state().apply_events(client, artifact, time, &rows, extent);
        self.bus.publish(EventBatch {
            org: org.id.clone(),
            client: client.to_owned(),
            artifact: artifact.to_owned(),
            rows,
        });
        Ok(())
    }
}
