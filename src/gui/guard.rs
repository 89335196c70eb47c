//! What every request passes: who it is, whether a page of ours made it, and the
//! headers that keep a browser from being turned against its user.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use velociraptor_proto::proto::VelociraptorUser;

use super::session::{self, Session, Sessions};
use super::{Entry, Gui};
use crate::comms::server::PeerInfo;
use crate::crypto::certs::Certificate;
use crate::services::audit::audit;
use crate::services::users::{SignedIn, verify_password};

/// Header of the token against forged requests; that of stock servers.
pub const TOKEN: &str = "x-csrf-token";

/// Nothing but our own files, no inline code, no frames. `blob:` is for previews
/// of images, which are made in the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
    frame-ancestors 'none'";

/// How somebody showed who they are.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The cookie of a session.
    Session(Session),
    /// A password, or a certificate, with each request.
    Each(Box<VelociraptorUser>),
}

/// Where a request comes from, once that is known.
#[derive(Clone, Copy, Debug)]
struct CameFrom(IpAddr);

/// Why somebody is not let in.
#[derive(Debug)]
pub enum Refused {
    /// They showed nothing, or it is no longer good.
    Unknown,
    /// User name or password is wrong.
    Wrong,
    /// Too many failures; seconds until the next try.
    Locked(u64),
    /// The datastore could not be read.
    Store(String),
}

/// The address a request comes from.
pub fn address(request: &Request) -> IpAddr {
    match request.extensions().get::<CameFrom>() {
        Some(CameFrom(address)) => *address,
        None => peer(request),
    }
}

/// The certificate shown with the connection, if any.
pub fn certificate(request: &Request) -> Option<Arc<CertificateDer<'static>>> {
    request.extensions().get::<PeerInfo>().and_then(|p| p.certificate.clone())
}

fn peer(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<PeerInfo>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |p| p.addr.ip())
}

impl Gui {
    /// Looks at a password: the only place that does.
    pub async fn check_password(
        &self,
        name: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<VelociraptorUser, Refused> {
        if let Err(left) = self.door.admit(name, from) {
            return Err(Refused::Locked(left.as_secs() + 1));
        }
        let found = self.server.users.get(name).await;
        let user = found.map_err(|e| Refused::Store(e.to_string()))?;
        // An unknown name costs as much as a known one.
        let known = user.is_some();
        let user = user.unwrap_or_default();
        if verify_password(&user, password) && known {
            self.door.passed(name, from);
            return Ok(user);
        }
        let locks = self.door.failed(name, from);
        let shown: String = name.chars().take(100).collect();
        let details = json!({ "user": shown, "from": from.to_string(), "locked_out": locks });
        audit(&self.server, &self.server.root(), "", "LoginFailed", details).await;
        Err(Refused::Wrong)
    }

    /// Who makes a request.
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<Arc<CertificateDer<'static>>>,
        from: IpAddr,
    ) -> Result<(SignedIn, Proof), Refused> {
        if matches!(self.options.entry, Entry::Certificates(_)) {
            let shown = certificate.ok_or(Refused::Unknown)?;
            let shown = Certificate::from_der(&shown).map_err(|_| Refused::Unknown)?;
            let name = shown.name().ok_or(Refused::Unknown)?;
            let user = self.certified(name).await?;
            return Ok((SignedIn { name: user.name.clone() }, Proof::Each(Box::new(user))));
        }
        let passwords = self.options.entry == Entry::Passwords;
        if let Some((name, password)) = basic(headers).filter(|_| passwords) {
            let user = self.check_password(&name, &password, from).await?;
            let who = SignedIn { name: user.name.clone() };
            return Ok((who, Proof::Each(Box::new(user))));
        }
        let cookie = cookie(headers, &self.cookie_name).ok_or(Refused::Unknown)?;
        let env = &self.server.env;
        let session = self.sessions.read(env, &cookie).ok_or(Refused::Unknown)?;
        let user = self.server.users.get(&session.user).await;
        match user.map_err(|e| Refused::Store(e.to_string()))? {
            Some(u) if Sessions::is_of(&session, &u) => {
                Ok((SignedIn { name: u.name }, Proof::Session(session)))
            }
            _ => Err(Refused::Unknown),
        }
    }

    /// The token that goes with a proof.
    pub fn token(&self, proof: &Proof) -> String {
        match proof {
            Proof::Session(s) => self.sessions.token(s),
            Proof::Each(user) => self.sessions.basic_token(user),
        }
    }

    /// Whether a request that changes something comes from a page of ours. `None`:
    /// it does; else what is wrong.
    pub fn forged(&self, request: &Request, proof: Option<&Proof>) -> Option<&'static str> {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        if matches!(text("sec-fetch-site"), Some("cross-site" | "same-site")) {
            return Some("it was made by a page of another site");
        }
        if let Some(origin) = text("origin") {
            let host = request.uri().authority().map(|a| a.as_str()).or_else(|| text("host"));
            let from = origin.split_once("://").map(|(_, h)| h);
            let own = from.is_some() && (from == host || Some(origin) == self.public_origin());
            if !own {
                return Some("it was made by a page of another address");
            }
        }
        let proof = proof?;
        let given = text(TOKEN).unwrap_or_default();
        let right = session::same(given, &self.token(proof));
        (!right).then_some("its X-CSRF-Token is missing or of another session")
    }

    fn public_origin(&self) -> Option<&str> {
        self.options.public_origin.as_deref()
    }
}

/// For everything below `/api`: nobody passes without a name.
pub async fn api(State(gui): State<Gui>, mut request: Request, next: Next) -> Response {
    let from = address(&request);
    let shown = certificate(&request);
    let (who, proof) = match gui.identify(request.headers(), shown, from).await {
        Ok(found) => found,
        Err(why) => return gui.refuse(&why, request.headers()),
    };
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe && let Some(what) = gui.forged(&request, Some(&proof)) {
        tracing::warn!(user = who.name, %from, path = request.uri().path(), what, "forged request");
        let details =
            json!({ "from": from.to_string(), "path": request.uri().path(), "reason": what });
        audit(&gui.server, &gui.server.root(), &who.name, "ForgedRequest", details).await;
        return message(StatusCode::FORBIDDEN, &format!("this request is not taken: {what}"));
    }
    let mut token = gui.token(&proof);
    // Whoever gives themselves a new password stays signed in where they did it.
    let renews = request.uri().path().ends_with("/v1/SetPassword");
    request.extensions_mut().insert(who);
    let mut answer = next.run(request).await;
    if renews
        && answer.status().is_success()
        && let Proof::Session(session) = &proof
        && let Ok(Some(user)) = gui.server.users.get(&session.user).await
        && !user.locked
        && !Sessions::is_of(session, &user)
    {
        let value = gui.sessions.begin(&gui.server.env, &user);
        if let Some(new) = gui.sessions.read(&gui.server.env, &value) {
            token = gui.sessions.token(&new);
        }
        let cookie = gui.cookie(&value, gui.options.session_seconds);
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    if let Ok(v) = HeaderValue::from_str(&token) {
        answer.headers_mut().insert(TOKEN, v);
    }
    answer
}

impl Gui {
    fn refuse(&self, why: &Refused, headers: &HeaderMap) -> Response {
        let mut answer = match why {
            Refused::Unknown => message(StatusCode::UNAUTHORIZED, "sign in first"),
            Refused::Wrong => message(StatusCode::UNAUTHORIZED, "user name or password is wrong"),
            Refused::Locked(seconds) => {
                let text = format!("too many failed log-ins; try again in {seconds} s");
                let mut answer = message(StatusCode::TOO_MANY_REQUESTS, &text);
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
                answer
            }
            Refused::Store(e) => message(StatusCode::SERVICE_UNAVAILABLE, e),
        };
        // Scripts are asked for a password; a page would show a dialog nobody wants.
        let asks =
            self.options.entry == Entry::Passwords && !headers.contains_key("sec-fetch-mode");
        if answer.status() == StatusCode::UNAUTHORIZED && asks {
            let ask = HeaderValue::from_static("Basic realm=\"Restricted\", charset=\"UTF-8\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        answer
    }
}

/// An error as stock clients read it.
fn message(status: StatusCode, text: &str) -> Response {
    (status, axum::Json(json!({ "message": text }))).into_response()
}

/// Headers of every answer; and nobody from a network that is not let in.
pub async fn headers(State(gui): State<Gui>, mut request: Request, next: Next) -> Response {
    let networks = &gui.options.networks;
    let from = networks.address(peer(&request), request.headers());
    let mut answer = if networks.allow(from) {
        if let Some(from) = from {
            request.extensions_mut().insert(CameFrom(from));
        }
        next.run(request).await
    } else {
        tracing::warn!(from = ?from, "a request from a network that is not let in");
        (StatusCode::FORBIDDEN, "the network you come from is not let in").into_response()
    };
    let h = answer.headers_mut();
    let mut set = |name: &'static str, value: &'static str| {
        h.insert(name, HeaderValue::from_static(value));
    };
    set("content-security-policy", POLICY);
    set("x-content-type-options", "nosniff");
    set("x-frame-options", "DENY");
    set("referrer-policy", "same-origin");
    set("cross-origin-opener-policy", "same-origin");
    set("cross-origin-resource-policy", "same-origin");
    set("permissions-policy", "camera=(), microphone=(), geolocation=(), interest-cohort=()");
    // Not for a machine's own name: other servers there may have no certificate.
    let public = gui.options.public_origin.as_deref().and_then(|o| o.strip_prefix("https://"));
    if public.is_some_and(|host| host != "localhost" && !host.starts_with("localhost:")) {
        set("strict-transport-security", "max-age=31536000");
    }
    if !h.contains_key(header::CACHE_CONTROL) {
        h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}

/// The value of a cookie.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = all.flat_map(|v| v.split(';')).filter_map(|p| p.trim().split_once('='));
    pairs.find(|(n, _)| *n == name).map(|(_, v)| v.to_owned())
}

/// User name and password of a Basic authorization.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, data) = text.split_once(' ')?;
    let data = scheme.eq_ignore_ascii_case("basic").then(|| data.trim())?;
    let text = String::from_utf8(STANDARD.decode(data).ok()?).ok()?;
    text.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned()))
}
