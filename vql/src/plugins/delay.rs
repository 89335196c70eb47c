//! delay(): rows some time after they came.

use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use futures::StreamExt;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Rows held back when no size is given.
const BUFFER: i64 = 1000;

pub(super) fn register(registry: &mut Registry) {
    let delay = Signature::new("delay", "Relays rows some seconds later.")
        .required("query", ArgType::Query, "The rows.")
        .required("delay", ArgType::Int, "Seconds.")
        .arg("buffer_size", ArgType::Int, "Rows held back; the query waits when there are more.");
    registry.plugin_async(delay, |_, args, emitter| async move {
        let delay = Duration::from_secs(args.int("delay")?.max(0).unsigned_abs());
        let size = args.opt_int("buffer_size")?.filter(|n| *n > 0).unwrap_or(BUFFER);
        let mut rows = args.rows("query");
        let mut held: VecDeque<(Instant, Value)> = VecDeque::new();
        let mut more = true;
        while more || !held.is_empty() {
            let full = held.len() as i64 >= size;
            let due = held.front().map(|(at, _)| *at);
            let wait = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = wait => {
                    if let Some((_, row)) = held.pop_front() {
                        emitter.send(row).await?;
                    }
                }
                row = rows.next(), if more && !full => match row {
                    Some(row) => held.push_back((Instant::now() + delay, row)),
                    None => more = false,
                }
            }
        }
        Ok(())
    });
}
