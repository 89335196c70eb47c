//! Agent half of the client protocol.
