//! Where and why a text is not a query.

/// Characters of the line shown before and after the place.
const SHOWN_BEFORE: usize = 80;
const SHOWN_AFTER: usize = 80;

/// A syntax error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}\n{excerpt}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was expected or found.
    pub message: String,
    /// The line with a caret under the place.
    pub excerpt: String,
}

impl ParseError {
    /// Makes an error for a byte offset of `text`.
    pub(crate) fn at(text: &str, offset: usize, message: impl Into<String>) -> ParseError {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let line_text = text[start..].lines().next().unwrap_or("");
        let (line, column) = line_column(text, offset);
        // Long lines are shown around the place only.
        let skipped = column.saturating_sub(SHOWN_BEFORE + 1);
        let shown: String =
            line_text.chars().skip(skipped).take(SHOWN_BEFORE + SHOWN_AFTER).collect();
        let before_caret = text[start..offset].chars().skip(skipped);
        let indent: String = before_caret.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        ParseError { line, column, message: message.into(), excerpt: format!("{shown}\n{indent}^") }
    }
}

/// Line and column (in characters) of a byte offset, both from 1.
pub(super) fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}
