//! Callables that inspect the host: facts, processes, sockets, environment.
//! They read the real system; tests put another root in [`super::common::Host`].
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod connections;
mod control;
mod dns;
mod efi;
mod environ;
mod info;
mod interfaces;
mod mounted;
mod pslist;
mod shell;
mod sysinfo;
mod trace;
mod tracker;
mod users;

pub use control::{Identity, NewIdentity};
pub use info::{Facts, facts};

use vql::Registry;

/// Adds all callables of this module.
pub fn register(registry: &mut Registry) {
    connections::register(registry);
    control::register(registry);
    dns::register(registry);
    efi::register(registry);
    environ::register(registry);
    info::register(registry);
    interfaces::register(registry);
    mounted::register(registry);
    pslist::register(registry);
    shell::register(registry);
    sysinfo::register(registry);
    trace::register(registry);
    tracker::register(registry);
    users::register(registry);
}
