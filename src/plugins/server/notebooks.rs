//! Notebooks: deleting them.

use serde_json::json;
use vql::{ArgType, Dict, Error, Registry, Signature};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::notebooks::is_id;
use crate::store::StoreError;
use crate::store::paths::{Notebook, notebook_downloads};

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
        let notebook = Notebook::new(&org.id, &id);
        let store = |e: StoreError| failed(e.into());
        if really {
            let details = json!({ "notebook_id": id });
            audit(server, org, &session.principal, "notebook_delete", details).await;
            server.tree.delete(&notebook.object()).await.map_err(store)?;
        }
        let root = &server.tree.root;
        let path = |e: crate::store::path::PathError| store(e.into());
        let mut dirs = Vec::new();
        for dir in [notebook.dir(), notebook_downloads(&org.id, &id)] {
            let objects = crate::store::DirPath::objects(dir.0.clone());
            dirs.push(root.dir(&objects).map_err(path)?);
            dirs.push(root.dir(&dir).map_err(path)?);
        }
        dirs.sort();
        dirs.dedup();
        let mut seen = Vec::new();
        while let Some(dir) = dirs.pop() {
            for e in server.env.fs.list(&dir).await.map_err(|e| store(e.into()))? {
                let at = format!("{dir}/{}", e.name);
                match e.is_dir {
                    true => dirs.push(at.clone()),
                    false => {
                        let mut error = String::new();
                        if really && let Err(e) = server.env.fs.remove(&at).await {
                            error = e.to_string();
                        }
                        let kind = if e.name.ends_with(".db") { "Object" } else { "File" };
                        let row = Dict::new()
                            .with("Type", kind)
                            .with("Data", Dict::new().with("VFSPath", at.as_str()))
                            .with("Error", error);
                        emitter.send(row).await?;
                    }
                }
            }
            seen.push(dir);
        }
        if really {
            // Deepest first; one that is not empty stays.
            for dir in seen.iter().rev() {
                let _ = server.env.fs.remove_dir(dir).await;
            }
        }
        Ok(())
    });
}
