//! if(), any() and all().

use crate::args::Args;
use crate::error::Error;
use crate::eval::{call_lambda, matches, truth};
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
    let lambda = args.lambda("filter")?;
    let patterns: Vec<Value> = args.strings("regex")?.into_iter().map(Value::from).collect();
    if patterns.is_empty() && lambda.is_none() {
        return Err(Error::Arg("one of filter or regex is needed".into()));
    }
    let items = match args.any("items") {
        Value::List(items) => items.to_vec(),
        Value::Dict(dict) if !dict.is_empty() => dict.values().cloned().collect(),
        Value::Object(object) if !object.members().is_empty() => {
            object.members().iter().filter_map(|name| object.member(name)).collect()
        }
        other => vec![other],
    };
    for item in &items {
        let mut tests = patterns.iter().map(|pattern| matches(item, pattern, scope));
        let holds = match &lambda {
            _ if !patterns.is_empty() && wanted => tests.any(|holds| holds),
            _ if !patterns.is_empty() => tests.all(|holds| holds),
            Some(lambda) => {
                let value = call_lambda(lambda, scope, vec![item.clone()]).await;
                truth(&value, scope).await
            }
            None => false,
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

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn any_and_all() {
        assert_eq!(value("any(items=dict(a=1), filter='x=>x = 1')"), "true");
        assert_eq!(value("all(items=dict(a=1, b=0), filter='x=>x = 1')"), "false");
        assert_eq!(value("all(items=('ab', 'b'), regex=('a', 'b'))"), "false");
        assert_eq!(value("any(items=('ab', 'b'), regex=('x', 'A'))"), "true");
        assert_eq!(value("any(items=5, filter='x=>x = 5')"), "true");
        assert_eq!(value("any(items=(1, 2))"), "null");
    }
}
