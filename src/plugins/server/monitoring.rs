//! The organisation's event tables: what clients watch, and what the server does.

use velociraptor_proto::json::{from_json, to_row};
use velociraptor_proto::proto::{ArtifactCollectorArgs, ClientEventTable, LabelEvents};
use vql::{ArgType, Args, Dict, Error, Registry, Signature, Value};

use super::flows::specs;
use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("get_client_monitoring", "What clients are told to watch.");
    r.function_sync(sig, |scope, _| {
        let session = Session::with(scope, Permission::ReadResults)?;
        let row = to_row(&session.org.monitoring.table()).map_err(Error::failed)?;
        Ok(Value::from_json(row))
    });

    let sig = Signature::new("set_client_monitoring", "Tells clients what to watch.").required(
        "value",
        ArgType::Any,
        "The table, as get_client_monitoring() gives it.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectClient)?;
        let given = args.any("value").to_json();
        let table: ClientEventTable = from_json(given.as_bytes()).map_err(Error::failed)?;
        session.server.set_monitoring(&session.org, table).await.map_err(failed)?;
        let principal = &session.principal;
        audit(&session.server, &session.org, principal, "SetClientMonitoringState", given.into())
            .await;
        let row = to_row(&session.org.monitoring.table()).map_err(Error::failed)?;
        Ok(Value::from_json(row))
    });

    let sig = Signature::new("add_client_monitoring", "Tells clients to watch an artifact.")
        .required("artifact", ArgType::String, "The event artifact.")
        .arg("parameters", ArgType::Dict, "Its parameters.")
        .arg("label", ArgType::String, "Only clients with this label.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectClient)?;
        let mut table = session.org.monitoring.table();
        put(label_group(&mut table, &args.string("label")?), &args)?;
        set_clients(&session, table).await
    });

    let sig = Signature::new("rm_client_monitoring", "Tells clients to watch it no more.")
        .required("artifact", ArgType::String, "The event artifact.")
        .arg("label", ArgType::String, "Of clients with this label.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectClient)?;
        let mut table = session.org.monitoring.table();
        let label = args.string("label")?;
        take(label_group(&mut table, &label), &args.string("artifact")?);
        table
            .label_events
            .retain(|l| l.artifacts.as_ref().is_some_and(|a| !a.artifacts.is_empty()));
        set_clients(&session, table).await
    });

    let sig = Signature::new("get_server_monitoring", "What the server itself watches.");
    r.function_sync(sig, |scope, _| {
        let session = Session::with(scope, Permission::ReadResults)?;
        shown(&session.org.monitoring.server_table())
    });

    let sig = Signature::new("set_server_monitoring", "Sets what the server itself watches.")
        .required("value", ArgType::Any, "The table, as get_server_monitoring() gives it.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectServer)?;
        let given = args.any("value").to_json();
        let table: ArtifactCollectorArgs = from_json(given.as_bytes()).map_err(Error::failed)?;
        set_server(&session, table).await
    });

    let sig = Signature::new("add_server_monitoring", "Has the server watch an artifact.")
        .required("artifact", ArgType::String, "The event artifact.")
        .arg("parameters", ArgType::Dict, "Its parameters.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectServer)?;
        let mut table = session.org.monitoring.server_table();
        put(&mut table, &args)?;
        set_server(&session, table).await
    });

    let sig = Signature::new("rm_server_monitoring", "Has the server watch it no more.").required(
        "artifact",
        ArgType::String,
        "The event artifact.",
    );
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::CollectServer)?;
        let mut table = session.org.monitoring.server_table();
        take(&mut table, &args.string("artifact")?);
        set_server(&session, table).await
    });
}

fn shown(table: &ArtifactCollectorArgs) -> Result<Value, Error> {
    Ok(Value::from_json(to_row(table).map_err(Error::failed)?))
}

/// The part of the table for clients with a label; for all of them without one.
fn label_group<'a>(table: &'a mut ClientEventTable, label: &str) -> &'a mut ArtifactCollectorArgs {
    if matches!(label, "" | "all") {
        return table.artifacts.get_or_insert_default();
    }
    let known = table.label_events.iter().position(|l| l.label.eq_ignore_ascii_case(label));
    let at = known.unwrap_or_else(|| {
        table.label_events.push(LabelEvents { label: label.to_owned(), artifacts: None });
        table.label_events.len() - 1
    });
    table.label_events[at].artifacts.get_or_insert_default()
}

fn take(part: &mut ArtifactCollectorArgs, artifact: &str) {
    part.artifacts.retain(|a| a != artifact);
    part.specs.retain(|s| s.artifact != artifact);
}

/// Puts the artifact of a call into a table, instead of what was there of it.
fn put(part: &mut ArtifactCollectorArgs, args: &Args) -> Result<(), Error> {
    let artifact = args.string("artifact")?;
    take(part, &artifact);
    let parameters = args.dict("parameters")?;
    part.specs.extend(specs(std::slice::from_ref(&artifact), &parameters, &Dict::new())?);
    part.artifacts.push(artifact);
    Ok(())
}

async fn set_clients(session: &Session, table: ClientEventTable) -> Result<Value, Error> {
    let details = to_row(&table).map_err(Error::failed)?;
    session.server.set_monitoring(&session.org, table).await.map_err(failed)?;
    let (server, principal) = (&session.server, &session.principal);
    audit(server, &session.org, principal, "SetClientMonitoringState", details).await;
    let row = to_row(&session.org.monitoring.table()).map_err(Error::failed)?;
    Ok(Value::from_json(row))
}

async fn set_server(session: &Session, table: ArtifactCollectorArgs) -> Result<Value, Error> {
    let details = serde_json::json!({ "artifacts": table.artifacts });
    session.server.set_server_monitoring(&session.org, table).await.map_err(failed)?;
    let (server, principal) = (&session.server, &session.principal);
    audit(server, &session.org, principal, "SetServerMonitoringState", details).await;
    shown(&session.org.monitoring.server_table())
}
