//! JSON and query strings as web clients of a stock server use them: names of the
//! .proto files, 64-bit integers as text, defaults left out.

use prost::{Message, Name};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value};

use crate::json::{JsonError, POOL, fail, from_json, serialize};

/// A message as an answer.
pub fn to_answer<M: Message + Name>(m: &M) -> Result<String, JsonError> {
    serialize(m, &SerializeOptions::new().use_proto_field_name(true))
}

/// A message from the parameters of a URL. A dot in a name goes into a message,
/// `name[]` is one more value of a list, and names that are not known and empty
/// values of lists are passed over.
pub fn from_query<'a, M: Message + Name + Default>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<M, JsonError> {
    let name = M::full_name();
    let desc = POOL.get_message_by_name(&name).ok_or_else(|| fail(&name, "no such message"))?;
    let mut object = Map::new();
    for (key, value) in pairs {
        let key = key.strip_suffix("[]").unwrap_or(key);
        put(&mut object, &desc, key, value).map_err(|e| fail(key, e))?;
    }
    from_json(Value::Object(object).to_string().as_bytes())
}

fn field(desc: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    desc.get_field_by_name(name).or_else(|| desc.get_field_by_json_name(name))
}

fn put(
    object: &mut Map<String, Value>,
    desc: &MessageDescriptor,
    key: &str,
    text: &str,
) -> Result<(), String> {
    let (first, rest) = key.split_once('.').map_or((key, None), |(a, b)| (a, Some(b)));
    let Some(field) = field(desc, first) else { return Ok(()) };
    match (field.kind(), rest) {
        (Kind::Message(inner), Some(rest)) if !field.is_list() && !field.is_map() => {
            let entry = object.entry(field.name()).or_insert_with(|| Value::Object(Map::new()));
            match entry {
                Value::Object(o) => put(o, &inner, rest, text),
                _ => Ok(()),
            }
        }
        (Kind::Message(_), _) | (_, Some(_)) => Err("cannot be given in a URL".into()),
        (_, None) if field.is_list() => {
            if text.is_empty() {
                return Ok(());
            }
            let value = scalar(&field.kind(), text)?;
            let entry = object.entry(field.name()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = entry {
                items.push(value);
            }
            Ok(())
        }
        (_, None) => {
            object.insert(field.name().to_owned(), scalar(&field.kind(), text)?);
            Ok(())
        }
    }
}

fn scalar(kind: &Kind, text: &str) -> Result<Value, String> {
    let bad = |what: &str| format!("`{text}` is not {what}");
    Ok(match kind {
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "y" => true.into(),
            "false" | "0" | "n" | "" => false.into(),
            _ => return Err(bad("true or false")),
        },
        Kind::String | Kind::Bytes => text.into(),
        Kind::Enum(_) => match text.parse::<i32>() {
            Ok(n) => n.into(),
            Err(_) => text.into(),
        },
        Kind::Float | Kind::Double => text.parse::<f64>().map_err(|_| bad("a number"))?.into(),
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => {
            text.parse::<u64>().map_err(|_| bad("a whole number from 0 on"))?.into()
        }
        _ => text.parse::<i64>().map_err(|_| bad("a whole number"))?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{ArtifactCollectorContext, GetArtifactsRequest, GetTableRequest};

    #[test]
    fn answers_keep_names_and_write_large_numbers_as_text() {
        let c = ArtifactCollectorContext {
            session_id: "F.1".into(),
            create_time: 1_701_175_416_907_783,
            state: 1,
            ..Default::default()
        };
        let want = r#"{"create_time":"1701175416907783","session_id":"F.1","state":"RUNNING"}"#;
        assert_eq!(to_answer(&c).unwrap(), want);
    }

    #[test]
    fn parameters_become_a_message() {
        let q: GetTableRequest = from_query([
            ("client_id", "C.1"),
            ("rows", "50"),
            ("sort_direction", "true"),
            ("columns[]", ""),
            ("columns[]", "A"),
            ("columns", "B"),
            ("later", "x"),
        ])
        .unwrap();
        assert_eq!((q.client_id.as_str(), q.rows, q.sort_direction), ("C.1", 50, true));
        assert_eq!(q.columns, ["A", "B"]);
        let q: GetArtifactsRequest =
            from_query([("fields.name", "true"), ("search_term", "a b")]).unwrap();
        assert!(q.fields.is_some_and(|f| f.name) && q.search_term == "a b");
        let e = from_query::<GetTableRequest>([("rows", "many")]).unwrap_err();
        assert!(e.to_string().contains("rows") && e.to_string().contains("many"));
    }
}
