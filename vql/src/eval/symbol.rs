//! Names: variables, stored expressions and calls.

use super::call::{bind, call_function};
use super::expr::evaluate;
use super::member::dereference;
use super::stack::{STACK_OVERFLOW, fresh_stack};
use crate::log::Level;
use crate::query::StoredExpr;
use crate::reply::Reply;
use crate::scope::{Found, Scope};
use crate::syntax::ast::{Args, Expr, Symbol};
use crate::value::Value;
use std::sync::Arc;

/// Evaluates a name.
pub(super) fn symbol(expr: &Arc<Expr>, symbol: &Symbol, scope: &Scope) -> Reply {
    let value = match &symbol.args {
        Some(args) => call(symbol, args, scope),
        None => mention(expr, symbol, scope),
    };
    if symbol.negated { value.map(|v| negate(&v)) } else { value }
}

fn negate(value: &Value) -> Value {
    match value {
        Value::Int(i) => Value::Int(i.wrapping_neg()),
        Value::Float(f) => Value::Float(-f),
        Value::Bool(b) => Value::Bool(!b),
        _ => Value::Null,
    }
}

/// A name without call: the variable and its members.
fn mention(expr: &Arc<Expr>, symbol: &Symbol, scope: &Scope) -> Reply {
    let Some((first, rest)) = symbol.path.split_first() else { return Value::Null.into() };
    let value = match scope.lookup(&first.name) {
        Found::Value(Value::Expr(stored)) => stored_expression(&stored, &scope.mention()),
        Found::Value(value) => Reply::Ready(value),
        Found::Lazy(row, column) => row.column(column),
        Found::Missing => {
            missing(&first.name, scope);
            return Reply::Ready(Value::Null);
        }
    };
    if rest.is_empty() {
        return value;
    }
    members(value, expr.clone(), 1, scope)
}

/// Follows `symbol.path[from..]`.
fn members(value: Reply, expr: Arc<Expr>, from: usize, scope: &Scope) -> Reply {
    value.then(scope, move |scope, value| {
        let Expr::Symbol(symbol) = &*expr else { return Reply::Ready(Value::Null) };
        let mut value = value;
        for (at, name) in symbol.path.iter().enumerate().skip(from) {
            match dereference(value, &name.name, scope) {
                Reply::Ready(next) => value = next,
                pending => return members(pending, expr.clone(), at + 1, scope),
            }
        }
        Reply::Ready(value)
    })
}

/// The value of a variable, evaluated when it is a stored expression.
pub fn variable(name: &str, scope: &Scope) -> Reply<Option<Value>> {
    match scope.lookup(name) {
        Found::Value(Value::Expr(stored)) => stored_expression(&stored, &scope.mention()).map(Some),
        Found::Value(value) => Reply::Ready(Some(value)),
        Found::Lazy(row, column) => row.column(column).map(Some),
        Found::Missing => Reply::Ready(None),
    }
}

fn missing(name: &str, scope: &Scope) {
    const SHOWN: usize = 50;
    let names = scope.names();
    let listed: Vec<&str> = names.iter().take(SHOWN).map(|k| k.as_str()).collect();
    scope.error(format!("Symbol {name} not found. Variables in scope: [{}]", listed.join(" ")));
}

/// Evaluates a stored expression in `scope`, made for this purpose.
pub(super) fn stored_expression(stored: &StoredExpr, scope: &Scope) -> Reply {
    if scope.too_deep() {
        scope.log(Level::Default, STACK_OVERFLOW);
        return Reply::Ready(Value::Null);
    }
    match fresh_stack(scope, stored.nesting) {
        Some((spawner, scope)) => {
            let body = stored.expr.clone();
            spawner.run(async move { evaluate(&body, &scope).await })
        }
        None => evaluate(&stored.expr, scope),
    }
}

/// A name with arguments: a built-in function, else a LET.
fn call(symbol: &Symbol, args: &Args, scope: &Scope) -> Reply {
    let name = &symbol.full_name;
    if let Some(function) = scope.function(name) {
        return call_function(function, name, args, &symbol.site, scope);
    }
    let found = match scope.lookup(name) {
        Found::Value(value) => value,
        Found::Lazy(row, column) => row.cached(column).unwrap_or_default(),
        Found::Missing => {
            scope.error(format!("Symbol {name} not found: no such function"));
            return Reply::Ready(Value::Null);
        }
    };
    match found {
        Value::Expr(stored) => {
            let params = stored.params.clone();
            bind(&params, args, scope, false)
                .then(scope, move |scope, bound| stored_expression(&stored, &scope.call(bound)))
        }
        Value::Query(query) if !args.is_empty() => bind(&query.params, args, scope, false)
            .then(scope, move |scope, bound| {
                Reply::Ready(Value::Query(Arc::new(query.bind(scope.call(bound)))))
            }),
        _ => {
            scope.error(format!("Symbol {name} is not a function but it is being called"));
            Reply::Ready(Value::Null)
        }
    }
}
