//! Recursive descent over the tokens, one function per grammar rule.

use super::ast::*;
use super::error::ParseError;
use super::lexer::{Token, TokenKind, tokenize};
use super::{format, unquote};
use crate::value::Str;
use std::sync::Arc;

/// Deeper nesting of brackets and NOT is refused: the parser and everything
/// after it recurse.
const MAX_NESTING: usize = 128;

type Parse<T> = Result<T, ParseError>;

/// Parses a script: at least one statement.
pub fn parse(text: &str) -> Parse<Vec<Statement>> {
    let mut p = Parser::new(text)?;
    let mut statements = vec![p.statement()?];
    while p.kind() != TokenKind::End {
        statements.push(p.statement()?);
    }
    Ok(statements)
}

/// Parses a lone expression.
pub fn parse_expression(text: &str) -> Parse<Arc<Expr>> {
    let mut p = Parser::new(text)?;
    let expr = p.expr()?;
    p.end()?;
    Ok(expr)
}

/// Parses `a, b => expr` into its parameter names and body,
/// together with the levels of brackets in it.
pub fn parse_lambda(text: &str) -> Parse<(Vec<Ident>, Arc<Expr>, usize)> {
    let mut p = Parser::new(text)?;
    let mut params = vec![p.ident()?];
    while p.accept(",") {
        params.push(p.ident()?);
    }
    p.expect("=>")?;
    let body = p.expr()?;
    p.end()?;
    Ok((params, body, p.deepest))
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    at: usize,
    nesting: usize,
    deepest: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Parse<Parser<'a>> {
        Ok(Parser { text, tokens: tokenize(text)?, at: 0, nesting: 0, deepest: 0 })
    }

    fn ahead(&self, n: usize) -> Token<'a> {
        let end = Token { kind: TokenKind::End, text: "", offset: self.text.len() };
        self.tokens.get(self.at + n).copied().unwrap_or(end)
    }

    fn kind(&self) -> TokenKind {
        self.ahead(0).kind
    }

    fn is_operator(&self, n: usize, operator: &str) -> bool {
        let token = self.ahead(n);
        token.kind == TokenKind::Operator && token.text == operator
    }

    fn advance(&mut self) -> Token<'a> {
        let token = self.ahead(0);
        self.at += 1;
        token
    }

    fn accept(&mut self, operator: &str) -> bool {
        let found = self.is_operator(0, operator);
        self.at += usize::from(found);
        found
    }

    fn accept_kind(&mut self, kind: TokenKind) -> bool {
        let found = self.kind() == kind;
        self.at += usize::from(found);
        found
    }

    fn unexpected<T>(&self, wanted: &str) -> Parse<T> {
        let token = self.ahead(0);
        let found = match token.kind {
            TokenKind::End => "end of query".to_string(),
            _ => format!("{:?}", token.text.chars().take(40).collect::<String>()),
        };
        let message = format!("unexpected {found}, expected {wanted}");
        Err(ParseError::at(self.text, token.offset, message))
    }

    fn expect(&mut self, operator: &str) -> Parse<()> {
        if self.accept(operator) { Ok(()) } else { self.unexpected(&format!("{operator:?}")) }
    }

    fn expect_kind(&mut self, kind: TokenKind, name: &str) -> Parse<()> {
        if self.accept_kind(kind) { Ok(()) } else { self.unexpected(name) }
    }

    fn end(&self) -> Parse<()> {
        if self.kind() == TokenKind::End { Ok(()) } else { self.unexpected("end of query") }
    }

    fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        if self.nesting >= MAX_NESTING {
            let message = format!("nested more than {MAX_NESTING} levels deep");
            return Err(ParseError::at(self.text, self.ahead(0).offset, message));
        }
        self.nesting += 1;
        self.deepest = self.deepest.max(self.nesting);
        let result = rule(self);
        self.nesting -= 1;
        result
    }

    fn statement(&mut self) -> Parse<Statement> {
        match self.kind() {
            TokenKind::Let => Ok(Statement::Let(Arc::new(self.let_()?))),
            TokenKind::Select | TokenKind::Explain => Ok(Statement::Select(self.select()?)),
            _ => self.unexpected("LET or SELECT"),
        }
    }

    fn let_(&mut self) -> Parse<Let> {
        self.advance();
        let name = self.ident()?;
        let mut params = Vec::new();
        if self.accept("(") && !self.accept(")") {
            loop {
                params.push(match self.is_operator(1, "=") {
                    true => Param::Default(self.arg()?),
                    false => Param::Name(self.ident()?),
                });
                if !self.accept(",") {
                    break;
                }
            }
            self.expect(")")?;
        }
        let materialize = match (self.accept("="), self.is_operator(0, "<=")) {
            (true, _) => false,
            (false, true) => self.accept("<="),
            (false, false) => return self.unexpected("= or <="),
        };
        self.deepest = 0;
        let value = match self.kind() {
            TokenKind::Select | TokenKind::Explain => LetValue::Select(self.select()?),
            _ => LetValue::Expr(self.expr()?),
        };
        let nesting = self.deepest;
        Ok(Let { name, params: Arc::new(params), materialize, value, nesting })
    }

    fn select(&mut self) -> Parse<Arc<Select>> {
        let mut explain = 0;
        while self.accept_kind(TokenKind::Explain) {
            explain += 1;
        }
        self.expect_kind(TokenKind::Select, "SELECT")?;
        let columns = self.columns()?;
        self.expect_kind(TokenKind::From, "FROM")?;
        let source = self.source()?;
        let filter = match self.accept_kind(TokenKind::Where) {
            true => Some(Arc::new(self.list()?)),
            false => None,
        };
        let group_by = match self.accept_kind(TokenKind::GroupBy) {
            true => Some(Arc::new(self.list()?)),
            false => None,
        };
        let order_by = match self.accept_kind(TokenKind::OrderBy) {
            true => {
                let column = self.path_ident()?;
                Some(OrderBy { column, descending: self.accept_kind(TokenKind::Desc) })
            }
            false => None,
        };
        let limit = match self.accept_kind(TokenKind::Limit) {
            true if self.kind() == TokenKind::Number => Some(number(self.advance().text)),
            true => return self.unexpected("a number"),
            false => None,
        };
        Ok(Arc::new(Select { explain, columns, source, filter, group_by, order_by, limit }))
    }

    fn columns(&mut self) -> Parse<Vec<Column>> {
        let mut columns = Vec::new();
        if self.is_operator(0, "*") {
            columns.push(self.column()?);
            self.accept(",");
        }
        if self.kind() == TokenKind::From {
            return Ok(columns);
        }
        columns.push(self.column()?);
        while self.accept(",") {
            columns.push(self.column()?);
        }
        Ok(columns)
    }

    fn column(&mut self) -> Parse<Column> {
        let value = if self.accept("*") {
            ColumnValue::Star
        } else if self.is_operator(0, "{") {
            ColumnValue::Select(self.braced()?)
        } else {
            ColumnValue::Expr(self.expr()?)
        };
        let alias = match self.accept_kind(TokenKind::As) {
            true => Some(self.ident()?),
            false => None,
        };
        let name = match &alias {
            Some(alias) => alias.name.clone(),
            None => format::column_name(&value).into(),
        };
        Ok(Column { value, alias, name })
    }

    fn braced(&mut self) -> Parse<Arc<Select>> {
        self.expect("{")?;
        let select = self.nested(Self::select)?;
        self.expect("}")?;
        Ok(select)
    }

    fn source(&mut self) -> Parse<Source> {
        let path = self.path()?;
        let full_name = full_name(&path);
        let args = self.arguments()?;
        Ok(Source { path, full_name, args })
    }

    fn path(&mut self) -> Parse<Vec<Ident>> {
        let mut path = vec![self.path_ident()?];
        while self.accept(".") {
            path.push(self.path_ident()?);
        }
        Ok(path)
    }

    fn arguments(&mut self) -> Parse<Option<Args>> {
        if !self.accept("(") {
            return Ok(None);
        }
        let mut args = Vec::new();
        if !self.accept(")") {
            args.push(self.arg()?);
            while self.accept(",") {
                args.push(self.arg()?);
            }
            self.expect(")")?;
        }
        Ok(Some(Arc::new(args)))
    }

    fn arg(&mut self) -> Parse<Arg> {
        let name = self.ident()?;
        self.expect("=")?;
        let value = if self.is_operator(0, "{") {
            ArgValue::Select(self.braced()?)
        } else if self.accept("[") {
            let list = match self.is_operator(0, "]") {
                true => None,
                false => Some(Arc::new(self.nested(Self::list)?)),
            };
            self.expect("]")?;
            ArgValue::Array(list)
        } else {
            ArgValue::Expr(self.nested(Self::expr)?)
        };
        Ok(Arg { name, value })
    }

    fn list(&mut self) -> Parse<List> {
        let first = self.expr()?;
        let mut rest = Vec::new();
        while self.accept(",") {
            rest.push(if self.starts_value() { Some(self.expr()?) } else { None });
        }
        Ok(List { first, rest })
    }

    fn starts_value(&self) -> bool {
        use TokenKind::*;
        match self.kind() {
            Not | Null | True | False | Number | Ident | NegatedIdent | RawString | String => true,
            Operator => self.is_operator(0, "("),
            _ => false,
        }
    }

    fn expr(&mut self) -> Parse<Arc<Expr>> {
        let first = self.or()?;
        let mut rest = Vec::new();
        while self.kind() == TokenKind::And {
            let word = self.advance().text.into();
            rest.push((word, self.or()?));
        }
        Ok(if rest.is_empty() { first } else { Arc::new(Expr::And(first, rest)) })
    }

    fn or(&mut self) -> Parse<Arc<Expr>> {
        let first = self.condition()?;
        let mut rest = Vec::new();
        while self.kind() == TokenKind::Or {
            let word = self.advance().text.into();
            rest.push((word, self.condition()?));
        }
        Ok(if rest.is_empty() { first } else { Arc::new(Expr::Or(first, rest)) })
    }

    fn condition(&mut self) -> Parse<Arc<Expr>> {
        let first = match self.accept_kind(TokenKind::Not) {
            true => Arc::new(Expr::Not(self.nested(Self::condition)?)),
            false => self.sum()?,
        };
        let mut rest = Vec::new();
        while let Some(op) = self.compare_op() {
            self.advance();
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Arc::new(Expr::Compare(first, rest)) })
    }

    fn compare_op(&self) -> Option<CompareOp> {
        let token = self.ahead(0);
        match (token.kind, token.text) {
            (TokenKind::In, _) => Some(CompareOp::In),
            (TokenKind::Operator, "<>") => Some(CompareOp::Diamond),
            (TokenKind::Operator, "<=") => Some(CompareOp::LessEqual),
            (TokenKind::Operator, ">=") => Some(CompareOp::GreaterEqual),
            (TokenKind::Operator, "=") => Some(CompareOp::Equal),
            (TokenKind::Operator, "<") => Some(CompareOp::Less),
            (TokenKind::Operator, ">") => Some(CompareOp::Greater),
            (TokenKind::Operator, "!=") => Some(CompareOp::NotEqual),
            (TokenKind::Operator, "=~") => Some(CompareOp::Match),
            _ => None,
        }
    }

    fn sum(&mut self) -> Parse<Arc<Expr>> {
        let first = self.product()?;
        let mut rest = Vec::new();
        loop {
            let op = match () {
                () if self.accept("+") => SumOp::Add,
                () if self.accept("-") => SumOp::Subtract,
                () => break,
            };
            rest.push((op, self.product()?));
        }
        Ok(if rest.is_empty() { first } else { Arc::new(Expr::Sum(first, rest)) })
    }

    fn product(&mut self) -> Parse<Arc<Expr>> {
        let first = self.member()?;
        let mut rest = Vec::new();
        loop {
            let op = match () {
                () if self.accept("*") => ProductOp::Multiply,
                () if self.accept("/") => ProductOp::Divide,
                () => break,
            };
            rest.push((op, self.value()?));
        }
        Ok(if rest.is_empty() { first } else { Arc::new(Expr::Product(first, rest)) })
    }

    fn member(&mut self) -> Parse<Arc<Expr>> {
        let base = self.value()?;
        let mut suffixes = Vec::new();
        loop {
            if self.accept(".") {
                suffixes.push(Suffix::Name(self.ident()?));
            } else if self.accept("[") {
                suffixes.push(self.nested(Self::index)?);
                self.expect("]")?;
            } else {
                break;
            }
        }
        Ok(if suffixes.is_empty() { base } else { Arc::new(Expr::Member(base, suffixes)) })
    }

    fn index(&mut self) -> Parse<Suffix> {
        let from = if self.starts_value() { Some(self.value()?) } else { None };
        if !self.accept(":") {
            return Ok(Suffix::Index(from));
        }
        let to = if self.starts_value() { Some(self.value()?) } else { None };
        Ok(Suffix::Slice(from, to))
    }

    fn value(&mut self) -> Parse<Arc<Expr>> {
        let token = self.ahead(0);
        let expr = match token.kind {
            TokenKind::Ident | TokenKind::NegatedIdent => return self.symbol(),
            TokenKind::Operator if token.text == "(" => {
                self.advance();
                let list = self.nested(Self::list)?;
                self.expect(")")?;
                return Ok(Arc::new(Expr::Paren(Arc::new(list))));
            }
            TokenKind::String => {
                let value = unquote::unquote(&token.text[1..token.text.len() - 1]);
                Expr::String(StringLiteral { text: token.text.into(), value: value.into() })
            }
            TokenKind::RawString => {
                let value = Str::from(&token.text[3..token.text.len() - 3]);
                Expr::String(StringLiteral { text: token.text.into(), value })
            }
            TokenKind::Number => Expr::Number(number(token.text)),
            TokenKind::True => Expr::Bool(true, token.text.into()),
            TokenKind::False => Expr::Bool(false, token.text.into()),
            TokenKind::Null => Expr::Null,
            _ => return self.unexpected("a value"),
        };
        self.advance();
        Ok(Arc::new(expr))
    }

    fn symbol(&mut self) -> Parse<Arc<Expr>> {
        let negated = self.kind() == TokenKind::NegatedIdent;
        let path = if negated {
            let first = self.advance();
            let mut path = vec![path_ident(&first.text[1..], first.offset)];
            while self.accept(".") {
                path.push(self.path_ident()?);
            }
            path
        } else {
            self.path()?
        };
        let full_name = full_name(&path);
        let args = self.arguments()?;
        let site = CallSite::default();
        Ok(Arc::new(Expr::Symbol(Symbol { negated, path, full_name, args, site })))
    }

    /// An identifier whose back-quoted form knows escapes.
    fn ident(&mut self) -> Parse<Ident> {
        if self.kind() != TokenKind::Ident {
            return self.unexpected("an identifier");
        }
        let Token { text, offset, .. } = self.advance();
        let name = match text.strip_prefix('`').and_then(|t| t.strip_suffix('`')) {
            Some(inner) => unquote::unescape_name(inner).into(),
            None => text.into(),
        };
        Ok(Ident { text: text.into(), name, place: place(offset) })
    }

    /// An identifier whose back-quotes are merely removed.
    fn path_ident(&mut self) -> Parse<Ident> {
        if self.kind() != TokenKind::Ident {
            return self.unexpected("an identifier");
        }
        let token = self.advance();
        Ok(path_ident(token.text, token.offset))
    }
}

fn path_ident(text: &str, offset: usize) -> Ident {
    Ident { text: text.into(), name: text.trim_matches('`').into(), place: place(offset) }
}

fn place(offset: usize) -> Place {
    Place(u32::try_from(offset).unwrap_or(u32::MAX))
}

fn full_name(path: &[Ident]) -> Arc<str> {
    match path {
        [only] => only.name.clone(),
        _ => path.iter().map(|p| &*p.name).collect::<Vec<_>>().join(".").into(),
    }
}

/// Integers by prefix (`0x`, leading zero is octal), otherwise a fraction.
fn number(text: &str) -> Number {
    if let Some(i) = parse_int(text) {
        return Number::Int(i);
    }
    match text.parse::<f64>() {
        Ok(f) if f.is_finite() => Number::Float(f),
        _ => Number::Invalid,
    }
}

/// Go's base-prefix integer: `0x`, `0o`, `0b` or a leading zero choose the base.
pub(crate) fn parse_int(text: &str) -> Option<i64> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = body.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // Underscores part digits from each other, or from what tells the radix.
    let prefixed = digits.len() < lower.len();
    let parted = if prefixed { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let fits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    if !parted.split('_').all(fits) {
        return None;
    }
    let digits = parted.replace('_', "");
    let value = i128::from(u64::from_str_radix(&digits, radix).ok()?);
    i64::try_from(if negative { -value } else { value }).ok()
}
