//! Who is master, under every order in which the file server may serve calls.
#![allow(missing_docs)]

mod chain;
mod nfs;
mod roles;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use velociraptor::env::Env;
use velociraptor::services::fleet::running::Running;
use velociraptor::services::fleet::term::{Options, Term, TermError};
use velociraptor::store::journal::ProcessId;

const FLEET: &str = "/s/fleet";

/// The masters of a run, and whether two ever believed to be one at a time.
#[derive(Clone, Default)]
struct Masters(Arc<Mutex<Vec<Named>>>);

/// A master and its term.
type Named = (String, Arc<Term>);

impl Masters {
    fn add(&self, name: &str, term: &Arc<Term>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((name.to_owned(), term.clone()));
    }

    /// Those that may decide now.
    fn deciding(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|m| m.1.may_decide()).map(|m| m.0.clone()).collect()
    }

    fn check(&self) -> Result<(), String> {
        let now = self.deciding();
        if now.len() > 1 { Err(format!("{now:?} may decide at the same time")) } else { Ok(()) }
    }

    /// Looks again and again.
    async fn watch(&self, time: Duration) -> Result<(), String> {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.check()?;
        }
        Ok(())
    }
}

async fn acquire(env: &Env, name: &str, takeover: bool) -> Result<Arc<Term>, TermError> {
    let me = ProcessId::new(name, "00000001-aa");
    let here = Running::here(env).await;
    let options = Options { takeover, ..Options::default() };
    Term::acquire(env, FLEET, &me, &here, &options).await.map(Arc::new)
}
