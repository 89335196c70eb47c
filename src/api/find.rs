//! A text or bytes looked for in a file of the datastore.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use tonic::Status;

use super::status::store;
use super::{Api, Caller};
use crate::store::uploads::Holes;

/// Bytes looked through at once, and how far a match may reach beyond them.
const WINDOW: u64 = 1 << 20;
const OVERLAP: u64 = 64 << 10;
/// Longest thing to look for, in bytes, and largest compiled one.
const MAX_TERM: usize = 4096;
const MAX_PROGRAM: usize = 4 << 20;

/// What is looked for, and from where.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    /// The file.
    pub vfs_components: Vec<String>,
    term: String,
    /// `string`, `regex` (case ignored) or `hex`.
    r#type: String,
    /// Matches from here on, or before here.
    #[serde(deserialize_with = "number")]
    offset: u64,
    forward: bool,
    /// Holes of a sparse file count as zeros.
    padding: bool,
}

/// A number, or its digits as text.
fn number<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    match serde::Deserialize::deserialize(d)? {
        Either::Number(n) => Ok(n),
        Either::Text(t) => t.parse().map_err(serde::de::Error::custom),
    }
}

fn matcher(kind: &str, term: &str) -> Result<Regex, String> {
    if term.is_empty() || term.len() > MAX_TERM {
        return Err(format!("term: must have 1 to {MAX_TERM} bytes"));
    }
    let mut exact = String::new();
    let mut case = false;
    match kind {
        "regex" => (exact, case) = (term.to_owned(), true),
        "hex" => {
            let digits: String = term.split_whitespace().collect();
            let bytes = hex::decode(&digits).map_err(|e| format!("term: {e}"))?;
            bytes.iter().for_each(|b| exact.push_str(&format!("\\x{b:02x}")));
        }
        "" | "string" => exact = regex::escape(term),
        other => return Err(format!("type: `{other}` is not string, regex or hex")),
    }
    let made = RegexBuilder::new(&exact)
        .case_insensitive(case)
        .multi_line(case)
        .dot_matches_new_line(case)
        .unicode(kind != "hex")
        .size_limit(MAX_PROGRAM)
        .build();
    made.map_err(|e| format!("term: {e}"))
}

impl Api {
    /// Where the next match begins, or the last one before; `None` if there is none.
    pub(super) async fn find(&self, caller: &Caller, w: &Wanted) -> Result<Option<u64>, Status> {
        let file = self.open_file(caller, ("", &w.vfs_components)).await?;
        let matcher = matcher(&w.r#type, &w.term).map_err(Status::invalid_argument)?;
        let matcher = Arc::new(matcher);
        let holes = if w.padding { Holes::Padded } else { Holes::Skipped };
        let size = file.size(holes).map_err(store)?;
        let mut at = match w.forward {
            true => w.offset,
            false => w.offset.min(size),
        };
        loop {
            // Matches that begin in `from..to` count.
            let (from, to) = match w.forward {
                true if at >= size => return Ok(None),
                true => (at, at.saturating_add(WINDOW).min(size)),
                false if at == 0 => return Ok(None),
                false => (at.saturating_sub(WINDOW), at),
            };
            let len = usize::try_from(to - from + OVERLAP).unwrap_or(usize::MAX);
            let data = file.read(holes, from, len).await.map_err(store)?;
            let (matcher, forward) = (matcher.clone(), w.forward);
            let found = self.server.env.offload(move || {
                let starts = matcher.find_iter(&data).map(|m| m.start() as u64);
                let mut starts = starts.take_while(|s| from + s < to);
                if forward { starts.next() } else { starts.last() }
            });
            let stopping = || Status::unavailable("the server is stopping");
            if let Some(start) = found.await.ok_or_else(stopping)? {
                return Ok(Some(from + start));
            }
            at = if w.forward { to } else { from };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_for() {
        let is = |kind: &str, term: &str, text: &[u8]| matcher(kind, term).unwrap().is_match(text);
        assert!(is("string", "a.b", b"xa.b") && !is("string", "a.b", b"axb"));
        assert!(!is("", "A", b"a") && is("regex", "A.b", b"a\nB"));
        assert!(is("hex", "ff 00", b"\xff\x00") && !is("hex", "ff00", "\u{ff}".as_bytes()));
        for (kind, term) in [("hex", "f"), ("regex", "("), ("glob", "x"), ("string", "")] {
            assert!(matcher(kind, term).is_err(), "{kind} {term}");
        }
        let asked: Wanted = serde_json::from_str(r#"{"offset":"12","forward":true}"#).unwrap();
        assert_eq!((asked.offset, asked.forward), (12, true));
    }
}
