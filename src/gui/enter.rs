//! The way in for somebody who has shown who they are, and the two addresses of an
//! identity provider's log-in.

use std::net::IpAddr;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use velociraptor_proto::proto::{ApiClientAcl, VelociraptorUser};

use super::guard::{Refused, address, cookie};
use super::oidc::{Pending, Person, Provider, random};
use super::pages::redirect;
use super::{Entry, Gui};
use crate::services::audit::audit;
use crate::services::ids::OrgId;

/// How long somebody may be away at a provider, seconds.
const AWAY: u64 = 600;
/// Signed with this, so that nothing else is taken for it.
const PURPOSE: &str = "sign-in";

impl Gui {
    /// The providers, where people sign in there.
    pub fn providers(&self) -> &[Provider] {
        match &self.options.entry {
            Entry::Providers(all) => all,
            _ => &[],
        }
    }

    /// Lets a user in, if they have any rights here.
    pub async fn let_in(&self, found: &VelociraptorUser, from: IpAddr, to: &str) -> Response {
        match self.may_enter(&found.name).await {
            Ok(true) => {
                let details = json!({ "from": from.to_string() });
                audit(&self.server, &self.server.root(), &found.name, "Login", details).await;
                let value = self.sessions.begin(&self.server.env, found);
                let mut answer = redirect(to);
                let cookie = self.cookie(&value, self.options.session_seconds);
                answer.headers_mut().append(header::SET_COOKIE, cookie);
                answer
            }
            Ok(false) => {
                let note = format!(
                    "You are {name}, but {name} has no rights here. An administrator can give \
                     some: {} user grant {name} --role reader",
                    crate::PRODUCT,
                    name = found.name
                );
                self.log_in_page(StatusCode::FORBIDDEN, to, &found.name, Some(&note))
            }
            Err(e) => self.refused_page(e, to, &found.name),
        }
    }

    /// A user by the name in their certificate. One who is not known becomes a user if
    /// there are roles for such.
    pub async fn certified(&self, name: &str) -> Result<VelociraptorUser, Refused> {
        let store = |e: crate::services::users::UserError| Refused::Store(e.to_string());
        if let Some(user) = self.server.users.get(name).await.map_err(store)? {
            return if user.locked { Err(Refused::Unknown) } else { Ok(user) };
        }
        let Entry::Certificates(roles) = &self.options.entry else { return Err(Refused::Unknown) };
        if roles.is_empty() {
            return Err(Refused::Unknown);
        }
        // Reserved names, those of nodes among them, are nobody's.
        let user = self.server.users.create(name).await.map_err(|_| Refused::Unknown)?;
        let acl = ApiClientAcl { roles: roles.clone(), ..ApiClientAcl::default() };
        self.server.users.set_acl(&OrgId::root(), name, &acl).await.map_err(store)?;
        let details = json!({ "username": name, "roles": roles, "by": "certificate" });
        audit(&self.server, &self.server.root(), name, "CreateUser", details).await;
        Ok(user)
    }

    fn callback(&self, p: &Provider) -> Option<String> {
        let origin = self.options.public_origin.as_deref()?;
        Some(format!("{origin}{}/auth/{}/callback", self.options.base_path, p.route))
    }

    fn pending_cookie(&self, value: &str, seconds: u64) -> HeaderValue {
        let secure = if self.options.secure { "; Secure" } else { "" };
        let text = format!(
            "{}_at={value}; Path={}/auth; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}",
            self.cookie_name, self.options.base_path
        );
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    async fn start(&self, p: &Provider, to: &str) -> Result<Response, String> {
        let env = &self.server.env;
        let callback = self.callback(p).ok_or("GUI.public_url is not set")?;
        let pending = Pending {
            route: p.route.clone(),
            state: random(env),
            nonce: random(env),
            verifier: random(env),
            to: to.to_owned(),
            ends: env.clock.unix() + AWAY,
        };
        let url = self.oidc.start(env, p, &pending, &callback).await?;
        let text = serde_json::to_string(&pending).map_err(|e| e.to_string())?;
        let mut answer = redirect(url.as_str());
        let cookie = self.pending_cookie(&self.sessions.seal(PURPOSE, &text), AWAY);
        answer.headers_mut().append(header::SET_COOKIE, cookie);
        Ok(answer)
    }

    /// Who came back, and where they wanted to go.
    async fn finish(
        &self,
        p: &Provider,
        sealed: Option<String>,
        answer: &[(String, String)],
    ) -> Result<(Person, String), String> {
        let env = &self.server.env;
        let get = |k: &str| answer.iter().find(|(n, _)| n == k).map_or("", |(_, v)| v.as_str());
        let opened = sealed.and_then(|s| self.sessions.unseal(PURPOSE, &s));
        let pending = opened.and_then(|t| serde_json::from_str::<Pending>(&t).ok());
        let pending = pending.filter(|q| q.ends > env.clock.unix() && q.route == p.route);
        let pending =
            pending.ok_or("this log-in was not begun in this browser, or too long ago")?;
        if get("state") != pending.state {
            return Err("the answer belongs to another log-in".into());
        }
        if !get("error").is_empty() {
            return Err(format!("the provider says {} {}", get("error"), get("error_description")));
        }
        let callback = self.callback(p).ok_or("GUI.public_url is not set")?;
        let person = self.oidc.finish(env, p, &pending, &callback, get("code")).await?;
        Ok((person, pending.to))
    }

    /// The user that a person is, pinned to who they are at the provider.
    async fn user_of(&self, person: &Person) -> Result<VelociraptorUser, String> {
        let users = &self.server.users;
        let found = users.get(&person.name).await.map_err(|e| e.to_string())?;
        let mut user = found.ok_or_else(|| {
            format!(
                "you are {0}, but {0} is no user here; an administrator can add one",
                person.name
            )
        })?;
        if user.locked {
            return Err(format!("{} is locked out", user.name));
        }
        match &person.pin {
            Some(pin) if user.oid.is_empty() => {
                user.oid = pin.clone();
                users.set(&user).await.map_err(|e| e.to_string())?;
            }
            Some(pin) if *pin != user.oid => {
                return Err(format!("{} is somebody else at the provider now", user.name));
            }
            _ => {}
        }
        Ok(user)
    }
}

/// `PROVIDER/login` sends somebody there, `PROVIDER/callback` is where they come back.
pub async fn way(State(gui): State<Gui>, Path(way): Path<String>, request: Request) -> Response {
    let from = address(&request);
    let sealed = cookie(request.headers(), &format!("{}_at", gui.cookie_name));
    let query = request.uri().query().unwrap_or_default();
    let pairs: Vec<(String, String)> =
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let (route, step) = way.rsplit_once('/').unwrap_or((&way, ""));
    let Some(p) = gui.providers().iter().find(|p| p.route == route) else {
        return (StatusCode::NOT_FOUND, "no such way to sign in").into_response();
    };
    let wish = pairs.iter().find(|(k, _)| k == "to").map_or("", |(_, v)| v.as_str());
    let to = gui.target(wish);
    let done = match step {
        "login" => gui.start(p, &to).await,
        "callback" => match gui.finish(p, sealed, &pairs).await {
            Ok((person, to)) => match gui.user_of(&person).await {
                Ok(user) => {
                    // Once used, the browser's part is worth nothing.
                    let mut answer = gui.let_in(&user, from, &gui.target(&to)).await;
                    let gone = gui.pending_cookie("", 0);
                    answer.headers_mut().append(header::SET_COOKIE, gone);
                    return answer;
                }
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        },
        _ => return (StatusCode::NOT_FOUND, "no such way to sign in").into_response(),
    };
    match done {
        Ok(answer) => answer,
        Err(why) => {
            let details = json!({ "from": from.to_string(), "provider": p.route, "reason": why });
            audit(&gui.server, &gui.server.root(), "", "LoginFailed", details).await;
            let note = format!("Signing in at {} did not work: {why}.", p.title);
            gui.log_in_page(StatusCode::UNAUTHORIZED, &to, "", Some(&note))
        }
    }
}
