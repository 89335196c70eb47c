//! The text form of a component list, as clients, rows and VQL write paths.
//! Pure; knows nothing of disks.

fn is_drive(c: &str) -> bool {
    let b = c.as_bytes();
    b.len() == 2 && b[0].is_ascii_alphabetic() && b[1] == b':'
}

/// One text from components: separated by `/`, with a leading one unless the
/// first is a drive letter; a component with a separator or quote is quoted.
pub fn join(components: &[String]) -> String {
    let mut out = String::new();
    let drive = components.first().is_some_and(|c| is_drive(c));
    let mut first = true;
    for c in components.iter().filter(|c| !c.is_empty()) {
        if !(first && drive) {
            out.push('/');
        }
        first = false;
        if c.contains(['/', '\\', '"']) {
            out.push('"');
            out.push_str(&c.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(c);
        }
    }
    out
}

/// The components of a text: `/` and `\` separate, quotes protect; empty, `.`
/// and `..` components are dropped.
pub fn split(path: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (component, next) = take(rest);
        rest = next;
        if !matches!(component.as_str(), "" | "." | "..") {
            out.push(component);
        }
    }
    out
}

fn take(path: &str) -> (String, &str) {
    if let Some(quoted) = path.strip_prefix('"') {
        return take_quoted(quoted);
    }
    match path.find(['/', '\\']) {
        Some(0) => (String::new(), &path[1..]),
        Some(i) => (path[..i].to_owned(), &path[i..]),
        None => (path.to_owned(), ""),
    }
}

fn take_quoted(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut rest = text;
    while let Some(i) = rest.find('"') {
        out.push_str(&rest[..i]);
        rest = &rest[i + 1..];
        match rest.chars().next() {
            None => return (out, ""),
            Some('"') => {
                out.push('"');
                rest = &rest[1..];
            }
            Some('/' | '\\') => return (out, rest),
            // A stray quote inside a quoted component is dropped.
            Some(_) => {}
        }
    }
    out.push_str(rest);
    (out, "")
}

/// Components of a path on an endpoint: a device prefix (`\\.\C:`, `\\?\C:`,
/// `\\?\GLOBALROOT\Device\x`) stays one component.
pub fn split_endpoint(path: &str) -> Vec<String> {
    let Some(len) = device_prefix(path) else { return split(path) };
    let mut out = vec![path[..len].to_owned()];
    out.extend(split(&path[len..]));
    out
}

fn device_prefix(path: &str) -> Option<usize> {
    let rest = path.strip_prefix(r"\\.\").or_else(|| path.strip_prefix(r"\\?\"))?;
    let start = path.len() - rest.len();
    const DEVICE: &str = r"GLOBALROOT\Device\";
    if path.starts_with(r"\\?\")
        && rest.get(..DEVICE.len()).is_some_and(|p| p.eq_ignore_ascii_case(DEVICE))
    {
        let name = &rest[DEVICE.len()..];
        let end = name.find(['/', '\\']).unwrap_or(name.len());
        return (end > 0).then_some(start + DEVICE.len() + end);
    }
    is_drive(rest.get(..2)?).then_some(())?;
    matches!(rest[2..].chars().next(), None | Some('/' | '\\')).then_some(start + 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v(c: &[&str]) -> Vec<String> {
        c.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn joins_and_splits() {
        assert_eq!(join(&v(&["a", "b c"])), "/a/b c");
        assert_eq!(join(&v(&["C:", "Windows"])), "C:/Windows");
        assert_eq!(join(&v(&["Run", r"c:\x.exe", "q\"q"])), "/Run/\"c:\\x.exe\"/\"q\"\"q\"");
        assert_eq!(join(&[]), "");
        assert_eq!(split(r"C:\Windows/./../x\\y"), v(&["C:", "Windows", "x", "y"]));
        assert_eq!(split(r#"\HKEY\"c:\w\m.exe"\z"#), v(&["HKEY", r"c:\w\m.exe", "z"]));
        assert_eq!(split("\"open"), v(&["open"]));
        assert!(split("///").is_empty());
    }

    #[test]
    fn devices_stay_whole() {
        assert_eq!(split_endpoint(r"\\.\C:\a\b"), v(&[r"\\.\C:", "a", "b"]));
        assert_eq!(split_endpoint(r"\\?\C:"), v(&[r"\\?\C:"]));
        assert_eq!(
            split_endpoint(r"\\?\GLOBALROOT\Device\Shadow1\x/y"),
            v(&[r"\\?\GLOBALROOT\Device\Shadow1", "x", "y"])
        );
        assert_eq!(split_endpoint(r"\\host\share"), v(&["host", "share"]));
        assert_eq!(split_endpoint("/etc/passwd"), v(&["etc", "passwd"]));
    }

    proptest! {
        #[test]
        fn round_trip(c in prop::collection::vec("[a-z/\\\\\"é.:]{1,6}", 0..5)) {
            let keep: Vec<String> = c.into_iter().filter(|c| c != "." && c != "..").collect();
            prop_assert_eq!(split(&join(&keep)), keep);
        }

        #[test]
        fn any_text_splits(s in "\\PC{0,40}") {
            prop_assert!(split(&s).iter().all(|c| !c.is_empty()));
            split_endpoint(&s);
        }
    }
}
