//! Notebooks: deleting them.

use serde_json::json;
use vql::{ArgType, Dict, Error, Registry, Signature};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::notebooks::{At, is_id};

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("notebook_delete", "Deletes a notebook with all its cells.")
        .required("notebook_id", ArgType::String, "The notebook.")
        .arg("really_do_it", ArgType::Bool, "Without it nothing is deleted, only named.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::with(&scope, Permission::ServerAdmin)?;
        let id = args.string("notebook_id")?;
        if !is_id(&id) {
            return Err(Error::Arg(format!("{id} is no notebook")));
        }
        let really = args.bool("really_do_it")?;
        let (server, org) = (&session.server, &session.org);
        if really {
            let details = json!({ "notebook_id": id });
            audit(server, org, &session.principal, "notebook_delete", details).await;
        }
        let gone = server.notebooks.purge(At { server, org, id: &id }, really).await;
        for file in gone.map_err(failed)? {
            let kind = if file.path.ends_with(".db") { "Object" } else { "File" };
            let row = Dict::new()
                .with("Type", kind)
                .with("Data", Dict::new().with("VFSPath", file.path.as_str()))
                .with("Error", file.error.unwrap_or_default());
            emitter.send(row).await?;
        }
        Ok(())
    });
}
