//! dedup() and sample(): fewer rows.

use crate::eval::member;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Str;
use futures::StreamExt;
use indexmap::IndexMap;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds and keys remembered when not given.
const TIMEOUT: i64 = 60;
const SIZE: i64 = 1000;

pub(super) fn register(registry: &mut Registry) {
    let dedup = Signature::new("dedup", "Drops rows whose key was seen a short time ago.")
        .required("key", ArgType::String, "The column to compare.")
        .required("query", ArgType::Query, "The rows.")
        .arg("timeout", ArgType::Int, "Seconds a key is remembered.")
        .arg("size", ArgType::Int, "Keys remembered.");
    registry.plugin_async(dedup, |_, args, emitter| async move {
        let column = args.string("key")?;
        let seconds = args.opt_int("timeout")?.filter(|n| *n > 0).unwrap_or(TIMEOUT);
        let timeout = Duration::from_secs(seconds.unsigned_abs());
        let size = args.opt_int("size")?.filter(|n| *n > 0).unwrap_or(SIZE) as usize;
        let mut seen: IndexMap<Str, Instant> = IndexMap::new();
        let mut rows = args.rows("query");
        while let Some(row) = rows.next().await {
            let key = member(&row, &column).unwrap_or_default().to_str();
            let now = Instant::now();
            if seen.get(&key).is_some_and(|at| now.duration_since(*at) < timeout) {
                continue;
            }
            seen.shift_remove(&key);
            seen.insert(key, now);
            if seen.len() > size {
                seen.shift_remove_index(0);
            }
            emitter.send(row).await?;
        }
        Ok(())
    });

    let sample = Signature::new("sample", "Every n-th row.")
        .required("query", ArgType::Query, "The rows.")
        .required("n", ArgType::Int, "How many rows one stands for.");
    registry.plugin_async(sample, |_, args, emitter| async move {
        let n = args.int("n")?.max(1) as u64;
        let mut rows = args.rows("query");
        let mut count = 0u64;
        while let Some(row) = rows.next().await {
            if count.is_multiple_of(n) {
                emitter.send(row).await?;
            }
            count += 1;
        }
        Ok(())
    });
}
