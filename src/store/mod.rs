//! Journal, path specs, objects, result sets, uploads. Knows files, not flows.

pub mod journal;
