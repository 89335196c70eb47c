//! Expressions. Operators evaluate left to right and stop as soon as the
//! result is fixed.

use super::argument::list_value;
use super::arithmetic::{add, divide, multiply, subtract};
use super::compare::compare;
use super::member::suffixes;
use super::symbol::symbol;
use super::truth::truth;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::syntax::ast::{Expr, Number, ProductOp, SumOp};
use crate::value::Value;
use std::ops::ControlFlow;
use std::sync::Arc;

type Step = Reply<ControlFlow<Value, Value>>;

/// Evaluates an expression.
pub fn evaluate(expr: &Arc<Expr>, scope: &Scope) -> Reply {
    match &**expr {
        Expr::Symbol(s) => symbol(expr, s, scope),
        Expr::String(s) => Reply::Ready(Value::Str(s.value.clone())),
        Expr::Number(Number::Int(i)) => Reply::Ready(Value::Int(*i)),
        Expr::Number(Number::Float(f)) => Reply::Ready(Value::Float(*f)),
        Expr::Number(Number::Invalid) => {
            scope.error("Unable to parse a literal as a number");
            Reply::Ready(Value::Null)
        }
        Expr::Bool(b, _) => Reply::Ready(Value::Bool(*b)),
        Expr::Null => Reply::Ready(Value::Null),
        Expr::Paren(list) => list_value(list, scope),
        Expr::Not(inner) => evaluate(inner, scope)
            .then(scope, |scope, v| truth(&v, scope))
            .map(|truth| Value::Bool(!truth)),
        Expr::Compare(first, _) => start(expr, scope, first, compare_step),
        Expr::Sum(first, _) => start(expr, scope, first, sum_step),
        Expr::Product(first, _) => start(expr, scope, first, product_step),
        Expr::And(first, _) => start(expr, scope, first, and_step),
        Expr::Or(first, _) => start(expr, scope, first, or_step),
        Expr::Member(base, _) => start(expr, scope, base, member_step),
    }
}

type StepFn = fn(&Arc<Expr>, &Scope, Value, usize) -> Step;

fn start(expr: &Arc<Expr>, scope: &Scope, first: &Arc<Expr>, step: StepFn) -> Reply {
    match evaluate(first, scope) {
        Reply::Ready(value) => chain(expr, scope, value, 0, step),
        Reply::Pending(future) => {
            let (expr, scope) = (expr.clone(), scope.clone());
            Reply::from_future(async move {
                let value = future.await;
                chain(&expr, &scope, value, 0, step).await
            })
        }
    }
}

/// Applies `step` for operand 0, 1, ... until it breaks.
fn chain(
    expr: &Arc<Expr>,
    scope: &Scope,
    mut value: Value,
    mut operand: usize,
    step: StepFn,
) -> Reply {
    loop {
        match step(expr, scope, value, operand) {
            Reply::Ready(ControlFlow::Break(result)) => return Reply::Ready(result),
            Reply::Ready(ControlFlow::Continue(next)) => {
                value = next;
                operand += 1;
            }
            Reply::Pending(future) => {
                let (expr, scope) = (expr.clone(), scope.clone());
                return Reply::from_future(async move {
                    match future.await {
                        ControlFlow::Break(result) => result,
                        ControlFlow::Continue(next) => {
                            chain(&expr, &scope, next, operand + 1, step).await
                        }
                    }
                });
            }
        }
    }
}

fn done(value: Value) -> Step {
    Reply::Ready(ControlFlow::Break(value))
}

/// AND: a falsy operand makes FALSE. With `&&` before it the last operand is
/// the result itself, with AND it is TRUE.
fn and_step(expr: &Arc<Expr>, scope: &Scope, value: Value, operand: usize) -> Step {
    let Expr::And(_, rest) = &**expr else { return done(value) };
    let next = rest.get(operand).map(|(_, e)| e.clone());
    let bars = operand > 0 && rest.get(operand - 1).is_some_and(|(word, _)| &**word == "&&");
    let truth = truth(&value, scope);
    truth.then(scope, move |scope, truth| match next {
        _ if !truth => done(Value::Bool(false)),
        Some(next) => evaluate(&next, scope).map(ControlFlow::Continue),
        None if bars => done(value),
        None => done(Value::Bool(true)),
    })
}

/// OR: a truthy first operand is the result itself, a later one only with
/// `||` before it. When none is truthy the last operand is the result.
fn or_step(expr: &Arc<Expr>, scope: &Scope, value: Value, operand: usize) -> Step {
    let Expr::Or(_, rest) = &**expr else { return done(value) };
    let next = rest.get(operand).map(|(_, e)| e.clone());
    let itself = operand == 0 || rest.get(operand - 1).is_some_and(|(word, _)| &**word == "||");
    let truth = truth(&value, scope);
    truth.then(scope, move |scope, truth| match next {
        _ if truth && itself => done(value),
        _ if truth => done(Value::Bool(true)),
        Some(next) => evaluate(&next, scope).map(ControlFlow::Continue),
        None => done(value),
    })
}

fn compare_step(expr: &Arc<Expr>, scope: &Scope, value: Value, operand: usize) -> Step {
    let Expr::Compare(_, rest) = &**expr else { return done(value) };
    let Some((op, right)) = rest.get(operand) else { return done(value) };
    let op = *op;
    evaluate(right, scope).then(scope, move |scope, right| {
        Reply::Ready(ControlFlow::Continue(Value::Bool(compare(op, &value, &right, scope))))
    })
}

fn sum_step(expr: &Arc<Expr>, scope: &Scope, value: Value, operand: usize) -> Step {
    let Expr::Sum(_, rest) = &**expr else { return done(value) };
    let Some((op, right)) = rest.get(operand) else { return done(value) };
    let op = *op;
    evaluate(right, scope)
        .then(scope, move |scope, right| match op {
            SumOp::Add => add(value, right, scope),
            SumOp::Subtract => Reply::Ready(subtract(&value, &right)),
        })
        .map(ControlFlow::Continue)
}

fn product_step(expr: &Arc<Expr>, scope: &Scope, value: Value, operand: usize) -> Step {
    let Expr::Product(_, rest) = &**expr else { return done(value) };
    let Some((op, right)) = rest.get(operand) else { return done(value) };
    let op = *op;
    evaluate(right, scope).then(scope, move |scope, right| {
        let result = match op {
            ProductOp::Multiply => multiply(&value, &right, scope),
            ProductOp::Divide => divide(&value, &right),
        };
        Reply::Ready(ControlFlow::Continue(result))
    })
}

fn member_step(expr: &Arc<Expr>, scope: &Scope, value: Value, operand: usize) -> Step {
    let Expr::Member(_, rest) = &**expr else { return done(value) };
    let Some(suffix) = rest.get(operand) else { return done(value) };
    suffixes(value, suffix, scope).map(ControlFlow::Continue)
}
