//! The functions of the language which need no host.

mod aggregate;
mod cache;
mod encode;
mod exit;
mod format;
mod generate;
mod go_format;
mod go_layout;
mod grok;
mod humanize;
mod ip;
mod json;
mod lists;
mod logging;
mod logic;
mod lru;
mod lzxpress;
mod members;
mod memoize;
mod misc;
mod numbers;
mod paths;
mod reflection;
mod regexes;
mod semver;
mod serialize;
mod strings;
mod template;
mod timestamp;
mod yaml;

pub use lzxpress::decompress as lzxpress_decompress;

pub(crate) use exit::Exits;
pub(crate) use json::parse as parse_json;
pub(crate) use reflection::scope_value;

use crate::registry::Registry;

/// Adds them all.
pub(crate) fn register(registry: &mut Registry) {
    aggregate::register(registry);
    cache::register(registry);
    encode::register(registry);
    exit::register(registry);
    format::register(registry);
    generate::register(registry);
    grok::register(registry);
    humanize::register(registry);
    ip::register(registry);
    json::register(registry);
    lists::register(registry);
    logging::register(registry);
    logic::register(registry);
    lru::register(registry);
    lzxpress::register(registry);
    members::register(registry);
    memoize::register(registry);
    misc::register(registry);
    numbers::register(registry);
    paths::register(registry);
    reflection::register(registry);
    regexes::register(registry);
    semver::register(registry);
    serialize::register(registry);
    strings::register(registry);
    template::register(registry);
    timestamp::register(registry);
}
