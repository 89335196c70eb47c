//! Deleting clients and flows.

use serde_json::json;
use velociraptor_proto::json::to_sparse_row;
use vql::{ArgType, Args, Emitter, Error, Registry, Scope, Signature, Value};

use super::args::needed;
use super::events::Window;
use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::removal::Removed;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new(
        "client_delete",
        "Deletes a client and everything it sent. Its agent, if it still runs, enrols again.",
    )
    .required("client_id", ArgType::String, "The client.")
    .arg("really_do_it", ArgType::Bool, "Without it the files are only listed.");
    r.plugin_async(
        sig,
        |scope, args, emitter| async move { client(&scope, &args, &emitter).await },
    );

    let sig = Signature::new("delete_flow", "Deletes a collection and everything it brought.")
        .required("flow_id", ArgType::String, "The collection.")
        .required("client_id", ArgType::String, "The client.")
        .arg("really_do_it", ArgType::Bool, "Without it the files are only listed.")
        .arg("sync", ArgType::Bool, "Accepted and ignored: it is gone at once in any case.");
    r.plugin_async(sig, |scope, args, emitter| async move { flow(&scope, &args, &emitter).await });

    let sig = Signature::new("delete_events", "Deletes whole days of stored events.")
        .required("artifact", ArgType::String, "The artifact, with /Source.")
        .required("client_id", ArgType::String, "The client; `server` for events of the server.")
        .arg("start_time", ArgType::Time, "Days that end after this.")
        .arg("end_time", ArgType::Time, "Days that begin before this.")
        .arg("really_do_it", ArgType::Bool, "Without it the files are only listed.");
    r.plugin_async(
        sig,
        |scope, args, emitter| async move { events(&scope, &args, &emitter).await },
    );

    let sig = Signature::new("enumerate_flow", "The files that hold a collection.")
        .required("client_id", ArgType::String, "The client.")
        .arg("flow_id", ArgType::String, "The collection; default is the variable FlowId.")
        .version(3);
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let flow = needed(&args, &scope, "flow_id", "FlowId")?;
        let client = args.string("client_id")?;
        let files = session.server.files_of_flow(&session.org, &client, &flow).await;
        flow_rows(&emitter, files.map_err(failed)?).await
    });
}

async fn client(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::ServerAdmin)?;
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    let id = args.string("client_id")?;
    let files = match args.bool("really_do_it")? {
        false => server.files_of_client(org, &id).await,
        true => {
            let details = json!({ "client_id": id, "org_id": org.id.id() });
            audit(server, org, who, "client_delete", details).await;
            server.delete_client(org, &id, who).await
        }
    };
    for f in files.map_err(failed)? {
        let row = json!({
            "client_id": id, "type": f.what, "vfs_path": f.path, "error": f.error,
        });
        emitter.send(Value::from_json_plain(row)).await?;
    }
    Ok(())
}

async fn events(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::DeleteResults)?;
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    let (client, artifact) = (args.string("client_id")?, args.string("artifact")?);
    let (span, really) = (Window::of(args)?.span(), args.bool("really_do_it")?);
    if really {
        let details = json!({ "client_id": client, "artifact": artifact });
        audit(server, org, who, "delete_events", details).await;
    }
    let waiting = server.events_in_journals(org, &client, &artifact);
    if !really && waiting > 0 {
        let text = format!("delete_events: {waiting} rows are not in files yet; they go, too");
        scope.log_text(text);
    }
    let files = server.delete_events(org, &client, &artifact, span, really).await;
    for (i, f) in files.map_err(failed)?.into_iter().enumerate() {
        let kind = if f.logs { "EventQueryLogFile" } else { "EventFile" };
        let row = json!({
            "Id": i, "Type": kind, "Data": { "VFSPath": f.path }, "Error": f.error,
        });
        emitter.send(Value::from_json_plain(row)).await?;
    }
    Ok(())
}

async fn flow(scope: &Scope, args: &Args, emitter: &Emitter) -> Result<(), Error> {
    let session = Session::with(scope, Permission::DeleteResults)?;
    let (server, org, who) = (&session.server, &session.org, &session.principal);
    let (client, flow) = (args.string("client_id")?, args.string("flow_id")?);
    let files = match args.bool("really_do_it")? {
        false => server.files_of_flow(org, &client, &flow).await,
        true => {
            let context = server.flow(org, &client, &flow).await.map_err(failed)?;
            let context = context.as_ref().map(to_sparse_row).transpose();
            let details = json!({
                "client_id": client,
                "flow_id": flow,
                "flow": context.map_err(Error::failed)?,
            });
            audit(server, org, who, "delete_flow", details).await;
            server.delete_flow(org, &client, &flow, who).await
        }
    };
    flow_rows(emitter, files.map_err(failed)?).await
}

/// Files of a flow. Stock shows the members of its own structure, so their names are
/// capitals, unlike those of `client_delete`, and paths begin with their tree.
pub(super) async fn flow_rows(emitter: &Emitter, files: Vec<Removed>) -> Result<(), Error> {
    for (i, f) in files.into_iter().enumerate() {
        let tree = if f.path.ends_with(".db") { "ds" } else { "fs" };
        let at = format!("{tree}:{}", f.path);
        let row =
            json!({ "Id": i + 1, "Type": f.what, "Data": { "VFSPath": at }, "Error": f.error });
        emitter.send(Value::from_json_plain(row)).await?;
    }
    Ok(())
}
