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
        // None of those asked for is no row.
        if row.is_empty() {
            return Ok(());
        }
        emitter.send(row).await
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_set_is_no_row() {
        let mut registry = Registry::standard();
        register(&mut registry);
        let scope = vql::ScopeBuilder::new(std::sync::Arc::new(registry)).build();
        let rows = async |vars: &str| {
            let text = format!("SELECT * FROM environ(vars={vars})");
            vql::run(&text, &scope).await.unwrap().len()
        };
        assert_eq!(rows("'SURELY_NOT_SET'").await, 0);
        assert_eq!(rows("('SURELY_NOT_SET', 'PATH')").await, 1);
    }
}
