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
        Ok(args.to_dict().values().next().map(Value::type_name).into())
    });

    let version = Signature::new("version", "The version of a callable, NULL when there is none.")
        .arg("function", ArgType::String, "A function.")
        .arg("plugin", ArgType::String, "A plugin.");
    registry.function_sync(version, |scope, args| {
        let function = args.opt_string("function")?.and_then(|name| scope.function(&name));
        let plugin = args.opt_string("plugin")?.and_then(|name| scope.plugin(&name));
        let function = function.map(|f| f.signature().version);
        Ok(function.or_else(|| plugin.map(|p| p.signature().version)).into())
    });
}

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
        "*vfilter.Scope"
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
