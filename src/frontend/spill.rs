//! Bulk upload data goes to a private file of its own, beside the journal.
//!
//! The file mirrors the upload: a chunk lies at its own offset, so a complete
//! file can get its stock name by a link, without a copy. One process writes it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use velociraptor_proto::proto::FileBuffer;

use crate::env::{File, Open};
use crate::services::Server;
use crate::services::flows::UploadKey;
use crate::services::ids::Session;
use crate::store::journal::{Extent, Segment};
use crate::store::wary::Wary;

/// Uploads of at most this size stay in the journal.
const INLINE_FILE: u64 = 1 << 20;

/// A file to which nothing was written for this long is closed: what comes later
/// goes to another.
const IDLE: Duration = Duration::from_secs(600);

type Key = (String, String, UploadKey);

#[derive(Clone)]
struct Spill {
    file: Arc<dyn File>,
    segment: Arc<Segment>,
    used: Instant,
}

/// Open spill files.
#[derive(Default)]
pub struct Spills {
    next: AtomicU64,
    open: Mutex<BTreeMap<Key, Spill>>,
}

impl Spills {
    /// Writes a chunk to its upload's spill file, if it belongs in one. The file
    /// must be synced before the chunk is acknowledged.
    pub async fn take(
        &self,
        server: &Server,
        client: &str,
        session: &str,
        b: &FileBuffer,
        data: Bytes,
    ) -> std::io::Result<Option<(Extent, Arc<dyn File>)>> {
        let parsed = Session::parse(session);
        let Some(upload) = UploadKey::of(parsed.run(), b) else { return Ok(None) };
        if data.is_empty() {
            // The end, with or without the flag: older agents have none.
            self.close(&(client.to_owned(), parsed.flow, upload));
            return Ok(None);
        }
        let key = (client.to_owned(), parsed.flow, upload);
        let known = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            // An upload that was given up would keep its file for ever.
            open.retain(|_, s| s.used.elapsed() < IDLE);
            open.get_mut(&key).map(|s| {
                s.used = Instant::now();
                s.clone()
            })
        };
        let bulk =
            b.size > INLINE_FILE || data.len() > server.options.spill_bytes || known.is_some();
        if !bulk {
            return Ok(None);
        }
        let spill = match known {
            // A new first chunk starts over: in a new file.
            Some(s) if b.offset > 0 => s,
            _ => {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                let segment = server.spill(&n.to_string());
                let file = server.env.fs.open(&segment.path, Open::CreateNew).await?;
                // Chunks of one upload may be under way at the same time, when a client does
                // not wait for an answer any longer: each hears of the others' errors.
                let file: Arc<dyn File> = Arc::new(Wary::new(file, &segment.path));
                server.env.fs.sync_dir(crate::env::fs::parent(&segment.path)).await?;
                let s = Spill { file, segment, used: Instant::now() };
                self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(key, s.clone());
                s
            }
        };
        let len = data.len() as u64;
        spill.file.write_at(b.offset, data).await?;
        let extent = Extent { segment: spill.segment.clone(), offset: b.offset, len };
        Ok(Some((extent, spill.file)))
    }

    fn close(&self, key: &Key) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// After a failed write or sync nothing more goes to that file.
    pub fn abandon(&self, client: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|k, _| k.0 != client);
    }
}
