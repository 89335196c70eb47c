//! The YAML configuration: load, validate, merge, generate, split per role.
