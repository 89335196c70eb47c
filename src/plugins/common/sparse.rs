//! The accessors `sparse` and `ranged`: a file of which only stretches are there. The path
//! says which. `sparse`: a list of `Offset` and `Length`; what is between them is zero.
//! `ranged`: a dict whose `jsonl` has for each stretch `original_offset` and `length` in the
//! whole and `file_offset` and `file_length` in what was stored of it.

use std::io::{self, Read, Seek, SeekFrom};

use serde_json::Value as Json;
use vql::{Scope, Str};

use super::accessor::{Accessor, Accessors, Range, ReadSeek, sought};
use super::path::{Kind, OsPath};

/// Most stretches of a file.
const MOST: usize = 1 << 20;

/// See the module.
pub struct Sparse {
    /// What the stored file is read with.
    pub below: Accessors,
    /// Whether what is stored has no holes itself.
    pub packed: bool,
}

/// A stretch of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    at: u64,
    length: u64,
    /// Where it is stored, and how much of it.
    stored: u64,
    kept: u64,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.to_owned())
}

/// A number of a member, whatever case its name is in.
fn number(json: &Json, name: &str) -> u64 {
    let members = json.as_object().into_iter().flatten();
    let found = members.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    let value = found.map(|(_, value)| value);
    // Numbers may be written as text.
    let text = value.and_then(Json::as_str).and_then(|t| t.parse().ok());
    value.and_then(Json::as_u64).or(text).unwrap_or(0)
}

impl Sparse {
    fn stretches(&self, path: &OsPath) -> io::Result<Vec<Stretch>> {
        let text = path.inner_bytes();
        let start = text.iter().position(|b| *b != b'/').unwrap_or(text.len());
        let what = "the path of this accessor says which stretches are there";
        let json: Json = serde_json::from_slice(&text[start..]).map_err(|_| bad(what))?;
        let mut out = Vec::new();
        if !self.packed {
            for range in json.as_array().ok_or_else(|| bad(what))?.iter().take(MOST) {
                let (at, length) = (number(range, "Offset"), number(range, "Length"));
                out.push(Stretch { at, length, stored: at, kept: length });
            }
        } else {
            let mut add = |range: &Json| {
                let of = |name| number(range, name);
                let (at, length) = (of("original_offset"), of("length"));
                let (stored, kept) = (of("file_offset"), of("file_length").min(length));
                out.push(Stretch { at, length, stored, kept });
            };
            let member = |name: &str| json.get(name).and_then(Json::as_str).unwrap_or_default();
            let lines = member("jsonl").lines().take(MOST);
            lines.filter_map(|l| serde_json::from_str(l).ok()).for_each(|r: Json| add(&r));
            let index: Json = serde_json::from_str(member("index")).unwrap_or_default();
            let ranges = index.get("ranges").and_then(Json::as_array).into_iter().flatten();
            ranges.take(MOST).for_each(&mut add);
        }
        out.retain(|s| s.length > 0 && s.at.checked_add(s.length).is_some());
        out.sort_by_key(|s| s.at);
        Ok(out)
    }
}

impl Accessor for Sparse {
    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        self.read(text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let stretches = self.stretches(path)?;
        let size = stretches.iter().map(|s| s.at + s.length).max().unwrap_or(0);
        let file = self.below.open_outer(path)?;
        Ok(Box::new(Whole { file, stretches, size, at: 0 }))
    }

    fn ranges(&self, path: &OsPath) -> io::Result<Option<Vec<Range>>> {
        let (mut out, mut end) = (Vec::new(), 0);
        for s in self.stretches(path)? {
            let hole = |offset, length| Range { offset, length, hole: true };
            if s.at > end {
                out.push(hole(end, s.at - end));
            }
            if s.kept > 0 {
                out.push(Range { offset: s.at, length: s.kept, hole: false });
            }
            if s.length > s.kept {
                out.push(hole(s.at + s.kept, s.length - s.kept));
            }
            end = s.at + s.length;
        }
        Ok(out.iter().any(|r| r.hole).then_some(out))
    }
}

struct Whole {
    file: Box<dyn ReadSeek>,
    stretches: Vec<Stretch>,
    size: u64,
    at: u64,
}

impl Read for Whole {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.at).min(into.len() as u64);
        if left == 0 {
            return Ok(0);
        }
        let behind = self.stretches.partition_point(|s| s.at <= self.at);
        let here = behind.checked_sub(1).map(|i| self.stretches[i]);
        let inside = here.filter(|s| self.at - s.at < s.kept);
        let done = match inside {
            Some(s) => {
                let skip = self.at - s.at;
                self.file.seek(SeekFrom::Start(s.stored.saturating_add(skip)))?;
                let length = left.min(s.kept - skip) as usize;
                match self.file.read(&mut into[..length]) {
                    Ok(n) if n > 0 => n,
                    // What cannot be read is as if it were not there.
                    _ => {
                        into[..length].fill(0);
                        length
                    }
                }
            }
            None => {
                let next = self.stretches.get(behind).map_or(self.size, |s| s.at);
                let length = left.min(next.saturating_sub(self.at)).max(1) as usize;
                into[..length].fill(0);
                length
            }
        };
        self.at += done as u64;
        Ok(done)
    }
}

impl Seek for Whole {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vql::Value;

    #[tokio::test]
    async fn stretches_of_a_file() {
        let mut registry = vql::Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        let text = r#"LET S(P) = pathspec(DelegateAccessor='data', DelegatePath='0123456789', Path=P)
            LET Lines = '{"original_offset":4,"length":3,"file_offset":0,"file_length":2}\n{"original_offset":8,"length":2,"file_offset":5,"file_length":2}\n'
            SELECT read_file(accessor='sparse', filename=S(P='[{"Offset":2,"Length":2},{"offset":6,"length":1}]')) AS A,
                read_file(accessor='sparse', filename=S(P=[dict(Offset=1, Length=2),]), offset=2) AS B,
                read_file(accessor='ranged', filename=S(P=dict(jsonl=Lines))) AS C,
                read_file(accessor='ranged', filename=S(P=dict(jsonl=Lines)), offset=9, length=5) AS D,
                read_file(accessor='sparse', filename=S(P='what')) AS E FROM scope()"#;
        let expected = r#"[{"A":"\u0000\u000023\u0000\u00006","B":"2","C":"\u0000\u0000\u0000\u000001\u0000\u000056","D":"6","E":""}]"#;
        assert_eq!(Value::from(vql::run(text, &scope).await.unwrap()).to_json(), expected);
    }
}
