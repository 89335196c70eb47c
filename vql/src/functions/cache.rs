//! cache(): values by a key, computed once in a while.

use crate::error::Error;
use crate::eval::{call_lambda, materialize};
use crate::query::Lambda;
use crate::registry::Registry;
use crate::scope::Scope;
use crate::session::lock;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Seconds a value is used for, and values kept, when not given.
const PERIOD: i64 = 60;
const SIZE: i64 = 10_000;

/// The caches of a query, by name.
#[derive(Default)]
struct Named(Mutex<BTreeMap<String, Arc<Cache>>>);

/// The values of caches that outlive a query, by file name.
#[derive(Default)]
struct Lasting(Mutex<BTreeMap<String, Arc<Values>>>);

type Values = Mutex<IndexMap<String, (Instant, Value)>>;

/// One cache; the call that names it first decides.
struct Cache {
    lambda: Option<Arc<Lambda>>,
    period: Duration,
    size: usize,
    values: Arc<Values>,
}

impl Cache {
    fn get(&self, key: &str) -> Option<Value> {
        let mut values = lock(&self.values);
        let (at, value) = values.shift_remove(key)?;
        if at.elapsed() >= self.period {
            return None;
        }
        values.insert(key.to_owned(), (at, value.clone()));
        Some(value)
    }

    fn set(&self, key: String, value: Value) {
        let mut values = lock(&self.values);
        values.shift_remove(&key);
        values.insert(key, (Instant::now(), value));
        if values.len() > self.size {
            values.shift_remove_index(0);
        }
    }
}

pub(super) fn register(registry: &mut Registry) {
    let cache = Signature::new("cache", "A value that is computed once for each key.")
        .arg("func", ArgType::Lazy, "What is computed.")
        .arg("lambda", ArgType::Lambda, "What is computed, of the key.")
        .arg("name", ArgType::String, "The cache; the same everywhere in the query.")
        .arg("key", ArgType::Any, "The key; without one the cache is made and nothing else.")
        .arg("period", ArgType::Int, "Seconds a value is used for (60).")
        .arg("filename", ArgType::String, "Later queries of this process find its values by it.")
        .arg("max_size", ArgType::Int, "Values kept (10000).")
        .version(2);
    registry.function_async(cache, |scope, args| async move {
        let name = args.string("name")?;
        // Checked in every call, though the first one decides.
        args.opt_int("period")?;
        let named = scope.session_value::<Named>();
        let known = lock(&named.0).get(&name).cloned();
        let cache = match known {
            Some(cache) => cache,
            None if !args.has("func") && !args.has("lambda") => {
                return Err(Error::failed("one of func and lambda is required"));
            }
            None => {
                let cache = Arc::new(make(&scope, &args)?);
                lock(&named.0).entry(name).or_insert(cache).clone()
            }
        };
        if !args.has("key") {
            return Ok(Value::Null);
        }
        let key = materialize(args.any("key"), &scope).await;
        let text = key.go_text();
        if let Some(value) = cache.get(&text) {
            return Ok(value);
        }
        let value = match &cache.lambda {
            Some(lambda) => call_lambda(lambda, &scope, vec![key]).await,
            None if args.has("func") => args.lazy("func").eval().await,
            None => return Err(Error::failed("this cache has no lambda: func is required")),
        };
        // What was not found may be there next time.
        if !value.is_null() {
            cache.set(text, value.clone());
        }
        Ok(value)
    });
}

fn make(scope: &Scope, args: &crate::Args) -> Result<Cache, Error> {
    let period = args.opt_int("period")?.filter(|n| *n > 0).unwrap_or(PERIOD);
    let size = args.opt_int("max_size")?.filter(|n| *n > 0).unwrap_or(SIZE);
    let values = match args.opt_string("filename")? {
        Some(file) => {
            let lasting = scope.shared_value::<Lasting>();
            lock(&lasting.0).entry(file).or_default().clone()
        }
        None => Arc::default(),
    };
    Ok(Cache {
        lambda: args.lambda("lambda")?,
        period: Duration::from_secs(period.unsigned_abs()),
        size: usize::try_from(size).unwrap_or(usize::MAX),
        values,
    })
}

#[cfg(test)]
mod tests {
    use crate::tests::{rows, rows_and_log};

    #[test]
    fn once_for_each_key() {
        let script = "LET f(X) = X + 5 \
            SELECT cache(func=f(X=5), key=5) AS A, cache(func=f(X=10), key=5) AS B, \
              cache(func=f(X=10), key=10) AS C, cache(func=f(X=1), key=5, name='other') AS D, \
              cache(lambda='x=>x * 2', key=21, name='L') AS E FROM scope()";
        assert_eq!(rows(script), r#"[{"A":10,"B":10,"C":15,"D":6,"E":42}]"#);
    }

    #[test]
    fn the_first_call_of_a_name_decides() {
        let script = "SELECT cache(lambda='x=>x * 2', name='A') AS A, cache(name='A', key=2) AS B, \
              cache(name='A', key=3, lambda='x=>0') AS C, cache(name='B', key=1) AS D, \
              cache(name='C', key=1, func=NULL) AS E, cache(name='C', key=1, func=5) AS F, \
              cache(name='C', key=2) AS G FROM scope()";
        let (rows, log) = rows_and_log(script);
        let expected = r#"[{"A":null,"B":4,"C":6,"D":null,"E":null,"F":5,"G":null}]"#;
        assert_eq!(rows, expected);
        assert_eq!(log.iter().filter(|l| l.starts_with("DEFAULT: cache: ")).count(), 2, "{log:?}");
    }

    #[test]
    fn a_small_one_forgets() {
        let script = "LET _ <= SELECT cache(lambda='x=>x', key=_value, max_size=2) FROM range(end=3) \
            SELECT cache(func=9, key=0, name='N') AS N, cache(key=2) AS A FROM scope()";
        assert_eq!(rows(script), r#"[{"N":9,"A":2}]"#);
    }
}
