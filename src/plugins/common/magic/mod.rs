//! `magic`: what kind of file something is, by rules about its content. Those that are
//! known (`known.magic`) are far fewer than other programs have; a query may add its own.

mod rules;
mod text;

use std::io::Read;
use std::sync::LazyLock;

use vql::{ArgType, Args, Error, Level, Registry, Scope, Signature, Value};

use super::file::named;
use rules::Rules;

/// Most bytes of a file that are looked at.
const LIMIT: u64 = 1 << 20;

static KNOWN: LazyLock<Rules> = LazyLock::new(|| Rules::read(include_str!("known.magic")).0);

/// Adds `magic`.
pub fn register(registry: &mut Registry) {
    let magic = Signature::new("magic", "What kind of file something is.")
        .required("path", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("type", ArgType::String, "In words (nothing), or mime or extension.")
        .arg("magic", ArgType::String, "Further rules, in the language of magic(5).");
    registry.function_async(magic, |scope, args| async move { run(&scope, &args).await });
}

/// How the kind is told.
#[derive(Clone, Copy)]
enum Form {
    Words,
    Mime,
    Extension,
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let form = match args.string("type")?.as_str() {
        "" => Form::Words,
        "mime" => Form::Mime,
        "extension" => Form::Extension,
        other => return Err(Error::failed(format!("unknown type {other}"))),
    };
    if matches!(args.any("path"), Value::Null) {
        return Ok(Value::Null);
    }
    let (accessor, path) = named(scope, args, "path")?;
    let own_files = ["", "auto", "file"].contains(&args.string("accessor")?.as_str());
    let (more, bad) = Rules::read(&args.string("magic")?);
    for line in bad {
        scope.log(Level::Default, format!("magic: this rule is not understood: {line}"));
    }
    let look = move || -> std::io::Result<Value> {
        if own_files {
            let info = accessor.lstat(&path)?;
            if let Some(name) = special(info.mode, &info.data) {
                return Ok(name.into());
            }
        }
        let mut data = Vec::new();
        accessor.open(&path)?.take(LIMIT).read_to_end(&mut data)?;
        Ok(match data.is_empty() && !own_files {
            true => Value::Null,
            false => kind(&data, &more, form).into(),
        })
    };
    super::blocking(scope, look).await?.map_err(Error::failed)
}

/// What is no file with content.
fn special(mode: u32, data: &vql::Dict) -> Option<String> {
    Some(match mode & 0o170_000 {
        0o040_000 => "directory".into(),
        0o120_000 => {
            let target = data.get("Link").map(Value::to_text).unwrap_or_default();
            format!("symbolic link to {target}")
        }
        0o060_000 => "block special".into(),
        0o020_000 => "character special".into(),
        0o010_000 => "fifo (named pipe)".into(),
        0o140_000 => "socket".into(),
        _ => return None,
    })
}

fn kind(data: &[u8], more: &Rules, form: Form) -> String {
    // Zeros at the end are filling.
    let end = data.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
    let text = text::text(&data[..end]);
    let found = more.of(data, text.is_some()).or_else(|| KNOWN.of(data, text.is_some()));
    let found = found.unwrap_or_default();
    match form {
        Form::Extension => found.extensions.unwrap_or_else(|| "???".into()),
        Form::Mime => {
            let plain = match &text {
                _ if data.is_empty() => "inode/x-empty",
                Some(_) => "text/plain",
                None => "application/octet-stream",
            };
            let charset = text.map_or("binary", |t| t.charset);
            format!("{}; charset={charset}", found.mime.as_deref().unwrap_or(plain))
        }
        Form::Words => match text {
            _ if data.is_empty() => "empty".into(),
            Some(text) if found.of_text || found.message.is_empty() => {
                let (name, runs) = match found.message.strip_suffix(" text executable") {
                    Some(name) => (name, " executable"),
                    None => (found.message.strip_suffix(" text").unwrap_or(&found.message), ""),
                };
                let before = if name.is_empty() { "" } else { ", " };
                format!("{name}{before}{} text{runs}{}", text.name, text.lines)
            }
            _ if found.message.is_empty() => "data".into(),
            _ => found.message,
        },
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_known_is_understood() {
        assert_eq!(Rules::read(include_str!("known.magic")).1, Vec::<String>::new());
    }

    fn said(data: &[u8]) -> String {
        kind(data, &Rules::default(), Form::Words)
    }

    /// Local headers of an archive's files.
    fn archive(names: &[&str]) -> Vec<u8> {
        let one = |name: &&str| {
            let mut out = b"PK\x03\x04\x14\0\0\0\x08\0".to_vec();
            out.extend([0; 16]);
            out.extend([name.len() as u8, 0, 0, 0]);
            out.extend(name.bytes());
            out.extend([7; 30]);
            out
        };
        names.iter().flat_map(one).collect()
    }

    #[test]
    fn kinds() {
        let mut program = vec![0; 0x200];
        let mut put =
            |at: usize, bytes: &[u8]| program[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3c, &[0x80]);
        put(0x80, b"PE\0\0\x64\x86\x03\0");
        put(0x98, &[0x0b, 2]);
        put(0x80 + 72, &[6, 0, 1, 0]);
        put(0x80 + 92, &[2]);
        assert_eq!(
            said(&program),
            "PE32+ executable for MS Windows 6.01 (GUI), x86-64, 3 sections"
        );
        program[0x80 + 23] = 0x20;
        assert_eq!(
            said(&program),
            "PE32+ executable for MS Windows 6.01 (DLL), x86-64, 3 sections"
        );
        assert_eq!(said(b"MZ and more"), "MS-DOS executable");
        assert_eq!(said(&archive(&["_rels/.rels", "a", "b", "word/x"])), "Microsoft Word 2007+");
        assert_eq!(
            said(&archive(&["[Content_Types].xml", "_rels/.rels", "xl/x"])),
            "Microsoft Excel 2007+"
        );
        assert_eq!(
            said(&archive(&["a.txt"])),
            "Zip archive data, at least v2.0 to extract, compression method=deflate"
        );
        assert_eq!(
            said(b"\x7fELF\x02\x01\x01\0........\x03\0\x3e\0\x01\0\0\0"),
            "ELF 64-bit LSB shared object, x86-64, version 1 (SYSV)"
        );
        assert_eq!(said(b"#!/bin/sh\necho\n"), "POSIX shell script, ASCII text executable");
        assert_eq!(
            (said(b"a\nb\n"), said(b""), said(b"\0\x01")),
            ("ASCII text".into(), "empty".into(), "data".into())
        );
        let mime = |data: &[u8]| kind(data, &Rules::default(), Form::Mime);
        assert_eq!(mime(b"%PDF-1.4\n"), "application/pdf; charset=us-ascii");
        assert_eq!(mime(b"\x1f\x8b\x08"), "application/gzip; charset=binary");
        for length in 0..program.len() {
            said(&program[..length]);
        }
    }

    #[tokio::test]
    async fn files_and_own_rules() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("log"), "GET / 200\n").unwrap();
        std::os::unix::fs::symlink("log", dir.path().join("link")).unwrap();
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Dir", dir.path().to_str().unwrap());
        let text = "LET R = '0 search/1024 \"GET Access log\\n!:strength + 100\\n0 search/1024 GET Access log' \
            SELECT magic(path=Dir) AS D, magic(path=Dir + '/link') AS L, magic(path=Dir + '/log') AS T, \
            magic(path='GET x', accessor='data', magic=R) AS R, magic(path=Dir + '/none') AS N, \
            magic(path=Dir + '/log', type='extension') AS E, magic(path='x', type='what') AS W FROM scope()";
        let rows = vql::run(text, &scope).await.unwrap();
        let expected = r#"[{"D":"directory","L":"symbolic link to log","T":"ASCII text","R":"Access log, ASCII text, with no line terminators","N":null,"E":"???","W":null}]"#;
        assert_eq!(Value::from(rows).to_json(), expected);
    }
}
