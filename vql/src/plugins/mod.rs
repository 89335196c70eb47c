//! The plugins of the language which need no host.

use crate::registry::Registry;

/// Adds them all.
pub(crate) fn register(_registry: &mut Registry) {}
