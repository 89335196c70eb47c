//! `mock` and its companions: callables of a recorded case that give what the
//! case says instead of what this host is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vql::{
    ArgType, Args, Dict, Error, Function, Plugin, Registry, Reply, RowStream, Scope, Signature,
    Value,
};

/// Adds the callables of this module.
pub(super) fn register(registry: &mut Registry) {
    let mock = Signature::new("mock", "Lets a callable give recorded results.")
        .arg("plugin", ArgType::String, "The plugin.")
        .arg("function", ArgType::String, "The function.")
        .arg("artifact", ArgType::Any, "The artifact: Artifact.Name.")
        .required("results", ArgType::Any, "A row, rows of one call, or a list of these.");
    registry.function_async(mock, |scope, args| async move { install(&scope, &args).await });
    let check = Signature::new("mock_check", "Whether a callable was called so often.")
        .arg("plugin", ArgType::String, "The plugin.")
        .arg("function", ArgType::String, "The function.")
        .arg("expected_calls", ArgType::Int, "How often.")
        .arg("clear", ArgType::Bool, "The callable is itself again.");
    registry.function_sync(check, |scope, args| {
        let name = name(args)?;
        let calls = scope.session_value::<Mocks>().calls(&name);
        if args.bool("clear")? {
            clear(scope, &name);
        }
        let expected = args.int("expected_calls")?;
        Ok((usize::try_from(expected).ok() == Some(calls)).into())
    });
    let replay = Signature::new("mock_replay", "The arguments of each call so far.")
        .arg("plugin", ArgType::String, "The plugin.")
        .arg("function", ArgType::String, "The function.")
        .arg("artifact", ArgType::Any, "The artifact: Artifact.Name.")
        .arg("clear", ArgType::Bool, "Forget them.");
    registry.function_sync(replay, |scope, args| {
        let name = name(args)?;
        let mocks = scope.session_value::<Mocks>();
        let Some(mock) = mocks.lock().get(&name).cloned() else { return Ok(Value::Null) };
        let mut given = mock.given.lock().unwrap_or_else(PoisonError::into_inner);
        let all = given.clone();
        if args.bool("clear")? {
            given.clear();
        }
        Ok(all.into_iter().map(Value::from).collect())
    });
    let doc = "All callables that were replaced begin again: calls so far are forgotten.";
    let clear_all = Signature::new("mock_clear", doc);
    registry.function_sync(clear_all, |scope, _| {
        for mock in scope.session_value::<Mocks>().lock().values() {
            mock.calls.store(0, Ordering::Relaxed);
            mock.given.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(true.into())
    });
}

/// `Artifact.X.Y` as a value: its own name.
#[derive(Debug)]
pub(super) struct Named(pub(super) String);

impl vql::Object for Named {
    fn type_name(&self) -> &'static str {
        "artifact"
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(Value::object(Named(format!("{}.{name}", self.0))))
    }

    fn text(&self) -> Option<String> {
        Some(self.0.clone())
    }
}

/// Plugin or function, and its name.
type Name = (bool, String);

/// The results of each callable that was replaced.
#[derive(Default)]
struct Mocks(Mutex<BTreeMap<Name, Arc<Mock>>>);

impl Mocks {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Name, Arc<Mock>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self, name: &Name) -> usize {
        self.lock().get(name).map_or(0, |m| m.calls.load(Ordering::Relaxed))
    }
}

struct Mock {
    signature: Signature,
    /// What successive calls give; they begin again at the end.
    results: Vec<Vec<Value>>,
    calls: AtomicUsize,
    given: Mutex<Vec<Dict>>,
}

impl Mock {
    fn next(&self, args: &Args) -> Vec<Value> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).push(args.to_dict());
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.results.len() {
            0 => Vec::new(),
            n => self.results[call % n].clone(),
        }
    }
}

fn name(args: &Args) -> Result<Name, Error> {
    match (args.opt_string("plugin")?, args.opt_string("function")?) {
        (Some(plugin), None) => Ok((true, plugin)),
        (None, Some(function)) => Ok((false, function)),
        (None, None) if args.any("artifact").downcast::<Named>().is_some() => {
            Ok((true, args.any("artifact").to_text()))
        }
        _ => Err(Error::failed("one of plugin, function and artifact is needed")),
    }
}

async fn install(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (plugin, called) = name(args)?;
    let found = match plugin {
        true => scope.plugin(&called).map(|p| p.signature().clone()),
        false => scope.function(&called).map(|f| f.signature().clone()),
    };
    // What another system has can be replaced as well.
    let mut signature = found.unwrap_or_else(|| Signature::new("mocked", "A recorded callable."));
    signature.free_form = true;
    let results = match vql::materialize(args.any("results"), scope).await {
        Value::List(items) if plugin && items.iter().all(|v| matches!(v, Value::List(_))) => {
            items.iter().map(|v| v.as_list().unwrap_or_default().to_vec()).collect()
        }
        Value::List(items) if plugin => vec![items.to_vec()],
        // [('x',)] is written for one result that is a list.
        Value::List(items) if items.len() == 1 => vec![vec![Value::List(items)]],
        Value::List(items) => items.iter().map(|v| vec![v.clone()]).collect(),
        one => vec![vec![one]],
    };
    let mock =
        Arc::new(Mock { signature, results, calls: AtomicUsize::new(0), given: Mutex::default() });
    match plugin {
        true => scope.override_plugin(&called, Some(Arc::new(MockPlugin(mock.clone())))),
        false => scope.override_function(&called, Some(Arc::new(MockFunction(mock.clone())))),
    }
    scope.session_value::<Mocks>().lock().insert((plugin, called), mock);
    Ok(Value::Null)
}

fn clear(scope: &Scope, name: &Name) {
    match name {
        (true, plugin) => scope.override_plugin(plugin, None),
        (false, function) => scope.override_function(function, None),
    }
    scope.session_value::<Mocks>().lock().remove(name);
}

struct MockPlugin(Arc<Mock>);

impl Plugin for MockPlugin {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn rows(&self, _scope: &Scope, args: Args) -> RowStream {
        vql::stream::from_rows(self.0.next(&args))
    }
}

struct MockFunction(Arc<Mock>);

impl Function for MockFunction {
    fn signature(&self) -> &Signature {
        &self.0.signature
    }

    fn call(&self, _scope: &Scope, args: Args) -> Reply<Result<Value, Error>> {
        Reply::Ready(Ok(self.0.next(&args).into_iter().next().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_give_what_was_recorded() {
        let mut registry = Registry::standard();
        register(&mut registry);
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).build();
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let mocks = "SELECT mock(plugin='of_elsewhere', results=[dict(A=1), dict(A=2)]) AS A, \
            mock(function='lists', results=[('x',), ('y', 'z')]) AS B, \
            mock(function='upcase', results=['u', 'v']) AS C, \
            mock(function='lowcase', results=[('w',)]) AS D FROM scope()";
        query(mocks).await;
        assert_eq!(query("SELECT * FROM of_elsewhere(b=3)").await, r#"[{"A":1},{"A":2}]"#);
        let calls = "SELECT lists() AS L, upcase(string='q') AS U FROM range(end=3)";
        let expected = r#"[{"L":["x"],"U":"u"},{"L":["y","z"],"U":"v"},{"L":["x"],"U":"u"}]"#;
        assert_eq!(query(calls).await, expected);
        let one = "SELECT lowcase(string='q') AS L FROM range(end=2)";
        assert_eq!(query(one).await, r#"[{"L":["w"]},{"L":["w"]}]"#);
        let check = "SELECT mock_check(function='upcase', expected_calls=3, clear=TRUE) AS C, \
            upcase(string='q') AS U FROM scope()";
        assert_eq!(query(check).await, r#"[{"C":true,"U":"Q"}]"#);
        let again = "SELECT mock_clear() AS C, len(list=mock_replay(function='lists')) AS N, \
            lists() AS L FROM scope()";
        assert_eq!(query(again).await, r#"[{"C":true,"N":0,"L":["x"]}]"#);
    }
}
