//! The arguments of one call and their coercion to what the callee wants.

use crate::error::Error;
use crate::eval;
use crate::go_regex::{GoRegex, compile};
use crate::query::{Lambda, Query};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::stream::RowStream;
use crate::syntax::ast::{ArgValue, CallSite};
use crate::value::{Dict, Key, Str, Time, Value};
use std::sync::Arc;

/// The arguments of one call, evaluated except for lazy ones.
pub struct Args {
    pub(crate) name: Arc<str>,
    pub(crate) scope: Scope,
    pub(crate) site: CallSite,
    pub(crate) items: Vec<(Key, Slot)>,
}

/// The value; what a host has as a list of its own kind is a list for callables.
pub(crate) fn plain_list(value: &Value) -> Value {
    match value {
        Value::Object(object) if object.rows().is_some() => match object.to_plain() {
            list @ Value::List(_) => list,
            _ => value.clone(),
        },
        _ => value.clone(),
    }
}

/// One argument.
#[derive(Clone)]
pub(crate) enum Slot {
    Value(Value),
    Lazy(Thunk),
}

/// An argument which is evaluated when asked for, each time anew.
#[derive(Clone)]
pub struct Thunk {
    pub(crate) kind: ThunkKind,
    pub(crate) scope: Scope,
}

#[derive(Clone)]
pub(crate) enum ThunkKind {
    Value(Value),
    Syntax(ArgValue),
}

impl Thunk {
    /// Evaluates in the caller's scope. `{ SELECT }` gives the query, not rows.
    pub fn eval(&self) -> Reply<Value> {
        self.eval_in(&self.scope)
    }

    /// Evaluates in another scope.
    pub fn eval_in(&self, scope: &Scope) -> Reply<Value> {
        match &self.kind {
            ThunkKind::Value(value) => Reply::Ready(value.clone()),
            ThunkKind::Syntax(syntax) => eval::argument(syntax, scope),
        }
    }

    /// The rows of the argument, evaluated in `scope`.
    pub fn rows_in(&self, scope: &Scope) -> RowStream {
        let (thunk, scope) = (self.clone(), scope.clone());
        eval::later(async move {
            let value = thunk.eval_in(&scope).await;
            eval::rows(&value, &scope)
        })
    }
}

impl Args {
    /// Arguments made by a host, for calling a callable directly.
    pub fn from_dict(name: &str, scope: &Scope, dict: Dict) -> Args {
        let items = dict.into_iter().map(|(k, v)| (k, Slot::Value(v))).collect();
        Args { name: name.into(), scope: scope.clone(), site: CallSite::default(), items }
    }

    /// The name called, with dots: `Artifact.Linux.Sys.Users`.
    pub fn call_name(&self) -> &Arc<str> {
        &self.name
    }

    /// The scope of the caller.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Names of the arguments given, in order.
    pub fn names(&self) -> impl Iterator<Item = &Key> {
        self.items.iter().map(|(name, _)| name)
    }

    fn slot(&self, name: &str) -> Option<&Slot> {
        // Of two of one name the later counts.
        self.items.iter().rfind(|(key, _)| key.as_str() == name).map(|(_, slot)| slot)
    }

    /// True when the argument was given.
    pub fn has(&self, name: &str) -> bool {
        self.slot(name).is_some()
    }

    fn get(&self, name: &str) -> Option<&Value> {
        match self.slot(name)? {
            Slot::Value(value) => Some(value),
            Slot::Lazy(Thunk { kind: ThunkKind::Value(value), .. }) => Some(value),
            Slot::Lazy(_) => None,
        }
    }

    /// The value as it is; NULL when absent.
    pub fn any(&self, name: &str) -> Value {
        self.get(name).map_or(Value::Null, plain_list)
    }

    /// An argument to be evaluated on demand; absent gives NULL.
    pub fn lazy(&self, name: &str) -> Thunk {
        match self.slot(name) {
            Some(Slot::Lazy(thunk)) => thunk.clone(),
            Some(Slot::Value(value)) => self.thunk(value.clone()),
            None => self.thunk(Value::Null),
        }
    }

    fn thunk(&self, value: Value) -> Thunk {
        Thunk { kind: ThunkKind::Value(value), scope: self.scope.clone() }
    }

    /// Text as bytes; empty when absent.
    pub fn bytes(&self, name: &str) -> Result<Str, Error> {
        Ok(self.get(name).map_or_else(|| Str::from(""), string))
    }

    /// Text; empty when absent, invalid bytes become U+FFFD.
    pub fn string(&self, name: &str) -> Result<String, Error> {
        Ok(self.get(name).map(|v| string(v).to_text().into_owned()).unwrap_or_default())
    }

    /// Text; `None` when absent, NULL or empty.
    pub fn opt_string(&self, name: &str) -> Result<Option<String>, Error> {
        Ok(Some(self.string(name)?).filter(|s| !s.is_empty()))
    }

    /// A list of texts; empty when absent.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, Error> {
        let list = self.list(name).into_iter();
        Ok(list.map(|v| string(&v).to_text().into_owned()).collect())
    }

    /// The values of a list; a single value is a list of one, absent and NULL
    /// are none. Rows with one member stand for that member.
    pub fn list(&self, name: &str) -> Vec<Value> {
        match self.any(name) {
            Value::Null => Vec::new(),
            Value::List(items) => items.iter().map(single).collect(),
            value => vec![single(&value)],
        }
    }

    /// An integer; zero when absent. Text is an error.
    pub fn int(&self, name: &str) -> Result<i64, Error> {
        Ok(self.opt_int(name)?.unwrap_or(0))
    }

    /// An integer; `None` when absent. Text is an error.
    pub fn opt_int(&self, name: &str) -> Result<Option<i64>, Error> {
        self.get(name)
            .map(|value| match unwrap_single(value) {
                Value::Int(i) => Ok(*i),
                Value::UInt(u) => Ok(i64::try_from(*u).unwrap_or(i64::MAX)),
                Value::Bool(b) => Ok(i64::from(*b)),
                Value::Float(f) => Ok(*f as i64),
                other => Err(wrong(name, "an int", other)),
            })
            .transpose()
    }

    /// A fraction; zero when absent. Text is an error.
    pub fn float(&self, name: &str) -> Result<f64, Error> {
        Ok(self.opt_float(name)?.unwrap_or(0.0))
    }

    /// A fraction; `None` when absent. Text is an error.
    pub fn opt_float(&self, name: &str) -> Result<Option<f64>, Error> {
        self.get(name)
            .map(|value| match unwrap_single(value) {
                Value::Bool(_) => Err(wrong(name, "a float", value)),
                other => other.as_number().ok_or_else(|| wrong(name, "a float", other)),
            })
            .transpose()
    }

    /// The truth of the argument; false when absent.
    pub fn bool(&self, name: &str) -> Result<bool, Error> {
        Ok(self.get(name).is_some_and(eval::plain_truth))
    }

    /// A dictionary; empty when absent. Objects give their members.
    pub fn dict(&self, name: &str) -> Result<Arc<Dict>, Error> {
        match self.get(name) {
            None | Some(Value::Null | Value::Float(_) | Value::Bool(_)) => Ok(Arc::default()),
            Some(Value::Dict(dict)) => Ok(dict.clone()),
            Some(Value::Object(o)) => {
                Ok(Arc::new(crate::value::object_dict(o.members(), |n| o.member(n))))
            }
            Some(other) => Err(wrong(name, "a dict", other)),
        }
    }

    /// A time from a time, epoch seconds or text; `None` when absent or unusable.
    pub fn time(&self, name: &str) -> Result<Option<Time>, Error> {
        Ok(self.get(name).and_then(|v| crate::time::to_time(unwrap_single(v))))
    }

    /// The rows of the argument, whatever it is; queries run in the caller's scope.
    pub fn rows(&self, name: &str) -> RowStream {
        self.rows_in(name, &self.scope)
    }

    /// The rows of the argument with queries run in `scope`.
    pub fn rows_in(&self, name: &str, scope: &Scope) -> RowStream {
        match self.slot(name) {
            Some(Slot::Value(value)) => eval::rows(value, scope),
            Some(Slot::Lazy(thunk)) => thunk.rows_in(scope),
            None => crate::stream::empty(),
        }
    }

    /// The query given, if it is one.
    pub fn query(&self, name: &str) -> Option<Arc<Query>> {
        match self.get(name) {
            Some(Value::Query(query)) => Some(query.clone()),
            _ => None,
        }
    }

    /// A lambda from its text or value; `None` when absent.
    pub fn lambda(&self, name: &str) -> Result<Option<Arc<Lambda>>, Error> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Lambda(lambda)) => Ok(Some(lambda.clone())),
            Some(value) => {
                let text = string(value);
                let compile = || Lambda::parse(&text.to_text()).map_err(|e| e.to_string());
                let cache = &self.scope.session().caches.lambdas;
                let (lambda, _) = cache.get(text.as_bytes(), compile);
                lambda.map(Some).map_err(|e| Error::Arg(format!("Field {name}: {e}")))
            }
        }
    }

    /// Replaces the state an aggregate function keeps for this call site and
    /// GROUP BY bin; `change` gets the old state, `None` at first.
    pub fn aggregate(&self, change: impl FnOnce(Option<Value>) -> Value) -> Value {
        self.scope.aggregates().update(&self.site, change)
    }

    /// The compiled case-insensitive pattern of an argument.
    pub(crate) fn regex(&self, name: &str) -> Result<Arc<GoRegex>, Error> {
        let pattern = self.bytes(name)?;
        let cache = &self.scope.session().caches.regexes;
        let (regex, _) = cache.get(pattern.as_bytes(), || compile(&pattern.to_text(), true));
        regex.map_err(|e| Error::failed(format!("Compile regexp: {e}")))
    }

    /// Everything as a dictionary. Lazy arguments are left out.
    pub fn to_dict(&self) -> Dict {
        let mut dict = Dict::with_capacity(self.items.len());
        for (key, slot) in &self.items {
            if let Slot::Value(value) = slot {
                dict.set(key, value.clone());
            }
        }
        dict
    }
}

fn wrong(name: &str, wanted: &str, value: &Value) -> Error {
    Error::Arg(format!("Field {name} should be {wanted} not {}.", value.type_name()))
}

/// A one-element list stands for its element.
fn unwrap_single(value: &Value) -> &Value {
    match value {
        Value::List(items) if items.len() == 1 => &items[0],
        other => other,
    }
}

/// A row with one member stands for that member.
fn single(value: &Value) -> Value {
    match value {
        Value::Dict(d) if d.len() == 1 => d.values().next().cloned().unwrap_or_default(),
        other => other.clone(),
    }
}

/// The text of an argument: one-element lists unwrap.
fn string(value: &Value) -> Str {
    match value {
        Value::List(items) if items.len() == 1 => single(&items[0]).to_str(),
        other => other.to_str(),
    }
}
