//! Organisations.

use serde_json::json;
use vql::{ArgType, Dict, Error, Registry, Signature, Value};

use super::session::{Session, failed};
use crate::services::Org;
use crate::services::acl::Permission;
use crate::services::audit::audit;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("orgs", "Organisations the caller belongs to.");
    r.plugin_async(sig, |scope, _, emitter| async move {
        let session = Session::of(&scope)?;
        let all = session.policy.allows(Permission::OrgAdmin);
        for org in session.server.orgs() {
            let visible = all || {
                let policy = session.server.users.policy(&org.id, &session.principal).await;
                !policy.map_err(Error::failed)?.is_empty()
            };
            if visible {
                emitter.send(row(&org, all)).await?;
            }
        }
        Ok(())
    });

    let sig = Signature::new("org", "The organisation of this query.");
    r.function_sync(sig, |scope, _| {
        let session = Session::of(scope)?;
        let secret = session.policy.allows(Permission::ServerAdmin);
        let org = &session.org;
        let mut dict = Dict::new().with("name", org.name.as_str()).with("id", org.id.to_string());
        if secret {
            dict.set("nonce", org.nonce.as_str());
        }
        Ok(dict.into())
    });

    let sig = Signature::new("org_create", "Makes an organisation; the caller administers it.")
        .required("name", ArgType::String, "Its name.")
        .arg("org_id", ArgType::String, "Its id; default a new one.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::with(&scope, Permission::OrgAdmin)?;
        let (name, id) = (args.string("name")?, args.opt_string("org_id")?);
        let org = session.server.create_org(&name, id.as_deref()).await.map_err(failed)?;
        if !session.policy.is_super_user() {
            let acl = velociraptor_proto::proto::ApiClientAcl {
                roles: vec!["administrator".to_owned()],
                ..Default::default()
            };
            let users = &session.server.users;
            users.set_acl(&org.id, &session.principal, &acl).await.map_err(Error::failed)?;
        }
        let details = json!({ "name": name, "org_id": org.id.to_string() });
        audit(&session.server, &session.org, &session.principal, "CreateOrg", details).await;
        Ok(Value::from(row(&org, true)))
    });
}

fn row(org: &Org, secret: bool) -> Dict {
    let mut row = Dict::new().with("Name", org.name.as_str()).with("OrgId", org.id.to_string());
    if secret {
        row.set("Nonce", org.nonce.as_str());
    }
    row
}
