use axum::body::Body;
use axum::http::{Request, Response, StatusCode, header};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tower::ServiceExt;
use velociraptor_proto::proto::ApiClientAcl;

use super::*;
use crate::plugins::server::tests::server;
use crate::services::ids::OrgId;
use crate::services::users::SignedIn;

struct Lab {
    gui: Gui,
    app: Router,
    _dir: tempfile::TempDir,
}

async fn lab(options: GuiOptions) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let server = server(&dir).await;
    for (name, role) in [("ann", "administrator"), ("nil", "")] {
        server.users.create(name).await.unwrap();
        server.users.set_password(&server.env, name, "secret").await.unwrap();
        if !role.is_empty() {
            let acl = ApiClientAcl { roles: vec![role.into()], ..Default::default() };
            server.users.set_acl(&OrgId::root(), name, &acl).await.unwrap();
        }
    }
    let gui = Gui::new(server, options);
    let who = |axum::Extension(who): axum::Extension<SignedIn>| async move { who.name };
    let api = Router::new().route("/who", post(who).get(who));
    let app = gui.router(api);
    Lab { gui, app, _dir: dir }
}

fn get(path: &str) -> http::request::Builder {
    Request::get(path).header("host", "gui.example:8889")
}

fn post_to(path: &str) -> http::request::Builder {
    Request::post(path).header("host", "gui.example:8889")
}

impl Lab {
    async fn ask(&self, request: http::request::Builder, body: &str) -> Response<Body> {
        let request = request.body(Body::from(body.to_owned())).unwrap();
        self.app.clone().oneshot(request).await.unwrap()
    }

    async fn log_in(&self, user: &str, password: &str) -> Response<Body> {
        let form = format!("user={user}&password={password}&to=%2Fapp%2Fhost%2FC.1");
        self.ask(post_to("/app/login").header("origin", "https://gui.example:8889"), &form).await
    }

    /// The cookie of a session.
    async fn cookie(&self) -> String {
        let answer = self.log_in("ANN", "secret").await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let set = answer.headers()[header::SET_COOKIE].to_str().unwrap().to_owned();
        assert!(set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
        set.split(';').next().unwrap().to_owned()
    }

    /// Audit records of this operation.
    async fn audited(&self, operation: &str) -> usize {
        let server = &self.gui.server;
        let org = server.root();
        let mut parts = Vec::new();
        for (key, set) in &org.state().events.sets {
            if key.artifact == crate::services::audit::AUDIT {
                parts.extend(set.parts.iter().map(|p| p.extent.clone()));
            }
        }
        let mut n = 0;
        for part in parts {
            let raw = part.read(&*server.env.fs).await.unwrap();
            n += String::from_utf8_lossy(&raw).matches(&format!("\"{operation}\"")).count();
        }
        n
    }
}

async fn text(answer: Response<Body>) -> String {
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn nobody_sees_anything_but_the_log_in() {
    let lab = lab(GuiOptions::default()).await;
    let answer = lab.ask(get("/app/host/C.1?tab=x"), "").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let to = answer.headers()[header::LOCATION].to_str().unwrap();
    assert_eq!(to, "/app/login?to=%2Fapp%2Fhost%2FC.1%3Ftab%3Dx");
    let page = text(lab.ask(get(to), "").await).await;
    assert!(page.contains("name=\"to\" value=\"/app/host/C.1?tab=x\""), "{page}");
    let answer = lab.ask(get("/api/who"), "").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
    // A page's own call is not answered by a dialog.
    let answer = lab.ask(get("/api/who").header("sec-fetch-mode", "cors"), "").await;
    assert!(!answer.headers().contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(text(answer).await, r#"{"message":"sign in first"}"#);
}

#[tokio::test]
async fn every_answer_has_the_headers_that_protect() {
    let lab = lab(GuiOptions::default()).await;
    let style = format!("/app/s/{}/app.css", lab.gui.assets.build());
    for path in ["/", "/app/login", "/app/clients", "/api/who", &style, "/nowhere"] {
        let answer = lab.ask(get(path), "").await;
        let h = answer.headers();
        let policy = h["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (&h["x-content-type-options"], &h["x-frame-options"]),
            (&"nosniff".parse().unwrap(), &"DENY".parse().unwrap()),
            "{path}"
        );
        let kept = h[header::CACHE_CONTROL].to_str().unwrap();
        assert_eq!(kept.contains("immutable"), path == style, "{path} {kept}");
    }
}

#[tokio::test]
async fn a_session_opens_pages_and_the_api() {
    let lab = lab(GuiOptions::default()).await;
    let answer = lab.log_in("ann", "secret").await;
    assert_eq!(answer.headers()[header::LOCATION], "/app/host/C.1");
    let cookie = lab.cookie().await;
    let page = text(lab.ask(get("/app/clients").header("cookie", &cookie), "").await).await;
    assert!(page.contains("data-user=\"ann\"") && page.contains("main.js"), "{page}");
    let answer = lab.ask(get("/api/who").header("cookie", &cookie), "").await;
    let token = answer.headers()[guard::TOKEN].to_str().unwrap().to_owned();
    assert!(page.contains(&format!("data-token=\"{token}\"")));
    assert_eq!(text(answer).await, "ann");
    // Signing out ends it for good.
    let off = post_to("/app/logoff").header("cookie", &cookie).header(guard::TOKEN, &token);
    assert_eq!(lab.ask(off, "").await.status(), StatusCode::SEE_OTHER);
    let answer = lab.ask(get("/api/who").header("cookie", &cookie), "").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!((lab.audited("Login").await, lab.audited("Logoff").await), (2, 1));
}

#[tokio::test]
async fn a_session_ends_with_its_password_and_its_user() {
    let lab = lab(GuiOptions::default()).await;
    let cookie = lab.cookie().await;
    let server = &lab.gui.server;
    server.users.set_password(&server.env, "ann", "other").await.unwrap();
    let answer = lab.ask(get("/api/who").header("cookie", &cookie), "").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    server.users.set_password(&server.env, "ann", "secret").await.unwrap();
    let cookie = lab.cookie().await;
    server.users.set_locked("ann", true).await.unwrap();
    let answer = lab.ask(get("/api/who").header("cookie", &cookie), "").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn forged_requests_change_nothing() {
    let lab = lab(GuiOptions::default()).await;
    let cookie = lab.cookie().await;
    let with = |r: http::request::Builder| r.header("cookie", &cookie);
    let answer = lab.ask(with(get("/api/who")), "").await;
    let token = answer.headers()[guard::TOKEN].to_str().unwrap().to_owned();
    let good = || with(post_to("/api/who")).header(guard::TOKEN, &token);
    assert_eq!(lab.ask(good(), "").await.status(), StatusCode::OK);
    assert_eq!(
        lab.ask(good().header("origin", "https://gui.example:8889"), "").await.status(),
        StatusCode::OK
    );
    let other = lab.ask(with(get("/api/who")).header("cookie", "x=y"), "").await;
    drop(other);
    let forged = [
        with(post_to("/api/who")),
        with(post_to("/api/who")).header(guard::TOKEN, "x"),
        good().header("origin", "https://evil.example"),
        good().header("origin", "null"),
        good().header("sec-fetch-site", "cross-site"),
        post_to("/api/who").header("authorization", basic("ann", "secret")),
    ];
    for (i, request) in forged.into_iter().enumerate() {
        assert_eq!(lab.ask(request, "").await.status(), StatusCode::FORBIDDEN, "{i}");
    }
    assert_eq!(lab.audited("ForgedRequest").await, 6);
    // Nor does a page elsewhere sign somebody in.
    let form = "user=ann&password=secret";
    for (name, value) in [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")] {
        let answer = lab.ask(post_to("/app/login").header(name, value), form).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
        assert!(!answer.headers().contains_key(header::SET_COOKIE));
    }
}

#[tokio::test]
async fn scripts_use_a_password_and_fetch_their_token() {
    let lab = lab(GuiOptions::default()).await;
    let with = |r: http::request::Builder| r.header("authorization", basic("ann", "secret"));
    let answer = lab.ask(with(get("/api/who")), "").await;
    let token = answer.headers()[guard::TOKEN].to_str().unwrap().to_owned();
    let answer = lab.ask(with(post_to("/api/who")).header(guard::TOKEN, token), "").await;
    assert_eq!(text(answer).await, "ann");
    for header in
        [basic("ann", "wrong"), basic("nobody", "secret"), "Basic ***".into(), "Bearer x".into()]
    {
        let answer = lab.ask(get("/api/who").header("authorization", header), "").await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn who_is_often_wrong_is_locked_out() {
    let lab = lab(GuiOptions { door: GuiOptions::lock(3, 60), ..GuiOptions::default() }).await;
    for user in ["ann", "nobody"] {
        for _ in 0..3 {
            let answer = lab.log_in(user, "wrong").await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            // Whether there is such a user is not told.
            assert!(text(answer).await.contains("User name or password is wrong."));
        }
        let answer = lab.log_in(user, "secret").await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(text(answer).await.contains("Try again in 1 minute"));
    }
    let answer = lab.ask(get("/api/who").header("authorization", basic("ann", "secret")), "").await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(lab.audited("LoginFailed").await, 6);
    assert_eq!(lab.gui.failed_log_ins().0, 6);
}

#[tokio::test]
async fn a_user_without_rights_is_told_so() {
    let lab = lab(GuiOptions::default()).await;
    let answer = lab.log_in("nil", "secret").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(!answer.headers().contains_key(header::SET_COOKIE));
    assert!(text(answer).await.contains("has no rights here"));
}

#[tokio::test]
async fn what_is_typed_comes_back_as_text() {
    let lab = lab(GuiOptions::default()).await;
    let form =
        "user=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&password=x&to=https%3A%2F%2Fevil.example";
    let page = text(lab.ask(post_to("/app/login"), form).await).await;
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(page.contains("name=\"to\" value=\"/app/clients\""), "only pages of ours: {page}");
    for bad in ["//evil", "/app/..//evil", "/app/%5Cevil", "javascript:x", "/other/app/x"] {
        let page = text(lab.ask(get(&format!("/app/login?to={bad}")), "").await).await;
        assert!(page.contains("name=\"to\" value=\"/app/clients\""), "{bad}");
    }
}

#[tokio::test]
async fn everything_lies_below_the_base_path() {
    let options = GuiOptions {
        base_path: "/vr".into(),
        public_origin: Some("https://ir.example".into()),
        ..GuiOptions::default()
    };
    let lab = lab(options).await;
    assert_eq!(lab.ask(get("/app/login"), "").await.status(), StatusCode::NOT_FOUND);
    let answer = lab.ask(get("/vr/app/host/C.1"), "").await;
    assert_eq!(answer.headers()[header::LOCATION], "/vr/app/login?to=%2Fvr%2Fapp%2Fhost%2FC.1");
    let form = "user=ann&password=secret&to=%2Fvr%2Fapp%2Fhost%2FC.1";
    // Behind a proxy the browser's origin is the public one.
    let answer =
        lab.ask(post_to("/vr/app/login").header("origin", "https://ir.example"), form).await;
    assert_eq!(answer.headers()[header::LOCATION], "/vr/app/host/C.1");
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("Path=/vr;") && cookie.contains("; Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let answer = lab.ask(get("/vr/app/clients").header("cookie", cookie), "").await;
    assert!(answer.headers().contains_key("strict-transport-security"));
    assert!(text(answer).await.contains("data-base=\"/vr\""));
}

#[path = "enter_tests.rs"]
mod enter_tests;
