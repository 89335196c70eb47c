//! `parse_binary`: structures in files, described by a profile.
//!
//! A profile is a list of `[name, size, fields]`, a field is `[name, offset,
//! type, options]`. Sizes, offsets and options may be lambdas; they get the
//! structure as far as it is read, so a field can refer to those before it.
//! Structures are read whole when they are asked for.

mod check;
mod reader;
mod scalars;
mod shape;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value as Json;
use vql::{ArgType, Args, Dict, Error, Key, Lambda, Registry, Scope, Signature, Value};

use super::file::named;
use reader::Reader;
use shape::{Profile, Struct, VarInt, inside};

/// Structures in structures.
const DEPTH: usize = 64;
/// Values read in one call.
const MAX_VALUES: usize = 4 << 20;
/// Elements of an array when the profile does not say.
const DEFAULT_COUNT: i64 = 1000;
/// Bytes of a string when the profile does not say.
const DEFAULT_LENGTH: i64 = 1024;

/// Adds `parse_binary`.
pub fn register(registry: &mut Registry) {
    let sig = Signature::new("parse_binary", "A structure of a file, by a profile.")
        .required("filename", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("profile", ArgType::String, "The profile, JSON.")
        .required("struct", ArgType::String, "The structure of the profile.")
        .arg("offset", ArgType::Int, "Where it begins.")
        .arg("env", ArgType::Dict, "Variables for the lambdas of the profile.")
        .version(2);
    registry.function_async(sig, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let profile = Profile::parse(&args.string("profile")?).map_err(Error::failed)?;
    check::check(&profile).map_err(Error::failed)?;
    let (accessor, path) = named(scope, args, "filename")?;
    let shown = path.to_text();
    let opened = super::blocking(scope, move || accessor.open(&path)).await?;
    let file = opened.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
    let scope = scope.child();
    for (name, value) in args.dict("env")?.iter() {
        scope.set(name, value.clone());
    }
    let mut parser =
        Parser { profile: &profile, reader: Reader::new(file), scope, left: MAX_VALUES };
    let name = args.string("struct")?;
    let offset = args.int("offset")?;
    let (value, _) = parser.value(&name, &Json::Null, offset, &Value::Null, 0).await?;
    Ok(value)
}

struct Parser<'p> {
    profile: &'p Profile,
    reader: Reader,
    scope: Scope,
    left: usize,
}

impl Parser<'_> {
    /// The value of a type at an offset, and the bytes it takes. `this` is the
    /// structure it is in.
    fn value<'a>(
        &'a mut self,
        kind: &'a str,
        options: &'a Json,
        offset: i64,
        this: &'a Value,
        depth: usize,
    ) -> BoxFuture<'a, Result<(Value, i64), Error>> {
        async move {
            if depth > DEPTH {
                return Err(Error::failed(format!("{kind}: structures are nested too deeply")));
            }
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| Error::failed(format!("more than {MAX_VALUES} values")))?;
            self.scope.charge_op().await;
            if let Some(scalar) = scalars::find(kind) {
                let bytes = self.reader.bytes(&self.scope, offset, scalar.size).await?;
                return Ok((scalar.read(&bytes), scalar.size as i64));
            }
            // What a profile says of a name counts more than what is known of it here.
            if self.profile.find(kind).is_some() {
                return self.structure(kind, offset, this, depth).await;
            }
            let inner = text(options, "type");
            match kind {
                "String" => self.string(options, offset, this).await,
                "Value" => Ok((option(&self.scope, options, "value", this).await, 0)),
                "Array" => self.array(options, offset, this, depth).await,
                "leb128" => {
                    let bytes = self.reader.bytes(&self.scope, offset, 10).await?;
                    let (value, size) = scalars::leb128(&bytes);
                    Ok((Value::object(VarInt { value, start: offset, size }), size))
                }
                "GUID" => {
                    let bytes = self.reader.bytes(&self.scope, offset, 16).await?;
                    Ok((scalars::guid(&bytes), 16))
                }
                "Enumeration" | "Flags" | "BitField" | "WinFileTime" | "FatTimestamp"
                | "Timestamp" | "EpochTimestamp" => {
                    let inner = match (inner, kind) {
                        ("", "WinFileTime") => "uint64",
                        ("", _) => "uint32",
                        (given, _) => given,
                    };
                    let (raw, size) =
                        self.value(inner, &Json::Null, offset, this, depth + 1).await?;
                    let factor =
                        number(&self.scope, options, "factor", this).await.filter(|f| *f > 0);
                    let from = number(&self.scope, options, "start_bit", this).await;
                    let to = number(&self.scope, options, "end_bit", this).await;
                    let bits = (from.unwrap_or(0), to.unwrap_or(64));
                    Ok((scalars::derive(kind, &raw, options, factor, bits), size))
                }
                "Union" => {
                    let chosen = option(&self.scope, options, "selector", this).await.to_text();
                    let choices = options.get("choices");
                    let choice =
                        choices.and_then(|c| c.get(&chosen).or_else(|| c.get("default"))?.as_str());
                    match choice {
                        Some(choice) => self.value(choice, options, offset, this, depth + 1).await,
                        None => Ok((Value::Null, 0)),
                    }
                }
                "Profile" => {
                    // Elsewhere in the file, and nothing here.
                    let at = number(&self.scope, options, "offset", this).await.unwrap_or(offset);
                    let options = options.get("type_options").unwrap_or(&Json::Null);
                    let (value, _) = self.value(inner, options, at, this, depth + 1).await?;
                    Ok((value, 0))
                }
                "Pointer" => {
                    let (at, size) =
                        self.value("uint64", &Json::Null, offset, this, depth + 1).await?;
                    let at = at.as_int().unwrap_or(0);
                    let (value, _) = self.value(inner, &Json::Null, at, this, depth + 1).await?;
                    Ok((value, size))
                }
                _ => self.structure(kind, offset, this, depth).await,
            }
        }
        .boxed()
    }

    async fn structure(
        &mut self,
        kind: &str,
        offset: i64,
        parent: &Value,
        depth: usize,
    ) -> Result<(Value, i64), Error> {
        let profile = self.profile;
        let Some(shape) = profile.find(kind) else {
            return Err(Error::failed(format!("the profile has no {kind}")));
        };
        let mut built = Struct::new(offset, parent.clone());
        let mut end = 0;
        for field in shape.order.iter().map(|i| &shape.fields[*i]) {
            // Where it ends may be asked before all of it is read.
            if asks_for_end(&field.options) {
                let size = evaluate(&self.scope, &shape.size, &built.seen_inside()).await;
                built.size = size.as_int().unwrap_or(0);
            }
            let this = Value::object(built.clone());
            let at = evaluate(&self.scope, &field.offset, &this).await.as_int().unwrap_or(0);
            let from = offset.saturating_add(at);
            let read = self.value(&field.kind, &field.options, from, &this, depth + 1).await;
            let (value, size) = match read {
                Ok(read) => read,
                // A field that is broken is NULL; too much is too much.
                Err(e) if self.left == 0 || e == Error::Stopped => return Err(e),
                Err(e) => {
                    self.scope.log(
                        vql::Level::Default,
                        format!("parse_binary: {kind}.{}: {e}", field.name),
                    );
                    (Value::Null, 0)
                }
            };
            end = end.max(at.saturating_add(size));
            built.add(&field.name, value, from, size);
        }
        built.sort(shape);
        let this = Value::object(built.clone());
        let size = evaluate(&self.scope, &shape.size, &this).await.as_int().unwrap_or(0);
        // A lambda that gives nothing says there is nothing.
        let told = size > 0 || shape.size.is_string();
        built.size = if told { size.max(0) } else { end };
        let size = built.size;
        Ok((Value::object(built), size))
    }

    async fn array(
        &mut self,
        options: &Json,
        offset: i64,
        this: &Value,
        depth: usize,
    ) -> Result<(Value, i64), Error> {
        let most = number(&self.scope, options, "max_count", this).await.unwrap_or(DEFAULT_COUNT);
        let count = number(&self.scope, options, "count", this).await.unwrap_or(DEFAULT_COUNT);
        let kind = text(options, "type");
        let inner = options.get("type_options").unwrap_or(&Json::Null);
        let (mut items, mut at) = (Vec::new(), offset);
        // What ends the array may look at the structure it is in.
        let around = self.scope.child();
        around.set("this", inside(this));
        for _ in 0..count.min(most).max(0) {
            let (value, size) = self.value(kind, inner, at, this, depth + 1).await?;
            if let Some(Json::String(sentinel)) = options.get("sentinel") {
                let verdict = lambda(&around, sentinel, &value).await;
                if vql::truth(&verdict, &self.scope).await {
                    break;
                }
            }
            // What takes no place could go on for ever.
            if size <= 0 {
                break;
            }
            items.push(value);
            at = at.saturating_add(size);
        }
        Ok((Value::list(items), at - offset))
    }

    async fn string(
        &mut self,
        options: &Json,
        offset: i64,
        this: &Value,
    ) -> Result<(Value, i64), Error> {
        let most = number(&self.scope, options, "max_length", this).await.filter(|n| *n > 0);
        let length = number(&self.scope, options, "length", this).await;
        let wanted = length.unwrap_or(DEFAULT_LENGTH).min(most.unwrap_or(DEFAULT_LENGTH));
        let wanted = wanted.clamp(0, 64 << 20);
        let mut bytes = self.reader.bytes_there(&self.scope, offset, wanted as usize).await?;
        let wide = text(options, "encoding").eq_ignore_ascii_case("utf16");
        let term = match options.get("term_hex").and_then(Json::as_str) {
            Some(digits) => hex::decode(digits).ok(),
            None => match options.get("term") {
                Some(Json::String(s)) if s.contains("=>") => {
                    Some(lambda(&self.scope, s, this).await.to_str().as_bytes().to_vec())
                }
                Some(Json::String(s)) => Some(s.as_bytes().to_vec()),
                _ if wide => Some(vec![0, 0]),
                _ => Some(vec![0]),
            },
        };
        let step = if wide { 2 } else { 1 };
        let mut size = bytes.len() as i64;
        if let Some(term) = term.filter(|t| !t.is_empty()) {
            let ends =
                bytes.windows(term.len()).enumerate().step_by(step).find(|(_, w)| *w == term);
            if let Some((at, _)) = ends {
                bytes.truncate(at);
                size = (at + term.len()) as i64;
            }
        }
        if wide {
            let units = bytes.chunks_exact(2).map(|p| u16::from_le_bytes([p[0], p[1]]));
            let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect();
            return Ok((text.into(), size));
        }
        Ok((bytes.into(), size))
    }
}

/// Whether options of a field ask for the end of the structure it is in.
fn asks_for_end(options: &Json) -> bool {
    let text = |v: &Json| v.as_str().is_some_and(|t| t.contains("EndOf") || t.contains("SizeOf"));
    options.as_object().is_some_and(|o| o.values().any(text))
}

/// A number or what a lambda gives.
async fn evaluate(scope: &Scope, what: &Json, this: &Value) -> Value {
    match what {
        Json::String(text) if text.contains("=>") => lambda(scope, text, this).await,
        other => Value::from_json_plain(other.clone()),
    }
}

async fn option(scope: &Scope, options: &Json, name: &str, this: &Value) -> Value {
    match options.get(name) {
        Some(what) => evaluate(scope, what, this).await,
        None => Value::Null,
    }
}

async fn number(scope: &Scope, options: &Json, name: &str, this: &Value) -> Option<i64> {
    match option(scope, options, name, this).await {
        Value::Float(f) => Some(f as i64),
        other => other.as_int(),
    }
}

async fn lambda(scope: &Scope, text: &str, this: &Value) -> Value {
    match Lambda::parse(text) {
        Ok(lambda) => vql::call_lambda(&lambda, scope, vec![inside(this)]).await,
        Err(e) => {
            scope.log(vql::Level::Default, format!("parse_binary: {e}"));
            Value::Null
        }
    }
}

fn text<'a>(options: &'a Json, name: &str) -> &'a str {
    options.get(name).and_then(Json::as_str).unwrap_or_default()
}

/// A dict of two members in a reference to a field.
fn reference(value: &Value, start: i64, size: i64, from: i64) -> Value {
    Dict::new()
        .with("SizeOf", size)
        .with("StartOf", start)
        .with("EndOf", start + size)
        .with("RelOffset", start - from)
        .with("RelEndOf", start - from + size)
        .with(Key::new("Value"), value.clone())
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    async fn query(text: &str, data: &[u8]) -> String {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Data", data);
        Value::from(vql::run(text, &scope).await.unwrap()).to_json()
    }

    #[tokio::test]
    async fn structures_by_a_profile() {
        let mut data = vec![2, 0, 1, 0x12, 0x34];
        data.extend(b"one\0two\0");
        data.extend(0x5f5e_1000u32.to_le_bytes());
        data.extend([0b1010_0101, 0xe5, 0x8e, 0x26]);
        let profile = r#"'''[
            # A comment, and a comma too many.
            ["Header", 0, [
                ["count", 0, "uint16"],
                ["kind", 2, "Enumeration", {"type": "uint8", "choices": {"1": "FIRST"}}],
                ["big", 3, "uint16b"],
                ["names", 5, "Array", {"type": "Name", "count": "x=>x.count"}],
                ["when", "x=>x.StartOf + 5 + 8", "Timestamp", {"type": "uint32"}],
                ["high", 17, "BitField", {"type": "uint8", "start_bit": 4, "end_bit": 8}],
                ["flags", 17, "Flags", {"type": "uint8", "bitmap": {"A": 0, "B": 1, "C": 7}}],
                ["leb", 18, "leb128"],
                ["sum", 0, "Value", {"value": "x=>x.count + x.big + Extra"}],
                ["which", 0, "Union", {"selector": "x=>x.kind", "choices": {"FIRST": "uint8"}}],
                ["elsewhere", 0, "Profile", {"type": "Name", "offset": 9}],
            ]],
            ["Name", "x=>len(list=x.text) + 1", [["text", 0, "String", {"length": 10}]]],
        ]'''"#;
        let text = format!(
            "LET P <= parse_binary(filename=Data, accessor='data', profile={profile}, \
             struct='Header', env=dict(Extra=1)) \
             SELECT P, P.names[1].text AS Second, P.names[1].StartOf AS Start, P.SizeOf AS Size, \
             P.`@big`.RelOffset AS Rel FROM scope()"
        );
        let expected = r#"[{"P":{"count":2,"kind":"FIRST","big":4660,"names":[{"text":"one"},{"text":"two"}],"when":"2020-09-13T12:26:40Z","high":10,"flags":["A","C"],"leb":624485,"sum":4663,"which":2,"elsewhere":{"text":"two"}},"Second":"two","Start":9,"Size":21,"Rel":3}]"#;
        let expected = expected.replace("2020-09-13T12:26:40Z", &stamp(0x5f5e_1000));
        assert_eq!(query(&text, &data).await, expected);
    }

    fn stamp(seconds: i64) -> String {
        vql::rfc3339(vql::Time::new(seconds, 0).unwrap())
    }

    #[tokio::test]
    async fn strings_and_ends() {
        let profile = r#"'''[["S", 0, [
            ["wide", 0, "String", {"encoding": "utf16", "length": 8}],
            ["to", 8, "String", {"term": ";"}],
            ["hex", 8, "String", {"term_hex": "3b3b"}],
            ["past", 1000, "uint32"],
            ["many", 8, "Array", {"type": "uint8", "count": 100000, "max_count": 5,
                                  "sentinel": "x=>x = 59"}]]]]'''"#;
        let text = format!(
            "SELECT parse_binary(filename=Data, accessor='data', profile={profile}, struct='S') AS S, \
             parse_binary(filename=Data, accessor='data', profile='[', struct='S') AS Broken FROM scope()"
        );
        let data = b"a\0b\0\0\0c\0ab;c;;";
        let expected =
            r#"[{"S":{"wide":"ab","to":"ab","hex":"ab;c","past":0,"many":[97,98]},"Broken":null}]"#;
        assert_eq!(query(&text, data).await, expected);
    }

    #[tokio::test]
    async fn lists_know_where_they_end_and_structures_what_they_hide() {
        let profile = r#"'''[["Top", "x=>x.__size", [
            ["__size", 0, "uint8"],
            ["items", 1, "Array", {"type": "Item", "count": 9, "sentinel": "x=>this.EndOf < x.EndOf"}],
            ["behind", "x=>x.items.EndOf", "uint8"],
            ["length", 0, "Value", {"value": "x=>x.items.SizeOf"}]]],
            ["Item", "x=>x.n + 1", [["n", 0, "uint8"], ["t", 1, "String", {"length": "x=>x.n"}]]],
            ["Wrap", 0, [["v", 0, "leb128"], ["u", 0, "Union",
                {"selector": "x=>1", "choices": {"default": "uint8"}}]]]]'''"#;
        let text = format!(
            "LET P(S) = parse_binary(filename=Data, accessor='data', struct=S, profile={profile}) \
             SELECT P(S='Top') AS T, P(S='Wrap') AS W, P(S='Wrap').v.Size AS N, \
             P(S='Top').__size AS Hidden FROM scope()"
        );
        let data = [6, 1, b'a', 2, b'b', b'c', 9];
        let expected = r#"[{"T":{"items":[{"n":1,"t":"a"},{"n":2,"t":"bc"}],"behind":9,"length":5},"W":{"v":6,"u":6},"N":1,"Hidden":6}]"#;
        assert_eq!(query(&text, &data).await, expected);
    }

    #[tokio::test]
    async fn a_list_ends_where_structures_have_no_size() {
        let profile = r#"'''[["Top", 0, [["items", 0, "Array", {"type": "Item", "count": 50}]]],
            ["Item", "x=>x.n", [["n", 0, "uint8"], ["v", 1, "uint8"]]]]'''"#;
        let text = format!(
            "SELECT parse_binary(filename=Data, accessor='data', struct='Top', \
             profile={profile}).items.v AS V FROM scope()"
        );
        assert_eq!(query(&text, &[2, 7, 3, 8, 0]).await, r#"[{"V":[7,8]}]"#);
    }

    #[tokio::test]
    async fn fields_may_ask_for_what_follows() {
        let text = "SELECT parse_binary(filename=Data, accessor='data', struct='T', profile='[\
            [\"T\", 0, [[\"a\", 0, \"Value\", {\"value\": \"x=>x.b + 1\"}], \
            [\"b\", \"x=>x.place\", \"uint8\"], [\"place\", 0, \"uint8\"], \
            [\"c\", 0, \"Value\", {\"value\": \"x=>x.d\"}], \
            [\"d\", 0, \"Value\", {\"value\": \"x=>x.c\"}]]]]') AS V FROM scope()";
        let expected = r#"[{"V":{"a":8,"b":7,"place":2,"c":null,"d":null}}]"#;
        assert_eq!(query(text, &[2, 0, 7]).await, expected);
    }

    #[tokio::test]
    async fn a_structure_that_is_handed_on_is_whole() {
        let text = "LET F(x) = x.n * 2 \
            SELECT parse_binary(filename=Data, accessor='data', struct='T', profile='[\
            [\"T\", 0, [[\"a\", 0, \"Value\", {\"value\": \"x=>F(x=x)\"}], \
            [\"n\", 1, \"uint8\"]]]]') AS V FROM scope()";
        assert_eq!(query(text, &[2, 4]).await, r#"[{"V":{"a":8,"n":4}}]"#);
    }

    #[tokio::test]
    async fn profiles_say_what_names_are() {
        let text = "SELECT parse_binary(filename=Data, accessor='data', struct='T', profile='[\
            [\"T\", 0, [[\"g\", 0, \"GUID\"]]], \
            [\"GUID\", 1, [[\"Value\", 0, \"uint8\"]]]]').g.Value AS V FROM scope()";
        assert_eq!(query(text, &[7]).await, r#"[{"V":7}]"#);
    }

    #[tokio::test]
    async fn the_value_of_an_array_is_its_elements() {
        let text = "SELECT parse_binary(filename=Data, accessor='data', struct='T', profile='[\
            [\"T\", 0, [[\"list\", 0, \"Array\", {\"type\": \"E\", \"count\": 2}], \
            [\"v\", 0, \"Value\", {\"value\": \"x=>x.list.Value.Value\"}]]], \
            [\"E\", 1, [[\"Value\", 0, \"uint8\"]]]]').v AS V FROM scope()";
        assert_eq!(query(text, &[7, 8]).await, r#"[{"V":[7,8]}]"#);
    }

    #[tokio::test]
    async fn a_profile_that_goes_round_ends() {
        let text = "SELECT parse_binary(filename=Data, accessor='data', struct='A', \
            profile='[[\"A\", 0, [[\"a\", 0, \"A\"]]]]') AS A FROM scope()";
        assert!(query(text, b"abc").await.starts_with(r#"[{"A":{"a":{"#));
    }
}
