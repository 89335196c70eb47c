//! The markdown that notebooks and descriptions are written in, as a tree of plain
//! text, and that tree as HTML. Markup inside of the text is text.
//!
//! Known are headings, paragraphs, lists, quotes, rules, fenced and indented code,
//! tables, and within lines code, emphasis, strong emphasis and links.

use std::fmt::Write as _;

use serde::Serialize;

/// Deepest emphasis inside of emphasis; further signs are text.
const MAX_DEPTH: usize = 8;
/// Bytes after which the other end of a link or of emphasis is not looked for.
const MAX_SPAN: usize = 1024;

/// A part of a text that stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// 1 to 6, and what it says.
    Heading(u8, Vec<Inline>),
    /// Running text.
    Para(Vec<Inline>),
    /// Text as it is, and its language.
    Code(String, String),
    /// Lines with a depth from 0; whether they are numbered.
    List(bool, Vec<(u8, Vec<Inline>)>),
    /// Somebody else's words.
    Quote(Vec<Inline>),
    /// A line across.
    Rule,
    /// A head and rows.
    Table(Vec<Vec<Inline>>, Vec<Vec<Vec<Inline>>>),
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Inline {
    /// Plain.
    Text(String),
    /// Of fixed width.
    Code(String),
    /// Weighty.
    Strong(Vec<Inline>),
    /// Stressed.
    Em(Vec<Inline>),
    /// An address that is safe to follow, and what it is called.
    Link(String, Vec<Inline>),
    /// A stored file of this server that is shown as a picture, and what it shows.
    Image(String, String),
}

/// Reads a text.
pub fn parse(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(line) = lines.get(at) {
        let trimmed = line.trim();
        let rest = &lines[at..];
        let (block, used) = if trimmed.is_empty() {
            (None, 1)
        } else if let Some(fence) = fence_of(trimmed) {
            fenced(rest, fence)
        } else if let Some((level, words)) = heading(trimmed) {
            (Some(Block::Heading(level, inline(words))), 1)
        } else if is_rule(trimmed) {
            (Some(Block::Rule), 1)
        } else if trimmed.starts_with('>') {
            quote(rest)
        } else if item(line).is_some() {
            list(rest)
        } else if rest.len() > 1 && is_divider(rest[1]) && trimmed.contains('|') {
            table(rest)
        } else if line.starts_with("    ") {
            indented(rest)
        } else {
            para(rest)
        };
        out.extend(block);
        at += used;
    }
    out
}

type Taken = (Option<Block>, usize);

fn fence_of(line: &str) -> Option<&'static str> {
    ["```", "~~~"].into_iter().find(|f| line.starts_with(f))
}

fn fenced(lines: &[&str], fence: &str) -> Taken {
    let language = lines[0].trim().trim_start_matches(&fence[..1]).trim().to_owned();
    let body = lines[1..].iter().take_while(|l| !l.trim().starts_with(fence));
    let body: Vec<&str> = body.copied().collect();
    let used = (body.len() + 2).min(lines.len());
    (Some(Block::Code(language, body.join("\n"))), used)
}

fn indented(lines: &[&str]) -> Taken {
    let body = lines.iter().take_while(|l| l.starts_with("    ") || l.trim().is_empty());
    let body: Vec<&str> = body.map(|l| l.get(4..).unwrap_or_default()).collect();
    let used = body.len();
    (Some(Block::Code(String::new(), body.join("\n").trim_end().to_owned())), used)
}

fn heading(line: &str) -> Option<(u8, &str)> {
    let words = line.trim_start_matches('#');
    let level = line.len() - words.len();
    let fits = (1..=6).contains(&level) && words.starts_with(char::is_whitespace);
    fits.then(|| (level as u8, words.trim().trim_end_matches('#').trim_end()))
}

fn is_rule(line: &str) -> bool {
    let signs: String = line.chars().filter(|c| !c.is_whitespace()).collect();
    signs.len() >= 3 && ['-', '*', '_'].iter().any(|s| signs.chars().all(|c| c == *s))
}

fn quote(lines: &[&str]) -> Taken {
    let of = |l: &&str| l.trim().strip_prefix('>').map(|t| t.trim_start().to_owned());
    let words: Vec<String> = lines.iter().map_while(of).collect();
    let used = words.len();
    (Some(Block::Quote(inline(&words.join("\n")))), used)
}

/// Depth, whether it is numbered, and its words.
fn item(line: &str) -> Option<(u8, bool, &str)> {
    let rest = line.trim_start();
    let depth = ((line.len() - rest.len()) / 2).min(6) as u8;
    for sign in ["- ", "* ", "+ "] {
        if let Some(words) = rest.strip_prefix(sign) {
            return Some((depth, false, words.trim()));
        }
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let words = rest[digits..].strip_prefix(['.', ')'])?.strip_prefix(' ')?;
    (1..=9).contains(&digits).then(|| (depth, true, words.trim()))
}

fn list(lines: &[&str]) -> Taken {
    let mut items: Vec<(u8, String)> = Vec::new();
    let numbered = item(lines[0]).is_some_and(|(_, n, _)| n);
    let mut used = 0;
    for line in lines {
        match item(line) {
            Some((depth, _, words)) => items.push((depth, words.to_owned())),
            // What is indented goes on with the item before.
            None if line.starts_with("  ") && !line.trim().is_empty() => {
                if let Some((_, words)) = items.last_mut() {
                    words.push(' ');
                    words.push_str(line.trim());
                }
            }
            None => break,
        }
        used += 1;
    }
    let items = items.into_iter().map(|(d, words)| (d, inline(&words))).collect();
    (Some(Block::List(numbered, items)), used)
}

fn is_divider(line: &str) -> bool {
    let line = line.trim();
    line.contains('-') && line.contains('|') && line.chars().all(|c| "|-: ".contains(c))
}

fn cells(line: &str) -> Vec<Vec<Inline>> {
    let line = line.trim().trim_start_matches('|').trim_end_matches('|');
    line.split('|').map(|c| inline(c.trim())).collect()
}

fn table(lines: &[&str]) -> Taken {
    let body = lines[2..].iter().take_while(|l| l.contains('|'));
    let rows: Vec<_> = body.map(|l| cells(l)).collect();
    let used = rows.len() + 2;
    (Some(Block::Table(cells(lines[0]), rows)), used)
}

fn para(lines: &[&str]) -> Taken {
    let ends = |l: &&str| {
        let t = l.trim();
        t.is_empty() || fence_of(t).is_some() || heading(t).is_some() || item(l).is_some()
    };
    // The first line is here because it is nothing else.
    let more = lines[1..].iter().take_while(|l| !ends(l)).count();
    let words: Vec<&str> = lines[..=more].iter().map(|l| l.trim()).collect();
    (Some(Block::Para(inline(&words.join("\n")))), more + 1)
}

/// Reads what stands in a line.
pub fn inline(text: &str) -> Vec<Inline> {
    within(text, 0)
}

fn within(text: &str, depth: usize) -> Vec<Inline> {
    let (mut out, mut plain) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let found = match c {
            _ if depth >= MAX_DEPTH => None,
            '\\' => escaped(rest),
            '`' => code(rest),
            '*' | '_' => emphasis(rest, &plain, depth),
            '[' => link(rest, depth),
            '!' => picture(rest),
            '<' => pasted(rest),
            _ => None,
        };
        match found {
            Some((Inline::Text(t), used)) => {
                plain.push_str(&t);
                rest = &rest[used..];
            }
            Some((part, used)) => {
                if !plain.is_empty() {
                    out.push(Inline::Text(std::mem::take(&mut plain)));
                }
                out.push(part);
                rest = &rest[used..];
            }
            None => {
                plain.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    if !plain.is_empty() {
        out.push(Inline::Text(plain));
    }
    out
}

/// What a sign may reach.
fn near(text: &str) -> &str {
    let mut end = text.len().min(MAX_SPAN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn escaped(text: &str) -> Option<(Inline, usize)> {
    let c = text[1..].chars().next().filter(char::is_ascii_punctuation)?;
    Some((Inline::Text(c.to_string()), 2))
}

fn code(text: &str) -> Option<(Inline, usize)> {
    let ticks = text.len() - text.trim_start_matches('`').len();
    let sign = &text[..ticks];
    let end = near(&text[ticks..]).find(sign)?;
    let words = text[ticks..ticks + end].trim().to_owned();
    Some((Inline::Code(words), ticks + end + ticks))
}

fn emphasis(text: &str, before: &str, depth: usize) -> Option<(Inline, usize)> {
    let c = text.chars().next()?;
    // A sign inside of a word is part of a name.
    if c == '_' && before.ends_with(char::is_alphanumeric) {
        return None;
    }
    let double: String = [c, c].iter().collect();
    let (sign, strong) = match text.starts_with(&double) {
        true => (double.as_str(), true),
        false => (&double[..1], false),
    };
    let words = near(&text[sign.len()..]);
    if words.starts_with(char::is_whitespace) {
        return None;
    }
    let end = words.match_indices(sign).map(|(i, _)| i).find(|i| {
        *i > 0
            && !words[..*i].ends_with(char::is_whitespace)
            && (c != '_' || !words[i + sign.len()..].starts_with(char::is_alphanumeric))
    })?;
    let inner = within(&words[..end], depth + 1);
    let part = if strong { Inline::Strong(inner) } else { Inline::Em(inner) };
    Some((part, sign.len() + end + sign.len()))
}

fn link(text: &str, depth: usize) -> Option<(Inline, usize)> {
    let text = near(text);
    let middle = text.find("](")?;
    let words = &text[1..middle];
    if words.contains(['[', '\n']) {
        return None;
    }
    let end = text[middle..].find(')')? + middle;
    let to = text[middle + 2..end].split_whitespace().next()?;
    is_safe(to).then(|| (Inline::Link(to.to_owned(), within(words, depth + 1)), end + 1))
}

/// The call that stored files are fetched with.
const FILES: &str = "/api/v1/DownloadVFSFile";

/// A stored file as pages of this server ask for it. Stock servers name attachments by
/// their place in the datastore, which may be on another host by now.
fn stored(to: &str) -> Option<String> {
    let own = to.starts_with('/') && is_safe(to);
    if own && to.split('?').next().is_some_and(|path| path.ends_with(FILES)) {
        return Some(to.to_owned());
    }
    let url = url::Url::parse(to).ok().filter(|u| matches!(u.scheme(), "http" | "https"))?;
    let parts: Vec<&str> = url.path().split('/').skip(1).collect();
    let first = parts.iter().position(|p| matches!(*p, "notebooks" | "clients" | "hunts"))?;
    let attached = parts.len() >= 2 && parts[parts.len() - 2] == "attach";
    if !attached {
        return None;
    }
    let mut out: String = parts[..first].iter().map(|p| format!("/{p}")).collect();
    out.push_str(FILES);
    for (i, part) in parts[first..].iter().enumerate() {
        let _ = write!(out, "{}fs_components={part}", if i == 0 { '?' } else { '&' });
    }
    for (_, org) in url.query_pairs().filter(|(k, _)| k == "org_id") {
        let plain: String = org.chars().filter(char::is_ascii_alphanumeric).collect();
        let _ = write!(out, "&org_id={plain}");
    }
    is_safe(&out).then_some(out)
}

/// `![words](address)` of a stored file.
fn picture(text: &str) -> Option<(Inline, usize)> {
    let (Inline::Link(to, _), used) = link(text.strip_prefix('!')?, MAX_DEPTH)? else {
        return None;
    };
    let words = &text[2..text.find("](")?];
    Some((Inline::Image(stored(&to)?, words.to_owned()), used + 1))
}

/// What stock pages write where a file was pasted: `<img src="…" alt="…"/>` or
/// `<a href="…">name</a>`, in exactly these forms. Other markup is text.
fn pasted(text: &str) -> Option<(Inline, usize)> {
    let text = near(text);
    let quoted = |rest: &str| rest.split_once('"').map(|(v, _)| (v.to_owned(), v.len() + 1));
    if let Some(rest) = text.strip_prefix("<img src=\"") {
        let (to, used) = quoted(rest)?;
        let rest = rest[used..].strip_prefix(" alt=\"")?;
        let (words, used) = quoted(rest)?;
        let rest = &rest[used..];
        let end = rest.strip_prefix("/>").or_else(|| rest.strip_prefix('>'))?;
        return Some((Inline::Image(stored(&to)?, words), text.len() - end.len()));
    }
    let rest = text.strip_prefix("<a href=\"")?;
    let (to, used) = quoted(rest)?;
    let rest = rest[used..].strip_prefix('>')?;
    let (words, end) = rest.split_once("</a>")?;
    if words.contains('<') {
        return None;
    }
    let to = stored(&to)?;
    Some((Inline::Link(to, vec![Inline::Text(words.to_owned())]), text.len() - end.len()))
}

/// Whether an address may be followed: the web, a place on this page or this server.
fn is_safe(to: &str) -> bool {
    let own = to.starts_with('#') || (to.starts_with('/') && !to.starts_with("//"));
    let web = ["https://", "http://"]
        .iter()
        .any(|s| to.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s)));
    (own || web) && !to.contains(['\\', '"', '\'', '<', '>'])
}

/// Text for HTML, also inside of an attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn inline_html(parts: &[Inline]) -> String {
    let mut out = String::new();
    for part in parts {
        let _ = match part {
            Inline::Text(t) => write!(out, "{}", escape(t)),
            Inline::Code(t) => write!(out, "<code>{}</code>", escape(t)),
            Inline::Strong(p) => write!(out, "<strong>{}</strong>", inline_html(p)),
            Inline::Em(p) => write!(out, "<em>{}</em>", inline_html(p)),
            Inline::Link(to, p) => write!(
                out,
                "<a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">{}</a>",
                escape(to),
                inline_html(p)
            ),
            Inline::Image(to, words) => {
                write!(out, "<img src=\"{}\" alt=\"{}\">", escape(to), escape(words))
            }
        };
    }
    out
}

/// A tree as HTML.
pub fn html(blocks: &[Block]) -> String {
    let mut out = String::new();
    for block in blocks {
        let _ = match block {
            Block::Heading(n, p) => writeln!(out, "<h{n}>{}</h{n}>", inline_html(p)),
            Block::Para(p) => writeln!(out, "<p>{}</p>", inline_html(p)),
            Block::Code(_, t) => writeln!(out, "<pre><code>{}</code></pre>", escape(t)),
            Block::Quote(p) => writeln!(out, "<blockquote><p>{}</p></blockquote>", inline_html(p)),
            Block::Rule => writeln!(out, "<hr>"),
            Block::List(numbered, items) => writeln!(out, "{}", list_html(*numbered, items)),
            Block::Table(head, rows) => {
                let row = |cells: &[Vec<Inline>], tag: &str| {
                    let cells = cells.iter().map(|c| format!("<{tag}>{}</{tag}>", inline_html(c)));
                    format!("<tr>{}</tr>", cells.collect::<String>())
                };
                let rows: String = rows.iter().map(|r| row(r, "td")).collect();
                let head = row(head, "th");
                writeln!(
                    out,
                    "<table class=\"table\"><thead>{head}</thead><tbody>{rows}</tbody></table>"
                )
            }
        };
    }
    out
}

fn list_html(numbered: bool, items: &[(u8, Vec<Inline>)]) -> String {
    let tag = if numbered { "ol" } else { "ul" };
    let mut out = String::new();
    let mut open: Vec<u8> = Vec::new();
    for (depth, words) in items {
        while open.last().is_some_and(|d| d > depth) {
            open.pop();
            let _ = write!(out, "</li></{tag}>");
        }
        match open.last() {
            Some(d) if d == depth => out.push_str("</li>"),
            _ => {
                open.push(*depth);
                let _ = write!(out, "<{tag}>");
            }
        }
        let _ = write!(out, "<li>{}", inline_html(words));
    }
    for _ in open {
        let _ = write!(out, "</li></{tag}>");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        html(&parse(text)).replace('\n', "")
    }

    #[test]
    fn blocks_are_what_they_look_like() {
        assert_eq!(
            shown("# A _b_ #\ntext\nmore\n\nnext"),
            "<h1>A <em>b</em></h1><p>textmore</p><p>next</p>"
        );
        assert_eq!(
            shown("- a\n- b\n  more\n    - c\n- d"),
            "<ul><li>a</li><li>b more<ul><li>c</li></ul></li><li>d</li></ul>"
        );
        assert_eq!(shown("3. a\n4. b"), "<ol><li>a</li><li>b</li></ol>");
        assert_eq!(
            shown("> said\n> twice\n\n---"),
            "<blockquote><p>saidtwice</p></blockquote><hr>"
        );
        assert_eq!(
            shown("```vql\nSELECT <1>\n```\nx"),
            "<pre><code>SELECT &lt;1&gt;</code></pre><p>x</p>"
        );
        assert_eq!(shown("    a\n      b"), "<pre><code>a  b</code></pre>");
        assert_eq!(
            shown("|a|b|\n|-|-|\n|1|`x`|"),
            "<table class=\"table\"><thead><tr><th>a</th><th>b</th></tr></thead>\
             <tbody><tr><td>1</td><td><code>x</code></td></tr></tbody></table>"
        );
    }

    #[test]
    fn only_stored_files_are_pictures() {
        let at = "/vr/api/v1/DownloadVFSFile?fs_components=notebooks&fs_components=N.1";
        let shown_as = format!("<p><img src=\"{}\" alt=\"a b\"></p>", escape(at));
        assert_eq!(shown(&format!("![a b]({at})")), shown_as);
        assert_eq!(shown(&format!("<img src=\"{at}\" alt=\"a b\"/>")), shown_as);
        let link = format!(
            "<p>x <a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">n</a>y</p>",
            escape(at)
        );
        assert_eq!(shown(&format!("x <a href=\"{at}\">n</a>y")), link);
        // What a stock server wrote.
        let stock = "<img src=\"https://old:8889/vr/notebooks/N.1/attach/NA.2-c.png?org_id=O1\" \
                     alt=\"c.png\"/>";
        let now = format!("{at}&fs_components=attach&fs_components=NA.2-c.png&org_id=O1");
        assert_eq!(shown(stock), format!("<p><img src=\"{}\" alt=\"c.png\"></p>", escape(&now)));
        for text in [
            "<img src=\"https://elsewhere/a.png\" alt=\"x\"/>",
            "<img src=\"//elsewhere/api/v1/DownloadVFSFile\" alt=\"x\"/>",
            "<img src=\"/vr/app/logoff\" alt=\"x\"/>",
            "<img src=\"javascript:x\" alt=\"x\"/>",
            "<img src=x onerror=alert(1)>",
            "<a href=\"javascript:alert(1)\">x</a>",
            "<a href=\"https://elsewhere/\">x</a>",
        ] {
            assert!(!shown(text).contains("<img") && !shown(text).contains("<a "), "{text}");
        }
        // A picture from elsewhere is a link, as before.
        assert!(shown("![x](https://elsewhere/a.png)").starts_with("<p>!<a href="));
    }

    #[test]
    fn signs_in_names_are_text() {
        assert_eq!(shown("snake_case_name and 2 * 3 * 4"), "<p>snake_case_name and 2 * 3 * 4</p>");
        assert_eq!(
            shown("**bold _both_** *x*"),
            "<p><strong>bold <em>both</em></strong> <em>x</em></p>"
        );
        assert_eq!(
            shown(r"\*not\* `a*b*` ``c`d``"),
            "<p>*not* <code>a*b*</code> <code>c`d</code></p>"
        );
        assert_eq!(shown("**open `tick [no](x"), "<p>**open `tick [no](x</p>");
    }

    /// Whoever writes a notebook, or a definition that is shown, cannot make markup.
    #[test]
    fn markup_is_text_and_addresses_are_safe() {
        assert_eq!(
            shown("<script>alert(1)</script>"),
            "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>"
        );
        for bad in [
            "javascript:alert(1)",
            "JaVaScRiPt:x",
            "data:text/html,x",
            "//evil.example",
            "vbscript:x",
            "/\\evil",
        ] {
            assert!(!shown(&format!("[a]({bad})")).contains("href"), "{bad}");
        }
        assert!(!shown("[a](https://x/\"onclick=alert)").contains("href"));
        assert_eq!(
            shown("[<b>](https://x.example/?a=1&b)"),
            "<p><a href=\"https://x.example/?a=1&amp;b\" target=\"_blank\" \
             rel=\"noopener noreferrer\">&lt;b&gt;</a></p>"
        );
        assert_eq!(shown("[here](#/hunts)").matches("href=\"#/hunts\"").count(), 1);
    }

    #[test]
    fn nothing_is_too_odd_to_be_read() {
        let signs = "#*_`>|-[]()\\ \n\tä1.~+";
        let signs: Vec<char> = signs.chars().collect();
        let mut seed = 7u64;
        for _ in 0..3000 {
            let mut text = String::new();
            for _ in 0..30 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push(signs[(seed >> 33) as usize % signs.len()]);
            }
            let _ = shown(&text);
        }
        let deep = "*a ".repeat(50_000);
        assert!(shown(&deep).starts_with("<p>"));
        assert!(shown(&"**a _b ".repeat(2000)).len() > 1000);
    }
}
