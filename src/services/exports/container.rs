//! An archive being written to the store, piece by piece: no more than one piece
//! and the directory is in memory. Progress is an object beside it.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use velociraptor_proto::proto::{ContainerMemberStats, ContainerStats};

use crate::env::{Env, File, Open};
use crate::services::server::ServiceError;
use crate::store::zip::lock::{Lock, SALT};
use crate::store::zip::write::{Method, Writer};
use crate::store::{FilePath, PathType, StoreError, Tree, paths};

/// Bytes packed at once.
const PIECE: usize = 256 << 10;
/// How often progress is told.
const TELL: Duration = Duration::from_secs(2);
/// The only member of a locked archive: the real one.
const INNER: &str = "data.zip";

fn failed(e: impl std::fmt::Display) -> ServiceError {
    ServiceError::Invalid(format!("archive: {e}"))
}

/// What makes bytes; moved to where processors are.
struct Core {
    zip: Writer,
    seal: Option<(Writer, Lock)>,
    hash: Sha256,
}

impl Core {
    fn new(env: &Env, password: &str) -> Result<(Core, Vec<u8>), ServiceError> {
        let mut core = Core { zip: Writer::default(), seal: None, hash: Sha256::new() };
        if password.is_empty() {
            return Ok((core, Vec::new()));
        }
        let mut salt = [0; SALT];
        env.entropy.fill(&mut salt);
        let (lock, head) = Lock::new(password, salt).map_err(failed)?;
        let mut outer = Writer::default();
        let now = i64::try_from(env.clock.unix()).unwrap_or(0);
        outer.begin(INNER, Method::Locked, now).map_err(failed)?;
        outer.write(&head).map_err(failed)?;
        let head = outer.take();
        core.hash.update(&head);
        core.seal = Some((outer, lock));
        Ok((core, head))
    }

    /// What is ready, locked and hashed.
    fn drain(&mut self) -> Result<Vec<u8>, ServiceError> {
        let mut out = self.zip.take();
        if let Some((outer, lock)) = &mut self.seal {
            lock.apply(&mut out).map_err(failed)?;
            outer.write(&out).map_err(failed)?;
            out = outer.take();
        }
        self.hash.update(&out);
        Ok(out)
    }

    fn finish(&mut self) -> Result<Vec<u8>, ServiceError> {
        self.zip.finish().map_err(failed)?;
        let mut out = self.drain()?;
        if let Some((mut outer, lock)) = self.seal.take() {
            outer.write(&lock.end()).map_err(failed)?;
            outer.finish().map_err(failed)?;
            let tail = outer.take();
            self.hash.update(&tail);
            out.extend(tail);
        }
        Ok(out)
    }
}

/// See the module.
pub(super) struct Container {
    env: Env,
    tree: Tree,
    file: Box<dyn File>,
    temporary: String,
    at: FilePath,
    core: Option<Core>,
    pending: Vec<u8>,
    written: u64,
    told: Instant,
    /// What is told of it.
    pub stats: ContainerStats,
}

impl Container {
    /// Begins one that will be at `at`; until then it is at `temporary`, a new name.
    pub async fn create(
        env: &Env,
        tree: &Tree,
        at: FilePath,
        temporary: String,
        password: &str,
    ) -> Result<Self, ServiceError> {
        let (core, head) = Core::new(env, password)?;
        let file = env.fs.open(&temporary, Open::CreateNew).await.map_err(StoreError::from)?;
        let mut container = Self {
            env: env.clone(),
            tree: tree.clone(),
            file,
            temporary,
            core: Some(core),
            pending: Vec::new(),
            written: 0,
            told: Instant::now(),
            stats: first_stats(env, &at),
            at,
        };
        container.put(head).await?;
        Ok(container)
    }

    /// Begins a member with this name; the one before is ended.
    pub async fn begin(&mut self, name: &str) -> Result<(), ServiceError> {
        self.flush().await?;
        let now = i64::try_from(self.env.clock.unix()).unwrap_or(0);
        let core = self.core.as_mut().ok_or_else(|| failed("it is closed"))?;
        core.zip.begin(name, Method::Deflated, now).map_err(failed)?;
        self.stats.total_container_files += 1;
        self.stats.active_members =
            vec![ContainerMemberStats { name: name.to_owned(), ..Default::default() }];
        Ok(())
    }

    /// Adds to the member.
    pub async fn write(&mut self, data: &[u8]) -> Result<(), ServiceError> {
        self.stats.total_uncompressed_bytes += data.len() as u64;
        if let Some(m) = self.stats.active_members.last_mut() {
            m.uncompressed_size += data.len() as u64;
        }
        for piece in data.chunks(PIECE) {
            self.pending.extend_from_slice(piece);
            if self.pending.len() >= PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// A whole member.
    pub async fn member(&mut self, name: &str, data: &[u8]) -> Result<(), ServiceError> {
        self.begin(name).await?;
        self.write(data).await
    }

    async fn flush(&mut self) -> Result<(), ServiceError> {
        let data = std::mem::take(&mut self.pending);
        if !data.is_empty() {
            let mut core = self.core.take().ok_or_else(|| failed("it is closed"))?;
            let packed = self.env.offload(move || {
                let out = core.zip.write(&data).map_err(failed).and_then(|()| core.drain());
                (core, out)
            });
            let (core, out) = packed.await.ok_or_else(|| failed("the server is stopping"))?;
            self.core = Some(core);
            self.put(out?).await?;
        }
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            self.tell().await?;
        }
        Ok(())
    }

    async fn put(&mut self, data: Vec<u8>) -> Result<(), ServiceError> {
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len() as u64;
        self.file.write_at(self.written, Bytes::from(data)).await.map_err(StoreError::from)?;
        self.written += length;
        self.stats.total_compressed_bytes = self.written;
        Ok(())
    }

    async fn tell(&mut self) -> Result<(), ServiceError> {
        let now = self.env.clock.unix();
        self.stats.total_duration = now.saturating_sub(self.stats.timestamp);
        Ok(self.tree.set(&paths::download_stats(&self.at), &self.stats).await?)
    }

    /// Ends it: durable, under its own name, and told to be complete.
    pub async fn finish(mut self) -> Result<ContainerStats, ServiceError> {
        self.flush().await?;
        let mut core = self.core.take().ok_or_else(|| failed("it is closed"))?;
        let ended = self.env.offload(move || {
            let out = core.finish();
            (core.hash, out)
        });
        let (hash, out) = ended.await.ok_or_else(|| failed("the server is stopping"))?;
        self.put(out?).await?;
        self.stats.active_members.clear();
        self.file.sync().await.map_err(StoreError::from)?;
        let stock = self.tree.root.file(&self.at).map_err(StoreError::from)?;
        self.tree.record_long_names(&self.at.0).await?;
        let fs = self.env.fs.clone();
        fs.rename(&self.temporary, &stock).await.map_err(StoreError::from)?;
        fs.sync_dir(crate::env::fs::parent(&stock)).await.map_err(StoreError::from)?;
        self.stats.hash = hex::encode(hash.finalize());
        self.tell().await?;
        self.file.close().await.map_err(StoreError::from)?;
        Ok(self.stats)
    }
}

/// What is told of an archive that was just begun.
pub(super) fn first_stats(env: &Env, at: &FilePath) -> ContainerStats {
    ContainerStats {
        timestamp: env.clock.unix(),
        components: at.0.named_components(),
        r#type: if at.0.kind == PathType::Report { "html" } else { "zip" }.into(),
        ..Default::default()
    }
}
