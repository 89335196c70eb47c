//! Canonical JSON to wire bytes in one pass, for what stored objects are made of.
//!
//! Gives up on everything unusual, wrong input included: the general way, which goes
//! through values, decides then. So this knows nothing of what is refused; where it
//! gives bytes they mean what the general way would have read.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind as Described, MessageDescriptor};
use serde_json::{Number, Value};

use crate::json::POOL;

/// Messages in messages; deeper is left to the general way.
const DEPTH: u32 = 64;

/// What a field holds.
#[derive(Debug)]
enum Kind {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Bool,
    Double,
    Float,
    Text,
    /// Numbers by name.
    Enum(BTreeMap<String, i32>),
    /// Number of its table.
    Message(usize),
    /// Of the key, of the value.
    Map(Box<Kind>, Box<Kind>),
    /// Left to the general way.
    Other,
}

#[derive(Debug)]
struct Field {
    number: u32,
    oneof: Option<String>,
    list: bool,
    kind: Kind,
}

/// Fields by each of their names.
type Table = BTreeMap<String, Field>;

struct Tables {
    by_name: BTreeMap<String, usize>,
    all: Vec<Table>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    // Those of the library have JSON forms of their own.
    let own = |m: &MessageDescriptor| !m.full_name().starts_with("google.");
    let messages: Vec<MessageDescriptor> = POOL.all_messages().filter(own).collect();
    let by_name: BTreeMap<String, usize> =
        messages.iter().enumerate().map(|(i, m)| (m.full_name().to_owned(), i)).collect();
    let all = messages.iter().map(|m| table(m, &by_name)).collect();
    Tables { by_name, all }
});

fn table(m: &MessageDescriptor, by_name: &BTreeMap<String, usize>) -> Table {
    let field = |f: &FieldDescriptor| Field {
        number: f.number(),
        oneof: f.containing_oneof().map(|o| o.name().to_owned()),
        list: f.is_list(),
        kind: if f.is_group() { Kind::Other } else { kind(f, by_name) },
    };
    let mut out: Table = m.fields().map(|f| (f.name().to_owned(), field(&f))).collect();
    // A name that is the JSON name of one field and the name of another is the first's.
    out.extend(m.fields().map(|f| (f.json_name().to_owned(), field(&f))));
    out
}

fn kind(f: &FieldDescriptor, by_name: &BTreeMap<String, usize>) -> Kind {
    match f.kind() {
        Described::Int32 => Kind::Int32,
        Described::Int64 => Kind::Int64,
        Described::Uint32 => Kind::Uint32,
        Described::Uint64 => Kind::Uint64,
        Described::Bool => Kind::Bool,
        Described::Double => Kind::Double,
        Described::Float => Kind::Float,
        Described::String => Kind::Text,
        Described::Enum(e) if !e.full_name().starts_with("google.") => {
            Kind::Enum(e.values().map(|v| (v.name().to_owned(), v.number())).collect())
        }
        Described::Message(m) if f.is_map() => Kind::Map(
            Box::new(kind(&m.map_entry_key_field(), by_name)),
            Box::new(kind(&m.map_entry_value_field(), by_name)),
        ),
        Described::Message(m) => {
            by_name.get(m.full_name()).map_or(Kind::Other, |i| Kind::Message(*i))
        }
        _ => Kind::Other,
    }
}

/// The wire bytes of a message, or nothing where the general way must be asked.
pub(crate) fn wire_of(message: &str, text: &[u8]) -> Option<Vec<u8>> {
    let table = *TABLES.by_name.get(message)?;
    let mut input = Input { text: std::str::from_utf8(text).ok()?, at: 0 };
    let mut out = Vec::with_capacity(text.len());
    input.message(table, DEPTH, &mut out)?;
    input.space();
    (input.at == text.len()).then_some(out)
}

struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Goes over `c`, if it is next.
    fn take(&mut self, c: u8) -> bool {
        self.space();
        let is = self.peek() == Some(c);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, c: u8) -> Option<()> {
        self.take(c).then_some(())
    }

    fn word(&mut self, word: &str) -> bool {
        self.space();
        let is = self.text[self.at..].starts_with(word);
        self.at += if is { word.len() } else { 0 };
        is
    }

    fn string(&mut self) -> Option<Cow<'a, str>> {
        self.expect(b'"')?;
        let start = self.at;
        let mut plain = true;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    plain = false;
                    self.at += 2;
                }
                c if c < b' ' => return None,
                _ => self.at += 1,
            }
        }
        let inner = self.text.get(start..self.at)?;
        self.at += 1;
        match plain {
            true => Some(Cow::Borrowed(inner)),
            false => {
                let quoted = self.text.get(start - 1..self.at)?;
                serde_json::from_str(quoted).ok().map(Cow::Owned)
            }
        }
    }

    fn number(&mut self) -> Option<&'a str> {
        self.space();
        let start = self.at;
        while let Some(b'-' | b'+' | b'.' | b'0'..=b'9' | b'e' | b'E') = self.peek() {
            self.at += 1;
        }
        (self.at > start).then(|| &self.text[start..self.at])
    }

    /// A whole number, bare or in quotes, spelled the one usual way.
    fn integer<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.space();
        match self.peek()? {
            b'"' => integer(&self.string()?),
            _ => integer(self.number()?),
        }
    }

    fn fraction(&mut self) -> Option<f64> {
        let text = self.number()?;
        if let Some(n) = integer::<u64>(text) {
            return Some(n as f64);
        }
        if let Some(n) = integer::<i64>(text) {
            return Some(n as f64);
        }
        serde_json::from_str::<Number>(text).ok()?.as_f64().filter(|n| n.is_finite())
    }

    /// Goes over any value.
    fn skip(&mut self) -> Option<()> {
        let mut values = serde_json::Deserializer::from_str(&self.text[self.at..]).into_iter();
        let _: Value = values.next()?.ok()?;
        self.at += values.byte_offset();
        Some(())
    }

    fn message(&mut self, table: usize, depth: u32, out: &mut Vec<u8>) -> Option<()> {
        let table = TABLES.all.get(table)?;
        let depth = depth.checked_sub(1)?;
        let mut seen: Vec<u32> = Vec::new();
        let mut oneofs: Vec<&str> = Vec::new();
        self.expect(b'{')?;
        if self.take(b'}') {
            return Some(());
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            match table.get(&*key) {
                // Perhaps an extension.
                None if key.starts_with('[') => return None,
                None => self.skip()?,
                // Of what is there twice the general way knows which counts.
                Some(f) if seen.contains(&f.number) => return None,
                Some(f) => {
                    seen.push(f.number);
                    if !self.word("null") {
                        if let Some(one) = &f.oneof {
                            if oneofs.contains(&one.as_str()) {
                                return None;
                            }
                            oneofs.push(one);
                        }
                        self.field(f, depth, out)?;
                    }
                }
            }
            if !self.take(b',') {
                return self.expect(b'}');
            }
        }
    }

    fn field(&mut self, f: &Field, depth: u32, out: &mut Vec<u8>) -> Option<()> {
        if let Kind::Map(key, value) = &f.kind {
            self.expect(b'{')?;
            if self.take(b'}') {
                return Some(());
            }
            loop {
                let name = self.string()?;
                self.expect(b':')?;
                encode_key(f.number, WireType::LengthDelimited, out);
                within(out, |out| {
                    map_key(key, &name, out)?;
                    self.one(value, 2, depth, out)
                })?;
                if !self.take(b',') {
                    return self.expect(b'}');
                }
            }
        }
        if !f.list {
            return self.one(&f.kind, f.number, depth, out);
        }
        self.expect(b'[')?;
        if self.take(b']') {
            return Some(());
        }
        loop {
            self.one(&f.kind, f.number, depth, out)?;
            if !self.take(b',') {
                return self.expect(b']');
            }
        }
    }

    fn one(&mut self, kind: &Kind, number: u32, depth: u32, out: &mut Vec<u8>) -> Option<()> {
        let varint = |n: u64, out: &mut Vec<u8>| {
            encode_key(number, WireType::Varint, out);
            encode_varint(n, out);
        };
        match kind {
            Kind::Int32 => varint(i64::from(self.integer::<i32>()?) as u64, out),
            Kind::Int64 => varint(self.integer::<i64>()? as u64, out),
            Kind::Uint32 => varint(u64::from(self.integer::<u32>()?), out),
            Kind::Uint64 => varint(self.integer::<u64>()?, out),
            Kind::Bool if self.word("true") => varint(1, out),
            Kind::Bool if self.word("false") => varint(0, out),
            Kind::Double => {
                encode_key(number, WireType::SixtyFourBit, out);
                out.extend(self.fraction()?.to_le_bytes());
            }
            Kind::Float => {
                let n = self.fraction()?;
                let fits = n >= f64::from(f32::MIN) && n <= f64::from(f32::MAX);
                encode_key(number, WireType::ThirtyTwoBit, out);
                out.extend((fits.then_some(n)? as f32).to_le_bytes());
            }
            Kind::Text => put_text(number, &self.string()?, out),
            Kind::Enum(values) => {
                self.space();
                let n = match self.peek()? {
                    b'"' => *values.get(&*self.string()?)?,
                    _ => self.integer::<i32>()?,
                };
                varint(i64::from(n) as u64, out);
            }
            Kind::Message(table) => {
                encode_key(number, WireType::LengthDelimited, out);
                within(out, |out| self.message(*table, depth, out))?;
            }
            Kind::Bool | Kind::Map(..) | Kind::Other => return None,
        }
        Some(())
    }
}

/// The key of a member of a map: a name whatever its kind.
fn map_key(kind: &Kind, name: &str, out: &mut Vec<u8>) -> Option<()> {
    let n = match kind {
        Kind::Text => {
            put_text(1, name, out);
            return Some(());
        }
        Kind::Int32 => i64::from(integer::<i32>(name)?) as u64,
        Kind::Int64 => integer::<i64>(name)? as u64,
        Kind::Uint32 => u64::from(integer::<u32>(name)?),
        Kind::Uint64 => integer::<u64>(name)?,
        _ => return None,
    };
    encode_key(1, WireType::Varint, out);
    encode_varint(n, out);
    Some(())
}

fn put_text(number: u32, text: &str, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// A whole number spelled the one usual way.
fn integer<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let usual = match digits.as_bytes() {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if usual { text.parse().ok() } else { None }
}

/// What `write` adds, with its length before it.
fn within(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    let start = out.len();
    out.push(0);
    write(out)?;
    let len = out.len() - start - 1;
    match u8::try_from(len) {
        Ok(n) if n < 0x80 => out[start] = n,
        _ => {
            let mut head = Vec::with_capacity(5);
            encode_varint(len as u64, &mut head);
            out.splice(start..=start, head);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use prost_reflect::{DynamicMessage, MapKey, SerializeOptions, Value as Any};

    use super::*;
    use crate::json::general;

    /// Numbers without any randomness of the machine (splitmix64).
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % sides
        }

        fn text(&mut self) -> String {
            let all = ["", "a", "SELECT \"x\"\n", "\u{1f600}\\", "\u{7}", "F.C123", "null"];
            all[self.roll(all.len() as u64) as usize].repeat(self.roll(40) as usize)
        }

        fn number(&mut self) -> i64 {
            let bits = self.roll(64);
            (self.roll(u64::MAX) as i64) >> bits
        }

        fn value(&mut self, kind: &Described, depth: u32) -> Any {
            match kind {
                Described::Double => Any::F64(self.number() as f64 / 8.0),
                Described::Float => Any::F32(self.roll(1000) as f32 / 8.0),
                Described::Int32 | Described::Sint32 | Described::Sfixed32 => {
                    Any::I32(self.number() as i32)
                }
                Described::Int64 | Described::Sint64 | Described::Sfixed64 => {
                    Any::I64(self.number())
                }
                Described::Uint32 | Described::Fixed32 => Any::U32(self.number() as u32),
                Described::Uint64 | Described::Fixed64 => Any::U64(self.number() as u64),
                Described::Bool => Any::Bool(self.roll(2) == 1),
                Described::String => Any::String(self.text()),
                Described::Bytes => Any::Bytes(self.text().into_bytes().into()),
                Described::Enum(e) => {
                    let all: Vec<i32> = e.values().map(|v| v.number()).collect();
                    Any::EnumNumber(all[self.roll(all.len() as u64) as usize])
                }
                Described::Message(m) => Any::Message(self.message(m, depth)),
            }
        }

        fn message(&mut self, m: &MessageDescriptor, depth: u32) -> DynamicMessage {
            let mut out = DynamicMessage::new(m.clone());
            for f in m.fields() {
                let nested = matches!(f.kind(), Described::Message(_));
                if self.roll(3) == 0 || (nested && depth == 0) {
                    continue;
                }
                let depth = depth.saturating_sub(1);
                let n = self.roll(4);
                let value = match f.kind() {
                    Described::Message(e) if f.is_map() => Any::Map(
                        (0..n)
                            .filter_map(|_| {
                                let key = match self.value(&e.map_entry_key_field().kind(), 0) {
                                    Any::String(s) => MapKey::String(s),
                                    Any::I64(n) => MapKey::I64(n),
                                    Any::U64(n) => MapKey::U64(n),
                                    _ => return None,
                                };
                                let value = e.map_entry_value_field().kind();
                                Some((key, self.value(&value, depth)))
                            })
                            .collect(),
                    ),
                    kind if f.is_list() => {
                        Any::List((0..n).map(|_| self.value(&kind, depth)).collect())
                    }
                    kind => self.value(&kind, depth),
                };
                if f.containing_oneof().is_none_or(|o| o.fields().all(|f| !out.has_field(&f))) {
                    out.set_field(&f, value);
                }
            }
            out
        }
    }

    fn json(m: &DynamicMessage, options: &SerializeOptions) -> Vec<u8> {
        let mut out = Vec::new();
        m.serialize_with_options(&mut serde_json::Serializer::new(&mut out), options).unwrap();
        out
    }

    #[test]
    fn every_message_is_read_as_the_general_way_reads_it() {
        let mut dice = Dice(1);
        let (mut read, mut left) = (0, 0);
        let stock = SerializeOptions::new();
        let rows = SerializeOptions::new()
            .use_proto_field_name(true)
            .stringify_64_bit_integers(false)
            .use_enum_numbers(true);
        for desc in POOL.all_messages().filter(|m| !m.full_name().starts_with("google.")) {
            for round in 0..20 {
                let m = dice.message(&desc, 3);
                let text = json(&m, if round % 2 == 0 { &stock } else { &rows });
                let wire = general(&desc, &text).unwrap();
                let want = DynamicMessage::decode(desc.clone(), wire.as_slice()).unwrap();
                match wire_of(desc.full_name(), &text) {
                    None => left += 1,
                    Some(wire) => {
                        read += 1;
                        let have = DynamicMessage::decode(desc.clone(), wire.as_slice()).unwrap();
                        assert_eq!(have, want, "{}", String::from_utf8_lossy(&text));
                    }
                }
            }
        }
        // Those left have bytes, or what is of the library.
        assert!(read > 4 * left, "{read} of {}", read + left);
    }

    #[test]
    fn what_is_unusual_is_left_to_the_general_way() {
        let read = |text: &str| wire_of("proto.ArtifactCollectorContext", text.as_bytes());
        for text in [
            "",
            "{",
            "[]",
            "{\"createTime\":\"1\"} x",
            "{\"createTime\":\"1\",}",
            "{\"createTime\":\"01\"}",
            "{\"createTime\":1e3}",
            "{\"createTime\":\"1\",\"create_time\":\"2\"}",
            "{\"createTime\":\"1\",\"createTime\":null}",
            "{\"sessionId\":1}",
            "{\"sessionId\":\"a\u{1}\"}",
            "{\"state\":\"NO_SUCH_STATE\"}",
            "{\"later\":{]}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        for text in
            ["{}", " { \"later\" : [ {\"a\":1} ] , \"createTime\" : null } ", "{\"state\":7}"]
        {
            assert!(read(text).is_some(), "{text}");
        }
    }
}
