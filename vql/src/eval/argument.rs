//! Values of arguments and of comma lists.

use super::expr::evaluate;
use crate::query::Query;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::syntax::ast::{ArgValue, List};
use crate::value::Value;
use std::sync::Arc;

/// The value of an argument. A query in braces is not run.
pub(crate) fn argument(value: &ArgValue, scope: &Scope) -> Reply {
    match value {
        ArgValue::Select(select) => {
            Reply::Ready(Value::Query(Arc::new(Query::select(select.clone()))))
        }
        ArgValue::Array(None) => Reply::Ready(Value::list(Vec::new())),
        ArgValue::Array(Some(list)) => list_value(list, scope),
        ArgValue::Expr(expr) => evaluate(expr, scope),
    }
}

/// The value of a comma list: one element without a comma is that element,
/// the first hole ends the list.
pub(crate) fn list_value(list: &Arc<List>, scope: &Scope) -> Reply {
    if list.rest.is_empty() {
        return evaluate(&list.first, scope);
    }
    elements(list, scope, Vec::with_capacity(list.rest.len() + 1))
}

fn elements(list: &Arc<List>, scope: &Scope, mut done: Vec<Value>) -> Reply {
    loop {
        let expr = match done.len() {
            0 => Some(&list.first),
            n => list.rest.get(n - 1).and_then(Option::as_ref),
        };
        let Some(expr) = expr else { return Reply::Ready(Value::list(done)) };
        match evaluate(expr, scope) {
            Reply::Ready(value) => done.push(value),
            Reply::Pending(future) => {
                let (list, scope) = (list.clone(), scope.clone());
                return Reply::from_future(async move {
                    done.push(future.await);
                    elements(&list, &scope, done).await
                });
            }
        }
    }
}
