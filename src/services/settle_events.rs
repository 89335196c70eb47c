//! Event days get their stock files when the day is over or the server stops.
//!
//! Before a file gets its name, a record says which messages it holds and under
//! which name. Whoever finds that record and not the one that ends it, after a
//! crash at any moment, makes the same file again: if the name is there already,
//! its rows are. So a row is in one file, however often this is begun.

use std::collections::BTreeSet;
use std::sync::Arc;

use velociraptor_proto::journal::decision::Kind;
use velociraptor_proto::journal::{FilingEvents, SettledEvents};

use super::events::{EventKey, EventPart, Filing, Form, client_members, decorate, in_order};
use super::flows::job::{self, Hash};
use super::server::{Org, Server, ServiceError};
use super::state::MONITORING;
use crate::env::Mutant;
use crate::env::fs::parent;
use crate::store::journal::{Extents, Segment};
use crate::store::paths::{EventKind, Events};
use crate::store::resultset::TimedWriter;
use crate::store::{FilePath, StoreError, StoreKind};

/// Most messages in one file: their hashes are in one record, 16 bytes each.
const FILE_MESSAGES: usize = 1 << 18;

/// Where the events of a key are stored.
pub fn event_paths<'a>(org: &'a Org, key: &'a EventKey) -> Events<'a> {
    let kind = if key.logs { EventKind::Logs } else { EventKind::Rows };
    if key.client == "server" {
        Events::server(&org.id, &key.artifact, kind)
    } else {
        Events::client(&org.id, &key.client, &key.artifact, kind)
    }
}

/// What became of giving a file its name.
#[derive(PartialEq, Eq)]
enum Named {
    Done,
    /// Something that is not ours has it.
    Taken,
}

impl Server {
    /// The rows of one part, as readers see them, with their time in nanoseconds.
    pub async fn event_rows(
        &self,
        key: &EventKey,
        part: &EventPart,
    ) -> Result<bytes::Bytes, ServiceError> {
        self.event_rows_in(&mut Extents::new(&*self.env.fs), key, part).await
    }

    /// The same for one part of several, whose journals stay open meanwhile.
    pub async fn event_rows_in(
        &self,
        journals: &mut Extents<'_>,
        key: &EventKey,
        part: &EventPart,
    ) -> Result<bytes::Bytes, ServiceError> {
        let raw = journals.read(&part.extent).await.map_err(StoreError::from)?;
        match part.form {
            Form::Lines => Ok(raw),
            Form::Job => {
                let rows = self.readable_rows(&raw)?;
                if key.logs {
                    return Ok(rows);
                }
                Ok(decorate(&rows, &client_members(&key.client, part.received, &key.artifact)))
            }
        }
    }

    /// Writes what there is now of a set of events to day files and forgets it.
    pub async fn settle_events(&self, org: &Org, key: &EventKey) -> Result<(), ServiceError> {
        let there = {
            let state = org.state();
            let begun = usize::from(state.events.filing.contains_key(key));
            let parts = state.events.sets.get(key).map_or(0, |s| s.parts.len());
            parts.div_ceil(FILE_MESSAGES) + begun
        };
        for _ in 0..there {
            self.settle_file(org, key).await?;
        }
        Ok(())
    }

    async fn settle_file(&self, org: &Org, key: &EventKey) -> Result<(), ServiceError> {
        let begun = org.state().events.filing.get(key).cloned();
        let filing = match begun {
            Some(f) => f,
            None => match self.begin_filing(org, key).await? {
                Some(f) => f,
                None => return Ok(()),
            },
        };
        let parts = org.state().events.of(key, &filing.hashes);
        if !parts.is_empty() {
            self.file_parts(org, key, filing, parts).await?;
        }
        let kind = Kind::SettledEvents(SettledEvents {
            artifact: key.artifact.clone(),
            day: key.day.clone(),
            logs: key.logs,
            filed: true,
        });
        let at = match self.env.sabotage.is(Mutant::SettleEventsTwice) {
            true => self.env.clock.micros(),
            false => self.decide_alone(org, &key.client, "", kind).await?,
        };
        org.state().settled_events(key, at, true);
        Ok(())
    }

    /// Decides what goes into the next file of a set, and what that is called.
    async fn begin_filing(
        &self,
        org: &Org,
        key: &EventKey,
    ) -> Result<Option<Filing>, ServiceError> {
        // The plain name belongs to whoever is alone. With several nodes the same
        // message can lie in the journals of two, received at different moments: of
        // a file of that name it could not be told whose it is.
        let own = match self.alone() && self.is_free(org, key).await? {
            true => key.day.clone(),
            false => self.own_day(key),
        };
        // What comes meanwhile is before the record, in memory as in journals, or
        // after it.
        let _closed = org.gates.close((key.client.clone(), MONITORING.to_owned())).await;
        let hashes: BTreeSet<Hash> = {
            let state = org.state();
            let set = state.events.sets.get(key).into_iter();
            set.flat_map(|s| &s.parts).map(|p| p.hash).take(FILE_MESSAGES).collect()
        };
        match hashes.is_empty() {
            true => Ok(None),
            false => self.decide_filing(org, key, own, Arc::new(hashes)).await.map(Some),
        }
    }

    async fn decide_filing(
        &self,
        org: &Org,
        key: &EventKey,
        name: String,
        hashes: Arc<BTreeSet<Hash>>,
    ) -> Result<Filing, ServiceError> {
        let nowhere = Arc::new(Segment::of_path(""));
        let filing = Filing { name, hashes, pin: nowhere };
        if self.env.sabotage.is(Mutant::SettleEventsTwice) {
            org.state().events.filing.insert(key.clone(), filing.clone());
            return Ok(filing);
        }
        let kind = Kind::FilingEvents(FilingEvents {
            artifact: key.artifact.clone(),
            day: key.day.clone(),
            logs: key.logs,
            name: filing.name.clone(),
            hashes: filing.hashes.iter().flatten().copied().collect(),
        });
        self.decide_alone(org, &key.client, "", kind).await?;
        Ok(filing)
    }

    /// Whether everything that is not settled came through one node.
    fn alone(&self) -> bool {
        let others = self.processes.others();
        // Whoever left no journal left nothing to settle.
        let with_journals = others.iter().filter(|p| p.life().newest.is_some());
        let mut nodes: BTreeSet<&str> = with_journals.map(|p| p.id.node.as_str()).collect();
        if !self.options.fleet.offline {
            nodes.insert(&self.options.node);
        }
        nodes.len() <= 1
    }

    /// Whether the plain name of the day is nobody's.
    async fn is_free(&self, org: &Org, key: &EventKey) -> Result<bool, ServiceError> {
        let day = event_paths(org, key).day(&key.day);
        let data = self.tree.exists(&day.0).await?;
        Ok(!data && !self.tree.exists(&day.time_index().0).await?)
    }

    /// A name that nobody else makes, for this one file.
    fn own_day(&self, key: &EventKey) -> String {
        let n = self.env.entropy.next_u64() as u32;
        format!("{}.{}.{}-{n:08x}", key.day, self.options.node, self.epoch.name())
    }

    /// Writes the file, and gives it its name unless it has it.
    async fn file_parts(
        &self,
        org: &Org,
        key: &EventKey,
        filing: Filing,
        parts: Vec<EventPart>,
    ) -> Result<(), ServiceError> {
        let data = self.tree.temp(StoreKind::Files);
        let index = format!("{data}.tidx");
        let done = async {
            self.write_events(key, parts, &data, &index).await?;
            if self.name_day(org, key, &filing.name, &data, &index).await? == Named::Taken {
                let name = self.own_day(key);
                tracing::warn!(
                    day = key.day,
                    artifact = key.artifact,
                    taken = filing.name,
                    name,
                    "the name of a day is taken by rows that are not ours"
                );
                let filing = self.decide_filing(org, key, name, filing.hashes.clone()).await?;
                self.name_day(org, key, &filing.name, &data, &index).await?;
            }
            Ok(())
        };
        let done = done.await;
        // Also after a failure: on a full disk each attempt would leave more.
        for p in [&data, &index] {
            let _ = self.env.fs.remove(p).await;
        }
        done
    }

    /// Links index and data to a name. A name of our own that is there was given by
    /// whoever began this; the plain one is anybody's unless it holds the same.
    async fn name_day(
        &self,
        org: &Org,
        key: &EventKey,
        name: &str,
        data: &str,
        index: &str,
    ) -> Result<Named, ServiceError> {
        let fs = &*self.env.fs;
        let err = |e| ServiceError::from(StoreError::from(e));
        let day: FilePath = event_paths(org, key).day(name);
        self.tree.record_long_names(&day.0).await?;
        let to_data = self.tree.root.file(&day).map_err(StoreError::from)?;
        let to_index = self.tree.root.file(&day.time_index()).map_err(StoreError::from)?;
        let own = name != key.day;
        // The index first: stock rewrites a day file that has none.
        let made = match fs.link(index, &to_index).await {
            Ok(()) => true,
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                if !own && !self.same_file(index, &to_index).await? {
                    return Ok(Named::Taken);
                }
                false
            }
            Err(e) => return Err(err(e)),
        };
        match fs.link(data, &to_data).await {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                if !own && !self.same_file(data, &to_data).await? {
                    if made {
                        let _ = fs.remove(&to_index).await;
                    }
                    return Ok(Named::Taken);
                }
            }
            Err(e) => return Err(err(e)),
        }
        fs.sync_dir(parent(&to_data)).await.map_err(err)?;
        Ok(Named::Done)
    }

    async fn write_events(
        &self,
        key: &EventKey,
        parts: Vec<EventPart>,
        data: &str,
        index: &str,
    ) -> Result<(), ServiceError> {
        let mut w = TimedWriter::create(&*self.env.fs, data, index).await?;
        let mut journals = Extents::new(&*self.env.fs);
        for part in in_order(parts) {
            let rows = self.event_rows_in(&mut journals, key, &part).await?;
            for row in job::lines(&rows) {
                w.row((part.received as i64).saturating_mul(1000), row).await?;
            }
        }
        w.finish().await?;
        Ok(())
    }
}
