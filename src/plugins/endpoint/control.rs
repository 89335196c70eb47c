//! Callables that change what runs here: `pskill`, and `rekey`, which gives the
//! agent another identity.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use vql::{ArgType, Error, Level, Registry, Signature, Value};

/// Gives the agent of this process a new key.
pub trait NewIdentity: Send + Sync {
    /// Makes and saves it; gives the new client id. The agent uses it after a
    /// restart.
    fn renew(&self) -> BoxFuture<'_, Result<String, String>>;
}

/// The agent's identity, found by type in the scope.
pub struct Identity(pub Arc<dyn NewIdentity>);

/// Seconds until the restart when the query says nothing.
const WAIT: u64 = 10;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let pskill = Signature::new("pskill", "Kills a process.");
    registry.function_sync(pskill.required("pid", ArgType::Int, "The process."), |scope, args| {
        let pid = args.int("pid")?;
        let target = i32::try_from(pid).ok().filter(|p| *p > 0).and_then(Pid::from_raw);
        let target = target.ok_or_else(|| Error::failed(format!("{pid} is no process id")))?;
        match kill_process(target, Signal::KILL) {
            Ok(()) => Ok(pid.into()),
            Err(e) => {
                scope.log(Level::Default, format!("pskill: {pid}: {e}"));
                Ok(Value::Null)
            }
        }
    });
    let rekey = Signature::new("rekey", "Gives this client a new identity and restarts it.").arg(
        "wait",
        ArgType::Int,
        "Seconds until the restart (10).",
    );
    registry.function_async(rekey, |scope, args| async move {
        let Some(identity) = scope.extension::<Identity>() else {
            return Err(Error::failed("only an agent that runs as a program can be rekeyed"));
        };
        let wait = args.opt_int("wait")?.and_then(|n| u64::try_from(n).ok());
        let wait = wait.unwrap_or(WAIT);
        let id = identity.0.renew().await.map_err(Error::failed)?;
        let text = format!("rekey: the new client id is {id}; the agent stops in {wait} seconds");
        scope.log(Level::Default, &text);
        // Longer than this query: what it says must still be sent.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let _ = kill_process(rustix::process::getpid(), Signal::TERM);
        });
        Ok(Value::Bool(true))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> vql::Scope {
        let mut registry = Registry::standard();
        register(&mut registry);
        vql::ScopeBuilder::new(Arc::new(registry)).build()
    }

    #[tokio::test]
    async fn a_process_is_killed() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let text = format!(
            "SELECT pskill(pid={}) = {0} AS K, pskill(pid=999999999) AS N, \
            pskill(pid=0) AS Z, pskill(pid=-1) AS All, rekey() AS R FROM scope()",
            child.id()
        );
        let rows = vql::run(&text, &scope()).await.unwrap();
        let expected = r#"[{"K":true,"N":null,"Z":null,"All":null,"R":null}]"#;
        assert_eq!(Value::from(rows).to_json(), expected);
        assert!(!child.wait().unwrap().success());
    }
}
