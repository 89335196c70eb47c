//! Which events of an endpoint or the server are stored, and those of one day.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::event_view::EventView;
use super::events::EventKey;
use super::flows::job::lines;
use super::server::{Org, Server, ServiceError};
use super::settle_events::event_paths;
use crate::store::paths;
use crate::store::resultset::{TimedSet, with_ts};
use crate::store::walk::event_dirs;

/// Most bytes of one day that are held.
const MAX_BYTES: usize = 64 << 20;
const DAY_NANOS: i64 = 86_400_000_000_000;

/// What there is of one artifact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Rows.
    pub rows: bool,
    /// Lines of the queries' logs.
    pub logs: bool,
}

/// Rows of one day.
#[derive(Clone, Debug, Default)]
pub struct DayRows {
    /// By time, each with `_ts`, milliseconds.
    pub rows: Vec<Bytes>,
    /// There are more: a limit was reached.
    pub cut: bool,
}

impl Server {
    /// Event artifacts of which something is stored, as `Artifact/Source`.
    pub async fn event_names(
        &self,
        org: &Org,
        client: &str,
    ) -> Result<BTreeMap<String, Stored>, ServiceError> {
        let of = paths::Client { org: &org.id, id: client };
        let (rows, logs) = match client {
            "server" => (paths::server_events_dir(&org.id), paths::server_event_logs_dir(&org.id)),
            _ => (of.monitoring(), of.monitoring_logs()),
        };
        let mut out: BTreeMap<String, Stored> = BTreeMap::new();
        for name in event_dirs(&self.tree, &rows).await?.into_keys() {
            out.entry(name).or_default().rows = true;
        }
        for name in event_dirs(&self.tree, &logs).await?.into_keys() {
            out.entry(name).or_default().logs = true;
        }
        let state = org.state();
        for key in state.events.sets.keys().filter(|k| k.client == client) {
            let stored = out.entry(key.artifact.clone()).or_default();
            match key.logs {
                true => stored.logs = true,
                false => stored.rows = true,
            }
        }
        Ok(out)
    }

    /// Days (UTC, `YYYY-MM-DD`) of which something is stored; `any` says of what.
    pub async fn event_days(
        &self,
        org: &Org,
        any: &EventKey,
    ) -> Result<BTreeSet<String>, ServiceError> {
        let files = TimedSet::open(&self.tree, &event_paths(org, any).dir()).await?;
        let mut days: BTreeSet<String> = files.files().iter().map(|f| f.day()).collect();
        let state = org.state();
        let same = |k: &&EventKey| {
            k.client == any.client && k.artifact == any.artifact && k.logs == any.logs
        };
        days.extend(state.events.sets.keys().filter(same).map(|k| k.day.clone()));
        Ok(days)
    }

    /// A name for what is stored of a day now, that changes when more is.
    pub async fn event_stamp(&self, org: &Org, key: &EventKey) -> Result<String, ServiceError> {
        let files = TimedSet::open(&self.tree, &event_paths(org, key).dir()).await?;
        let names: Vec<&str> =
            files.files().iter().filter(|f| f.day() == key.day).map(|f| f.name.as_str()).collect();
        let state = org.state();
        let live = state.events.sets.get(key).map_or(0, |s| s.parts.iter().map(|p| p.rows).sum());
        Ok(format!("{} {key:?} {} {live}", org.id, names.join(" ")))
    }

    /// Rows received between two moments (Unix nanoseconds): the first `most`.
    pub async fn event_range(
        &self,
        org: &Org,
        any: &EventKey,
        (from, to): (i64, i64),
        most: usize,
    ) -> Result<DayRows, ServiceError> {
        let EventView { files, live } = self.events(org, any).await?;
        let mut out = DayRows::default();
        let mut bytes = 0;
        let mut add = |row: Bytes| {
            if out.rows.len() >= most || bytes >= MAX_BYTES {
                out.cut = true;
                return false;
            }
            bytes += row.len();
            out.rows.push(row);
            true
        };
        let mut rows = files.rows(from, to);
        while let Some(row) = rows.next().await? {
            if !add(row.shown()) {
                return Ok(out);
            }
        }
        for (key, part) in live {
            let nanos = i64::try_from(part.received).unwrap_or(i64::MAX).saturating_mul(1000);
            if nanos < from || nanos >= to {
                continue;
            }
            let blob = self.event_rows(&key, &part).await?;
            for line in lines(&blob) {
                if !add(with_ts(&blob.slice_ref(line), nanos / 1_000_000)) {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }

    /// Rows of one day, as [`Server::event_range`].
    pub async fn event_day(
        &self,
        org: &Org,
        key: &EventKey,
        most: usize,
    ) -> Result<DayRows, ServiceError> {
        let day: jiff::civil::Date = (key.day.parse())
            .map_err(|_| ServiceError::Invalid(format!("`{}` is no day (YYYY-MM-DD)", key.day)))?;
        let zoned = day.to_zoned(jiff::tz::TimeZone::UTC);
        let zoned = zoned.map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let from = i64::try_from(zoned.timestamp().as_nanosecond()).unwrap_or(i64::MAX);
        self.event_range(org, key, (from, from.saturating_add(DAY_NANOS)), most).await
    }
}
