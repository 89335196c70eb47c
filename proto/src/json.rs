//! Canonical JSON for messages, in the two dialects the edges use.
//!
//! Datastore objects are protojson with camelCase names, 64-bit integers as
//! strings and defaults omitted. Rows and query results are snake_case with
//! bare numbers and every field present.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;

use crate::transcode::wire_of;

pub(crate) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::DESCRIPTORS)
        .expect("descriptors were written by the build script")
});

/// Why a message could not be read from or written to JSON.
#[derive(Debug)]
pub struct JsonError(pub(crate) String);

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for JsonError {}

pub(crate) fn fail(name: &str, e: impl std::fmt::Display) -> JsonError {
    JsonError(format!("{name}: {e}"))
}

fn dynamic<M: Message + Name>(m: &M) -> Result<DynamicMessage, JsonError> {
    let name = M::full_name();
    let desc = POOL.get_message_by_name(&name).ok_or_else(|| fail(&name, "no such message"))?;
    DynamicMessage::decode(desc, m.encode_to_vec().as_slice()).map_err(|e| fail(&name, e))
}

/// A datastore object: camelCase, 64-bit integers as strings, defaults omitted,
/// enums by name, bytes as base64, no trailing newline.
pub fn to_object<M: Message + Name>(m: &M) -> Result<String, JsonError> {
    serialize(m, &SerializeOptions::new())
}

/// A row: snake_case, bare integers, enums by name, every field present.
pub fn to_row<M: Message + Name>(m: &M) -> Result<Value, JsonError> {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    serde_json::from_str(&serialize(m, &options)?).map_err(|e| fail(&M::full_name(), e))
}

/// As [`to_row`], with default-valued fields left out.
pub fn to_sparse_row<M: Message + Name>(m: &M) -> Result<Value, JsonError> {
    let options =
        SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    serde_json::from_str(&serialize(m, &options)?).map_err(|e| fail(&M::full_name(), e))
}

/// As [`to_object`] with proto field names: hunts inside rows.
pub fn to_named_object<M: Message + Name>(m: &M) -> Result<String, JsonError> {
    serialize(m, &SerializeOptions::new().use_proto_field_name(true))
}

/// As stock archives hold objects: indented by one space, snake_case, bare
/// integers, enums by number, defaults omitted.
pub fn to_indented<M: Message + Name>(m: &M) -> Result<String, JsonError> {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .use_enum_numbers(true);
    let name = M::full_name();
    let mut out = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut ser = serde_json::Serializer::with_formatter(&mut out, format);
    dynamic(m)?.serialize_with_options(&mut ser, &options).map_err(|e| fail(&name, e))?;
    String::from_utf8(out).map_err(|e| fail(&name, e))
}

/// Reads either dialect; unknown fields are ignored, so that objects of newer
/// servers still load.
pub fn from_json<M: Message + Name + Default>(text: &[u8]) -> Result<M, JsonError> {
    let name = M::full_name();
    if let Some(wire) = wire_of(&name, text) {
        return M::decode(wire.as_slice()).map_err(|e| fail(&name, e));
    }
    let desc = POOL.get_message_by_name(&name).ok_or_else(|| fail(&name, "no such message"))?;
    M::decode(general(&desc, text)?.as_slice()).map_err(|e| fail(&name, e))
}

/// The wire bytes of a message, whatever it holds.
pub(crate) fn general(desc: &MessageDescriptor, text: &[u8]) -> Result<Vec<u8>, JsonError> {
    let name = desc.full_name();
    let mut value: Value = serde_json::from_slice(text).map_err(|e| fail(name, e))?;
    plain_fractions(&mut value);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let m = DynamicMessage::deserialize_with_options(desc.clone(), value, &options)
        .map_err(|e| fail(name, e))?;
    Ok(m.encode_to_vec())
}

/// Numbers keep their spelling while parsed, which fractions must give up: the
/// mapping takes only those spelled the shortest way.
fn plain_fractions(value: &mut Value) {
    match value {
        Value::Number(n) if !n.is_u64() && !n.is_i64() => {
            if let Some(plain) = n.as_f64().and_then(serde_json::Number::from_f64) {
                *n = plain;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(plain_fractions),
        Value::Object(members) => members.values_mut().for_each(plain_fractions),
        _ => {}
    }
}

pub(crate) fn serialize<M: Message + Name>(
    m: &M,
    o: &SerializeOptions,
) -> Result<String, JsonError> {
    let name = M::full_name();
    let mut out = Vec::new();
    let mut ser = serde_json::Serializer::new(&mut out);
    dynamic(m)?.serialize_with_options(&mut ser, o).map_err(|e| fail(&name, e))?;
    String::from_utf8(out).map_err(|e| fail(&name, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ArtifactCollectorContext, VeloMessage, VqlRequest};

    #[test]
    fn objects_are_camel_case_with_string_integers() {
        let c = ArtifactCollectorContext {
            session_id: "F.1".into(),
            create_time: 1_701_175_416_907_783,
            state: 1,
            ..Default::default()
        };
        let text = to_object(&c).unwrap();
        assert_eq!(
            text,
            r#"{"createTime":"1701175416907783","sessionId":"F.1","state":"RUNNING"}"#
        );
        assert_eq!(from_json::<ArtifactCollectorContext>(text.as_bytes()).unwrap(), c);
    }

    #[test]
    fn a_first_capital_stays() {
        let q = VqlRequest { vql: "SELECT".into(), name: "A".into() };
        assert_eq!(to_object(&q).unwrap(), r#"{"VQL":"SELECT","Name":"A"}"#);
        let m = VeloMessage { csr: Some(Default::default()), ..Default::default() };
        assert_eq!(to_object(&m).unwrap(), r#"{"CSR":{}}"#);
    }

    #[test]
    fn fractions_are_read_in_any_spelling() {
        for (text, want) in [("12.5", 12.5), ("12.50", 12.5), ("5e1", 50.0), ("7", 7.0)] {
            let json = format!("{{\"cpuLimit\":{text}}}");
            let a: crate::proto::VqlCollectorArgs = from_json(json.as_bytes()).unwrap();
            assert_eq!(a.cpu_limit, want, "{text}");
        }
    }

    #[test]
    fn rows_have_every_field_and_unknown_input_is_ignored() {
        let v = to_row(&VqlRequest::default()).unwrap();
        assert_eq!(v.to_string(), r#"{"VQL":"","Name":""}"#);
        let q: VqlRequest = from_json(br#"{"VQL":"x","later":{"a":[1]}}"#).unwrap();
        assert_eq!(q.vql, "x");
        assert!(from_json::<VqlRequest>(br#"{"VQL":"#).is_err());
    }
}
