//! VQL plugins and functions: common, endpoint and server.
