//! The Velociraptor Query Language alone: parse, format, evaluate.
//! No I/O and no server: hosts register plugins and functions.
