//! Users and their rights, by the names of stock calls, and what the users screen
//! asks beside them. The rules are those of `services::user_admin`.

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tonic::Status;
use velociraptor_proto::proto::{
    SetPasswordRequest, UpdateUserRequest, UserRequest, UserRoles, Users,
};

use super::{Rest, failed, json, text};
use crate::api::Caller;
use crate::api::status::status;
use crate::services::ServiceError;
use crate::services::acl::{Permission, Policy, Role};
use crate::services::ids::OrgId;
use crate::services::user_admin::{Asker, MIN_PASSWORD, UserAdmin, Visible, org_name};

/// What is done to one user.
#[derive(Deserialize)]
struct OneUser {
    name: String,
    #[serde(default)]
    locked: bool,
}

fn asker(caller: &Caller) -> Asker {
    Asker { name: caller.name.clone(), policy: caller.policy.clone() }
}

/// `GET` or `POST` of a stock call with what it does as [`UserAdmin`].
macro_rules! call {
    ($rest:expr, $method:ident, $message:ty, |$admin:ident, $caller:ident, $m:ident| $body:expr) => {{
        let rest = $rest.clone();
        $method(move |request: Request| async move {
            let call = |rest: Rest, $caller: Caller, $m: $message| async move {
                let asker = asker(&$caller);
                let $admin = UserAdmin::new(&rest.api.server, &asker).await;
                let $admin = $admin.map_err(|e| status(&e))?;
                let done: Result<String, Status> = $body;
                done
            };
            rest.answer::<$message, _, _>(request, &[], call).await
        })
    }};
}

fn empty(done: Result<(), ServiceError>) -> Result<String, Status> {
    done.map(|()| "{}".to_owned()).map_err(|e| status(&e))
}

fn records(found: Result<Vec<Visible>, ServiceError>) -> Result<String, Status> {
    let users = found.map_err(|e| status(&e))?;
    // Stock lists those alone that belong somewhere.
    let users = users.iter().filter(|v| !v.member_of.is_empty()).map(Visible::record).collect();
    text(&Users { users })
}

pub(super) fn routes(rest: &Rest) -> Router {
    Router::new()
        .route(
            "/v1/GetUsers",
            call!(rest, get, UserRequest, |admin, c, _m| records(
                admin.list(std::slice::from_ref(&c.org.id)).await
            )),
        )
        .route(
            "/v1/GetGlobalUsers",
            call!(rest, get, UserRequest, |admin, _c, _m| records(admin.list(&[]).await)),
        )
        .route(
            "/v1/GetUserRoles",
            call!(rest, get, UserRequest, |admin, c, m| {
                let org = if m.org.is_empty() { org_name(&c.org.id) } else { m.org };
                text(&admin.roles(&m.name, &org).await.map_err(|e| status(&e))?)
            }),
        )
        .route(
            "/v1/SetUserRoles",
            call!(rest, post, UserRoles, |admin, c, m| {
                let org = if m.org.is_empty() { org_name(&c.org.id) } else { m.org.clone() };
                empty(admin.set_roles(&UserRoles { org, ..m }).await)
            }),
        )
        .route(
            "/v1/CreateUser",
            call!(rest, post, UpdateUserRequest, |admin, _c, m| empty(
                admin.create(&m.name, &m.orgs, &m.roles, m.add_new_user, &m.password).await
            )),
        )
        .route(
            "/v1/SetPassword",
            call!(rest, post, SetPasswordRequest, |admin, _c, m| empty(
                admin.set_password(&m.username, &m.password).await
            )),
        )
        .route("/fleet/users", get(own(rest, |rest, c, _| async move { rest.users(&c).await })))
        .route(
            "/fleet/users/delete",
            post(own(rest, |rest, c, r| async move {
                let (who, m) = (asker(&c), rest.one_user(r).await?);
                let admin = UserAdmin::new(&rest.api.server, &who).await;
                empty(admin.map_err(|e| status(&e))?.delete(&m.name).await).map(|_| json!({}))
            })),
        )
        .route(
            "/fleet/users/lock",
            post(own(rest, |rest, c, r| async move {
                let (who, m) = (asker(&c), rest.one_user(r).await?);
                let admin = UserAdmin::new(&rest.api.server, &who).await;
                let done = admin.map_err(|e| status(&e))?.lock(&m.name, m.locked).await;
                empty(done).map(|_| json!({}))
            })),
        )
}

/// A call of our own pages.
fn own<F, A>(
    rest: &Rest,
    call: F,
) -> impl Fn(Request) -> futures::future::BoxFuture<'static, axum::response::Response> + Clone + use<F, A>
where
    F: Fn(Rest, Caller, Request) -> A + Clone + Send + 'static,
    A: Future<Output = Result<Value, Status>> + Send,
{
    let rest = rest.clone();
    move |request: Request| {
        let (rest, call) = (rest.clone(), call.clone());
        Box::pin(async move {
            let found = match rest.caller(&request).await {
                Ok(caller) => call(rest, caller, request).await,
                Err(e) => Err(e),
            };
            found.map_or_else(|e| failed(&e), |v| json(v.to_string()))
        })
    }
}

impl Rest {
    async fn one_user(&self, request: Request) -> Result<OneUser, Status> {
        let body = to_bytes(request.into_body(), self.options.max_body).await;
        let body = body.map_err(|e| Status::invalid_argument(format!("body: {e}")))?;
        serde_json::from_slice(&body).map_err(|e| Status::invalid_argument(format!("body: {e}")))
    }

    /// Every user the caller sees, with rights where they administrate, and what can be
    /// given.
    async fn users(&self, caller: &Caller) -> Result<Value, Status> {
        let (who, server) = (asker(caller), &self.api.server);
        let admin = UserAdmin::new(server, &who).await.map_err(|e| status(&e))?;
        let all = admin.list(&[]).await.map_err(|e| status(&e))?;
        let held = |p: Policy| p.permissions().map(Permission::name).collect::<Vec<_>>();
        let items: Vec<Value> = (all.iter())
            .map(|v| {
                let orgs: Vec<Value> = (v.member_of.iter())
                    .map(|m| {
                        let rights = m.acl.as_ref().map(|acl| {
                            json!({
                                "roles": acl.roles,
                                "effective": held(Policy::of(acl, m.org.id.is_root())),
                            })
                        });
                        json!({ "id": org_name(&m.org.id), "name": m.org.name, "rights": rights })
                    })
                    .collect();
                json!({
                    "name": v.user.name,
                    "locked": v.user.locked,
                    "password": v.mine.then_some(!v.user.password_hash.is_empty()),
                    "mine": v.mine,
                    "orgs": orgs,
                })
            })
            .collect();
        let root = server.users.policy(&OrgId::root(), &caller.name).await;
        let root = root.map_err(|e| Status::unavailable(e.to_string()))?;
        let mut orgs = Vec::new();
        for org in server.orgs() {
            let policy = server.users.policy(&org.id, &caller.name).await;
            let policy = policy.map_err(|e| Status::unavailable(e.to_string()))?;
            if policy.allows(Permission::ServerAdmin) || root.allows(Permission::OrgAdmin) {
                orgs.push(json!({ "id": org_name(&org.id), "name": org.name }));
            }
        }
        let roles: Vec<Value> = (Role::ALL.iter())
            .map(|r| {
                let gives: Vec<_> = r.permissions().iter().map(|p| p.name()).collect();
                json!({ "name": r.name(), "permissions": gives })
            })
            .collect();
        Ok(json!({
            "items": items,
            "orgs": orgs,
            "roles": roles,
            "permissions": Permission::ALL.map(Permission::name),
            "min_password": MIN_PASSWORD,
        }))
    }
}
