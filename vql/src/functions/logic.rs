//! if(), any() and all().

use crate::args::Args;
use crate::error::Error;
use crate::eval::{call_lambda, truth};
use crate::go_regex::{GoRegex, compile};
use crate::query::Lambda;
use crate::registry::{Function, Registry};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::value::Value;
use std::sync::Arc;

pub(super) fn register(registry: &mut Registry) {
    registry.add_function(Arc::new(If(Signature::new(
        "if",
        "One of two values; the other is not evaluated.",
    )
    .required("condition", ArgType::Bool, "What decides.")
    .arg("then", ArgType::Lazy, "The value when true.")
    .arg("else", ArgType::Lazy, "The value when false."))));

    let items = |name, doc| {
        Signature::new(name, doc)
            .required("items", ArgType::List, "The values.")
            .arg("regex", ArgType::Strings, "Tests elements with these.")
            .arg("filter", ArgType::Lambda, "Tests elements with this.")
    };
    registry.function_async(items("any", "True when any element is."), |scope, args| async move {
        Ok((count_true(&scope, &args, true).await? > 0).into())
    });
    registry
        .function_async(items("all", "True when every element is."), |scope, args| async move {
            Ok((count_true(&scope, &args, false).await? == 0).into())
        });
}

/// Counts elements whose truth is `wanted`, at most one.
async fn count_true(scope: &Scope, args: &Args, wanted: bool) -> Result<usize, Error> {
    let condition = Condition::new(args, "filter")?;
    if condition.is_trivial() {
        return Err(Error::Arg("one of filter or regex is needed".into()));
    }
    let items = match args.any("items") {
        Value::List(items) => items.to_vec(),
        other => vec![other],
    };
    for item in &items {
        let holds = match wanted {
            true => condition.holds(item, scope).await,
            false => condition.holds_all(item, scope).await,
        };
        if holds == wanted {
            return Ok(1);
        }
    }
    Ok(0)
}

struct If(Signature);

impl Function for If {
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn call(&self, _scope: &Scope, args: Args) -> Reply<Result<Value, Error>> {
        match args.bool("condition") {
            Ok(condition) => args.lazy(if condition { "then" } else { "else" }).eval().map(Ok),
            Err(error) => Reply::Ready(Err(error)),
        }
    }
}

/// A test of elements by patterns and a lambda, from the arguments of a call.
pub(super) struct Condition {
    patterns: Vec<Pattern>,
    lambda: Option<Arc<Lambda>>,
}

enum Pattern {
    /// `.` and the like: whatever there is.
    Everything,
    Regex(GoRegex),
}

impl Pattern {
    fn new(text: &str) -> Result<Pattern, Error> {
        match text {
            "" | "." | ".*" => Ok(Pattern::Everything),
            text => compile(text, true).map(Pattern::Regex).map_err(Error::failed),
        }
    }

    fn is_match(&self, text: &[u8]) -> bool {
        match self {
            Pattern::Everything => true,
            Pattern::Regex(regex) => regex.is_match(text),
        }
    }
}

impl Condition {
    /// Reads `regex` and the lambda argument.
    pub(super) fn new(args: &Args, lambda: &str) -> Result<Condition, Error> {
        let patterns = args.strings("regex")?;
        let compiled = patterns.iter().map(|p| Pattern::new(p));
        Ok(Condition {
            patterns: compiled.collect::<Result<_, _>>()?,
            lambda: args.lambda(lambda)?,
        })
    }

    fn is_trivial(&self) -> bool {
        self.patterns.is_empty() && self.lambda.is_none()
    }

    /// True when the lambda, or without one every pattern, accepts the element.
    async fn holds_all(&self, item: &Value, scope: &Scope) -> bool {
        if self.lambda.is_some() {
            return self.holds(item, scope).await;
        }
        let text = item.to_str();
        self.patterns.iter().all(|p| p.is_match(text.as_bytes()))
    }

    /// True when the lambda, or without one a pattern, accepts the element.
    pub(super) async fn holds(&self, item: &Value, scope: &Scope) -> bool {
        match &self.lambda {
            Some(lambda) => {
                let value = call_lambda(lambda, scope, vec![item.clone()]).await;
                truth(&value, scope).await
            }
            None => {
                let text = item.to_str();
                self.patterns.iter().any(|p| p.is_match(text.as_bytes()))
            }
        }
    }
}
