//! The states of recent collections on disk, so that a restarted agent can tell
//! what became of them and does not run a repeated task again.

use std::io;
use std::sync::Arc;

use prost::Message;
use velociraptor_proto::proto::{FlowStats, MessageList, VeloMessage};

use crate::env::{FileSystem, fs};

/// Largest file read, in bytes.
const LIMIT: usize = 16 << 20;

/// See the module.
pub struct Checkpoint {
    fs: Arc<dyn FileSystem>,
    path: Option<String>,
    writing: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Checkpoint {
    /// In the file `path`; `None` keeps nothing.
    pub fn new(fs: Arc<dyn FileSystem>, path: Option<String>) -> Checkpoint {
        Checkpoint { fs, path, writing: tokio::sync::Mutex::default() }
    }

    /// What was saved; a damaged file is as none.
    pub async fn load(&self) -> Vec<(String, FlowStats)> {
        let Some(path) = &self.path else { return Vec::new() };
        let data = match fs::read_limited(&*self.fs, path, LIMIT).await {
            Ok(d) => d,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(e) => {
                tracing::warn!("checkpoint: {e}");
                return Vec::new();
            }
        };
        let Ok(list) = MessageList::decode(data.as_slice()) else {
            tracing::warn!("checkpoint: {path} is damaged");
            return Vec::new();
        };
        list.job.into_iter().filter_map(|m| Some((m.session_id, m.flow_stats?))).collect()
    }

    /// Replaces what is saved. Failures are logged: the next call tries again.
    pub async fn save(&self, flows: &[(String, FlowStats)]) {
        let Some(path) = &self.path else { return };
        let _one_at_a_time = self.writing.lock().await;
        let job = |(id, stats): &(String, FlowStats)| VeloMessage {
            session_id: id.clone(),
            flow_stats: Some(stats.clone()),
            ..VeloMessage::default()
        };
        let data = MessageList { job: flows.iter().map(job).collect() }.encode_to_vec();
        let tmp = format!("{path}.new");
        let _ = self.fs.remove(&tmp).await;
        if let Err(e) = fs::replace(&*self.fs, &tmp, path, &data).await {
            tracing::warn!("checkpoint: {e}");
        }
    }
}
