//! Tokens with positions. At each place the first rule which matches wins.

use super::error::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TokenKind {
    Explain,
    Select,
    Where,
    And,
    Or,
    From,
    Not,
    As,
    In,
    Limit,
    Null,
    Desc,
    True,
    False,
    Let,
    GroupBy,
    OrderBy,
    Number,
    Ident,
    /// A minus directly followed by an identifier.
    NegatedIdent,
    /// Punctuation or a comparison or arithmetic operator.
    Operator,
    /// Three single quotes on both sides.
    RawString,
    String,
    End,
}

/// A token: a piece of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// Its kind.
    pub kind: TokenKind,
    /// Its text.
    pub text: &'a str,
    /// Byte offset in the input.
    pub offset: usize,
}

const KEYWORDS: [(&str, TokenKind); 15] = [
    ("EXPLAIN", TokenKind::Explain),
    ("SELECT", TokenKind::Select),
    ("WHERE", TokenKind::Where),
    ("AND", TokenKind::And),
    ("OR", TokenKind::Or),
    ("FROM", TokenKind::From),
    ("NOT", TokenKind::Not),
    ("AS", TokenKind::As),
    ("IN", TokenKind::In),
    ("LIMIT", TokenKind::Limit),
    ("NULL", TokenKind::Null),
    ("DESC", TokenKind::Desc),
    ("TRUE", TokenKind::True),
    ("FALSE", TokenKind::False),
    ("LET", TokenKind::Let),
];

const OPERATORS: [&str; 23] = [
    "<>", "!=", "<=", ">=", "=>", "=~", "-", "+", ":", "*", "/", "%", ",", ".", "(", ")", "=", "<",
    ">", "{", "}", "[", "]",
];

/// Splits a text into tokens, the last one of kind [`TokenKind::End`].
pub fn tokenize(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let skip = blank(rest);
        if skip > 0 {
            at += skip;
            continue;
        }
        let Some((kind, len)) = next(rest) else {
            let shown: String = rest.chars().take(1).collect();
            let message = match shown.as_str() {
                "'" | "\"" | "`" => format!("unterminated {shown}"),
                _ => format!("unexpected character {shown:?}"),
            };
            return Err(ParseError::at(text, at, message));
        };
        tokens.push(Token { kind, text: &rest[..len], offset: at });
        at += len;
    }
    tokens.push(Token { kind: TokenKind::End, text: "", offset: text.len() });
    Ok(tokens)
}

/// Length of white space or one comment at the start.
fn blank(rest: &str) -> usize {
    let space =
        rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}', '\u{b}']).len();
    if space > 0 {
        return space;
    }
    if let Some(body) = rest.strip_prefix("/*") {
        return body.find("*/").map_or(0, |end| end + 4);
    }
    if rest.starts_with("--") || rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    0
}

fn next(rest: &str) -> Option<(TokenKind, usize)> {
    if let Some(found) = keyword(rest) {
        return Some(found);
    }
    let bytes = rest.as_bytes();
    let bars = bytes.iter().take_while(|b| **b == b'|').count();
    if bars > 0 {
        return Some((TokenKind::Or, bars));
    }
    if rest.starts_with("&&") {
        return Some((TokenKind::And, 2));
    }
    if let Some(len) = number(bytes) {
        return Some((TokenKind::Number, len));
    }
    if let Some(len) = ident(rest) {
        return Some((TokenKind::Ident, len));
    }
    if let Some(len) = rest.strip_prefix('-').and_then(ident) {
        return Some((TokenKind::NegatedIdent, len + 1));
    }
    if let Some(operator) = OPERATORS.iter().find(|op| rest.starts_with(**op)) {
        return Some((TokenKind::Operator, operator.len()));
    }
    if let Some(body) = rest.strip_prefix("'''")
        && let Some(end) = body.find("'''")
    {
        return Some((TokenKind::RawString, end + 6));
    }
    string(bytes).map(|len| (TokenKind::String, len))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn keyword(rest: &str) -> Option<(TokenKind, usize)> {
    let bytes = rest.as_bytes();
    let len = bytes.iter().take_while(|b| is_word(**b)).count();
    let word = &rest[..len];
    if len < 2 {
        return None;
    }
    for (name, kind) in KEYWORDS {
        if word.eq_ignore_ascii_case(name) {
            return Some((kind, len));
        }
    }
    let kind = match () {
        () if word.eq_ignore_ascii_case("GROUP") => TokenKind::GroupBy,
        () if word.eq_ignore_ascii_case("ORDER") => TokenKind::OrderBy,
        () => return None,
    };
    let space = bytes[len..].iter().take_while(|b| b.is_ascii_whitespace()).count();
    let by = bytes.get(len + space..len + space + 2)?;
    let ends = bytes.get(len + space + 2).is_none_or(|b| !is_word(*b));
    (space > 0 && by.eq_ignore_ascii_case(b"BY") && ends).then_some((kind, len + space + 2))
}

/// `-? ( 0x hex+ | digits* .? digits+ ( [eE] [+-]? digits+ )? )`
fn number(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| bytes.iter().skip(from).take_while(|b| b.is_ascii_digit()).count();
    let start = usize::from(bytes.first() == Some(&b'-'));
    if bytes.get(start) == Some(&b'0') && bytes.get(start + 1) == Some(&b'x') {
        let from = start + 2;
        let hex = bytes[from..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        if hex > 0 {
            return Some(from + hex);
        }
    }
    let whole = digits(start);
    let mut end = start + whole;
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
        end += 1 + digits(end + 1);
    } else if whole == 0 {
        return None;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    Some(end)
}

fn ident(rest: &str) -> Option<usize> {
    if let Some(body) = rest.strip_prefix('`') {
        return body.find('`').filter(|end| *end > 0).map(|end| end + 2);
    }
    let bytes = rest.as_bytes();
    let first = *bytes.first()?;
    if !is_word(first) || first.is_ascii_digit() {
        return None;
    }
    Some(bytes.iter().take_while(|b| is_word(**b)).count())
}

fn string(bytes: &[u8]) -> Option<usize> {
    let quote = *bytes.first().filter(|b| matches!(b, b'\'' | b'"'))?;
    let mut at = 1;
    loop {
        match *bytes.get(at)? {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<&str> {
        let tokens = tokenize(text).unwrap();
        tokens.iter().filter(|t| t.kind != TokenKind::End).map(|t| t.text).collect()
    }

    #[test]
    fn minus_belongs_to_what_follows() {
        assert_eq!(texts("1-2"), ["1", "-2"]);
        assert_eq!(texts("a-b"), ["a", "-b"]);
        assert_eq!(texts("a - b"), ["a", "-", "b"]);
        assert_eq!(texts("-(1)"), ["-", "(", "1", ")"]);
        assert_eq!(tokenize("-`a b`").unwrap()[0].kind, TokenKind::NegatedIdent);
    }

    #[test]
    fn comments_anywhere() {
        assert_eq!(texts("a--b\nc//d\n/* x\n */e"), ["a", "c", "e"]);
        assert_eq!(texts("'a--b'"), ["'a--b'"]);
    }

    #[test]
    fn numbers() {
        assert_eq!(texts("1."), ["1", "."]);
        assert_eq!(texts(".5 1.5e-3 0x1F 1e 070"), [".5", "1.5e-3", "0x1F", "1", "e", "070"]);
    }

    #[test]
    fn keywords_end_at_a_word_boundary() {
        let kinds: Vec<_> = tokenize("ORDERING order  by Null nulls group bye")
            .unwrap()
            .iter()
            .map(|t| t.kind)
            .collect();
        use TokenKind::*;
        assert_eq!(kinds, [Ident, OrderBy, Null, Ident, Ident, Ident, End]);
    }

    #[test]
    fn strings_and_bars() {
        assert_eq!(texts(r#"'a\'b' "x" '''r\''' |||"#), [r"'a\'b'", "\"x\"", "'''r\\'''", "|||"]);
        assert!(tokenize("'abc").is_err());
        assert!(tokenize("a ; b").is_err());
        assert_eq!(tokenize("a\n  $").unwrap_err().column, 3);
    }
}
