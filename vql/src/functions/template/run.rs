//! Fills a parsed template.

use super::calls;
use super::parse::{Base, Node, Pipeline, Term};
use crate::eval::{member, plain_truth};
use crate::scope::Scope;
use crate::value::Value;

/// Most bytes of output.
const LIMIT: usize = 100 << 20;

/// What it gives; errors say what could not be done.
pub(super) fn run(nodes: &[Node], data: Value, scope: &Scope) -> Result<Vec<u8>, String> {
    let variables = vec![("$".to_owned(), data.clone())];
    let mut run = Run { scope, variables, out: Vec::new() };
    run.nodes(nodes, &data)?;
    Ok(run.out)
}

struct Run<'a> {
    scope: &'a Scope,
    /// Innermost last.
    variables: Vec<(String, Value)>,
    out: Vec<u8>,
}

/// What goes on after some nodes.
#[derive(PartialEq, Eq)]
enum Then {
    Next,
    Break,
    Continue,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Then, String> {
        let known = self.variables.len();
        for node in nodes {
            let then = self.node(node, dot)?;
            if self.out.len() > LIMIT {
                return Err(format!("the template gives more than {LIMIT} bytes"));
            }
            if then != Then::Next {
                self.variables.truncate(known);
                return Ok(then);
            }
        }
        self.variables.truncate(known);
        Ok(Then::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Then, String> {
        match node {
            Node::Text(text) => self.out.extend_from_slice(text.as_bytes()),
            Node::Output(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.extend_from_slice(&shown(&value));
                }
            }
            Node::If { condition, then, otherwise } => {
                let known = self.variables.len();
                let holds = plain_truth(&self.pipeline(condition, dot)?);
                let done = self.nodes(if holds { then } else { otherwise }, dot);
                self.variables.truncate(known);
                return done;
            }
            Node::With { value, then, otherwise } => {
                let known = self.variables.len();
                let value = self.pipeline(value, dot)?;
                let done = match plain_truth(&value) {
                    true => self.nodes(then, &value),
                    false => self.nodes(otherwise, dot),
                };
                self.variables.truncate(known);
                return done;
            }
            Node::Range { list, each, otherwise } => return self.range(list, each, otherwise, dot),
            Node::Break => return Ok(Then::Break),
            Node::Continue => return Ok(Then::Continue),
        }
        Ok(Then::Next)
    }

    fn range(
        &mut self,
        list: &Pipeline,
        each: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Then, String> {
        let known = self.variables.len();
        let over = self.value(list, dot)?;
        let items: Vec<(Value, Value)> = match over {
            Value::List(items) => {
                items.iter().enumerate().map(|(i, v)| (i.into(), v.clone())).collect()
            }
            Value::Dict(d) => d.iter().map(|(k, v)| (k.as_str().into(), v.clone())).collect(),
            Value::Int(n) => (0..n).map(|i| (i.into(), i.into())).collect(),
            Value::Null => Vec::new(),
            other if !plain_truth(&other) => Vec::new(),
            other => return Err(format!("range over {}", other.type_name())),
        };
        if items.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in items {
            match list.variables.as_slice() {
                [] => {}
                [one] => self.variables.push((one.clone(), item.clone())),
                [k, v, ..] => {
                    self.variables.push((k.clone(), key));
                    self.variables.push((v.clone(), item.clone()));
                }
            }
            let then = self.nodes(each, &item)?;
            self.variables.truncate(known);
            if then == Then::Break {
                break;
            }
        }
        Ok(Then::Next)
    }

    /// The value, put in the variables of the pipeline.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.value(pipeline, dot)?;
        for name in &pipeline.variables {
            if !pipeline.assigns {
                self.variables.push((name.clone(), value.clone()));
                continue;
            }
            let found = self.variables.iter_mut().rev().find(|(n, _)| n == name);
            let found = found.ok_or_else(|| format!("there is no variable {name}"))?;
            found.1 = value.clone();
        }
        Ok(value)
    }

    fn value(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut last: Option<Value> = None;
        for command in &pipeline.commands {
            let (head, rest) = command.split_first().ok_or("a value is missing")?;
            last = Some(match &head.base {
                Base::Function(name) => {
                    let mut args = Vec::with_capacity(rest.len() + 1);
                    for term in rest {
                        args.push(self.term(term, dot)?);
                    }
                    args.extend(last.take());
                    follow(calls::call(name, &args, self.scope)?, &head.fields)
                }
                _ if rest.is_empty() && last.is_none() => self.term(head, dot)?,
                _ => return Err("something that is no function has arguments".into()),
            });
        }
        last.ok_or_else(|| "a value is missing".into())
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Result<Value, String> {
        let base = match &term.base {
            Base::Dot => dot.clone(),
            Base::Literal(value) => value.clone(),
            Base::Inner(pipeline) => self.value(pipeline, dot)?,
            Base::Function(name) => calls::call(name, &[], self.scope)?,
            Base::Variable(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| n == name);
                found.ok_or_else(|| format!("there is no variable {name}"))?.1.clone()
            }
        };
        Ok(follow(base, &term.fields))
    }
}

fn follow(value: Value, fields: &[String]) -> Value {
    fields.iter().fold(value, |value, name| member(&value, name).unwrap_or_default())
}

/// As Go prints it.
pub(super) fn shown(value: &Value) -> Vec<u8> {
    match value {
        Value::Null => b"<no value>".to_vec(),
        Value::Str(text) => text.as_bytes().to_vec(),
        other => crate::functions::go_format::sprintf(b"%v", std::slice::from_ref(other)),
    }
}
