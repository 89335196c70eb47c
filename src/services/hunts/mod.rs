//! Hunts: one collection on every client that matches, now and later.
//!
//! The master decides, in its journal like everything else: that a hunt is there
//! and in which state, and with each flow that a client has become one of its
//! clients. Both are in one record, so that a client has exactly one flow of a
//! hunt whatever is restarted. Clients and ends are sets; every count is made
//! from them.

pub mod conditions;
mod files;
mod ops;
mod pace;
mod recruit;
mod table;
mod view;

pub(super) use files::load;
pub use pace::Pace;
pub use recruit::Recruitment;
pub use table::{End, Hunts, LiveHunt, Member, flow_of_hunt, hunt_of_flow};

#[cfg(test)]
mod tests;
