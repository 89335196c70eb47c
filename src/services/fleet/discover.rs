//! Who is there, and who lives: what the directory of the fleet tells.

use std::sync::Arc;

use tokio::time::Instant;

use super::Role;
use super::table::Proc;
use crate::services::beat;
use crate::services::server::{Server, ServiceError};
use crate::store::StoreError;
use crate::store::journal::{
    Epoch, Listed, Position, ProcessId, list_files, marker_path, process_dir,
};
use crate::store::objects::read_whole;

/// Longest marker read, bytes.
const MARKER: usize = 4096;

impl Server {
    /// What a process was started as. One without a marker writes on after its
    /// directory was removed: it decides nothing.
    async fn role_of(&self, id: &ProcessId) -> Result<Role, ServiceError> {
        let path = marker_path(&self.processes.fleet, id);
        let marker = read_whole(&*self.env.fs, &path, MARKER).await.map_err(StoreError::from)?;
        Ok(marker.map_or(Role::Minion, |m| Role::of_marker(&m)))
    }

    /// A process that was found, with these journal files.
    pub(in crate::services) async fn admit(
        &self,
        found: &Listed,
    ) -> Result<Arc<Proc>, ServiceError> {
        let role = self.role_of(&found.process).await?;
        let from = found.files.first().map_or(Position::START, |k| Position::start_of(*k));
        let p = self.processes.admit(&found.process, role, from);
        note_files(&p, &found.files);
        Ok(p)
    }

    /// The process that speaks; perhaps its files are not listed yet.
    pub(in crate::services) async fn known_process(
        &self,
        id: &ProcessId,
    ) -> Result<Arc<Proc>, ServiceError> {
        if let Some(p) = self.processes.get(id) {
            return Ok(p);
        }
        let files = list_files(&self.env, &self.processes.fleet, id).await;
        let files = files.map_err(StoreError::from)?;
        self.admit(&Listed { process: id.clone(), files }).await
    }

    /// Looks for processes and files that are new or gone, and for signs of life.
    pub(in crate::services) async fn discover(&self) -> Result<(), ServiceError> {
        let fleet = self.processes.fleet.clone();
        let fs = &*self.env.fs;
        let nodes = fs.list(&fleet).await.map_err(StoreError::from)?;
        for node in nodes.into_iter().filter(|n| n.is_dir) {
            let names = fs.list(&format!("{fleet}/{}", node.name)).await;
            let names = names.map_err(StoreError::from)?;
            let epochs: Vec<Epoch> = names.iter().filter_map(|e| Epoch::parse(&e.name)).collect();
            if epochs.is_empty() {
                continue;
            }
            let sign = beat::sign(&self.env, &fleet, &node.name, &self.processes.me).await?;
            for epoch in &epochs {
                let id = ProcessId::new(node.name.as_str(), epoch.name());
                if id != self.processes.me {
                    self.visit(&id).await?;
                }
            }
            self.judge(&node.name, sign.as_ref());
        }
        Ok(())
    }

    async fn visit(&self, id: &ProcessId) -> Result<(), ServiceError> {
        let files = list_files(&self.env, &self.processes.fleet, id).await;
        let files = files.map_err(StoreError::from)?;
        let p = match self.processes.get(id) {
            Some(p) => p,
            None => {
                tracing::info!(process = %id, files = files.len(), "a process was found");
                self.admit(&Listed { process: id.clone(), files: files.clone() }).await?
            }
        };
        note_files(&p, &files);
        // Deleted by whoever wrote them. A listing may lack what is new, so only
        // what is older than something listed is gone.
        if let Some(newest) = files.last() {
            let mut known = p.files();
            known.journal.retain(|k, _| k >= newest || files.contains(k));
        }
        let asked: Vec<String> = {
            let known = p.files();
            let doomed = known.spills.iter().filter(|(_, s)| s.is_doomed());
            doomed.map(|(name, _)| name.clone()).collect()
        };
        if !asked.is_empty() {
            let dir = format!("{}/spill", process_dir(&self.processes.fleet, id));
            let there = self.env.fs.list(&dir).await.map_err(StoreError::from)?;
            let mut known = p.files();
            for name in asked {
                if !there.iter().any(|e| e.name == name) {
                    known.spills.remove(&name);
                }
            }
        }
        Ok(())
    }

    /// Who of a node's processes lives, by the node's sign of life.
    fn judge(&self, node: &str, sign: Option<&beat::Sign>) {
        let theirs: Vec<Arc<Proc>> =
            self.processes.all().into_iter().filter(|p| p.id.node == node).collect();
        let newest = theirs.iter().filter_map(|p| p.epoch.clone()).max();
        let stale = self.options.fleet.stale;
        for p in theirs.iter().filter(|p| p.id != self.processes.me) {
            let speaks = sign.filter(|s| s.epoch == p.id.epoch);
            let mut life = p.life();
            life.superseded |= p.epoch.is_some() && p.epoch < newest;
            let count = speaks.map_or(0, |s| s.count);
            let moved = life.sign.is_none_or(|(c, _)| c != count);
            if moved {
                life.sign = Some((count, Instant::now()));
            }
            let quiet = life.sign.is_none_or(|(_, at)| at.elapsed() >= stale);
            let another = sign.is_some() && speaks.is_none() && life.superseded;
            let dead = !life.streamed && (life.certainly_dead || another || quiet);
            match (dead, life.dead_since) {
                (true, None) => {
                    life.dead_since = Some(Instant::now());
                    // Once more, now that nothing more comes.
                    life.read_out = false;
                    tracing::info!(process = %p.id, "a process has ended");
                }
                (false, Some(_)) => {
                    life.dead_since = None;
                    tracing::warn!(process = %p.id, "a process that was taken for dead lives");
                }
                _ => {}
            }
        }
    }

    /// There is, or is no longer, a stream with `process`.
    pub(in crate::services) fn note_stream(&self, process: &ProcessId, on: bool) {
        // Before its first frame: what it is, its marker says later.
        let p = self.processes.admit(process, Role::Minion, Position::START);
        let mut life = p.life();
        life.streamed = on;
        life.read_out = false;
        life.last_end = None;
        life.ahead = None;
        if on {
            life.dead_since = None;
        } else if let Some((count, _)) = life.sign {
            life.sign = Some((count, Instant::now()));
        }
    }

    /// A later process of its node runs.
    pub(in crate::services) fn note_end(&self, process: &ProcessId) {
        let Some(p) = self.processes.get(process) else { return };
        let mut life = p.life();
        life.streamed = false;
        life.read_out = false;
        life.superseded = true;
        life.dead_since.get_or_insert_with(Instant::now);
    }

    /// Every other process has ended, as whoever calls this has seen to.
    pub(in crate::services) fn bury_all(&self) {
        for p in self.processes.others() {
            let mut life = p.life();
            life.certainly_dead = true;
            life.dead_since.get_or_insert_with(Instant::now);
        }
    }

    /// Earlier processes of this node ended before this one was let in.
    pub(in crate::services) fn bury_own(&self) {
        for p in self.processes.others() {
            if p.id.node == self.processes.me.node {
                let mut life = p.life();
                life.superseded = true;
                life.certainly_dead = true;
                life.dead_since.get_or_insert_with(Instant::now);
            }
        }
    }
}

fn note_files(p: &Proc, files: &[u64]) {
    for k in files {
        p.saw_file(*k);
        p.journal(*k);
    }
}
