//! `users`: local accounts, with the columns the plugin has on Windows as far
//! as Linux knows them, and those Linux has besides.

use vql::{Dict, Registry, Signature, Value};

use crate::plugins::common::host;

/// Adds `users`.
pub fn register(registry: &mut Registry) {
    let plugin = Signature::new("users", "Local accounts, from /etc/passwd.");
    registry.plugin_async(plugin, |scope, _args, emitter| async move {
        let path = host(&scope).root.join("etc/passwd");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| vql::Error::failed(format!("users: {}: {e}", path.display())))?;
        for account in text.lines().filter_map(account) {
            emitter.send(account).await?;
        }
        Ok(())
    });
}

/// One line of the file; comments and damaged lines are no accounts.
fn account(line: &str) -> Option<Dict> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, description, home, shell] = fields.as_slice() else { return None };
    let (uid, gid) = (uid.parse::<i64>().ok()?, gid.parse::<i64>().ok()?);
    Some(
        Dict::new()
            .with("Uid", uid)
            .with("Gid", gid)
            .with("Name", *name)
            .with("Description", *description)
            .with("Directory", *home)
            .with("UUID", Value::Null)
            .with("Mtime", Value::Null)
            .with("Type", "local")
            .with("Shell", *shell),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let a = account("root:x:0:0:root:/root:/bin/bash").unwrap();
        assert_eq!(a.get("Name").unwrap().to_json(), "\"root\"");
        assert_eq!(a.get("Uid").unwrap().to_json(), "0");
        assert!(account("# comment").is_none() && account("x:y:z").is_none());
        assert!(account("a:x:not:0:::").is_none());
    }
}
