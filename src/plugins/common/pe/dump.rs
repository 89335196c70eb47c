//! `pe_dump`: a program in the memory of a process, laid out as a file again.

use std::io::{self, Read, SeekFrom};

use vql::{ArgType, Args, Error, Registry, Scope, Signature, Value};

use super::image::Image;
use crate::plugins::common::accessor::{ReadSeek, accessor};
use crate::plugins::common::blocking;
use crate::plugins::common::temp::TempFile;

/// Bytes of the heads, and most of one section, as others take them.
const HEADS: usize = 0x2000;
const SECTION: usize = 100 << 10;
/// Largest file that is made.
const LIMIT: usize = 256 << 20;

/// Adds `pe_dump`.
pub fn register(registry: &mut Registry) {
    let dump = Signature::new("pe_dump", "Makes a file of a program in a process's memory.")
        .required("pid", ArgType::Int, "The process.")
        .required("base_offset", ArgType::Int, "Where in its memory the program begins.")
        .arg("in_memory", ArgType::Int, "Give the content, so many bytes at most, not a file.");
    registry.function_async(dump, |scope, args| async move { run(&scope, &args).await });
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let process = accessor(scope, "process")?;
    let path = process.parse(scope, &format!("/{}", args.int("pid")?).into());
    let base = u64::try_from(args.int("base_offset")?).unwrap_or(0);
    let read = move || dumped(&mut *process.open(&path)?, base);
    let Some(mut data) = blocking(scope, read).await?.map_err(Error::failed)? else {
        return Ok(Value::Null);
    };
    match usize::try_from(args.int("in_memory")?) {
        Ok(most @ 1..) => {
            data.truncate(most);
            Ok(Value::Bytes(data.into()))
        }
        _ => {
            let file = TempFile::create(scope, ".exe").await?;
            Ok(file.append(scope, data.into()).await?.path().into())
        }
    }
}

/// What of `memory` is there from `at` on, up to `length` bytes.
fn some(memory: &mut dyn ReadSeek, at: u64, length: usize) -> io::Result<Vec<u8>> {
    memory.seek(SeekFrom::Start(at))?;
    let mut out = Vec::new();
    // A hole ends it.
    match memory.take(length as u64).read_to_end(&mut out) {
        Err(e) if out.is_empty() => Err(e),
        _ => Ok(out),
    }
}

/// The file; `None` when there is no program.
fn dumped(memory: &mut dyn ReadSeek, base: u64) -> io::Result<Option<Vec<u8>>> {
    let mut out = some(memory, base, HEADS)?;
    let sections: Vec<(u32, u32, u32)> = match Image::new(&out, true) {
        Some(image) => image.sections.iter().map(|s| (s.address, s.stored, s.size)).collect(),
        None => return Ok(None),
    };
    for (address, stored, size) in sections {
        let size = (size as usize).min(SECTION);
        let (from, end) = (stored as usize, (stored as usize).saturating_add(size));
        if size == 0 || end > LIMIT {
            continue;
        }
        let content = some(memory, base.saturating_add(address.into()), size)?;
        out.resize(out.len().max(end), 0);
        out[from..from + content.len()].copy_from_slice(&content);
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::super::image::example;
    use super::*;

    #[test]
    fn sections_go_where_the_file_has_them() {
        let file = example();
        // In memory the one section, of the file's bytes from 512 on, is at 4096.
        let mut memory = vec![0; 0x10_000];
        memory.extend(&file[..512]);
        memory.resize(0x11_000, 0);
        memory.extend(&file[512..]);
        let found = dumped(&mut io::Cursor::new(memory.clone()), 0x10_000).unwrap().unwrap();
        assert_eq!(&found[..file.len()], &file[..]);
        assert_eq!(dumped(&mut io::Cursor::new(memory), 0).unwrap(), None);
    }
}
