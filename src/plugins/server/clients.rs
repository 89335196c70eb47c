//! Client records, labels and metadata.

use serde_json::json;
use velociraptor_proto::json::to_row;
use velociraptor_proto::proto::ClientInfo;
use vql::{ArgType, Args, Dict, Error, Level, Registry, Scope, Signature, Time, Value};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::clients::api_client;

/// The pseudo client whose metadata are the server's.
const SERVER: &str = "server";

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("clients", "Client records, found by search or id.")
        .arg("search", ArgType::String, "What to look for, as in the search bar.")
        .arg("client_id", ArgType::String, "One client.")
        .arg("count", ArgType::Int, "Rows at most.")
        .arg("start", ArgType::Int, "Rows to leave out first.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let (search, one) = (args.string("search")?, args.opt_string("client_id")?);
        let ids = match one {
            Some(id) => vec![id],
            None => session.org.state().clients.search(&search),
        };
        let skip = usize::try_from(args.int("start")?).unwrap_or(0);
        let count = args.opt_int("count")?.and_then(|n| usize::try_from(n).ok());
        for id in ids.iter().skip(skip).take(count.unwrap_or(usize::MAX)) {
            if let Some(row) = record(&session, id)? {
                emitter.send(row).await?;
            }
        }
        Ok(())
    });

    let sig = Signature::new("client_info", "The record of one client.").required(
        "client_id",
        ArgType::String,
        "The client.",
    );
    r.function_sync(sig, |scope, args| {
        let session = Session::with(scope, Permission::ReadResults)?;
        Ok(record(&session, &args.string("client_id")?)?.unwrap_or_default())
    });

    let sig = Signature::new("label", "Sets, removes or checks labels of a client.")
        .required("client_id", ArgType::String, "The client.")
        .required("labels", ArgType::Strings, "The labels.")
        .arg("op", ArgType::String, "set (default), remove or check.");
    r.function_async(sig, |scope, args| async move { label(&scope, &args).await });

    let sig = Signature::new("client_create", "Makes the record of a client that never enrolled.")
        .arg("first_seen_at", ArgType::Time, "When it was first seen.")
        .arg("last_seen_at", ArgType::Time, "When it was last seen.")
        .arg("labels", ArgType::Strings, "Its labels.")
        .arg("os", ArgType::String, "Its system: windows, linux, darwin.")
        .arg("hostname", ArgType::String, "Its name.")
        .arg("client_id", ArgType::String, "Its id; default a new one.")
        .arg("mac_addresses", ArgType::Strings, "Its hardware addresses.")
        .version(2);
    r.function_async(sig, |scope, args| async move { create(&scope, &args).await });

    let sig = Signature::new("killkillkill", "Ends a client's agent; its service starts it again.")
        .required("client_id", ArgType::String, "The client.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::MachineState)?;
        let (server, org) = (&session.server, &session.org);
        let client = args.string("client_id")?;
        server.end_agent(org, &client).map_err(failed)?;
        if server.sessions.held(&org.id, &client).is_none() {
            let text = format!("killkillkill: {client} is not connected; told when it comes");
            scope.log(Level::Warn, text);
        }
        let details = json!({ "client_id": client });
        audit(server, org, &session.principal, "killkillkill", details).await;
        Ok(client.into())
    });

    let sig = Signature::new("client_metadata", "What people noted about a client.").required(
        "client_id",
        ArgType::String,
        "The client.",
    );
    r.function_async(sig, |scope, args| async move {
        let client = args.string("client_id")?;
        let needed =
            if client == SERVER { Permission::ServerAdmin } else { Permission::ReadResults };
        let session = Session::with(&scope, needed)?;
        metadata(&session, &client).await
    });

    let sig = Signature::new("server_metadata", "Settings that artifacts read on the server.").arg(
        "metadata",
        ArgType::Dict,
        "Values to set first.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ServerAdmin)?;
        let given = args.dict("metadata")?;
        if !given.is_empty() {
            change(&session, SERVER, &given).await?;
        }
        metadata(&session, SERVER).await
    });

    let sig = Signature::new("client_set_metadata", "Notes something about a client.")
        .required("client_id", ArgType::String, "The client.")
        .arg("metadata", ArgType::Dict, "Keys and values; NULL removes a key.")
        .any_args();
    r.function_async(sig, |scope, args| async move {
        let client = args.string("client_id")?;
        let needed =
            if client == SERVER { Permission::ServerAdmin } else { Permission::LabelClient };
        let session = Session::with(&scope, needed)?;
        change(&session, &client, &given_metadata(&scope, &args)?).await
    });

    let sig = Signature::new("server_set_metadata", "Sets what artifacts read on the server.")
        .arg("metadata", ArgType::Dict, "Keys and values; NULL removes a key.")
        .any_args();
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::ServerAdmin)?;
        change(&session, SERVER, &given_metadata(&scope, &args)?).await
    });
}

/// A client's record; seen now if this frontend holds it.
fn record(session: &Session, id: &str) -> Result<Option<Value>, Error> {
    let now = session.server.env.clock.micros();
    let seen = session.server.sessions.held(&session.org.id, id).map(|_| now);
    let state = session.org.state();
    let Some(client) = state.clients.get(id) else { return Ok(None) };
    let row = to_row(&api_client(&client.info, seen)).map_err(Error::failed)?;
    Ok(Some(Value::from_json_plain(row)))
}

async fn label(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (client, labels) = (args.string("client_id")?, args.strings("labels")?);
    let op = args.string("op")?;
    if op == "check" {
        let session = Session::with(scope, Permission::ReadResults)?;
        let state = session.org.state();
        let held = state.clients.get(&client).map(|c| c.info.labels.as_slice()).unwrap_or_default();
        let has = |l: &String| held.iter().any(|h| h.eq_ignore_ascii_case(l));
        return Ok(if labels.iter().all(has) {
            labelled(&client, labels, op)
        } else {
            false.into()
        });
    }
    let session = Session::with(scope, Permission::LabelClient)?;
    let (add, remove) = match op.as_str() {
        "" | "set" => (labels.clone(), vec![]),
        "remove" => (vec![], labels.clone()),
        other => return Err(Error::Arg(format!("op should be set, remove or check, not {other}"))),
    };
    let (server, org) = (&session.server, &session.org);
    server.label(org, &client, &session.principal, &add, &remove).await.map_err(failed)?;
    Ok(labelled(&client, labels, op))
}

/// What was asked for, and done or found true.
fn labelled(client: &str, labels: Vec<String>, op: String) -> Value {
    let labels: Vec<Value> = labels.into_iter().map(Value::from).collect();
    let answer = Dict::new().with("ClientId", client).with("Labels", Value::from(labels));
    answer.with("Op", op).into()
}

/// `client_create`.
async fn create(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::ServerAdmin)?;
    let micros = |t: Time| u64::try_from(t.as_microsecond()).unwrap_or(0);
    let (hostname, first) = (args.string("hostname")?, args.time("first_seen_at")?);
    let info = ClientInfo {
        client_id: args.string("client_id")?,
        fqdn: hostname.clone(),
        hostname,
        system: args.string("os")?,
        first_seen_at: first.map_or(0, |t| micros(t) / 1_000_000),
        ping: args.time("last_seen_at")?.map_or(0, micros),
        labels: args.strings("labels")?,
        mac_addresses: args.strings("mac_addresses")?,
        ..Default::default()
    };
    let (server, org) = (&session.server, &session.org);
    let made = server.create_client(org, &session.principal, info).await.map_err(failed)?;
    let details = json!({ "client_id": made.client_id, "hostname": made.hostname });
    audit(server, org, &session.principal, "client_create", details).await;
    Ok(Value::from_json_plain(to_row(&made).map_err(Error::failed)?))
}

async fn metadata(session: &Session, client: &str) -> Result<Value, Error> {
    let stored = session.server.metadata(&session.org, client).await.map_err(failed)?;
    let dict: Dict = stored.items.into_iter().map(|i| (i.key, i.value)).collect();
    Ok(dict.into())
}

/// The argument `metadata`; only without it keys are arguments of their own.
fn given_metadata(scope: &Scope, args: &Args) -> Result<Dict, Error> {
    let mut keys = args.to_dict();
    keys.remove("client_id");
    if keys.remove("metadata").is_none_or(|given| given.is_null()) {
        return Ok(keys);
    }
    if !keys.is_empty() {
        let name = args.call_name();
        scope.log(Level::Warn, format!("{name}: metadata is given: the other keys are not set"));
    }
    Ok((*args.dict("metadata")?).clone())
}

async fn change(session: &Session, client: &str, given: &Dict) -> Result<Value, Error> {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for (key, value) in given.iter() {
        match value {
            Value::Null => remove.push(key.to_string()),
            value => add.push((key.to_string(), super::args::text_of(value))),
        }
    }
    let (server, org) = (&session.server, &session.org);
    server.set_metadata(org, client, &add, &remove).await.map_err(failed)?;
    let keys: Vec<_> = add.iter().map(|(k, _)| k).collect();
    let details = json!({ "client_id": client, "updated_keys": keys, "removed_keys": remove });
    audit(server, org, &session.principal, "SetClientMetadata", details).await;
    Ok(true.into())
}
