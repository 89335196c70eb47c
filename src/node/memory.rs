//! How much memory this process has, and how much it may have: the configuration's
//! word, or most of what its control group allows. Knows Linux; elsewhere there is
//! no limit.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::frontend::Frontend;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);

/// Largest of these small files, bytes.
const LIMIT: usize = 64 << 10;

/// Tells the frontend until `stop` is cancelled. `host` reaches this host's files.
pub(super) async fn watch(host: Env, frontend: Arc<Frontend>, stop: CancellationToken) {
    let admission = frontend.admission();
    if admission.memory_limit() == 0
        && let Some(most) = group_limit(&host).await
    {
        // What is refused late is refused by the kernel.
        admission.set_memory_limit(most / 8 * 7);
        tracing::info!(bytes = admission.memory_limit(), "memory of the control group is limited");
    }
    loop {
        let Some(bytes) = read(&host, "/proc/self/status").await.as_deref().and_then(resident)
        else {
            tracing::debug!("how much memory this process has is not known");
            return;
        };
        admission.set_memory(bytes);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn read(host: &Env, path: &str) -> Option<String> {
    let data = crate::env::fs::read_limited(&*host.fs, path, LIMIT).await.ok()?;
    String::from_utf8(data).ok()
}

/// Bytes in memory, from `/proc/<pid>/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The memory limit of this process's control group (version 2).
async fn group_limit(host: &Env) -> Option<u64> {
    let groups = read(host, "/proc/self/cgroup").await?;
    let own = groups.lines().find_map(|l| l.strip_prefix("0::"))?.trim_end_matches('/');
    for dir in [own, ""] {
        let path = format!("/sys/fs/cgroup{dir}/memory.max");
        if let Some(text) = read(host, &path).await {
            return text.trim().parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t   123 kB\nThreads:\t1\n";
        assert_eq!(resident(status), Some(123 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn this_process_has_some() {
        let host = crate::env::real::env();
        if let Some(status) = read(&host, "/proc/self/status").await {
            assert!(resident(&status).is_some_and(|n| n > 1 << 20), "{status}");
        }
    }
}
