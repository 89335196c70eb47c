//! The canonical single-line text of a syntax tree. Result columns without an
//! alias are named by it, so every space counts.

use super::ast::*;
use std::fmt::{self, Display, Write};

impl Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Let(v) => v.fmt(f),
            Statement::Select(v) => f.write_str(select_text(v).trim_end()),
        }
    }
}

impl Display for Let {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LET {}", self.name)?;
        if !self.params.is_empty() {
            f.write_char('(')?;
            joined(f, self.params.iter(), ", ")?;
            f.write_char(')')?;
        }
        f.write_str(if self.materialize { " <= " } else { " = " })?;
        match &self.value {
            LetValue::Select(select) => f.write_str(select_text(select).trim_end()),
            LetValue::Expr(expr) => expr.fmt(f),
        }
    }
}

impl Display for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Param::Name(name) => name.fmt(f),
            Param::Default(arg) => arg.fmt(f),
        }
    }
}

impl Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(select_text(self).trim_end())
    }
}

/// The text of a query with the trailing space some clauses leave.
fn select_text(select: &Select) -> String {
    let mut out = "EXPLAIN ".repeat(select.explain);
    out.push_str("SELECT ");
    for (i, column) in select.columns.iter().enumerate() {
        push(&mut out, if i > 0 { ", " } else { "" });
        push(&mut out, column);
    }
    clause(&mut out, "FROM ", &select.source);
    if let Some(list) = &select.filter {
        clause(&mut out, "WHERE ", list);
    }
    if let Some(list) = &select.group_by {
        clause(&mut out, "GROUP BY ", list);
    }
    if let Some(order) = &select.order_by {
        clause(&mut out, "ORDER BY ", &order.column);
        if order.descending {
            out.push_str(" DESC ");
        }
    }
    if let Some(limit) = &select.limit {
        clause(&mut out, "LIMIT ", limit);
        out.push(' ');
    }
    out
}

fn push(out: &mut String, item: impl Display) {
    // Writing to a string can not fail.
    let _ = write!(out, "{item}");
}

fn clause(out: &mut String, keyword: &str, body: impl Display) {
    if !out.ends_with(' ') {
        out.push(' ');
    }
    out.push_str(keyword);
    push(out, body);
}

fn joined<T: Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    separator: &str,
) -> fmt::Result {
    for (i, item) in items.enumerate() {
        if i > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)?;
        self.alias.as_ref().map_or(Ok(()), |alias| write!(f, " AS {alias}"))
    }
}

impl Display for ColumnValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ColumnValue::Star => f.write_char('*'),
            ColumnValue::Select(select) => write!(f, "{{ {} }}", select_text(select)),
            ColumnValue::Expr(expr) => expr.fmt(f),
        }
    }
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, self.path.iter(), ".")?;
        arguments(f, &self.args)
    }
}

fn arguments(f: &mut fmt::Formatter<'_>, args: &Option<Args>) -> fmt::Result {
    let Some(args) = args else { return Ok(()) };
    f.write_char('(')?;
    joined(f, args.iter(), ", ")?;
    f.write_char(')')
}

impl Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl Display for ArgValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgValue::Select(select) => write!(f, "{{ {} }}", select_text(select)),
            ArgValue::Array(Some(list)) => write!(f, "[{list}]"),
            ArgValue::Array(None) => f.write_str("[]"),
            ArgValue::Expr(expr) => expr.fmt(f),
        }
    }
}

impl Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        for item in &self.rest {
            f.write_str(", ")?;
            if let Some(item) = item {
                item.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::And(first, rest) => {
                first.fmt(f)?;
                rest.iter().try_for_each(|(word, e)| write!(f, "  {word} {e}"))
            }
            Expr::Or(first, rest) => {
                first.fmt(f)?;
                rest.iter().try_for_each(|(word, e)| write!(f, " {word} {e}"))
            }
            Expr::Not(e) => write!(f, "NOT {e}"),
            Expr::Compare(first, rest) => {
                first.fmt(f)?;
                rest.iter().try_for_each(|(op, e)| write!(f, " {} {e}", op.text()))
            }
            Expr::Sum(first, rest) => {
                first.fmt(f)?;
                rest.iter().try_for_each(|(op, e)| match op {
                    SumOp::Add => write!(f, " + {e}"),
                    SumOp::Subtract => write!(f, " - {e}"),
                })
            }
            Expr::Product(first, rest) => {
                first.fmt(f)?;
                rest.iter().try_for_each(|(op, e)| match op {
                    ProductOp::Multiply => write!(f, " * {e}"),
                    ProductOp::Divide => write!(f, " / {e}"),
                })
            }
            Expr::Member(base, suffixes) => {
                base.fmt(f)?;
                suffixes.iter().try_for_each(|suffix| suffix.fmt(f))
            }
            Expr::Symbol(symbol) => symbol.fmt(f),
            Expr::Paren(list) => write!(f, "({list})"),
            Expr::String(s) => f.write_str(&s.text),
            Expr::Number(n) => n.fmt(f),
            Expr::Bool(_, text) => f.write_str(text),
            Expr::Null => f.write_str("NULL"),
        }
    }
}

impl Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Suffix::Name(name) => write!(f, ".{name}"),
            Suffix::Index(None) => f.write_str("[]"),
            Suffix::Index(Some(e)) => write!(f, "[{e}]"),
            Suffix::Slice(from, to) => {
                f.write_char('[')?;
                from.as_ref().map_or(Ok(()), |e| e.fmt(f))?;
                f.write_char(':')?;
                if matches!(to.as_deref(), Some(Expr::Symbol(_))) {
                    f.write_char(' ')?;
                }
                to.as_ref().map_or(Ok(()), |e| e.fmt(f))?;
                f.write_char(']')
            }
        }
    }
}

impl Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negated {
            f.write_char('-')?;
        }
        joined(f, self.path.iter(), ".")?;
        arguments(f, &self.args)
    }
}

impl Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Int(i) => i.fmt(f),
            Number::Float(x) if x.fract() == 0.0 => write!(f, "{x}.0"),
            Number::Float(x) => x.fmt(f),
            Number::Invalid => f.write_str("NULL"),
        }
    }
}

/// The name of a column without an alias.
pub(super) fn column_name(value: &ColumnValue) -> String {
    let text = value.to_string();
    let text = text.trim();
    let inner = text.strip_prefix('`').and_then(|t| t.strip_suffix('`'));
    inner.filter(|t| !t.contains('`')).unwrap_or(text).to_string()
}
