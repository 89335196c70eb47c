//! Registry files: the accessor `raw_reg` walks their keys and values as
//! directories and files, `read_reg_key` gives a row for each key.

use std::any::Any;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::Arc;

use vql::{ArgType, Args, Dict, Emitter, Error, Object, Registry, Scope, Signature, Str, Value};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek, accessor, path_of};
use super::globs::Globs;
use super::hive::{Hive, Key, Named};
use super::last::Last;
use super::path::{Kind, OsPath};

/// Largest registry file, in bytes; it is held in memory.
const LIMIT: u64 = 512 << 20;

/// Adds `read_reg_key`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("read_reg_key", "Keys of a registry with their values.")
        .required("globs", ArgType::Paths, "Patterns of keys.")
        .arg("root", ArgType::Path, "Where to start.")
        .arg("accessor", ArgType::String, "An accessor to use (registry).");
    registry.plugin_async(signature, |scope, args, emitter| async move {
        read_keys(&scope, &args, &emitter).await
    });
}

/// See the module.
pub struct RegistryFiles {
    /// What registry files are read with.
    below: Accessors,
    /// The file used last.
    last: Last<Arc<Hive>>,
}

impl RegistryFiles {
    /// Files are read with `below`.
    pub fn new(below: Accessors) -> RegistryFiles {
        RegistryFiles { below, last: Last::default() }
    }

    fn hive(&self, path: &OsPath) -> io::Result<Arc<Hive>> {
        let of = path.delegate.as_deref();
        let of = of.ok_or_else(|| io::Error::other("a path in no registry file"))?;
        self.last.or_open(of, || self.read_hive(path))
    }

    fn read_hive(&self, path: &OsPath) -> io::Result<Arc<Hive>> {
        let mut file = self.below.open_outer(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        if size > LIMIT {
            return Err(io::Error::other(format!("a registry file of more than {LIMIT} bytes")));
        }
        file.seek(SeekFrom::Start(0))?;
        let mut data = Vec::with_capacity(size as usize);
        file.take(LIMIT).read_to_end(&mut data)?;
        Ok(Arc::new(Hive::new(data).map_err(io::Error::other)?))
    }

    /// The key at a path, or the value of that name in the key above.
    fn find(&self, path: &OsPath) -> io::Result<(Arc<Hive>, Found)> {
        let hive = self.hive(path)?;
        let mut key = hive.root().map_err(io::Error::other)?;
        for (i, name) in path.components.iter().enumerate() {
            match hive.subkey(&key, name.as_bytes()) {
                Some(below) => key = below,
                None if i + 1 == path.components.len() => {
                    let value = hive.value(&key, name.as_bytes());
                    let value = value.ok_or(io::ErrorKind::NotFound)?;
                    return Ok((hive, Found::Value(key, value)));
                }
                None => return Err(io::ErrorKind::NotFound.into()),
            }
        }
        Ok((hive, Found::Key(key)))
    }
}

enum Found {
    Key(Key),
    Value(Key, Named),
}

fn key_info(path: OsPath, key: &Key) -> FileInfo {
    let mut info = FileInfo::plain(path, 0);
    info.mode = 0o040_755;
    info.times = [key.modified; 4];
    info.data = Dict::new().with("type", "Key");
    info
}

fn value_info(path: OsPath, key: &Key, value: &Named) -> FileInfo {
    let mut info = FileInfo::plain(path, value.data.len() as u64);
    info.mode = 0o100_644;
    info.times = [key.modified; 4];
    info.data = Dict::new()
        .with("type", value.type_name())
        .with("data_len", value.data.len())
        .with("value", value.decoded());
    info
}

impl Accessor for RegistryFiles {
    fn kind(&self) -> Kind {
        Kind::Hive
    }

    fn parse_pattern(&self, _scope: &Scope, text: &Str) -> OsPath {
        OsPath::of_kind(Kind::Hive, text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        match self.find(path)?.1 {
            Found::Value(_, value) => Ok(Box::new(Cursor::new(value.data))),
            Found::Key(_) => Err(io::Error::new(io::ErrorKind::IsADirectory, "is a key")),
        }
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let path = path.clone().as_kind(Kind::Hive);
        Ok(match self.find(&path)?.1 {
            Found::Key(key) => key_info(path, &key),
            Found::Value(key, value) => value_info(path, &key, &value),
        })
    }

    fn read_dir(&self, path: &OsPath) -> io::Result<Vec<FileInfo>> {
        let path = path.clone().as_kind(Kind::Hive);
        let (hive, found) = self.find(&path)?;
        let Found::Key(key) = found else { return Ok(Vec::new()) };
        let keys = hive.subkeys(&key);
        let keys = keys.iter().map(|k| key_info(path.join(k.name.as_str()), k));
        let values = hive.values(&key);
        let values = values.iter().map(|v| value_info(path.join(v.name.as_str()), &key, v));
        Ok(keys.chain(values).collect())
    }
}

/// The key of a row: what is known of it, written as one member.
#[derive(Clone, Debug)]
struct KeyRow(Value);

impl Object for KeyRow {
    fn type_name(&self) -> &'static str {
        "*registry.RegKeyInfo"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<vql::Key> {
        match &self.0 {
            Value::Object(info) => info.members(),
            _ => Vec::new(),
        }
    }

    fn member(&self, name: &str) -> Option<Value> {
        vql::member(&self.0, name)
    }

    fn to_plain(&self) -> Value {
        Dict::new().with("FileInfo", self.0.clone()).into()
    }

    fn truth(&self) -> bool {
        true
    }
}

/// Registry paths are given with a text of this kind of column.
async fn read_keys(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let name = args.opt_string("accessor")?.unwrap_or_else(|| "registry".into());
    let accessor = accessor(scope, &name)?;
    let patterns: Vec<String> = args.list("globs").iter().map(Value::to_text).collect();
    let parse = |t: &str| accessor.parse_pattern(scope, &t.into());
    let globs = Globs::new(&patterns, parse).map_err(Error::failed)?;
    let root = match args.has("root") {
        true => path_of(scope, &*accessor, &args.any("root")),
        false => accessor.parse(scope, &"".into()),
    };
    let mut todo = vec![(root, globs.start())];
    while let Some((dir, states)) = todo.pop() {
        let (a, d) = (accessor.clone(), dir.clone());
        let Ok(entries) = super::blocking(scope, move || a.read_dir(&d)).await? else { continue };
        let mut below = Vec::new();
        for info in entries.into_iter().filter(FileInfo::is_dir) {
            scope.charge_op().await;
            let Some(name) = info.path.components.last() else { continue };
            let step = globs.step(&states, name.as_bytes());
            if !step.hits.is_empty() {
                let (a, key) = (accessor.clone(), info.path.clone());
                let values = super::blocking(scope, move || a.read_dir(&key)).await?;
                let mut row = Dict::new().with("Key", Value::object(KeyRow(info.row(None))));
                for value in values.unwrap_or_default().iter().filter(|v| !v.is_dir()) {
                    let content = value.data.get("value").cloned().unwrap_or_default();
                    row.update(value.path.basename(), content);
                }
                emitter.send(row).await?;
            }
            if !step.inside.is_empty() {
                below.push((info.path, step.inside));
            }
        }
        todo.extend(below.into_iter().rev());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("SOFTWARE");
        std::fs::write(&at, super::super::hive::example()).unwrap();
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("File", at.to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let walk = "SELECT OSPath.Path AS P, Data.value AS V, Mode, Mtime, Globs[0] AS G \
            FROM glob(globs='/run/{co*,@}', accessor='raw_reg', root=pathspec(DelegatePath=File))";
        let expected = concat!(
            r#"[{"P":"\\Run\\Count","V":77,"Mode":420,"Mtime":"2020-09-13T12:26:40Z","G":"\\run\\co*"},"#,
            r#"{"P":"\\Run\\@","V":"AQIAAA==","Mode":420,"Mtime":"2020-09-13T12:26:40Z","G":"\\run\\@"}]"#
        );
        assert_eq!(query(walk).await, expected);
        let read = "SELECT Key.OSPath.Path AS K, Path, Count FROM read_reg_key(globs='*', \
            accessor='raw_reg', root=pathspec(DelegatePath=File))";
        assert_eq!(query(read).await, r#"[{"K":"\\Run","Path":"C:\\a","Count":77}]"#);
        let key = "SELECT stat(accessor='raw_reg', filename=pathspec(DelegatePath=File, \
            Path='Run')).IsDir AS D, len(list=read_file(accessor='raw_reg', \
            filename=pathspec(DelegatePath=File, Path='Run/Path'))) AS L FROM scope()";
        assert_eq!(query(key).await, r#"[{"D":true,"L":10}]"#);
    }
}
