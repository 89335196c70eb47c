//! Statements without comments laid out over lines. Where a call or a list of columns may be
//! written in several ways, each is tried and the narrow one, then the short one, is taken.

use std::fmt::Display;
use std::sync::Arc;

use super::ast::*;
use super::comments::{Comment, comments};
use super::error::ParseError;
use super::lexer::tokenize;
use super::parser::parse;

/// Lines should not be longer.
const WIDTH: usize = 80;
/// Names further to the right begin a line of their own.
const FAR: usize = 50;

/// Lays a text of statements out with a clause, and a column, a line. Comments stand before
/// what they stood before: a statement, a query, a column, an argument or a value. With comments
/// elsewhere [`super::reformat`] lays out the whole text.
pub fn one_per_line(text: &str) -> Result<String, ParseError> {
    let statements = parse(text)?;
    let (tokens, comments) = comments(text)?;
    let page = pretty(&statements, &comments);
    let mut out = page.text();
    // Those behind everything stay there.
    let rest = comments.get(page.comment..).unwrap_or_default();
    let elsewhere = page.tokens != tokens || rest.iter().any(|c| c.tokens != tokens);
    if !comments.is_empty() && (elsewhere || !same_meaning(&out, &statements)) {
        return super::layout::reformat(text);
    }
    for comment in rest {
        out.push_str(comment.text);
        out.push('\n');
    }
    Ok(out)
}

fn same_meaning(text: &str, statements: &[Statement]) -> bool {
    let texts = |s: &[Statement]| s.iter().map(ToString::to_string).collect::<Vec<_>>();
    parse(text).is_ok_and(|again| texts(&again) == texts(statements))
}

/// Statements on a page, an empty line between them.
fn pretty<'a>(statements: &[Statement], comments: &Arc<[Comment<'a>]>) -> Page<'a> {
    let page = Page { indents: vec![0], lines: 1, ..Page::default() };
    let mut page = Page { breaks: true, comments: comments.clone(), ..page };
    for statement in statements {
        page.statement(statement);
        page.line();
    }
    page
}

#[derive(Clone, Default)]
struct Page<'a> {
    /// What was written, piece by piece: breaking a line takes a blank piece back.
    parts: Vec<String>,
    /// Where lines begin, innermost last.
    indents: Vec<usize>,
    lines: usize,
    /// Width of the line so far.
    at: usize,
    widest: usize,
    /// Whether lines are broken at all.
    breaks: bool,
    comments: Arc<[Comment<'a>]>,
    /// The next of them.
    comment: usize,
    /// Tokens written.
    tokens: usize,
    /// Inside of a call whose only argument stands where its line broke.
    alone: bool,
}

/// How far in the clauses of a stored query begin.
const CLAUSE: usize = 2;

type Way<'w, 'a> = &'w dyn Fn(&mut Page<'a>);

impl<'a> Page<'a> {
    fn text(&self) -> String {
        let text = self.parts.concat();
        let lines: Vec<&str> = text.split('\n').map(|l| l.trim_end_matches(' ')).collect();
        lines.join("\n")
    }

    /// The comments before the token that is written next. Those of an argument end their line
    /// even where lines are not broken.
    fn before(&mut self, argument: bool) {
        while let Some(comment) = self.comments.get(self.comment).copied() {
            if comment.tokens != self.tokens {
                break;
            }
            self.comment += 1;
            if comment.is_block() {
                for part in ["\n", comment.text, "\n"] {
                    self.parts.push(part.into());
                }
                self.at = 0;
                continue;
            }
            self.put(comment.text);
            if argument && !self.breaks {
                self.breaks = true;
                self.parts.push("\n".into());
                self.parts.push(" ".repeat(self.indent()));
            } else {
                self.line();
            }
        }
    }

    fn put(&mut self, part: impl Into<String>) {
        let part = part.into();
        self.tokens += tokenize(&part).map_or(0, |tokens| tokens.len().saturating_sub(1));
        self.at += part.len();
        self.widest = self.widest.max(self.at);
        self.parts.push(part);
    }

    fn indent(&self) -> usize {
        self.indents.last().copied().unwrap_or(0)
    }

    /// Runs `body` with lines that begin at `indent`.
    fn within(&mut self, indent: usize, body: impl FnOnce(&mut Page<'a>)) {
        self.indents.push(indent);
        body(self);
        self.indents.pop();
    }

    /// Breaks the line, or parts what follows by a space.
    fn line(&mut self) {
        let last = self.parts.last().map(String::as_str).unwrap_or_default();
        if !self.breaks {
            if !last.ends_with(' ') && !["(", "{", "=", "[", "=["].contains(&last) {
                self.put(" ");
            }
            return;
        }
        if last.trim().is_empty() {
            self.parts.pop();
        }
        self.at = 0;
        self.parts.push("\n".into());
        self.lines += 1;
        self.put(" ".repeat(self.indent()));
    }

    /// Begins a line at a column, whatever the indent is.
    fn line_at(&mut self, column: usize) {
        self.at = column;
        if self.breaks {
            self.parts.push("\n".into());
            self.lines += 1;
            self.parts.push(" ".repeat(column));
        }
    }

    /// Takes the best of several ways to go on.
    fn choose(&mut self, ways: &[Way<'_, 'a>]) {
        let mut best: Option<Page<'a>> = None;
        for way in ways {
            let mut page = self.clone();
            way(&mut page);
            let better = match &best {
                Some(best) => page.is_better(best),
                None => true,
            };
            if better {
                best = Some(page);
            }
            // On one line they are all the same.
            if !self.breaks {
                break;
            }
        }
        if let Some(best) = best {
            *self = Page { breaks: self.breaks, ..best };
        }
    }

    fn is_better(&self, best: &Page<'_>) -> bool {
        let (fits, wide) = (|p: &Page<'_>| p.widest < WIDTH, |p: &Page<'_>| p.widest > WIDTH);
        if wide(self) && fits(best) {
            return false;
        }
        if wide(best) && fits(self) {
            return true;
        }
        if fits(self) && fits(best) && self.lines > best.lines {
            return false;
        }
        self.widest <= best.widest
    }

    /// Characters of the line so far.
    fn reached(&self) -> usize {
        let start = self.parts.iter().rposition(|p| p == "\n").map_or(0, |at| at + 1);
        self.parts[start..].iter().map(|p| p.chars().count()).sum()
    }

    fn blank_line(&self) -> bool {
        let start = self.parts.iter().rposition(|p| p == "\n").map_or(0, |at| at + 1);
        self.parts[start..].iter().all(|p| p.trim().is_empty())
    }

    fn statement(&mut self, statement: &Statement) {
        self.before(false);
        match statement {
            Statement::Select(select) => self.select(select),
            Statement::Let(v) => {
                self.put("LET ");
                self.put(&*v.name.text);
                if !v.params.is_empty() {
                    self.put("(");
                    for (i, param) in v.params.iter().enumerate() {
                        match param {
                            Param::Name(name) => self.put(&*name.text),
                            Param::Default(arg) => self.arg(arg),
                        }
                        self.comma(i, v.params.len());
                    }
                    self.put(")");
                }
                self.put(if v.materialize { " <= " } else { " = " });
                let indent = self.indent() + 2;
                self.within(indent, |page| match &v.value {
                    LetValue::Select(select) => page.select(select),
                    LetValue::Expr(expr) => page.expr(expr),
                });
            }
        }
        self.line();
        self.at = 0;
        self.widest = 0;
    }

    /// What follows an element but the last.
    fn comma(&mut self, i: usize, of: usize) {
        if i + 1 < of {
            self.put(",");
            self.put(" ");
        }
    }

    fn select(&mut self, select: &Select) {
        self.before(false);
        if select.explain > 0 {
            self.put("EXPLAIN ");
        }
        self.put("SELECT ");
        self.choose(&[
            &|page| page.within(page.at, |page| page.columns(&select.columns)),
            &|page| {
                page.line_at(2);
                page.within(4, |page| {
                    page.put("  ");
                    page.columns(&select.columns);
                });
            },
        ]);
        self.line();
        self.put("FROM ");
        let path: Vec<&str> = select.source.path.iter().map(|i| &*i.text).collect();
        self.put(path.join("."));
        self.call(&select.source.args);
        if let Some(filter) = &select.filter {
            self.line();
            self.put("WHERE ");
            self.list(filter);
        }
        let mut deeper = 0;
        if let Some(group) = &select.group_by {
            self.line();
            self.put("GROUP BY ");
            self.indents.push(self.at);
            deeper = 1;
            self.list(group);
        }
        if let Some(order) = &select.order_by {
            self.line();
            self.put("ORDER BY ");
            self.put(&*order.column.text);
            if order.descending {
                self.put(" DESC ");
            }
        }
        if let Some(limit) = &select.limit {
            self.line();
            self.put(format!("LIMIT {limit} "));
        }
        self.indents.truncate(self.indents.len() - deeper);
    }

    fn columns(&mut self, columns: &[Column]) {
        self.before(false);
        let mut columns = columns;
        if let [first, rest @ ..] = columns
            && matches!(first.value, ColumnValue::Star)
            && first.alias.is_none()
        {
            self.put("*");
            self.comma(0, columns.len());
            columns = rest;
        }
        for (i, column) in columns.iter().enumerate() {
            self.column(column, i);
            self.comma(i, columns.len());
            if i + 1 < columns.len() {
                self.line();
            }
        }
    }

    fn column(&mut self, column: &Column, i: usize) {
        self.before(false);
        let alias = |page: &mut Page| {
            if let Some(alias) = &column.alias {
                page.put(" AS ");
                page.put(&*alias.text);
            }
        };
        match &column.value {
            ColumnValue::Star => self.put("*"),
            ColumnValue::Expr(expr) => {
                // The first one stays behind SELECT.
                let may_break = i > 0 || column.alias.is_none();
                self.choose(&[
                    &|page| {
                        page.breaks = false;
                        page.expr(expr);
                        alias(page);
                    },
                    &|page| {
                        if may_break && !page.blank_line() {
                            page.line();
                        }
                        page.expr(expr);
                        alias(page);
                    },
                ]);
            }
            ColumnValue::Select(select) => {
                self.put("{");
                self.put(" ");
                if self.breaks {
                    self.line_at(2);
                    self.within(4, |page| {
                        page.put("  ");
                        page.select(select);
                        page.line();
                        page.put("}");
                        alias(page);
                    });
                } else {
                    self.select(select);
                    self.put(" }");
                    alias(self);
                }
            }
        }
    }

    /// The arguments of a call: on one line, each on a line behind the bracket, or each on a
    /// line of its own.
    fn call(&mut self, args: &Option<Args>) {
        let Some(args) = args else { return };
        if args.is_empty() {
            self.put("()");
            return;
        }
        let each = |page: &mut Page<'a>, apart: bool| {
            for (i, arg) in args.iter().enumerate() {
                if i > 0 && apart {
                    page.line();
                }
                page.arg(arg);
                page.comma(i, args.len());
            }
            page.put(")");
        };
        self.choose(&[
            &|page| {
                page.breaks = false;
                page.put("(");
                // Behind a comment a single argument stands where it would have stood; in a column
                // it stands where the column begins.
                let around = page.alone;
                page.alone = args.len() == 1 && (around || page.indent() <= CLAUSE);
                let indent = if page.alone { page.reached() } else { page.indent() };
                page.within(indent, |page| each(page, false));
                page.alone = around;
            },
            &|page| {
                let around = page.alone;
                page.alone = args.len() == 1 && (around || page.indent() <= CLAUSE);
                page.put("(");
                page.within(page.at, |page| each(page, true));
                page.alone = around;
            },
            &|page| {
                page.put("(");
                page.within(page.indent() + 2, |page| {
                    page.line();
                    each(page, true);
                });
            },
        ]);
    }

    fn arg(&mut self, arg: &Arg) {
        if self.at > FAR {
            self.line();
        }
        self.before(true);
        self.put(&*arg.name.text);
        match &arg.value {
            ArgValue::Expr(expr) => {
                self.put("=");
                self.expr(expr);
            }
            ArgValue::Array(None) => self.put("=[]"),
            ArgValue::Array(Some(list)) => {
                self.put("=[");
                self.list(list);
                self.put("]");
            }
            ArgValue::Select(select) if self.breaks => {
                self.put("={");
                self.line_at(2);
                self.indents.push(2);
                self.within(4, |page| {
                    page.put("  ");
                    page.select(select);
                });
                self.line();
                self.put("}");
                self.indents.pop();
            }
            ArgValue::Select(select) => {
                self.put("={");
                self.put(" ");
                self.select(select);
                self.put(" }");
            }
        }
    }

    fn list(&mut self, list: &List) {
        self.expr(&list.first);
        for item in &list.rest {
            self.put(",");
            self.put(" ");
            if let Some(item) = item {
                self.expr(item);
            }
        }
    }

    fn operands<O>(
        &mut self,
        first: &Expr,
        rest: &[(O, std::sync::Arc<Expr>)],
        text: impl Fn(&O) -> &str,
    ) {
        self.expr(first);
        for (operator, operand) in rest {
            self.put(" ");
            self.put(text(operator));
            self.put(" ");
            self.expr(operand);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::And(first, rest) => {
                self.expr(first);
                let depth = self.indents.len();
                for (word, operand) in rest {
                    self.line();
                    self.put(" ");
                    self.put(&**word);
                    self.put(" ");
                    self.indents.push(self.at);
                    self.expr(operand);
                }
                self.indents.truncate(depth);
            }
            Expr::Or(first, rest) => self.operands(first, rest, |word| word),
            Expr::Not(e) => {
                self.before(false);
                self.put("NOT ");
                self.expr(e);
            }
            Expr::Compare(first, rest) => self.operands(first, rest, |op| op.text()),
            Expr::Sum(first, rest) => self.operands(first, rest, |op| match op {
                SumOp::Add => "+",
                SumOp::Subtract => "-",
            }),
            Expr::Product(first, rest) => self.operands(first, rest, |op| match op {
                ProductOp::Multiply => "*",
                ProductOp::Divide => "/",
            }),
            Expr::Member(base, suffixes) => {
                self.expr(base);
                for suffix in suffixes {
                    self.suffix(suffix);
                }
            }
            Expr::Symbol(symbol) => self.symbol(symbol),
            Expr::Paren(list) => {
                self.before(false);
                self.put("(");
                let indent = self.indent() + 2;
                self.within(indent, |page| page.list(list));
                self.put(")");
            }
            other => self.plain(other),
        }
    }

    fn plain(&mut self, item: &dyn Display) {
        self.before(false);
        self.put(item.to_string());
    }

    fn suffix(&mut self, suffix: &Suffix) {
        match suffix {
            Suffix::Name(name) => {
                self.put(".");
                self.put(&*name.text);
            }
            Suffix::Index(index) => {
                self.put("[");
                index.iter().for_each(|e| self.expr(e));
                self.put("]");
            }
            Suffix::Slice(from, to) => {
                self.put("[");
                from.iter().for_each(|e| self.expr(e));
                self.put(":");
                to.iter().for_each(|e| self.expr(e));
                self.put("]");
            }
        }
    }

    fn symbol(&mut self, symbol: &Symbol) {
        let depth = self.indents.len();
        if self.at > FAR && self.breaks {
            self.indents.push(self.indent() + 2);
            self.line();
        }
        self.before(false);
        let path: Vec<&str> = symbol.path.iter().map(|i| &*i.text).collect();
        self.put(format!("{}{}", if symbol.negated { "-" } else { "" }, path.join(".")));
        self.call(&symbol.args);
        self.indents.truncate(depth);
    }
}

#[cfg(test)]
mod tests {
    use super::{one_per_line, parse, same_meaning};

    #[test]
    fn comments_are_kept() {
        let out = super::one_per_line("SELECT A, B -- both\nFROM scope()").unwrap();
        assert!(out.contains("-- both"), "{out}");
        assert!(super::one_per_line("SELECT FROM").is_err());
        assert_eq!(
            super::one_per_line("SELECT A,B FROM x").unwrap().trim(),
            "SELECT A,\n       B\nFROM x"
        );
    }

    #[test]
    fn comments_stay_before_what_they_were_before() {
        let out = laid_out("-- c\nSELECT -- a\nA, -- b\n-- b2\nB FROM info() WHERE -- w\n A");
        let want = "-- c\nSELECT -- a\n       A,\n       -- b\n       -- b2\n       B\n\
            FROM info()\nWHERE -- w\nA";
        assert_eq!(out.trim(), want);
        let out = laid_out("SELECT *\nFROM func(\n-- about a\na=1,\n-- about b\nb=2)");
        assert_eq!(out.trim(), "SELECT *\nFROM func(-- about a\na=1, -- about b\nb=2)");
        let out = laid_out(
            "LET X = SELECT * FROM foreach(\n-- row\nrow={ SELECT * FROM info() },\n\
            -- query\nquery={ SELECT A, B FROM scope() })",
        );
        let want = "LET X = SELECT *\n  FROM foreach(-- row\n  row={\n    SELECT *\n    \
            FROM info()\n  }, -- query\n  query={\n    SELECT A,\n           B\n    \
            FROM scope()\n  })";
        assert_eq!(out.trim(), want);
        let out = laid_out("LET X = dict(a=f(\n-- c\nb=1))");
        assert_eq!(out.trim(), "LET X = dict(a=f(-- c\n                 b=1))");
        let out = laid_out("SELECT A, f(\n-- c\nb=1) AS B FROM info()");
        assert_eq!(out.trim(), "SELECT A,\n       f(-- c\n       b=1) AS B\nFROM info()");
        let out = one_per_line("SELECT A, /* b */ B FROM info()").unwrap();
        assert_eq!(out.trim(), "SELECT A,\n\n/* b */\nB\nFROM info()");
        let out = one_per_line("SELECT A FROM info() -- end").unwrap();
        assert_eq!(out.trim(), "SELECT A\nFROM info()\n\n-- end");
    }

    fn laid_out(text: &str) -> String {
        let out = one_per_line(text).unwrap();
        // The meaning stays, and what is laid out stays as it is.
        assert!(same_meaning(&out, &parse(text).unwrap()), "{out}");
        assert_eq!(one_per_line(&out).unwrap(), out);
        out
    }

    #[test]
    fn short_and_long() {
        let out = laid_out("SELECT A,B AS C FROM info(a=1) WHERE A AND B LIMIT 5");
        assert_eq!(
            out.trim(),
            "SELECT A,\n       B AS C\nFROM info(a=1)\nWHERE A\n AND B\nLIMIT 5"
        );
        let out = laid_out("LET X(a,b=2)=a+b SELECT * FROM scope()");
        assert_eq!(out.trim(), "LET X(a, b=2) = a + b\n\nSELECT *\nFROM scope()");
        let out = laid_out(
            "SELECT * FROM foreach(row={SELECT * FROM glob(globs='/a/very/long/path/of/a/file/**')}, \
             query={SELECT Name, Size FROM stat(filename=OSPath)})",
        );
        let want = "SELECT *\nFROM foreach(row={\n    SELECT *\n    \
            FROM glob(globs='/a/very/long/path/of/a/file/**')\n  },\n             query={\n    SELECT Name,\n           \
            Size\n    FROM stat(filename=OSPath)\n  })";
        assert_eq!(out.trim(), want);
    }
}
