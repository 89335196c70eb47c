//! lru(): a store of values by a key that forgets what was used least lately.

use crate::registry::Registry;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::value::{Dict, Object, Value};
use indexmap::IndexMap;
use std::any::Any;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Values kept when no size is given.
const SIZE: i64 = 1000;
/// What is not used for so long is forgotten.
const LIFETIME: Duration = Duration::from_secs(3600);

pub(super) fn register(registry: &mut Registry) {
    let lru = Signature::new("lru", "A store for set() and get() that forgets what is unused.");
    let lru = lru.arg("size", ArgType::Int, "Values kept (1000).");
    registry.function_sync(lru, |_, args| {
        let size = args.opt_int("size")?.filter(|n| *n > 0).unwrap_or(SIZE);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(Value::object(Lru { size, kept: Mutex::default() }))
    });
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lru {
    size: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The one used last is last.
    values: IndexMap<String, (Instant, Value)>,
    inserted: u64,
    asked: u64,
    found: u64,
    evicted: u64,
}

impl Lru {
    /// Stores a value.
    pub(super) fn set(&self, key: &str, value: Value) {
        let mut kept = lock(&self.kept);
        kept.inserted += 1;
        kept.values.shift_remove(key);
        if kept.values.len() >= self.size {
            kept.values.shift_remove_index(0);
            kept.evicted += 1;
        }
        kept.values.insert(key.to_owned(), (Instant::now(), value));
    }

    fn get(&self, key: &str) -> Option<Value> {
        let mut kept = lock(&self.kept);
        kept.asked += 1;
        let (used, value) = kept.values.shift_remove(key)?;
        if used.elapsed() > LIFETIME {
            kept.evicted += 1;
            return None;
        }
        kept.found += 1;
        kept.values.insert(key.to_owned(), (Instant::now(), value.clone()));
        Some(value)
    }
}

impl Object for Lru {
    fn type_name(&self) -> &'static str {
        "*common.LRUCache"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn member(&self, name: &str) -> Option<Value> {
        match name {
            "@Dump" => {
                let keys: Vec<String> = lock(&self.kept).values.keys().cloned().collect();
                let mut all = Dict::with_capacity(keys.len());
                for key in keys {
                    if let Some(value) = self.get(&key) {
                        all.set(key, value);
                    }
                }
                Some(all.into())
            }
            "@Len" => Some(lock(&self.kept).values.len().into()),
            "@Metrics" => {
                let kept = lock(&self.kept);
                let metrics = Dict::new()
                    .with("Inserted", kept.inserted)
                    .with("Retrievals", kept.found)
                    .with("Hits", kept.asked)
                    .with("Misses", kept.asked - kept.found)
                    .with("Evicted", kept.evicted)
                    .with("Size", kept.values.len());
                Some(metrics.into())
            }
            key => self.get(key),
        }
    }
    fn truth(&self) -> bool {
        !lock(&self.kept).values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::rows;

    #[test]
    fn keeps_what_was_used_last() {
        let script = "LET C <= lru(size=2) LET E <= lru() \
            LET _ <= SELECT set(item=C, field='a', value=1), set(item=C, field='b', value=2), \
              C.a AS Used, set(item=C, field='c', value=dict(x=3)) FROM scope() \
            SELECT C.a AS A, C.b AS B, get(item=C, member='c.x') AS X, \
              get(item=C, field='b', default=7) AS D, C.`@Len` AS L, C.`@Dump` AS All, \
              C.`@Metrics`.Evicted AS Gone, if(condition=C, then=1) AS T, \
              if(condition=E, then=1) AS F, C, typeof(a=C) AS Type FROM scope()";
        let expected = "[{\"A\":1,\"B\":null,\"X\":3,\"D\":7,\"L\":2,\"All\":{\"a\":1,\"c\":\
            {\"x\":3}},\"Gone\":1,\"T\":1,\"F\":null,\"C\":{},\"Type\":\"*common.LRUCache\"}]";
        assert_eq!(rows(script), expected);
    }
}
