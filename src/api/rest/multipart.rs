//! Forms with files, as browsers send them (RFC 7578).

use axum::http::{HeaderMap, header};
use bytes::Bytes;

/// Parts of a form; pages send two.
const MAX_PARTS: usize = 20;
/// Longest head of a part, bytes.
const MAX_HEAD: usize = 8 << 10;

/// A part of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// What it is called.
    pub name: String,
    /// The name of a file.
    pub file: Option<String>,
    /// What it holds.
    pub data: Bytes,
}

/// What stands between the parts of a request's form.
pub(super) fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let rest = kind.get(..20).filter(|k| k.eq_ignore_ascii_case("multipart/form-data;"));
    rest?;
    let mut fields = kind[20..].split(';').map(str::trim);
    let value = fields.find_map(|f| f.strip_prefix("boundary="))?.trim_matches('"');
    (1..=70).contains(&value.len()).then(|| value.to_owned())
}

/// Where `what` begins in `data`, from `at` on.
fn find(data: &[u8], at: usize, what: &[u8]) -> Option<usize> {
    let (first, mut at) = (*what.first()?, at);
    loop {
        at += data.get(at..)?.iter().position(|b| *b == first)?;
        if data[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
}

/// Takes a form apart.
pub(super) fn parts(body: &Bytes, boundary: &str) -> Result<Vec<Part>, String> {
    let cut = || "the form is cut short".to_owned();
    let between = format!("\r\n--{boundary}");
    let first = format!("--{boundary}");
    let mut at = match body.starts_with(first.as_bytes()) {
        true => first.len(),
        false => find(body, 0, between.as_bytes()).ok_or_else(cut)? + between.len(),
    };
    let mut out = Vec::new();
    loop {
        let rest = &body[at..];
        if rest.starts_with(b"--") {
            return Ok(out);
        }
        if !rest.starts_with(b"\r\n") || out.len() == MAX_PARTS {
            return Err(format!("no form, or one of more than {MAX_PARTS} parts"));
        }
        // A head that is empty ends with the line break it began with.
        let end = find(body, at, b"\r\n\r\n").filter(|e| e - at <= MAX_HEAD).ok_or_else(cut)?;
        let head = String::from_utf8_lossy(&body[at..end]).into_owned();
        let from = end + 4;
        let to = find(body, from, between.as_bytes()).ok_or_else(cut)?;
        let (name, file) = named(&head).ok_or("a part of the form has no name")?;
        out.push(Part { name, file, data: body.slice(from..to) });
        at = to + between.len();
    }
}

/// Names of a part and of its file.
fn named(head: &str) -> Option<(String, Option<String>)> {
    let line = head.lines().find_map(|l| {
        let (field, value) = l.split_once(':')?;
        field.eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    let value = |field: &str| {
        let from = line.find(&format!(" {field}=\""))? + field.len() + 3;
        let text = &line[from..];
        let text = &text[..text.find('"')?];
        // The three characters that browsers write as codes.
        Some(text.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n"))
    };
    Some((value("name")?, value("filename")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &str = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a \u{e4}%22.zip\"\r\n\
        Content-Type: application/zip\r\n\r\nPK\r\n--\0B\r\n--B\r\n\
        content-disposition: form-data; name=\"_params_\"\r\n\r\n{}\r\n--B--\r\n";

    #[test]
    fn a_form_of_a_browser() {
        let found = parts(&Bytes::from(FORM), "B").unwrap();
        let want =
            [("file", Some("a \u{e4}\".zip"), &b"PK\r\n--\0B"[..]), ("_params_", None, &b"{}"[..])];
        for (part, (name, file, data)) in found.iter().zip(want) {
            assert_eq!(
                (part.name.as_str(), part.file.as_deref(), &part.data[..]),
                (name, file, data)
            );
        }
        assert_eq!(found.len(), 2);
        let before = Bytes::from(format!("before\r\n{FORM}"));
        assert_eq!(parts(&before, "B").unwrap(), found);
    }

    #[test]
    fn what_is_no_form_is_refused() {
        for end in 0..FORM.len() {
            if FORM.is_char_boundary(end) && end < FORM.len() - 4 {
                assert!(parts(&Bytes::from(&FORM[..end]), "B").is_err(), "{end}");
            }
        }
        assert!(parts(&Bytes::from("--B\r\n\r\nx\r\n--B--"), "B").is_err());
        assert!(parts(&Bytes::from("--Bx--"), "B").is_err());
        let mut headers = HeaderMap::new();
        assert_eq!(boundary(&headers), None);
        for (kind, want) in [
            ("multipart/form-data; boundary=----x", Some("----x")),
            ("Multipart/Form-Data; charset=x; boundary=\"y z\"", Some("y z")),
            ("multipart/form-data", None),
            ("application/json", None),
        ] {
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(boundary(&headers).as_deref(), want, "{kind}");
        }
    }
}
