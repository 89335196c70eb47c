//! RSA keys as the stock program keeps them: PKCS#1 in PEM.
//!
//! Only `RSA PRIVATE KEY` and `RSA PUBLIC KEY` blocks are read (PKCS#8 is refused
//! by stock on both sides), and only moduli of 2048 to 8192 bits.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
    PrivateDecryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use zeroize::Zeroizing;

use super::der;

/// PEM type of private keys.
pub const PRIVATE_KEY_TAG: &str = "RSA PRIVATE KEY";
/// PEM type of public keys.
pub const PUBLIC_KEY_TAG: &str = "RSA PUBLIC KEY";

/// Why a key could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text holds no PEM block of the wanted type.
    #[error("no PEM block of type {0:?}")]
    NoBlock(&'static str),
    /// A PEM block of the right type whose content is not such a key.
    #[error("not a valid RSA key: {0}")]
    Invalid(String),
    /// A certificate or request whose key is not RSA.
    #[error("the key is not RSA")]
    NotRsa,
    /// The operation failed: wrong key, or damaged input.
    #[error("{0} failed")]
    Failed(&'static str),
}

/// The first PEM block of type `tag`; blocks of other types are skipped, as the
/// stock parser does.
pub(super) fn pem_block(text: &str, tag: &'static str) -> Result<Vec<u8>, KeyError> {
    pem::parse_many(text)
        .unwrap_or_default()
        .into_iter()
        .find(|p| p.tag() == tag)
        .map(pem::Pem::into_contents)
        .ok_or(KeyError::NoBlock(tag))
}

/// PEM as the stock program writes it: 64 columns, `\n`.
pub(super) fn to_pem(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

/// An RSA public key. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(Arc<[u8]>);

impl PublicKey {
    /// From big-endian modulus and exponent.
    pub fn from_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        Self::from_pkcs1(&der::rsa_public_key(modulus, exponent))
    }

    /// From DER `RSAPublicKey` (PKCS#1).
    pub fn from_pkcs1(pkcs1: &[u8]) -> Result<Self, KeyError> {
        let invalid = |s: &str| KeyError::Invalid(s.to_owned());
        let (n, e) = der::parse_rsa_public_key(pkcs1).ok_or_else(|| invalid("malformed"))?;
        let bits = n.len() * 8 - n.first().map_or(0, |b| b.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(invalid("the modulus is not of 2048 to 8192 bits"));
        }
        if n.last().is_none_or(|b| b & 1 == 0) {
            return Err(invalid("the modulus is even"));
        }
        if e.len() > 8 || e.last().is_none_or(|b| b & 1 == 0) || e == [1] {
            return Err(invalid("the exponent is unusable"));
        }
        Ok(Self(pkcs1.into()))
    }

    /// From the first `RSA PUBLIC KEY` block.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_pkcs1(&pem_block(text, PUBLIC_KEY_TAG)?)
    }

    /// As an `RSA PUBLIC KEY` block.
    pub fn to_pem(&self) -> String {
        to_pem(PUBLIC_KEY_TAG, &self.0)
    }

    /// DER `RSAPublicKey` (PKCS#1).
    pub fn as_pkcs1(&self) -> &[u8] {
        &self.0
    }

    /// Modulus, big endian, without leading zeros.
    pub fn modulus(&self) -> &[u8] {
        der::parse_rsa_public_key(&self.0).map_or(&[], |k| k.0)
    }

    /// Exponent, big endian, without leading zeros.
    pub fn exponent(&self) -> &[u8] {
        der::parse_rsa_public_key(&self.0).map_or(&[], |k| k.1)
    }

    /// Whether `signature` is PKCS#1 v1.5 with SHA-256 over `message` by this key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.0.as_ref())
            .verify(message, signature)
            .is_ok()
    }

    /// As [`PublicKey::verify`], for the longer hashes other issuers may use.
    pub(super) fn verify_with(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let algorithm = match hash {
            Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
            Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
            Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
        };
        UnparsedPublicKey::new(algorithm, self.0.as_ref()).verify(message, signature).is_ok()
    }

    /// RSA-OAEP with SHA-1 and an empty label; the result has the modulus' length.
    pub fn encrypt_oaep(&self, plain: &[u8]) -> Result<Vec<u8>, KeyError> {
        let fail = KeyError::Failed("OAEP encryption");
        let spki = der::subject_public_key_info(&self.0);
        let key = PublicEncryptingKey::from_der(&spki)
            .map_err(|e| KeyError::Invalid(e.to_string()))
            .and_then(|k| OaepPublicEncryptingKey::new(k).map_err(|_| fail.clone()))?;
        let mut out = vec![0; key.ciphertext_size()];
        let n = key.encrypt(&OAEP_SHA1_MGF1SHA1, plain, &mut out, None).map_err(|_| fail)?.len();
        out.truncate(n);
        Ok(out)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", super::ClientId::of(self))
    }
}

/// Hashes accepted in signatures of certificates and requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

struct Inner {
    pkcs1: Zeroizing<Vec<u8>>,
    signing: RsaKeyPair,
    decrypting: OaepPrivateDecryptingKey,
    public: PublicKey,
}

/// An RSA private key. Cheap to clone, wiped when the last clone goes, and
/// never printed.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

impl PrivateKey {
    /// A fresh 2048-bit key. Costs tens to hundreds of milliseconds of CPU.
    pub fn generate() -> Result<Self, KeyError> {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048)
            .map_err(|_| KeyError::Failed("key generation"))?;
        let pkcs8 = key.as_der().map_err(|_| KeyError::Failed("key encoding"))?;
        let pkcs1 = der::pkcs8_inner(pkcs8.as_ref()).ok_or(KeyError::Failed("key encoding"))?;
        Self::from_pkcs1(pkcs1)
    }

    /// From DER `RSAPrivateKey` (PKCS#1); the numbers are checked for consistency.
    pub fn from_pkcs1(pkcs1: &[u8]) -> Result<Self, KeyError> {
        let signing = RsaKeyPair::from_der(pkcs1).map_err(|e| KeyError::Invalid(e.to_string()))?;
        let decrypting = PrivateDecryptingKey::from_pkcs8(&der::pkcs8(pkcs1))
            .map_err(|e| KeyError::Invalid(e.to_string()))
            .and_then(|k| {
                OaepPrivateDecryptingKey::new(k).map_err(|_| KeyError::Failed("key set-up"))
            })?;
        let public = PublicKey::from_pkcs1(signing.public_key().as_ref())?;
        let pkcs1 = Zeroizing::new(pkcs1.to_vec());
        Ok(Self(Arc::new(Inner { pkcs1, signing, decrypting, public })))
    }

    /// From the first `RSA PRIVATE KEY` block.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        Self::from_pkcs1(&Zeroizing::new(pem_block(text, PRIVATE_KEY_TAG)?))
    }

    /// As an `RSA PRIVATE KEY` block.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(to_pem(PRIVATE_KEY_TAG, &self.0.pkcs1))
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// PKCS#8, which TLS libraries want.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        der::pkcs8(&self.0.pkcs1)
    }

    /// PKCS#1 v1.5 with SHA-256 over `message`.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let mut out = vec![0; self.0.signing.public_modulus_len()];
        self.0
            .signing
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut out)
            .map_err(|_| KeyError::Failed("signing"))?;
        Ok(out)
    }

    /// Undoes [`PublicKey::encrypt_oaep`]. Costs a quarter of a millisecond.
    pub fn decrypt_oaep(&self, cipher: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let fail = KeyError::Failed("OAEP decryption");
        if cipher.len() != self.0.decrypting.key_size_bytes() {
            return Err(fail);
        }
        let mut out = Zeroizing::new(vec![0; self.0.decrypting.min_output_size()]);
        let n = self
            .0
            .decrypting
            .decrypt(&OAEP_SHA1_MGF1SHA1, cipher, &mut out, None)
            .map_err(|_| fail)?
            .len();
        out.truncate(n);
        Ok(out)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, secret)", super::ClientId::of(self.public()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn generated_key_round_trips() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.to_pem();
        assert!(pem.starts_with("-----BEGIN RSA PRIVATE KEY-----\nMII"), "{}", &pem[..60]);
        assert!(!pem.contains('\r'));
        let again = PrivateKey::from_pem(&pem).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().exponent(), [1, 0, 1]);
        assert_eq!(key.public().modulus().len(), 256);
        let text = key.public().to_pem();
        assert!(text.starts_with("-----BEGIN RSA PUBLIC KEY-----\n"));
        assert_eq!(&PublicKey::from_pem(&text).unwrap(), key.public());
        let sig = again.sign(b"hello").unwrap();
        assert!(key.public().verify(b"hello", &sig));
        assert!(!key.public().verify(b"hellp", &sig));
        let sealed = key.public().encrypt_oaep(b"secret").unwrap();
        assert_eq!(sealed.len(), 256);
        assert_eq!(*again.decrypt_oaep(&sealed).unwrap(), b"secret");
        assert!(again.decrypt_oaep(&sealed[1..]).is_err());
        assert!(again.decrypt_oaep(&[]).is_err());
        let shown = format!("{key:?}");
        assert!(shown.len() < 60 && shown.contains("secret"), "{shown}");
    }

    #[test]
    fn only_pkcs1_blocks_are_read() {
        let key = PrivateKey::generate().unwrap();
        let pkcs8 = to_pem("PRIVATE KEY", &key.to_pkcs8());
        assert_eq!(PrivateKey::from_pem(&pkcs8).unwrap_err(), KeyError::NoBlock(PRIVATE_KEY_TAG));
        let both = format!("{pkcs8}{}", *key.to_pem());
        assert!(PrivateKey::from_pem(&both).is_ok());
        assert!(matches!(
            PrivateKey::from_pem(&to_pem(PRIVATE_KEY_TAG, b"junk")),
            Err(KeyError::Invalid(_))
        ));
    }

    #[test]
    fn weak_or_odd_public_keys_are_refused() {
        let odd = vec![0xff; 128];
        assert!(PublicKey::from_components(&odd, &[1, 0, 1]).is_err());
        let mut even = vec![0xff; 256];
        even[255] = 0xfe;
        assert!(PublicKey::from_components(&even, &[1, 0, 1]).is_err());
        assert!(PublicKey::from_components(&[0xff; 256], &[1]).is_err());
        assert!(PublicKey::from_components(&[0xff; 256], &[2]).is_err());
    }
}
