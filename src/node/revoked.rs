//! Whose certificates are no longer believed, as the settings file says now.
//!
//! The list is short and the file is local, so it is simply looked at: a revocation
//! needs no restart. A file that cannot be read changes nothing.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::load;
use crate::crypto::Revocations;
use crate::env::Env;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Follows `cluster.revoked_nodes` of the settings at `path` until `stop`.
pub(super) async fn follow(
    env: Env,
    path: String,
    list: watch::Sender<Revocations>,
    stop: CancellationToken,
) {
    let Ok(at) = load::absolute(&path) else { return };
    // Settings that come from nowhere do not change.
    if env.fs.stat(&at).await.is_err() {
        return;
    }
    // The first look reads it: it may have changed since the start read it.
    let mut seen = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = match env.fs.stat(&at).await {
            Ok(now) if Some(now) != seen => now,
            _ => continue,
        };
        match load::revocations(&env, &path).await {
            Ok(new) => {
                let changed =
                    list.send_if_modified(|old| std::mem::replace(old, new.clone()) != new);
                if changed {
                    tracing::warn!(path, "the list of revoked nodes has changed");
                }
            }
            Err(e) => {
                tracing::error!(path, error = %e, "revoked nodes cannot be read; the list stays as it was");
            }
        }
        seen = Some(now);
    }
}
