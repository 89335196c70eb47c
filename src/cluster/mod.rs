//! What makes several frontends one server: identity, replication, directory.
