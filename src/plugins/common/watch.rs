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
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Scope, Signature, Value};

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
        watch_lines(&scope, &args, &emitter).await
    });
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

async fn watch_lines(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let longest = usize::try_from(args.int("buffer_size")?).ok().filter(|n| *n > 0);
    let longest = longest.unwrap_or(BUFFER);
    let mut files: BTreeMap<String, Followed> = BTreeMap::new();
    let given = args.list("filename").into_iter().map(|f| path_of(scope, &*accessor, &f)).collect();
    add(scope, &accessor, &mut files, given, false).await?;
    let mut looks = 0;
    loop {
        if args.has("query") && looks % QUERY_EVERY == 0 {
            let found = asked(scope, args, &accessor).await;
            add(scope, &accessor, &mut files, found, looks > 0).await?;
        }
        looks += 1;
        for followed in files.values_mut() {
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
                for line in lines {
                    scope.charge_op().await;
                    let path = Value::object(followed.path.clone());
                    emitter.send(Dict::new().with("OSPath", path).with("Line", line)).await?;
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
}
