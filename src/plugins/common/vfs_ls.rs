//! `vfs_ls`: directories as the server's view of a client's files keeps them: a
//! row for each file, and behind those of each directory one that says which
//! they were.

use std::sync::Arc;

use vql::{ArgType, Args, Dict, Emitter, Error, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, FileInfo, accessor, mode_text, path_of, time};
use super::path::OsPath;

/// Adds `vfs_ls`.
pub fn register(registry: &mut Registry) {
    let ls = Signature::new("vfs_ls", "Lists directories for the server's view of files.")
        .arg("path", ArgType::Path, "The directory.")
        .arg("components", ArgType::Strings, "The parts of its path, instead.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("depth", ArgType::Int, "Levels of directories below it to list too.")
        .version(1);
    registry.plugin_async(
        ls,
        |scope, args, emitter| async move { list(&scope, &args, &emitter).await },
    );
}

async fn list(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let name = args.string("accessor")?;
    let accessor = accessor(scope, &name)?;
    let mut root = path_of(scope, &*accessor, &args.any("path"));
    let components = args.list("components");
    if !components.is_empty() {
        root.components = components.iter().map(Value::to_str).collect();
    }
    let depth = usize::try_from(args.int("depth")?).unwrap_or(0);
    let mut lister = Lister { scope, emitter, accessor, name, count: 0 };
    // The directories still to be listed, the next one last.
    let mut waiting = vec![(root, 0)];
    while let Some((dir, level)) = waiting.pop() {
        let below = lister.directory(dir).await?;
        if level < depth {
            waiting.extend(below.into_iter().rev().map(|d| (d, level + 1)));
        }
    }
    Ok(())
}

struct Lister<'a> {
    scope: &'a Scope,
    emitter: &'a Emitter,
    accessor: Arc<dyn Accessor>,
    name: String,
    count: u64,
}

impl Lister<'_> {
    /// Emits what is in a directory; gives the directories in it.
    async fn directory(&mut self, dir: OsPath) -> Result<Vec<OsPath>, Error> {
        self.scope.charge_op().await;
        let (a, d) = (self.accessor.clone(), dir.clone());
        let entries = match super::blocking(self.scope, move || a.read_dir(&d)).await? {
            Ok(entries) => entries,
            Err(e) => {
                let text = format!("vfs_ls: {}: {e}", dir.to_text());
                self.scope.log(Level::Default, text);
                return Ok(Vec::new());
            }
        };
        let start = self.count;
        let mut below = Vec::new();
        for info in entries {
            self.scope.charge_op().await;
            if info.is_dir() {
                below.push(info.path.clone());
            }
            self.emitter.send(self.row(&info)).await?;
            self.count += 1;
        }
        let stats = Dict::new().with("start_idx", start).with("end_idx", self.count);
        self.emitter.send(self.summary(&dir, stats)).await?;
        Ok(below)
    }

    fn row(&self, info: &FileInfo) -> Dict {
        let path = &info.path;
        Dict::new()
            .with("FullPath", path.to_text())
            .with("OSPath", Value::object(path.clone()))
            .with("Components", components(path))
            .with("Accessor", &self.name)
            .with("Data", info.data.clone())
            .with("Stats", Value::Null)
            .with("Name", path.components.last().cloned().map_or("".into(), Value::Str))
            .with("Size", info.size)
            .with("Mode", mode_text(info.mode))
            .with("Mtime", time(info.times[0]))
            .with("Atime", time(info.times[1]))
            .with("Ctime", time(info.times[2]))
            .with("Btime", time(info.times[3]))
            .with("Idx", self.count)
    }

    fn summary(&self, dir: &OsPath, stats: Dict) -> Dict {
        let never = || vql::parse_time("0001-01-01T00:00:00Z").map_or(Value::Null, Value::Time);
        Dict::new()
            .with("FullPath", "")
            .with("OSPath", Value::Null)
            .with("Components", components(dir))
            .with("Accessor", &self.name)
            .with("Data", Value::Null)
            .with("Stats", stats)
            .with("Name", "")
            .with("Size", 0)
            .with("Mode", "")
            .with("Mtime", never())
            .with("Atime", never())
            .with("Ctime", never())
            .with("Btime", never())
            .with("Idx", 0)
    }
}

fn components(path: &OsPath) -> Value {
    path.components.iter().cloned().map(Value::Str).collect::<Vec<_>>().into()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // the test's own directory
mod tests {
    use super::*;

    #[tokio::test]
    async fn rows_of_files_and_of_directories() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        std::fs::create_dir_all(at.join("b/c")).unwrap();
        for file in ["a", "b/x", "b/c/y"] {
            std::fs::File::create(at.join(file)).unwrap();
        }
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let text = format!(
            "SELECT Components[-1:] AS C, Idx, Stats, Mode FROM vfs_ls(path='{}', accessor='file', depth=1)",
            at.display()
        );
        let rows = vql::run(&text, &scope).await.unwrap();
        let rows: Vec<String> = rows.into_iter().map(|r| Value::from(r).to_json()).collect();
        assert_eq!(rows.len(), 6);
        assert!(rows[0].starts_with(r#"{"C":["a"],"Idx":0,"Stats":null,"Mode":"-rw"#), "{rows:?}");
        assert!(rows[2].contains(r#""Idx":0,"Stats":{"start_idx":0,"end_idx":2},"Mode":"""#));
        assert!(rows[3].starts_with(r#"{"C":["c"],"Idx":2,"Stats":null,"Mode":"drwx"#), "{rows:?}");
        assert!(rows[5].contains(r#"{"start_idx":2,"end_idx":4}"#), "{rows:?}");
    }
}
