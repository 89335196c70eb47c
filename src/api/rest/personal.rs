//! What somebody has of their own, and what helps in editors and viewers, by the names
//! of stock calls.

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tonic::Status;
use velociraptor_proto::proto::{Favorite, Favorites, SetGuiOptionsRequest};
use vql::Signature;

use super::{Rest, failed, json as answer, text};
use crate::api::status::store;
use crate::api::{Caller, find, reformat};
use crate::services::acl::Permission;
use crate::store::paths::User;

/// Longest setting of a user, bytes.
const MAX_OPTION: usize = 64 << 10;

pub(super) fn routes(rest: &Rest) -> Router {
    let (options, favorites, words) = (rest.clone(), rest.clone(), rest.clone());
    let (layout, search) = (rest.clone(), rest.clone());
    Router::new()
        .route(
            "/v1/SetGUIOptions",
            post(move |request: Request| async move {
                let call = |r: Rest, c: Caller, m: SetGuiOptionsRequest| async move {
                    r.set_options(&c, m).await.map(|()| "{}".to_owned())
                };
                options.answer::<SetGuiOptionsRequest, _, _>(request, &[], call).await
            }),
        )
        .route(
            "/v1/GetUserFavorites",
            get(move |request: Request| async move {
                let call = |r: Rest, c: Caller, m: Favorite| async move {
                    text(&r.favorites(&c, &m).await?)
                };
                favorites.answer::<Favorite, _, _>(request, &[], call).await
            }),
        )
        .route(
            "/v1/ReformatVQL",
            post(move |request: Request| async move {
                let done = layout.reformat(request).await;
                done.map_or_else(|e| failed(&e), |v| answer(v.to_string()))
            }),
        )
        .route(
            "/v1/SearchFile",
            post(move |request: Request| async move {
                let found = search.find(request).await;
                found.map_or_else(|e| failed(&e), |v| answer(v.to_string()))
            }),
        )
        .route(
            "/v1/GetKeywordCompletions",
            get(move |request: Request| async move {
                match words.caller(&request).await {
                    Ok(caller) => answer(words.completions(&caller).to_string()),
                    Err(e) => failed(&e),
                }
            }),
        )
}

impl Rest {
    /// Stores what is given; the rest stays as it is. `-` removes a password.
    async fn set_options(&self, caller: &Caller, m: SetGuiOptionsRequest) -> Result<(), Status> {
        caller.require(Permission::ReadResults)?;
        let server = &self.api.server;
        let at = User { name: &caller.name }.gui_options();
        let _one = server.users.writing().await;
        let mut now = server.tree.get(&at).await.map_err(store)?.unwrap_or_default();
        for (name, given, slot) in [
            ("options", m.options, &mut now.options),
            ("theme", m.theme, &mut now.theme),
            ("timezone", m.timezone, &mut now.timezone),
            ("lang", m.lang, &mut now.lang),
            ("org", m.org, &mut now.org),
            ("default_password", m.default_password, &mut now.default_password),
        ] {
            if given.len() > MAX_OPTION {
                let text = format!("{name} is longer than {MAX_OPTION} bytes");
                return Err(Status::invalid_argument(text));
            }
            if !given.is_empty() {
                *slot =
                    if name == "default_password" && given == "-" { String::new() } else { given };
            }
        }
        now.default_downloads_lock = m.default_downloads_lock;
        server.tree.set(&at, &now).await.map_err(store)
    }

    /// Saved collections of one kind, all of them or that of a name.
    async fn favorites(&self, caller: &Caller, m: &Favorite) -> Result<Favorites, Status> {
        caller.require(Permission::ReadResults)?;
        let (tree, org) = (&self.api.server.tree, &caller.org.id);
        let user = User { name: &caller.name };
        let kind = m.r#type.to_ascii_uppercase();
        if !["CLIENT", "CLIENT_EVENT", "SERVER", "SERVER_EVENT"].contains(&kind.as_str()) {
            return Ok(Favorites::default());
        }
        let mut items = Vec::new();
        for child in tree.children(&user.favorites_dir(org, &kind)).await.map_err(store)? {
            if !m.name.is_empty() && m.name != child.name {
                continue;
            }
            items.extend(tree.get(&user.favorite(org, &kind, &child.name)).await.map_err(store)?);
        }
        Ok(Favorites { items })
    }

    /// A query, or the queries of a definition, laid out for people.
    async fn reformat(&self, request: Request) -> Result<Value, Status> {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct Asked {
            vql: String,
            artifact: String,
        }
        let (caller, asked) = self.asked::<Asked>(request).await?;
        caller.require(Permission::ReadResults)?;
        let invalid = |e: vql::ParseError| Status::invalid_argument(format!("query: {e}"));
        if !asked.artifact.is_empty() {
            let text = reformat::definition(&asked.artifact).map_err(invalid)?;
            return Ok(json!({ "artifact": text }));
        }
        Ok(json!({ "vql": vql::syntax::reformat(&asked.vql).map_err(invalid)? }))
    }

    /// Where a file has the next match, or the one before; nothing where there is none.
    async fn find(&self, request: Request) -> Result<Value, Status> {
        let (caller, asked) = self.asked::<find::Wanted>(request).await?;
        Ok(match self.api.find(&caller, &asked).await? {
            Some(hit) => json!({ "vfs_components": asked.vfs_components, "hit": hit.to_string() }),
            None => json!({}),
        })
    }

    /// Callables and artifacts by their names.
    fn completions(&self, caller: &Caller) -> Value {
        let one = |kind: &str, s: &Signature| {
            let args: Vec<Value> = (s.args.iter())
                .map(|a| {
                    json!({
                        "name": a.name, "type": a.kind.name(), "description": a.doc,
                        "repeated": a.kind.is_repeated(),
                        "required": a.required,
                    })
                })
                .collect();
            json!({ "name": s.name, "type": kind, "description": s.doc, "args": args,
                "free_form_args": s.free_form })
        };
        let registry = &self.api.registry;
        let mut items: Vec<Value> = registry.functions().map(|s| one("Function", s)).collect();
        items.extend(registry.plugins().map(|s| one("Plugin", s)));
        for a in caller.org.repository.all() {
            let args: Vec<Value> = (a.parameters.iter())
                .map(|p| json!({ "name": p.name, "type": p.r#type, "description": p.description }))
                .collect();
            let name = format!("Artifact.{}", a.name);
            items.push(json!({
                "name": name, "type": "Artifact", "description": a.description, "args": args,
            }));
        }
        json!({ "items": items })
    }
}
