//! Which line of a YAML text a key stands on.
//!
//! A light scan of block-style YAML (what configuration files are written in),
//! for messages only: keys inside flow style are found at their parent's line.

use std::collections::BTreeMap;

/// Line numbers by path, such as `Client.server_urls[1]`.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(BTreeMap<String, usize>);

struct Frame {
    column: usize,
    path: String,
    /// Index of the current item, if this is a sequence.
    item: Option<usize>,
}

impl Frame {
    fn child(&self) -> String {
        match self.item {
            Some(i) => format!("{}[{i}]", self.path),
            None => self.path.clone(),
        }
    }
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let mut lines = BTreeMap::new();
        let mut frames: Vec<Frame> = Vec::new();
        // Column of the key or item whose block scalar is being skipped.
        let mut block: Option<usize> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let mut rest = line.trim_start_matches(' ');
            let mut column = line.len() - rest.len();
            if let Some(parent) = block {
                if rest.is_empty() || column > parent {
                    continue;
                }
                block = None;
            }
            if rest.is_empty() || rest.starts_with(['#', '%']) || rest == "---" || rest == "..." {
                continue;
            }
            while rest == "-" || rest.starts_with("- ") {
                frames.retain(|f| f.column <= column);
                match frames.last_mut() {
                    Some(Frame { column: c, item: Some(i), .. }) if *c == column => *i += 1,
                    top => {
                        let path = top.map(|f| f.child()).unwrap_or_default();
                        frames.push(Frame { column, path, item: Some(0) });
                    }
                }
                if let Some(top) = frames.last() {
                    lines.insert(top.child(), number);
                }
                let tail = rest[1..].trim_start_matches(' ');
                block = is_block(tail).then_some(column);
                column += rest.len() - tail.len();
                rest = tail;
            }
            let Some((key, value)) = key(rest) else { continue };
            frames.retain(|f| f.column < column);
            let path = match frames.last().map(Frame::child) {
                Some(parent) if !parent.is_empty() => format!("{parent}.{key}"),
                _ => key.to_owned(),
            };
            lines.insert(path.clone(), number);
            frames.push(Frame { column, path, item: None });
            block = is_block(value).then_some(column);
        }
        Self(lines)
    }

    /// The line of `path`, or of its nearest known parent; 1 if there is none.
    pub(super) fn find(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(n) = self.0.get(path) {
                return *n;
            }
            match path.rfind(['.', '[']) {
                Some(i) => path = &path[..i],
                None => return 1,
            }
        }
    }
}

fn is_block(value: &str) -> bool {
    let value = value.trim_start_matches(['&', '!']);
    value.starts_with(['|', '>'])
}

/// `key: value` split, quotes of the key removed.
fn key(s: &str) -> Option<(&str, &str)> {
    let (name, rest) = match s.chars().next()? {
        q @ ('"' | '\'') => {
            let end = s[1..].find(q)? + 1;
            (&s[1..end], s[end + 1..].trim_start())
        }
        _ => {
            let end = s.find(": ").or_else(|| s.strip_suffix(':').map(str::len))?;
            (s[..end].trim_end(), &s[end..])
        }
    };
    let value = rest.strip_prefix(':')?;
    Some((name, value.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_items_and_parents() {
        let text = "\
version:
  name: x
Client:
  server_urls:
  - https://a/
  - https://b/
  ca_certificate: |
    -----BEGIN: X-----
    fake: key

    more
  nonce: abc
GUI:
  links:
    - text: One
      url: http://x: 1
    -   text: Two
  note: >-
    folded: text
  initial_users: [{name: a}]
autoexec:
  argv:
  - |
    a: b
  - c
'quoted key': 1
";
        let l = Lines::of(text);
        for (path, line) in [
            ("version.name", 2),
            ("Client", 3),
            ("Client.server_urls[1]", 6),
            ("Client.ca_certificate", 7),
            ("Client.nonce", 12),
            ("GUI.links[0].url", 16),
            ("GUI.links[1].text", 17),
            ("GUI.initial_users[0].name", 20),
            ("GUI.missing.deep[3]", 13),
            ("autoexec.argv[1]", 25),
            ("quoted key", 26),
            ("nothing", 1),
        ] {
            assert_eq!(l.find(path), line, "{path}");
        }
        assert!(!l.0.contains_key("Client.ca_certificate.fake"));
        assert!(!l.0.contains_key("GUI.note.folded"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[-a:| '\"\n#>é\\[\\]{}]{0,80}") {
            let _ = Lines::of(&text).find("a.b[0]");
        }
    }
}
