//! Whole clusters of the production code under a deterministic simulator.
