//! `unzip` takes archives apart into a directory, `cat` reads files as they come.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // writes to the real host

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::file::named;
use super::temp::native;
use super::{blocking, host};
use crate::store::zip::Archive;

/// Largest member taken out, in bytes; it is held in memory.
const LIMIT: u64 = 512 << 20;
/// Bytes in a row of `cat` when not given, and most of them.
const CHUNK: i64 = 4 << 20;
const MAX_CHUNK: i64 = 100 << 20;
/// A block of a tar archive.
const BLOCK: usize = 512;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let unzip = Signature::new("unzip", "Takes an archive apart into a directory.")
        .required("filename", ArgType::Path, "The archive.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("filename_filter", ArgType::String, "Only members whose name matches.")
        .required("output_directory", ArgType::String, "Where to.")
        .arg("type", ArgType::String, "zip or tgz; told by the name when not given.")
        .version(2);
    registry.plugin_async(unzip, |scope, args, emitter| async move {
        take_apart(&scope, &args, &emitter).await
    });

    let cat = Signature::new("cat", "Reads a file of this host in chunks, as they come.")
        .required("filename", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "Only those of files of this host.")
        .arg("chunk", ArgType::Int, "Most bytes in a row.")
        .arg("timeout", ArgType::Int, "Seconds after which reading ends.");
    registry.plugin_async(cat, |scope, args, emitter| async move {
        let limit = args.opt_int("timeout")?.filter(|n| *n > 0);
        let rows = read_on(&scope, &args, &emitter);
        match limit {
            None => rows.await,
            Some(seconds) => {
                let limit = std::time::Duration::from_secs(seconds.unsigned_abs());
                tokio::time::timeout(limit, rows).await.unwrap_or(Ok(()))
            }
        }
    });
}

async fn read_on(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let kind = args.string("accessor")?;
    if !["", "auto", "file"].contains(&kind.as_str()) {
        return Err(Error::failed(format!("the accessor {kind} has no files of this host")));
    }
    let path = super::OsPath::of(&args.any("filename")).native(&host(scope).root);
    let chunk = args.opt_int("chunk")?.filter(|n| *n > 0).unwrap_or(CHUNK).min(MAX_CHUNK);
    let open = move || std::fs::File::open(path);
    let mut file = blocking(scope, open).await?.map_err(Error::failed)?;
    loop {
        scope.charge_op().await;
        let read = move || {
            let mut data = vec![0; chunk as usize];
            let n = file.read(&mut data);
            (n.map(|n| data.truncate(n)).map(|()| data), file)
        };
        let data;
        (data, file) = blocking(scope, read).await?;
        let data = data.map_err(Error::failed)?;
        if data.is_empty() {
            return Ok(());
        }
        emitter.send(Dict::new().with("Data", Value::Bytes(data.into()))).await?;
    }
}

async fn take_apart(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let (accessor, path) = named(scope, args, "filename")?;
    let pattern = args.opt_string("filename_filter")?.unwrap_or_else(|| ".".into());
    let filter = regex::RegexBuilder::new(&pattern).case_insensitive(true).build();
    let filter = filter.map_err(Error::failed)?;
    let output = native(scope, &args.string("output_directory")?);
    let name = path.components.last().map(|c| c.to_text().to_lowercase()).unwrap_or_default();
    let kind = match args.opt_string("type")? {
        Some(kind) => kind,
        None if name.ends_with(".tgz") || name.ends_with(".tar.gz") => "tgz".into(),
        None if name.ends_with(".zip") => "zip".into(),
        None => String::new(),
    };
    let open = {
        let (a, p) = (accessor.clone(), path.clone());
        move || a.open(&p)
    };
    let mut file = blocking(scope, open).await?.map_err(Error::failed)?;
    if kind == "zip" {
        let opened = blocking(scope, move || Archive::open(file)).await?;
        let mut archive = opened.map_err(Error::failed)?;
        let wanted = |m: &&crate::store::zip::Member| !m.is_dir() && filter.is_match(&m.name);
        let members: Vec<_> = archive.members().iter().filter(wanted).cloned().collect();
        for member in members {
            scope.charge_op().await;
            let target = inside(&output, &member.name);
            let name = member.name.clone();
            let work = move || {
                let done = archive.read(&member, LIMIT).and_then(|data| {
                    write(&target, &data)?;
                    Ok((target, data.len()))
                });
                (done, archive)
            };
            let done;
            (done, archive) = blocking(scope, work).await?;
            tell(scope, emitter, &name, done).await?;
        }
        return Ok(());
    }
    if kind != "tgz" {
        return Err(Error::failed(format!("unknown file type {kind}")));
    }
    let unpack = move || {
        let mut packed = Vec::new();
        (&mut file).take(LIMIT).read_to_end(&mut packed)?;
        let mut all = Vec::new();
        match packed.starts_with(&[0x1f, 0x8b]) {
            true => {
                flate2::read::MultiGzDecoder::new(&*packed).take(LIMIT).read_to_end(&mut all)?;
                io::Result::Ok(all)
            }
            false => Ok(packed),
        }
    };
    let all = blocking(scope, unpack).await?.map_err(Error::failed)?;
    let mut rest: &[u8] = &all;
    while let Some((name, data, after)) = tar_member(rest) {
        rest = after;
        scope.charge_op().await;
        let Some(data) = data.filter(|_| filter.is_match(&name)) else { continue };
        let (target, data) = (inside(&output, &name), data.to_vec());
        let work = move || write(&target, &data).map(|()| (target, data.len()));
        let done = blocking(scope, work).await?;
        tell(scope, emitter, &name, done).await?;
    }
    Ok(())
}

async fn tell(
    scope: &Scope,
    emitter: &Emitter,
    name: &str,
    done: io::Result<(PathBuf, usize)>,
) -> Result<(), Error> {
    match done {
        Err(e) => {
            scope.log(Level::Default, format!("unzip: {name}: {e}"));
            Ok(())
        }
        Ok((path, size)) => {
            let row = Dict::new()
                .with("OriginalPath", name)
                .with("NewPath", path.to_string_lossy().into_owned())
                .with("Size", size);
            emitter.send(row).await
        }
    }
}

/// A name below a directory, whatever dots it has.
fn inside(directory: &Path, name: &str) -> PathBuf {
    let parts = name.split('/').filter(|p| !["", ".", ".."].contains(p));
    parts.fold(directory.to_owned(), |path, part| path.join(part))
}

fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    let mut open = OpenOptions::new();
    open.create(true).write(true).truncate(true).mode(0o700).open(path)?.write_all(data)
}

/// A member of a tar archive: its name, its content when it is a plain file, and what follows.
type Member<'a> = (String, Option<&'a [u8]>, &'a [u8]);

/// The first member; `None` at the end, or where the archive is damaged.
fn tar_member(archive: &[u8]) -> Option<Member<'_>> {
    let header = archive.get(..BLOCK).filter(|h| h.iter().any(|b| *b != 0))?;
    let text = |from: usize, to: usize| {
        let field = &header[from..to];
        let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
        vql::lossy(&field[..end]).into_owned()
    };
    let size = usize::from_str_radix(text(124, 136).trim(), 8).ok()?;
    let prefix = if &header[257..262] == b"ustar" { text(345, 500) } else { String::new() };
    let name = match prefix.as_str() {
        "" => text(0, 100),
        prefix => format!("{prefix}/{}", text(0, 100)),
    };
    let end = BLOCK.checked_add(size)?;
    let data = archive.get(BLOCK..end)?;
    let after = archive.get(end.div_ceil(BLOCK).checked_mul(BLOCK)?..).unwrap_or_default();
    Some((name, matches!(header[156], 0 | b'0').then_some(data), after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, data) in members {
            let mut header = vec![0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            let size = format!("{:011o}", data.len());
            header[124..135].copy_from_slice(size.as_bytes());
            header[156] = b'0';
            out.extend(header);
            out.extend_from_slice(data);
            out.resize(out.len().div_ceil(BLOCK) * BLOCK, 0);
        }
        out.resize(out.len() + 2 * BLOCK, 0);
        out
    }

    #[tokio::test]
    async fn archives_are_taken_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer
            .write_all(&tar(&[("a/x.txt", b"one"), ("../y.txt", b"two"), ("z.bin", b"3")]))
            .unwrap();
        std::fs::write(dir.path().join("t.tgz"), packer.finish().unwrap()).unwrap();
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Dir", dir.path().to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let text = "SELECT OriginalPath AS O, Size AS S, read_file(filename=NewPath) AS D, \
            NewPath = Dir + '/out/y.txt' AS Y FROM unzip(filename=Dir + '/t.tgz', \
            output_directory=Dir + '/out', filename_filter='TXT$')";
        let expected = "[{\"O\":\"a/x.txt\",\"S\":3,\"D\":\"one\",\"Y\":false},\
            {\"O\":\"../y.txt\",\"S\":3,\"D\":\"two\",\"Y\":true}]";
        assert_eq!(query(text).await, expected);
        let chunks = "SELECT len(list=Data) AS N FROM cat(filename=Dir + '/out/a/x.txt', chunk=2)";
        assert_eq!(query(chunks).await, r#"[{"N":2},{"N":1}]"#);
        let unknown = "SELECT * FROM unzip(filename=Dir + '/out', output_directory=Dir)";
        assert_eq!(query(unknown).await, "[]");
    }
}
