//! Applies the journals of other processes on the master, from the stream or
//! from the store, each record once and in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::Release;

use super::hub::Journals;
use crate::services::recover;
use crate::services::server::{Server, ServiceError, fleet_dir};
use crate::store::StoreError;
use crate::store::journal::{
    Next, Position, ProcessId, Reader, Segment, list_files, list_processes, take_frame,
};

/// Distance of looks at the journals of processes without a stream.
const TAIL: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Known {
    /// Held while something of this process is applied.
    at: tokio::sync::Mutex<Position>,
    shown: Mutex<Position>,
    streamed: AtomicBool,
    segments: Mutex<BTreeMap<u64, Arc<Segment>>>,
}

impl Known {
    fn show(&self, p: Position) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = p;
    }
}

/// All processes but this one.
#[derive(Debug)]
pub struct Processes {
    server: Arc<Server>,
    all: Mutex<BTreeMap<ProcessId, Arc<Known>>>,
}

impl Processes {
    /// Those `server` has read back when it was opened are where they were then.
    pub fn new(server: Arc<Server>) -> Arc<Self> {
        let mut all = BTreeMap::new();
        for (p, at) in server.recovered() {
            let known = Known { at: tokio::sync::Mutex::new(at), ..Known::default() };
            known.show(at);
            all.insert(p, Arc::new(known));
        }
        Arc::new(Self { server, all: Mutex::new(all) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Arc<Known>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, p: &ProcessId) -> Arc<Known> {
        self.lock().entry(p.clone()).or_default().clone()
    }

    /// Reads journals of processes without a stream from the store, until `stop`.
    pub async fn tail(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TAIL) => {}
            }
            let fleet = fleet_dir(&self.server.tree.root);
            let listed = match list_processes(&self.server.env, &fleet).await {
                Ok(l) => l,
                Err(e) => {
                    tracing::warn!(error = %e, "processes on the store not listed");
                    continue;
                }
            };
            let own = self.server.process();
            for l in listed.into_iter().filter(|l| l.process != own) {
                let known = self.known(&l.process);
                if known.streamed.load(Ordering::Relaxed) {
                    continue;
                }
                if let Err(e) = self.catch_up(&l.process, &known, None).await {
                    tracing::warn!(process = %l.process, error = %e, "journal not read; tried again");
                }
            }
        }
    }

    fn segment(&self, process: &ProcessId, known: &Known, file: u64) -> Arc<Segment> {
        let mut all = known.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Segment::journal(&fleet_dir(&self.server.tree.root), process, file));
        all.entry(file).or_insert_with(make).clone()
    }

    /// Reads from the store what lies between the position and `to`, or all
    /// there is.
    async fn catch_up(
        &self,
        process: &ProcessId,
        known: &Known,
        to: Option<Position>,
    ) -> Result<(), ServiceError> {
        let mut at = known.at.lock().await;
        if to.is_some_and(|to| *at >= to) {
            return Ok(());
        }
        let fleet = fleet_dir(&self.server.tree.root);
        let env = &self.server.env;
        let mut files = list_files(env, &fleet, process).await.map_err(StoreError::from)?;
        if let Some(to) = to {
            // Its name is known to exist, whatever the listing says.
            if !files.contains(&to.file) {
                files.push(to.file);
            }
        }
        files.retain(|f| *f >= at.file);
        for file in files {
            if file > at.file {
                *at = Position::start_of(file);
            }
            let segment = self.segment(process, known, file);
            let reader = Reader::open(&*env.fs, segment.clone(), at.offset).await;
            let mut reader = match reader {
                Ok(r) => r,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::from(e).into()),
            };
            loop {
                match reader.next().await.map_err(StoreError::from)? {
                    Next::Record(f) => {
                        let end = f.end;
                        recover::apply_remote(&self.server, f).await?;
                        *at = Position { file, offset: end };
                    }
                    Next::Poison { end, reason, .. } => {
                        tracing::error!(process = %process, file, reason, "journal record cannot be read; passed over");
                        *at = Position { file, offset: end };
                    }
                    Next::End | Next::Torn(_) => break,
                }
                known.show(*at);
            }
        }
        known.show(*at);
        Ok(())
    }

    async fn apply(
        &self,
        process: &ProcessId,
        start: Position,
        data: Bytes,
    ) -> Result<(), ServiceError> {
        let known = self.known(process);
        let end = Position { file: start.file, offset: start.offset + data.len() as u64 };
        let behind = {
            let at = *known.at.lock().await;
            // The start of a later file may come without anything in between,
            // or with: only the store knows.
            at < start
        };
        if behind {
            self.catch_up(process, &known, Some(start)).await?;
        }
        let mut at = known.at.lock().await;
        if *at >= end {
            return Ok(());
        }
        if at.file < start.file {
            *at = Position::start_of(start.file);
        }
        if *at < start {
            drop(at);
            return self.catch_up(process, &known, Some(end)).await;
        }
        let segment = self.segment(process, &known, start.file);
        let mut rest = data.slice((at.offset - start.offset) as usize..);
        while let Some(found) = take_frame(&rest, at.offset, &segment) {
            match found {
                Ok(f) => {
                    let len = (f.end - f.start) as usize;
                    let end = f.end;
                    recover::apply_remote(&self.server, f).await?;
                    at.offset = end;
                    rest = rest.slice(len..);
                }
                Err(d) => {
                    tracing::error!(process = %process, error = %d.error, "journal bytes from the stream are no record; read from the store");
                    break;
                }
            }
            known.show(*at);
        }
        Ok(())
    }
}

impl Journals for Processes {
    fn position(&self, process: &ProcessId) -> Position {
        *self.known(process).shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn records<'a>(
        &'a self,
        process: &'a ProcessId,
        start: Position,
        data: Bytes,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(e) = self.apply(process, start, data).await {
                tracing::error!(process = %process, error = %e, "records not applied; read again from the store");
            }
        })
    }

    fn beat<'a>(&'a self, process: &'a ProcessId, end: Position, _clock: u64) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let known = self.known(process);
            if let Err(e) = self.catch_up(process, &known, Some(end)).await {
                tracing::warn!(process = %process, error = %e, "journal not read; tried again");
            }
        })
    }

    fn streamed(&self, process: &ProcessId, on: bool) {
        self.known(process).streamed.store(on, Ordering::Relaxed);
    }

    fn ended(&self, process: &ProcessId) {
        self.known(process).streamed.store(false, Ordering::Relaxed);
    }

    fn releases(&self) -> Vec<(ProcessId, Release)> {
        Vec::new()
    }
}
