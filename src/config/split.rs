//! One file for each role: what an agent may see, what a minion runs with.

use serde_json::{Map, Value};

use super::Document;
use super::load::ConfigError;

/// The agent's file: `version`, `Client` and `autoexec`, nothing else.
///
/// With `nonce` the agent belongs to the organisation of that nonce.
pub fn client(doc: &Document, nonce: Option<&str>) -> Result<Value, ConfigError> {
    let mut out = Map::new();
    for key in ["version", "Client", "autoexec"] {
        if let Some(v) = doc.get(key) {
            out.insert(key.to_owned(), v.clone());
        }
    }
    let client = out
        .get_mut("Client")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| ConfigError::Change(format!("{}: has no Client section", doc.origin)))?;
    if let Some(nonce) = nonce {
        client.insert("nonce".to_owned(), nonce.into());
    }
    Ok(Value::Object(out))
}

/// The configuration as a minion sees it: entry `index` of `ExtraFrontends` laid over
/// `Frontend` (scalars replace, lists append, an empty scalar is an absent one). Without
/// an index `Frontend` is the minion's already.
pub fn minion(doc: &Document, index: Option<usize>) -> Document {
    let mut doc = doc.clone();
    let extra = index.and_then(|i| doc.get("ExtraFrontends")?.get(i).cloned());
    if let (Some(extra), Some(front)) = (extra, doc.value.get_mut("Frontend")) {
        overlay(front, &extra);
    }
    doc.set("Frontend.is_minion", true.into());
    doc
}

fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Object(b), Value::Object(o)) => {
            for (k, v) in o {
                overlay(b.entry(k.clone()).or_insert(Value::Null), v);
            }
        }
        (Value::Array(b), Value::Array(o)) => b.extend(o.iter().cloned()),
        // An empty scalar is an absent one.
        (_, Value::String(s)) if s.is_empty() => {}
        (_, Value::Bool(false)) => {}
        (_, Value::Number(n)) if n.as_i64() == Some(0) => {}
        (b, o) => *b = o.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;

    const TEXT: &str = "version: {name: v}\nClient: {nonce: a, future: 1}\nCA: {private_key: x}\n\
        Frontend: {hostname: m, bind_port: 8000, resources: {concurrency: 5, expected_clients: 7},\
        default_client_monitoring_artifacts: [A]}\nautoexec: {argv: [client]}\n\
        ExtraFrontends: [{hostname: n1, bind_port: 0, resources: {concurrency: 9},\
        default_client_monitoring_artifacts: [B]}, {bind_port: 8100}]\n";

    #[test]
    fn agents_see_three_sections() {
        let d = Document::parse(TEXT, "f").unwrap();
        let v = client(&d, None).unwrap();
        let keys: Vec<_> = v.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["version", "Client", "autoexec"]);
        assert_eq!(v["Client"]["future"], 1);
        assert_eq!(client(&d, Some("b")).unwrap()["Client"]["nonce"], "b");
        let none = Document::parse("version: {}\n", "f").unwrap();
        assert!(client(&none, None).is_err());
    }

    #[test]
    fn minions_lie_over_the_master() {
        let d = Document::parse(TEXT, "f").unwrap();
        let c = check::model(&d).unwrap();
        assert_eq!(c.node_names(), ["m-8000", "n1-8000", "m-8100"]);
        let n = minion(&d, Some(0));
        let f = check::model(&n).unwrap().frontend;
        assert_eq!(f.node_name(), "n1-8000");
        assert_eq!(f.default_client_monitoring_artifacts, ["A", "B"]);
        assert_eq!(f.limits().concurrency, Some(9));
        assert_eq!(f.limits().expected_clients, 7);
        assert_eq!(n.get("Frontend.is_minion"), Some(&Value::Bool(true)));
        let own = minion(&d, None);
        assert_eq!(check::model(&own).unwrap().frontend.node_name(), "m-8000");
        assert_eq!(own.get("Frontend.is_minion"), Some(&Value::Bool(true)));
    }
}
