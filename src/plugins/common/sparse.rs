//! Accessors that put a file together of stretches of another: `sparse` has them where they are
//! in the other and zeros between, `ranged` reads what was stored without its holes. The path
//! tells the stretches, as JSON; the file is what the path is inside of.

use std::io::{self, Read, Seek, SeekFrom};

use serde_json::Value as Json;
use vql::{Scope, Str};

use super::accessor::{Accessor, Accessors, FileInfo, Range, ReadSeek, UNKNOWN, sought};
use super::path::{Kind, OsPath};

/// A stretch, and where it is in the file below; `None` for zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    offset: u64,
    length: u64,
    from: Option<u64>,
}

/// The accessor `sparse`.
pub struct Sparse(pub Accessors);

/// The accessor `ranged`.
pub struct Ranged(pub Accessors);

impl Accessor for Sparse {
    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        self.read(text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        pieces_of(&self.0, path, sparse(&path.inner_bytes())?)
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let pieces = sparse(&path.inner_bytes())?;
        let plain = FileInfo::plain(path.clone(), end(&pieces));
        Ok(FileInfo { times: [UNKNOWN; 4], mode: 0o100_644, ..plain })
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let pieces = sparse(&path.inner_bytes())?;
        let range =
            |p: &Piece| Range { offset: p.offset, length: p.length, hole: p.from.is_none() };
        Ok(Some(pieces.iter().map(range).collect()))
    }
}

impl Accessor for Ranged {
    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        self.read(text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        pieces_of(&self.0, path, ranged(&path.inner_bytes())?)
    }
}

fn pieces_of(
    below: &Accessors,
    path: &OsPath,
    pieces: Vec<Piece>,
) -> io::Result<Box<dyn ReadSeek>> {
    if path.delegate.is_none() {
        return Err(invalid("a path inside of a file is needed"));
    }
    let file = below.open_outer(path)?;
    Ok(Box::new(Pieces { size: end(&pieces), file, pieces, at: 0 }))
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

fn end(pieces: &[Piece]) -> u64 {
    pieces.last().map_or(0, |p| p.offset + p.length)
}

/// A member in any spelling.
fn member<'a>(item: &'a Json, name: &str) -> Option<&'a Json> {
    let found = item.as_object()?.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

fn number(item: &Json, name: &str) -> u64 {
    let value = member(item, name);
    let text = || value.and_then(Json::as_str).and_then(|s| s.parse().ok());
    value.and_then(Json::as_u64).or_else(text).unwrap_or(0)
}

/// The JSON of a path, which may have been read as a path of files.
fn json_of(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"/").unwrap_or(text)
}

/// Reads `[{"Offset": 0, "Length": 10}, ...]`; what is left out between is a hole.
fn sparse(text: &[u8]) -> io::Result<Vec<Piece>> {
    let example = "not a list of ranges such as [{\"Offset\": 0, \"Length\": 10}]";
    let list: Vec<Json> = serde_json::from_slice(json_of(text)).map_err(|_| invalid(example))?;
    let mut pieces = Vec::new();
    let mut at = 0;
    for item in &list {
        let (offset, length) = (number(item, "Offset"), number(item, "Length"));
        let hole = member(item, "IsSparse").and_then(Json::as_bool).unwrap_or(false);
        if let Some(gap) = offset.checked_sub(at).filter(|gap| *gap > 0) {
            pieces.push(Piece { offset: at, length: gap, from: None });
        }
        pieces.push(Piece { offset, length, from: (!hole).then_some(offset) });
        at = offset.checked_add(length).ok_or_else(|| invalid("a range ends beyond all files"))?;
    }
    Ok(pieces)
}

/// Reads `{"jsonl": "a range a line", "index": "{\"ranges\": [...]}"}`, as the index beside an
/// upload has them.
fn ranged(text: &[u8]) -> io::Result<Vec<Piece>> {
    let spec: Json =
        serde_json::from_slice(json_of(text)).map_err(|_| invalid("the path is no index"))?;
    let of = |name: &str| member(&spec, name).and_then(Json::as_str).unwrap_or_default();
    let mut list: Vec<Json> =
        of("jsonl").lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let index: Json = serde_json::from_str(of("index")).unwrap_or_default();
    list.extend(member(&index, "ranges").and_then(Json::as_array).cloned().unwrap_or_default());
    let piece = |item: &Json| {
        let stored = number(item, "file_length");
        Piece {
            offset: number(item, "original_offset"),
            length: number(item, "length"),
            from: (stored > 0).then(|| number(item, "file_offset")),
        }
    };
    let pieces: Vec<Piece> = list.iter().map(piece).collect();
    match pieces.iter().all(|p| p.offset.checked_add(p.length).is_some()) {
        true => Ok(pieces),
        false => Err(invalid("a range ends beyond all files")),
    }
}

struct Pieces {
    file: Box<dyn ReadSeek>,
    pieces: Vec<Piece>,
    size: u64,
    at: u64,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        let Some(piece) = self.pieces.iter().find(|p| p.offset + p.length > at) else {
            return Ok(0);
        };
        // Between two pieces there is nothing.
        let (left, from) = match at.checked_sub(piece.offset) {
            Some(into) => (piece.length - into, piece.from.map(|from| from + into)),
            None => (piece.offset - at, None),
        };
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = &mut buf[..n];
        buf.fill(0);
        if let Some(from) = from {
            // What can not be read is zeros, so that the rest can be.
            let mut filled = 0;
            if self.file.seek(SeekFrom::Start(from)).is_ok() {
                while let Ok(n @ 1..) = self.file.read(&mut buf[filled..]) {
                    filled += n;
                }
            }
        }
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Pieces {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    #[tokio::test]
    async fn files_of_pieces() {
        let mut registry = vql::Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let value = async |call: &str| {
            let text = format!(
                "LET f(P) = pathspec(Path=P, DelegateAccessor='data', \
                DelegatePath='0123456789') SELECT {call} AS X FROM scope()"
            );
            let rows = vql::run(&text, &scope).await.unwrap();
            rows[0].get("X").unwrap().to_json()
        };
        let read = "read_file(accessor='sparse', filename=f(P=";
        let list = format!("{read}[dict(offset=2, length=3), dict(offset=8, length=5)]))");
        assert_eq!(
            value(&list).await,
            r#""\u0000\u0000234\u0000\u0000\u000089\u0000\u0000\u0000""#
        );
        let text = format!("{read}'[{{\"Offset\":1,\"Length\":2}}]'), offset=1)");
        assert_eq!(value(&text).await, r#""12""#);
        assert_eq!(value(&format!("{read}'nothing'))")).await, r#""""#);
        let size = "stat(accessor='sparse', filename=f(P='[{\"Offset\":6,\"Length\":3}]')).Size";
        assert_eq!(value(size).await, "9");
        let line = |a, b, c, d| {
            format!(
                "{{\"file_offset\":{a},\"original_offset\":{b},\"file_length\":{c},\"length\":{d}}}\n"
            )
        };
        let index = line(0, 0, 3, 3) + &line(3, 3, 0, 2) + &line(3, 5, 2, 2);
        scope.set("Index", index);
        let ranged =
            "read_file(accessor='ranged', filename=f(P=serialize(item=dict(jsonl=Index))))";
        assert_eq!(value(ranged).await, r#""012\u0000\u000034""#);
    }
}
