//! What clients and people each have of their own, so that neither waits for the other.

use tokio::runtime::{Handle, Id};

use super::real::Runtimes;

/// One value for the runtime of clients and one for that of people, if they have one.
#[derive(Debug)]
pub(super) struct Sided<T> {
    frontend: T,
    gui: Option<(Id, T)>,
}

impl<T> Sided<T> {
    pub(super) fn new(runtimes: Option<&Runtimes>, frontend: T, gui: T) -> Self {
        let own = runtimes.filter(|r| r.gui.id() != r.frontend.id());
        Self { frontend, gui: own.map(|r| (r.gui.id(), gui)) }
    }

    /// That of the side this is called on.
    pub(super) fn here(&self) -> &T {
        match &self.gui {
            Some((id, own)) if Handle::try_current().is_ok_and(|h| h.id() == *id) => own,
            _ => &self.frontend,
        }
    }
}
