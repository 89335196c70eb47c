//! `shell_session` and `shell_session_control`: programs that run on between
//! queries, such as a shell somebody types into.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use vql::{ArgType, Args, Dict, Error, Key, Object, Query, Registry, Scope, Signature, Value};

use crate::plugins::common::process::command;

/// Rows a reader may be behind before it misses some.
const BEHIND: usize = 1024;
/// Bytes of output in a row.
const CHUNK: usize = 8 << 10;
/// Pieces of input that wait to be written.
const INPUT: usize = 64;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let session = Signature::new("shell_session", "Starts a program, or finds one by its name.")
        .required("argv", ArgType::Strings, "Program and arguments.")
        .arg("env", ArgType::Dict, "Environment, instead of this process's.")
        .arg("cwd", ArgType::String, "Working directory.")
        .arg("secret", ArgType::String, "Not offered.")
        .arg("name", ArgType::String, "The name of the session.")
        .version(1);
    registry.function_sync(session, |scope, args| {
        if args.opt_string("secret")?.is_some() {
            return Err(Error::failed("secrets are not offered here"));
        }
        let sessions = scope.shared_value::<Sessions>();
        Ok(Value::object(Handle { session: sessions.get_or_start(args)?, query: true }))
    });
    let control = Signature::new("shell_session_control", "Writes to a session, or ends it.")
        .arg("name", ArgType::String, "The name of the session.")
        .arg("stdin", ArgType::String, "To be written to the program.")
        .arg("close_stdin", ArgType::Bool, "End the program's input.")
        .arg("kill", ArgType::Bool, "Kill the program.")
        .version(1);
    registry.function_async(control, |scope, args| async move { steer(&scope, &args).await });
}

/// Sessions by name; one that ended is not in it.
#[derive(Default)]
struct Sessions(Arc<Mutex<BTreeMap<String, Arc<Session>>>>);

#[derive(Debug)]
struct Session {
    name: String,
    started: vql::Time,
    /// `None` ends the program's input.
    input: mpsc::Sender<Option<Vec<u8>>>,
    rows: broadcast::Sender<Dict>,
    /// What was said before anybody read it is the first reader's.
    unread: Mutex<Option<broadcast::Receiver<Dict>>>,
    stop: CancellationToken,
    /// The program has ended.
    ended: CancellationToken,
    counts: Mutex<Counts>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    stdin: u64,
    stdout: u64,
    stderr: u64,
    last: String,
    /// Somebody reads the rows.
    read: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    fn get_or_start(&self, args: &Args) -> Result<Arc<Session>, Error> {
        let name = args.string("name")?;
        if let Some(found) = lock(&self.0).get(&name) {
            return Ok(found.clone());
        }
        let (program, mut command) = command(args, Stdio::piped())?;
        let child = command.spawn().map_err(|e| Error::failed(format!("{program}: {e}")))?;
        let (input, typed) = mpsc::channel(INPUT);
        let (rows, unread) = broadcast::channel(BEHIND);
        let session = Arc::new(Session {
            name: name.clone(),
            started: args.scope().now(),
            input,
            rows,
            unread: Mutex::new(Some(unread)),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
            counts: Mutex::default(),
        });
        lock(&self.0).insert(name.clone(), session.clone());
        let (all, running) = (self.0.clone(), session.clone());
        tokio::spawn(async move {
            running.serve(child, typed).await;
            lock(&all).remove(&name);
            running.ended.cancel();
        });
        Ok(session)
    }
}

impl Session {
    async fn serve(
        &self,
        mut child: tokio::process::Child,
        mut typed: mpsc::Receiver<Option<Vec<u8>>>,
    ) {
        let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            let Some(mut stdin) = stdin else { return };
            while let Some(Some(data)) = typed.recv().await {
                if stdin.write_all(&data).await.is_err() {
                    return;
                }
                let text = vql::lossy(&data).into_owned();
                {
                    let mut counts = lock(&self.counts);
                    counts.stdin += data.len() as u64;
                    counts.last.clone_from(&text);
                }
                self.say(&text, "", "");
            }
        };
        let output = async {
            tokio::join!(
                self.pump(out, |counts, n| counts.stdout += n, true),
                self.pump(err, |counts, n| counts.stderr += n, false),
            );
            let _ = child.wait().await;
        };
        tokio::pin!(output);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return,
            () = &mut output => return,
            () = write => {}
        }
        // Its input is closed; it says its last words.
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = output => {}
        }
    }

    async fn pump(
        &self,
        from: Option<impl AsyncRead + Unpin>,
        count: impl Fn(&mut Counts, u64),
        stdout: bool,
    ) {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; CHUNK];
        while let Ok(n) = from.read(&mut buffer).await {
            if n == 0 {
                return;
            }
            count(&mut lock(&self.counts), n as u64);
            let text = vql::lossy(&buffer[..n]);
            if stdout { self.say("", &text, "") } else { self.say("", "", &text) }
        }
    }

    fn say(&self, stdin: &str, stdout: &str, stderr: &str) {
        let row = Dict::new()
            .with("Stdin", stdin)
            .with("Stdout", stdout)
            .with("Stderr", stderr)
            .with("ReturnCode", 0)
            .with("Complete", false);
        // Without a reader nobody misses it.
        let _ = self.rows.send(row);
    }

    /// What is said from now on, and what nobody has read before, until the program ends.
    fn query(self: &Arc<Self>) -> Query {
        lock(&self.counts).read = true;
        let unread = lock(&self.unread).take();
        let first = Mutex::new(Some(unread.unwrap_or_else(|| self.rows.subscribe())));
        let session = self.clone();
        Query::host(move |_: &Scope| {
            let taken = lock(&first).take();
            let receiver = taken.unwrap_or_else(|| session.rows.subscribe());
            let state = (receiver, session.ended.clone());
            Box::pin(futures::stream::unfold(state, |(mut receiver, ended)| async move {
                loop {
                    let next = tokio::select! {
                        biased;
                        row = receiver.recv() => row,
                        () = ended.cancelled() => Err(broadcast::error::RecvError::Closed),
                    };
                    match next {
                        Ok(row) => return Some((Value::from(row), (receiver, ended))),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            }))
        })
    }
}

/// A session as a value.
#[derive(Clone, Debug)]
struct Handle {
    session: Arc<Session>,
    query: bool,
}

impl Object for Handle {
    fn type_name(&self) -> &'static str {
        "*shell.ShellSession"
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        [
            "Name",
            "TotalBytesStdin",
            "TotalBytesStdout",
            "TotalBytesStderr",
            "LastCommand",
            "Started",
        ]
        .map(Key::from)
        .to_vec()
    }

    fn member(&self, name: &str) -> Option<Value> {
        let counts = lock(&self.session.counts).clone();
        Some(match name {
            "Name" => self.session.name.as_str().into(),
            "TotalBytesStdin" => counts.stdin.into(),
            "TotalBytesStdout" => counts.stdout.into(),
            "TotalBytesStderr" => counts.stderr.into(),
            "LastCommand" => counts.last.into(),
            "Started" => Value::Time(self.session.started),
            "IsRunning" => counts.read.into(),
            "Query" if self.query => Value::Query(Arc::new(self.session.query())),
            _ => return None,
        })
    }

    fn truth(&self) -> bool {
        true
    }
}

async fn steer(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let name = args.string("name")?;
    let found = lock(&scope.shared_value::<Sessions>().0).get(&name).cloned();
    let session = found.ok_or_else(|| Error::failed(format!("there is no session {name}")))?;
    let gone = |_| Error::failed(format!("the session {name} takes no more input"));
    let stdin = args.bytes("stdin")?;
    if !stdin.as_bytes().is_empty() {
        session.input.send(Some(stdin.as_bytes().to_vec())).await.map_err(gone)?;
    }
    if args.bool("close_stdin")? {
        session.input.send(None).await.map_err(gone)?;
    }
    if args.bool("kill")? {
        session.stop.cancel();
    }
    Ok(Value::object(Handle { session, query: false }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_until_it_ends() {
        let mut registry = Registry::standard();
        register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).build();
        let text = "LET S <= shell_session(name='s', argv='sh') \
            SELECT Stdin, Stdout, Stderr FROM foreach(row=S.Query, \
              query={ SELECT Stdin, Stdout, Stderr FROM scope() })";
        let session = scope.clone();
        let rows = tokio::spawn(async move { vql::run(text, &session).await.unwrap() });
        // The session is there once the first query made it.
        while lock(&scope.shared_value::<Sessions>().0).is_empty()
            || !lock(&scope.shared_value::<Sessions>().0).values().all(|s| lock(&s.counts).read)
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let typed = "SELECT shell_session_control(name='s', stdin='X=5\\n') AS A, \
            shell_session_control(name='s', stdin='echo v$X\\n', close_stdin=TRUE) AS B FROM scope()";
        vql::run(typed, &scope).await.unwrap();
        let rows = Value::from(rows.await.unwrap()).to_json();
        for part in [r#""Stdin":"X=5\n""#, r#""Stdin":"echo v$X\n""#, r#""Stdout":"v5\n""#] {
            assert!(rows.contains(part), "{rows}");
        }
        let text = "SELECT shell_session_control(name='s', kill=TRUE) AS K, \
            shell_session(name='t', argv='/no/such/program') AS N FROM scope()";
        let rows = Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        assert!(rows.ends_with(r#""N":null}]"#), "{rows}");
    }
}
