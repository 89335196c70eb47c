//! Things compiled from text once per query: regular expressions and lambdas.

use crate::go_regex::GoRegex;
use crate::query::Lambda;
use crate::session::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// More distinct texts than this start the cache over.
const CAPACITY: usize = 1000;

/// Compiled texts of one query. Failures are remembered too.
#[derive(Default)]
pub(crate) struct Caches {
    pub(crate) regexes: Cache<GoRegex>,
    pub(crate) exact_regexes: Cache<GoRegex>,
    pub(crate) lambdas: Cache<Lambda>,
}

type Compiled<T> = Result<Arc<T>, String>;

/// One kind of compiled text.
pub(crate) struct Cache<T>(Mutex<HashMap<Vec<u8>, Compiled<T>>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Cache(Mutex::default())
    }
}

impl<T> Cache<T> {
    /// The compiled form of `text`, and whether it was compiled just now.
    pub(crate) fn get(
        &self,
        text: &[u8],
        compile: impl FnOnce() -> Result<T, String>,
    ) -> (Compiled<T>, bool) {
        if let Some(found) = lock(&self.0).get(text) {
            return (found.clone(), false);
        }
        let made = compile().map(Arc::new);
        let mut map = lock(&self.0);
        if map.len() >= CAPACITY {
            map.clear();
        }
        map.insert(text.to_vec(), made.clone());
        (made, true)
    }
}
