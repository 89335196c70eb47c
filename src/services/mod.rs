//! Flows, clients, labels, monitoring, artifacts, users: what the server knows and decides.

pub mod clients;
pub mod events;
pub mod flows;
pub mod ids;
pub mod state;
pub mod tasks;
