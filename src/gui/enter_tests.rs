//! Signing in at an identity provider, which is here, and with certificates.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::routing::{get as route_get, post as route_post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::super::jwt::tests::Signer;
use super::*;

/// What the provider says of whoever signs in next.
#[derive(Clone)]
struct Fake {
    url: String,
    signer: Arc<Signer>,
    claims: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    /// A small provider on this machine.
    async fn start() -> Fake {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake {
            url: format!("http://{}", listener.local_addr().unwrap()),
            signer: Arc::new(Signer::new()),
            claims: Arc::default(),
            asked: Arc::default(),
        };
        let describe = |State(f): State<Fake>| async move {
            Json(json!({
                "issuer": f.url, "authorization_endpoint": format!("{}/authorize", f.url),
                "token_endpoint": format!("{}/token", f.url), "jwks_uri": format!("{}/keys", f.url),
                "userinfo_endpoint": format!("{}/userinfo", f.url),
            }))
        };
        let token = |State(f): State<Fake>, body: bytes::Bytes| async move {
            let form: Vec<(String, String)> =
                url::form_urlencoded::parse(&body).into_owned().collect();
            *f.asked.lock().unwrap() = form.clone();
            let code = form.iter().find(|(k, _)| k == "code").map(|(_, v)| v.as_str());
            if code != Some("good") {
                return (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" })));
            }
            let mut claims = f.claims.lock().unwrap().clone();
            claims.as_object_mut().unwrap().remove("told");
            let signed = f.signer.sign(&claims);
            (StatusCode::OK, Json(json!({ "id_token": signed, "access_token": "at" })))
        };
        let info =
            |State(f): State<Fake>| async move { Json(f.claims.lock().unwrap()["told"].clone()) };
        let app = Router::new()
            .route("/.well-known/openid-configuration", route_get(describe))
            .route("/keys", route_get(|State(f): State<Fake>| async move { Json(f.signer.keys()) }))
            .route("/token", route_post(token))
            .route("/userinfo", route_get(info))
            .with_state(fake.clone());
        let serve =
            hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let service = hyper_util::service::TowerToHyperService::new(app.clone());
                let io = hyper_util::rt::TokioIo::new(io);
                let serve = serve.clone();
                tokio::spawn(async move {
                    let _ = serve.serve_connection(io, service).await;
                });
            }
        });
        fake
    }

    fn provider(&self) -> Provider {
        Provider {
            route: "oidc/test".into(),
            title: "Test <b>".into(),
            issuer: self.url.clone(),
            client_id: "me".into(),
            client_secret: "hush".into(),
            parameters: vec![("hd".into(), "example.org".into())],
            claim: "email".into(),
            pin: Some("sub".into()),
            unverified: false,
        }
    }

    async fn lab(&self) -> Lab {
        let options = GuiOptions {
            entry: Entry::Providers(vec![self.provider()]),
            public_origin: Some("https://gui.example:8889".into()),
            ..GuiOptions::default()
        };
        lab(options).await
    }

    /// Who signs in next: the claims of their token.
    fn says(&self, email: &str, sub: &str, nonce: &str) {
        *self.claims.lock().unwrap() = json!({
            "iss": self.url, "aud": "me", "exp": 99_999_999_999u64, "nonce": nonce,
            "sub": sub, "email": email, "email_verified": true,
        });
    }
}

/// Somebody on their way: the cookie of their browser, state and nonce.
async fn away(lab: &Lab) -> (String, String, String) {
    let answer = lab.ask(get("/auth/oidc/test/login?to=%2Fapp%2Fhost%2FC.1"), "").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("Path=/auth;"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let to = url::Url::parse(answer.headers()[header::LOCATION].to_str().unwrap()).unwrap();
    let said: std::collections::BTreeMap<_, _> = to.query_pairs().into_owned().collect();
    assert_eq!(said["redirect_uri"], "https://gui.example:8889/auth/oidc/test/callback");
    assert_eq!(
        (said["hd"].as_str(), said["code_challenge_method"].as_str()),
        ("example.org", "S256")
    );
    (cookie, said["state"].clone(), said["nonce"].clone())
}

impl Lab {
    async fn back(&self, cookie: &str, state: &str, more: &str) -> axum::http::Response<Body> {
        let way = format!("/auth/oidc/test/callback?state={state}&{more}");
        self.ask(get(&way).header("cookie", cookie), "").await
    }
}

#[tokio::test]
async fn a_provider_says_who_somebody_is() {
    let fake = Fake::start().await;
    let lab = fake.lab().await;
    let page = text(lab.ask(get("/app/login?to=%2Fapp%2Fhost%2FC.1"), "").await).await;
    assert!(page.contains("href=\"/auth/oidc/test/login?to=%2Fapp%2Fhost%2FC.1\""), "{page}");
    assert!(page.contains("Sign in with Test &lt;b&gt;") && !page.contains("type=\"password\""));
    let (cookie, state, nonce) = away(&lab).await;
    fake.says("ANN", "7", &nonce);
    let answer = lab.back(&cookie, &state, "code=good").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(answer.headers()[header::LOCATION], "/app/host/C.1");
    let asked = fake.asked.lock().unwrap().clone();
    let sent = |k: &str| asked.iter().find(|(n, _)| n == k).unwrap().1.clone();
    assert_eq!((sent("client_secret").as_str(), sent("code_verifier").len()), ("hush", 43));
    let session = answer.headers().get_all(header::SET_COOKIE).iter();
    let session = session.map(|c| c.to_str().unwrap()).find(|c| !c.contains("_at=")).unwrap();
    let session = session.split(';').next().unwrap().to_owned();
    let who = lab.ask(get("/api/who").header("cookie", session), "").await;
    assert_eq!(text(who).await, "ann");
    assert_eq!((lab.audited("Login").await, lab.audited("LoginFailed").await), (1, 0));
    // A password is no way in here, though ann has one.
    let answer = lab.log_in("ann", "secret").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    let answer = lab.ask(get("/api/who").header("authorization", basic("ann", "secret")), "").await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(!answer.headers().contains_key(header::WWW_AUTHENTICATE));
}

#[tokio::test]
async fn who_is_not_sent_by_us_or_not_known_stays_out() {
    let fake = Fake::start().await;
    let lab = fake.lab().await;
    let refused = async |answer: axum::http::Response<Body>, why: &str| {
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{why}");
        assert!(!answer.headers().contains_key(header::SET_COOKIE), "{why}");
        let page = text(answer).await;
        assert!(page.contains(why), "{why}: {page}");
    };
    let (cookie, state, nonce) = away(&lab).await;
    fake.says("ann", "7", &nonce);
    refused(lab.back("", &state, "code=good").await, "not begun in this browser").await;
    refused(lab.back(&cookie, "other", "code=good").await, "belongs to another log-in").await;
    refused(lab.back(&cookie, &state, "code=bad").await, "invalid_grant").await;
    refused(
        lab.back(&cookie, &state, "error=access_denied&error_description=%3Cscript%3E").await,
        "access_denied &lt;script&gt;",
    )
    .await;
    let forged = format!("{}x", cookie);
    refused(lab.back(&forged, &state, "code=good").await, "not begun in this browser").await;
    fake.says("ann", "7", "another");
    refused(lab.back(&cookie, &state, "code=good").await, "another log-in").await;
    fake.says("stranger@x", "8", &nonce);
    refused(lab.back(&cookie, &state, "code=good").await, "is no user here").await;
    fake.says("ann", "7", &nonce);
    fake.claims.lock().unwrap()["email_verified"] = json!(false);
    refused(lab.back(&cookie, &state, "code=good").await, "has not verified").await;
    // Who has no rights is told so, and is not in.
    fake.says("nil", "9", &nonce);
    let answer = lab.back(&cookie, &state, "code=good").await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    // Once somebody has come, their address is theirs alone.
    fake.says("ann", "7", &nonce);
    assert_eq!(lab.back(&cookie, &state, "code=good").await.status(), StatusCode::SEE_OTHER);
    fake.says("ann", "66", &nonce);
    refused(lab.back(&cookie, &state, "code=good").await, "somebody else at the provider").await;
    lab.gui.server.users.set_locked("ann", true).await.unwrap();
    fake.says("ann", "7", &nonce);
    refused(lab.back(&cookie, &state, "code=good").await, "locked out").await;
    for way in ["/auth/google/login", "/auth/oidc/test/other", "/auth/x"] {
        assert_eq!(lab.ask(get(way), "").await.status(), StatusCode::NOT_FOUND, "{way}");
    }
    assert!(lab.audited("LoginFailed").await >= 9);
}

#[tokio::test]
async fn what_the_token_lacks_is_asked_of_the_same_person() {
    let fake = Fake::start().await;
    let lab = fake.lab().await;
    let (cookie, state, nonce) = away(&lab).await;
    fake.says("", "7", &nonce);
    {
        let mut c = fake.claims.lock().unwrap();
        c.as_object_mut().unwrap().remove("email");
        c["told"] = json!({ "sub": "8", "email": "ann", "email_verified": true });
    }
    let answer = lab.back(&cookie, &state, "code=good").await;
    assert!(text(answer).await.contains("spoke of two people"));
    fake.claims.lock().unwrap()["told"]["sub"] = json!("7");
    assert_eq!(lab.back(&cookie, &state, "code=good").await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn certificates_name_their_users() {
    let options = GuiOptions { entry: Entry::Certificates(vec![]), ..GuiOptions::default() };
    let lab = lab(options).await;
    let page = text(lab.ask(get("/app/login"), "").await).await;
    assert!(page.contains("showed no certificate") && !page.contains("<form"), "{page}");
    assert_eq!(lab.ask(get("/api/who"), "").await.status(), StatusCode::UNAUTHORIZED);
    let with = |name: &str| {
        let (entropy, now) = (&*lab.gui.server.env.entropy, std::time::SystemTime::now());
        let ca = crate::crypto::certs::Authority::generate(entropy, now).unwrap();
        let key = crate::crypto::keys::PrivateKey::generate().unwrap();
        let cert = ca.issue(entropy, now, 1, name, key.public()).unwrap();
        let addr = "127.0.0.1:9".parse().unwrap();
        crate::comms::server::PeerInfo {
            addr,
            tcp_addr: addr,
            connection: 1,
            certificate: Some(Arc::new(cert.der().to_vec().into())),
        }
    };
    let ask = async |name: &str, request: axum::http::request::Builder| {
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(with(name));
        lab.app.clone().oneshot(request).await.unwrap()
    };
    let answer = ask("Ann", get("/api/who")).await;
    let token = answer.headers()[guard::TOKEN].to_str().unwrap().to_owned();
    assert_eq!(text(answer).await, "ann");
    // A page elsewhere cannot use what the browser shows by itself.
    assert_eq!(ask("ann", post_to("/api/who")).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        ask("ann", post_to("/api/who").header(guard::TOKEN, token)).await.status(),
        StatusCode::OK
    );
    assert_eq!(ask("ann", get("/app/clients")).await.status(), StatusCode::OK);
    for stranger in ["eve", "node:b", "VelociraptorServer"] {
        assert_eq!(
            ask(stranger, get("/api/who")).await.status(),
            StatusCode::UNAUTHORIZED,
            "{stranger}"
        );
    }
    assert_eq!(lab.log_in("ann", "secret").await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn nobody_comes_from_other_networks() {
    let networks = Networks::new(&["10.0.0.0/8".to_owned()], "x-real-ip").unwrap();
    let lab = lab(GuiOptions { networks, ..GuiOptions::default() }).await;
    for (from, status) in [("10.1.2.3", StatusCode::OK), ("8.8.8.8", StatusCode::FORBIDDEN)] {
        for path in ["/app/login", "/app/s/x/app.css"] {
            let answer = lab.ask(get(path).header("x-real-ip", from), "").await;
            assert_eq!(answer.status(), status, "{from} {path}");
            assert!(answer.headers().contains_key("content-security-policy"));
        }
    }
    assert_eq!(lab.ask(get("/app/login"), "").await.status(), StatusCode::FORBIDDEN);
}
