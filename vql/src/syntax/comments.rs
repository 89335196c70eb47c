//! The comments of a text and the tokens they stand before.

use std::sync::Arc;

use super::error::ParseError;
use super::lexer::tokenize;

/// A comment, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comment<'a> {
    /// How many tokens stand before it.
    pub(super) tokens: usize,
    pub(super) text: &'a str,
}

impl Comment<'_> {
    /// Whether it ends by itself, not with its line.
    pub(super) fn is_block(&self) -> bool {
        self.text.starts_with("/*")
    }
}

/// How many tokens a text has, and its comments in order.
pub(super) fn comments(text: &str) -> Result<(usize, Arc<[Comment<'_>]>), ParseError> {
    let tokens = tokenize(text)?;
    let (mut found, mut end) = (Vec::new(), 0);
    for (at, token) in tokens.iter().enumerate() {
        let mut gap = text.get(end..token.offset).unwrap_or_default().trim_start();
        while !gap.is_empty() {
            let len = match gap.starts_with("/*") {
                true => gap.find("*/").map_or(gap.len(), |n| n + 2),
                false => gap.find('\n').unwrap_or(gap.len()),
            };
            let (comment, rest) = gap.split_at(len);
            found.push(Comment { tokens: at, text: comment.trim_end() });
            gap = rest.trim_start();
        }
        end = token.offset + token.text.len();
    }
    // The last token is the end.
    Ok((tokens.len().saturating_sub(1), found.into()))
}

#[cfg(test)]
mod tests {
    use super::comments;

    #[test]
    fn comments_and_their_places() {
        let (tokens, found) = comments("-- a \nLET /* b\n */ // c\nX = 1--d").unwrap();
        assert_eq!(tokens, 4);
        let found: Vec<_> = found.iter().map(|c| (c.tokens, c.text, c.is_block())).collect();
        let want =
            [(0, "-- a", false), (1, "/* b\n */", true), (1, "// c", false), (4, "--d", false)];
        assert_eq!(found, want);
    }
}
