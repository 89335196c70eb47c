//! What callables that know no server need on one: the right to touch its
//! files, processes and network. Elsewhere they ask for nothing.

use std::sync::Arc;

use vql::{Args, Error, Function, Plugin, Registry, Reply, RowStream, Scope, Signature, Value};

use super::session::Session;
use crate::plugins::common::sqlite;
use crate::services::acl::Permission::{
    self, Execve, FilesystemRead, FilesystemWrite, MachineState, Network,
};

/// Callables by name and what they need, some of them twice. A name may be a
/// function, a plugin or both.
const NEEDS: &[(&str, Permission)] = &[
    ("audit", MachineState),
    ("cat", FilesystemRead),
    ("compress", FilesystemRead),
    ("compress", FilesystemWrite),
    ("connections", MachineState),
    ("copy", FilesystemWrite),
    ("efivariables", MachineState),
    ("elastic_upload", Network),
    ("environ", MachineState),
    ("execve", Execve),
    ("expand", MachineState),
    ("geoip", FilesystemRead),
    ("getpid", MachineState),
    ("glob", FilesystemRead),
    ("hash", FilesystemRead),
    ("host", MachineState),
    ("http_client", Network),
    ("info", MachineState),
    ("interfaces", MachineState),
    ("leveldb", FilesystemRead),
    ("logscale_upload", Network),
    ("netstat", MachineState),
    ("parse_binary", FilesystemRead),
    ("parse_csv", FilesystemRead),
    ("parse_journald", FilesystemRead),
    ("parse_jsonl", FilesystemRead),
    ("parse_lines", FilesystemRead),
    ("parse_pe", FilesystemRead),
    ("parse_records_with_regex", FilesystemRead),
    ("parse_xml", FilesystemRead),
    ("parse_yaml", FilesystemRead),
    ("plist", FilesystemRead),
    ("prefetch", FilesystemRead),
    ("proc_yara", MachineState),
    ("pskill", Execve),
    ("pslist", MachineState),
    ("read_file", FilesystemRead),
    ("read_reg_key", FilesystemRead),
    ("rekey", Execve),
    ("remap", FilesystemRead),
    ("remap", MachineState),
    ("rm", FilesystemWrite),
    ("shell_session", Execve),
    ("shell_session_control", Execve),
    ("split_records", FilesystemRead),
    ("splunk_upload", Network),
    ("sqlite", FilesystemRead),
    ("stat", FilesystemRead),
    ("sysinfo", MachineState),
    ("tempdir", FilesystemWrite),
    ("tempfile", FilesystemWrite),
    ("tlsh_hash", FilesystemRead),
    ("unzip", FilesystemRead),
    ("unzip", FilesystemWrite),
    ("upload", FilesystemRead),
    ("upload_directory", FilesystemWrite),
    ("upload_s3", FilesystemRead),
    ("upload_s3", Network),
    ("vfs_ls", FilesystemRead),
    ("watch_journald", FilesystemRead),
    ("watch_syslog", FilesystemRead),
    ("watch_csv", FilesystemRead),
    ("watch_jsonl", FilesystemRead),
    ("write_csv", FilesystemWrite),
    ("write_file", FilesystemRead),
    ("write_file", FilesystemWrite),
    ("write_jsonl", FilesystemWrite),
    ("yara", FilesystemRead),
    ("yarax", FilesystemRead),
];

/// Callables beyond the language that touch nothing.
const HARMLESS: &[&str] =
    &["clock", "crypto_rc4", "gunzip", "patch", "pathspec", "pipe", "rand", "sleep", "url"];

/// What a callable needs. Whatever is neither part of the language nor known
/// here looks at the machine.
fn needed(name: &str, in_language: bool) -> Vec<Permission> {
    let known: Vec<_> = NEEDS.iter().filter(|(n, _)| *n == name).map(|(_, p)| *p).collect();
    match known.is_empty() && !in_language && !HARMLESS.contains(&name) {
        true => vec![MachineState],
        false => known,
    }
}

/// Puts a check before every callable that needs one. Callables that know a
/// server check for themselves and are added afterwards.
pub(super) fn install(registry: &mut Registry) {
    let language = Registry::standard();
    let functions: Vec<_> = registry.functions().map(|s| s.name).collect();
    for name in functions {
        for permission in needed(name, language.function(name).is_some()) {
            if let Some(inner) = registry.function(name) {
                registry.add_function(Arc::new(GuardedFunction { inner, permission }));
            }
        }
    }
    let plugins: Vec<_> = registry.plugins().map(|s| s.name).collect();
    for name in plugins {
        for permission in needed(name, language.plugin(name).is_some()) {
            if let Some(inner) = registry.plugin(name) {
                registry.add_plugin(Arc::new(GuardedPlugin { inner, permission }));
            }
        }
    }
}

/// Reading what the query itself holds needs no right.
fn allowed(scope: &Scope, args: &Args, permission: Permission) -> Result<(), Error> {
    let permission = match &**args.call_name() {
        "sqlite" if !sqlite::only_reads(&args.string("query")?) => FilesystemWrite,
        _ => permission,
    };
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
    fn whatever_is_not_known_looks_at_the_machine() {
        assert_eq!(needed("something_new", false), [MachineState]);
        assert_eq!(needed("execve", false), [Execve]);
        assert_eq!(needed("parse_csv", true), [FilesystemRead]);
        assert_eq!(needed("upload_s3", false), [FilesystemRead, Network]);
        assert_eq!(needed("format", true), []);
        assert_eq!(needed("clock", false), []);
    }
}
