//! `parse_journald` and `watch_journald`: the journals of systemd.

mod file;
mod lz4;

use std::sync::Arc;
use std::time::Duration;

use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Time, Value};

use super::accessor::{Accessor, accessor, path_of};
use super::blocking;
use super::path::OsPath;
use file::{Entry, Journal};

/// Entries read at a time.
const BATCH: usize = 200;
/// Time between two looks at a watched journal.
const PERIOD: Duration = Duration::from_secs(5);

/// Fields of the event that are numbers.
const NUMBERS: [&str; 6] =
    ["ERRONO", "CODE_LINE", "SYSLOG_FACILITY", "SYSLOG_PID", "TID", "PRIORITY"];
/// Fields of the system that are numbers.
const SYSTEM_NUMBERS: [&str; 15] = [
    "_PID",
    "_PPID",
    "_UID",
    "_EUID",
    "_FSUID",
    "_EGID",
    "_GID",
    "_AUDIT_LOGINUID",
    "_AUDIT_SESSION",
    "_AUDIT_TYPE",
    "_AUDIT_ID",
    "_AUDIT_FIELD_SYSCALL",
    "_AUDIT_FIELD_EXIT",
    "_AUDIT_FIELD_SUID",
    "_AUDIT_FIELD_SGID",
];

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let journal = |name, doc| {
        Signature::new(name, doc)
            .required("filename", ArgType::Paths, "The journals.")
            .arg("accessor", ArgType::String, "An accessor to use.")
            .arg("raw", ArgType::Bool, "All fields as they are, in one dict.")
    };
    let parse = journal("parse_journald", "The entries of a systemd journal.")
        .arg("start_time", ArgType::Time, "Only entries from then on.")
        .arg("end_time", ArgType::Time, "Only entries up to then.")
        .version(2);
    registry.plugin_async(parse, |scope, args, emitter| async move {
        // A parameter that nobody filled in is the time zero.
        let given = |name| args.time(name).map(|t| t.filter(|t| t.as_second() > 0));
        let (from, to) = (given("start_time")?, given("end_time")?);
        let wanted = move |e: &Entry| {
            let at = time(e.realtime);
            from.is_none_or(|t| at >= t) && to.is_none_or(|t| at <= t)
        };
        let accessor = accessor(&scope, &args.string("accessor")?)?;
        for file in args.list("filename") {
            let path = path_of(&scope, &*accessor, &file);
            read(&scope, &args, &emitter, &accessor, &path, &wanted).await?;
        }
        Ok(())
    });
    let watch = journal("watch_journald", "New entries of a systemd journal.");
    registry.plugin_async(watch, |scope, args, emitter| async move {
        watch_journals(&scope, &args, &emitter).await
    });
}

/// Emits the entries that are wanted; gives the largest number of all.
async fn read(
    scope: &Scope,
    args: &Args,
    emitter: &Emitter,
    accessor: &Arc<dyn Accessor>,
    path: &OsPath,
    wanted: &(dyn Fn(&Entry) -> bool + Sync),
) -> Result<u64, Error> {
    let raw = args.bool("raw")?;
    let (a, p) = (accessor.clone(), path.clone());
    let fault = |e: std::io::Error| {
        let text = format!("{}: {}: {e}", args.call_name(), path.to_text());
        scope.log(Level::Default, text);
    };
    let mut journal = match blocking(scope, move || Journal::open(a.open(&p)?)).await? {
        Ok(journal) => journal,
        Err(e) => {
            fault(e);
            return Ok(0);
        }
    };
    let mut last = 0;
    loop {
        let batch = move || {
            let mut some = Vec::new();
            while some.len() < BATCH {
                match journal.next() {
                    Ok(Some(entry)) => some.push(entry),
                    Ok(None) => return (some, Ok(()), journal),
                    Err(e) => return (some, Err(e), journal),
                }
            }
            (some, Ok(()), journal)
        };
        let (some, done);
        (some, done, journal) = blocking(scope, batch).await?;
        let count = some.len();
        for entry in some {
            scope.charge_op().await;
            last = last.max(entry.seq);
            if wanted(&entry) {
                emitter.send(if raw { plain(entry) } else { parsed(entry) }).await?;
            }
        }
        if let Err(e) = done {
            fault(e);
            return Ok(last);
        }
        if count < BATCH {
            return Ok(last);
        }
    }
}

async fn watch_journals(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    // Nothing that is there at the start is new.
    let mut files = Vec::new();
    for file in args.list("filename") {
        let path = path_of(scope, &*accessor, &file);
        let last = read(scope, args, emitter, &accessor, &path, &|_| false).await?;
        files.push((path, last, (0, 0)));
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        for (path, last, seen) in &mut files {
            let (a, p) = (accessor.clone(), path.clone());
            let Ok(info) = blocking(scope, move || a.stat(&p)).await? else { continue };
            // A journal is written in place: its size does not tell.
            let stamp = (info.times[0], info.size);
            if stamp == *seen {
                continue;
            }
            *seen = stamp;
            let known = *last;
            let newer = move |e: &Entry| e.seq > known;
            let end = read(scope, args, emitter, &accessor, path, &newer).await?;
            *last = end.max(known);
        }
    }
}

fn time(microseconds: u64) -> Time {
    Time::from_nanosecond(i128::from(microseconds) * 1000).unwrap_or(Time::UNIX_EPOCH)
}

/// Name and value of an item.
fn split(item: &[u8], index: usize) -> (String, Value) {
    match item.iter().position(|b| *b == b'=') {
        Some(at) => (vql::lossy(&item[..at]).into_owned(), item[at + 1..].into()),
        None => (format!("Item{index}"), item.into()),
    }
}

fn plain(entry: Entry) -> Dict {
    let mut out = Dict::new().with("Timestamp", Value::Time(time(entry.realtime)));
    for (i, item) in entry.items.iter().enumerate() {
        let (name, value) = split(item, i);
        out.set(name, value);
    }
    out
}

fn parsed(entry: Entry) -> Dict {
    let mut system =
        Dict::new().with("Seq", entry.seq).with("Timestamp", Value::Time(time(entry.realtime)));
    let mut event = Dict::new();
    for (i, item) in entry.items.iter().enumerate() {
        let (name, value) = split(item, i);
        let number = || value.to_text().trim().parse::<i64>().ok();
        match (name.as_str(), number()) {
            ("_SOURCE_REALTIME_TIMESTAMP", Some(n)) => {
                let at = time(u64::try_from(n).unwrap_or(0));
                system.set("SOURCE_REALTIME_TIMESTAMP", Value::Time(at));
            }
            ("SYSLOG_TIMESTAMP", Some(n)) => {
                let at = Time::from_second(n).map_or(Value::Null, Value::Time);
                event.set("SYSLOG_TIMESTAMP", at);
            }
            (field, Some(n)) if NUMBERS.contains(&field) => event.set(name, n),
            (field, Some(n)) if SYSTEM_NUMBERS.contains(&field) => system.set(name, n),
            (field, _) if field.starts_with('_') => system.set(name, value),
            _ => event.set(name, value),
        }
    }
    Dict::new().with("System", system).with("EventData", event)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal of one array and one entry with two fields.
    fn journal(compact: bool) -> Vec<u8> {
        let mut out = vec![0u8; 256];
        out[..8].copy_from_slice(b"LPKSHHRH");
        out[12] = if compact { 16 } else { 0 };
        let mut object = |kind: u8, body: &[u8]| {
            while !out.len().is_multiple_of(8) {
                out.push(0);
            }
            let at = out.len() as u64;
            out.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            out.extend((16 + body.len() as u64).to_le_bytes());
            out.extend(body);
            at
        };
        let data = |text: &str| {
            let mut body = vec![0u8; if compact { 56 } else { 48 }];
            body.extend(text.bytes());
            body
        };
        let fields: Vec<u64> =
            ["_PID=12", "MESSAGE=hello", "PRIORITY=6"].map(|t| object(1, &data(t))).to_vec();
        let mut entry = 7u64.to_le_bytes().to_vec();
        entry.extend(1_683_595_872_435_195u64.to_le_bytes());
        entry.extend([0; 32]);
        for at in fields {
            match compact {
                true => entry.extend((at as u32).to_le_bytes()),
                false => entry.extend([at.to_le_bytes(), [0; 8]].concat()),
            }
        }
        let entry = object(3, &entry);
        let mut array = 0u64.to_le_bytes().to_vec();
        match compact {
            true => array.extend((entry as u32).to_le_bytes()),
            false => array.extend(entry.to_le_bytes()),
        }
        array.extend([0; 16]);
        let array = object(6, &array);
        out[176..184].copy_from_slice(&array.to_le_bytes());
        out
    }

    async fn query(text: &str, data: Vec<u8>) -> String {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Data", data);
        Value::from(vql::run(text, &scope).await.unwrap()).to_json()
    }

    #[tokio::test]
    async fn entries_are_rows() {
        let expected = r#"[{"System":{"Seq":7,"Timestamp":"2023-05-09T01:31:12.435195Z","_PID":12},"EventData":{"MESSAGE":"hello","PRIORITY":6}}]"#;
        let text = "SELECT * FROM parse_journald(filename=Data, accessor='data')";
        for compact in [false, true] {
            assert_eq!(query(text, journal(compact)).await, expected);
        }
        let raw = "SELECT * FROM parse_journald(filename=Data, accessor='data', raw=TRUE, \
            start_time='2023-05-09T00:00:00Z')";
        let expected = r#"[{"Timestamp":"2023-05-09T01:31:12.435195Z","_PID":"12","MESSAGE":"hello","PRIORITY":"6"}]"#;
        assert_eq!(query(raw, journal(false)).await, expected);
        let none = "SELECT * FROM parse_journald(filename=Data, accessor='data', end_time=100)";
        assert_eq!(query(none, journal(false)).await, "[]");
        // The ends are in; a parameter of an artifact without a value is the time zero.
        let count = |time: &str| {
            format!(
                "SELECT count() AS N FROM parse_journald(filename=Data, accessor='data', \
                 start_time={time}, end_time={time}) GROUP BY 1"
            )
        };
        for time in ["'2023-05-09T01:31:12.435195Z'", "timestamp(epoch=0)", "NULL", "''"] {
            assert_eq!(query(&count(time), journal(false)).await, r#"[{"N":1}]"#, "{time}");
        }
    }

    #[tokio::test]
    async fn damage_ends_no_query() {
        let whole = journal(false);
        let text = "SELECT * FROM parse_journald(filename=Data, accessor='data')";
        for cut in [0, 10, 183, 200, whole.len() - 40] {
            assert_eq!(query(text, whole[..cut].to_vec()).await, "[]", "{cut}");
        }
        for at in 256..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            query(text, damaged).await;
        }
    }
}
