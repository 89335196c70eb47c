//! Signing in with an identity provider: OpenID Connect by discovery, with the code
//! flow, PKCE, a nonce, and a state that is bound to the browser.
//!
//! A provider says who somebody is. Whether they are a user here, and what they may
//! do, is a matter of our own records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};
use url::Url;

use super::jwt::{self, Expected, Keys};
use crate::comms::fetch::{Request, send};
use crate::env::Env;

/// How long what a provider says of itself is believed.
const FRESH: Duration = Duration::from_secs(3600);
/// How long one exchange with a provider may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest answer of a provider, bytes.
const MAX_ANSWER: usize = 1 << 20;

/// An identity provider, as configured.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Provider {
    /// Part of our addresses: `google`, `azure`, `oidc` or `oidc/NAME`.
    pub route: String,
    /// What its button says.
    pub title: String,
    /// Where its discovery document is.
    pub issuer: String,
    /// Our id there.
    pub client_id: String,
    /// Our secret there.
    pub client_secret: String,
    /// Further parameters of the address people are sent to.
    pub parameters: Vec<(String, String)>,
    /// The claim that is the user's name here.
    pub claim: String,
    /// The claim that never changes, to which a user is pinned; none to not pin.
    pub pin: Option<String>,
    /// Take an address that the provider does not call verified.
    pub unverified: bool,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What is kept in the browser while somebody is at the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// At which provider.
    #[serde(rename = "p")]
    pub route: String,
    /// Comes back with the answer.
    #[serde(rename = "s")]
    pub state: String,
    /// Comes back inside of the token.
    #[serde(rename = "n")]
    pub nonce: String,
    /// The secret of PKCE.
    #[serde(rename = "v")]
    pub verifier: String,
    /// Where somebody wanted to go.
    #[serde(rename = "t")]
    pub to: String,
    /// Until when, seconds since the epoch.
    #[serde(rename = "e")]
    pub ends: u64,
}

/// Who somebody is, says a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// User name.
    pub name: String,
    /// What their record is pinned to.
    pub pin: Option<String>,
}

/// What a provider says of itself.
#[derive(Clone, Debug, Deserialize)]
struct Discovered {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: String,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
    #[serde(default)]
    access_token: String,
}

/// Talks to providers and remembers what they say of themselves.
#[derive(Debug, Default)]
pub struct Oidc {
    known: Mutex<BTreeMap<String, (Instant, Arc<Discovered>)>>,
}

/// A random text that fits an address.
pub fn random(env: &Env) -> String {
    let mut b = [0; 32];
    env.entropy.fill(&mut b);
    B64.encode(b)
}

/// Addresses of providers are for TLS; in the clear only on this very machine.
fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("{text}: {e}"))?;
    let host = url.host_str().unwrap_or_default();
    let here = host == "localhost" || host == "[::1]" || host == "127.0.0.1";
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        _ => Err(format!("{text}: a provider is reached by https")),
    }
}

async fn exchange(env: &Env, request: Request) -> Result<Value, String> {
    let url = request.url.clone();
    let whole = async {
        let (answer, _) = send(env, request).await.map_err(|e| format!("{url}: {e}"))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|e| format!("{url}: {e}"))?.to_bytes();
        if !status.is_success() {
            let said: String = String::from_utf8_lossy(&body).chars().take(300).collect();
            return Err(format!("{url} answered {status}: {said}"));
        }
        serde_json::from_slice(&body).map_err(|e| format!("{url}: {e}"))
    };
    timeout(PATIENCE, whole).await.map_err(|_| format!("{url}: no answer came in time"))?
}

fn get(url: Url, headers: Vec<(HeaderName, HeaderValue)>) -> Request {
    let mut all = vec![(ACCEPT, HeaderValue::from_static("application/json"))];
    all.extend(headers);
    Request {
        method: Method::GET,
        url,
        headers: all,
        body: Bytes::new(),
        skip_verify: false,
        root_ca: String::new(),
        socket: None,
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value, what: &str) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| format!("{what}: {e}"))
}

impl Oidc {
    async fn discovered(&self, env: &Env, p: &Provider) -> Result<Arc<Discovered>, String> {
        let known = |m: &BTreeMap<String, (Instant, Arc<Discovered>)>| {
            m.get(&p.issuer).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, d)| d.clone())
        };
        if let Some(d) = known(&self.known.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(d);
        }
        let at = format!("{}/.well-known/openid-configuration", p.issuer.trim_end_matches('/'));
        let found = exchange(env, get(address(&at)?, Vec::new())).await?;
        let found: Discovered = read(found, "the provider's description")?;
        if found.issuer.trim_end_matches('/') != p.issuer.trim_end_matches('/') {
            return Err(format!("the provider calls itself {}, not {}", found.issuer, p.issuer));
        }
        let found = Arc::new(found);
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(p.issuer.clone(), (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Where somebody is sent to sign in.
    pub async fn start(
        &self,
        env: &Env,
        p: &Provider,
        pending: &Pending,
        callback: &str,
    ) -> Result<Url, String> {
        let d = self.discovered(env, p).await?;
        let mut url = address(&d.authorization_endpoint)?;
        let hash = digest::digest(&digest::SHA256, pending.verifier.as_bytes());
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &p.client_id)
            .append_pair("redirect_uri", callback)
            .append_pair("scope", "openid email profile")
            .append_pair("state", &pending.state)
            .append_pair("nonce", &pending.nonce)
            .append_pair("code_challenge", &B64.encode(hash.as_ref()))
            .append_pair("code_challenge_method", "S256")
            .extend_pairs(&p.parameters);
        Ok(url)
    }

    /// Who came back with `code`.
    pub async fn finish(
        &self,
        env: &Env,
        p: &Provider,
        pending: &Pending,
        callback: &str,
        code: &str,
    ) -> Result<Person, String> {
        let d = self.discovered(env, p).await?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", callback)
            .append_pair("client_id", &p.client_id)
            .append_pair("client_secret", &p.client_secret)
            .append_pair("code_verifier", &pending.verifier)
            .finish();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut post = get(address(&d.token_endpoint)?, vec![(CONTENT_TYPE, kind)]);
        post.method = Method::POST;
        post.body = form.into();
        let tokens: Tokens = read(exchange(env, post).await?, "the provider's answer")?;
        let keys = exchange(env, get(address(&d.jwks_uri)?, Vec::new())).await?;
        let keys: Keys = read(keys, "the provider's keys")?;
        let want = Expected {
            issuer: &d.issuer,
            audience: &p.client_id,
            nonce: &pending.nonce,
            now: env.clock.unix(),
        };
        let mut claims = jwt::claims(&tokens.id_token, &keys, want)?;
        if !claims.contains_key(&p.claim) && !d.userinfo_endpoint.is_empty() {
            self.more(env, &d, &tokens.access_token, &mut claims).await?;
        }
        person(p, &claims)
    }

    /// Claims that are not in the token.
    async fn more(
        &self,
        env: &Env,
        d: &Discovered,
        token: &str,
        claims: &mut Map<String, Value>,
    ) -> Result<(), String> {
        let bearer =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| e.to_string())?;
        let ask = get(address(&d.userinfo_endpoint)?, vec![(AUTHORIZATION, bearer)]);
        let found: Map<String, Value> = read(exchange(env, ask).await?, "who they are")?;
        // What is signed counts; and it must be about the same person.
        if found.get("sub") != claims.get("sub") {
            return Err("the provider spoke of two people".into());
        }
        for (k, v) in found {
            claims.entry(k).or_insert(v);
        }
        Ok(())
    }
}

fn person(p: &Provider, claims: &Map<String, Value>) -> Result<Person, String> {
    let text = |k: &str| claims.get(k).and_then(Value::as_str).unwrap_or_default();
    let name = text(&p.claim);
    if name.is_empty() {
        return Err(format!("the provider gives no `{}`", p.claim));
    }
    let verified = match claims.get("email_verified") {
        Some(Value::Bool(b)) => *b,
        Some(Value::String(s)) => s == "true",
        _ => false,
    };
    if p.claim == "email" && !verified && !p.unverified {
        return Err(format!("the provider has not verified the address {name}"));
    }
    let pin = match &p.pin {
        None => None,
        Some(claim) if text(claim).is_empty() => {
            return Err(format!("the provider gives no `{claim}` to know them by"));
        }
        Some(claim) => Some(text(claim).to_owned()),
    };
    Ok(Person { name: name.to_owned(), pin })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn people_are_known_by_verified_addresses() {
        let p = Provider { claim: "email".into(), pin: Some("sub".into()), ..Provider::default() };
        let of = |v: Value| person(&p, v.as_object().unwrap());
        let ann = json!({ "email": "ann@example.org", "email_verified": true, "sub": "7" });
        assert_eq!(
            of(ann.clone()).unwrap(),
            Person { name: "ann@example.org".into(), pin: Some("7".into()) }
        );
        for (k, v) in [
            ("email_verified", json!(false)),
            ("email_verified", Value::Null),
            ("sub", json!("")),
            ("email", json!("")),
        ] {
            let mut c = ann.clone();
            c[k] = v;
            assert!(of(c).is_err(), "{k}");
        }
        let lax = Provider { unverified: true, pin: None, ..p };
        assert!(person(&lax, json!({ "email": "a@b" }).as_object().unwrap()).is_ok());
    }

    #[test]
    fn providers_are_reached_by_tls() {
        assert!(address("https://id.example/x").is_ok() && address("http://127.0.0.1:1/x").is_ok());
        for bad in ["http://id.example", "file:///etc/passwd", "x", "http://127evil.example"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
