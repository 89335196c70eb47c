//! `sqlite`: SQL on the databases programs keep on this host.
//!
//! What only reads is run on the file as it is, opened for reading; a database
//! that cannot be opened so (it is locked, or its log needs writing) and one
//! that is no real file is copied first. Statements that change something work
//! on the file itself, or make it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // opens the real host's files

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use vql::{ArgType, Args, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, accessor, path_of};
use super::path::OsPath;
use super::temp::TempFile;
use super::{blocking, host};

mod statements;
mod values;

/// How every database begins.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Milliseconds to wait for a lock that another program holds.
const PATIENCE: u64 = 2_000;
/// What a database keeps beside its file.
const BESIDE: [&str; 2] = ["-wal", "-journal"];

/// Adds `sqlite`.
pub fn register(registry: &mut Registry) {
    let sqlite = Signature::new("sqlite", "Runs SQL on an SQLite database.")
        .required("file", ArgType::Path, "The database.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .required("query", ArgType::String, "The statement; of several the last gives rows.")
        .arg("args", ArgType::Any, "Values of their `?`: one, or a list.");
    registry.plugin_async(sqlite, |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
}

/// Copies made for a query: what was copied, and where to.
#[derive(Default)]
struct Copies(Mutex<BTreeMap<String, String>>);

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let name = args.string("accessor")?;
    let accessor = accessor(scope, &name)?;
    let path = path_of(scope, &*accessor, &args.any("file"));
    let query = args.string("query")?;
    if query.trim().is_empty() {
        return Ok(());
    }
    let values = match args.any("args") {
        Value::Null => Vec::new(),
        Value::List(items) => items.iter().map(values::to_sql).collect::<Result<_, _>>()?,
        one => vec![values::to_sql(&one)?],
    };
    let real = ["", "auto", "file"].contains(&name.as_str());
    let wants_copy =
        vql::truth(&scope.resolve("SQLITE_ALWAYS_MAKE_TEMPFILE").unwrap_or_default(), scope).await;
    let shown = path.to_text();
    let connection = if real && !wants_copy {
        let (native, text) = (native(scope, &path), query.clone());
        match blocking(scope, move || open_native(&native, &text)).await? {
            Ok(Opened::Here(connection)) => connection,
            Ok(Opened::NotThere) => {
                return Err(Error::failed(format!("{shown}: there is no such file")));
            }
            Ok(Opened::NoDatabase) => {
                return Err(Error::failed(format!("{shown}: is no SQLite database")));
            }
            Err(e) => {
                scope.log(Level::Debug, format!("sqlite: {shown}: {e}; working on a copy"));
                copied(scope, &accessor, &path).await?
            }
        }
    } else {
        copied(scope, &accessor, &path).await?
    };
    statements::rows(connection, query, values, emitter).await
}

/// A database opened in place.
enum Opened {
    Here(Connection),
    NotThere,
    NoDatabase,
}

fn open_native(native: &Path, query: &str) -> Result<Opened, rusqlite::Error> {
    let writable = !only_reads(query);
    let head = std::fs::File::open(native).and_then(|f| {
        let mut head = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(f, MAGIC.len() as u64), &mut head)?;
        Ok(head)
    });
    match head {
        Ok(head) if head == MAGIC || (head.is_empty() && writable) => {}
        Ok(_) => return Ok(Opened::NoDatabase),
        Err(_) if writable => {}
        Err(_) => return Ok(Opened::NotThere),
    }
    let flags = match writable {
        true => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        false => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    let connection = Connection::open_with_flags(native, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(std::time::Duration::from_millis(PATIENCE))?;
    if !writable {
        // Fails here when it is locked or its log cannot be read.
        connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    }
    Ok(Opened::Here(connection))
}

/// Whether the statement begins like one that only reads. The file is opened for
/// reading then, so what begins so and writes all the same fails.
pub fn only_reads(query: &str) -> bool {
    let word: String =
        query.trim_start().chars().take_while(char::is_ascii_alphabetic).collect::<String>();
    ["select", "with", "pragma", "explain", "values"].iter().any(|w| w.eq_ignore_ascii_case(&word))
}

fn native(scope: &Scope, path: &OsPath) -> PathBuf {
    let text = path.to_text();
    match Path::new(&text).starts_with(std::env::temp_dir()) {
        true => text.into(),
        false => path.native(&host(scope).root),
    }
}

/// A copy of a database, made once for the query.
async fn copied(scope: &Scope, a: &Arc<dyn Accessor>, path: &OsPath) -> Result<Connection, Error> {
    let shown = path.to_text();
    let copies = scope.session_value::<Copies>();
    let made = copies.0.lock().unwrap_or_else(PoisonError::into_inner).get(&shown).cloned();
    let target = match made {
        Some(target) => target,
        None => {
            let target = copy(scope, a, path).await?;
            let mut all = copies.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(shown.clone(), target.clone());
            target
        }
    };
    let opened = blocking(scope, move || Connection::open(target)).await?;
    opened.map_err(|e| Error::failed(format!("{shown}: {e}")))
}

async fn copy(scope: &Scope, a: &Arc<dyn Accessor>, path: &OsPath) -> Result<String, Error> {
    let target = TempFile::create(scope, ".sqlite").await?.path();
    let (a, from, to) = (a.clone(), path.clone(), target.clone());
    let copy = move || -> io::Result<()> {
        io::copy(&mut a.open(&from)?, &mut std::fs::File::create(&to)?)?;
        for end in BESIDE {
            let Some(beside) = beside(&from, end) else { continue };
            if let Ok(mut file) = a.open(&beside) {
                io::copy(&mut file, &mut std::fs::File::create(format!("{to}{end}"))?)?;
            }
        }
        Ok(())
    };
    let shown = path.to_text();
    blocking(scope, copy).await?.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
    let ends: Vec<String> =
        BESIDE.iter().chain(&["-shm"]).map(|end| format!("{target}{end}")).collect();
    scope.on_close(move || ends.iter().for_each(|f| drop(std::fs::remove_file(f))));
    Ok(target)
}

/// The same path with a longer last name.
fn beside(path: &OsPath, end: &str) -> Option<OsPath> {
    let mut path = path.clone();
    let last = path.components.pop()?;
    let name = [last.as_bytes(), end.as_bytes()].concat();
    path.components.push(name.into());
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn query(text: &str) -> (String, Vec<String>) {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let log = lines.clone();
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .log(move |_: Level, text: &str| log.lock().unwrap().push(text.to_owned()))
            .extension(env)
            .build();
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let lines = lines.lock().unwrap().clone();
        (rows, lines)
    }

    #[tokio::test]
    async fn statements_make_change_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.sqlite");
        let file = file.to_str().unwrap();
        let text = format!(
            "LET Make <= SELECT * FROM chain( \
               a={{ SELECT * FROM sqlite(file='{file}', query='CREATE TABLE t (a TEXT, b INT, c REAL, d BLOB)') }}, \
               b={{ SELECT * FROM foreach(row={{ SELECT _value FROM range(start=0, end=3) }}, query={{ \
                 SELECT * FROM sqlite(file='{file}', query='INSERT INTO t VALUES (?, ?, ?, ?)', \
                    args=('x', _value, 1.5, NULL)) }}) }}) \
             SELECT * FROM sqlite(file='{file}', query='SELECT a, b AS B, c, d FROM t WHERE b > ?', args=0)"
        );
        let expected = r#"[{"a":"x","B":1,"c":1.5,"d":null},{"a":"x","B":2,"c":1.5,"d":null}]"#;
        assert_eq!(query(&text).await.0, expected);
        // Through another accessor it is read from a copy.
        let copy = format!(
            "LET Data <= read_file(filename='{file}') \
             SELECT * FROM sqlite(file='Data', accessor='scope', query='SELECT count(*) AS N FROM t')"
        );
        assert_eq!(query(&copy).await.0, r#"[{"N":3}]"#);
    }

    #[tokio::test]
    async fn the_last_of_several_statements_gives_rows() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.sqlite");
        let file = file.to_str().unwrap();
        let run = async |sql: &str, args: &str| {
            query(&format!("SELECT * FROM sqlite(file='{file}', query={sql:?}, args={args})")).await
        };
        let made = "CREATE TABLE t (a); INSERT INTO t VALUES (?), (';'); SELECT a FROM t -- ; end";
        assert_eq!(run(made, "'x'").await.0, r#"[{"a":"x"},{"a":";"}]"#);
        let both = "SELECT ? AS A; SELECT ? AS B;";
        assert_eq!(run(both, "('x', 'y')").await.0, r#"[{"B":"y"}]"#);
        let (rows, log) = run(both, "'x'").await;
        assert_eq!(rows, "[]");
        assert!(log.iter().any(|l| l.contains("values are missing")), "{log:?}");
        // Values too many are not looked at.
        assert_eq!(run("SELECT 1 AS A", "('x', 'y')").await.0, r#"[{"A":1}]"#);
        assert_eq!(run("-- nothing", "NULL").await.0, "[]");
        let (rows, log) = run("SELECT ? AS A", "dict(a=1)").await;
        assert!(rows == "[]" && log.iter().any(|l| l.contains("no value")), "{rows} {log:?}");
    }

    #[tokio::test]
    async fn columns_say_what_their_numbers_are() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.sqlite");
        let file = file.to_str().unwrap();
        let text = format!(
            "SELECT * FROM sqlite(file='{file}', args=timestamp(epoch=1.5), query=''' \
               CREATE TABLE t (a DATETIME, b boolean, c Date, d INT, e TIMESTAMP); \
               INSERT INTO t VALUES (1577934245, 1, '2020-01-02', 1577934245, 1577934245123), \
                 ('2020-01-02 03:04:05+02:00', 0, 'x', NULL, 1.5), (?, NULL, NULL, 2, 3.5); \
               SELECT a, b, c, d, e, max(a, 5) AS f FROM t''')"
        );
        let expected = concat!(
            r#"[{"a":"2020-01-02T03:04:05Z","b":true,"c":"2020-01-02T00:00:00Z","d":1577934245,"#,
            r#""e":"2020-01-02T03:04:05.123Z","f":1577934245},"#,
            r#"{"a":"2020-01-02T01:04:05Z","b":false,"c":"x","d":null,"e":1.5,"f":"2020-01-02 03:04:05+02:00"},"#,
            r#"{"a":"1970-01-01T00:00:01.5Z","b":null,"c":null,"d":2,"e":3.5,"f":"1970-01-01 00:00:01.5+00:00"}]"#
        );
        assert_eq!(query(&text).await.0, expected);
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let (rows, log) = query("SELECT * FROM sqlite(file='/etc/passwd', query='SELECT 1')").await;
        assert_eq!(rows, "[]");
        assert!(log.iter().any(|l| l.contains("is no SQLite database")), "{log:?}");
        let (_, log) = query("SELECT * FROM sqlite(file='/not/there', query='SELECT 1')").await;
        assert!(log.iter().any(|l| l.contains("/not/there")), "{log:?}");
        assert!(!Path::new("/not/there").exists());
    }

    #[tokio::test]
    async fn a_statement_without_end_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.sqlite");
        let file = file.to_str().unwrap();
        Connection::open(file).unwrap().execute("CREATE TABLE t (a)", []).unwrap();
        let text = format!(
            "SELECT * FROM sqlite(file='{file}', query='WITH RECURSIVE n(i) AS \
             (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n') LIMIT 2"
        );
        assert_eq!(query(&text).await.0, r#"[{"i":1},{"i":2}]"#);
        // One that never gives a row.
        let text = format!(
            "SELECT * FROM query(timeout=1, inherit=TRUE, query={{ SELECT * FROM sqlite(file='{file}', \
             query='WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
             SELECT max(i) FROM n') }})"
        );
        let done = tokio::time::timeout(std::time::Duration::from_secs(60), query(&text)).await;
        assert_eq!(done.unwrap().0, "[]");
    }
}
