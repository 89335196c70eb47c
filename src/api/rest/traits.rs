//! What somebody is and may do, as stock clients ask it.

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use tonic::Status;
use velociraptor_proto::proto::{ApiUser, ApiUserInterfaceTraits, OrgRecord, api_user::UserType};

use super::{Rest, failed, json, text};
use crate::api::Caller;
use crate::api::status::store;
use crate::services::acl::Permission;
use crate::services::ids::OrgId;
use crate::store::paths::User;

pub(super) fn routes(rest: &Rest) -> Router {
    let rest = rest.clone();
    let call = move |request: Request| async move {
        let caller = rest.caller(&request);
        let answer = async {
            let caller = caller.await?;
            text(&rest.traits(&caller).await?)
        };
        match answer.await {
            Ok(text) => json(text),
            Err(e) => failed(&e),
        }
    };
    Router::new().route("/v1/GetUserUITraits", get(call))
}

/// The root organisation has a name of its own for stock pages.
fn named(org: &OrgId) -> String {
    if org.is_root() { "root".to_owned() } else { org.id().to_owned() }
}

impl Rest {
    async fn traits(&self, caller: &Caller) -> Result<ApiUser, Status> {
        let server = &self.api.server;
        let mut orgs = Vec::new();
        for org in server.orgs() {
            let policy = server.users.policy(&org.id, &caller.name).await;
            let policy = policy.map_err(|e| Status::unavailable(e.to_string()))?;
            if policy.allows(Permission::ReadResults) {
                let id = named(&org.id);
                orgs.push(OrgRecord { name: org.name.clone(), id, ..Default::default() });
            }
        }
        let mut permissions = caller.policy.to_acl();
        // Stock pages look at single permissions, never at roles.
        permissions.roles.clear();
        let options = server.tree.get(&User { name: &caller.name }.gui_options()).await;
        let options = options.map_err(store)?.unwrap_or_default();
        let traits = ApiUserInterfaceTraits {
            ui_settings: options.options,
            theme: options.theme,
            lang: options.lang,
            timezone: options.timezone,
            default_password: options.default_password,
            default_downloads_lock: options.default_downloads_lock,
            permissions: Some(permissions),
            org: named(&caller.org.id),
            org_name: caller.org.name.clone(),
            password_less: self.options.password_less,
            base_path: self.base_path.to_string(),
            ..Default::default()
        };
        let admin = caller.policy.allows(Permission::ServerAdmin);
        let kind = if admin { UserType::Admin } else { UserType::Standard };
        Ok(ApiUser {
            username: caller.name.clone(),
            interface_traits: Some(traits),
            user_type: kind.into(),
            orgs,
            org_admin: caller.policy.allows(Permission::OrgAdmin),
            ..Default::default()
        })
    }
}
