//! What callables that know no server need on one: the right to touch its
//! files, processes and network. Elsewhere they ask for nothing.

use std::sync::Arc;

use vql::{Args, Error, Function, Plugin, Registry, Reply, RowStream, Scope, Signature, Value};

use super::session::Session;
use crate::services::acl::Permission::{
    self, Execve, FilesystemRead, FilesystemWrite, MachineState, Network,
};

/// Callables by name and what they need. A name may be a function, a plugin or
/// both.
const NEEDS: &[(&str, Permission)] = &[
    ("audit", MachineState),
    ("connections", MachineState),
    ("copy", FilesystemWrite),
    ("environ", MachineState),
    ("execve", Execve),
    ("getpid", MachineState),
    ("glob", FilesystemRead),
    ("hash", FilesystemRead),
    ("http_client", Network),
    ("info", MachineState),
    ("interfaces", MachineState),
    ("netstat", MachineState),
    ("parse_csv", FilesystemRead),
    ("parse_lines", FilesystemRead),
    ("parse_records_with_regex", FilesystemRead),
    ("pslist", MachineState),
    ("read_file", FilesystemRead),
    ("rm", FilesystemWrite),
    ("split_records", FilesystemRead),
    ("stat", FilesystemRead),
    ("sysinfo", MachineState),
    ("tempdir", FilesystemWrite),
    ("tempfile", FilesystemWrite),
    ("upload", FilesystemRead),
    ("watch_syslog", FilesystemRead),
    ("write_csv", FilesystemWrite),
    ("write_jsonl", FilesystemWrite),
];

/// Puts a check before every callable that needs one.
pub(super) fn install(registry: &mut Registry) {
    for (name, permission) in NEEDS {
        if let Some(inner) = registry.function(name) {
            registry.add_function(Arc::new(GuardedFunction { inner, permission: *permission }));
        }
        let plugin = registry.plugin(name).filter(|p| p.signature().name == *name);
        if let Some(inner) = plugin {
            registry.add_plugin(Arc::new(GuardedPlugin { inner, permission: *permission }));
        }
    }
}

/// Reading what the query itself holds needs no right.
fn allowed(scope: &Scope, args: &Args, permission: Permission) -> Result<(), Error> {
    let own = permission == FilesystemRead
        && matches!(args.string("accessor").as_deref(), Ok("data" | "scope"));
    if own { Ok(()) } else { Session::with(scope, permission).map(drop) }
}

struct GuardedFunction {
    inner: Arc<dyn Function>,
    permission: Permission,
}

impl Function for GuardedFunction {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn call(&self, scope: &Scope, args: Args) -> Reply<Result<Value, Error>> {
        match allowed(scope, &args, self.permission) {
            Ok(()) => self.inner.call(scope, args),
            Err(e) => Reply::Ready(Err(e)),
        }
    }
}

struct GuardedPlugin {
    inner: Arc<dyn Plugin>,
    permission: Permission,
}

impl Plugin for GuardedPlugin {
    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn rows(&self, scope: &Scope, args: Args) -> RowStream {
        match allowed(scope, &args, self.permission) {
            Ok(()) => self.inner.rows(scope, args),
            Err(e) => {
                scope.error(format!("{}: {e}", args.call_name()));
                vql::stream::empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_touches_the_host_is_guarded() {
        const HARMLESS: [&str; 2] = ["clock", "sleep"];
        let (language, host) = (Registry::standard(), crate::plugins::endpoint_registry());
        let known = |name: &str| HARMLESS.contains(&name) || NEEDS.iter().any(|(n, _)| *n == name);
        for s in host.functions().filter(|s| language.function(s.name).is_none()) {
            assert!(known(s.name), "the function {} needs no right", s.name);
        }
        for s in host.plugins().filter(|s| language.plugin(s.name).is_none()) {
            assert!(known(s.name), "the plugin {} needs no right", s.name);
        }
    }
}
