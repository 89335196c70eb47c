//! The web GUI. Thin: calls services.
