//! Signed tokens of identity providers: their signature and what they claim. Pure.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A provider's clock and ours may differ by so much, seconds.
const SKEW: u64 = 120;

/// Public keys of a provider.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Keys {
    keys: Vec<Key>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Key {
    kty: String,
    kid: String,
    #[serde(rename = "use")]
    usage: String,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// What a token must say besides being signed.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Who issued it.
    pub issuer: &'a str,
    /// For whom: our id there.
    pub audience: &'a str,
    /// What we sent along.
    pub nonce: &'a str,
    /// Now, seconds since the epoch.
    pub now: u64,
}

fn rsa(alg: &str) -> Option<&'static RsaParameters> {
    Some(match alg {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        _ => return None,
    })
}

impl Key {
    fn verifies(&self, alg: &str, signed: &[u8], tag: &[u8]) -> bool {
        let part = |t: &str| B64.decode(t.trim_end_matches('=')).unwrap_or_default();
        if let Some(parameters) = rsa(alg).filter(|_| self.kty == "RSA") {
            let key = RsaPublicKeyComponents { n: part(&self.n), e: part(&self.e) };
            return key.verify(parameters, signed, tag).is_ok();
        }
        let curve = match (alg, self.crv.as_str()) {
            ("ES256", "P-256") => &signature::ECDSA_P256_SHA256_FIXED,
            ("ES384", "P-384") => &signature::ECDSA_P384_SHA384_FIXED,
            _ => return false,
        };
        let mut point = vec![4];
        point.extend(part(&self.x));
        point.extend(part(&self.y));
        self.kty == "EC" && UnparsedPublicKey::new(curve, point).verify(signed, tag).is_ok()
    }
}

/// The claims of a token that one of `keys` signed and that is what is expected; else
/// what is wrong with it.
pub fn claims(token: &str, keys: &Keys, want: Expected<'_>) -> Result<Map<String, Value>, String> {
    let (signed, tag) = token.rsplit_once('.').ok_or("it is no token")?;
    let (header, body) = signed.split_once('.').ok_or("it is no token")?;
    let decode = |t: &str| B64.decode(t).map_err(|_| "it is not base64url".to_owned());
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|e| e.to_string())?;
    let tag = decode(tag)?;
    let mut fitting = (keys.keys.iter())
        .filter(|k| header.kid.is_empty() || k.kid.is_empty() || k.kid == header.kid)
        .filter(|k| k.usage.is_empty() || k.usage == "sig");
    if !fitting.any(|k| k.verifies(&header.alg, signed.as_bytes(), &tag)) {
        return Err(format!("no key of the provider made its signature ({})", header.alg));
    }
    let claims: Map<String, Value> =
        serde_json::from_slice(&decode(body)?).map_err(|e| e.to_string())?;
    let text = |k: &str| claims.get(k).and_then(Value::as_str).unwrap_or_default();
    if text("iss") != want.issuer {
        return Err(format!("it is of {}, not of {}", text("iss"), want.issuer));
    }
    let ours = match claims.get("aud") {
        Some(Value::Array(all)) => {
            // Of several the one it was made for is named.
            all.iter().any(|a| a == want.audience)
                && (all.len() == 1 || text("azp") == want.audience)
        }
        Some(one) => one == want.audience,
        None => false,
    };
    if !ours {
        return Err("it was made for another application".into());
    }
    if text("nonce") != want.nonce {
        return Err("it belongs to another log-in".into());
    }
    let ends = claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0);
    if ends + SKEW as f64 <= want.now as f64 {
        return Err("its time is over".into());
    }
    Ok(claims)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    /// A provider's key.
    pub struct Signer(EcdsaKeyPair);

    impl Signer {
        pub fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        pub fn keys(&self) -> Value {
            let point = self.0.public_key().as_ref();
            json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "1", "use": "sig",
                "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..]) }] })
        }

        pub fn sign(&self, claims: &Value) -> String {
            let part = |v: &Value| B64.encode(v.to_string());
            let signed =
                format!("{}.{}", part(&json!({ "alg": "ES256", "kid": "1" })), part(claims));
            let tag = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", B64.encode(tag.as_ref()))
        }
    }

    #[test]
    fn only_what_is_ours_and_whole_is_taken() {
        let signer = Signer::new();
        let keys: Keys = serde_json::from_value(signer.keys()).unwrap();
        let good = json!({ "iss": "https://id.example", "aud": "me", "nonce": "n", "exp": 1000,
            "email": "ann@example.org" });
        let want = Expected { issuer: "https://id.example", audience: "me", nonce: "n", now: 900 };
        let read = |c: &Value, w: Expected<'_>| claims(&signer.sign(c), &keys, w);
        assert_eq!(read(&good, want).unwrap()["email"], "ann@example.org");
        let with = |k: &str, v: Value| {
            let mut c = good.clone();
            c[k] = v;
            c
        };
        for (k, v) in [
            ("iss", json!("https://evil.example")),
            ("aud", json!("other")),
            ("aud", json!(["me", "other"])),
            ("nonce", json!("m")),
            ("exp", json!(100)),
            ("exp", Value::Null),
        ] {
            assert!(read(&with(k, v.clone()), want).is_err(), "{k} {v}");
        }
        let mut both = with("aud", json!(["me", "other"]));
        both["azp"] = json!("me");
        assert!(read(&both, want).is_ok());
        // Nobody else signs, nothing is changed afterwards, and no signature is none.
        assert!(claims(&Signer::new().sign(&good), &keys, want).is_err());
        let token = signer.sign(&good);
        let parts: Vec<&str> = token.split('.').collect();
        let body = B64.encode(with("email", json!("eve@example.org")).to_string());
        assert!(claims(&format!("{}.{body}.{}", parts[0], parts[2]), &keys, want).is_err());
        let none = B64.encode(r#"{"alg":"none"}"#);
        assert!(claims(&format!("{none}.{}.", parts[1]), &keys, want).is_err());
        for bad in ["", ".", "a.b", "a.b.c", "..."] {
            assert!(claims(bad, &keys, want).is_err(), "{bad}");
        }
    }
}
