//! Unevaluated values: stored queries, stored expressions and lambdas.

use crate::scope::Scope;
use crate::stream::RowStream;
use crate::syntax::ast::{Expr, Ident, Param, Select};
use crate::syntax::{ParseError, parse_lambda};
use crate::value::Value;
use std::fmt;
use std::sync::Arc;

/// A query which has not run. It may run any number of times.
#[derive(Debug)]
pub struct Query {
    pub(crate) source: QuerySource,
    /// Parameters of `LET name(params) = SELECT`.
    pub(crate) params: Arc<Vec<Param>>,
    /// Set when arguments were bound: the query runs in this scope.
    pub(crate) captured: Option<Scope>,
    /// Levels of brackets in the statement which stored it.
    pub(crate) nesting: usize,
    /// Whether a LET stored it: `typeof` tells these from queries written in place.
    pub(crate) stored: bool,
}

/// What a [`Query`] runs.
pub(crate) enum QuerySource {
    /// A parsed query.
    Select(Arc<Select>),
    /// Rows of both, in order.
    Concat(Value, Value),
    /// A host's rows.
    Host(Arc<dyn Fn(&Scope) -> RowStream + Send + Sync>),
}

impl Query {
    pub(crate) fn new(source: QuerySource) -> Query {
        Query { source, params: Arc::default(), captured: None, nesting: 0, stored: false }
    }

    /// A query over a syntax tree, run in the scope of its use.
    pub fn select(select: Arc<Select>) -> Query {
        Query::new(QuerySource::Select(select))
    }

    /// A query whose rows a host makes, anew each time it is drained.
    pub fn host(rows: impl Fn(&Scope) -> RowStream + Send + Sync + 'static) -> Query {
        Query::new(QuerySource::Host(Arc::new(rows)))
    }

    /// The same query which always runs in `scope`.
    pub fn bind(&self, scope: Scope) -> Query {
        let source = match &self.source {
            QuerySource::Select(select) => QuerySource::Select(select.clone()),
            QuerySource::Concat(a, b) => QuerySource::Concat(a.clone(), b.clone()),
            QuerySource::Host(rows) => QuerySource::Host(rows.clone()),
        };
        let (params, nesting) = (self.params.clone(), self.nesting);
        Query { source, params, captured: Some(scope), nesting, stored: self.stored }
    }
}

impl fmt::Debug for QuerySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuerySource::Select(select) => write!(f, "{select}"),
            QuerySource::Concat(a, b) => write!(f, "{a:?} + {b:?}"),
            QuerySource::Host(_) => f.write_str("host query"),
        }
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            QuerySource::Select(select) => write!(f, "{select}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// `LET name(params) = expr`.
#[derive(Debug)]
pub struct StoredExpr {
    pub(crate) params: Arc<Vec<Param>>,
    pub(crate) expr: Arc<Expr>,
    /// Levels of brackets in the statement which stored it.
    pub(crate) nesting: usize,
}

impl fmt::Display for StoredExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.fmt(f)
    }
}

/// A parsed `x, y => expr`.
#[derive(Debug)]
pub struct Lambda {
    pub(crate) params: Vec<Ident>,
    pub(crate) body: Arc<Expr>,
    /// Levels of brackets in it.
    pub(crate) nesting: usize,
}

impl Lambda {
    /// Parses the text of a lambda.
    pub fn parse(text: &str) -> Result<Lambda, ParseError> {
        let (params, body, nesting) = parse_lambda(text)?;
        Ok(Lambda { params, body, nesting })
    }
}

impl fmt::Display for Lambda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, param) in self.params.iter().enumerate() {
            write!(f, "{}{param}", if i > 0 { ", " } else { "" })?;
        }
        write!(f, "=>{}", self.body)
    }
}
