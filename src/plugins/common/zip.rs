//! The accessor `zip`: members of archives, which may be inside of others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::sync::{Arc, Mutex, PoisonError};

use vql::{Dict, Scope, Str};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek, UNKNOWN};
use super::last::Last;
use super::path::{Delegate, OsPath};
use crate::store::zip::{Archive, Member};

/// Largest member that is read, in bytes; it is held in memory.
const LIMIT: u64 = 512 << 20;
/// Archives in archives in archives.
const DEPTH: usize = 8;

type Open = Arc<Mutex<Archive<Box<dyn ReadSeek>>>>;

/// See the module.
pub struct ZipFiles {
    /// What archives are read with.
    below: Accessors,
    /// Names are those of a collection: what no file name may have is escaped.
    escaped: bool,
    /// Names are found however their letters are written.
    any_case: bool,
    /// The archive used last.
    last: Last<Open>,
}

impl ZipFiles {
    /// Archives are read with `below`.
    pub fn new(below: Accessors) -> ZipFiles {
        ZipFiles { below, escaped: false, any_case: false, last: Last::default() }
    }

    /// For the archives that collections are packed in.
    pub fn collector(below: Accessors) -> ZipFiles {
        ZipFiles { escaped: true, ..ZipFiles::new(below) }
    }

    /// Archives are read with `below`, and letters may be written either way.
    pub fn any_case(below: Accessors) -> ZipFiles {
        ZipFiles { any_case: true, ..ZipFiles::new(below) }
    }

    fn parts<'a>(&self, member: &'a Member) -> Vec<Cow<'a, str>> {
        let all = member.name.split('/').filter(|p| !p.is_empty() && *p != "." && *p != "..");
        all.map(|p| if self.escaped { unescaped(p) } else { p.into() }).collect()
    }

    /// Whether `member` is below `dir`; gives what follows.
    fn below<'a>(&self, member: &'a Member, dir: &[Str]) -> Option<Vec<Cow<'a, str>>> {
        let mut all = self.parts(member);
        let same = |d: &[u8], p: &[u8]| match self.any_case {
            true => d.eq_ignore_ascii_case(p),
            false => d == p,
        };
        let begins = all.len() >= dir.len()
            && dir.iter().zip(&all).all(|(d, p)| same(d.as_bytes(), p.as_bytes()));
        begins.then(|| all.split_off(dir.len()))
    }

    fn content(&self, archive: &Open, inside: &[Str]) -> io::Result<Vec<u8>> {
        let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |m: &&Member| !m.is_dir() && self.below(m, inside).is_some_and(|rest| rest.is_empty());
        let member = archive.members().iter().find(is_it).cloned();
        archive.read(&member.ok_or(io::ErrorKind::NotFound)?, LIMIT)
    }

    /// The archive a path is inside of, and the names of the path in it. A path
    /// by itself is the archive.
    fn archive(&self, path: &OsPath) -> io::Result<(Open, Vec<Str>)> {
        let (delegate, inside) = match &path.delegate {
            Some(d) => ((**d).clone(), path.components.clone()),
            None => {
                let text = vql::lossy(&path.inner_bytes()).into_owned();
                (Delegate { accessor: String::new(), path: text, nested: false }, Vec::new())
            }
        };
        Ok((self.open_archive(&delegate, DEPTH)?, inside))
    }

    fn open_archive(&self, delegate: &Delegate, depth: usize) -> io::Result<Open> {
        self.last.or_open(delegate, || self.open_new(delegate, depth))
    }

    fn open_new(&self, delegate: &Delegate, depth: usize) -> io::Result<Open> {
        if depth == 0 {
            return Err(io::Error::other("archives are nested too deeply"));
        }
        let file: Box<dyn ReadSeek> = if delegate.accessor == "zip" {
            let outer = OsPath::of(&delegate.path.as_str().into());
            let of = outer.delegate.as_deref();
            let of = of.ok_or_else(|| io::Error::other("a member of no archive"))?;
            let archive = self.open_archive(of, depth - 1)?;
            Box::new(Cursor::new(self.content(&archive, &outer.components)?))
        } else {
            let inside = OsPath::linux(b"").inside(&delegate.accessor, &delegate.path);
            self.below.open_outer(&inside)?
        };
        Ok(Arc::new(Mutex::new(Archive::open(file)?)))
    }
}

/// A name with `%` and two digits for what no file name may have.
fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return name.into();
    }
    let (bytes, mut out, mut at) = (name.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let code = name.get(at + 1..at + 3).and_then(|d| u8::from_str_radix(d, 16).ok());
        match code.filter(|_| bytes[at] == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    vql::lossy(&out).into_owned().into()
}

/// Members that are files. Directories are what files are in: one without is not there.
fn files<R: io::Read + io::Seek>(archive: &Archive<R>) -> impl Iterator<Item = &Member> {
    archive.members().iter().filter(|m| !m.is_dir())
}

fn info(path: OsPath, member: Option<&Member>) -> FileInfo {
    let mut info = FileInfo::plain(path, member.map_or(0, |m| m.size));
    match member {
        None => {
            info.mode = 0o040_755;
            info.times = [UNKNOWN; 4];
        }
        Some(m) => {
            info.mode = 0o100_755;
            info.times = [m.modified.saturating_mul(1_000_000_000); 4];
            info.data =
                Dict::new().with("CompressedSize", m.compressed).with("Method", m.method_name());
        }
    }
    info
}

impl Accessor for ZipFiles {
    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        OsPath::from_spec(text.as_bytes())
            .unwrap_or_else(|| OsPath::linux(b"").inside("", &text.to_text()))
    }

    fn parse_pattern(&self, _scope: &Scope, text: &Str) -> OsPath {
        OsPath::linux(text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let (archive, inside) = self.archive(path)?;
        Ok(Box::new(Cursor::new(self.content(&archive, &inside)?)))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let (archive, inside) = self.archive(path)?;
        let archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_dir = inside.is_empty();
        for member in files(&archive) {
            match self.below(member, &inside) {
                Some(rest) if rest.is_empty() => {
                    return Ok(info(path.clone(), Some(member)));
                }
                found => is_dir |= found.is_some(),
            }
        }
        match is_dir {
            true => Ok(info(path.clone(), None)),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let (archive, inside) = self.archive(path)?;
        let archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: BTreeMap<String, Option<&Member>> = BTreeMap::new();
        for member in files(&archive) {
            let Some(rest) = self.below(member, &inside) else { continue };
            match rest.as_slice() {
                [] => {}
                [name] => {
                    names.insert(name.to_string(), Some(member));
                }
                [name, ..] => drop(names.entry(name.to_string()).or_insert(None)),
            }
        }
        let base = match &path.delegate {
            Some(_) => path.clone(),
            // The archive itself was named.
            None => OsPath::linux(b"").inside("", &path.to_text()),
        };
        Ok(names.into_iter().map(|(name, member)| info(base.join(name.as_str()), member)).collect())
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use vql::{Registry, Value};

    #[tokio::test]
    async fn members_are_files() {
        let inner = crate::store::zip::archive(&[("deep.txt", b"found")]);
        let outer = crate::store::zip::archive(&[
            ("dir/a.txt", b"one\ntwo"),
            ("dir/sub/in.zip", &inner),
            ("empty/", b""),
            ("b.txt", b"b"),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("x.zip");
        std::fs::write(&at, outer).unwrap();
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Zip", at.to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let all = "SELECT OSPath.Path AS P, Size, IsDir FROM glob(globs='**', accessor='zip', \
                   root=pathspec(DelegatePath=Zip))";
        let rows = query(all).await;
        let expected = format!(
            r#"[{{"P":"/b.txt","Size":1,"IsDir":false}},{{"P":"/dir","Size":0,"IsDir":true}},{{"P":"/dir/a.txt","Size":7,"IsDir":false}},{{"P":"/dir/sub","Size":0,"IsDir":true}},{{"P":"/dir/sub/in.zip","Size":{},"IsDir":false}}]"#,
            inner.len()
        );
        assert_eq!(rows, expected);
        let lines = "SELECT Line FROM parse_lines(accessor='zip', \
                     filename=pathspec(DelegatePath=Zip, Path='dir/a.txt'))";
        assert_eq!(query(lines).await, r#"[{"Line":"one"},{"Line":"two"}]"#);
        let cases = "LET P = pathspec(DelegatePath=Zip, Path='DIR/A.txt') \
            SELECT read_file(accessor='zip_nocase', filename=P) AS A, \
            read_file(accessor='zip', filename=P) AS B FROM scope()";
        assert_eq!(query(cases).await, r#"[{"A":"one\ntwo","B":""}]"#);
        let nested = "SELECT read_file(accessor='zip', filename=pathspec(DelegateAccessor='zip', \
                      Delegate=pathspec(DelegatePath=Zip, Path='dir/sub/in.zip'), Path='deep.txt')) AS D \
                      FROM scope()";
        assert_eq!(query(nested).await, r#"[{"D":"found"}]"#);
        let found = "SELECT read_file(accessor='zip', filename=OSPath) AS D FROM glob(globs='*.txt', \
                     accessor='zip', root=pathspec(DelegatePath=Zip))";
        assert_eq!(query(found).await, r#"[{"D":"b"}]"#);
    }
}
