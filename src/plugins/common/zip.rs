//! The accessor `zip`: members of archives, which may be inside of others.

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::sync::{Arc, Mutex, PoisonError};

use vql::{Scope, Str};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek};
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
    /// The archive used last: a walk asks for one again and again.
    last: Mutex<Option<(Delegate, Open)>>,
}

impl ZipFiles {
    /// Archives are read with `below`.
    pub fn new(below: Accessors) -> ZipFiles {
        ZipFiles { below, last: Mutex::default() }
    }

    /// The archive a path is inside of, and the names of the path in it. A path
    /// by itself is the archive.
    fn archive(&self, path: &OsPath) -> io::Result<(Open, Vec<Str>)> {
        let (delegate, inside) = match &path.delegate {
            Some(d) => ((**d).clone(), path.components.clone()),
            None => {
                let text = vql::lossy(&path.inner_bytes()).into_owned();
                (Delegate { accessor: String::new(), path: text }, Vec::new())
            }
        };
        Ok((self.open_archive(&delegate, DEPTH)?, inside))
    }

    fn open_archive(&self, delegate: &Delegate, depth: usize) -> io::Result<Open> {
        let kept = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, open)) = kept.filter(|(of, _)| of == delegate) {
            return Ok(open);
        }
        if depth == 0 {
            return Err(io::Error::other("archives are nested too deeply"));
        }
        let file: Box<dyn ReadSeek> = if delegate.accessor == "zip" {
            let outer = OsPath::of(&delegate.path.as_str().into());
            let of = outer.delegate.as_deref();
            let of = of.ok_or_else(|| io::Error::other("a member of no archive"))?;
            let archive = self.open_archive(of, depth - 1)?;
            Box::new(Cursor::new(read(&archive, &outer.components)?))
        } else {
            let below = self.below.get(&delegate.accessor);
            let below = below.ok_or_else(|| {
                io::Error::other(format!("Unknown filesystem accessor: {}", delegate.accessor))
            })?;
            let path = match delegate.accessor.as_str() {
                "data" => OsPath::raw(delegate.path.as_bytes()),
                _ => OsPath::of(&delegate.path.as_str().into()),
            };
            below.open(&path)?
        };
        let open = Arc::new(Mutex::new(Archive::open(file)?));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((delegate.clone(), open.clone()));
        Ok(open)
    }
}

fn parts(member: &Member) -> impl Iterator<Item = &str> {
    member.name.split('/').filter(|p| !p.is_empty() && *p != "." && *p != "..")
}

/// Whether `name` begins with all of `dir`; gives what follows.
fn below<'a>(member: &'a Member, dir: &[Str]) -> Option<Vec<&'a str>> {
    let all: Vec<&str> = parts(member).collect();
    let begins =
        all.len() >= dir.len() && dir.iter().zip(&all).all(|(d, p)| d.as_bytes() == p.as_bytes());
    begins.then(|| all[dir.len()..].to_vec())
}

fn read(archive: &Open, inside: &[Str]) -> io::Result<Vec<u8>> {
    let mut archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
    let found = archive
        .members()
        .iter()
        .find(|m| !m.is_dir() && below(m, inside).is_some_and(|rest| rest.is_empty()));
    let member = found.cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    archive.read(&member, LIMIT)
}

fn info(path: OsPath, member: Option<&Member>) -> FileInfo {
    let mut info = FileInfo::plain(path, member.map_or(0, |m| m.size));
    match member {
        None => info.mode = 0o040_555,
        Some(m) => info.times = [m.modified.saturating_mul(1_000_000_000); 4],
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
        Ok(Box::new(Cursor::new(read(&archive, &inside)?)))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let (archive, inside) = self.archive(path)?;
        let archive = archive.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_dir = inside.is_empty();
        for member in archive.members() {
            match below(member, &inside) {
                Some(rest) if rest.is_empty() && !member.is_dir() => {
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
        let mut names: BTreeMap<&str, Option<&Member>> = BTreeMap::new();
        for member in archive.members() {
            let Some(rest) = below(member, &inside) else { continue };
            match rest.as_slice() {
                [] => {}
                [name] if !member.is_dir() => drop(names.insert(name, Some(member))),
                [name, ..] => drop(names.entry(name).or_insert(None)),
            }
        }
        let base = match &path.delegate {
            Some(_) => path.clone(),
            // The archive itself was named.
            None => OsPath::linux(b"").inside("", &path.to_text()),
        };
        Ok(names.into_iter().map(|(name, member)| info(base.join(name), member)).collect())
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
        let nested = "SELECT read_file(accessor='zip', filename=pathspec(DelegateAccessor='zip', \
                      Delegate=pathspec(DelegatePath=Zip, Path='dir/sub/in.zip'), Path='deep.txt')) AS D \
                      FROM scope()";
        assert_eq!(query(nested).await, r#"[{"D":"found"}]"#);
        let found = "SELECT read_file(accessor='zip', filename=OSPath) AS D FROM glob(globs='*.txt', \
                     accessor='zip', root=pathspec(DelegatePath=Zip))";
        assert_eq!(query(found).await, r#"[{"D":"b"}]"#);
    }
}
