//! XML into dicts, the way the stock program lays it out: names in order of
//! the alphabet, an attribute `a` as `Attra`, repeated children as a list, the
//! text of an element that has more than text as `#text`.

use std::collections::BTreeMap;

use vql::{Dict, Value};

use super::records::Records;

/// Deepest nesting of elements.
const MAX_DEPTH: usize = 256;

/// Reads a document.
pub fn parse(text: &str) -> Result<Value, String> {
    // Programs say something before their document, or after it.
    let mut reader = Reader { text, at: text.find('<').unwrap_or(text.len()) };
    reader.misc()?;
    if reader.rest().is_empty() {
        return Err("no element".into());
    }
    let (name, value) = reader.element(0)?;
    Ok(Dict::new().with(vql::Key::new(name), value).into())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fault(&self, what: &str) -> String {
        let line = self.text[..self.at].matches('\n').count() + 1;
        format!("XML: line {line}: {what}")
    }

    /// Moves behind `end`; gives what was before it.
    fn until(&mut self, end: &str) -> Result<&'a str, String> {
        let rest = self.rest();
        let found = rest.find(end).ok_or_else(|| self.fault(&format!("{end} is missing")))?;
        self.at += found + end.len();
        Ok(&rest[..found])
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// White space, comments, declarations and instructions.
    fn misc(&mut self) -> Result<(), String> {
        loop {
            self.space();
            let rest = self.rest().trim_start_matches('\u{feff}');
            self.at = self.text.len() - rest.len();
            if rest.starts_with("<!--") {
                self.until("-->")?;
            } else if rest.starts_with("<?") {
                self.until("?>")?;
            } else if rest.starts_with("<!") {
                self.doctype()?;
            } else {
                return Ok(());
            }
        }
    }

    fn doctype(&mut self) -> Result<(), String> {
        let mut depth = 0usize;
        for (i, c) in self.rest().char_indices() {
            match c {
                '[' | '<' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                '>' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if c == '>' && depth == 0 {
                self.at += i + 1;
                return Ok(());
            }
        }
        Err(self.fault("> is missing"))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let rest = self.rest();
        let end = rest.find(|c: char| c.is_whitespace() || "/>=<".contains(c));
        let name = &rest[..end.unwrap_or(rest.len())];
        if name.is_empty() {
            return Err(self.fault("a name is missing"));
        }
        self.at += name.len();
        // The prefix of a name space is not part of the name.
        Ok(name.rsplit(':').next().unwrap_or(name))
    }

    fn element(&mut self, depth: usize) -> Result<(&'a str, Value), String> {
        if depth > MAX_DEPTH {
            return Err(self.fault("nested too deeply"));
        }
        self.at += 1;
        let whole = self.rest();
        let name = self.name()?;
        let full = &whole[..whole.len() - self.rest().len()];
        let mut members: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        loop {
            self.space();
            if self.rest().starts_with("/>") {
                self.at += 2;
                return Ok((name, finish(members, String::new())));
            }
            if self.rest().starts_with('>') {
                self.at += 1;
                break;
            }
            let attribute = self.name()?;
            self.space();
            if !self.rest().starts_with('=') {
                return Err(self.fault("= is missing"));
            }
            self.at += 1;
            self.space();
            let quote = match self.rest().chars().next() {
                Some(q @ ('"' | '\'')) => q,
                _ => return Err(self.fault("a quote is missing")),
            };
            self.at += 1;
            let value = unescape(self.until(quote.encode_utf8(&mut [0; 4]))?);
            members.entry(format!("Attr{attribute}")).or_default().push(value.into());
        }
        let mut text = String::new();
        loop {
            let rest = self.rest();
            let Some(open) = rest.find('<') else { return Err(self.fault("an end is missing")) };
            text.push_str(&unescape(&rest[..open]));
            self.at += open;
            let rest = self.rest();
            if rest.starts_with("<![CDATA[") {
                self.at += 9;
                text.push_str(self.until("]]>")?);
            } else if rest.starts_with("<!--") {
                self.until("-->")?;
            } else if rest.starts_with("<?") {
                self.until("?>")?;
            } else if rest.starts_with("</") {
                self.at += 2;
                let closed = self.until(">")?.trim_end();
                if closed != full {
                    return Err(self.fault(&format!("{full} is ended by {closed}")));
                }
                return Ok((name, finish(members, text)));
            } else {
                let (child, value) = self.element(depth + 1)?;
                members.entry(child.to_owned()).or_default().push(value);
            }
        }
    }
}

fn finish(mut members: BTreeMap<String, Vec<Value>>, text: String) -> Value {
    let text = text.trim();
    if members.is_empty() {
        return text.into();
    }
    if !text.is_empty() {
        members.entry("#text".to_owned()).or_default().push(text.into());
    }
    let one = |mut values: Vec<Value>| match values.len() {
        1 => values.remove(0),
        _ => Value::object(Records(values)),
    };
    members.into_iter().fold(Dict::new(), |d, (k, v)| d.with(k, one(v))).into()
}

/// Text with its entities replaced.
pub fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.find(';').filter(|e| *e <= 12);
        let meant = end.and_then(|e| entity(&rest[1..e]));
        match (meant, end) {
            (Some(c), Some(e)) => {
                out.push(c);
                rest = &rest[e + 1..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        parse(text).map_or_else(|e| e, |v| v.to_json())
    }

    #[test]
    fn documents() {
        let text = "<?xml version='1.0'?>\n<!DOCTYPE a [<!ENTITY x 'y'>]>\n<!-- c -->\
                    <ns:a z='1' b=\"&lt;&#65;\"> t &amp; u <!-- x --><c>1</c><c>2</c>\
                    <d><![CDATA[<raw>]]></d><e/></ns:a>\n";
        assert_eq!(
            json(text),
            "{\"a\":{\"#text\":\"t \\u0026 u\",\"Attrb\":\"\\u003cA\",\"Attrz\":\"1\",\
             \"c\":[\"1\",\"2\"],\"d\":\"\\u003craw\\u003e\",\"e\":\"\"}}"
        );
    }

    #[test]
    fn repeated_elements_are_a_column() {
        let all = parse("<a><b c='1'/><b c='2'/></a>").unwrap();
        let several = vql::member(&vql::member(&all, "a").unwrap(), "b").unwrap();
        let Value::Object(object) = &several else { panic!("{several:?}") };
        let rows = Value::from(object.rows().unwrap()).to_json();
        assert_eq!(rows, r#"[{"_value":{"Attrc":"1"}},{"_value":{"Attrc":"2"}}]"#);
        assert_eq!(object.index(-1).unwrap().to_json(), r#"{"Attrc":"2"}"#);
        assert_eq!(vql::member(&several, "Attrc").unwrap().to_json(), r#"["1","2"]"#);
    }

    #[test]
    fn what_is_said_around_a_document() {
        assert_eq!(json("$ tool --xml\n<?xml version='1.0'?><a>1</a>\ndone"), "{\"a\":\"1\"}");
    }

    #[test]
    fn what_is_not_xml() {
        for bad in ["", "text", "<a>", "<a></b>", "<a x></a>", "<a x=1/>", "<a", "<!-- "] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(json("\n\n<a></b>").contains("line 3"));
        assert!(parse(&"<a>".repeat(100_000)).is_err());
    }
}
