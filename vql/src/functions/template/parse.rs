//! The text of a template as a tree.

use crate::value::Value;

/// Blocks or parentheses in each other.
const DEPTH: usize = 100;

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Output(Pipeline),
    If { condition: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    With { value: Pipeline, then: Vec<Node>, otherwise: Vec<Node> },
    Range { list: Pipeline, each: Vec<Node>, otherwise: Vec<Node> },
    Break,
    Continue,
}

/// `a | b x | c`: each command gets the value of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipeline {
    /// Variables it is put in, with their dollar.
    pub(super) variables: Vec<String>,
    /// `=`, not `:=`.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Vec<Term>>,
}

/// One word of a command.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) base: Base,
    /// `.a.b` behind it.
    pub(super) fields: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Inner(Pipeline),
}

/// How a list of nodes ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Text,
    Closed,
    Else(String),
}

pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    let mut parser = Parser { text, at: 0, trim: false };
    match parser.nodes(0)? {
        (nodes, End::Text) => Ok(nodes),
        (_, _) => Err(parser.fail("there is no block that ends or goes on here")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// The action before took away the white space behind it.
    trim: bool,
}

impl<'a> Parser<'a> {
    fn fail(&self, what: &str) -> String {
        let line = self.text.get(..self.at).unwrap_or(self.text).matches('\n').count() + 1;
        format!("template, line {line}: {what}")
    }

    fn nodes(&mut self, depth: usize) -> Result<(Vec<Node>, End), String> {
        if depth > DEPTH {
            return Err(self.fail("blocks are nested too deeply"));
        }
        let mut out = Vec::new();
        loop {
            let rest = &self.text[self.at..];
            let open = rest.find("{{");
            let mut text = &rest[..open.unwrap_or(rest.len())];
            if std::mem::take(&mut self.trim) {
                text = text.trim_start();
            }
            let Some(open) = open else {
                push_text(&mut out, text);
                self.at = self.text.len();
                return Ok((out, End::Text));
            };
            self.at += open + 2;
            let inner = &self.text[self.at..];
            if inner.starts_with('-') && inner[1..].starts_with(char::is_whitespace) {
                text = text.trim_end();
                self.at += 1;
            }
            push_text(&mut out, text);
            let action = self.action()?;
            let (word, rest) = split_word(action);
            match word {
                _ if action.is_empty() => {}
                "end" if rest.is_empty() => return Ok((out, End::Closed)),
                "else" => return Ok((out, End::Else(rest.to_owned()))),
                "break" if rest.is_empty() => out.push(Node::Break),
                "continue" if rest.is_empty() => out.push(Node::Continue),
                "if" | "with" | "range" => out.push(self.block(word, rest, depth)?),
                "define" | "template" | "block" => {
                    return Err(self.fail(&format!("{word} is not supported")));
                }
                _ => out.push(Node::Output(self.pipeline(action)?)),
            }
        }
    }

    /// The text of an action up to its end, without the comments it may be.
    fn action(&mut self) -> Result<&'a str, String> {
        let rest = &self.text[self.at..];
        let blank = rest.len() - rest.trim_start().len();
        if rest[blank..].starts_with("/*") {
            let end = rest.find("*/").ok_or_else(|| self.fail("a comment is not closed"))?;
            self.at += end + 2;
            let behind = self.action()?;
            return match behind.is_empty() {
                true => Ok(behind),
                false => Err(self.fail("something is behind a comment")),
            };
        }
        let (mut quote, mut escaped) = (None, false);
        for (i, c) in rest.char_indices() {
            match quote {
                _ if escaped => escaped = false,
                Some('"' | '\'') if c == '\\' => escaped = true,
                Some(q) if c == q => quote = None,
                Some(_) => {}
                None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
                None if rest[i..].starts_with("}}") => {
                    self.at += i + 2;
                    let mut action = rest[..i].trim();
                    let trims = rest[..i].strip_suffix('-');
                    if let Some(t) =
                        trims.filter(|t| t.is_empty() || t.ends_with(char::is_whitespace))
                    {
                        action = t.trim();
                        self.trim = true;
                    }
                    return Ok(action);
                }
                None => {}
            }
        }
        Err(match quote {
            Some(_) => self.fail("a string is not closed"),
            None => self.fail("{{ is not closed"),
        })
    }

    fn block(&mut self, word: &str, head: &str, depth: usize) -> Result<Node, String> {
        let head = self.pipeline(head)?;
        let unclosed = self.fail(&format!("{word} has no end"));
        let (then, end) = self.nodes(depth + 1)?;
        let otherwise = match end {
            End::Closed => Vec::new(),
            End::Text => return Err(unclosed),
            End::Else(next) if next.is_empty() => match self.nodes(depth + 1)? {
                (nodes, End::Closed) => nodes,
                _ => return Err(unclosed),
            },
            End::Else(next) => {
                let (word, head) = split_word(&next);
                if !matches!(word, "if" | "with") {
                    return Err(self.fail("else is followed by something else than if or with"));
                }
                vec![self.block(word, head, depth + 1)?]
            }
        };
        Ok(match word {
            "if" => Node::If { condition: head, then, otherwise },
            "with" => Node::With { value: head, then, otherwise },
            _ => Node::Range { list: head, each: then, otherwise },
        })
    }

    fn pipeline(&self, text: &str) -> Result<Pipeline, String> {
        let mut words = Words { text, parser: self };
        let out = words.pipeline(0)?;
        match words.text.trim().is_empty() {
            true => Ok(out),
            false => Err(self.fail(&format!("{} was not expected", words.text.trim()))),
        }
    }
}

fn push_text(out: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        out.push(Node::Text(text.to_owned()));
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

struct Words<'a, 'p> {
    text: &'a str,
    parser: &'p Parser<'p>,
}

impl Words<'_, '_> {
    fn pipeline(&mut self, depth: usize) -> Result<Pipeline, String> {
        if depth > DEPTH {
            return Err(self.parser.fail("parentheses are nested too deeply"));
        }
        let (variables, assigns) = self.declaration();
        let mut commands = vec![Vec::new()];
        loop {
            self.text = self.text.trim_start();
            let Some(c) = self.text.chars().next() else { break };
            match c {
                ')' => break,
                '|' => {
                    self.text = &self.text[1..];
                    commands.push(Vec::new());
                }
                _ => {
                    let term = self.term(c, depth)?;
                    if let Some(command) = commands.last_mut() {
                        command.push(term);
                    }
                }
            }
        }
        if commands.iter().any(Vec::is_empty) {
            return Err(self.parser.fail("a value is missing"));
        }
        Ok(Pipeline { variables, assigns, commands })
    }

    /// `$a, $b :=` or `$a =` at the beginning.
    fn declaration(&mut self) -> (Vec<String>, bool) {
        let (mut rest, mut names) = (self.text.trim_start(), Vec::new());
        while rest.starts_with('$') {
            let end = name_end(&rest[1..]) + 1;
            names.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
            match rest.strip_prefix(',') {
                Some(more) => rest = more.trim_start(),
                None => break,
            }
        }
        for (sign, assigns) in [(":=", false), ("=", true)] {
            if let Some(rest) = rest.strip_prefix(sign).filter(|_| !names.is_empty()) {
                self.text = rest;
                return (names, assigns);
            }
        }
        (Vec::new(), false)
    }

    fn term(&mut self, first: char, depth: usize) -> Result<Term, String> {
        let base = match first {
            '(' => {
                self.text = &self.text[1..];
                let inner = self.pipeline(depth + 1)?;
                let rest = self.text.strip_prefix(')');
                self.text = rest.ok_or_else(|| self.parser.fail("( is not closed"))?;
                Base::Inner(inner)
            }
            '.' => {
                // A single dot, or the first of its fields.
                if !self.text[1..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                    self.text = &self.text[1..];
                }
                Base::Dot
            }
            '$' => Base::Variable(format!("${}", self.name(1))),
            '"' | '\'' | '`' => Base::Literal(self.string(first)?),
            '-' | '+' | '0'..='9' => Base::Literal(self.number()?),
            c if c.is_alphabetic() || c == '_' => match self.name(0).as_str() {
                "true" => Base::Literal(true.into()),
                "false" => Base::Literal(false.into()),
                "nil" => Base::Literal(Value::Null),
                name => Base::Function(name.to_owned()),
            },
            c => return Err(self.parser.fail(&format!("{c} was not expected"))),
        };
        let mut fields = Vec::new();
        while self.text.starts_with('.') {
            match self.name(1) {
                name if name.is_empty() => {
                    return Err(self.parser.fail("a name is missing behind ."));
                }
                name => fields.push(name),
            }
        }
        Ok(Term { base, fields })
    }

    /// The name behind so many bytes, which are taken too.
    fn name(&mut self, skip: usize) -> String {
        let rest = &self.text[skip..];
        let (name, rest) = rest.split_at(name_end(rest));
        self.text = rest;
        name.to_owned()
    }

    fn number(&mut self) -> Result<Value, String> {
        let end =
            self.text.find(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | '-' | '+' | '_'));
        let (text, rest) = self.text.split_at(end.unwrap_or(self.text.len()));
        self.text = rest;
        let plain = text.replace('_', "");
        let hex = plain.strip_prefix("0x").and_then(|h| i64::from_str_radix(h, 16).ok());
        let number = hex.or_else(|| plain.parse().ok()).map(Value::Int);
        number
            .or_else(|| plain.parse().ok().map(Value::Float))
            .ok_or_else(|| self.parser.fail(&format!("{text} is no number")))
    }

    fn string(&mut self, quote: char) -> Result<Value, String> {
        let (mut out, mut chars) = (String::new(), self.text[1..].char_indices());
        let unclosed = || self.parser.fail("a string is not closed");
        let end = loop {
            let (i, c) = chars.next().ok_or_else(unclosed)?;
            match c {
                c if c == quote => break i + 2,
                '\\' if quote != '`' => {
                    let (_, c) = chars.next().ok_or_else(unclosed)?;
                    let digits = |n| -> Option<char> {
                        let code = chars.clone().take(n).map(|(_, c)| c).collect::<String>();
                        char::from_u32(u32::from_str_radix(&code, 16).ok()?)
                    };
                    let (read, length) = match c {
                        'n' => (Some('\n'), 0),
                        't' => (Some('\t'), 0),
                        'r' => (Some('\r'), 0),
                        'x' => (digits(2), 2),
                        'u' => (digits(4), 4),
                        other => (Some(other), 0),
                    };
                    out.push(
                        read.ok_or_else(|| self.parser.fail("an escape in a string is not right"))?,
                    );
                    chars.by_ref().take(length).for_each(drop);
                }
                c => out.push(c),
            }
        };
        self.text = &self.text[end..];
        Ok(match (quote, out.chars().next()) {
            ('\'', Some(c)) => i64::from(u32::from(c)).into(),
            _ => out.into(),
        })
    }
}

fn name_end(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}
