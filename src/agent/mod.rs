//! The endpoint agent: executor, flows, uploads, event queries, local buffer.
