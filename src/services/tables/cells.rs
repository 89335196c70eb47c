//! Single cells of a row that is JSON text, without reading the rest of it.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Characters of a text that decide its place in an order.
const MAX_KEY: usize = 256;

/// The text of a cell: a string as it is, everything else as JSON.
pub fn cell_text(raw: &str) -> String {
    match raw.starts_with('"') {
        true => serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned()),
        false => raw.to_owned(),
    }
}

/// Raw cells of the named columns. Of a name that occurs twice the last counts.
#[cfg(test)]
pub(super) fn pick<'a, const N: usize>(row: &'a [u8], names: [&str; N]) -> [Option<&'a str>; N] {
    let mut out = Vec::new();
    match pick_into(row, &names, &mut out) {
        true => std::array::from_fn(|i| out.get(i).copied().flatten()),
        false => [None; N],
    }
}

/// Raw cells of the named columns go to `out`, one for each name; of a column that
/// occurs twice the last counts. False, and nothing in `out`, for what is no JSON object.
pub(super) fn pick_into<'a, S: AsRef<str>>(
    row: &'a [u8],
    names: &[S],
    out: &mut Vec<Option<&'a str>>,
) -> bool {
    struct Pick<'n, 'o, 'a, S>(&'n [S], &'o mut Vec<Option<&'a str>>);
    impl<'de, S: AsRef<str>> Visitor<'de> for Pick<'_, '_, 'de, S> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a row")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(Name(key)) = map.next_key()? {
                let at = self.0.iter().position(|n| n.as_ref() == key);
                match at.and_then(|i| self.1.get_mut(i)) {
                    Some(slot) => *slot = Some(map.next_value::<&RawValue>()?.get()),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(())
        }
    }
    out.clear();
    out.resize(names.len(), None);
    let mut de = serde_json::Deserializer::from_slice(row);
    let whole = de.deserialize_map(Pick(names, out)).and_then(|()| de.end()).is_ok();
    if !whole {
        out.fill(None);
    }
    whole
}

/// Column names of a row in order.
pub fn columns(row: &[u8]) -> Vec<String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a row")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some((Name(key), IgnoredAny)) = map.next_entry()? {
                out.push(key.into_owned());
            }
            Ok(out)
        }
    }
    serde_json::Deserializer::from_slice(row).deserialize_map(Names).unwrap_or_default()
}

/// A member's name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A cell's place among others: nothing, false, true, numbers, text, the rest.
#[derive(Debug, Clone)]
pub(super) enum Key {
    Nothing,
    Bool(bool),
    Number(f64),
    Text(Box<str>),
    Other(Box<str>),
}

impl Key {
    pub(super) fn of(raw: Option<&str>) -> Self {
        let short = |t: &str| t.chars().take(MAX_KEY).collect::<String>().into_boxed_str();
        match raw {
            None | Some("null") => Self::Nothing,
            Some("true") => Self::Bool(true),
            Some("false") => Self::Bool(false),
            Some(t) if t.starts_with('"') => Self::Text(short(&cell_text(t))),
            Some(t) => match t.parse::<f64>() {
                Ok(n) => Self::Number(n),
                Err(_) => Self::Other(short(t)),
            },
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
            Self::Other(_) => 4,
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) | (Self::Other(a), Self::Other(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_without_the_rest() {
        let row = br#"{"a":1,"n\u0061me":"x\ty","deep":{"a":[1, 2]},"a":2}"#;
        assert_eq!(
            pick(row, ["a", "name", "deep", "none"]),
            [Some("2"), Some(r#""x\ty""#), Some(r#"{"a":[1, 2]}"#), None]
        );
        assert_eq!(cell_text(r#""x\ty""#), "x\ty");
        assert_eq!(columns(row), ["a", "name", "deep", "a"]);
        assert_eq!(pick(b"no row", ["a"]), [None]);
    }

    #[test]
    fn keys_have_one_order() {
        let texts = ["null", "false", "true", "-1.5", "2", "10", r#""a""#, r#""b""#, "[1]"];
        let keys: Vec<Key> = texts.iter().map(|t| Key::of(Some(t))).collect();
        assert!(keys.is_sorted());
        assert_eq!(Key::of(None), Key::of(Some("null")));
    }
}
