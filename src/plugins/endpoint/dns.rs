//! `host`: the addresses of a name, as this host's resolver knows them.

use std::net::IpAddr;
use std::time::Duration;

use vql::{ArgType, Error, Level, Registry, Signature, Value};

/// Longest wait for the resolver.
const PATIENCE: Duration = Duration::from_secs(30);

/// Adds `host`.
pub fn register(registry: &mut Registry) {
    let host = Signature::new("host", "The addresses of a name.")
        .refused(false)
        .required("name", ArgType::String, "The name.")
        .arg("server", ArgType::String, "Not offered: the host's own resolver is asked.")
        .arg("type", ArgType::String, "A alone is offered.")
        .arg("prefer_go", ArgType::Bool, "Accepted.")
        .arg("tracker_only", ArgType::Bool, "Nothing is tracked: gives NULL.")
        .version(2);
    registry.function_async(host, |scope, args| async move {
        if args.bool("tracker_only")? {
            return Ok(Value::Null);
        }
        if let Some(server) = args.opt_string("server")? {
            return Err(Error::failed(format!("asking the server {server} is not offered")));
        }
        if let Some(kind) = args.opt_string("type")?.filter(|t| !t.eq_ignore_ascii_case("a")) {
            return Err(Error::failed(format!("looking {kind} records up is not offered")));
        }
        let name = args.string("name")?;
        let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name.as_str(), 0)));
        let found = match found.await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) => {
                scope.log(Level::Debug, format!("host: {name}: {e}"));
                return Ok(Value::Null);
            }
            Err(_) => return Err(Error::failed(format!("{name}: no answer in {PATIENCE:?}"))),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for at in found {
            if !addresses.contains(&at.ip()) {
                addresses.push(at.ip());
            }
        }
        Ok(addresses.iter().map(IpAddr::to_string).collect())
    });
}
