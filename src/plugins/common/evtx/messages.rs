//! Texts of events from a database of messages, which says for a provider and the number
//! of an event what it means, with places for its data. On Windows they are in the
//! providers' programs; without a database they are empty here.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // opens the real host's file

use std::collections::BTreeMap;

use rusqlite::{Connection, OpenFlags};
use vql::{Args, Dict, Error, Scope, Value};

use crate::plugins::common::{OsPath, blocking, host};

/// Most bytes of messages that are kept.
const LIMIT: usize = 256 << 20;

/// All messages by the provider's name or GUID and the event's number.
#[derive(Debug, Default)]
pub struct Messages(BTreeMap<(String, i64), String>);

impl Messages {
    /// Those of the database that the argument `messagedb` names.
    pub async fn open(scope: &Scope, args: &Args) -> Result<Messages, Error> {
        let Some(path) = args.opt_string("messagedb")?.filter(|p| !p.is_empty()) else {
            return Ok(Messages::default());
        };
        let native = OsPath::linux(path.as_bytes()).native(&host(scope).root);
        let load = move || load(&native);
        blocking(scope, load).await?.map_err(|e| Error::failed(format!("messagedb: {path}: {e}")))
    }

    /// The message of an event; empty where none is known.
    pub fn of(&self, event: &Dict) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let system = event.get("System").and_then(Value::as_dict);
        let below = |name: &str, member: &str| {
            let value = system.and_then(|s| s.get(name));
            value.and_then(Value::as_dict).and_then(|d| d.get(member)).cloned()
        };
        let Some(number) = below("EventID", "Value").and_then(|v| v.as_int()) else {
            return String::new();
        };
        let found = ["Guid", "Name"].into_iter().find_map(|member| {
            let provider = below("Provider", member)?.to_text();
            self.0.get(&(provider, number)).filter(|m| !m.is_empty())
        });
        let Some(message) = found else { return String::new() };
        let data = event.get("UserData").filter(|v| v.as_dict().is_some());
        let mut parts = Vec::new();
        flatten(data.or_else(|| event.get("EventData")), &mut parts);
        filled(message, &parts)
    }
}

fn load(path: &std::path::Path) -> Result<Messages, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let query = "SELECT providers.name, messages.event_id, messages.message \
        FROM messages JOIN providers ON messages.provider_id = providers.id";
    let mut statement = connection.prepare(query)?;
    let (mut rows, mut out, mut size) = (statement.query([])?, BTreeMap::new(), 0);
    while let Some(row) = rows.next()? {
        let (provider, number): (String, i64) = (row.get(0)?, row.get(1)?);
        let message: String = row.get::<_, Option<String>>(2)?.unwrap_or_default();
        size += provider.len() + message.len();
        if size > LIMIT {
            break;
        }
        out.entry((provider, number)).or_insert(message);
    }
    Ok(Messages(out))
}

/// The data of an event one after the other.
fn flatten(data: Option<&Value>, out: &mut Vec<String>) {
    let Some(Value::Dict(dict)) = data else { return };
    for value in dict.values() {
        match value {
            Value::Dict(_) => flatten(Some(value), out),
            Value::List(items) if items.iter().all(|i| matches!(i, Value::Str(_))) => {
                out.extend(items.iter().map(Value::to_text));
            }
            value => out.push(value.go_text()),
        }
    }
}

/// A message with data in its places: `%1` is the first. Data that names a further message,
/// as `%%1833`, stays empty, since those are in programs only.
fn filled(message: &str, parts: &[String]) -> String {
    let mut out = String::new();
    let mut rest = message;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest[1..].find(|c: char| !c.is_ascii_digit() && !matches!(c, 'n' | 't' | 'r'));
        let end = end.map_or(rest.len(), |e| e + 1);
        let (place, behind) = rest.split_at(end);
        let number = place[1..].parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        match (place, number.and_then(|n| parts.get(n))) {
            ("%n", _) => out.push('\n'),
            ("%r", _) => {}
            ("%t", _) => out.push('\t'),
            (_, Some(part)) => {
                let named = part.strip_prefix("%%").and_then(|p| p.chars().next());
                if !named.is_some_and(|c| c.is_ascii_digit()) {
                    out.push_str(part);
                }
            }
            _ => out.push_str(place),
        }
        rest = behind;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled() {
        let parts = ["a".to_owned(), "%%1833".to_owned()];
        assert_eq!(filled("%1 is%n%t%2.%r 100% %3 %", &parts), "a is\n\t. 100% %3 %");
    }

    #[test]
    fn messages_of_a_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.db");
        let made = Connection::open(&path).unwrap();
        made.execute_batch(
            "CREATE TABLE providers (id INTEGER, name TEXT); \
             CREATE TABLE messages (provider_id INTEGER, event_id INTEGER, message TEXT); \
             INSERT INTO providers VALUES (1, 'P'); \
             INSERT INTO messages VALUES (1, 7, '%1 of %3'), (1, 7, 'later')",
        )
        .unwrap();
        let messages = load(&path).unwrap();
        let event = |number: i64| {
            let system = Dict::new()
                .with("Provider", Dict::new().with("Name", "P"))
                .with("EventID", Dict::new().with("Value", number));
            let inner = Dict::new().with("B", "y").with("C", 3);
            let data = Dict::new().with("A", "x").with("More", inner);
            Dict::new().with("System", system).with("EventData", data)
        };
        assert_eq!(messages.of(&event(7)), "x of 3");
        assert_eq!(messages.of(&event(8)), "");
        assert!(load(&dir.path().join("none.db")).is_err());
    }
}
