//! path_join, path_split, basename, dirname, relpath: paths as text of a type.
//! A host with a path type of its own replaces these.

use crate::args::Args;
use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::Value;

pub(super) fn register(registry: &mut Registry) {
    let kind = |signature: Signature| {
        signature
            .arg("sep", ArgType::String, "A backslash means windows when no type is given.")
            .arg("path_type", ArgType::String, "linux, windows, registry, ntfs or generic.")
    };
    let join = Signature::new("path_join", "Joins path components.").refused(false).required(
        "components",
        ArgType::Paths,
        "The components.",
    );
    registry.function_sync(kind(join), |_, args| {
        let style = Style::of(args)?;
        let texts = args.list("components").into_iter().map(|c| c.to_text());
        let parts: Vec<String> = texts.flat_map(|text| style.split(&text)).collect();
        Ok(style.join(&parts).into())
    });

    let path = |name, doc| Signature::new(name, doc).required("path", ArgType::Path, "The path.");
    let split = path("path_split", "The components of a path.").refused(Vec::<Value>::new()).arg(
        "path_type",
        ArgType::String,
        "linux, windows, registry, ntfs or generic.",
    );
    registry.function_sync(split, |_, args| {
        let style = Style::new(args.opt_string("path_type")?)?;
        Ok(style.split(&args.any("path").to_text()).into())
    });
    registry.function_sync(
        kind(path("basename", "The last component.").refused(false)),
        |_, args| {
            let (path, named) = (args.any("path"), args.opt_string("path_type")?);
            // Text of no type may be of any system; a path knows what it is.
            let style = match &path {
                Value::Str(_) if named.is_none() => Style::new(Some("generic".into()))?,
                _ => Style::new(named)?,
            };
            let last = style.split(&path.to_text()).pop();
            Ok(last.unwrap_or_default().into())
        },
    );
    registry.function_sync(
        kind(path("dirname", "All but the last component.").refused(false)),
        |_, args| {
            let style = Style::of(args)?;
            let mut parts = style.split(&args.any("path").to_text());
            parts.pop();
            Ok(style.join(&parts).into())
        },
    );

    let relpath = path("relpath", "The path seen from another.")
        .refused(false)
        .required("base", ArgType::Path, "Where it is seen from.")
        .arg("sep", ArgType::String, "Accepted; the type decides.");
    registry.function_sync(relpath, |_, args| {
        let style = Style::new(None)?;
        let (path, base) = (args.any("path").to_text(), args.any("base").to_text());
        // No way leads from a place that is known to one that is not.
        if path.starts_with('/') != base.starts_with('/') {
            return Ok("".into());
        }
        let (path, base) = (style.split(&path), style.split(&base));
        let common = path.iter().zip(&base).take_while(|(a, b)| a == b).count();
        let mut parts = vec!["..".to_string(); base.len() - common];
        parts.extend_from_slice(&path[common..]);
        Ok(if parts.is_empty() { Value::from(".") } else { parts.join("/").into() })
    });
}

/// How paths of one type are written.
struct Style {
    separators: &'static [char],
    separator: &'static str,
    rooted: bool,
    /// Components with a separator in them stand in double quotes.
    quoted: bool,
}

impl Style {
    /// What the arguments `path_type` and `sep` ask for.
    fn of(args: &Args) -> Result<Style, Error> {
        let named = args.opt_string("path_type")?;
        let backslash = named.is_none() && args.string("sep")? == "\\";
        Style::new(named.or_else(|| backslash.then(|| "windows".into())))
    }

    fn new(path_type: Option<String>) -> Result<Style, Error> {
        Ok(match path_type.as_deref() {
            None | Some("linux" | "auto" | "file") => {
                Style { separators: &['/'], separator: "/", rooted: true, quoted: false }
            }
            Some("generic") => {
                Style { separators: &['/', '\\'], separator: "/", rooted: true, quoted: true }
            }
            Some("windows" | "registry" | "ntfs") => {
                Style { separators: &['\\', '/'], separator: "\\", rooted: false, quoted: true }
            }
            Some(other) => return Err(Error::failed(format!("unknown path type {other}"))),
        })
    }

    fn split(&self, path: &str) -> Vec<String> {
        if self.quoted {
            return split_quoted(path, self.separators);
        }
        let parts = path.split(self.separators);
        parts.filter(|part| !part.is_empty()).map(String::from).collect()
    }

    fn join(&self, parts: &[String]) -> String {
        let root = if self.rooted && !parts.is_empty() { self.separator } else { "" };
        let quote = |part: &String| match self.quoted && part.contains(['/', '\\', '"']) {
            true => format!("\"{}\"", part.replace('"', "\"\"")),
            false => part.clone(),
        };
        let parts: Vec<String> = parts.iter().map(quote).collect();
        format!("{root}{}", parts.join(self.separator))
    }
}

/// The components of a path in which those in double quotes may hold separators;
/// a quote in them is doubled.
fn split_quoted(path: &str, separators: &[char]) -> Vec<String> {
    let (mut parts, mut part, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                part.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if part.is_empty() => quoted = true,
            c if !quoted && separators.contains(&c) => {
                if !part.is_empty() {
                    parts.push(std::mem::take(&mut part));
                }
            }
            c => part.push(c),
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn a_backslash_as_separator_means_windows() {
        assert_eq!(value(r"path_join(components=('C:', 'a', 'b'), sep='\\')"), r#""C:\\a\\b""#);
        assert_eq!(value(r"dirname(path='C:\\a\\b', sep='\\')"), r#""C:\\a""#);
        // A type decides.
        let linux = r"path_join(components=('a', 'b'), sep='\\', path_type='linux')";
        assert_eq!(value(linux), r#""/a/b""#);
    }
}
