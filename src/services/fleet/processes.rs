//! The journals of other processes, applied on the master: from the stream, or
//! from the store when the stream has a gap or there is none.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use tokio_util::sync::CancellationToken;
use velociraptor_proto::fleet::Release;
use velociraptor_proto::journal::Seen;

use super::apply::ApplyError;
use super::hub::Journals;
use super::table::{Applied, Proc};
use super::tail::{Step, Tail};
use crate::env::fs::create_synced;
use crate::services::server::{Server, ServiceError};
use crate::store::StoreError;
use crate::store::journal::{Found, Position, ProcessId, take_frame};

/// Applies what other processes wrote. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Processes {
    server: Arc<Server>,
}

impl Processes {
    /// For a master.
    pub fn new(server: Arc<Server>) -> Arc<Self> {
        Arc::new(Self { server })
    }

    /// Looks for processes, and reads the journals of those without a stream, until
    /// `stop`.
    pub async fn tail(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.server.options.fleet.tail_every) => {}
            }
            self.look().await;
        }
    }

    /// One look at the store: who is there, who lives, what is new.
    pub async fn look(&self) {
        let now = self.server.env.clock.micros();
        if let Err(e) = self.server.discover().await {
            tracing::warn!(error = %e, "processes on the store not listed; looked for again");
        }
        let others = self.server.processes.others();
        let read = others.iter().filter(|p| !p.life().streamed).map(|p| self.poll(p, now));
        join_all(read).await;
    }

    async fn poll(&self, p: &Arc<Proc>, now: u64) {
        match self.catch_up(p, None).await {
            // What is committed is seen when a file is opened; only a new name can
            // take longer.
            Ok(true) => {
                let mut life = p.life();
                life.read_out = true;
                life.watermark = life.watermark.max(now.saturating_sub(super::NAME_DELAY));
            }
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(process = %p.id, error = %e, "journal not read; tried again");
            }
        }
    }

    /// Applies what lies on the store, up to `until` or all of it. `true`: there
    /// was nothing more.
    async fn catch_up(&self, p: &Arc<Proc>, until: Option<Position>) -> Result<bool, ServiceError> {
        let mut tail = p.tail.lock().await;
        self.server.read_tail(p, &mut tail, until).await
    }

    /// Applies bytes of the stream: whole records of `process` from `start` on.
    pub async fn apply_bytes(
        &self,
        process: &ProcessId,
        start: Position,
        data: Bytes,
    ) -> Result<(), ServiceError> {
        let p = self.server.known_process(process).await?;
        p.saw_file(start.file);
        let end = Position { file: start.file, offset: start.offset + data.len() as u64 };
        let positions = &self.server.processes.positions;
        let mut tail = p.tail.lock().await;
        if self.server.options.fleet.danger.ignore_place {
            positions.advance(process, start);
        }
        if positions.of(process) < start {
            Applied::add(&self.server.processes.applied.gaps, 1);
            self.server.read_tail(&p, &mut tail, Some(start)).await?;
        }
        let at = positions.of(process);
        if at >= end {
            Applied::add(&self.server.processes.applied.repeats, 1);
            return Ok(());
        }
        if at.file != start.file || at < start {
            return Err(ServiceError::Invalid(format!(
                "records at {start} do not follow {at}, and the store does not have what is \
                 between them yet"
            )));
        }
        let segment = p.journal(start.file);
        let mut rest = data.slice((at.offset - start.offset) as usize..);
        let mut offset = at.offset;
        while let Some(found) = take_frame(&rest, offset, &segment) {
            let found = match found {
                Ok(f) => f,
                Err(d) => {
                    // The store says what is really there.
                    tracing::error!(process = %p.id, file = start.file, offset, error = %d.error,
                        "bytes of the stream are no record; read from the store");
                    self.server.read_tail(&p, &mut tail, Some(end)).await?;
                    return Ok(());
                }
            };
            let (len, at) = ((found.end - found.start) as usize, found.end);
            self.server.apply_found(&p, found, Position { file: start.file, offset: at }).await?;
            rest = rest.slice(len..);
            offset = at;
        }
        drop(tail);
        self.server.note_watermark(&p);
        Ok(())
    }

    /// A streamed process says where its journal ends: what was not streamed since
    /// its last word is read from the store.
    async fn note_beat(
        &self,
        process: &ProcessId,
        end: Position,
        clock: u64,
    ) -> Result<(), ServiceError> {
        let p = self.server.known_process(process).await?;
        p.saw_file(end.file);
        let clock = clock.min(self.server.env.clock.micros());
        let before = {
            let mut life = p.life();
            life.ahead.get_or_insert((clock, end));
            life.last_end.replace(end)
        };
        if let Some(before) = before
            && self.server.processes.positions.of(process) < before
        {
            Applied::add(&self.server.processes.applied.gaps, 1);
            self.catch_up(&p, Some(before)).await?;
        }
        self.server.note_watermark(&p);
        Ok(())
    }
}

impl Server {
    /// Reads and applies what lies on the store from the position of `p` on, up to
    /// `until` or all there is. `true`: there is nothing more.
    pub(in crate::services) async fn read_tail(
        self: &Arc<Self>,
        p: &Arc<Proc>,
        tail: &mut Tail,
        until: Option<Position>,
    ) -> Result<bool, ServiceError> {
        let positions = &self.processes.positions;
        loop {
            let at = positions.of(&p.id);
            if until.is_some_and(|u| at >= u) {
                // An open file counts as needed.
                tail.reset();
                return Ok(false);
            }
            let step = tail.next(&*self.env.fs, p, at).await.map_err(StoreError::from)?;
            let Some(step) = step else { return Ok(true) };
            p.life().read_out = false;
            if let Err(e) = self.apply_step(p, step).await {
                tail.reset();
                return Err(e);
            }
        }
    }

    /// Applies what was read of `p`, and moves its position.
    pub(in crate::services) async fn apply_step(
        self: &Arc<Self>,
        p: &Arc<Proc>,
        step: Step,
    ) -> Result<(), ServiceError> {
        let end = step.end();
        match step {
            Step::Record(f, end) => self.apply_found(p, *f, end).await?,
            Step::Poison { reason, raw, .. } => self.set_aside(p, end, &reason, &raw).await?,
            Step::NextFile(torn, _) => {
                if let Some(t) = torn {
                    tracing::warn!(
                        path = t.path,
                        offset = t.offset,
                        ignored = t.ignored,
                        reason = t.reason,
                        "torn journal tail ignored: it was never acknowledged"
                    );
                }
            }
        }
        self.processes.positions.advance(&p.id, end);
        Ok(())
    }

    async fn apply_found(
        self: &Arc<Self>,
        p: &Arc<Proc>,
        f: Found,
        end: Position,
    ) -> Result<(), ServiceError> {
        // Kept until it is known that it is not needed: reference counts only.
        let (payload, extent) = (f.payload.clone(), f.extent.clone());
        match self.apply_record(p, f, end).await {
            Ok(()) => Ok(()),
            Err(ApplyError::Service(e)) => Err(e),
            Err(ApplyError::Poison(reason)) => {
                let place = format!("{reason} (payload at {})", extent.offset);
                self.set_aside(p, end, &place, &payload).await?;
                self.processes.positions.advance(&p.id, end);
                Ok(())
            }
        }
    }

    /// Keeps a copy of what cannot be applied, and passes over it.
    async fn set_aside(
        &self,
        p: &Proc,
        end: Position,
        reason: &str,
        raw: &[u8],
    ) -> Result<(), ServiceError> {
        let name = format!("{}.{}.{}.{}", p.id.node, p.id.epoch, end.file, end.offset);
        let path = self.own_path("poison", &name);
        Applied::add(&self.processes.applied.poison, 1);
        tracing::error!(process = %p.id, place = %end, reason, path,
            "a journal record cannot be applied; it is set aside");
        match create_synced(&*self.env.fs, &path, raw).await {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(StoreError::from(e).into())
            }
            _ => Ok(()),
        }
    }

    fn note_watermark(&self, p: &Proc) {
        let at = self.processes.positions.of(&p.id);
        let mut life = p.life();
        if let Some((clock, end)) = life.ahead
            && at >= end
        {
            life.ahead = None;
            life.watermark = life.watermark.max(clock);
        }
    }
}

/// A position as a decision tells it.
pub(in crate::services) fn seen_position(s: &Seen) -> (ProcessId, Position) {
    let at = Position { file: s.file, offset: s.offset };
    (ProcessId::new(s.node.as_str(), s.epoch.as_str()), at)
}

impl Journals for Processes {
    fn position(&self, process: &ProcessId) -> Position {
        self.server.processes.position(process)
    }

    fn records<'a>(
        &'a self,
        process: &'a ProcessId,
        start: Position,
        data: Bytes,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(e) = self.apply_bytes(process, start, data).await {
                tracing::error!(process = %process, error = %e,
                    "records of the stream not applied; they are read from the store");
            }
        })
    }

    fn beat<'a>(&'a self, process: &'a ProcessId, end: Position, clock: u64) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(e) = self.note_beat(process, end, clock).await {
                tracing::warn!(process = %process, error = %e, "journal not read; tried again");
            }
        })
    }

    fn streamed(&self, process: &ProcessId, on: bool) {
        self.server.note_stream(process, on);
    }

    fn ended(&self, process: &ProcessId) {
        self.server.note_end(process);
    }

    fn releases(&self) -> Vec<(ProcessId, Release)> {
        self.server.releases()
    }
}
