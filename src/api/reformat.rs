//! Queries laid out for people, alone or inside of a definition.

use vql::syntax::{ParseError, reformat};

/// Lays out the queries of a definition that stand in a block of their own; everything
/// else, comments too, stays as it is.
pub(super) fn definition(text: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(text.len());
    let mut lines = text.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        out.push_str(line);
        let Some(indent) = opens_query(line) else { continue };
        let mut block = String::new();
        let mut inner = None;
        while let Some(next) = lines.peek() {
            let depth = next.len() - next.trim_start_matches(' ').len();
            let blank = next.trim().is_empty();
            if !blank && depth <= indent {
                break;
            }
            if !blank && inner.is_none() {
                inner = Some(depth);
            }
            block.push_str(next);
            lines.next();
        }
        out.push_str(&laid_out(&block, inner.unwrap_or(indent + 2))?);
    }
    Ok(out)
}

/// How far in the key stands, where a line begins a block that is a query.
fn opens_query(line: &str) -> Option<usize> {
    let line = line.trim_end();
    let item = line.trim_start_matches([' ', '-']);
    let block = item.strip_prefix("query:")?.trim();
    // A folded block has no lines of its own.
    matches!(block, "|" | "|-" | "|+").then_some(line.len() - item.len())
}

fn laid_out(block: &str, indent: usize) -> Result<String, ParseError> {
    let inside: String = (block.split_inclusive('\n'))
        .map(|l| {
            let blank = l.len() - l.trim_start_matches(' ').len();
            &l[blank.min(indent)..]
        })
        .collect();
    let after = block.len() - block.trim_end().len();
    let tail = block[block.len() - after..].matches('\n').count();
    let mut out = String::new();
    for line in reformat(inside.trim_end())?.trim_end().lines() {
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
        out.push('\n');
    }
    // As many empty lines as before.
    out.truncate(out.trim_end().len());
    out.push_str(&"\n".repeat(tail));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_a_definition_are_laid_out_and_the_rest_stays() {
        let text = "name: A # mine\nsources:\n- name: B\n  query: |\n      SELECT *   FROM info()\n\n      -- all\n      SELECT Name,   Pid FROM pslist()\n\n- query: SELECT 1 FROM scope()\n";
        let want = "name: A # mine\nsources:\n- name: B\n  query: |\n      SELECT * FROM info()\n\n      -- all\n      SELECT Name, Pid FROM pslist()\n\n- query: SELECT 1 FROM scope()\n";
        assert_eq!(definition(text).unwrap(), want);
        assert_eq!(definition(want).unwrap(), want);
        assert!(definition("sources:\n- query: |\n    SELECT FROM\n").is_err());
        assert_eq!(definition("no definition").unwrap(), "no definition");
    }
}
