//! Signing in at an identity provider in a browser. The provider is a small one of this
//! test's, on this machine.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::deployment::Deployment;

/// A provider that lets everybody be whoever they click on.
struct Provider {
    url: String,
    key: EcdsaKeyPair,
    /// Codes that were given out: who, and the nonce.
    codes: Mutex<BTreeMap<String, (String, String)>>,
}

impl Provider {
    fn start() -> Arc<Provider> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = Arc::new(Provider {
            url: format!("http://{}", listener.local_addr().unwrap()),
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            codes: Mutex::default(),
        });
        let serving = provider.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.answer(stream));
            }
        });
        provider
    }

    fn sign(&self, claims: &Value) -> String {
        let part = |v: &Value| B64.encode(v.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "ES256", "kid": "1" })), part(claims));
        let tag = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", B64.encode(tag.as_ref()))
    }

    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut length) = (String::new(), 0);
        lines.read_line(&mut head).unwrap();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        lines.read_exact(&mut body).unwrap();
        let Some(target) = head.split(' ').nth(1) else { return };
        let url = url::Url::parse(&format!("{}{target}", self.url)).unwrap();
        let (kind, text) = self.page(&url, &body);
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{text}"
        );
        stream.write_all(answer.as_bytes()).unwrap();
    }

    fn page(&self, url: &url::Url, body: &[u8]) -> (&'static str, String) {
        let said: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let json = |v: Value| ("application/json", v.to_string());
        match url.path() {
            "/.well-known/openid-configuration" => json(json!({
                "issuer": self.url, "authorization_endpoint": format!("{}/authorize", self.url),
                "token_endpoint": format!("{}/token", self.url),
                "jwks_uri": format!("{}/keys", self.url),
            })),
            "/keys" => {
                let point = self.key.public_key().as_ref();
                json(json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "1", "use": "sig",
                    "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]) }] }))
            }
            "/authorize" => {
                assert_eq!(said["client_id"], "gui");
                assert_eq!(said["code_challenge_method"], "S256");
                let mut page = String::from("<!doctype html><title>Provider</title>");
                for who in ["ann@example.org", "stranger@example.org"] {
                    let code = format!("code-{who}");
                    let nonce = said["nonce"].clone();
                    self.codes.lock().unwrap().insert(code.clone(), (who.to_owned(), nonce));
                    let mut back = url::Url::parse(&said["redirect_uri"]).unwrap();
                    back.query_pairs_mut()
                        .append_pair("code", &code)
                        .append_pair("state", &said["state"]);
                    let back = back.as_str().replace('&', "&amp;");
                    page += &format!("<p><a href=\"{back}\">{who}</a>");
                }
                ("text/html", page)
            }
            "/token" => {
                let form: BTreeMap<String, String> =
                    url::form_urlencoded::parse(body).into_owned().collect();
                assert_eq!(form["client_secret"], "hush");
                assert!(form["code_verifier"].len() >= 43);
                let (who, nonce) = self.codes.lock().unwrap().remove(&form["code"]).unwrap();
                let token = self.sign(&json!({
                    "iss": self.url, "aud": "gui", "exp": 99_999_999_999u64, "nonce": nonce,
                    "sub": format!("id of {who}"), "email": who, "email_verified": true,
                }));
                json(json!({ "id_token": token, "access_token": "at" }))
            }
            other => panic!("the provider was asked for {other}"),
        }
    }
}

#[test]
fn somebody_signs_in_at_a_provider() {
    let provider = Provider::start();
    let mut d = Deployment::without_agent();
    let user = ["user", "add", "--role", "reader", "ann@example.org", "unused-password"];
    let mut args = vec!["--config", "server.config.yaml"];
    args.extend(user);
    d.command(&args);
    d.restart(|config| {
        let at = d_base(&config);
        let oidc = format!(
            "authenticator:\n    type: OIDC\n    oidc_issuer: {}\n    oauth_client_id: gui\n    \
             oauth_client_secret: hush",
            provider.url
        );
        assert!(config.contains("authenticator:\n    type: Basic"), "{config}");
        let config = config.replace("authenticator:\n    type: Basic", &oidc);
        config.replace(&at, &at.replace("localhost", "127.0.0.1"))
    });
    let Some(mut b) = Browser::start(&d.base) else { return };
    b.open("/app/hunts");
    b.shows("Sign in with");
    assert_eq!(b.eval("document.querySelectorAll('input[type=password]').length"), 0);
    b.shot("login-provider");
    b.click("a[href*='/auth/oidc/login']");
    b.until("the provider's page", "document.title === 'Provider'");
    b.click("a[href*='stranger']");
    b.until("they stay out", "document.body.innerText.includes('stranger@example.org')");
    b.shot("login-refused");
    b.complaints.clear();
    b.open("/app/hunts");
    b.click("a[href*='/auth/oidc/login']");
    b.until("the provider's page", "document.title === 'Provider'");
    b.click("a[href*='code-ann']");
    // Where they wanted to go is where they come out.
    b.until(
        "in",
        "location.pathname === '/app/hunts' && document.querySelector('h1')?.innerText === 'Hunts'",
    );
    b.click("summary.me");
    b.shows("ann@example.org");
    assert!(!b.text().contains("Change password"), "there is none");
    b.press("Sign out");
    b.shows("Sign in with");
    let audit = d.query("SELECT operation, principal FROM monitoring(artifact='Server.Audit.Logs', client_id='server')");
    for (operation, principal) in
        [("Login", "ann@example.org"), ("LoginFailed", ""), ("Logoff", "ann@example.org")]
    {
        let found = audit.iter().any(|r| {
            r["operation"] == operation && (principal.is_empty() || r["principal"] == principal)
        });
        assert!(found, "{operation}: {audit:?}");
    }
}

/// The line with the GUI's public address.
fn d_base(config: &str) -> String {
    config.lines().find(|l| l.trim().starts_with("public_url:")).unwrap().to_owned()
}
