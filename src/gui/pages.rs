//! The two documents: the log-in page, and the shell that the screens are drawn in.

use std::fmt::Write as _;

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::json;

use super::guard::{Proof, Refused, address, certificate};
use super::{Entry, Gui};
use crate::services::acl::Permission;
use crate::services::audit::audit;
use crate::services::users::SignedIn;

/// Largest log-in form, in bytes.
const MAX_FORM: usize = 16 << 10;

/// `text` inside an attribute or an element.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

impl Gui {
    /// The start of every document; `attributes` are those of its root.
    fn document(&self, title: &str, attributes: &str, head: &str, body: &str) -> Html<String> {
        let at = format!("{}/app/s/{}", escaped(&self.options.base_path), self.assets.build());
        Html(format!(
            "<!doctype html>\n<html lang=\"en\" data-theme=\"auto\" {attributes}>\n<head>\n\
             <meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title} · {product}</title>\n\
             <link rel=\"icon\" href=\"{at}/logo.svg\" type=\"image/svg+xml\">\n\
             <link rel=\"stylesheet\" href=\"{at}/tokens.css\">\n\
             <link rel=\"stylesheet\" href=\"{at}/app.css\">\n\
             <link rel=\"stylesheet\" href=\"{at}/screens.css\">\n\
             <script src=\"{at}/theme.js\"></script>\n{head}</head>\n{body}\n</html>\n",
            title = escaped(title),
            product = crate::PRODUCT,
        ))
    }

    fn icon(&self, name: &str) -> String {
        format!(
            "<svg class=\"i\" aria-hidden=\"true\"><use href=\"{}/app/s/{}/icons.svg#{name}\"/></svg>",
            escaped(&self.options.base_path),
            self.assets.build()
        )
    }

    /// Where somebody goes after the log-in: only to pages of ours.
    pub(super) fn target(&self, wish: &str) -> String {
        let base = &self.options.base_path;
        let ours = wish.strip_prefix(base.as_str()).is_some_and(|r| r.starts_with("/app/"));
        let plain = wish.chars().all(|c| c.is_ascii_graphic() && c != '\\') && !wish.contains("//");
        if ours && plain { wish.to_owned() } else { format!("{base}/app/clients") }
    }

    pub(super) fn cookie(&self, value: &str, seconds: u64) -> HeaderValue {
        let path = match self.options.base_path.as_str() {
            "" => "/",
            path => path,
        };
        let secure = if self.options.secure { "; Secure" } else { "" };
        let text = format!(
            "{}={value}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}",
            self.cookie_name
        );
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    pub(super) fn log_in_page(
        &self,
        status: StatusCode,
        to: &str,
        user: &str,
        note: Option<&str>,
    ) -> Response {
        let mut said = String::new();
        if let Some(note) = note {
            let _ = write!(
                said,
                "<div class=\"note err\" role=\"alert\">{}<p>{}</p></div>",
                self.icon("alert"),
                escaped(note)
            );
        }
        let (ways, about_ways) = self.ways_in(to, user);
        let body = format!(
            "<body class=\"gate\">\n<main id=\"main\">\n\
             <p class=\"row brand-s\">{logo}<b>{product}</b></p>\n<h1>Sign in</h1>\n{said}\n{ways}\n\
             <p class=\"dim xs\">{about_ways} Every log-in is recorded.</p>\n</main>\n\
             <aside><h2>{host}</h2><p class=\"mid\">Who signs in here acts on real machines. \
             What you do is written to the audit log with your name.</p>\
             <p class=\"dim xs\">{product} {about}</p></aside>\n</body>",
            logo = self.icon("logo"),
            product = crate::PRODUCT,
            host = escaped(&self.server.options.node),
            about = escaped(crate::ABOUT),
        );
        (status, self.document("Sign in", "", "", &body)).into_response()
    }

    /// The form or the links by which people sign in, and a word about them.
    fn ways_in(&self, to: &str, user: &str) -> (String, &'static str) {
        let base = escaped(&self.options.base_path);
        match &self.options.entry {
            Entry::Passwords => {
                let (focus_user, focus_password) = match user.is_empty() {
                    true => (" autofocus", ""),
                    false => ("", " autofocus"),
                };
                let form = format!(
                    "<form class=\"stack\" method=\"post\" action=\"{base}/app/login\">\n\
                     <input type=\"hidden\" name=\"to\" value=\"{to}\">\n\
                     <div class=\"field\"><label for=\"user\">User name</label>\
                     <input class=\"in\" id=\"user\" name=\"user\" value=\"{user}\" \
                     autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" \
                     required{focus_user}></div>\n\
                     <div class=\"field\"><label for=\"password\">Password</label>\
                     <input class=\"in\" id=\"password\" name=\"password\" type=\"password\" \
                     autocomplete=\"current-password\" required{focus_password}></div>\n\
                     <button class=\"btn primary big\" type=\"submit\">Sign in</button>\n</form>",
                    to = escaped(to),
                    user = escaped(user),
                );
                (form, "After several wrong passwords a user is locked out for some minutes.")
            }
            Entry::Providers(all) => {
                let to: String = url::form_urlencoded::byte_serialize(to.as_bytes()).collect();
                let mut links = String::from("<div class=\"stack\">");
                for p in all {
                    let _ = write!(
                        links,
                        "<a class=\"btn primary big\" href=\"{base}/auth/{}/login?to={to}\">\
                         Sign in with {}</a>",
                        escaped(&p.route),
                        escaped(&p.title)
                    );
                }
                links.push_str("</div>");
                (links, "Your organisation's identity provider says who you are.")
            }
            Entry::Certificates(_) => {
                let text = format!(
                    "<div class=\"note warn\">{}<p>Your browser showed no certificate of this \
                     deployment, or one of somebody who is no user here. Install the one you \
                     were given, restart the browser and open this page again.</p></div>",
                    self.icon("key")
                );
                (text, "People show a certificate here.")
            }
        }
    }

    /// The log-in page for somebody who is not let in.
    pub(super) fn refused_page(&self, why: Refused, to: &str, user: &str) -> Response {
        let (status, note) = match why {
            Refused::Locked(seconds) => {
                let minutes = seconds.div_ceil(60);
                let s = if minutes == 1 { "" } else { "s" };
                let note = format!("Too many failed log-ins. Try again in {minutes} minute{s}.");
                (StatusCode::TOO_MANY_REQUESTS, note)
            }
            Refused::Store(e) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("Users cannot be read at present: {e}"))
            }
            Refused::Wrong | Refused::Unknown => {
                (StatusCode::UNAUTHORIZED, "User name or password is wrong.".to_owned())
            }
        };
        self.log_in_page(status, to, user, Some(&note))
    }

    /// The organisations in which somebody may read results.
    pub(super) async fn may_enter(&self, name: &str) -> Result<bool, Refused> {
        for org in self.server.orgs() {
            let policy = self.server.users.policy(&org.id, name).await;
            let policy = policy.map_err(|e| Refused::Store(e.to_string()))?;
            if policy.allows(Permission::ReadResults) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub(super) fn redirect(to: &str) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or_else(|_| HeaderValue::from_static("/"));
    (StatusCode::SEE_OTHER, [(header::LOCATION, to)]).into_response()
}

/// `/` and other names people type.
pub async fn start(State(gui): State<Gui>) -> Response {
    redirect(&format!("{}/app/clients", gui.options.base_path))
}

/// A file of the GUI.
pub async fn asset(
    State(gui): State<Gui>,
    Path((build, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    gui.assets.serve(&build, &name, &headers)
}

/// The log-in page.
pub async fn log_in(State(gui): State<Gui>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let mut to = String::new();
    for (k, v) in pairs {
        if k == "to" {
            to = v.into_owned();
        }
    }
    let to = gui.target(&to);
    gui.log_in_page(StatusCode::OK, &to, "", None)
}

/// Somebody signs in.
pub async fn signing_in(State(gui): State<Gui>, request: Request) -> Response {
    let from = address(&request);
    if let Some(what) = gui.forged(&request, None) {
        let note = format!("The form was not taken: {what}.");
        return gui.log_in_page(StatusCode::FORBIDDEN, &gui.target(""), "", Some(&note));
    }
    let Ok(form) = to_bytes(request.into_body(), MAX_FORM).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the form is too large").into_response();
    };
    let (mut user, mut password, mut to) = (String::new(), String::new(), String::new());
    for (k, v) in url::form_urlencoded::parse(&form) {
        match &*k {
            "user" => user = v.trim().to_owned(),
            "password" => password = v.into_owned(),
            "to" => to = v.into_owned(),
            _ => {}
        }
    }
    let to = gui.target(&to);
    if gui.options.entry != Entry::Passwords {
        let note = "Passwords are not taken here.";
        return gui.log_in_page(StatusCode::FORBIDDEN, &to, "", Some(note));
    }
    match gui.check_password(&user, &password, from).await {
        Ok(found) => gui.let_in(&found, from, &to).await,
        Err(e) => gui.refused_page(e, &to, &user),
    }
}

/// Somebody leaves.
pub async fn log_off(State(gui): State<Gui>, request: Request) -> Response {
    let from = address(&request);
    let shown = certificate(&request);
    if let Ok((who, proof)) = gui.identify(request.headers(), shown, from).await {
        if gui.forged(&request, Some(&proof)).is_some() {
            return (StatusCode::FORBIDDEN, "not signed out: the request is not from our page")
                .into_response();
        }
        if let Proof::Session(session) = &proof {
            gui.sessions.end(&gui.server.env, session);
        }
        let details = json!({ "from": from.to_string() });
        audit(&gui.server, &gui.server.root(), &who.name, "Logoff", details).await;
    }
    let mut answer = redirect(&format!("{}/app/login", gui.options.base_path));
    answer.headers_mut().insert(header::SET_COOKIE, gui.cookie("", 0));
    answer
}

/// Any screen: the scripts draw it, by its address.
pub async fn shell(State(gui): State<Gui>, request: Request) -> Response {
    let from = address(&request);
    let shown = certificate(&request);
    let found = gui.identify(request.headers(), shown, from).await;
    let (SignedIn { name }, proof) = match found {
        Ok(found) => found,
        Err(Refused::Store(e)) => {
            return (StatusCode::SERVICE_UNAVAILABLE, e).into_response();
        }
        Err(_) => {
            // As seen inside of `base_path`.
            let path = request.uri().path_and_query().map_or("", |p| p.as_str());
            let full = format!("{}{path}", gui.options.base_path);
            let to: String = url::form_urlencoded::byte_serialize(full.as_bytes()).collect();
            return redirect(&format!("{}/app/login?to={to}", gui.options.base_path));
        }
    };
    let attributes = format!(
        "data-base=\"{}\" data-token=\"{}\" data-user=\"{}\"",
        escaped(&gui.options.base_path),
        escaped(&gui.token(&proof)),
        escaped(&name)
    );
    let head = format!(
        "<script type=\"module\" src=\"{}/app/s/{}/main.js\"></script>\n",
        escaped(&gui.options.base_path),
        gui.assets.build()
    );
    let body = "<body class=\"app\"><noscript><main class=\"empty\"><h2>Scripts are off</h2>\
        <p>The screens are drawn by scripts of this server alone. Allow them, or use the command \
        line.</p></main></noscript></body>";
    let mut answer = gui.document("Clients", &attributes, &head, body).into_response();
    if let Proof::Session(session) = &proof
        && gui.sessions.is_old(&gui.server.env, session)
        && let Ok(Some(user)) = gui.server.users.get(&name).await
    {
        let value = gui.sessions.begin(&gui.server.env, &user);
        let cookie = gui.cookie(&value, gui.options.session_seconds);
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer
}
