//! cache(): values by a key, computed once in a while.

use crate::error::Error;
use crate::eval::call_lambda;
use crate::registry::Registry;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use indexmap::IndexMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Seconds a value is used for, and values kept, when not given.
const PERIOD: i64 = 60;
const SIZE: i64 = 10_000;

/// The values of all caches of a query, by cache and key.
#[derive(Default)]
struct Cached(Mutex<IndexMap<(String, String), (Instant, Value)>>);

pub(super) fn register(registry: &mut Registry) {
    let cache = Signature::new("cache", "A value that is computed once for each key.")
        .arg("func", ArgType::Lazy, "What is computed.")
        .arg("lambda", ArgType::Lambda, "What is computed, of the key.")
        .arg("name", ArgType::String, "The cache; the same everywhere in the query.")
        .arg("key", ArgType::Any, "The key.")
        .arg("period", ArgType::Int, "Seconds a value is used for (60).")
        .arg("filename", ArgType::String, "Not supported.")
        .arg("max_size", ArgType::Int, "Values kept (10000).");
    registry.function_async(cache, |scope, args| async move {
        if args.has("filename") {
            return Err(Error::Arg("Field filename is not supported here".into()));
        }
        let key = args.any("key");
        let place = (args.string("name")?, key.go_text());
        let period = args.opt_int("period")?.filter(|n| *n > 0).unwrap_or(PERIOD);
        let period = Duration::from_secs(period.unsigned_abs());
        let cached = scope.session_value::<Cached>();
        let found = lock(&cached.0).get(&place).filter(|(at, _)| at.elapsed() < period).cloned();
        if let Some((_, value)) = found {
            return Ok(value);
        }
        let value = match args.lambda("lambda")? {
            Some(lambda) => call_lambda(&lambda, &scope, vec![key]).await,
            None => args.lazy("func").eval().await,
        };
        let size = args.opt_int("max_size")?.filter(|n| *n > 0).unwrap_or(SIZE);
        let mut all = lock(&cached.0);
        all.shift_remove(&place);
        all.insert(place, (Instant::now(), value.clone()));
        if all.len() > usize::try_from(size).unwrap_or(usize::MAX) {
            all.shift_remove_index(0);
        }
        Ok(value)
    });
}

#[cfg(test)]
mod tests {
    use crate::tests::rows;

    #[test]
    fn once_for_each_key() {
        let script = "LET f(X) = X + 5 \
            SELECT cache(func=f(X=5), key=5) AS A, cache(func=f(X=10), key=5) AS B, \
              cache(func=f(X=10), key=10) AS C, cache(func=f(X=1), key=5, name='other') AS D, \
              cache(lambda='x=>x * 2', key=21) AS E FROM scope()";
        assert_eq!(rows(script), r#"[{"A":10,"B":10,"C":15,"D":6,"E":42}]"#);
    }
}
