//! `=~`: case-insensitive, unanchored RE2 matching.

use crate::go_regex::{GoRegex, compile};
use crate::log::Level;
use crate::scope::Scope;
use crate::value::{Str, Value};
use std::sync::Arc;

/// `target =~ pattern`.
pub(crate) fn matches(target: &Value, pattern: &Value, scope: &Scope) -> bool {
    let Value::Str(pattern) = pattern else { return false };
    if matches!(pattern.as_bytes(), b"" | b"." | b".*") {
        return true;
    }
    match regex_match(pattern, scope) {
        Some(regex) => target_matches(target, &regex),
        None => false,
    }
}

fn target_matches(target: &Value, regex: &GoRegex) -> bool {
    match target {
        Value::Null | Value::Bool(_) | Value::Query(_) | Value::Expr(_) | Value::Lambda(_) => false,
        Value::Str(s) => regex.is_match(s.as_bytes()),
        Value::Bytes(b) => regex.is_match(b),
        Value::List(items) => items.iter().any(|item| target_matches(item, regex)),
        other => regex.is_match(other.to_str().as_bytes()),
    }
}

/// The compiled `(?i)` pattern. A faulty one is logged once.
pub(crate) fn regex_match(pattern: &Str, scope: &Scope) -> Option<Arc<GoRegex>> {
    let cache = &scope.session().caches.regexes;
    let (regex, fresh) = cache.get(pattern.as_bytes(), || compile(&pattern.to_text(), true));
    match regex {
        Ok(regex) => Some(regex),
        Err(error) => {
            if fresh {
                scope.log(Level::Default, format!("Compile regexp: {error}"));
            }
            None
        }
    }
}
