//! path_join, path_split, basename, dirname, relpath: paths as text of a type.
//! A host with a path type of its own replaces these.

use crate::args::Args;
use crate::error::Error;
use crate::log::Level;
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
        let components = match args.any("components") {
            Value::List(items) => items.to_vec(),
            one => vec![one],
        };
        let texts = components.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<String> = texts.iter().flat_map(|text| style.split(text)).collect();
        Ok(style.join(&parts).into())
    });

    let path = |name, doc| Signature::new(name, doc).required("path", ArgType::Path, "The path.");
    let split = path("path_split", "The components of a path.").refused(Vec::<Value>::new()).arg(
        "path_type",
        ArgType::String,
        "linux, windows, registry, ntfs or generic.",
    );
    registry.function_sync(split, |scope, args| {
        let style = Style::any(args.opt_string("path_type")?)?;
        let path = match text(&args.any("path")) {
            Ok(path) => path,
            Err(why) => {
                scope.log(Level::Default, format!("path_split: {why}"));
                return Ok(false.into());
            }
        };
        let parts = style.split(&path);
        Ok(if parts.is_empty() { Value::nil_list() } else { parts.into() })
    });
    registry.function_sync(
        kind(path("basename", "The last component.").refused(false)),
        |_, args| {
            let style = Style::seen(args)?;
            Ok(style.split(&text(&args.any("path"))?).pop().unwrap_or_default().into())
        },
    );
    registry.function_sync(
        kind(path("dirname", "All but the last component.").refused(false)),
        |_, args| {
            let style = Style::seen(args)?;
            let mut parts = style.split(&text(&args.any("path"))?);
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

/// The text of a path; other values are none.
fn text(path: &Value) -> Result<String, Error> {
    match path {
        Value::Str(_) | Value::Bytes(_) | Value::Object(_) => Ok(path.to_text()),
        other => {
            let kind = other.type_name();
            Err(Error::Arg(format!("Path should be an OSPath or string, not {kind}")))
        }
    }
}

/// How paths of one type are written.
struct Style {
    kind: Kind,
    separators: &'static [char],
    separator: &'static str,
    /// Components with a separator in them stand in double quotes.
    quoted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linux,
    Generic,
    Windows,
    Registry,
}

impl Style {
    /// What the arguments `path_type` and `sep` ask for.
    fn of(args: &Args) -> Result<Style, Error> {
        let named = args.opt_string("path_type")?;
        let backslash = named.is_none() && args.string("sep")? == "\\";
        Style::new(named.or_else(|| backslash.then(|| "windows".into())))
    }

    /// The same for a path that was written somewhere: text of no type may be of any system; a
    /// path knows what it is.
    fn seen(args: &Args) -> Result<Style, Error> {
        match (args.any("path"), args.has("path_type") || args.has("sep")) {
            (Value::Object(_), _) | (_, true) => Style::of(args),
            _ => Style::any(None),
        }
    }

    fn any(path_type: Option<String>) -> Result<Style, Error> {
        Style::new(path_type.or_else(|| Some("generic".into())))
    }

    fn new(path_type: Option<String>) -> Result<Style, Error> {
        let (slash, either): (&[char], &[char]) = (&['/'], &['\\', '/']);
        let (kind, separators, separator, quoted) = match path_type.as_deref() {
            None | Some("linux" | "auto" | "file") => (Kind::Linux, slash, "/", false),
            Some("generic") => (Kind::Generic, either, "/", true),
            Some("windows" | "ntfs") => (Kind::Windows, either, "\\", true),
            Some("registry") => (Kind::Registry, either, "\\", true),
            Some(other) => return Err(Error::failed(format!("unknown path type {other}"))),
        };
        Ok(Style { kind, separators, separator, quoted })
    }

    fn split(&self, path: &str) -> Vec<String> {
        // A device is one component, or only its name where paths are of no system.
        let device = path.strip_prefix(r"\\.\").or_else(|| path.strip_prefix(r"\\?\"));
        let (device, path) = match (self.kind, device) {
            (Kind::Windows, Some(rest)) => {
                let end = rest.find(self.separators).unwrap_or(rest.len());
                let (name, rest) = path.split_at(path.len() - rest.len() + end);
                (Some(name.to_owned()), rest)
            }
            (Kind::Generic, Some(rest)) => (None, rest),
            _ => (None, path),
        };
        let parts: Vec<String> = match self.quoted {
            true => split_quoted(path, self.separators),
            false => path.split('/').filter(|part| !part.is_empty()).map(String::from).collect(),
        };
        let mut parts: Vec<String> = device.into_iter().chain(parts).collect();
        match self.kind {
            Kind::Generic => parts.retain(|part| part != ".."),
            Kind::Registry => {
                if let Some(hive) = parts.first_mut() {
                    *hive = whole_name(hive).map_or_else(|| hive.clone(), str::to_owned);
                }
            }
            _ => {}
        }
        parts
    }

    fn join(&self, parts: &[String]) -> String {
        let drive = |part: &String| part.len() == 2 && part.ends_with(':');
        let root = match (self.kind, parts.first()) {
            (Kind::Linux | Kind::Generic, Some(first)) if !drive(first) => self.separator,
            _ => "",
        };
        let device = |at: usize, part: &str| at == 0 && part.starts_with(r"\\");
        let quote = |(at, part): (usize, &String)| {
            let special = part.contains(['/', '\\', '"']) && !device(at, part);
            match self.quoted && special {
                true => format!("\"{}\"", part.replace('"', "\"\"")),
                false => part.clone(),
            }
        };
        let parts: Vec<String> = parts.iter().enumerate().map(quote).collect();
        format!("{root}{}", parts.join(self.separator))
    }
}

/// The name of a hive that is written short.
fn whole_name(hive: &str) -> Option<&'static str> {
    Some(match hive.to_ascii_uppercase().as_str() {
        "HKLM" => "HKEY_LOCAL_MACHINE",
        "HKCU" => "HKEY_CURRENT_USER",
        "HKU" => "HKEY_USERS",
        "HKCR" => "HKEY_CLASSES_ROOT",
        _ => return None,
    })
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
    fn paths_of_any_system_are_taken_apart() {
        let cases = [
            (r"path_split(path='a/b\\c')", r#"["a","b","c"]"#),
            (r"path_split(path='\\\\.\\C:\\x')", r#"["C:","x"]"#),
            (r"path_split(path='\\\\.\\C:\\x', path_type='ntfs')", r#"["\\\\.\\C:","x"]"#),
            (r"path_split(path='HKLM\\x', path_type='registry')", r#"["HKEY_LOCAL_MACHINE","x"]"#),
            (r"path_split(path='C:\\a', path_type='linux')", r#"["C:\\a"]"#),
            ("path_split(path='')", "null"),
            ("path_split(path=5)", "false"),
            ("path_join(components=('a', NULL))", "false"),
            ("path_join(components=('C:', 'a'))", r#""C:/a""#),
            (r"dirname(path='a\\b\\c')", r#""/a/b""#),
            (r"basename(path='a\\b')", r#""b""#),
        ];
        for (text, expected) in cases {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn a_backslash_as_separator_means_windows() {
        assert_eq!(value(r"path_join(components=('C:', 'a', 'b'), sep='\\')"), r#""C:\\a\\b""#);
        assert_eq!(value(r"dirname(path='C:\\a\\b', sep='\\')"), r#""C:\\a""#);
        // A type decides.
        let linux = r"path_join(components=('a', 'b'), sep='\\', path_type='linux')";
        assert_eq!(value(linux), r#""/a/b""#);
    }
}
