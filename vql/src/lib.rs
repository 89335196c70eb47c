//! The Velociraptor Query Language alone: parse, format, evaluate.
//! No I/O and no server: hosts register plugins and functions.
//!
//! ```
//! use std::sync::Arc;
//! use vql::{ArgType, Registry, ScopeBuilder, Signature, Value};
//!
//! let mut registry = Registry::standard();
//! registry.plugin_async(
//!     Signature::new("numbers", "Counts.").required("upto", ArgType::Int, "Last number."),
//!     |_scope, args, emitter| async move {
//!         for n in 1..=args.int("upto")? {
//!             emitter.send(vql::Dict::new().with("N", n)).await?;
//!         }
//!         Ok(())
//!     },
//! );
//! let scope = ScopeBuilder::new(Arc::new(registry)).build();
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
//! let rows = runtime.block_on(async {
//!     vql::run("SELECT N * 2 AS X FROM numbers(upto=3) WHERE N > 1", &scope).await.unwrap()
//! });
//! assert_eq!(Value::from(rows).to_json(), r#"[{"X":4},{"X":6}]"#);
//! ```

mod args;
mod cache;
mod codec;
mod csv;
mod dates;
mod engine;
mod error;
mod eval;
mod functions;
mod go_regex;
mod log;
mod plugins;
mod query;
mod registry;
mod reply;
mod scope;
mod session;
mod signature;
mod spill;
pub mod stream;
pub mod syntax;
mod time;
mod value;
mod zone;

pub use args::{Args, Thunk};
pub use codec::{base64_decode, base64_encode};
pub use csv::{CsvHeader, CsvOptions, CsvRows, csv_cell, csv_line, parse_csv};
pub use engine::{Limits, eval, run};
pub use error::Error;
pub use eval::{call_lambda, equal, evaluate, less, materialize, member, rows, truth, variable};
pub use functions::lzxpress_decompress;
pub use log::{Level, LogSink, TracingLog};
pub use query::{Lambda, Query, StoredExpr};
pub use registry::{Function, Plugin, Registry};
pub use reply::Reply;
pub use scope::Scope;
pub use session::{ScopeBuilder, Shared, Throttle};
pub use signature::{ArgSpec, ArgType, Signature};
pub use spill::{Spill, SpillFile, SpillFiles};
pub use stream::{Emitter, RowStream};
pub use syntax::{ParseError, parse};
pub use time::parse_time;
pub use value::{
    Dict, Key, Object, Row, Str, Time, Value, format_float, go_float, go_time, lossy, rfc3339,
};
pub use zone::eval_shown;

#[cfg(test)]
mod tests;
