//! The gRPC API for scripts. Thin: checks the caller and calls services.
