//! YAML to ordered values by the table of keys, collecting complaints.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::schema::{self, Type};

/// Nesting allowed in a file.
const MAX_DEPTH: usize = 64;

/// What is expected at a place.
#[derive(Clone)]
enum Kind {
    Type(Type),
    /// A key the table does not have: read, already reported.
    Unknown,
}

/// What is wrong, by path.
pub(super) type Complaints = RefCell<Vec<(String, String)>>;

/// Reads one value as the table says, collecting complaints instead of stopping.
pub(super) struct Node<'a> {
    ty: Kind,
    path: &'a str,
    out: &'a Complaints,
    depth: usize,
}

impl<'a> Node<'a> {
    /// The reader of a whole file that is one `section`.
    pub(super) fn top(section: &'static str, out: &'a Complaints) -> Self {
        Self { ty: Kind::Type(Type::Section(section)), path: "", out, depth: 0 }
    }

    fn complain(&self, message: impl Into<String>) {
        self.out.borrow_mut().push((self.path.to_owned(), message.into()));
    }

    fn wrong(&self, found: &str) -> Value {
        let wanted = match &self.ty {
            Kind::Type(Type::Str) => "text",
            Kind::Type(Type::Bool) => "true or false",
            Kind::Type(Type::Uint) => "a number from 0 up",
            Kind::Type(Type::Int) => "a whole number",
            Kind::Type(Type::Strs) => "a list of text",
            Kind::Type(Type::List(_)) => "a list of sections",
            Kind::Type(_) => "a section",
            Kind::Unknown => "something else",
        };
        self.complain(format!("should be {wanted}, is {found}"));
        Value::Null
    }

    fn is_any(&self) -> bool {
        matches!(self.ty, Kind::Type(Type::Any) | Kind::Unknown)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        // Unquoted text keeps its spelling: a version 0.70 is not the number 0.7.
        let text = matches!(self.ty, Kind::Type(Type::Str));
        let inner = Inner(self);
        if text { d.deserialize_str(inner) } else { d.deserialize_any(inner) }
    }
}

/// The visitor behind the test for null.
struct Inner<'a>(Node<'a>);

impl<'de> Visitor<'de> for Inner<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.0.path.is_empty() { "the file" } else { self.0.path };
        write!(f, "{path} to hold another kind of value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(match &self.0.ty {
            Kind::Type(Type::Bool | Type::Any) | Kind::Unknown => b.into(),
            Kind::Type(Type::Str) => b.to_string().into(),
            _ => self.0.wrong("true or false"),
        })
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(match &self.0.ty {
            Kind::Type(Type::Uint | Type::Any) | Kind::Unknown => n.into(),
            Kind::Type(Type::Int) if i64::try_from(n).is_ok() => n.into(),
            Kind::Type(Type::Str) => n.to_string().into(),
            _ => self.0.wrong("a number"),
        })
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(match &self.0.ty {
            Kind::Type(Type::Int | Type::Any) | Kind::Unknown => n.into(),
            Kind::Type(Type::Uint) if n >= 0 => n.into(),
            Kind::Type(Type::Str) => n.to_string().into(),
            _ => self.0.wrong("a negative number"),
        })
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        if self.0.is_any() {
            return Ok(Number::from_f64(n).map_or(Value::Null, Value::Number));
        }
        Ok(self.0.wrong("a fraction"))
    }

    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(match &self.0.ty {
            Kind::Type(Type::Str | Type::Any) | Kind::Unknown => s.into(),
            // YAML 1.1 spellings, which the stock program takes.
            Kind::Type(Type::Bool) => match s {
                "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => true.into(),
                "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => false.into(),
                _ => self.0.wrong("text"),
            },
            // An empty text where a list or section belongs is how some tools write "nothing".
            Kind::Type(Type::Section(_) | Type::List(_) | Type::Strs | Type::Map)
                if s.is_empty() =>
            {
                Value::Null
            }
            _ => self.0.wrong("text"),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let node = self.0;
        let item = match &node.ty {
            Kind::Type(Type::Strs) => Kind::Type(Type::Str),
            Kind::Type(Type::List(s)) => Kind::Type(Type::Section(s)),
            Kind::Type(Type::Any) => Kind::Type(Type::Any),
            Kind::Unknown => Kind::Unknown,
            _ => {
                let v = node.wrong("a list");
                while seq.next_element::<de::IgnoredAny>()?.is_some() {}
                return Ok(v);
            }
        };
        let mut out = Vec::new();
        loop {
            let path = format!("{}[{}]", node.path, out.len());
            let next = Node { ty: item.clone(), path: &path, out: node.out, depth: node.depth + 1 };
            match seq.next_element_seed(next)? {
                Some(v) => out.push(v),
                None => return Ok(Value::Array(out)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let node = self.0;
        if node.depth > MAX_DEPTH {
            return Err(de::Error::custom("nested too deeply"));
        }
        if !matches!(
            node.ty,
            Kind::Type(Type::Section(_) | Type::Sections(_) | Type::Map | Type::Any)
                | Kind::Unknown
        ) {
            let v = node.wrong("a section");
            while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
            return Ok(v);
        }
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path =
                if node.path.is_empty() { key.clone() } else { format!("{}.{key}", node.path) };
            let ty = match &node.ty {
                Kind::Type(Type::Section(s)) => {
                    match schema::section(s).and_then(|s| s.get(key.as_str())) {
                        Some(k) => Kind::Type(k.ty.clone()),
                        None => {
                            node.out.borrow_mut().push((path.clone(), unknown(s, &key)));
                            Kind::Unknown
                        }
                    }
                }
                Kind::Type(Type::Sections(s)) => Kind::Type(Type::Section(s)),
                Kind::Type(Type::Map) => Kind::Type(Type::Str),
                Kind::Type(_) => Kind::Type(Type::Any),
                Kind::Unknown => Kind::Unknown,
            };
            let next = Node { ty, path: &path, out: node.out, depth: node.depth + 1 };
            let value = map.next_value_seed(next)?;
            if out.insert(key, value).is_some() {
                node.out.borrow_mut().push((path, "given twice".into()));
            }
        }
        Ok(Value::Object(out))
    }
}

/// A message for an unknown key, with the known one that was probably meant.
fn unknown(section: &str, key: &str) -> String {
    let plain = |k: &str| k.replace(['_', '-'], "").to_ascii_lowercase();
    let wanted = plain(key);
    let meant = schema::section(section)
        .into_iter()
        .flat_map(|s| s.keys())
        .map(|k| (distance(&plain(k), &wanted), k))
        .filter(|(d, k)| *d <= 2 && *d < k.len().min(key.len()) / 2)
        .min_by_key(|(d, _)| *d);
    match meant {
        Some((_, k)) => format!("unknown key; did you mean {k}?"),
        None => "unknown key".into(),
    }
}

/// Edits (insert, delete, replace a byte) between two words; long ones count as far.
fn distance(a: &str, b: &str) -> usize {
    if a.len().max(b.len()) > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in
            [("nonce", "nonse", 1), ("", "ab", 2), ("abc", "abc", 0), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), d);
            assert_eq!(distance(b, a), d);
        }
        assert_eq!(unknown("ClientConfig", "nonse"), "unknown key; did you mean nonce?");
        assert_eq!(unknown("ClientConfig", "zz"), "unknown key");
    }
}
