//! Flows, clients, labels, monitoring, artifacts, users: what the server knows and decides.

pub mod flows;
pub mod ids;
