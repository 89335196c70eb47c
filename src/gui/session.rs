//! Sessions: signed cookies that say who signed in, and tokens against forged
//! requests. Nothing is stored but what was ended before its time.
//!
//! The key is derived from the frontend's private key, so sessions outlive a
//! restart. A new password ends all of a user's sessions; a log-off those of one
//! browser.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use velociraptor_proto::proto::VelociraptorUser;

use crate::env::Env;

/// Ended sessions remembered at most.
const MAX_ENDED: usize = 100_000;

/// What a cookie says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// User name.
    #[serde(rename = "u")]
    pub user: String,
    /// When it ends, seconds since the epoch.
    #[serde(rename = "e")]
    pub ends: u64,
    /// Which session.
    #[serde(rename = "n")]
    pub id: String,
    /// Fingerprint of the password it was begun with.
    #[serde(rename = "p")]
    password: String,
}

/// Makes and checks sessions.
#[derive(Debug)]
pub struct Sessions {
    key: hmac::Key,
    seconds: u64,
    ended: Mutex<BTreeMap<String, u64>>,
}

/// Changes with every new password.
fn fingerprint(user: &VelociraptorUser) -> String {
    let hash = Sha256::new()
        .chain_update(b"session")
        .chain_update(&user.password_salt)
        .chain_update(&user.password_hash);
    hex::encode(&hash.finalize()[..8])
}

impl Sessions {
    /// `secret`: the frontend's private key; `seconds`: how long a session lasts.
    pub fn new(secret: &str, seconds: u64) -> Self {
        let key = Sha256::new().chain_update(b"gui session ").chain_update(secret).finalize();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Self { key, seconds, ended: Mutex::default() }
    }

    fn sign(&self, purpose: &str, text: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{purpose}\n{text}").as_bytes());
        B64.encode(tag.as_ref())
    }

    /// Text that is given away and believed when it comes back, with its signature.
    pub fn seal(&self, purpose: &str, text: &str) -> String {
        let text = B64.encode(text);
        format!("{text}.{}", self.sign(purpose, &text))
    }

    /// The text of [`Sessions::seal`], if it is that.
    pub fn unseal(&self, purpose: &str, sealed: &str) -> Option<String> {
        let (text, tag) = sealed.split_once('.')?;
        let right = self.sign(purpose, text);
        constant_time::verify_slices_are_equal(right.as_bytes(), tag.as_bytes()).ok()?;
        String::from_utf8(B64.decode(text).ok()?).ok()
    }

    /// Part of the cookie's name: deployments on one host differ by it.
    pub fn name(&self) -> String {
        self.sign("name", "").chars().filter(char::is_ascii_alphanumeric).take(8).collect()
    }

    /// A new session's cookie value.
    pub fn begin(&self, env: &Env, user: &VelociraptorUser) -> String {
        let mut id = [0; 16];
        env.entropy.fill(&mut id);
        let session = Session {
            user: user.name.clone(),
            ends: env.clock.unix() + self.seconds,
            id: hex::encode(id),
            password: fingerprint(user),
        };
        let text = B64.encode(serde_json::to_vec(&session).unwrap_or_default());
        format!("{text}.{}", self.sign("session", &text))
    }

    /// The session of a cookie, if it was made here and goes on.
    pub fn read(&self, env: &Env, cookie: &str) -> Option<Session> {
        let (text, tag) = cookie.split_once('.')?;
        let right = self.sign("session", text);
        constant_time::verify_slices_are_equal(right.as_bytes(), tag.as_bytes()).ok()?;
        let session: Session = serde_json::from_slice(&B64.decode(text).ok()?).ok()?;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        (session.ends > env.clock.unix() && !ended.contains_key(&session.id)).then_some(session)
    }

    /// Whether the session is this user's as they are now.
    pub fn is_of(session: &Session, user: &VelociraptorUser) -> bool {
        !user.locked && session.password == fingerprint(user)
    }

    /// Whether half of its time is over, so that a page in use should get a new one.
    pub fn is_old(&self, env: &Env, session: &Session) -> bool {
        session.ends.saturating_sub(env.clock.unix()) < self.seconds / 2
    }

    /// Ends a session.
    pub fn end(&self, env: &Env, session: &Session) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let now = env.clock.unix();
        ended.retain(|_, ends| *ends > now);
        if ended.len() < MAX_ENDED {
            ended.insert(session.id.clone(), session.ends);
        }
    }

    /// What a request that changes something must carry beside its cookie.
    pub fn token(&self, session: &Session) -> String {
        self.sign("token", &session.id)
    }

    /// The same for a caller who sends their password with each request.
    pub fn basic_token(&self, user: &VelociraptorUser) -> String {
        self.sign("basic token", &format!("{}\n{}", user.name, fingerprint(user)))
    }
}

/// Whether a token is the right one.
pub fn same(given: &str, right: &str) -> bool {
    constant_time::verify_slices_are_equal(given.as_bytes(), right.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::users::set_password;

    fn user(env: &Env) -> VelociraptorUser {
        let mut user = VelociraptorUser { name: "ann".into(), ..Default::default() };
        set_password(env, &mut user, "secret");
        user
    }

    #[test]
    fn sessions_are_read_back_and_end() {
        let env = crate::env::real::env();
        let (s, mut user) = (Sessions::new("key", 60), user(&env));
        let cookie = s.begin(&env, &user);
        // A restart keeps them, another key does not take them.
        let session = Sessions::new("key", 60).read(&env, &cookie).unwrap();
        assert_eq!(session.user, "ann");
        assert!(Sessions::new("other", 60).read(&env, &cookie).is_none());
        assert!(Sessions::is_of(&session, &user) && !s.is_old(&env, &session));
        s.end(&env, &session);
        assert!(s.read(&env, &cookie).is_none());
        assert!(
            Sessions::new("key", 0)
                .read(&env, &Sessions::new("key", 0).begin(&env, &user))
                .is_none()
        );
        set_password(&env, &mut user, "secret");
        assert!(!Sessions::is_of(&session, &user), "a new password ends sessions");
    }

    #[test]
    fn nothing_can_be_changed_in_a_cookie() {
        let env = crate::env::real::env();
        let s = Sessions::new("key", 60);
        let cookie = s.begin(&env, &user(&env));
        let (text, tag) = cookie.split_once('.').unwrap();
        let raw = String::from_utf8(B64.decode(text).unwrap()).unwrap();
        let other = B64.encode(raw.replace("ann", "bob"));
        assert!(s.read(&env, &format!("{other}.{tag}")).is_none());
        for bad in ["", ".", "x", &format!("{text}."), &format!("{text}.{tag}A")] {
            assert!(s.read(&env, bad).is_none(), "{bad}");
        }
        // A token is of one session, and is no cookie's tag.
        let a = s.read(&env, &cookie).unwrap();
        let b = s.read(&env, &s.begin(&env, &user(&env))).unwrap();
        assert_ne!(s.token(&a), s.token(&b));
        assert!(same(&s.token(&a), &s.token(&a)) && !same("", &s.token(&a)));
    }
}
