//! Profiles, and structures as values.

use std::any::Any;
use std::collections::BTreeMap;

use serde_json::Value as Json;
use vql::{Dict, Key, Object, Value};

use super::reference;

/// The structures of a profile by name.
#[derive(Debug)]
pub(super) struct Profile(BTreeMap<String, Shape>);

/// One structure.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) size: Json,
    pub(super) fields: Vec<Field>,
    /// Fields in the order in which they can be read: what a field asks for comes before it.
    pub(super) order: Vec<usize>,
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) offset: Json,
    pub(super) kind: String,
    pub(super) options: Json,
}

impl Profile {
    /// Reads a profile. People write comments and trailing commas into theirs,
    /// which YAML takes and JSON does not.
    pub(super) fn parse(text: &str) -> Result<Profile, String> {
        let text = with_small_x(first_value(text));
        let all: Vec<(String, Json, Vec<Vec<Json>>)> =
            yaml_serde::from_str(&text).map_err(|e| format!("the profile: {e}"))?;
        let mut shapes = BTreeMap::new();
        for (name, size, fields) in all {
            let fields = fields.into_iter().map(|f| {
                let mut parts = f.into_iter();
                let mut next = || parts.next().unwrap_or(Json::Null);
                let (field, offset, kind, options) = (next(), next(), next(), next());
                match (field, kind) {
                    (Json::String(name), Json::String(kind)) => {
                        Ok(Field { name, offset, kind, options })
                    }
                    _ => Err(format!(
                        "the profile: {name}: a field is [name, offset, type, options]"
                    )),
                }
            });
            let fields = fields.collect::<Result<Vec<_>, _>>()?;
            let order = order(&fields);
            shapes.insert(name, Shape { size, fields, order });
        }
        Ok(Profile(shapes))
    }

    /// The structures and their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.0.iter().map(|(name, shape)| (name.as_str(), shape))
    }

    pub(super) fn find(&self, name: &str) -> Option<&Shape> {
        self.0.get(name)
    }
}

/// Numbers like `0X10`, which are texts in YAML, as `0x10`. What stands in quotes stays.
fn with_small_x(text: &str) -> String {
    let (mut out, mut quote, mut before) = (String::with_capacity(text.len()), None, ' ');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(q) if c == q && before != '\\' => quote = None,
            None if c == '0' && chars.peek() == Some(&'X') && !before.is_alphanumeric() => {
                chars.next();
                out.push_str("0x");
                before = 'x';
                continue;
            }
            _ => {}
        }
        out.push(c);
        before = c;
    }
    out
}

/// The places of fields, those first that others ask for.
fn order(fields: &[Field]) -> Vec<usize> {
    let texts: Vec<String> = fields.iter().map(|f| format!("{} {}", f.offset, f.options)).collect();
    let asks = |asking: usize, name: &str| {
        texts[asking].match_indices(name).any(|(at, _)| {
            let behind = texts[asking][at + name.len()..].chars().next();
            let word = behind.is_some_and(|c| c.is_alphanumeric() || c == '_');
            texts[asking][..at].ends_with('.') && !word
        })
    };
    let whole: Vec<bool> = texts.iter().map(|t| hands_on(t)).collect();
    let asks = |asking: usize, of: usize| {
        asks(asking, &fields[of].name) || (whole[asking] && fields[of].kind != "Value")
    };
    let (mut out, mut seen) = (Vec::new(), vec![false; fields.len()]);
    for first in 0..fields.len() {
        let mut todo = vec![first];
        while let Some(at) = todo.last().copied() {
            let known = std::mem::replace(&mut seen[at], true);
            let next = |i: &usize| !known && !seen[*i] && asks(at, *i);
            let before: Vec<usize> = (0..fields.len()).rev().filter(next).collect();
            if before.is_empty() {
                todo.pop();
                if !out.contains(&at) {
                    out.push(at);
                }
            }
            todo.extend(before);
        }
    }
    out
}

/// Whether a lambda hands on the structure as a whole: who knows what is asked of it.
fn hands_on(text: &str) -> bool {
    let Some(head) = text.find("=>") else { return false };
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let name: String = text[..head].chars().rev().take_while(|c| word(*c)).collect();
    let name: String = name.chars().rev().collect();
    let body = &text[head + 2..];
    !name.is_empty()
        && body.match_indices(&name).any(|(at, _)| {
            let before = body[..at].chars().next_back();
            let behind = body[at + name.len()..].trim_start().chars().next();
            !before.is_some_and(|c| word(c) || c == '.')
                && !behind.is_some_and(|c| word(c) || matches!(c, '.' | '='))
        })
}

/// The first list or object of a text; what people leave behind it (a bracket too
/// many) does not matter.
fn first_value(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped, mut comment) = (0usize, false, false, false);
    for (at, c) in text.char_indices() {
        match c {
            '\n' => comment = false,
            _ if comment => {}
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '#' => comment = true,
            '[' | '{' => depth += 1,
            ']' | '}' if depth == 1 => return &text[..=at],
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text
}

/// A structure that was read.
#[derive(Clone, Debug)]
pub(super) struct Struct {
    fields: Dict,
    places: BTreeMap<String, (i64, i64)>,
    start: i64,
    pub(super) size: i64,
    parent: Value,
    /// As lambdas of the profile see it: they ask lists where they end.
    inside: bool,
}

impl Struct {
    pub(super) fn new(start: i64, parent: Value) -> Struct {
        Struct {
            fields: Dict::new(),
            places: BTreeMap::new(),
            start,
            size: 0,
            parent,
            inside: false,
        }
    }

    /// The structure as lambdas of the profile see it.
    pub(super) fn seen_inside(&self) -> Value {
        Value::object(Struct { inside: true, ..self.clone() })
    }

    fn field(&self, name: &str) -> Option<Value> {
        let value = self.fields.get(name)?.clone();
        if !self.inside {
            return Some(value);
        }
        Some(match (&value, self.places.get(name)) {
            (Value::List(items), Some((start, size))) => {
                let items = items.iter().map(inside).collect();
                Value::object(Sequence { items, start: *start, size: *size })
            }
            _ => inside(&value),
        })
    }

    /// Puts fields into the order of the profile.
    pub(super) fn sort(&mut self, shape: &Shape) {
        let names = shape.fields.iter().map(|f| f.name.as_str());
        let found = names.filter_map(|n| Some((Key::new(n), self.fields.get(n)?.clone())));
        self.fields = found.collect();
    }

    pub(super) fn add(&mut self, name: &str, value: Value, start: i64, size: i64) {
        self.fields.set(Key::new(name), value);
        self.places.insert(name.to_owned(), (start, size));
    }
}

/// A value as lambdas see it.
pub(super) fn inside(value: &Value) -> Value {
    value.downcast::<Struct>().map_or_else(|| value.clone(), Struct::seen_inside)
}

/// The elements of an array and where they are.
#[derive(Clone, Debug)]
struct Sequence {
    items: Vec<Value>,
    start: i64,
    size: i64,
}

impl Object for Sequence {
    fn type_name(&self) -> &'static str {
        "*vtypes.ArrayObject"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "SizeOf" | "Size" => self.size.into(),
            "StartOf" | "Start" | "OffsetOf" => self.start.into(),
            "EndOf" | "End" => (self.start + self.size).into(),
            // The elements, whatever they have of that name.
            "Value" => Value::list(self.items.clone()),
            _ => self.items.iter().filter_map(|v| vql::member(v, name)).collect(),
        })
    }

    fn index(&self, index: i64) -> Option<Value> {
        let length = self.items.len() as i64;
        let at = if index < 0 { index + length } else { index };
        self.items.get(usize::try_from(at).ok()?).cloned()
    }

    fn to_plain(&self) -> Value {
        Value::list(self.items.clone())
    }

    fn truth(&self) -> bool {
        !self.items.is_empty()
    }

    fn rows(&self) -> Option<Vec<Value>> {
        Some(self.items.clone())
    }
}

/// A number whose bytes are as many as it needs. Calculations take its `Value`.
#[derive(Clone, Debug)]
pub(super) struct VarInt {
    pub(super) value: u64,
    pub(super) start: i64,
    pub(super) size: i64,
}

impl Object for VarInt {
    fn type_name(&self) -> &'static str {
        "vtypes.VarInt"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "Value" | "ValueOf" => self.value.into(),
            "SizeOf" | "Size" => self.size.into(),
            "OffsetOf" | "StartOf" => self.start.into(),
            "EndOf" => (self.start + self.size).into(),
            _ => return None,
        })
    }

    fn to_plain(&self) -> Value {
        self.value.into()
    }

    fn truth(&self) -> bool {
        self.value > 0
    }
}

impl Object for Struct {
    fn type_name(&self) -> &'static str {
        "*vtypes.StructObject"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        // Two underscores hide what only helps to read the rest.
        self.fields.keys().filter(|k| !k.as_str().starts_with("__")).cloned().collect()
    }

    fn member(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.field(name) {
            return Some(value);
        }
        if let Some(field) = name.strip_prefix('@') {
            let (start, size) = self.places.get(field)?;
            let value = self.fields.get(field).cloned().unwrap_or_default();
            return Some(reference(&value, *start, *size, self.start));
        }
        Some(match name {
            "SizeOf" | "Size" => self.size.into(),
            "StartOf" | "Start" | "OffsetOf" => self.start.into(),
            "EndOf" | "End" => (self.start + self.size).into(),
            "ParentOf" | "Parent" if self.inside => inside(&self.parent),
            "ParentOf" | "Parent" => self.parent.clone(),
            _ => return None,
        })
    }

    fn truth(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_profile_does_not_matter() {
        assert_eq!(first_value("[[1, \"]\"], # ]\n {}\n] ]"), "[[1, \"]\"], # ]\n {}\n]");
        assert_eq!(first_value("[1"), "[1");
        let text = "[[\"A\", 4, [[\"a\", 0, \"uint32\"]]]\n]]";
        assert_eq!(Profile::parse(text).unwrap().find("A").unwrap().fields.len(), 1);
        assert!(Profile::parse("[[\"A\"").is_err());
    }
}
