//! `execve` and `getpid`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // runs real programs

use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt};
use vql::{ArgType, Args, Dict, Emitter, Error, Registry, Scope, Signature, Value};

/// Bytes of output in a row when no separator is given.
const LENGTH: usize = 10_240;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let execve = Signature::new("execve", "Run a program; rows hold its output.")
        .required("argv", ArgType::Strings, "Program and arguments.")
        .arg("sep", ArgType::String, "Ends a row of output.")
        .arg("length", ArgType::Int, "Bytes of output in a row.")
        .arg("env", ArgType::Dict, "Environment, instead of this process's.")
        .arg("cwd", ArgType::String, "Working directory.");
    registry.plugin_async(execve, |scope, args, emitter| async move {
        run(&scope, &args, &emitter).await
    });
    registry.function_sync(Signature::new("getpid", "The own process id."), |_scope, _args| {
        Ok(Value::from(std::process::id()))
    });
}

/// The program and the command that `argv`, `env` and `cwd` describe. It ends with whoever
/// holds its process.
pub fn command(args: &Args, stdin: Stdio) -> Result<(String, tokio::process::Command), Error> {
    let argv = args.strings("argv")?;
    let Some((program, rest)) = argv.split_first() else {
        return Err(Error::Arg("Field argv is required".into()));
    };
    let mut command = tokio::process::Command::new(program);
    command
        .args(rest)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let env = args.dict("env")?;
    if !env.is_empty() {
        command.env_clear();
        for (k, v) in env.iter() {
            command.env(k.as_str(), v.to_text());
        }
    }
    if let Some(dir) = args.opt_string("cwd")? {
        command.current_dir(dir);
    }
    Ok((program.clone(), command))
}

async fn run(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let (program, mut command) = command(args, Stdio::null())?;
    let mut child = match command.spawn() {
        Ok(c) => c,
        Err(e) => {
            scope.log_text(format!("execve: {program}: {e}"));
            return emitter.send(row("", &format!("{e}"), -1, true)).await;
        }
    };
    let split = Split {
        sep: args.bytes("sep")?.as_bytes().to_vec(),
        length: usize::try_from(args.int("length")?).ok().filter(|n| *n > 0).unwrap_or(LENGTH),
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (out, err) =
        tokio::join!(pump(out, &split, emitter, true), pump(err, &split, emitter, false));
    let (out, err) = (out?, err?);
    let status = child.wait().await.map_err(Error::failed)?;
    let code = status.code().map_or(-1, i64::from);
    emitter.send(row(&vql::lossy(&out), &vql::lossy(&err), code, true)).await?;
    Ok(())
}

fn row(out: &str, err: &str, code: i64, complete: bool) -> Dict {
    Dict::new()
        .with("Stdin", "")
        .with("Stdout", out)
        .with("Stderr", err)
        .with("ReturnCode", code)
        .with("Complete", complete)
}

struct Split {
    sep: Vec<u8>,
    length: usize,
}

impl Split {
    /// Takes a full row off the front.
    fn take(&self, data: &mut Vec<u8>) -> Option<Vec<u8>> {
        if self.sep.is_empty() {
            return (data.len() >= self.length).then(|| data.drain(..self.length).collect());
        }
        let at = data.windows(self.sep.len()).position(|w| w == self.sep)?;
        let mut out: Vec<u8> = data.drain(..at + self.sep.len()).collect();
        out.truncate(at);
        Some(out)
    }
}

/// Sends full rows as they come; gives what is left at the end.
async fn pump(
    from: Option<impl AsyncRead + Unpin>,
    split: &Split,
    emitter: &Emitter,
    stdout: bool,
) -> Result<Vec<u8>, Error> {
    let Some(mut from) = from else { return Ok(Vec::new()) };
    let mut data = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(data);
        }
        data.extend_from_slice(&buffer[..n]);
        while let Some(full) = split.take(&mut data) {
            let text = vql::lossy(&full);
            let (out, err) = if stdout { (&*text, "") } else { ("", &*text) };
            emitter.send(row(out, err, 0, false)).await?;
        }
    }
}
