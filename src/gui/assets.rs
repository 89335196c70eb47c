//! Style sheets, scripts and icons, carried in the program.
//!
//! Their address holds a hash of all of them, so browsers keep them for a year and
//! scripts find each other by relative names. They are served to everybody.

use std::collections::BTreeMap;
use std::io::Write as _;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/gui_assets.rs"));

/// All files, ready to be sent.
#[derive(Debug)]
pub struct Assets {
    build: String,
    files: BTreeMap<&'static str, File>,
}

#[derive(Debug)]
struct File {
    kind: &'static str,
    plain: &'static [u8],
    gzip: Bytes,
}

fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}

fn gzip(data: &[u8]) -> Bytes {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let _ = out.write_all(data);
    out.finish().unwrap_or_default().into()
}

impl Default for Assets {
    fn default() -> Self {
        let mut hash = Sha256::new();
        let mut files = BTreeMap::new();
        for (name, plain) in FILES {
            hash.update(name.as_bytes());
            hash.update((plain.len() as u64).to_le_bytes());
            hash.update(plain);
            files.insert(*name, File { kind: kind(name), plain, gzip: gzip(plain) });
        }
        Self { build: hex::encode(&hash.finalize()[..6]), files }
    }
}

impl Assets {
    /// The part of their address that changes with their content.
    pub fn build(&self) -> &str {
        &self.build
    }

    /// A file; of another build too, since a page may be older than the server.
    pub fn serve(&self, build: &str, name: &str, headers: &HeaderMap) -> Response {
        let Some(file) = self.files.get(name) else {
            return (StatusCode::NOT_FOUND, "no such file").into_response();
        };
        let keep = match build == self.build {
            true => "public, max-age=31536000, immutable",
            false => "no-cache",
        };
        let accepted = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
        let zipped = accepted.is_some_and(|a| a.split(',').any(|e| e.trim().starts_with("gzip")));
        let common = [
            (header::CONTENT_TYPE, file.kind),
            (header::CACHE_CONTROL, keep),
            (header::VARY, "accept-encoding"),
        ];
        if zipped {
            let body = file.gzip.clone();
            return (common, [(header::CONTENT_ENCODING, "gzip")], body).into_response();
        }
        (common, file.plain).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(ending: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
        let ending = ending.to_owned();
        FILES
            .iter()
            .filter(move |(n, _)| n.ends_with(&ending))
            .map(|(n, d)| (*n, std::str::from_utf8(d).unwrap()))
    }

    /// What the content security policy would refuse, and what makes data into markup.
    #[test]
    fn scripts_make_no_markup_from_text() {
        for (name, text) in names(".js") {
            for bad in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "DOMParser",
                "createContextualFragment",
                "srcdoc",
                "javascript:",
                "https://",
                "http://",
            ] {
                let allowed = bad == "http://" && text.contains("http://www.w3.org/2000/svg");
                assert!(allowed || !text.contains(bad), "{name}: {bad}");
            }
        }
        assert!(names(".js").count() > 5);
    }

    /// The file that one in `dir` calls `name`.
    fn beside(dir: &str, name: &str) -> String {
        let mut at: Vec<&str> = dir.split('/').filter(|p| !p.is_empty()).collect();
        for part in name.split('/') {
            match part {
                "." => {}
                ".." => drop(at.pop()),
                p => at.push(p),
            }
        }
        at.join("/")
    }

    #[test]
    fn imports_exist() {
        let import = regex::Regex::new(r#"(?m)(?:from|import)\s*\(?"(\.[^"]+)""#).unwrap();
        for (name, text) in names(".js") {
            let dir = name.rsplit_once('/').map_or("", |(d, _)| d);
            for c in import.captures_iter(text) {
                let wanted = beside(dir, &c[1]);
                assert!(FILES.iter().any(|(n, _)| *n == wanted), "{name} imports {wanted}");
            }
        }
    }

    #[test]
    fn weights_are_within_their_budget() {
        let assets = Assets::default();
        let sum = |ending: &str| {
            let chosen = assets.files.iter().filter(|(n, _)| n.ends_with(ending));
            chosen.map(|(_, f)| f.gzip.len()).sum::<usize>()
        };
        assert!(sum(".css") < 16 << 10, "style sheets: {}", sum(".css"));
        assert!(sum(".js") < 100 << 10, "scripts: {}", sum(".js"));
        // What a page loads before it shows anything: all that is imported at once.
        let import = regex::Regex::new(r#"(?m)^import .*from "(\.[^"]+)""#).unwrap();
        let mut found = vec!["main.js".to_owned()];
        let mut i = 0;
        while let Some(name) = found.get(i).cloned() {
            i += 1;
            let text = names(".js").find(|(n, _)| *n == name).unwrap().1;
            let dir = name.rsplit_once('/').map_or("", |(d, _)| d);
            for c in import.captures_iter(text) {
                let wanted = beside(dir, &c[1]);
                if !found.contains(&wanted) {
                    found.push(wanted);
                }
            }
        }
        let first: usize = found.iter().map(|n| assets.files[n.as_str()].gzip.len()).sum();
        assert!(first < 64 << 10, "scripts of the first page: {first} in {found:?}");
        assert!(sum(".svg") < 4 << 10, "icons: {}", sum(".svg"));
    }
}
