//! Query names hidden from agents: `$` and the hex of the encrypted name.
//!
//! AES-256-CBC with a fixed vector, so that equal names hide alike; agents send
//! the hidden form back in rows and log text.

use std::sync::LazyLock;

use aws_lc_rs::cipher::EncryptionContext;
use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::digest;
use aws_lc_rs::iv::FixedLength;
use regex::{Captures, Regex};
use zeroize::Zeroizing;

static HIDDEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\$[a-fA-F0-9]+").ok());

/// The key of one deployment, derived from `obfuscation_nonce`.
#[derive(Clone)]
pub struct NameCipher(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for NameCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NameCipher(secret)")
    }
}

impl NameCipher {
    /// From the text of the nonce, as it stands in the configuration.
    pub fn new(nonce: &str) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(digest::digest(&digest::SHA256, nonce.as_bytes()).as_ref());
        Self(key)
    }

    fn iv(&self) -> FixedLength<16> {
        let mut iv = [0; 16];
        iv.copy_from_slice(&self.0[..16]);
        FixedLength::from(iv)
    }

    /// Hides a name; `None` only if the cryptography library fails.
    pub fn hide(&self, name: &str) -> Option<String> {
        let key = UnboundCipherKey::new(&AES_256, &*self.0).ok()?;
        let mut data = name.as_bytes().to_vec();
        PaddedBlockEncryptingKey::cbc_pkcs7(key)
            .ok()?
            .less_safe_encrypt(&mut data, EncryptionContext::Iv128(self.iv()))
            .ok()?;
        Some(format!("${}", hex::encode(data)))
    }

    /// The name behind a hidden one; `None` if it is not one of this deployment's.
    pub fn reveal(&self, hidden: &str) -> Option<String> {
        let mut data = hex::decode(hidden.strip_prefix('$')?).ok()?;
        let key = UnboundCipherKey::new(&AES_256, &*self.0).ok()?;
        let plain = DecryptingKey::cbc(key)
            .ok()?
            .decrypt(&mut data, DecryptionContext::Iv128(self.iv()))
            .ok()?;
        let n = super::envelope::unpad(plain)?;
        Some(std::str::from_utf8(&plain[..n]).ok()?.to_owned())
    }

    /// Text with every hidden name of this deployment in it revealed.
    pub fn reveal_all<'a>(&self, text: &'a str) -> std::borrow::Cow<'a, str> {
        match &*HIDDEN {
            Some(re) => re.replace_all(text, |c: &Captures<'_>| {
                self.reveal(&c[0]).unwrap_or_else(|| c[0].to_owned())
            }),
            None => text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: &str = "$31ccacab0f57c347eb72c2dce8f6b894f5b762ca5e654451aff45810b8340c6301c4ca9eebcf0c9f46f6d6c58bb211c9";
    const NAME: &str = "Generic.Client.Info/BasicInformation";

    #[test]
    fn published_vector() {
        let c = NameCipher::new("testnonce");
        assert_eq!(c.hide(NAME).unwrap(), HIDDEN);
        assert_eq!(c.reveal(HIDDEN).unwrap(), NAME);
        assert_eq!(c.reveal(&HIDDEN.to_uppercase()).unwrap(), NAME);
    }

    #[test]
    fn foreign_names_stay() {
        let c = NameCipher::new("testnonce");
        for bad in ["$", "$00", "$abc", NAME, &HIDDEN[..97 - 32], &HIDDEN[1..], "$zz"] {
            assert_eq!(c.reveal(bad), None, "{bad}");
        }
        assert_eq!(NameCipher::new("other").reveal(HIDDEN), None);
        let text = format!("Starting {HIDDEN}. Cost $5 and $PATH");
        assert_eq!(c.reveal_all(&text), format!("Starting {NAME}. Cost $5 and $PATH"));
        assert_eq!(c.reveal_all("plain"), "plain");
    }

    proptest::proptest! {
        #[test]
        fn round_trip(name in ".{0,60}", nonce in ".{0,20}", noise in "\\$?[0-9a-f]{0,100}") {
            let c = NameCipher::new(&nonce);
            let hidden = c.hide(&name).unwrap();
            proptest::prop_assert_eq!(c.reveal(&hidden), Some(name));
            let _ = c.reveal(&noise);
        }
    }
}
