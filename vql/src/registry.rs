//! The callables a host offers and the short ways to write one.

use crate::args::Args;
use crate::error::Error;
use crate::log::Level;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::signature::Signature;
use crate::stream::{self, Emitter, RowStream};
use crate::value::Value;
use futures::FutureExt;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// A function: arguments to one value.
pub trait Function: Send + Sync {
    /// Its declaration.
    fn signature(&self) -> &Signature;
    /// Evaluates one call. An error is logged and the value is NULL.
    fn call(&self, scope: &Scope, args: Args) -> Reply<Result<Value, Error>>;
}

/// A plugin: arguments to rows.
pub trait Plugin: Send + Sync {
    /// Its declaration.
    fn signature(&self) -> &Signature;
    /// The rows of one call.
    fn rows(&self, scope: &Scope, args: Args) -> RowStream;
}

/// All callables by name.
#[derive(Default, Clone)]
pub struct Registry {
    functions: BTreeMap<String, Arc<dyn Function>>,
    plugins: BTreeMap<String, Arc<dyn Plugin>>,
}

impl Registry {
    /// Without any callable.
    pub fn empty() -> Registry {
        Registry::default()
    }

    /// With the functions and plugins of the language itself.
    pub fn standard() -> Registry {
        let mut registry = Registry::default();
        crate::functions::register(&mut registry);
        crate::plugins::register(&mut registry);
        registry
    }

    /// Adds a function; one of the same name is replaced.
    pub fn add_function(&mut self, function: Arc<dyn Function>) {
        self.functions.insert(function.signature().name.to_string(), function);
    }

    /// Adds a plugin; one of the same name is replaced.
    pub fn add_plugin(&mut self, plugin: Arc<dyn Plugin>) {
        self.plugins.insert(plugin.signature().name.to_string(), plugin);
    }

    /// Adds a function which never waits.
    pub fn function_sync<F>(&mut self, signature: Signature, call: F)
    where
        F: Fn(&Scope, &Args) -> Result<Value, Error> + Send + Sync + 'static,
    {
        self.add_function(Arc::new(SyncFunction { signature, call }));
    }

    /// Adds a function which may wait.
    pub fn function_async<F, Fut>(&mut self, signature: Signature, call: F)
    where
        F: Fn(Scope, Args) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        self.add_function(Arc::new(AsyncFunction { signature, call }));
    }

    /// Adds a plugin written as a producer of rows. It should end soon after
    /// `emitter.send` fails; when the query is cancelled it is dropped.
    pub fn plugin_async<F, Fut>(&mut self, signature: Signature, run: F)
    where
        F: Fn(Scope, Args, Emitter) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.add_plugin(Arc::new(AsyncPlugin { signature, run }));
    }

    /// Adds a plugin which hands out a stream.
    pub fn plugin_stream<F>(&mut self, signature: Signature, rows: F)
    where
        F: Fn(&Scope, &Args) -> Result<RowStream, Error> + Send + Sync + 'static,
    {
        self.add_plugin(Arc::new(StreamPlugin { signature, rows }));
    }

    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<Arc<dyn Function>> {
        self.functions.get(name).cloned()
    }

    /// The plugin of that name, or the namespace plugin above it.
    pub fn plugin(&self, name: &str) -> Option<Arc<dyn Plugin>> {
        if let Some(plugin) = self.plugins.get(name) {
            return Some(plugin.clone());
        }
        let mut prefix = name;
        while let Some((head, _)) = prefix.rsplit_once('.') {
            prefix = head;
            let found = self.plugins.get(prefix).filter(|p| p.signature().namespace);
            if let Some(plugin) = found {
                return Some(plugin.clone());
            }
        }
        None
    }

    /// All functions by name.
    pub fn functions(&self) -> impl Iterator<Item = &Signature> {
        self.functions.values().map(|f| f.signature())
    }

    /// All plugins by name.
    pub fn plugins(&self) -> impl Iterator<Item = &Signature> {
        self.plugins.values().map(|p| p.signature())
    }
}

struct SyncFunction<F> {
    signature: Signature,
    call: F,
}

impl<F> Function for SyncFunction<F>
where
    F: Fn(&Scope, &Args) -> Result<Value, Error> + Send + Sync,
{
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn call(&self, scope: &Scope, args: Args) -> Reply<Result<Value, Error>> {
        Reply::Ready((self.call)(scope, &args))
    }
}

struct AsyncFunction<F> {
    signature: Signature,
    call: F,
}

impl<F, Fut> Function for AsyncFunction<F>
where
    F: Fn(Scope, Args) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Value, Error>> + Send + 'static,
{
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn call(&self, scope: &Scope, args: Args) -> Reply<Result<Value, Error>> {
        Reply::from_future((self.call)(scope.clone(), args))
    }
}

struct AsyncPlugin<F> {
    signature: Signature,
    run: F,
}

impl<F, Fut> Plugin for AsyncPlugin<F>
where
    F: Fn(Scope, Args, Emitter) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn rows(&self, scope: &Scope, args: Args) -> RowStream {
        let log = scope.clone();
        let name = args.call_name().clone();
        stream::produce(|emitter| {
            let run = (self.run)(scope.clone(), args, emitter);
            async move {
                // A fault of one plugin must not end the host's task.
                match AssertUnwindSafe(run).catch_unwind().await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => report(&log, &name, &error),
                    Err(_) => log.error(format!("{name}: PANIC in the plugin")),
                }
            }
        })
    }
}

struct StreamPlugin<F> {
    signature: Signature,
    rows: F,
}

impl<F> Plugin for StreamPlugin<F>
where
    F: Fn(&Scope, &Args) -> Result<RowStream, Error> + Send + Sync,
{
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn rows(&self, scope: &Scope, args: Args) -> RowStream {
        (self.rows)(scope, &args).unwrap_or_else(|error| {
            report(scope, args.call_name(), &error);
            stream::empty()
        })
    }
}

/// Logs why a call failed. This alone does not fail a collection, which the
/// ERROR level would do: only certain words in the text do.
pub(crate) fn report(scope: &Scope, name: &str, error: &Error) {
    if *error != Error::Stopped {
        scope.log(Level::Default, format!("{name}: {error}"));
    }
}
