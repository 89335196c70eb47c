//! A page being written to the store: text after text, under a name that nobody looks
//! at until it is whole.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use velociraptor_proto::proto::ContainerStats;

use super::container::first_stats;
use crate::env::{Env, File, Open};
use crate::services::server::ServiceError;
use crate::store::{FilePath, StoreError, Tree, paths};

/// Bytes written at once.
const PIECE: usize = 256 << 10;

/// See the module.
pub(super) struct Page {
    env: Env,
    tree: Tree,
    file: Box<dyn File>,
    temporary: String,
    at: FilePath,
    pending: String,
    written: u64,
    hash: Sha256,
    stats: ContainerStats,
}

impl Page {
    /// Begins one that will be at `at`; until then it is at `temporary`, a new name.
    pub async fn create(
        env: &Env,
        tree: &Tree,
        at: FilePath,
        temporary: String,
    ) -> Result<Self, ServiceError> {
        let file = env.fs.open(&temporary, Open::CreateNew).await.map_err(StoreError::from)?;
        Ok(Self {
            env: env.clone(),
            tree: tree.clone(),
            file,
            temporary,
            stats: first_stats(env, &at),
            at,
            pending: String::new(),
            written: 0,
            hash: Sha256::new(),
        })
    }

    /// Adds a text, which is HTML.
    pub async fn write(&mut self, text: &str) -> Result<(), ServiceError> {
        self.pending.push_str(text);
        if self.pending.len() >= PIECE { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), ServiceError> {
        let data = Bytes::from(std::mem::take(&mut self.pending));
        let length = data.len() as u64;
        self.hash.update(&data);
        if length > 0 {
            self.file.write_at(self.written, data).await.map_err(StoreError::from)?;
        }
        self.written += length;
        Ok(())
    }

    /// Ends it: durable, under its own name, and told to be complete.
    pub async fn finish(mut self) -> Result<(), ServiceError> {
        self.flush().await?;
        self.file.sync().await.map_err(StoreError::from)?;
        let place = self.tree.root.file(&self.at).map_err(StoreError::from)?;
        self.tree.record_long_names(&self.at.0).await?;
        let fs = self.env.fs.clone();
        fs.rename(&self.temporary, &place).await.map_err(StoreError::from)?;
        fs.sync_dir(crate::env::fs::parent(&place)).await.map_err(StoreError::from)?;
        let mut stats = self.stats;
        stats.hash = hex::encode(self.hash.finalize());
        stats.total_uncompressed_bytes = self.written;
        stats.total_compressed_bytes = self.written;
        stats.total_duration = self.env.clock.unix().saturating_sub(stats.timestamp);
        self.tree.set(&paths::download_stats(&self.at), &stats).await?;
        self.file.close().await.map_err(StoreError::from)?;
        Ok(())
    }
}
