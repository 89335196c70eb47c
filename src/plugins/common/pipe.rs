//! `pipe`: what a query gives, read as a file. The function makes the pipe; the accessor of the
//! same name reads the pipe that a variable holds.
//!
//! Whoever reads holds a place of the CPU pool while the query makes the next row, so a query
//! behind a pipe should not itself wait for much work there.

use std::any::Any;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use tokio::runtime::Handle;
use vql::{ArgType, Object, Registry, RowStream, Scope, Signature, Str, Value};

use super::accessor::{Accessor, FileInfo, ReadSeek, UNKNOWN};
use super::path::OsPath;

/// Adds `pipe`.
pub fn register(registry: &mut Registry) {
    let pipe = Signature::new("pipe", "Lets the accessor pipe read the first column of a query.")
        .refused(false)
        .required("query", ArgType::Query, "The rows.")
        .arg("name", ArgType::String, "Accepted: the variable that holds the pipe names it.")
        .arg("sep", ArgType::String, "What follows each row.");
    registry.function_sync(pipe, |_, args| {
        let separator = args.bytes("sep")?.as_bytes().to_vec();
        let flow = Flow { rows: Some(args.rows("query")), rest: Vec::new(), separator };
        Ok(Value::object(Pipe(Arc::new(Mutex::new(flow)))))
    });
}

/// See the module.
struct Pipe(Arc<Mutex<Flow>>);

struct Flow {
    /// What is still to come.
    rows: Option<RowStream>,
    /// What was not read of the last row.
    rest: Vec<u8>,
    separator: Vec<u8>,
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipe")
    }
}

impl Object for Pipe {
    fn type_name(&self) -> &'static str {
        "*pipe.Pipe"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The accessor; its paths are names of variables of a query.
pub struct Pipes {
    scope: Scope,
    runtime: Option<Handle>,
}

impl Pipes {
    /// Those of one query.
    pub fn of(scope: &Scope) -> Pipes {
        Pipes { scope: scope.clone(), runtime: Handle::try_current().ok() }
    }
}

impl Accessor for Pipes {
    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        OsPath::linux(text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such pipe");
        let [name] = path.components.as_slice() else { return Err(missing()) };
        let runtime = self.runtime.clone().ok_or_else(missing)?;
        let value = {
            let _inside = runtime.enter();
            futures::executor::block_on(vql::variable(&name.to_text(), &self.scope).into_future())
        };
        let value = value.unwrap_or_default();
        let flow = value.downcast::<Pipe>().map(|p| p.0.clone()).ok_or_else(missing)?;
        let cancel = self.scope.cancellation().clone();
        Ok(Box::new(Reader { flow, runtime, cancel, at: 0 }))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let plain = FileInfo::plain(path.clone(), 0);
        Ok(FileInfo { times: [UNKNOWN; 4], mode: 0o100_644, ..plain })
    }
}

struct Reader {
    flow: Arc<Mutex<Flow>>,
    runtime: Handle,
    cancel: tokio_util::sync::CancellationToken,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut flow = self.flow.lock().unwrap_or_else(PoisonError::into_inner);
        while flow.rest.is_empty() {
            let Some(rows) = &mut flow.rows else { return Ok(0) };
            let _inside = self.runtime.enter();
            let next = self.cancel.run_until_cancelled(rows.next());
            match futures::executor::block_on(next).flatten() {
                None => flow.rows = None,
                Some(row) => {
                    let text = first_column(row);
                    // Nothing is not even followed by the separator.
                    if !text.as_bytes().is_empty() {
                        flow.rest = [text.as_bytes(), &flow.separator].concat();
                    }
                }
            }
        }
        let n = flow.rest.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(flow.rest.drain(..n)) {
            *to = from;
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// NULL is a word in a pipe.
fn text(value: &Value) -> Str {
    if value.is_null() { Str::from("Null") } else { value.to_str() }
}

fn first_column(row: Value) -> Str {
    match row {
        Value::Dict(row) => row.values().next().map(text).unwrap_or_else(|| Str::from("{}")),
        other => other.to_str(),
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            // Whoever asks for a place gets what comes next: reading at an offset reads all.
            SeekFrom::Start(_) | SeekFrom::Current(_) => Ok(self.at),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "a pipe has no places")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_are_a_file() {
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let text = "LET P = pipe(query={ SELECT _value FROM range(end=3) }, sep='|') \
            LET Nulls <= pipe(query={ SELECT NULL AS A FROM scope() }, sep=';') \
            LET Once <= pipe(query={ SELECT '' AS A, 'x' AS B FROM range(end=2) }) \
            LET Lines = pipe(query={ SELECT format(format='l %v', args=_value) AS L \
              FROM range(end=2) WHERE sleep(ms=1) }, sep='\n') \
            SELECT read_file(accessor='pipe', filename='P') AS A, \
              read_file(accessor='pipe', filename='P') AS B, \
              read_file(accessor='pipe', filename='P', offset=1) AS O, \
              read_file(accessor='pipe', filename='Nulls') AS N, \
              read_file(accessor='pipe', filename='Once') AS C, \
              read_file(accessor='pipe', filename='Nothing') AS D, P, \
              { SELECT Line FROM parse_lines(accessor='pipe', filename='Lines') } AS L, \
              { SELECT Data FROM read_file(accessor='pipe', filenames='P', chunk=4) } AS M \
            FROM scope()";
        let expected = "[{\"A\":\"0|1|2|\",\"B\":\"0|1|2|\",\"O\":\"0|1|2|\",\"N\":\"Null;\",\"C\":\"\",\"D\":\"\",\"P\":{},\
            \"L\":[\"l 0\",\"l 1\"],\"M\":[\"0|1|\",\"2|\"]}]";
        assert_eq!(query(text).await, expected);
    }
}
