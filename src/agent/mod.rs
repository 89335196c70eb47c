//! The endpoint agent: executor, flows, uploads, event queries, local buffer.
//! Speaks the client protocol, so it also works against a stock server.

pub mod artifacts;
pub mod buffer;
pub mod checkpoint;
pub mod events;
pub mod executor;
pub mod flow;
pub mod limiter;
pub mod link;
pub mod logs;
pub mod outbox;
pub mod query;
pub mod responder;
pub mod run;
pub mod settings;
pub mod throttle;
pub mod uploads;
pub mod writeback;

pub use executor::Executor;
pub use outbox::Watch;
pub use run::{Body, End, RunError, run, run_as};
pub use settings::Settings;
