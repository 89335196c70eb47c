//! The client wire protocol over HTTP and WebSocket: server half and agent half.
//! No policy: it does not know what a job means.
