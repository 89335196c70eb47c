//! Running statements: LET changes the scope, SELECT yields rows; limits of
//! time and rows end a query early.

use crate::eval::{evaluate, materialize, rows, select_rows};
use crate::log::Level;
use crate::query::{Query, QuerySource, StoredExpr};
use crate::scope::Scope;
use crate::spill::{self, Spill, Writer};
use crate::stream::{RowStream, produce};
use crate::syntax::ast::{Let, LetValue, Statement};
use crate::syntax::{ParseError, parse};
use crate::value::{Row, Value};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// Limits of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Ends the run with an error in the log; rows so far stay.
    pub timeout: Option<Duration>,
    /// Rows after which the run ends with a warning in the log.
    pub rows: Option<u64>,
}

/// Runs statements one after another in one scope. The rows of all SELECTs
/// follow each other; every element is a dictionary without queries in it.
/// Ends when the session is cancelled.
pub fn eval(statements: Vec<Statement>, scope: &Scope, limits: Limits) -> RowStream {
    let scope = scope.clone();
    produce(|emitter| async move {
        let cancel = scope.cancellation().clone();
        let run = async {
            let mut left = limits.rows;
            for statement in &statements {
                match statement {
                    Statement::Let(binding) => assign(binding, &scope).await,
                    Statement::Select(select) => {
                        let mut rows = select_rows(select, &scope);
                        while let Some(row) = rows.next().await {
                            if left == Some(0) {
                                scope.log(Level::Warn, "Row limit exceeded: query ends");
                                return;
                            }
                            left = left.map(|n| n - 1);
                            let row = materialize(row, &scope).await;
                            if emitter.send(row).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        };
        let timeout = async {
            match limits.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = timeout => {
                let seconds = limits.timeout.unwrap_or_default().as_secs_f64();
                scope.error(format!("Query timed out after {seconds} seconds"));
            }
            () = run => {}
        }
    })
}

/// Parses and runs a script and collects its rows.
pub async fn run(text: &str, scope: &Scope) -> Result<Vec<Row>, ParseError> {
    let rows = eval(parse(text)?, scope, Limits::default());
    Ok(rows.map(Value::into_row).collect().await)
}

/// Executes a LET.
async fn assign(binding: &Let, scope: &Scope) {
    let name = &binding.name.name;
    if scope.function(name).is_some() {
        let message = format!("LET {name} masks a built-in function of the same name");
        scope.log(Level::Warn, message);
    }
    let params = binding.params.clone();
    if binding.materialize && !params.is_empty() {
        let message = format!("LET {name} <= has parameters; did you mean =?");
        scope.log(Level::Warn, message);
    }
    let value = match (&binding.value, binding.materialize) {
        (LetValue::Select(select), false) => Value::Query(Arc::new(Query {
            source: QuerySource::Select(select.clone()),
            params,
            captured: None,
            nesting: binding.nesting,
            stored: true,
        })),
        (LetValue::Expr(expr), false) => Value::Expr(Arc::new(StoredExpr {
            params,
            expr: expr.clone(),
            nesting: binding.nesting,
        })),
        (LetValue::Select(select), true) => {
            let query = Value::Query(Arc::new(Query::select(select.clone())));
            materialized(&query, scope).await
        }
        (LetValue::Expr(expr), true) => {
            let value = evaluate(expr, scope).await;
            materialize(value, scope).await
        }
    };
    scope.set(name.clone(), value);
}

/// The rows of a query as a list; those that do not fit into memory as a query
/// over a temporary file.
async fn materialized(query: &Value, scope: &Scope) -> Value {
    let mut source = rows(query, scope);
    let mut spill = scope.extension::<Spill>();
    let (mut held, mut weight) = (Vec::new(), 0);
    while let Some(row) = source.next().await {
        if let Some(to) = &spill {
            weight += spill::weight(&row);
            if weight > to.limit && !held.is_empty() {
                match put_aside(to, &held).await {
                    Ok(writer) => {
                        drop(held);
                        return remaining(writer, row, source, scope).await;
                    }
                    Err(e) => {
                        scope.log(Level::Warn, format!("A set stays in memory: {e}"));
                        spill = None;
                    }
                }
            }
        }
        held.push(row);
    }
    Value::list(held)
}

async fn put_aside(spill: &Spill, held: &[Value]) -> Result<Writer, String> {
    let mut writer = Writer::new(spill).await?;
    for row in held {
        writer.push(row).await;
    }
    Ok(writer)
}

/// Puts what is still to come behind what was put aside.
async fn remaining(
    mut writer: Writer,
    first: Value,
    mut source: RowStream,
    scope: &Scope,
) -> Value {
    let mut next = Some(first);
    while let Some(row) = next {
        writer.push(&row).await;
        next = source.next().await;
    }
    let rows = writer.finish(scope);
    let host = move |scope: &Scope| rows.stream(scope, "LET");
    Value::Query(Arc::new(Query::host(host)))
}
