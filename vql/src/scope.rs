//! Dynamic scopes: a chain of layers searched newest first.

use crate::eval::{Aggregates, LazyRow, member};
use crate::log::Level;
use crate::registry::{Function, Plugin, Registry};
use crate::reply::Reply;
use crate::session::{Session, Shared, lock};
use crate::value::{Dict, Key, Time, Value};
use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};
use tokio_util::sync::CancellationToken;

/// Chains longer than this are a runaway recursion.
pub(crate) const MAX_DEPTH: u32 = 1000;

/// A scope. Clones are cheap and mean the same scope.
#[derive(Clone)]
pub struct Scope(Arc<Inner>);

struct Inner {
    parent: Option<Scope>,
    layer: Layer,
    variables: OnceLock<Mutex<Dict>>,
    session: Arc<Session>,
    aggregates: Arc<Aggregates>,
    depth: u32,
    calls: u32,
    extension: Option<(TypeId, Arc<dyn Any + Send + Sync>)>,
}

/// Long chains must not be dropped by recursion.
impl Drop for Inner {
    fn drop(&mut self) {
        let mut parent = self.parent.take();
        while let Some(Scope(inner)) = parent {
            parent = Arc::into_inner(inner).and_then(|mut inner| inner.parent.take());
        }
    }
}

/// What a scope adds to its parent when it is made.
pub(crate) enum Layer {
    Nothing,
    Row(Value),
    Lazy(Arc<LazyRow>),
}

/// The outcome of looking a name up.
pub(crate) enum Found {
    Value(Value),
    /// A column of the output row, not evaluated yet.
    Lazy(Arc<LazyRow>, usize),
    Missing,
}

impl Scope {
    pub(crate) fn root_of(session: Arc<Session>) -> Scope {
        Scope(Arc::new(Inner {
            parent: None,
            layer: Layer::Nothing,
            variables: OnceLock::new(),
            session,
            aggregates: Arc::default(),
            depth: 0,
            calls: 0,
            extension: None,
        }))
    }

    fn extend(&self, layer: Layer, aggregates: Arc<Aggregates>, calls: u32) -> Scope {
        Scope(Arc::new(Inner {
            parent: Some(self.clone()),
            layer,
            variables: OnceLock::new(),
            session: self.0.session.clone(),
            aggregates,
            depth: self.0.depth + 1,
            calls,
            extension: None,
        }))
    }

    /// A child scope; what is set there hides but does not change this scope.
    pub fn child(&self) -> Scope {
        self.with_layer(Layer::Nothing)
    }

    /// A child scope in which the members of `row` are variables.
    pub fn with_row(&self, row: impl Into<Value>) -> Scope {
        self.with_layer(Layer::Row(row.into()))
    }

    pub(crate) fn with_layer(&self, layer: Layer) -> Scope {
        self.extend(layer, self.0.aggregates.clone(), self.0.calls)
    }

    /// The scope of a called LET: aggregates start afresh.
    pub(crate) fn call(&self, parameters: Dict) -> Scope {
        self.extend(Layer::Row(parameters.into()), Arc::default(), self.0.calls + 1)
    }

    /// Where a stored query or expression runs when it is merely mentioned.
    pub(crate) fn mention(&self) -> Scope {
        self.extend(Layer::Nothing, self.0.aggregates.clone(), self.0.calls + 1)
    }

    /// The same scope for use on a stack of its own.
    pub(crate) fn on_fresh_stack(&self) -> Scope {
        self.extend(Layer::Nothing, self.0.aggregates.clone(), 0)
    }

    pub(crate) fn with_aggregates(&self, aggregates: Arc<Aggregates>) -> Scope {
        self.extend(Layer::Nothing, aggregates, self.0.calls)
    }

    /// A child in which `extension::<T>()` finds `value`.
    pub fn with_extension<T: Any + Send + Sync>(&self, value: Arc<T>) -> Scope {
        let child = self.child();
        let Some(mut inner) = Arc::into_inner(child.0) else { return self.clone() };
        inner.extension = Some((TypeId::of::<T>(), value));
        Scope(Arc::new(inner))
    }

    /// A scope without any variable which shares registry, log, extensions of
    /// the session and cancellation: where isolated queries run.
    pub fn isolated(&self) -> Scope {
        let mut isolated = Scope::root_of(self.0.session.clone());
        let mut inherited = Vec::new();
        let mut at = Some(self);
        while let Some(scope) = at {
            inherited.extend(scope.0.extension.clone());
            at = scope.0.parent.as_ref();
        }
        for extension in inherited.into_iter().rev() {
            let child = isolated.child();
            let Some(mut inner) = Arc::into_inner(child.0) else { continue };
            inner.extension = Some(extension);
            isolated = Scope(Arc::new(inner));
        }
        isolated
    }

    /// The outermost scope.
    pub fn root(&self) -> Scope {
        let mut at = self;
        while let Some(parent) = &at.0.parent {
            at = parent;
        }
        at.clone()
    }

    pub(crate) fn too_deep(&self) -> bool {
        self.0.depth > MAX_DEPTH
    }

    /// Calls and mentions made on the present stack.
    pub(crate) fn calls(&self) -> u32 {
        self.0.calls
    }

    pub(crate) fn aggregates(&self) -> &Arc<Aggregates> {
        &self.0.aggregates
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.0.session
    }

    /// Sets a variable in this very scope.
    pub fn set(&self, name: impl Into<Key>, value: impl Into<Value>) {
        lock(self.0.variables.get_or_init(Mutex::default)).update(name, value);
    }

    /// Gives all visible variables which hold the very dictionary `old` the
    /// value `new`: dictionaries are shared by reference.
    pub(crate) fn replace(&self, old: &Arc<Dict>, new: &Value) {
        let mut at = Some(self);
        while let Some(Scope(inner)) = at {
            if let Some(variables) = inner.variables.get() {
                let mut variables = lock(variables);
                let same = |value: &Value| matches!(value, Value::Dict(d) if Arc::ptr_eq(d, old));
                let names: Vec<Key> =
                    variables.iter().filter(|(_, v)| same(v)).map(|(k, _)| k.clone()).collect();
                for name in names {
                    variables.update(name, new.clone());
                }
            }
            at = inner.parent.as_ref();
        }
    }

    /// The value of a variable. Output columns which are not evaluated yet and
    /// stored expressions are not evaluated: see [`crate::evaluate`].
    pub fn resolve(&self, name: &str) -> Option<Value> {
        match self.lookup(name) {
            Found::Value(value) => Some(value),
            Found::Lazy(row, column) => row.cached(column),
            Found::Missing => None,
        }
    }

    /// The text of a variable; `None` when absent or NULL.
    pub fn resolve_string(&self, name: &str) -> Option<String> {
        self.resolve(name).filter(|v| !v.is_null()).map(|v| v.to_text())
    }

    pub(crate) fn lookup(&self, name: &str) -> Found {
        let mut default = None;
        let mut at = Some(self);
        while let Some(Scope(inner)) = at {
            if let Some(variables) = inner.variables.get()
                && let Some(value) = lock(variables).get(name)
            {
                return Found::Value(value.clone());
            }
            match &inner.layer {
                Layer::Nothing => {}
                Layer::Row(Value::Dict(dict)) => {
                    if let Some(value) = dict.get(name) {
                        return Found::Value(value.clone());
                    }
                    default = default.or_else(|| dict.default_value().cloned());
                }
                Layer::Row(value) => {
                    if let Some(value) = member(value, name) {
                        return Found::Value(value);
                    }
                }
                Layer::Lazy(row) => {
                    if let Some(found) = row.find(name) {
                        return match found {
                            Ok(column) => Found::Lazy(row.clone(), column),
                            Err(value) => Found::Value(value),
                        };
                    }
                }
            }
            at = inner.parent.as_ref();
        }
        default.map_or(Found::Missing, Found::Value)
    }

    /// All visible names, innermost first, each once.
    pub fn names(&self) -> Vec<Key> {
        let mut names = indexmap::IndexSet::new();
        let mut at = Some(self);
        while let Some(Scope(inner)) = at {
            if let Some(variables) = inner.variables.get() {
                names.extend(lock(variables).keys().cloned());
            }
            match &inner.layer {
                Layer::Nothing => {}
                Layer::Row(Value::Dict(dict)) => names.extend(dict.keys().cloned()),
                Layer::Row(Value::Object(object)) => names.extend(object.members()),
                Layer::Row(_) => {}
                Layer::Lazy(row) => names.extend(row.names()),
            }
            at = inner.parent.as_ref();
        }
        names.into_iter().collect()
    }

    /// The host service of type `T`, from the nearest scope which has one.
    pub fn extension<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let id = TypeId::of::<T>();
        let mut at = Some(self);
        while let Some(Scope(inner)) = at {
            if let Some((found, value)) = &inner.extension
                && *found == id
            {
                return value.clone().downcast().ok();
            }
            at = inner.parent.as_ref();
        }
        self.0.session.extensions.get(&id)?.clone().downcast().ok()
    }

    /// What callables of one kind keep for the length of the query: compiled
    /// rules, open sessions. Made when first asked for.
    pub fn session_value<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        self.0.session.values.value()
    }

    /// What callables of one kind share with other queries of the same host, as
    /// far as it lets them: see [`Shared`].
    pub fn shared_value<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        match self.extension::<Shared>() {
            Some(shared) => shared.value(),
            None => self.session_value(),
        }
    }

    /// The callables.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.session.registry
    }

    /// The function of that name, replacements first.
    pub fn function(&self, name: &str) -> Option<Arc<dyn Function>> {
        let session = &self.0.session;
        session.overrides.function(name).or_else(|| session.registry.function(name))
    }

    /// The plugin of that (dotted) name, replacements first.
    pub fn plugin(&self, name: &str) -> Option<Arc<dyn Plugin>> {
        let session = &self.0.session;
        session.overrides.plugin(name).or_else(|| session.registry.plugin(name))
    }

    /// Replaces a function for the rest of the session; `None` restores it.
    pub fn override_function(&self, name: &str, function: Option<Arc<dyn Function>>) {
        let overrides = &self.0.session.overrides;
        overrides.mark_used();
        let mut map = lock(&overrides.functions);
        match function {
            Some(function) => drop(map.insert(name.to_string(), function)),
            None => drop(map.remove(name)),
        }
    }

    /// Replaces a plugin for the rest of the session; `None` restores it.
    pub fn override_plugin(&self, name: &str, plugin: Option<Arc<dyn Plugin>>) {
        let overrides = &self.0.session.overrides;
        overrides.mark_used();
        let mut map = lock(&overrides.plugins);
        match plugin {
            Some(plugin) => drop(map.insert(name.to_string(), plugin)),
            None => drop(map.remove(name)),
        }
    }

    /// Writes a log line.
    pub fn log(&self, level: Level, message: impl AsRef<str>) {
        self.0.session.log.log(level, message.as_ref());
    }

    /// Writes a log line that the query itself asked for.
    pub(crate) fn say(&self, level: Level, message: impl AsRef<str>) {
        self.0.session.log.said(level, message.as_ref());
    }

    /// Writes a log line whose level is the `LEVEL:` it may start with.
    pub fn log_text(&self, message: impl AsRef<str>) {
        let (level, text) = Level::split(message.as_ref());
        self.log(level, text);
    }

    /// Writes an ERROR line.
    pub fn error(&self, message: impl AsRef<str>) {
        self.log(Level::Error, message);
    }

    /// Cancelled when the query should end.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.session.cancel
    }

    /// Accounts for one scanned row or comparable piece of work. Await it in
    /// every loop: it blocks while the query is throttled and yields to others.
    pub fn charge_op(&self) -> Reply<()> {
        self.0.session.charge()
    }

    /// Operations charged since the session began.
    pub fn ops_charged(&self) -> u64 {
        self.0.session.ops()
    }

    /// The host's present time.
    pub fn now(&self) -> Time {
        (self.0.session.clock)()
    }

    /// Runs `cleanup` when the session ends: for temporary files and children.
    pub fn on_close(&self, cleanup: impl FnOnce() + Send + 'static) {
        self.0.session.on_close(Box::new(cleanup));
    }

    /// Ends the session: forgets the variables of the root and runs the
    /// cleanups, newest first. Otherwise this happens when the last scope goes.
    pub fn close(&self) {
        let root = self.root();
        if let Some(variables) = root.0.variables.get() {
            let old = std::mem::take(&mut *lock(variables));
            drop(old);
        }
        self.0.session.fifos.clear();
        self.0.session.values.clear();
        self.0.session.run_cleanups();
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scope(depth {})", self.0.depth)
    }
}
