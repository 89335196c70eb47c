//! Calls: evaluating arguments and handing them to functions, LETs and lambdas.

use super::argument::argument;
use super::expr::evaluate;
use super::rows::drain;
use super::stack::{STACK_OVERFLOW, fresh_stack};
use super::truth::truth;
use crate::args::{Args, Slot, Thunk, ThunkKind};
use crate::error::Error;
use crate::log::Level;
use crate::query::Lambda;
use crate::registry::{Function, report};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::signature::{ArgType, Signature};
use crate::syntax::ast::{self, ArgValue, CallSite, Param};
use crate::value::{Dict, Key, Value};
use std::sync::Arc;

/// Calls a built-in function.
pub(crate) fn call_function(
    function: Arc<dyn Function>,
    name: &Arc<str>,
    args: &ast::Args,
    site: &CallSite,
    scope: &Scope,
) -> Reply {
    let (name, site) = (name.clone(), site.clone());
    let slots = arguments(function.signature(), args, scope, true);
    slots.then(scope, move |scope, items| {
        let Some(items) = checked(function.signature(), &name, items, scope) else {
            return Reply::Ready(function.signature().refused.clone());
        };
        let args = Args { name: name.clone(), scope: scope.clone(), site, items };
        let refused = function.signature().refused.clone();
        function.call(scope, args).then(scope, move |scope, result| {
            Reply::Ready(result.unwrap_or_else(|error| {
                report(scope, &name, &error);
                match error {
                    Error::Arg(_) => refused,
                    _ => Value::Null,
                }
            }))
        })
    })
}

/// What is left of the arguments of a call after checking them.
pub(super) fn checked(
    signature: &Signature,
    name: &str,
    items: Vec<(Key, Slot)>,
    scope: &Scope,
) -> Option<Vec<(Key, Slot)>> {
    // Where any name will do, this is one.
    let takes_all = signature.free_form && signature.args.is_empty() && !signature.namespace;
    let items = if takes_all { items } else { expand_dict(items) };
    if !signature.free_form
        && let Some((extra, _)) = items.iter().find(|(key, _)| signature.find(key).is_none())
    {
        scope.log(Level::Default, format!("{name}: Unexpected arg {extra}"));
        return None;
    }
    let given = |wanted: &str| items.iter().any(|(key, _)| key.as_str() == wanted);
    let missing = signature.args.iter().find(|spec| spec.required && !given(spec.name));
    if let Some(spec) = missing {
        scope.log(Level::Default, format!("{name}: Field {} is required", spec.name));
        return None;
    }
    Some(items)
}

/// The argument `**` is a dictionary which replaces all others.
fn expand_dict(items: Vec<(Key, Slot)>) -> Vec<(Key, Slot)> {
    let all = items.iter().find_map(|(key, slot)| match (key.as_str(), slot) {
        ("**", Slot::Value(Value::Dict(dict))) => Some(dict.clone()),
        _ => None,
    });
    match all {
        Some(dict) => dict.iter().map(|(k, v)| (k.clone(), Slot::Value(v.clone()))).collect(),
        None => items,
    }
}

/// Evaluates the arguments of a built-in callable. Those of functions which
/// are lists in brackets come first, as upstream evaluates them early.
pub(super) fn arguments(
    signature: &Signature,
    args: &ast::Args,
    scope: &Scope,
    arrays_first: bool,
) -> Reply<Vec<(Key, Slot)>> {
    let kinds = args.iter().map(|arg| {
        let kind = signature.find(&arg.name.name).map(|spec| spec.kind);
        kind.unwrap_or(ArgType::Any)
    });
    let mut order: Vec<(usize, ArgType)> = kinds.enumerate().collect();
    if arrays_first && args.len() > 1 {
        order.sort_by_key(|(at, _)| !matches!(args[*at].value, ArgValue::Array(_)));
    }
    let slots = args.iter().map(|_| None).collect();
    evaluate_slots(args, scope, Work { order, next: 0, slots })
}

struct Work {
    order: Vec<(usize, ArgType)>,
    next: usize,
    slots: Vec<Option<Slot>>,
}

fn evaluate_slots(args: &ast::Args, scope: &Scope, mut work: Work) -> Reply<Vec<(Key, Slot)>> {
    while let Some(&(at, kind)) = work.order.get(work.next) {
        work.next += 1;
        match slot(&args[at].value, kind, scope) {
            Reply::Ready(slot) => work.slots[at] = Some(slot),
            Reply::Pending(future) => {
                let (args, scope) = (args.clone(), scope.clone());
                return Reply::from_future(async move {
                    work.slots[at] = Some(future.await);
                    evaluate_slots(&args, &scope, work).await
                });
            }
        }
    }
    let named = args.iter().zip(work.slots);
    let items = named.filter_map(|(arg, slot)| Some((Key::from(arg.name.name.clone()), slot?)));
    Reply::Ready(items.collect())
}

/// One argument as its declared kind needs it.
fn slot(value: &ArgValue, kind: ArgType, scope: &Scope) -> Reply<Slot> {
    if kind == ArgType::Lazy {
        let kind = ThunkKind::Syntax(value.clone());
        return Reply::Ready(Slot::Lazy(Thunk { kind, scope: scope.clone() }));
    }
    argument(value, scope)
        .then(scope, move |scope, value| match value {
            Value::Query(_) if kind == ArgType::Bool => truth(&value, scope).map(Value::Bool),
            Value::Query(_) if kind.drains_queries() => {
                let scope = scope.clone();
                Reply::from_future(async move { Value::list(drain(&value, &scope).await) })
            }
            other => Reply::Ready(other),
        })
        .map(Slot::Value)
}

/// Evaluates the arguments of a LET with parameters. Undeclared ones are bound
/// too. With `drain_queries` queries become lists.
pub(crate) fn bind(
    params: &Arc<Vec<Param>>,
    args: &ast::Args,
    scope: &Scope,
    drain_queries: bool,
) -> Reply<Dict> {
    let missing = params.iter().filter_map(|param| match param {
        Param::Default(default) if !args.iter().any(|a| a.name.name == default.name.name) => {
            Some(default.clone())
        }
        _ => None,
    });
    let mut all: Vec<ast::Arg> = args.to_vec();
    all.extend(missing);
    bind_next(Arc::new(all), scope, Dict::new(), 0, drain_queries)
}

fn bind_next(
    args: ast::Args,
    scope: &Scope,
    mut bound: Dict,
    mut at: usize,
    drain_queries: bool,
) -> Reply<Dict> {
    while let Some(arg) = args.get(at) {
        let name = arg.name.name.clone();
        let value = argument(&arg.value, scope).then(scope, move |scope, value| {
            if !drain_queries || !matches!(value, Value::Query(_)) {
                return Reply::Ready(value);
            }
            let scope = scope.clone();
            Reply::from_future(async move { Value::list(drain(&value, &scope).await) })
        });
        at += 1;
        match value {
            Reply::Ready(value) => bound.set(name, value),
            Reply::Pending(future) => {
                let scope = scope.clone();
                return Reply::from_future(async move {
                    bound.set(name, future.await);
                    bind_next(args, &scope, bound, at, drain_queries).await
                });
            }
        }
    }
    // A single dictionary given as `**` stands for all arguments.
    if let Some(Value::Dict(all)) = bound.get("**") {
        let all = Dict::clone(all);
        return Reply::Ready(all);
    }
    Reply::Ready(bound)
}

/// Calls a lambda with positional arguments; missing ones are NULL.
pub fn call_lambda(lambda: &Lambda, scope: &Scope, args: Vec<Value>) -> Reply {
    let mut args = args.into_iter();
    let mut bound = Dict::with_capacity(lambda.params.len());
    for param in &lambda.params {
        bound.set(param.name.clone(), args.next().unwrap_or_default());
    }
    let inner = scope.with_row(bound).mention();
    if inner.too_deep() {
        inner.log(Level::Default, STACK_OVERFLOW);
        return Reply::Ready(Value::Null);
    }
    match fresh_stack(&inner, lambda.nesting) {
        Some((spawner, inner)) => {
            let body = lambda.body.clone();
            spawner.run(async move { evaluate(&body, &inner).await })
        }
        None => evaluate(&lambda.body, &inner),
    }
}
