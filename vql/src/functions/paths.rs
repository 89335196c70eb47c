//! path_join, basename, dirname: paths as text of a given type.

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let kind = |signature: Signature| {
        signature.arg("sep", ArgType::String, "The separator.").arg(
            "path_type",
            ArgType::String,
            "linux, windows, registry or generic.",
        )
    };
    let join = Signature::new("path_join", "Joins path components.").required(
        "components",
        ArgType::Paths,
        "The components.",
    );
    registry.function_sync(kind(join), |_, args| {
        let style = Style::new(args.opt_string("sep")?, args.opt_string("path_type")?)?;
        let mut parts = Vec::new();
        let mut rooted = None;
        for component in args.list("components") {
            let text = component.to_text();
            rooted.get_or_insert(style.is_rooted(&text));
            parts.extend(style.split(&text));
        }
        Ok(style.join(&parts, rooted.unwrap_or(false)).into())
    });

    let path = |name, doc| Signature::new(name, doc).required("path", ArgType::Path, "The path.");
    registry.function_sync(kind(path("basename", "The last component.")), |_, args| {
        let style = Style::new(args.opt_string("sep")?, args.opt_string("path_type")?)?;
        let path = args.any("path").to_text();
        Ok(style.split(&path).pop().map_or(Value::from(""), Value::from))
    });
    registry.function_sync(kind(path("dirname", "All but the last component.")), |_, args| {
        let style = Style::new(args.opt_string("sep")?, args.opt_string("path_type")?)?;
        let path = args.any("path").to_text();
        let mut parts = style.split(&path);
        parts.pop();
        Ok(style.join(&parts, style.is_rooted(&path)).into())
    });
}

/// How paths of one type are written.
struct Style {
    separators: Vec<char>,
    separator: String,
    rooted: bool,
}

impl Style {
    fn new(separator: Option<String>, path_type: Option<String>) -> Result<Style, Error> {
        let (separators, written, rooted) = match path_type.as_deref() {
            None | Some("linux" | "generic" | "auto" | "file") => (vec!['/'], "/", true),
            Some("windows" | "registry" | "ntfs") => (vec!['\\', '/'], "\\", false),
            Some(other) => return Err(Error::failed(format!("unknown path type {other}"))),
        };
        Ok(match separator {
            Some(sep) => {
                let rooted = sep == "/";
                Style { separators: sep.chars().collect(), separator: sep, rooted }
            }
            None => Style { separators, separator: written.into(), rooted },
        })
    }

    fn split(&self, path: &str) -> Vec<String> {
        let parts = path.split(|c| self.separators.contains(&c));
        parts.filter(|part| !part.is_empty()).map(String::from).collect()
    }

    fn is_rooted(&self, path: &str) -> bool {
        self.rooted && path.starts_with(|c| self.separators.contains(&c))
    }

    fn join(&self, parts: &[String], rooted: bool) -> String {
        let body = parts.join(&self.separator);
        if rooted { format!("{}{body}", self.separator) } else { body }
    }
}
