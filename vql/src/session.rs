//! What all scopes of one query share: the host's side of the language.

use crate::log::{LogSink, TracingLog};
use crate::registry::{Function, Plugin, Registry};
use crate::reply::Reply;
use crate::scope::Scope;
use crate::value::Time;
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Rows between two voluntary yields of a busy query.
const YIELD_EVERY: u64 = 128;

/// Slows a query down: every scanned row is charged.
pub trait Throttle: Send + Sync {
    /// Resolves when `ops` more operations may proceed.
    fn charge(&self, ops: u64) -> Reply<()>;
}

type Clock = Arc<dyn Fn() -> Time + Send + Sync>;
type Extensions = HashMap<TypeId, Arc<dyn Any + Send + Sync>>;
type Cleanup = Box<dyn FnOnce() + Send>;

/// Locks even when a holder panicked: the data are simple enough to stay valid.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Values by their type, made when first asked for. A host that gives the same
/// one to several queries, as an [extension](ScopeBuilder::extension), lets them
/// share what outlives one of them ([`Scope::shared_value`]).
#[derive(Default)]
pub struct Shared(Mutex<Extensions>);

impl Shared {
    /// The value of type `T`.
    pub fn value<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut values = lock(&self.0);
        let made = values.entry(TypeId::of::<T>()).or_insert_with(|| Arc::<T>::default());
        made.clone().downcast().unwrap_or_default()
    }

    /// Forgets all values.
    pub(crate) fn clear(&self) {
        let old = std::mem::take(&mut *lock(&self.0));
        drop(old);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// Shared by all scopes of one query.
pub(crate) struct Session {
    pub(crate) registry: Arc<Registry>,
    pub(crate) extensions: Extensions,
    pub(crate) log: Arc<dyn LogSink>,
    pub(crate) cancel: CancellationToken,
    pub(crate) clock: Clock,
    throttle: Option<Arc<dyn Throttle>>,
    ops: AtomicU64,
    pub(crate) overrides: Overrides,
    pub(crate) caches: crate::cache::Caches,
    pub(crate) deduplicate: Mutex<HashMap<String, Time>>,
    pub(crate) fifos: crate::plugins::Fifos,
    /// What callables keep for the length of the query, by type.
    pub(crate) values: Shared,
    cleanups: Mutex<Vec<Cleanup>>,
}

impl Session {
    /// See [`Scope::charge_op`].
    pub(crate) fn charge(&self) -> Reply<()> {
        let ops = self.ops.fetch_add(1, Ordering::Relaxed);
        let pause = ops % YIELD_EVERY == YIELD_EVERY - 1;
        match &self.throttle {
            Some(throttle) => match throttle.charge(1) {
                Reply::Ready(()) if pause => Reply::from_future(tokio::task::yield_now()),
                reply => reply,
            },
            None if pause => Reply::from_future(tokio::task::yield_now()),
            None => Reply::Ready(()),
        }
    }

    pub(crate) fn ops(&self) -> u64 {
        self.ops.load(Ordering::Relaxed)
    }

    pub(crate) fn on_close(&self, cleanup: Cleanup) {
        lock(&self.cleanups).push(cleanup);
    }

    pub(crate) fn run_cleanups(&self) {
        // Newest first, outside the lock: a cleanup may register another one.
        loop {
            let next = lock(&self.cleanups).pop();
            match next {
                Some(cleanup) => cleanup(),
                None => return,
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.run_cleanups();
    }
}

/// Callables a query replaced at run time.
#[derive(Default)]
pub(crate) struct Overrides {
    used: AtomicBool,
    pub(crate) functions: Mutex<BTreeMap<String, Arc<dyn Function>>>,
    pub(crate) plugins: Mutex<BTreeMap<String, Arc<dyn Plugin>>>,
}

impl Overrides {
    pub(crate) fn mark_used(&self) {
        self.used.store(true, Ordering::Release);
    }

    pub(crate) fn function(&self, name: &str) -> Option<Arc<dyn Function>> {
        let used = self.used.load(Ordering::Acquire);
        used.then(|| lock(&self.functions).get(name).cloned()).flatten()
    }

    pub(crate) fn plugin(&self, name: &str) -> Option<Arc<dyn Plugin>> {
        let used = self.used.load(Ordering::Acquire);
        used.then(|| lock(&self.plugins).get(name).cloned()).flatten()
    }
}

/// Assembles the root scope of a query.
pub struct ScopeBuilder {
    registry: Arc<Registry>,
    extensions: Extensions,
    log: Arc<dyn LogSink>,
    cancel: CancellationToken,
    clock: Clock,
    throttle: Option<Arc<dyn Throttle>>,
}

impl ScopeBuilder {
    /// A scope over the callables of `registry`; logs go to `tracing`, the
    /// clock stands at the epoch, nothing cancels.
    pub fn new(registry: Arc<Registry>) -> ScopeBuilder {
        ScopeBuilder {
            registry,
            extensions: Extensions::new(),
            log: Arc::new(TracingLog),
            cancel: CancellationToken::new(),
            clock: Arc::new(|| Time::UNIX_EPOCH),
            throttle: None,
        }
    }

    /// Where log lines go.
    #[must_use]
    pub fn log(mut self, sink: impl LogSink + 'static) -> Self {
        self.log = Arc::new(sink);
        self
    }

    /// The clock behind `now()`.
    #[must_use]
    pub fn clock(mut self, clock: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Ends the query when cancelled.
    #[must_use]
    pub fn cancel(mut self, token: CancellationToken) -> Self {
        self.cancel = token;
        self
    }

    /// Charges every scanned row.
    #[must_use]
    pub fn throttle(mut self, throttle: Arc<dyn Throttle>) -> Self {
        self.throttle = Some(throttle);
        self
    }

    /// Something callables find by its type: services, rights, an uploader.
    #[must_use]
    pub fn extension<T: Any + Send + Sync>(mut self, value: Arc<T>) -> Self {
        self.extensions.insert(TypeId::of::<T>(), value);
        self
    }

    /// The root scope.
    pub fn build(self) -> Scope {
        Scope::root_of(Arc::new(Session {
            registry: self.registry,
            extensions: self.extensions,
            log: self.log,
            cancel: self.cancel,
            clock: self.clock,
            throttle: self.throttle,
            ops: AtomicU64::new(0),
            overrides: Overrides::default(),
            caches: crate::cache::Caches::default(),
            deduplicate: Mutex::default(),
            fifos: crate::plugins::Fifos::default(),
            values: Shared::default(),
            cleanups: Mutex::default(),
        }))
    }
}

impl Session {
    /// True when `message` was not logged within `seconds`, or they are not above zero;
    /// remembers it.
    pub(crate) fn first_within(&self, message: &str, seconds: i64) -> bool {
        const REMEMBERED: usize = 1000;
        let now = (self.clock)();
        let mut seen = lock(&self.deduplicate);
        let recent = seconds > 0
            && seen.get(message).is_some_and(|t| now.as_second() - t.as_second() < seconds);
        if !recent {
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
            seen.insert(message.to_owned(), now);
        }
        !recent
    }
}
