//! State of aggregate functions, kept per call site. GROUP BY bins and calls
//! of a LET each have their own.

use crate::session::lock;
use crate::syntax::ast::{CallSite, SiteKey};
use crate::value::Value;
use std::collections::HashMap;
use std::sync::Mutex;

/// State by call site.
#[derive(Default, Debug)]
pub(crate) struct Aggregates(Mutex<HashMap<SiteKey, Value>>);

impl Aggregates {
    /// Replaces the state of `site` and returns the new one.
    pub(crate) fn update(
        &self,
        site: &CallSite,
        change: impl FnOnce(Option<Value>) -> Value,
    ) -> Value {
        let mut map = lock(&self.0);
        let slot = map.entry(SiteKey(site.clone())).or_insert(Value::Null);
        let old = std::mem::take(slot);
        *slot = change((!old.is_null()).then_some(old));
        slot.clone()
    }
}
