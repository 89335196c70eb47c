//! Flows, clients, labels, monitoring, artifacts, users: what the server knows and decides.

pub mod acl;
pub mod artifacts;
pub mod audit;
mod beat;
mod checkpoint;
pub mod clients;
pub mod collect;
pub mod compiler;
pub mod complete;
pub mod deliver;
pub mod effects;
pub mod events;
pub mod fleet;
pub mod flows;
pub mod gates;
pub mod handover;
pub mod housekeeping;
pub mod ids;
pub mod interrogate;
pub mod load;
pub mod messages;
pub mod monitoring;
pub mod recover;
pub mod repository;
pub mod server;
pub mod sessions;
pub mod settle;
pub mod settle_events;
mod settle_uploads;
pub mod state;
pub mod tasks;
pub mod tombstones;
pub mod users;
pub mod wakes;

pub use fleet::Role;
pub use server::{Options, Org, Server, ServiceError};
