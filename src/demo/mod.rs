//! A whole cluster on one machine, to be looked at and to be broken: node
//! processes of this program with configurations of their own, a pool of virtual
//! clients in this process, faults by key or from a script, and at the end an
//! audit of what the clients were acknowledged.
//!
//! Knows nodes as anybody outside does: their commands, their metrics, the API
//! of their master. Works on the real machine (processes, signals, a terminal),
//! not on a simulated one.

mod commands;
mod deployment;
mod load;
mod nodes;
mod play;
mod recovery;
mod report;
mod sampler;
mod screen;
mod script;
mod stall;
mod terminal;

pub use deployment::{Choices, Deployment};
pub use nodes::Nodes;
pub use play::{Play, run, start_nodes};
pub use report::Outcome;
pub use script::{Action, GRAMMAR, Script, ScriptError};
pub use stall::stallable;
