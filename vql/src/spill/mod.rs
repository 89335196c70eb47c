//! Rows that do not fit into memory: how much of it one sort, grouping or
//! materialised set may hold, and the files the rest goes to. The files are the
//! host's; without a host that offers them everything stays in memory.

mod encode;
mod rows;

pub(crate) use rows::{Reader, Spilled, Writer};

use crate::scope::Scope;
use crate::value::Value;
use futures::future::BoxFuture;
use std::sync::Arc;

/// Makes temporary files.
pub trait SpillFiles: Send + Sync {
    /// A new, empty file that goes when the value is dropped.
    fn create(&self) -> BoxFuture<'_, Result<Arc<dyn SpillFile>, String>>;

    /// Bytes from which [`SpillFiles::decode`] makes the same host value again;
    /// `None` keeps it in memory.
    fn encode(&self, object: &Arc<dyn crate::Object>) -> Option<Vec<u8>> {
        let _ = object;
        None
    }

    /// The host value of such bytes.
    fn decode(&self, bytes: &[u8]) -> Option<Value> {
        let _ = bytes;
        None
    }
}

/// One temporary file.
pub trait SpillFile: Send + Sync {
    /// Writes at an offset; the file is written once, in order.
    fn write(&self, offset: u64, data: Vec<u8>) -> BoxFuture<'_, Result<(), String>>;
    /// Up to so many bytes from an offset; fewer only at the end.
    fn read(&self, offset: u64, length: usize) -> BoxFuture<'_, Result<Vec<u8>, String>>;
}

/// Where a query puts what does not fit, found by type in the scope
/// ([`crate::ScopeBuilder::extension`]).
#[derive(Clone)]
pub struct Spill {
    /// The files.
    pub files: Arc<dyn SpillFiles>,
    /// Bytes one sort, grouping or set may hold in memory. An estimate.
    pub limit: usize,
}

impl std::fmt::Debug for Spill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// Tells that rows could not be put aside or read back: the query goes on with
/// those it has.
pub(crate) fn lost(scope: &Scope, what: &str, error: &str) {
    scope.error(format!("{what}: rows that do not fit into memory are lost: {error}"));
}

/// Bytes a value takes in memory, roughly.
pub(crate) fn weight(value: &Value) -> usize {
    const ONE: usize = std::mem::size_of::<Value>();
    ONE + match value {
        Value::Str(s) => s.as_bytes().len() + 16,
        Value::Bytes(b) => b.len() + 16,
        Value::List(items) => 40 + items.iter().map(weight).sum::<usize>(),
        Value::Dict(d) => {
            80 + d.iter().map(|(_, v)| weight(v) + std::mem::size_of::<crate::Key>()).sum::<usize>()
        }
        Value::Object(_) => 128,
        _ => 0,
    }
}
