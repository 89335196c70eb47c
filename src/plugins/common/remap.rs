//! `remap`: lets a query see another machine than the one it runs on: accessors
//! that are put together of others, another name and system, callables that are
//! not there.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature, Str, Value};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek};
use super::mounts::{Mount, Mounts};
use super::path::{Kind, OsPath};
use super::{Persona, host};

/// Adds `remap`.
pub fn register(registry: &mut Registry) {
    let doc = "Lets the query see another machine than this one.";
    let signature = Signature::new("remap", doc)
        .required("config", ArgType::String, "What is seen, as YAML with a list of remappings.")
        .arg("copy", ArgType::Strings, "Accessors that stay as they are.")
        .arg("clear", ArgType::Bool, "All other accessors go.");
    registry.function_async(signature, |scope, args| async move { run(&scope, &args) });
}

/// What queries of a session see instead of this machine.
#[derive(Default)]
pub struct Remapped(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    accessors: Option<Arc<Accessors>>,
    persona: Option<Arc<Persona>>,
    env: Option<Arc<BTreeMap<String, String>>>,
}

impl Remapped {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The accessors of the session, when they are not this machine's.
    pub fn accessors(scope: &Scope) -> Option<Arc<Accessors>> {
        scope.session_value::<Remapped>().lock().accessors.clone()
    }

    /// The host the session sees, when it is not this one.
    pub fn persona(scope: &Scope) -> Option<Arc<Persona>> {
        scope.session_value::<Remapped>().lock().persona.clone()
    }

    /// Environment variables the session sees, when they are not this process's.
    pub fn env(scope: &Scope) -> Option<Arc<BTreeMap<String, String>>> {
        scope.session_value::<Remapped>().lock().env.clone()
    }
}

#[derive(Deserialize)]
struct Config {
    remappings: Vec<Remapping>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Remapping {
    r#type: String,
    #[serde(rename = "description")]
    _description: String,
    scope: String,
    from: Point,
    on: Point,
    /// Accepted: queries on an endpoint ask for no rights.
    #[serde(rename = "permissions")]
    _permissions: Vec<String>,
    os: String,
    hostname: String,
    env: Vec<Variable>,
    disabled_functions: Vec<String>,
    disabled_plugins: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Point {
    accessor: String,
    prefix: String,
    path_type: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Variable {
    key: String,
    value: String,
    #[serde(rename = "comment")]
    _comment: String,
}

fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let text = args.string("config")?;
    let config: Config = yaml_serde::from_str(&text)
        .map_err(|e| Error::failed(format!("config is no list of remappings: {e}")))?;
    let session = scope.session_value::<Remapped>();
    let machine = match scope.extension::<Accessors>() {
        Some(all) => (*all).clone(),
        None => Accessors::endpoint(&host(scope)),
    };
    let before = session.lock().accessors.clone();
    let mut base = match args.bool("clear")? {
        true => BTreeMap::new(),
        // What looks into files looks into those that are seen then.
        false => before.map_or_else(|| machine.outer(), |a| a.outer()),
    };
    let copied = args.strings("copy")?;
    let mut build =
        Build { scope, machine: &machine, captured: Vec::new(), trees: BTreeMap::new() };
    let done = copied.iter().try_for_each(|name| {
        let of_machine = build.accessor(name)?;
        // What looks into files is made anew, for it has to look into those that are seen.
        if !Accessors::LAYERED.contains(&name.as_str()) {
            base.insert(name.clone(), of_machine);
        }
        Ok(())
    });
    let done = done.and_then(|()| {
        let mounts = config.remappings.iter().filter(|r| r.r#type == "mount");
        mounts.clone().try_for_each(|r| build.mount(r))?;
        base.extend(
            std::mem::take(&mut build.trees)
                .into_iter()
                .map(|(name, tree)| (name, Arc::new(tree) as Arc<dyn Accessor>)),
        );
        if let Some(file) = base.get("file").cloned() {
            base.entry("auto".into()).or_insert(file.clone());
        }
        if let Some(auto) = base.get("auto").cloned() {
            base.insert(String::new(), auto);
        }
        let layered = Accessors::over(base.clone());
        for r in config.remappings.iter().filter(|r| r.r#type == "shadow") {
            let found = match base.get(&r.from.accessor) {
                Some(known) => known.clone(),
                None => match layered.get(&r.from.accessor) {
                    Some(found) => found,
                    None => build.accessor(&r.from.accessor)?,
                },
            };
            base.insert(r.on.accessor.clone(), found);
        }
        Ok(())
    });
    if let Err(e) = done {
        // Nothing of the machine itself may be taken for what should be seen.
        session.lock().accessors = Some(Arc::new(Accessors::none()));
        let text = "remap: Failed to apply remapping: no accessor is left, so nothing is read from this host";
        scope.log(Level::Default, text);
        return Err(e);
    }
    let mut all = Accessors::over(base.clone());
    let clear = args.bool("clear")?;
    all.keep(|name| !clear || base.contains_key(name) || copied.iter().any(|c| c == name));
    session.lock().accessors = Some(Arc::new(all));
    for r in config.remappings.iter().filter(|r| r.r#type == "impersonation") {
        // What is seen now is asked before anything is changed: that takes the lock too.
        let now = host(scope);
        let mut persona = now.persona.as_deref().cloned().unwrap_or_default();
        persona.os = if r.os.is_empty() { now.os().to_owned() } else { r.os.clone() };
        persona.hostname.clone_from(&r.hostname);
        persona.fqdn.clone_from(&r.hostname);
        let env = r.env.iter().map(|v| (v.key.clone(), v.value.clone())).collect();
        let mut seen = session.lock();
        seen.persona = Some(Arc::new(persona));
        seen.env = Some(Arc::new(env));
        drop(seen);
        disable(scope, r);
    }
    Ok(Value::from(told(&text)))
}

/// What was asked for, as it is understood.
fn told(text: &str) -> Dict {
    let mut all: serde_json::Value = yaml_serde::from_str(text).unwrap_or_default();
    let list = all.get_mut("remappings").map(serde_json::Value::take);
    let list = list.filter(|l| l.as_array().is_some_and(|l| !l.is_empty()));
    list.map_or_else(Dict::new, |l| Dict::new().with("remappings", Value::from_json_plain(l)))
}

/// Callables of the machine that must not answer for the one that is seen.
fn disable(scope: &Scope, r: &Remapping) {
    for name in &r.disabled_plugins {
        let signature = Signature::new("disabled", "Not there on this machine.").any_args();
        scope.override_plugin(name, Some(Arc::new(Nothing(signature))));
    }
    for name in &r.disabled_functions {
        let signature = Signature::new("disabled", "Not there on this machine.").any_args();
        scope.override_function(name, Some(Arc::new(Nothing(signature))));
    }
}

/// A callable without rows and with the value NULL.
struct Nothing(Signature);

impl vql::Plugin for Nothing {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn rows(&self, _scope: &Scope, _args: Args) -> vql::RowStream {
        vql::stream::empty()
    }
}

impl vql::Function for Nothing {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn call(&self, _scope: &Scope, _args: Args) -> vql::Reply<Result<Value, Error>> {
        vql::Reply::Ready(Ok(Value::Null))
    }
}

struct Build<'a> {
    scope: &'a Scope,
    machine: &'a Accessors,
    captured: Vec<(String, Captured)>,
    trees: BTreeMap<String, Mounts>,
}

impl Build<'_> {
    /// An accessor of the machine itself.
    fn accessor(&self, name: &str) -> Result<Arc<dyn Accessor>, Error> {
        let missing = || Error::failed(format!("Unknown filesystem accessor {name}"));
        self.machine.get(name).ok_or_else(missing)
    }

    fn mount(&mut self, r: &Remapping) -> Result<(), Error> {
        if !r.scope.is_empty() {
            // Its variables are those of accessors that are not here.
            let text = format!("remap: the scope of a mount of {} is not run", r.from.accessor);
            self.scope.log(Level::Default, text);
        }
        let mut accessor = self.accessor(&r.from.accessor)?;
        let kind = |point: &Point| {
            let name = if point.path_type.is_empty() { &point.accessor } else { &point.path_type };
            Kind::named(name).ok_or_else(|| Error::failed(format!("unknown path type {name}")))
        };
        let mut from = accessor.parse(self.scope, &r.from.prefix.trim().into());
        if let Some(of) = from.delegate.clone().filter(|d| d.accessor == "scope") {
            let content = self.scope.resolve(&of.path).unwrap_or_default().to_str();
            let name = format!("$scope{}", self.captured.len());
            from = from.inside(&name, &of.path);
            self.captured.push((name, Captured(content)));
            let mut all = self.machine.outer();
            for (name, content) in &self.captured {
                all.insert(name.clone(), Arc::new(content.clone()));
            }
            let over = Accessors::over(all).get(&r.from.accessor);
            accessor = over.unwrap_or(accessor);
        }
        let on = kind(&r.on)?;
        let tree = self.trees.entry(r.on.accessor.clone());
        let tree = tree.or_insert_with(|| Mounts { kind: on, mounts: Vec::new() });
        let at = OsPath::of_kind(on, r.on.prefix.as_bytes()).components;
        tree.mounts.push(Mount { at, accessor, from });
        Ok(())
    }
}

/// What a variable had when it was mounted.
#[derive(Clone)]
struct Captured(Str);

impl Accessor for Captured {
    fn open(&self, _path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        Ok(Box::new(io::Cursor::new(self.0.as_bytes().to_vec())))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        Ok(FileInfo::plain(path.clone(), self.0.len() as u64))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    async fn session(query: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("Users/ann")).unwrap();
        std::fs::write(dir.path().join("Users/ann/note.txt"), "hello").unwrap();
        let zip = crate::store::zip::archive(&[("in/deep.txt", b"zipped")]);
        std::fs::write(dir.path().join("a.zip"), &zip).unwrap();
        let mut registry = crate::plugins::endpoint_registry();
        crate::plugins::server::artifact::register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry))
            .extension(Arc::new(crate::env::real::env()))
            .build();
        scope.set("Dir", dir.path().to_str().unwrap());
        scope.set("Zip", Value::Str(zip.as_slice().into()));
        let mut out = Vec::new();
        for text in query {
            out.push(Value::from(vql::run(text, &scope).await.unwrap()).to_json());
        }
        out
    }

    const WINDOWS: &str = "SELECT remap(clear=TRUE, config=format(format='''
remappings:
- type: mount
  from: {accessor: file, prefix: \"%s\"}
  on: {accessor: file, prefix: \"C:\", path_type: windows}
- type: mount
  from: {accessor: zip, prefix: '{\"DelegateAccessor\":\"scope\",\"DelegatePath\":\"Zip\"}'}
  on: {accessor: file, prefix: \"D:/z\", path_type: windows}
- type: mount
  from: {accessor: zip, prefix: '{\"DelegateAccessor\":\"scope\",\"DelegatePath\":\"Zip\",\"Path\":\"/in\"}'}
  on: {accessor: mft, prefix: \"x\", path_type: windows}
- type: shadow
  from: {accessor: zip}
  on: {accessor: zip}
- type: impersonation
  os: windows
  hostname: box
  env: [{key: Root, value: \"C:\\\\W\"}]
  disabled_plugins: [pslist]
  disabled_functions: [pskill]
''', args=Dir)) != NULL AS R FROM scope()";

    #[tokio::test]
    async fn another_machine_is_seen() {
        let out = session(&[
            WINDOWS,
            "SELECT OSPath, IsDir FROM glob(globs='**')",
            "SELECT read_file(filename='c:\\\\users\\\\ANN\\\\..\\\\ann\\\\note.txt') AS A, \
             read_file(filename='C:/Users/ann/note.txt') AS B FROM scope()",
            "SELECT read_file(accessor='zip', filename=pathspec(DelegateAccessor='file', \
             DelegatePath='C:\\\\a.zip', Path='in/deep.txt')) AS Z FROM scope()",
            "SELECT read_file(accessor='mft', filename='x/deep.txt') AS M FROM scope()",
            "SELECT OS, Hostname FROM info()",
            "SELECT expand(path='%Root%\\\\x') AS E, pskill(pid=1) AS K FROM scope()",
            "SELECT * FROM pslist()",
            "SELECT read_file(filename='x', accessor='data') AS D FROM scope()",
            "SELECT pathspec(parse='C:\\\\a\\\\b').Components AS C, expand(path='%None%') AS N, Size \
             FROM glob(globs='/D:/*')",
        ])
        .await;
        assert_eq!(out[0], r#"[{"R":true}]"#);
        let expected = [
            ("C:", true),
            ("D:", true),
            ("C:\\\\Users", true),
            ("C:\\\\a.zip", false),
            ("C:\\\\Users\\\\ann", true),
            ("C:\\\\Users\\\\ann\\\\note.txt", false),
            ("D:\\\\z", true),
            ("D:\\\\z\\\\in", true),
            ("D:\\\\z\\\\in\\\\deep.txt", false),
        ];
        let rows: Vec<String> =
            expected.iter().map(|(p, d)| format!(r#"{{"OSPath":"{p}","IsDir":{d}}}"#)).collect();
        assert_eq!(out[1], format!("[{}]", rows.join(",")));
        assert_eq!(out[2], r#"[{"A":"","B":"hello"}]"#);
        assert_eq!(out[3], r#"[{"Z":"zipped"}]"#);
        // A tree by the name of an accessor that looks into files is that tree.
        assert_eq!(out[4], r#"[{"M":"zipped"}]"#);
        assert_eq!(out[5], r#"[{"OS":"windows","Hostname":"box"}]"#);
        assert_eq!(out[6], r#"[{"E":"C:\\W\\x","K":null}]"#);
        assert_eq!(out[7], "[]");
        assert_eq!(out[8], r#"[{"D":""}]"#);
        assert_eq!(out[9], r#"[{"C":["C:","a","b"],"N":"","Size":0}]"#);
    }

    #[tokio::test]
    async fn what_was_asked_for_is_given_back() {
        let out = session(&[
            "SELECT remap(config='remappings: []') AS R FROM scope()",
            "SELECT remap(config='remappings: [{type: impersonation, os: linux, hostname: h}]') AS R FROM scope()",
        ])
        .await;
        let told = r#"{"remappings":[{"type":"impersonation","os":"linux","hostname":"h"}]}"#;
        assert_eq!(out, [r#"[{"R":{}}]"#.to_owned(), format!(r#"[{{"R":{told}}}]"#)]);
    }

    #[tokio::test]
    async fn a_remapping_that_fails_leaves_nothing() {
        let out = session(&[
            "SELECT remap(config='remappings: [{type: mount, from: {accessor: nowhere}}]') AS R FROM scope()",
            "SELECT read_file(filename='x', accessor='data') AS D FROM scope()",
        ])
        .await;
        assert_eq!(out, [r#"[{"R":null}]"#, r#"[{"D":""}]"#]);
    }
}
