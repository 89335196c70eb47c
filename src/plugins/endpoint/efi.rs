//! `efivariables`: what the firmware keeps, from `/sys/firmware/efi/efivars`.

use std::path::Path;

use vql::{ArgType, Dict, Error, Registry, Signature, Value};

use crate::plugins::common::{blocking, host};

/// Bytes of attributes before the value.
const ATTRIBUTES: usize = 4;
/// Characters of the namespace at the end of a file name.
const GUID: usize = 36;
/// Largest value read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Adds `efivariables`.
pub fn register(registry: &mut Registry) {
    let efi = Signature::new("efivariables", "The variables of the firmware.")
        .arg("namespace", ArgType::String, "Only those of this namespace.")
        .arg("name", ArgType::String, "Only this one.")
        .arg("value", ArgType::Bool, "Read values too.");
    registry.plugin_async(efi, |scope, args, emitter| async move {
        let dir = host(&scope).root.join("sys/firmware/efi/efivars");
        let (namespace, name) = (args.string("namespace")?, args.string("name")?);
        let value = args.bool("value")?;
        let read = move || variables(&dir, &namespace, &name, value);
        let rows = blocking(&scope, read).await?;
        for row in rows.map_err(Error::failed)? {
            emitter.send(row).await?;
        }
        Ok(())
    });
}

fn variables(dir: &Path, namespace: &str, name: &str, values: bool) -> Result<Vec<Dict>, String> {
    let listed = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files: Vec<String> =
        listed.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        // NAME-namespace
        let Some((of, space)) =
            file.len().checked_sub(GUID).and_then(|at| file.split_at_checked(at))
        else {
            continue;
        };
        let Some(of) = of.strip_suffix('-') else { continue };
        if (!namespace.is_empty() && namespace != space) || (!name.is_empty() && name != of) {
            continue;
        }
        let value = match values {
            true => Value::Bytes(read(&dir.join(&file))?.into()),
            false => Value::Null,
        };
        rows.push(Dict::new().with("Namespace", space).with("Name", of).with("Value", value));
    }
    Ok(rows)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut data = Vec::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(LIMIT).read_to_end(&mut data))
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(data.split_off(ATTRIBUTES.min(data.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_namespaces_and_values() {
        let dir = tempfile::tempdir().unwrap();
        let space = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
        std::fs::write(dir.path().join(format!("Boot-Order-{space}")), b"\x07\0\0\0ab").unwrap();
        std::fs::write(dir.path().join("short"), b"").unwrap();
        let all = variables(dir.path(), "", "", true).unwrap();
        let expected = format!(r#"[{{"Namespace":"{space}","Name":"Boot-Order","Value":"YWI="}}]"#);
        assert_eq!(Value::from(all).to_json(), expected);
        assert!(variables(dir.path(), "", "Other", true).unwrap().is_empty());
        assert!(variables(&dir.path().join("no"), "", "", true).is_err());
    }
}
