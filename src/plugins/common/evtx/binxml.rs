//! Records of one chunk: XML in a binary form, most of it written once as a template into
//! which the values of each record are put. A row is the tree of such a record, as dicts.
//!
//! Every number may be wrong, a template may name itself, and a few bytes may ask for a
//! great deal: depth, tokens and the size of what comes out are bounded for each record.

use std::collections::BTreeMap;
use std::sync::Arc;

use vql::{Dict, Value};

use super::values;
use crate::plugins::common::fields::{Fields, wide};

/// Trees in values in templates.
const DEPTH: usize = 16;
/// Elements in elements of one tree.
const NESTED: usize = 32;
/// Tokens and values of one record: more than fit into one that is well made.
const TOKENS: usize = 1 << 16;
/// Bytes of what comes out of one record, by an estimate.
const LARGEST: usize = 8 << 20;

/// What an element holds.
#[derive(Clone, Debug)]
enum Node {
    /// Nothing.
    Empty,
    /// A value that is written out, and its size.
    Given(Value, usize),
    /// The value of that number of whoever uses the template.
    Asked(usize),
    /// Parts by name; text has none.
    Parts(Vec<(String, Node)>),
    /// Several of one name.
    Many(Vec<Node>),
}

/// A value and an estimate of its bytes.
#[derive(Clone, Debug, Default)]
struct Sized {
    value: Value,
    size: usize,
}

/// See the module. Places of templates and names are counted from the chunk's beginning.
pub struct Chunk<'a> {
    data: &'a [u8],
    templates: BTreeMap<usize, Arc<Node>>,
    tokens: usize,
    bytes: usize,
}

/// Why a record is not given.
#[derive(Debug, PartialEq, Eq)]
pub struct Unreadable;

type Found<T> = Result<T, Unreadable>;

/// A place in the chunk.
#[derive(Clone, Copy)]
struct At(usize);

impl<'a> Chunk<'a> {
    /// The chunk that `data` is.
    pub fn new(data: &'a [u8]) -> Chunk<'a> {
        Chunk { data, templates: BTreeMap::new(), tokens: 0, bytes: 0 }
    }

    /// The tree of the record whose content begins `at`.
    pub fn record(&mut self, at: usize) -> Found<Value> {
        (self.tokens, self.bytes) = (0, 0);
        let tree = self.tree(&mut At(at), false, 0)?;
        Ok(self.filled(&tree, None)?.value)
    }

    fn bytes(&self, at: &mut At, length: usize) -> Found<&'a [u8]> {
        let end = at.0.checked_add(length).ok_or(Unreadable)?;
        let bytes = self.data.get(at.0..end).ok_or(Unreadable)?;
        at.0 = end;
        Ok(bytes)
    }

    fn byte(&self, at: &mut At) -> Found<u8> {
        Ok(self.bytes(at, 1)?[0])
    }

    fn short(&self, at: &mut At) -> Found<u16> {
        self.bytes(at, 2)?.u16(0).ok_or(Unreadable)
    }

    fn long(&self, at: &mut At) -> Found<u32> {
        self.bytes(at, 4)?.u32(0).ok_or(Unreadable)
    }

    fn token(&mut self) -> Found<()> {
        self.tokens += 1;
        if self.tokens > TOKENS { Err(Unreadable) } else { Ok(()) }
    }

    /// A name: written here, or somewhere else in the chunk.
    fn name(&self, at: &mut At) -> Found<String> {
        let place = self.long(at)? as usize;
        let mut there = At(place);
        let here = place == at.0;
        self.bytes(&mut there, 6)?;
        let length = usize::from(self.short(&mut there)?);
        let text = values::text(self.bytes(&mut there, length * 2)?);
        // A zero ends it.
        self.bytes(&mut there, 2)?;
        if here {
            *at = there;
        }
        Ok(text)
    }

    /// The tree that begins `at`. In templates the beginning of an element is longer.
    fn tree(&mut self, at: &mut At, template: bool, depth: usize) -> Found<Node> {
        if depth > DEPTH {
            return Err(Unreadable);
        }
        let mut open: Vec<(String, Element)> = vec![(String::new(), Element::default())];
        loop {
            self.token()?;
            // What is cut off ends where it does.
            let Ok(token) = self.byte(at) else { break };
            let Some((_, current)) = open.last_mut() else { break };
            match token {
                0x01 | 0x41 => {
                    if template {
                        self.short(at)?;
                    }
                    self.long(at)?;
                    let name = self.name(at)?;
                    if token == 0x41 {
                        self.long(at)?;
                    }
                    if open.len() > NESTED {
                        return Err(Unreadable);
                    }
                    open.push((name, Element::default()));
                }
                0x02 => current.attribute = None,
                0x03 | 0x04 => match open.pop() {
                    Some((name, done)) => match open.last_mut() {
                        Some((_, above)) => above.nest(name, done.node()),
                        // More was closed than opened.
                        None => return Ok(done.node()),
                    },
                    None => break,
                },
                0x05 | 0x45 => {
                    self.byte(at)?;
                    let text = self.counted(at)?;
                    let size = text.len();
                    current.give(Node::Given(text.into(), size));
                    current.attribute = None;
                }
                0x06 | 0x46 => current.attribute = Some(self.name(at)?),
                0x07 | 0x47 => {
                    let text = self.counted(at)?;
                    let size = text.len();
                    current.give(Node::Given(text.into(), size));
                }
                0x08 | 0x48 => drop(self.short(at)?),
                0x09 | 0x49 | 0x0a => drop(self.name(at)?),
                0x0b => drop(self.counted(at)?),
                0x0c => {
                    let Some(Sized { value, size }) = self.instance(at, depth)? else { break };
                    current.give(match value {
                        Value::Null => Node::Empty,
                        value => Node::Given(value, size),
                    });
                }
                0x0d | 0x0e => {
                    let number = self.short(at)?.into();
                    if self.byte(at)? == 0 {
                        self.byte(at)?;
                    }
                    current.give(Node::Asked(number));
                }
                0x0f => drop(self.bytes(at, 3)?),
                _ => break,
            }
        }
        // What was not closed ends here.
        while let Some((name, done)) = open.pop() {
            match open.last_mut() {
                Some((_, above)) => above.nest(name, done.node()),
                None => return Ok(done.node()),
            }
        }
        Ok(Node::Empty)
    }

    fn counted(&self, at: &mut At) -> Found<String> {
        let length = usize::from(self.short(at)?);
        Ok(values::text(self.bytes(at, length * 2)?))
    }

    /// A template with its values; `None` where there is none.
    fn instance(&mut self, at: &mut At, depth: usize) -> Found<Option<Sized>> {
        if self.byte(at)? != 1 || self.long(at)? == 0 {
            return Ok(None);
        }
        let place = self.long(at)? as usize;
        if place == at.0 {
            // It is written here: where the next one is, its id, how long it is, and itself.
            let length = self.bytes(at, 24)?.u32(20).ok_or(Unreadable)?;
            self.bytes(at, length as usize)?;
        }
        let template = match self.templates.get(&place) {
            Some(known) => known.clone(),
            None => {
                let body = place.checked_add(24).ok_or(Unreadable)?;
                let template = Arc::new(self.tree(&mut At(body), true, depth + 1)?);
                self.templates.insert(place, template.clone());
                template
            }
        };
        let values = self.values(at, depth)?;
        let mut filled = self.filled(&template, Some(&values))?;
        named_data(&mut filled.value);
        Ok(Some(filled))
    }

    /// The values of a record, in the order of their numbers.
    fn values(&mut self, at: &mut At, depth: usize) -> Found<Vec<Sized>> {
        let count = self.long(at)? as usize;
        let heads = self.bytes(at, count.checked_mul(4).ok_or(Unreadable)?)?;
        let mut out = Vec::with_capacity(count);
        for head in heads.chunks_exact(4) {
            self.token()?;
            let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
            let kind = u16::from_le_bytes([head[2], head[3]]);
            let start = *at;
            let bytes = self.bytes(at, length)?;
            out.push(match kind {
                0x21 => {
                    let tree = self.tree(&mut { start }, false, depth + 1)?;
                    self.filled(&tree, None)?
                }
                kind => Sized { value: values::value(kind, bytes), size: bytes.len() },
            });
        }
        Ok(out)
    }

    /// A tree with values in their places.
    fn filled(&mut self, node: &Node, values: Option<&[Sized]>) -> Found<Sized> {
        let asked = |n: usize| values.and_then(|v| v.get(n)).cloned().unwrap_or_default();
        let out = match node {
            // An empty element of a template shows its first value.
            Node::Empty => asked(0),
            Node::Asked(number) => asked(*number),
            Node::Given(value, size) => Sized { value: value.clone(), size: *size },
            Node::Many(nodes) => {
                let (mut list, mut size) = (Vec::with_capacity(nodes.len()), 0);
                for node in nodes {
                    let one = self.filled(node, values)?;
                    size += one.size + 8;
                    list.push(one.value);
                }
                return self.weighed(Value::list(list), size);
            }
            Node::Parts(parts) => {
                let (mut dict, mut size) = (Dict::with_capacity(parts.len()), 0);
                for (name, part) in parts {
                    let one = self.filled(part, values)?;
                    size += one.size + name.len() + 8;
                    if !name.is_empty() {
                        if !one.value.is_null() {
                            dict.set(name.clone(), one.value);
                        }
                        continue;
                    }
                    // Text alone is the element itself.
                    if parts.len() == 1 {
                        return Ok(one);
                    }
                    match one.value {
                        Value::Null => {}
                        Value::Dict(inner) => {
                            for (name, value) in inner.iter().filter(|(_, v)| !v.is_null()) {
                                dict.set(name.clone(), value.clone());
                            }
                        }
                        value => dict.set("Value", value),
                    }
                }
                return self.weighed(dict.into(), size);
            }
        };
        self.weighed(out.value, out.size)
    }

    /// Counts what comes out.
    fn weighed(&mut self, value: Value, size: usize) -> Found<Sized> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > LARGEST { Err(Unreadable) } else { Ok(Sized { value, size }) }
    }
}

/// An element that is being read.
#[derive(Default)]
struct Element {
    parts: Vec<(String, Node)>,
    /// The attribute that the next value is of.
    attribute: Option<String>,
    some: bool,
}

impl Element {
    fn set(&mut self, name: String, node: Node) {
        self.some = true;
        // Last is what was set last.
        self.parts.retain(|(n, _)| *n != name);
        self.parts.push((name, node));
    }

    /// Text, or the value of an attribute. Name spaces tell nothing.
    fn give(&mut self, node: Node) {
        let name = self.attribute.clone().unwrap_or_default();
        self.some = true;
        if name != "xmlns" {
            self.set(name, node);
        }
    }

    fn nest(&mut self, name: String, node: Node) {
        match self.parts.iter_mut().find(|(n, _)| *n == name) {
            Some((_, Node::Many(nodes))) => nodes.push(node),
            Some((_, first)) => {
                let first = std::mem::replace(first, Node::Empty);
                self.set(name, Node::Many(vec![first, node]));
            }
            None => self.set(name, node),
        }
    }

    fn node(self) -> Node {
        if self.some { Node::Parts(self.parts) } else { Node::Empty }
    }
}

/// Turns a list of named data into members of those names.
fn named_data(value: &mut Value) {
    let Value::Dict(dict) = value else { return };
    let data = dict.get("EventData").and_then(Value::as_dict).and_then(|d| d.get("Data"));
    let Some(items) = data.and_then(Value::as_list) else { return };
    let mut members = Dict::new();
    for item in items {
        let Some(item) = item.as_dict() else { return };
        let (Some(Value::Str(name)), Some(value)) = (item.get("Name"), item.get("Value")) else {
            return;
        };
        members.set(name, value.clone());
    }
    Arc::make_mut(dict).set("EventData", members);
}

/// Text of two bytes a character, without the zeros at its end.
pub fn trimmed(bytes: &[u8]) -> String {
    let mut text = wide(bytes);
    text.truncate(text.trim_end_matches('\0').len());
    text
}
