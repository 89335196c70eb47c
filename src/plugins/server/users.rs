//! Users and their rights.

use serde_json::json;
use velociraptor_proto::proto::{ApiClientAcl, VelociraptorUser};
use vql::{ArgType, Args, Dict, Error, Registry, Scope, Signature, Value};

use super::session::{Session, failed};
use crate::services::Org;
use crate::services::acl::{self, Permission, Policy};
use crate::services::audit::audit;
use crate::services::user_admin::{Asker, UserAdmin};
use crate::services::users::parse_roles;

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("whoami", "The name of the caller.");
    r.function_sync(sig, |scope, _| Ok(Session::of(scope)?.principal.as_str().into()));

    for name in ["gui_users", "users"] {
        let sig = Signature::new(name, "Users of this organisation, and what they may do.").arg(
            "all_orgs",
            ArgType::Bool,
            "Users of every organisation.",
        );
        r.plugin_async(sig, |scope, args, emitter| async move {
            let session = Session::of(&scope)?;
            let all = args.bool("all_orgs")?;
            session.require(if all { Permission::OrgAdmin } else { Permission::ReadResults })?;
            let orgs = if all { session.server.orgs() } else { vec![session.org.clone()] };
            for org in orgs {
                let members = session.server.users.members(&org.id).await;
                for (user, acl) in members.map_err(Error::failed)? {
                    emitter.send(member(&org, &user, &acl)?).await?;
                }
            }
            Ok(())
        });
    }

    let sig = Signature::new("user", "A user, and what they may do.")
        .required("user", ArgType::String, "The name.")
        .arg("org", ArgType::String, "In this organisation; default that of the query.");
    r.function_async(sig, |scope, args| async move { one(&scope, &args).await });

    let sig = Signature::new("passwd", "Gives a user another password.")
        .arg("user", ArgType::String, "The name; default the caller.")
        .required("password", ArgType::String, "The password.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let asker = Asker { name: session.principal.clone(), policy: session.policy.clone() };
        let admin = UserAdmin::new(&session.server, &asker).await.map_err(failed)?;
        let (user, password) = (args.string("user")?, args.string("password")?);
        admin.set_password(&user, &password).await.map_err(failed)?;
        Ok(if user.is_empty() { session.principal.clone() } else { user }.into())
    });

    let sig = Signature::new("user_create", "Makes a user, or gives one further roles.")
        .required("user", ArgType::String, "The name.")
        .arg("roles", ArgType::Strings, "Roles in the organisations.")
        .arg("password", ArgType::String, "The password.")
        .arg("orgs", ArgType::Strings, "Organisations by id; default is this one.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let name = args.string("user")?;
        let users = &session.server.users;
        let granted = grants(&session, &args).await?;
        let known = users.get(&name).await.map_err(Error::failed)?;
        let is_new = known.is_none();
        let user = match known {
            Some(user) => user,
            None => users.create(&name).await.map_err(Error::failed)?,
        };
        if let Some(password) = args.opt_string("password")? {
            // Whoever sets the password of somebody can act as them everywhere.
            if !is_new && user.name != session.principal {
                session.require(Permission::OrgAdmin)?;
            }
            let env = &session.server.env;
            users.set_password(env, &user.name, &password).await.map_err(Error::failed)?;
        }
        apply(&session, &user, granted).await?;
        Ok(user.name.as_str().into())
    });

    let sig = Signature::new("user_grant", "Replaces what a user may do.")
        .required("user", ArgType::String, "The name.")
        .arg("roles", ArgType::Strings, "Roles in the organisations.")
        .arg("orgs", ArgType::Strings, "Organisations by id; default is this one.")
        .arg("policy", ArgType::Dict, "Permissions to grant besides the roles.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let granted = grants(&session, &args).await?;
        let user = session.server.users.require(&args.string("user")?).await;
        let user = user.map_err(Error::failed)?;
        apply(&session, &user, granted).await?;
        Ok(user.name.as_str().into())
    });

    let sig = Signature::new("user_delete", "Removes a user from this or all organisations.")
        .required("user", ArgType::String, "The name.")
        .arg("orgs", ArgType::Strings, "Organisations by id; default is this one.")
        .arg("really_do_it", ArgType::Bool, "Without it nothing happens.");
    r.function_async(sig, |scope, args| async move { delete(&scope, &args).await });
}

/// A user in an organisation.
fn member(org: &Org, user: &VelociraptorUser, acl: &ApiClientAcl) -> Result<Dict, Error> {
    let effective = Policy::of(acl, org.id.is_root());
    let stats = user.stats.as_ref().map(velociraptor_proto::json::to_row).transpose();
    let stats = stats.map_err(Error::failed)?.map(Value::from_json_plain);
    Ok(Dict::new()
        .with("name", user.name.as_str())
        .with("org_id", org.id.to_string())
        .with("org_name", org.name.as_str())
        .with("picture", user.picture.as_str())
        // Whether an address is known to be theirs, as stock has it.
        .with("email", user.verified_email)
        .with("stats", stats.unwrap_or_default())
        .with("roles", acl.roles.clone())
        .with("_policy", policy_row(acl)?)
        .with("effective_policy", policy_row(&effective.to_acl())?))
}

/// `user`: what is one's own is told, the rest with the right to read.
async fn one(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::of(scope)?;
    let name = args.string("user")?;
    let there = match args.opt_string("org")?.filter(|o| !o.is_empty()) {
        Some(org) => session.in_org(&org).await?,
        None => (*session).clone(),
    };
    let own = name.eq_ignore_ascii_case(&session.principal);
    if !own && !session.policy.allows(Permission::OrgAdmin) {
        there.require(Permission::ReadResults)?;
    }
    let users = &there.server.users;
    let user = users.require(&name).await.map_err(Error::failed)?;
    let acl = users.acl(&there.org.id, &user.name).await.map_err(Error::failed)?;
    let acl = acl.ok_or_else(|| {
        Error::failed(format!("user {name} is not in organisation {}", there.org.id))
    })?;
    Ok(member(&there.org, &user, &acl)?.into())
}

fn policy_row(acl: &ApiClientAcl) -> Result<Value, Error> {
    let row = velociraptor_proto::json::to_sparse_row(acl).map_err(Error::failed)?;
    Ok(Value::from_json_plain(row))
}

/// The organisations a call is about. Others than the caller's own need the
/// rights of an administrator of organisations.
async fn orgs(session: &Session, args: &Args) -> Result<Vec<Session>, Error> {
    let names = args.strings("orgs")?;
    if names.is_empty() {
        session.require(Permission::ServerAdmin)?;
        return Ok(vec![session.clone()]);
    }
    let mut all = Vec::new();
    for name in names {
        let there = session.in_org(&name).await?;
        if !session.policy.allows(Permission::OrgAdmin) {
            there.require(Permission::ServerAdmin)?;
        }
        all.push(there);
    }
    Ok(all)
}

/// Access lists to set, one for each organisation.
async fn grants(session: &Session, args: &Args) -> Result<Vec<(Session, ApiClientAcl)>, Error> {
    let roles = parse_roles(&args.strings("roles")?).map_err(Error::failed)?;
    let mut acl = ApiClientAcl {
        roles: roles.iter().map(|r| r.name().to_owned()).collect(),
        ..Default::default()
    };
    for (key, value) in args.dict("policy")?.iter() {
        let granted = matches!(value, Value::Bool(true));
        match Permission::parse(key.as_str()) {
            Some(p) => acl::set(&mut acl, p, granted),
            None if key.as_str() == "publish_queues" => {
                let queues = value.as_list().unwrap_or_default();
                acl.publish_queues = queues.iter().map(|q| q.to_text()).collect();
            }
            None if key.as_str() == "roles" => {
                let more: Vec<String> = match value.as_list() {
                    Some(all) => all.iter().map(|r| r.to_text()).collect(),
                    None => vec![value.to_text()],
                };
                let more = parse_roles(&more).map_err(Error::failed)?;
                acl.roles.extend(more.iter().map(|r| r.name().to_owned()));
                acl.roles.dedup();
            }
            None => return Err(Error::Arg(format!("unknown permission {key}"))),
        }
    }
    let there = orgs(session, args).await?;
    for s in &there {
        nobody_gives_what_they_lack(session, s, &acl)?;
    }
    Ok(there.into_iter().map(|s| (s, acl.clone())).collect())
}

/// Only administrators of organisations may grant more than they hold.
fn nobody_gives_what_they_lack(
    session: &Session,
    there: &Session,
    acl: &ApiClientAcl,
) -> Result<(), Error> {
    if session.policy.allows(Permission::OrgAdmin) {
        return Ok(());
    }
    let granted = Policy::of(acl, there.org.id.is_root());
    granted.permissions().try_for_each(|p| there.require(p))
}

async fn apply(
    session: &Session,
    user: &VelociraptorUser,
    granted: Vec<(Session, ApiClientAcl)>,
) -> Result<(), Error> {
    let users = &session.server.users;
    for (there, acl) in granted {
        users.set_acl(&there.org.id, &user.name, &acl).await.map_err(Error::failed)?;
        let details = json!({
            "username": user.name, "org": there.org.id.to_string(), "roles": acl.roles,
        });
        audit(&session.server, &there.org, &session.principal, "GrantPolicy", details).await;
    }
    Ok(())
}

async fn delete(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::of(scope)?;
    let name = args.string("user")?;
    let there = orgs(&session, args).await?;
    if !args.bool("really_do_it")? {
        return Ok(name.into());
    }
    let users = &session.server.users;
    users.require(&name).await.map_err(Error::failed)?;
    for s in &there {
        users.remove_from(&s.org.id, &name).await.map_err(Error::failed)?;
        let details = json!({ "username": name, "org": s.org.id.to_string() });
        audit(&session.server, &s.org, &session.principal, "DeleteUser", details).await;
    }
    let mut left = false;
    for org in session.server.orgs() {
        left |= users.acl(&org.id, &name).await.map_err(Error::failed)?.is_some();
    }
    if !left {
        users.delete(&name, &[]).await.map_err(Error::failed)?;
    }
    Ok(name.into())
}
