//! The YAML configuration: load, validate, merge, generate, split per role.
//!
//! Stock files of 0.6 and later are read and written. A file is kept whole as an
//! ordered [`Document`], so that rewriting it loses no key; [`Config`] is the
//! typed view of the keys that mean something here. Every key the stock program
//! knows is classed in `keys.tsv`: what would restrict and is not honoured stops
//! a server by name, what is unknown is an error as it is for stock.
//!
//! This room knows files and keys, not services.

pub mod api_client;
pub mod authenticator;
pub mod check;
pub mod document;
pub mod generate;
pub mod identity;
mod lines;
pub mod load;
pub mod model;
pub mod nodes;
pub mod patch;
mod reader;
pub mod role;
pub mod rotate;
pub mod schema;
pub mod settings;
pub mod split;
pub mod steering;

pub use check::{Finding, Level, Role};
pub use document::Document;
pub use identity::ServerIdentity;
pub use load::{ConfigError, Loaded, load, load_node};
pub use model::Config;
pub use role::{Address, Flags, NodePlan, NodeRole};
pub use settings::Settings;
