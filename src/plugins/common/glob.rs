//! `glob`: walks directories and gives the files that match. A directory's own
//! matches come before anything below it.

use std::collections::VecDeque;
use std::sync::Arc;

use vql::{ArgType, Args, Emitter, Error, Lambda, Level, Registry, Scope, Signature, Value};

use super::accessor::{Accessor, FileInfo, accessor, path_of};
use super::blocking;
use super::globs::{Globs, State};
use super::path::OsPath;

/// Adds `glob`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("glob", "Retrieve files based on a list of glob expressions.")
        .required("globs", ArgType::Paths, "One or more glob patterns.")
        .arg("root", ArgType::Path, "The directory to start from.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("nosymlink", ArgType::Bool, "Do not follow symbolic links.")
        .arg("recursion_callback", ArgType::Lambda, "Tells which directories to enter.")
        .arg("one_filesystem", ArgType::Bool, "Stay on the file system of the root.");
    registry.plugin_async(signature, |scope, args, emitter| async move {
        Walk::new(&scope, &args)?.run(&emitter).await
    });
}

struct Walk {
    scope: Scope,
    accessor: Arc<dyn Accessor>,
    globs: Globs,
    root: OsPath,
    follow: bool,
    one_filesystem: bool,
    callback: Option<Arc<Lambda>>,
}

/// A directory still to be listed.
struct Directory {
    path: OsPath,
    states: Vec<State>,
    /// Identities of the directories it was reached through: a link back to
    /// one of them would never end.
    through: Arc<Vec<(u64, u64)>>,
}

impl Walk {
    fn new(scope: &Scope, args: &Args) -> Result<Walk, Error> {
        let accessor = accessor(scope, &args.string("accessor")?)?;
        let text = |v: &Value| match v.downcast::<OsPath>() {
            Some(p) => p.to_text(),
            None => v.to_text(),
        };
        let patterns: Vec<String> = args.list("globs").iter().map(text).collect();
        let parse = |t: &str| accessor.parse_pattern(scope, &t.into());
        let globs = Globs::new(&patterns, parse).map_err(Error::failed)?;
        let root = match args.has("root") {
            true => path_of(scope, &*accessor, &args.any("root")),
            false => accessor.parse(scope, &"".into()),
        };
        Ok(Walk {
            scope: scope.clone(),
            globs,
            root,
            follow: !args.bool("nosymlink")?,
            one_filesystem: args.bool("one_filesystem")?,
            callback: args.lambda("recursion_callback")?,
            accessor,
        })
    }

    async fn run(&self, emitter: &Emitter) -> Result<(), Error> {
        let a = self.accessor.clone();
        let root = self.root.clone();
        let device = match self.one_filesystem {
            true => blocking(&self.scope, move || a.stat(&root)).await?.ok().map(|i| i.identity.0),
            false => None,
        };
        let start = self.globs.branches(self.globs.start()).into_iter();
        let mut todo: VecDeque<Directory> = start
            .map(|states| Directory { path: self.root.clone(), states, through: Arc::default() })
            .collect();
        while let Some(dir) = todo.pop_front() {
            let below = self.directory(dir, device, emitter).await?;
            // Depth first, but in the order of names.
            for d in below.into_iter().rev() {
                todo.push_front(d);
            }
        }
        Ok(())
    }

    async fn directory(
        &self,
        dir: Directory,
        device: Option<u64>,
        emitter: &Emitter,
    ) -> Result<Vec<Directory>, Error> {
        let (a, path) = (self.accessor.clone(), dir.path.clone());
        let list = blocking(&self.scope, move || a.read_dir(&path)).await?;
        let entries = match list {
            Ok(e) => e,
            Err(e) => {
                if e.kind() != std::io::ErrorKind::NotFound {
                    let text = format!("Globber: {e} while processing {}", dir.path.to_text());
                    self.scope.log(Level::Default, text);
                }
                return Ok(Vec::new());
            }
        };
        let mut below = Vec::new();
        for info in entries {
            self.scope.charge_op().await;
            let Some(name) = info.path.components.last() else { continue };
            let step = self.globs.step(&dir.states, name.as_bytes());
            if !step.hits.is_empty() {
                emitter.send(info.row(Some(&step.hits))).await?;
            }
            if step.inside.is_empty() {
                continue;
            }
            if let Some(identity) = self.enter(&info, device).await? {
                if identity != (0, 0) && dir.through.contains(&identity) {
                    continue;
                }
                let mut through = (*dir.through).clone();
                through.push(identity);
                let through = Arc::new(through);
                for states in self.globs.branches(step.inside) {
                    let (path, through) = (info.path.clone(), through.clone());
                    below.push(Directory { path, states, through });
                }
            }
        }
        Ok(below)
    }

    /// The identity of the directory `info` leads to, if it is to be entered.
    async fn enter(
        &self,
        info: &FileInfo,
        device: Option<u64>,
    ) -> Result<Option<(u64, u64)>, Error> {
        let target = match (info.is_dir(), info.is_link() && self.follow) {
            (true, _) => info.clone(),
            (_, true) => {
                let (a, path) = (self.accessor.clone(), info.path.clone());
                match blocking(&self.scope, move || a.stat(&path)).await? {
                    Ok(t) if t.is_dir() => t,
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        if device.is_some_and(|d| d != target.identity.0) {
            return Ok(None);
        }
        if let Some(callback) = &self.callback {
            let row = info.row(None);
            let verdict = vql::call_lambda(callback, &self.scope, vec![row]).await;
            if !vql::truth(&verdict, &self.scope).await {
                return Ok(None);
            }
        }
        Ok(Some(target.identity))
    }
}
