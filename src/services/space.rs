//! Looks after the space of the datastore: what is free, and the reserve.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::server::{Server, ServiceError};
use crate::env::Env;
use crate::store::StoreError;
use crate::store::journal::{ProcessId, list_epochs, process_dir, remove_reserves};

/// Distance of looks at what is free.
const EVERY: Duration = Duration::from_secs(1);

impl Server {
    /// Runs until `stop` is cancelled, then gives the reserve back.
    pub async fn watch_space(self: Arc<Self>, stop: CancellationToken) {
        loop {
            self.journal.space().watch().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        self.journal.space().close().await;
    }
}

/// Before a process of `node` starts: what earlier ones kept in reserve is free
/// again, so that a full store does not stop the start.
pub(super) async fn reclaim(
    env: &Env,
    fleet: &str,
    node: &str,
    except: Option<&ProcessId>,
) -> Result<(), ServiceError> {
    for process in list_epochs(env, fleet, node).await.map_err(StoreError::from)? {
        if Some(&process) == except {
            continue;
        }
        let dir = process_dir(fleet, &process);
        remove_reserves(env, &dir).await.map_err(StoreError::from)?;
    }
    Ok(())
}
