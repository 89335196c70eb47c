//! Event days get their stock files when the day is over or the server stops.

use velociraptor_proto::journal::SettledEvents;
use velociraptor_proto::journal::decision::Kind;

use super::events::{EventKey, Form, LiveEvents, client_members, decorate};
use super::flows::job;
use super::server::{Org, Server, ServiceError};
use super::state::MONITORING;
use crate::env::Mutant;
use crate::env::fs::parent;
use crate::store::paths::{EventKind, Events};
use crate::store::resultset::TimedWriter;
use crate::store::{FilePath, StoreError, StoreKind};

/// Where the events of a key are stored.
pub fn event_paths<'a>(org: &'a Org, key: &'a EventKey) -> Events<'a> {
    let kind = if key.logs { EventKind::Logs } else { EventKind::Rows };
    if key.client == "server" {
        Events::server(&org.id, &key.artifact, kind)
    } else {
        Events::client(&org.id, &key.client, &key.artifact, kind)
    }
}

impl Server {
    /// The rows of one part, as readers see them, with their time in nanoseconds.
    pub async fn event_rows(
        &self,
        key: &EventKey,
        part: &super::events::EventPart,
    ) -> Result<bytes::Bytes, ServiceError> {
        let raw = part.extent.read(&*self.env.fs).await.map_err(StoreError::from)?;
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

    /// Writes a set of events to a day file of its own and forgets it.
    pub async fn settle_events(&self, org: &Org, key: &EventKey) -> Result<(), ServiceError> {
        let Some(events) = org.state().events.sets.get(key).cloned() else { return Ok(()) };
        let data = self.tree.temp(StoreKind::Files);
        let index = format!("{data}.tidx");
        let done = self.settle_day(org, key, &events, (&data, &index)).await;
        // Also after a failure: on a full disk each attempt would leave more.
        for p in [&data, &index] {
            let _ = self.env.fs.remove(p).await;
        }
        done
    }

    async fn settle_day(
        &self,
        org: &Org,
        key: &EventKey,
        events: &LiveEvents,
        (data, index): (&str, &str),
    ) -> Result<(), ServiceError> {
        self.write_events(key, events, data, index).await?;
        // What came meanwhile would be covered by the record and be in no file.
        let _closed = org.gates.close((key.client.clone(), MONITORING.to_owned())).await;
        let parts = org.state().events.sets.get(key).map_or(0, |now| now.parts.len());
        if parts == events.parts.len() {
            self.link_events(org, key, data, index).await?;
            let kind = Kind::SettledEvents(SettledEvents {
                artifact: key.artifact.clone(),
                day: key.day.clone(),
                logs: key.logs,
            });
            let at = match self.env.sabotage.is(Mutant::SettleEventsTwice) {
                true => self.env.clock.micros(),
                false => self.decide_alone(org, &key.client, "", kind).await?,
            };
            org.state().settled_events(key, at);
        }
        Ok(())
    }

    async fn link_events(
        &self,
        org: &Org,
        key: &EventKey,
        data: &str,
        index: &str,
    ) -> Result<(), ServiceError> {
        let place = event_paths(org, key);
        let epoch = self.epoch.name();
        let plain = place.day(&key.day);
        let own = place.day_of(&key.day, &self.options.node, &epoch);
        self.tree.record_long_names(&plain.0).await?;
        // The index first: stock rewrites a day file that has none.
        let taken =
            !self.link_day(index, data, &plain).await? && !self.link_day(index, data, &own).await?;
        if taken {
            // This process settled this day before: a third name.
            let n = self.env.entropy.next_u64();
            let third = place.day_of(&key.day, &self.options.node, &format!("{epoch}-{n:016x}"));
            if !self.link_day(index, data, &third).await? {
                return Err(ServiceError::Invalid(format!(
                    "no free name for events of {}",
                    key.day
                )));
            }
        }
        Ok(())
    }

    /// Links index and data to a day's names. `false` if the name is taken.
    async fn link_day(
        &self,
        index: &str,
        data: &str,
        day: &FilePath,
    ) -> Result<bool, ServiceError> {
        let fs = &*self.env.fs;
        let root = &self.tree.root;
        let to_data = root.file(day).map_err(StoreError::from)?;
        let to_index = root.file(&day.time_index()).map_err(StoreError::from)?;
        for (from, to) in [(index, &to_index), (data, &to_data)] {
            match fs.link(from, to).await {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
                Err(e) => return Err(StoreError::from(e).into()),
            }
        }
        fs.sync_dir(parent(&to_data)).await.map_err(StoreError::from)?;
        Ok(true)
    }

    async fn write_events(
        &self,
        key: &EventKey,
        events: &LiveEvents,
        data: &str,
        index: &str,
    ) -> Result<(), ServiceError> {
        let mut w = TimedWriter::create(&*self.env.fs, data, index).await?;
        for part in &events.parts {
            let rows = self.event_rows(key, part).await?;
            for row in job::lines(&rows) {
                w.row((part.received as i64).saturating_mul(1000), row).await?;
            }
        }
        w.finish().await?;
        Ok(())
    }
}
