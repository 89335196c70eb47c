//! Archives of collections and hunts.

use serde_json::json;
use vql::{ArgType, Args, Error, Registry, Scope, Signature, Value};

use super::session::{Session, failed};
use super::store_path::StorePath;
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::exports::{Format, Request, What};

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("create_flow_download", "Makes an archive of a collection.")
        .required("client_id", ArgType::String, "The client.")
        .required("flow_id", ArgType::String, "The collection.")
        .arg("wait", ArgType::Bool, "Return when it is there.")
        .arg("type", ArgType::String, "Accepted; there is one type.")
        .arg("template", ArgType::String, "Accepted; there are no reports.")
        .arg("password", ArgType::String, "Locks the archive.")
        .arg("format", ArgType::String, "Of rows: json, csv (both) or csv_only.")
        .arg("expand_sparse", ArgType::Bool, "Fill sparse files up.")
        .arg("name", ArgType::String, "Name of the archive.")
        .version(2);
    r.function_async(sig, |scope, args| async move {
        let what = What::Flow {
            client: args.string("client_id")?,
            flow: args.string("flow_id")?,
            name: args.opt_string("name")?,
        };
        export(&scope, &args, what).await
    });

    let sig = Signature::new("create_hunt_download", "Makes an archive of a hunt.")
        .required("hunt_id", ArgType::String, "The hunt.")
        .arg("only_combined", ArgType::Bool, "Only the rows of all clients together.")
        .arg("wait", ArgType::Bool, "Return when it is there.")
        .arg("format", ArgType::String, "Of rows: json, csv (both) or csv_only.")
        .arg("base", ArgType::String, "What its name begins with.")
        .arg("password", ArgType::String, "Locks the archive.")
        .arg("expand_sparse", ArgType::Bool, "Fill sparse files up.")
        .version(2);
    r.function_async(sig, |scope, args| async move {
        let what = What::Hunt {
            hunt: args.string("hunt_id")?,
            combined_only: args.bool("only_combined")?,
            base: args.string("base")?,
        };
        export(&scope, &args, what).await
    });
}

async fn export(scope: &Scope, args: &Args, what: What) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::PrepareResults)?;
    let request = Request {
        what,
        format: Format::parse(&args.string("format")?).map_err(failed)?,
        password: args.string("password")?,
        expand_sparse: args.bool("expand_sparse")?,
    };
    let details = match &request.what {
        What::Flow { client, flow, .. } => json!({ "client_id": client, "flow_id": flow }),
        What::Hunt { hunt, .. } => json!({ "hunt_id": hunt }),
        What::Notebook { id, .. } => json!({ "notebook_id": id }),
    };
    audit(&session.server, &session.org, &session.principal, args.call_name(), details).await;
    let export = session.server.export(&session.org, request).await.map_err(failed)?;
    let at = StorePath(export.at.0.named_components());
    if args.bool("wait")? {
        export.wait().await.map_err(failed)?;
    }
    Ok(Value::object(at))
}
