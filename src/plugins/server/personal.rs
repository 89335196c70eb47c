//! What users have of their own: preferences, messages, saved collections.

use bytes::Bytes;
use serde_json::json;
use velociraptor_proto::json::{from_json, to_row};
use velociraptor_proto::proto::{Favorite, Favorites, SetGuiOptionsRequest};
use vql::{ArgType, Args, Dict, Error, Registry, Scope, Signature, Time, Value};

use super::session::{Session, failed};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::store::StoreError;
use crate::store::paths::User;
use crate::store::resultset::read_rows;

/// Kinds of saved collections, by the type of their artifacts.
const KINDS: [&str; 4] = ["CLIENT", "CLIENT_EVENT", "SERVER", "SERVER_EVENT"];

fn store(e: StoreError) -> Error {
    failed(e.into())
}

pub(super) fn register(r: &mut Registry) {
    let sig = Signature::new("user_options", "Reads and changes the preferences of a user.")
        .required("user", ArgType::String, "The user.")
        .arg("theme", ArgType::String, "How the GUI looks.")
        .arg("timezone", ArgType::String, "The zone times are shown in.")
        .arg("lang", ArgType::String, "The language.")
        .arg("org", ArgType::String, "The organisation shown first.")
        .arg("links", ArgType::Query, "Accepted; links are the configuration's.")
        .arg("default_password", ArgType::String, "Locks archives; - is none.");
    r.function_async(sig, |scope, args| async move { options(&scope, &args).await });

    let sig = Signature::new("user_message", "Leaves a message for a user.")
        .required("user", ArgType::String, "The user.")
        .arg("message", ArgType::Dict, "What it says.")
        .any_args();
    r.function_async(sig, |scope, args| async move { message(&scope, &args).await });

    let sig = Signature::new("user_messages", "Messages that were left for a user.")
        .arg("user", ArgType::String, "Another user than the caller.")
        .arg("clear", ArgType::Bool, "They count as read.");
    r.plugin_async(sig, |scope, args, emitter| async move {
        let session = Session::of(&scope)?;
        let user = args.opt_string("user")?.unwrap_or_else(|| session.principal.clone());
        self_or_admin(&session, &user)?;
        let name = known(&session, &user).await?;
        let at = User { name: &name }.notifications();
        let tree = &session.server.tree;
        // None comes between reading and clearing.
        let one = session.server.users.writing().await;
        let rows = read_rows(tree, &at, 0, u64::MAX).await.map_err(store)?;
        if args.bool("clear")? {
            tree.delete_file(&at).await.map_err(store)?;
            tree.delete_file(&at.index()).await.map_err(store)?;
            let at = User { name: &name }.gui_options();
            let mut options = tree.get(&at).await.map_err(store)?.unwrap_or_default();
            options.messages = 0;
            tree.set(&at, &options).await.map_err(store)?;
        }
        drop(one);
        for row in rows {
            emitter.send(shown(&row)?).await?;
        }
        Ok(())
    });

    let sig = Signature::new("favorites_save", "Saves a collection for later.")
        .required("name", ArgType::String, "Its name.")
        .arg("description", ArgType::String, "What it is for.")
        .required("specs", ArgType::Any, "Artifacts with parameters, as collect_client gives them.")
        .required("type", ArgType::String, "The type of its artifacts.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let given = match args.any("specs") {
            Value::Str(text) => text.to_text().into_owned(),
            other => other.to_json(),
        };
        // A list of one is taken for its element.
        let given = match given.trim_start().starts_with('[') {
            true => given,
            false => format!("[{given}]"),
        };
        // The list as the member of the message that holds it.
        let message = format!("{{\"spec\":{given}}}");
        let parsed: Favorite = from_json(message.as_bytes()).map_err(Error::failed)?;
        let favorite = Favorite {
            name: args.string("name")?,
            description: args.string("description")?,
            r#type: args.string("type")?,
            ..parsed
        };
        let user = User { name: &session.principal };
        let at = user.favorite(&session.org.id, &favorite.r#type, &favorite.name);
        session.server.tree.set(&at, &favorite).await.map_err(store)?;
        Ok(Value::from_json_plain(to_row(&favorite).map_err(Error::failed)?))
    });

    let sig = Signature::new("favorites_delete", "Deletes a saved collection.")
        .required("name", ArgType::String, "Its name.")
        .required("type", ArgType::String, "The type of its artifacts.");
    r.function_async(sig, |scope, args| async move {
        let session = Session::of(&scope)?;
        let (name, kind) = (args.string("name")?, args.string("type")?);
        let user = User { name: &session.principal };
        let at = user.favorite(&session.org.id, &kind, &name);
        session.server.tree.delete(&at).await.map_err(store)?;
        Ok(name.into())
    });

    let sig = Signature::new("favorites_list", "Saved collections of the caller.");
    r.plugin_async(sig, |scope, _, emitter| async move {
        let session = Session::with(&scope, Permission::ReadResults)?;
        let (tree, org) = (&session.server.tree, &session.org.id);
        let user = User { name: &session.principal };
        for kind in KINDS {
            let mut all = Favorites::default();
            for child in tree.children(&user.favorites_dir(org, kind)).await.map_err(store)? {
                let at = user.favorite(org, kind, &child.name);
                all.items.extend(tree.get(&at).await.map_err(store)?);
            }
            for one in &all.items {
                let row = Value::from_json_plain(to_row(one).map_err(Error::failed)?);
                emitter.send(row).await?;
            }
        }
        Ok(())
    });
}

/// A stored message: its time is one.
fn shown(row: &Bytes) -> Result<Value, Error> {
    let row: serde_json::Value = serde_json::from_slice(row).map_err(Error::failed)?;
    let seconds = row.get("Timestamp").and_then(serde_json::Value::as_i64);
    match Value::from_json_plain(row) {
        Value::Dict(dict) => {
            let mut dict = (*dict).clone();
            if let Some(at) = seconds.and_then(|s| Time::from_second(s).ok()) {
                dict.update("Timestamp", Value::Time(at));
            }
            Ok(dict.into())
        }
        other => Ok(other),
    }
}

/// What is somebody's own is theirs, and administrators'.
fn self_or_admin(session: &Session, user: &str) -> Result<(), Error> {
    match session.principal.eq_ignore_ascii_case(user) {
        true => Ok(()),
        false => session.require(Permission::ServerAdmin),
    }
}

/// The name of a user as it is stored.
async fn known(session: &Session, user: &str) -> Result<String, Error> {
    Ok(session.server.users.require(user).await.map_err(Error::failed)?.name)
}

async fn options(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::of(scope)?;
    let user = args.string("user")?;
    self_or_admin(&session, &user)?;
    // The server itself has no account, and no preferences.
    if session.policy.is_super_user() && user == session.principal {
        let none = to_row(&SetGuiOptionsRequest::default()).map_err(Error::failed)?;
        return Ok(Value::from_json_plain(none));
    }
    let name = known(&session, &user).await?;
    let tree = &session.server.tree;
    let _one = session.server.users.writing().await;
    let at = User { name: &name }.gui_options();
    let mut options = tree.get(&at).await.map_err(store)?.unwrap_or_default();
    let mut changed = Vec::new();
    for (what, slot) in [
        ("theme", &mut options.theme),
        ("timezone", &mut options.timezone),
        ("lang", &mut options.lang),
        ("org", &mut options.org),
        ("default_password", &mut options.default_password),
    ] {
        if let Some(value) = args.opt_string(what)?.filter(|v| !v.is_empty()) {
            changed.push(what);
            *slot = if what == "default_password" && value == "-" { String::new() } else { value };
        }
    }
    if !changed.is_empty() {
        tree.set(&at, &options).await.map_err(store)?;
        let details = json!({ "username": name, "changed": changed });
        audit(&session.server, &session.org, &session.principal, "user_options", details).await;
    }
    Ok(Value::from_json_plain(to_row(&options).map_err(Error::failed)?))
}

async fn message(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let session = Session::with(scope, Permission::ReadResults)?;
    let user = args.string("user")?;
    let name = known(&session, &user).await?;
    let said = match args.any("message") {
        Value::Null => {
            let mut all = args.to_dict();
            all.remove("user");
            Value::from(all)
        }
        given => given,
    };
    let (server, tree) = (&session.server, &session.server.tree);
    let row = Dict::new()
        .with("Timestamp", server.env.clock.unix())
        .with("From", session.principal.as_str())
        .with("Message", said);
    let row = Bytes::from(format!("{}\n", Value::from(row).to_json()));
    let _one = server.users.writing().await;
    let at = User { name: &name }.notifications();
    let there = crate::store::resultset::row_count(tree, &at).await.map_err(store)?;
    server.add_rows(&at, there, &row).await.map_err(failed)?;
    let at = User { name: &name }.gui_options();
    let mut options = tree.get(&at).await.map_err(store)?.unwrap_or_default();
    options.messages = options.messages.max(0) + 1;
    tree.set(&at, &options).await.map_err(store)?;
    Ok(name.into())
}
