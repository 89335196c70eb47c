//! SELECT: source rows, filter, columns, then grouping, order and limit.

use super::argument::list_value;
use super::call::{arguments, bind, checked};
use super::group::grouped;
use super::lazy_row::LazyRow;
use super::member::dereference;
use super::order::ordered;
use super::rows::{later, query_rows};
use super::symbol::stored_expression;
use super::truth::truth;
use crate::args::Args;
use crate::log::Level;
use crate::registry::Plugin;
use crate::reply::Reply;
use crate::scope::{Found, Layer, Scope};
use crate::stream::{RowStream, empty, from_rows};
use crate::syntax::ast::{self, CallSite, Number, Select, Source};
use crate::value::{Dict, Value};
use futures::StreamExt;
use std::sync::Arc;

/// The rows of a query; each is a dictionary.
pub(crate) fn select_rows(select: &Arc<Select>, scope: &Scope) -> RowStream {
    let survivors = Survivors {
        source: source_rows(&select.source, select.explain > 0, scope),
        select: select.clone(),
        scope: scope.clone(),
    };
    let mut rows = match &select.group_by {
        Some(key) => grouped(survivors, key.clone()),
        None => Box::pin(futures::stream::unfold(survivors, |mut survivors| async move {
            let row = survivors.next().await?.row().await;
            if survivors.select.explain > 0 {
                survivors.explain(&format!("emit row {}", row.to_json()));
            }
            Some((Value::from(row), survivors))
        })),
    };
    if let Some(order) = &select.order_by {
        rows = ordered(rows, order.clone(), scope.clone());
    }
    match select.limit {
        // The counter is looked at after a row went out.
        Some(Number::Int(n)) => Box::pin(rows.take(usize::try_from(n).unwrap_or(0).max(1))),
        Some(Number::Float(f)) => Box::pin(rows.take((f as usize).max(1))),
        Some(Number::Invalid) | None => rows,
    }
}

/// The source rows which pass the filter.
pub(super) struct Survivors {
    source: RowStream,
    pub(super) select: Arc<Select>,
    pub(super) scope: Scope,
}

impl Survivors {
    /// The next row which passes; its columns are not evaluated yet.
    pub(super) async fn next(&mut self) -> Option<Arc<LazyRow>> {
        loop {
            if let Reply::Pending(pause) = self.scope.charge_op() {
                pause.await;
            }
            let raw = self.source.next().await?;
            let base = self.scope.with_row(raw.clone());
            let row = LazyRow::new(&self.select, raw.clone(), base.clone());
            let Some(filter) = &self.select.filter else { return Some(row) };
            let inner = base.with_layer(Layer::Lazy(row.clone()));
            let verdict = match list_value(filter, &inner) {
                Reply::Ready(value) => truth(&value, &inner),
                Reply::Pending(future) => truth(&future.await, &inner),
            };
            let pass = match verdict {
                Reply::Ready(pass) => pass,
                Reply::Pending(future) => future.await,
            };
            if pass {
                return Some(row);
            }
            if self.select.explain > 0 {
                self.explain(&format!("rejected by WHERE: {}", raw.go_text()));
            }
        }
    }

    fn explain(&self, message: &str) {
        self.scope.log(Level::Debug, format!("EXPLAIN {}: {message}", self.select.source));
    }
}

/// The rows FROM yields.
fn source_rows(source: &Source, explain: bool, scope: &Scope) -> RowStream {
    let (source, scope) = (source.clone(), scope.clone());
    later(async move {
        match &source.args {
            None => variable_rows(&source, &scope).await,
            Some(args) => {
                if explain {
                    let message = format!("EXPLAIN {source}: running");
                    scope.log(Level::Debug, message);
                }
                match scope.plugin(&source.full_name) {
                    Some(plugin) => plugin_rows(plugin, &source.full_name, args, &scope).await,
                    None => call_rows(&source, args, &scope).await,
                }
            }
        }
    })
}

async fn plugin_rows(
    plugin: Arc<dyn Plugin>,
    name: &Arc<str>,
    args: &ast::Args,
    scope: &Scope,
) -> RowStream {
    let items = arguments(plugin.signature(), args, scope, false).await;
    let Some(items) = checked(plugin.signature(), name, items, scope) else { return empty() };
    let args = Args { name: name.clone(), scope: scope.clone(), site: CallSite::default(), items };
    plugin.rows(scope, args)
}

/// `FROM X`: the rows of a variable.
async fn variable_rows(source: &Source, scope: &Scope) -> RowStream {
    let Some((first, rest)) = source.path.split_first() else { return empty() };
    let mut value = match scope.lookup(&first.name) {
        Found::Value(Value::Expr(stored)) => stored_expression(&stored, &scope.mention()).await,
        Found::Value(value) => value,
        Found::Lazy(row, column) => row.column(column).await,
        Found::Missing => {
            unknown(source, scope);
            return empty();
        }
    };
    for name in rest {
        value = dereference(value, &name.name, scope).await;
    }
    raw_rows(value, scope)
}

/// Rows of a value in FROM: scalars are rows without columns.
fn raw_rows(value: Value, scope: &Scope) -> RowStream {
    match value {
        Value::Query(query) => query_rows(&query, scope),
        Value::List(items) => from_rows(Arc::unwrap_or_clone(items)),
        Value::Object(ref object) => match object.rows() {
            Some(rows) => from_rows(rows),
            None => from_rows([value]),
        },
        other => from_rows([other]),
    }
}

/// Logs arguments that a LET does not have, or else those it needs and did not get.
fn complain_of_args(name: &str, params: &[ast::Param], args: &ast::Args, scope: &Scope) {
    let given = || args.iter().map(|arg| &*arg.name.name);
    let known = |arg: &str| arg == "**" || params.iter().any(|p| *p.name().name == *arg);
    let mut extra = given().filter(|arg| !known(arg)).peekable();
    if extra.peek().is_some() {
        for arg in extra {
            scope.error(format!("Extra unrecognized arg {arg} when calling {name}"));
        }
        return;
    }
    for param in params.iter().filter(|p| matches!(p, ast::Param::Name(_))) {
        let param = &*param.name().name;
        if !given().any(|arg| arg == param) {
            scope.error(format!("Missing arg {param} when calling {name}"));
        }
    }
}

/// `FROM X(...)` of a LET.
async fn call_rows(source: &Source, args: &ast::Args, scope: &Scope) -> RowStream {
    let value = match (&source.path[..], scope.lookup(&source.full_name)) {
        (_, Found::Value(value)) => value,
        (_, Found::Lazy(row, column)) => row.column(column).await,
        (_, Found::Missing) => {
            unknown(source, scope);
            return empty();
        }
    };
    let params = match &value {
        Value::Query(query) => query.params.clone(),
        Value::Expr(stored) => stored.params.clone(),
        _ => {
            scope.error(format!("Symbol {} is not callable as a plugin", source.full_name));
            return empty();
        }
    };
    complain_of_args(&source.full_name, &params, args, scope);
    match value {
        Value::Query(query) => {
            let bound = bind(&params, args, scope, true).await;
            query_rows(&query, &scope.call(bound))
        }
        Value::Expr(stored) => {
            let bound: Dict = bind(&params, args, scope, false).await;
            let inner = scope.call(bound);
            let value = stored_expression(&stored, &inner).await;
            raw_rows(value, scope)
        }
        _ => empty(),
    }
}

fn unknown(source: &Source, scope: &Scope) {
    let name = &source.full_name;
    let lower = name.to_ascii_lowercase();
    let near = |candidate: &&str| {
        let candidate = candidate.to_ascii_lowercase();
        candidate.contains(&lower)
            || (candidate.len() > 3 && lower.contains(&candidate))
            || distance(&candidate, &lower) <= 2
    };
    let plugins = scope.registry().plugins().map(|p| p.name);
    let suggestions: Vec<&str> = plugins.filter(|name| near(name)).take(5).collect();
    let hint = match suggestions.is_empty() {
        true => String::new(),
        false => format!(" Did you mean {}?", suggestions.join(" or ")),
    };
    scope.error(format!("Plugin {name} not found.{hint}"));
}

/// Edit distance of two short names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
