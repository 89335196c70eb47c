//! scope(), typeof() and version(): the query about itself.

use crate::registry::Registry;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::value::{Key, Object, Value};
use std::any::Any;

pub(super) fn register(registry: &mut Registry) {
    let scope = Signature::new("scope", "The current scope as a value.");
    registry.function_sync(scope, |scope, _| Ok(scope_value(scope)));

    let kind = Signature::new("typeof", "The type of a value as format's %T names it.");
    registry.function_sync(kind.any_args(), |_, args| {
        Ok(match args.to_dict().values().next() {
            // It is the rows that are asked about.
            Some(Value::Query(query)) if !query.stored => "[]types.Row".into(),
            value => value.map(Value::type_name).into(),
        })
    });

    let version = Signature::new("version", "The version of a callable, NULL when there is none.")
        .arg("function", ArgType::String, "A function.")
        .arg("plugin", ArgType::String, "A plugin.");
    registry.function_sync(version, |scope, args| {
        let function = args.opt_string("function")?.and_then(|name| scope.function(&name));
        let plugin = args.opt_string("plugin")?.and_then(|name| scope.plugin(&name));
        let function = function.map(|f| version_of(f.signature(), &FUNCTIONS));
        Ok(function.or_else(|| plugin.map(|p| version_of(p.signature(), &PLUGINS))).into())
    });
}

/// What a callable says of itself, or what artifacts ask for that were written for the stock
/// program's 0.77.
fn version_of(signature: &Signature, known: &[(&str, u32)]) -> u32 {
    let stock = known.iter().find(|(name, _)| *name == signature.name).map_or(0, |(_, v)| *v);
    signature.version.max(stock)
}

/// Versions of functions, where they have one.
const FUNCTIONS: [(&str, u32); 80] = [
    ("alert", 2),
    ("artifact_set", 2),
    ("artifact_set_metadata", 2),
    ("atexit", 1),
    ("background", 1),
    ("cache", 2),
    ("cancel_flow", 3),
    ("client_create", 2),
    ("client_info", 2),
    ("client_set_metadata", 3),
    ("collect_client", 3),
    ("copy", 3),
    ("create_flow_download", 2),
    ("create_hunt_download", 2),
    ("create_notebook_download", 2),
    ("encode", 3),
    ("eval", 2),
    ("generate", 3),
    ("geoip", 1),
    ("get_flow", 3),
    ("gunzip", 2),
    ("hash", 3),
    ("host", 2),
    ("humanize", 2),
    ("hunt", 3),
    ("hunt_add", 2),
    ("hunt_update", 2),
    ("import_collection", 2),
    ("inventory_add", 2),
    ("inventory_get", 2),
    ("ip", 2),
    ("link_to", 3),
    ("log", 2),
    ("magic", 1),
    ("mail", 2),
    ("memoize", 3),
    ("notebook_get", 2),
    ("notebook_update_cell", 2),
    ("now", 2),
    ("org_delete", 2),
    ("parse_binary", 2),
    ("parse_json", 2),
    ("parse_json_array", 2),
    ("parse_ntfs", 2),
    ("parse_pe", 2),
    ("parse_xml", 2),
    ("parse_yaml", 2),
    ("pathspec", 2),
    ("process_tracker", 2),
    ("process_tracker_callchain", 2),
    ("process_tracker_children", 2),
    ("process_tracker_get", 2),
    ("process_tracker_tree", 2),
    ("regex_replace", 2),
    ("repack", 2),
    ("rsyslog", 3),
    ("secret_modify", 2),
    ("semver", 1),
    ("send_event", 2),
    ("server_metadata", 3),
    ("shell_session", 1),
    ("shell_session_control", 1),
    ("sigma_log_sources", 2),
    ("strip", 2),
    ("template", 2),
    ("timeline_add", 2),
    ("timeline_delete", 2),
    ("timestamp", 2),
    ("timestamp_format", 1),
    ("trace", 1),
    ("upload", 3),
    ("upload_s3", 3),
    ("upload_webdav", 2),
    ("url", 2),
    ("user_create", 3),
    ("user_delete", 2),
    ("user_grant", 2),
    ("user_message", 1),
    ("verify", 2),
    ("winpmem", 2),
];

/// Versions of plugins, where they have one.
const PLUGINS: [(&str, u32); 48] = [
    ("backup_restore", 2),
    ("batch", 2),
    ("carve_usn", 2),
    ("collect", 2),
    ("delete_flow", 2),
    ("elastic_upload", 2),
    ("enumerate_flow", 3),
    ("execve", 2),
    ("flows", 3),
    ("glob", 3),
    ("handles", 2),
    ("http_client", 3),
    ("hunt_delete", 2),
    ("hunt_flows", 2),
    ("hunt_results", 2),
    ("hunts", 2),
    ("index", 2),
    ("index_search", 1),
    ("logging", 2),
    ("mail", 2),
    ("parse_evtx", 2),
    ("parse_journald", 2),
    ("parse_json_array", 2),
    ("parse_jsonl", 2),
    ("parse_mft", 3),
    ("parse_ntfs_i30", 2),
    ("parse_ntfs_ranges", 2),
    ("parse_usn", 2),
    ("proc_yara", 2),
    ("profile", 2),
    ("query", 2),
    ("read_crypto_file", 2),
    ("source", 2),
    ("split_records", 2),
    ("splunk_upload", 2),
    ("stat", 2),
    ("timeline", 2),
    ("unzip", 2),
    ("uploads", 2),
    ("user_messages", 1),
    ("vfs_ls", 1),
    ("watch_ebpf", 2),
    ("watch_etw", 2),
    ("watch_evtx", 2),
    ("watch_syslog", 2),
    ("write_jsonl", 2),
    ("yara", 2),
    ("yarax", 2),
];

/// The scope as a value.
pub(crate) fn scope_value(scope: &Scope) -> Value {
    Value::object(ScopeObject(scope.clone()))
}

/// A scope seen as a value: its variables are its members, but as a row it has
/// no columns.
#[derive(Debug)]
struct ScopeObject(Scope);

impl Object for ScopeObject {
    fn type_name(&self) -> &'static str {
        "*scope.Scope"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn member(&self, name: &str) -> Option<Value> {
        self.0.resolve(name)
    }
    fn members(&self) -> Vec<Key> {
        Vec::new()
    }
    fn truth(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn types_and_versions() {
        assert_eq!(value("typeof(a={ SELECT * FROM scope() })"), r#""[]types.Row""#);
        let stored = "LET Q = SELECT * FROM scope() SELECT typeof(a=Q) AS T FROM scope()";
        assert_eq!(crate::tests::rows(stored), r#"[{"T":"*vfilter._StoredQuery"}]"#);
        assert_eq!(value("typeof(a=scope())"), r#""*scope.Scope""#);
        assert_eq!(value("version(function='log')"), "2");
        assert_eq!(value("version(function='cache')"), "2");
        assert_eq!(value("version(function='nothing')"), "null");
        assert_eq!(value("version(plugin='range')"), "0");
    }
}
