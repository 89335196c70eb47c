//! `watch_syslog`: new lines of text files, as they are written.
//!
//! Files that are there at the start are watched from their end; what appears
//! later is read from its beginning, and a file that is replaced or cut is read
//! from its beginning again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use vql::{
    ArgType, Args, CsvHeader, CsvOptions, CsvRows, Dict, Emitter, Error, Registry, Scope,
    Signature, Value,
};

use super::accessor::{Accessor, accessor, path_of};
use super::blocking;
use super::path::OsPath;

/// Time between two looks at the files.
const PERIOD: Duration = Duration::from_secs(3);
/// Looks between two runs of the query for further files.
const QUERY_EVERY: u32 = 10;
/// Longest line in bytes; longer ones are cut into several.
const BUFFER: usize = 64 << 10;
/// Bytes read of one file in one go.
const PIECE: u64 = 1 << 20;

/// Adds `watch_syslog`.
pub fn register(registry: &mut Registry) {
    let watch = Signature::new("watch_syslog", "New lines of text files.")
        .arg("filename", ArgType::Paths, "The files; they need not be there yet.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("buffer_size", ArgType::Int, "Longest line in bytes.")
        .arg("query", ArgType::Lazy, "Run now and then; files are in its column OSPath.")
        .version(2);
    registry.plugin_async(watch, |scope, args, emitter| async move {
        watch_lines(&scope, &args, &emitter, As::Lines).await
    });

    let watch = Signature::new("watch_jsonl", "New rows of files with one JSON object a line.")
        .required("filename", ArgType::Paths, "The files; they need not be there yet.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("buffer_size", ArgType::Int, "Longest line in bytes.");
    registry.plugin_async(watch, |scope, args, emitter| async move {
        watch_lines(&scope, &args, &emitter, As::Json).await
    });

    let watch = Signature::new("watch_csv", "New records of files of separated values.")
        .required("filename", ArgType::Paths, "The files; they need not be there yet.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("auto_headers", ArgType::Bool, "The first line has no names.")
        .arg("separator", ArgType::String, "What separates values (comma).")
        .arg("comment", ArgType::String, "Lines beginning with this are left out.")
        .arg("columns", ArgType::Strings, "Names of the columns.");
    registry.plugin_async(watch, |scope, args, emitter| async move {
        let options = super::csv::options(&args)?;
        watch_lines(&scope, &args, &emitter, As::Csv(options)).await
    });
}

/// What lines are taken for.
enum As {
    Lines,
    Json,
    /// Names are in the first line of each file, unless they are given.
    Csv(CsvOptions),
}

impl As {
    /// The rows of new lines. `names` holds what is known of the columns of a file.
    fn rows(
        &self,
        path: &OsPath,
        lines: Vec<Vec<u8>>,
        names: &mut Option<Vec<String>>,
    ) -> Vec<Value> {
        match self {
            As::Lines => {
                let row = |line: Vec<u8>| {
                    let path = Value::object(path.clone());
                    Dict::new().with("OSPath", path).with("Line", line).into()
                };
                lines.into_iter().map(row).collect()
            }
            As::Json => {
                let objects = lines.iter().filter_map(|line| serde_json::from_slice(line).ok());
                let objects = objects.filter(serde_json::Value::is_object);
                objects.map(Value::from_json).collect()
            }
            As::Csv(options) => {
                let mut options = options.clone();
                if let Some(names) = names {
                    options.header = CsvHeader::Given(names.clone());
                }
                let mut text = lines.join(&b'\n');
                text.push(b'\n');
                let rows = CsvRows::new(&text, &options);
                if let Some(header) = rows.header() {
                    *names = Some(header.iter().map(|k| k.to_string()).collect());
                }
                rows.map(Value::from).collect()
            }
        }
    }

    /// The names in the first line of a file whose end only is looked at.
    fn head(&self, a: &dyn Accessor, path: &OsPath) -> Option<Vec<String>> {
        let As::Csv(options) = self else { return None };
        if !matches!(options.header, CsvHeader::FirstLine) {
            return None;
        }
        let mut data = Vec::new();
        a.open(path).ok()?.take(BUFFER as u64).read_to_end(&mut data).ok()?;
        let rows = CsvRows::new(&data, options);
        rows.header().map(|h| h.iter().map(|k| k.to_string()).collect())
    }
}

/// How far a file was read.
#[derive(Clone, Debug)]
struct Followed {
    path: OsPath,
    place: Place,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

/// Where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It was not there so far: all of it is new.
    Absent,
    /// Everything of this file before the offset is known.
    At { identity: (u64, u64), offset: u64 },
}

impl Followed {
    /// A file to follow; `all` when what it already holds is wanted too.
    fn new(a: &dyn Accessor, path: OsPath, all: bool) -> Followed {
        let place = match a.stat(&path) {
            Ok(info) if !all => Place::At { identity: info.identity, offset: info.size },
            _ => Place::Absent,
        };
        Followed { path, place, rest: Vec::new() }
    }

    /// Lines written since the last look, and whether there may be more.
    fn look(&mut self, a: &dyn Accessor, longest: usize) -> io::Result<(Vec<Vec<u8>>, bool)> {
        let info = match a.stat(&self.path) {
            Ok(info) => info,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.place = Place::Absent;
                self.rest.clear();
                return Ok((Vec::new(), false));
            }
            Err(e) => return Err(e),
        };
        let mut from = match self.place {
            Place::At { identity, offset } if identity == info.identity => offset,
            _ => 0,
        };
        if from > info.size {
            from = 0;
        }
        if from == 0 {
            self.rest.clear();
        }
        self.place = Place::At { identity: info.identity, offset: from };
        if from == info.size {
            return Ok((Vec::new(), false));
        }
        let mut file = a.open(&self.path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut data = std::mem::take(&mut self.rest);
        let read = file.take(PIECE).read_to_end(&mut data)? as u64;
        self.place = Place::At { identity: info.identity, offset: from + read };
        Ok((self.lines(data, longest), read == PIECE))
    }

    fn lines(&mut self, data: Vec<u8>, longest: usize) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut rest = &data[..];
        loop {
            let end = rest.iter().position(|b| *b == b'\n');
            let line = match end {
                Some(end) if end <= longest => &rest[..end],
                _ if rest.len() >= longest => &rest[..longest],
                _ => break,
            };
            let taken = line.len() + usize::from(end == Some(line.len()));
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                lines.push(line.to_vec());
            }
            rest = &rest[taken..];
        }
        self.rest = rest.to_vec();
        lines
    }
}

async fn watch_lines(scope: &Scope, args: &Args, emitter: &Emitter, kind: As) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let longest = usize::try_from(args.int("buffer_size")?).ok().filter(|n| *n > 0);
    let longest = longest.unwrap_or(BUFFER);
    let mut files: BTreeMap<String, Followed> = BTreeMap::new();
    let given = args.list("filename").into_iter().map(|f| path_of(scope, &*accessor, &f)).collect();
    let kind = Arc::new(kind);
    add(scope, &accessor, &mut files, given, false).await?;
    let mut names: BTreeMap<String, Option<Vec<String>>> = BTreeMap::new();
    for (key, followed) in &files {
        // Of what appears later the first line is among what is read.
        if matches!(followed.place, Place::At { .. }) {
            let (kind, a, path) = (kind.clone(), accessor.clone(), followed.path.clone());
            names.insert(key.clone(), blocking(scope, move || kind.head(&*a, &path)).await?);
        }
    }
    let mut looks = 0;
    loop {
        if args.has("query") && looks % QUERY_EVERY == 0 {
            let found = asked(scope, args, &accessor).await;
            add(scope, &accessor, &mut files, found, looks > 0).await?;
        }
        looks += 1;
        for (key, followed) in &mut files {
            loop {
                let (a, mut f) = (accessor.clone(), followed.clone());
                let look = move || (f.look(&*a, longest), f);
                let (found, after) = blocking(scope, look).await?;
                *followed = after;
                let (lines, more) = match found {
                    Ok(found) => found,
                    Err(e) => {
                        let shown = followed.path.to_text();
                        scope.log_text(format!("DEBUG:watch_syslog: {shown}: {e}"));
                        break;
                    }
                };
                if lines.is_empty() && !more {
                    break;
                }
                let known = names.entry(key.clone()).or_default();
                for row in kind.rows(&followed.path, lines, known) {
                    scope.charge_op().await;
                    emitter.send(row).await?;
                }
                if !more {
                    break;
                }
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn asked(scope: &Scope, args: &Args, accessor: &Arc<dyn Accessor>) -> Vec<OsPath> {
    let mut rows = args.lazy("query").rows_in(scope);
    let mut found = Vec::new();
    while let Some(row) = rows.next().await {
        let path = vql::member(&row, "OSPath").unwrap_or_default();
        if !path.is_null() {
            found.push(path_of(scope, &**accessor, &path));
        }
    }
    found
}

async fn add(
    scope: &Scope,
    accessor: &Arc<dyn Accessor>,
    files: &mut BTreeMap<String, Followed>,
    paths: Vec<OsPath>,
    all: bool,
) -> Result<(), Error> {
    for path in paths {
        let key = path.to_text();
        if let Entry::Vacant(new) = files.entry(key) {
            let a = accessor.clone();
            new.insert(blocking(scope, move || Followed::new(&*a, path, all)).await?);
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types)]
mod tests {
    use super::*;
    use crate::plugins::common::{Accessors, Host};
    use std::io::Write;

    fn append(path: &std::path::Path, text: &str) {
        let mut f = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        f.write_all(text.as_bytes()).unwrap();
    }

    fn look(f: &mut Followed, a: &dyn Accessor) -> Vec<String> {
        let (lines, _) = f.look(a, 8).unwrap();
        lines.iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect()
    }

    #[test]
    fn only_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&path, "old\n");
        let a = Accessors::endpoint(&Host::default()).get("file").unwrap();
        let os = OsPath::linux(path.to_str().unwrap().as_bytes());
        let mut f = Followed::new(&*a, os.clone(), false);
        assert!(look(&mut f, &*a).is_empty());
        append(&path, "one\nt");
        assert_eq!(look(&mut f, &*a), ["one"]);
        append(&path, "wo\r\n\n0123456789\n");
        assert_eq!(look(&mut f, &*a), ["two", "01234567", "89"]);
        // Cut, gone, and there again.
        std::fs::write(&path, "n\n").unwrap();
        assert_eq!(look(&mut f, &*a), ["n"]);
        std::fs::remove_file(&path).unwrap();
        assert!(look(&mut f, &*a).is_empty());
        append(&path, "again\n");
        assert_eq!(look(&mut f, &*a), ["again"]);
        let mut all = Followed::new(&*a, os, true);
        assert_eq!(look(&mut all, &*a), ["again"]);
    }

    #[test]
    fn lines_are_objects_or_records_with_the_names_of_their_file() {
        let path = OsPath::linux(b"/a");
        let rows = |kind: &As, text: &str, names: &mut Option<Vec<String>>| {
            let lines = text.split('|').map(|l| l.as_bytes().to_vec()).collect();
            Value::from(kind.rows(&path, lines, names)).to_json()
        };
        let mut none = None;
        let json = rows(&As::Json, r#"{"a":1}|no|[1]|{"b":"x"}"#, &mut none);
        assert_eq!(json, r#"[{"a":1},{"b":"x"}]"#);
        let kind = |header| As::Csv(CsvOptions { separator: b',', comment: None, header });
        let first = kind(CsvHeader::FirstLine);
        let mut names = None;
        assert_eq!(rows(&first, "A,B|1,2", &mut names), r#"[{"A":1,"B":2}]"#);
        assert_eq!(rows(&first, "3,4", &mut names), r#"[{"A":3,"B":4}]"#, "names stay");
        let given = kind(CsvHeader::Given(vec!["X".into()]));
        assert_eq!(rows(&given, "5", &mut None), r#"[{"X":5}]"#);
        // Of a file that was there before the names are in what is not shown.
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("c.csv");
        append(&at, "N,M\n1,2\n");
        let a = Accessors::endpoint(&Host::default()).get("file").unwrap();
        let os = OsPath::linux(at.to_str().unwrap().as_bytes());
        assert_eq!(first.head(&*a, &os), Some(vec!["N".to_owned(), "M".to_owned()]));
        assert_eq!(given.head(&*a, &os), None);
    }
}
