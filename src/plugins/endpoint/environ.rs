//! `environ`: this process's environment.

use vql::{ArgType, Dict, Registry, Signature, Value};

/// Adds `environ`, as function and as plugin.
pub fn register(registry: &mut Registry) {
    let function = Signature::new("environ", "An environment variable.").refused(false).required(
        "var",
        ArgType::String,
        "Its name.",
    );
    registry.function_sync(function, |_scope, args| {
        let value = std::env::var_os(args.string("var")?);
        Ok(value.map_or(Value::from(""), |v| v.to_string_lossy().into_owned().into()))
    });
    let plugin = Signature::new("environ", "The environment in one row.").arg(
        "vars",
        ArgType::Strings,
        "Only these.",
    );
    registry.plugin_async(plugin, |_scope, args, emitter| async move {
        let wanted = args.strings("vars")?;
        let mut row = Dict::case_insensitive();
        row.set_default(Value::Null);
        for (k, v) in std::env::vars_os() {
            let k = k.to_string_lossy().into_owned();
            if wanted.is_empty() || wanted.contains(&k) {
                row.set(k, v.to_string_lossy().into_owned());
            }
        }
        emitter.send(row).await
    });
}
