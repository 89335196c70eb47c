//! `parse_evtx` and `watch_evtx`: event logs of Windows. A file is a head and chunks of
//! 64 KiB, each of which can be read by itself.

mod binxml;
mod messages;
mod values;

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, ReadSeek, accessor, path_of};
use super::blocking;
use super::fields::Fields;
use super::path::OsPath;
use binxml::Chunk;
use messages::Messages;

/// Bytes of a chunk, and of its head.
const CHUNK: usize = 64 << 10;
const CHUNK_HEAD: usize = 512;
/// Bytes of the head of a record.
const RECORD_HEAD: usize = 24;
/// Seconds between two looks at a file that is watched.
const PERIOD: u64 = 15;

/// Adds the plugins of this module.
pub fn register(registry: &mut Registry) {
    let signature = |name, doc| {
        Signature::new(name, doc)
            .required("filename", ArgType::Paths, "The event logs.")
            .arg("accessor", ArgType::String, "An accessor to use.")
            .arg("messagedb", ArgType::String, "A database of messages (SQLite).")
            .arg("workers", ArgType::Int, "Accepted; chunks are read in their order.")
            .version(2)
    };
    let parse = signature("parse_evtx", "Events of Windows' event logs.");
    registry.plugin_async(parse, |scope, args, emitter| async move {
        let accessor = accessor(&scope, &args.string("accessor")?)?;
        let mut messages = Messages::open(&scope, &args).await?;
        for file in args.list("filename") {
            let path = path_of(&scope, &*accessor, &file);
            read(&scope, &emitter, &accessor, &path, &mut messages, 0).await?;
        }
        Ok(())
    });
    let watch = signature("watch_evtx", "New events of Windows' event logs.");
    registry.plugin_async(watch, |scope, args, emitter| async move {
        watch_logs(&scope, &args, &emitter).await
    });
}

/// A file that is being read.
struct Log {
    file: Box<dyn ReadSeek>,
    /// Where the next chunk begins.
    next: u64,
}

/// An event: its number, and its row if it can be read.
type Event = (u64, Option<Dict>);

impl Log {
    fn open(accessor: &dyn Accessor, path: &OsPath) -> io::Result<Log> {
        let mut file = accessor.open(path)?;
        let mut head = Vec::new();
        (&mut file).take(128).read_to_end(&mut head)?;
        let bad = |text| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        if !head.starts_with(b"ElfFile\0") || head.len() < 128 {
            return bad("this is no event log of Windows");
        }
        match (head.u16(38), head.u16(36)) {
            (Some(3), Some(0..=2)) => {}
            _ => return bad("the event log is of an unknown version"),
        }
        Ok(Log { file, next: head.u16(40).unwrap_or(0).into() })
    }

    /// The next chunk with anything in it; `None` at the end.
    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.file.seek(SeekFrom::Start(self.next))?;
            let mut data = Vec::with_capacity(CHUNK);
            (&mut self.file).take(CHUNK as u64).read_to_end(&mut data)?;
            if data.len() < CHUNK_HEAD {
                return Ok(None);
            }
            self.next += CHUNK as u64;
            let used = data.u64(32) != Some(u64::MAX);
            if data.starts_with(b"ElfChnk\0") && used && data.len() == CHUNK {
                return Ok(Some(data));
            }
        }
    }

    /// The events of the next chunk that come after number `known`; `None` at the end.
    fn events(&mut self, known: u64) -> io::Result<Option<Vec<Event>>> {
        let Some(data) = self.chunk()? else { return Ok(None) };
        // Zero stands for all of them.
        if known > 0 && data.u64(32).is_some_and(|last| last <= known) {
            return Ok(Some(Vec::new()));
        }
        Ok(Some(events(&data, known)))
    }
}

/// The events of a chunk.
fn events(data: &[u8], known: u64) -> Vec<Event> {
    let mut out = Vec::new();
    let (first, last) = (data.u64(8).unwrap_or(0), data.u64(16).unwrap_or(0));
    let most = last.saturating_sub(first).saturating_add(1);
    let (mut at, mut chunk) = (CHUNK_HEAD, Chunk::new(data));
    while (out.len() as u64) < most && data.get(at..at + 4) == Some(b"**\0\0") {
        let (Some(size), Some(number)) = (data.u32(at + 4), data.u64(at + 8)) else { break };
        // All are read, since templates are in the first that needs them; what cannot be
        // read does not hide the others.
        if number > known || known == 0 {
            let tree = chunk.record(at + RECORD_HEAD).unwrap_or_default();
            let event = tree.as_dict().and_then(|t| t.get("Event")).and_then(Value::as_dict);
            out.push((number, event.cloned()));
        }
        if (size as usize) < RECORD_HEAD {
            break;
        }
        at = at.saturating_add(size as usize);
        if at >= data.len() {
            break;
        }
    }
    out
}

/// Emits the events after number `known`; gives the largest number of all.
async fn read(
    scope: &Scope,
    emitter: &Emitter,
    accessor: &Arc<dyn Accessor>,
    path: &OsPath,
    messages: &mut Messages,
    known: u64,
) -> Result<u64, Error> {
    let fault = |e: io::Error| scope.log(Level::Default, format!("{}: {e}", path.to_text()));
    let (a, p) = (accessor.clone(), path.clone());
    let mut log = match blocking(scope, move || Log::open(&*a, &p)).await? {
        Ok(log) => log,
        Err(e) => {
            fault(e);
            return Ok(known);
        }
    };
    let mut last = known;
    loop {
        let events;
        (events, log) = blocking(scope, move || (log.events(known), log)).await?;
        let events = match events {
            Ok(Some(events)) => events,
            Ok(None) => return Ok(last),
            Err(e) => {
                fault(e);
                return Ok(last);
            }
        };
        let mut unread = 0;
        for (number, event) in events {
            scope.charge_op().await;
            last = last.max(number);
            match event {
                Some(event) => {
                    let message = messages.of(&event);
                    emitter.send(event.with("Message", message)).await?;
                }
                None => unread += 1,
            }
        }
        if unread > 0 {
            let text = format!("{}: {unread} records of a chunk are damaged", path.to_text());
            scope.log(Level::Debug, text);
        }
    }
}

/// The largest number of a file's events.
fn newest(accessor: &dyn Accessor, path: &OsPath) -> io::Result<u64> {
    let mut log = Log::open(accessor, path)?;
    let mut last = 0;
    while let Some(data) = log.chunk()? {
        last = last.max(data.u64(32).unwrap_or(0));
    }
    Ok(last)
}

async fn watch_logs(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let accessor = accessor(scope, &args.string("accessor")?)?;
    let mut messages = Messages::open(scope, args).await?;
    let period = scope.resolve("EVTX_FREQUENCY").and_then(|v| v.as_int());
    let period = period.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(PERIOD);
    // Nothing that is there at the start is new.
    let mut files = Vec::new();
    for file in args.list("filename") {
        let path = path_of(scope, &*accessor, &file);
        let (a, p) = (accessor.clone(), path.clone());
        let last = blocking(scope, move || newest(&*a, &p)).await?;
        if let Err(e) = &last {
            scope.log(Level::Default, format!("{}: {e}", path.to_text()));
        }
        files.push((path, last.unwrap_or(0), (0, 0)));
    }
    loop {
        tokio::time::sleep(Duration::from_secs(period)).await;
        for (path, last, seen) in &mut files {
            let (a, p) = (accessor.clone(), path.clone());
            let Ok(info) = blocking(scope, move || a.stat(&p)).await? else { continue };
            // A log is written in place: its size does not tell.
            let stamp = (info.times[0], info.size);
            if stamp == *seen && stamp.0 != 0 {
                continue;
            }
            *seen = stamp;
            *last = read(scope, emitter, &accessor, path, &mut messages, *last).await?;
        }
    }
}

#[cfg(test)]
mod tests;
