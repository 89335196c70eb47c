//! The symmetric keys of a session and what is done with them.

use std::fmt;

use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use zeroize::Zeroizing;

use super::EnvelopeError;
use super::wire::{Value, fields, put_bytes, put_number};
use crate::crypto::KeyError;
use crate::env::Entropy;

/// Block size of AES, bytes.
pub(super) const BLOCK: usize = 16;
/// Length of the packet HMAC (SHA-1), bytes.
pub(super) const HMAC_LEN: usize = 20;

const CIPHER_NAME: &str = "aes_128_cbc";
const FULL_HMAC: u64 = 1;

/// Everything needed to open later packets of one session: about 100 bytes.
/// Wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKeys {
    key: Zeroizing<[u8; 16]>,
    metadata_iv: [u8; 16],
    hmac_key: Zeroizing<Box<[u8]>>,
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(secret)")
    }
}

impl SessionKeys {
    pub(super) fn random(entropy: &dyn Entropy) -> Self {
        let mut keys = Self {
            key: Zeroizing::new([0; 16]),
            metadata_iv: [0; 16],
            hmac_key: Zeroizing::new(vec![0; 16].into()),
        };
        entropy.fill(&mut *keys.key);
        entropy.fill(&mut keys.metadata_iv);
        entropy.fill(&mut keys.hmac_key);
        keys
    }

    /// `CipherProperties` as protobuf.
    pub(super) fn to_properties(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(80));
        put_bytes(&mut out, 1, CIPHER_NAME.as_bytes());
        put_bytes(&mut out, 2, &*self.key);
        put_bytes(&mut out, 3, &self.metadata_iv);
        put_bytes(&mut out, 5, &self.hmac_key);
        put_number(&mut out, 6, FULL_HMAC);
        out
    }

    pub(super) fn from_properties(p: &[u8]) -> Result<Self, EnvelopeError> {
        const WHAT: &str = "encrypted_cipher";
        let (mut key, mut iv, mut mac) = (None, None, None);
        for field in fields(p) {
            let (number, value) = field.ok_or(EnvelopeError::Malformed(WHAT))?;
            let slot = match number {
                2 => &mut key,
                3 => &mut iv,
                5 => &mut mac,
                _ => continue,
            };
            let Value::Span(span) = value else { return Err(EnvelopeError::Malformed(WHAT)) };
            *slot = Some(&p[span]);
        }
        let key = key.ok_or(EnvelopeError::Missing("key"))?;
        let iv = iv.ok_or(EnvelopeError::Missing("metadata_iv"))?;
        let mac = mac.filter(|m| !m.is_empty()).ok_or(EnvelopeError::Missing("hmac_key"))?;
        Ok(Self {
            key: Zeroizing::new(
                key.try_into().map_err(|_| EnvelopeError::Length("key", key.len()))?,
            ),
            metadata_iv: iv
                .try_into()
                .map_err(|_| EnvelopeError::Length("metadata_iv", iv.len()))?,
            hmac_key: Zeroizing::new(mac.into()),
        })
    }

    pub(super) fn metadata_iv(&self) -> &[u8; 16] {
        &self.metadata_iv
    }

    /// HMAC over the parts one after the other, then the version, little endian.
    pub(super) fn hmac(&self, parts: [&[u8]; 4], api_version: u32) -> [u8; HMAC_LEN] {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.hmac_key);
        let mut h = hmac::Context::with_key(&key);
        for part in parts {
            h.update(part);
        }
        h.update(&api_version.to_le_bytes());
        let mut out = [0; HMAC_LEN];
        out.copy_from_slice(&h.sign().as_ref()[..HMAC_LEN]);
        out
    }

    /// Pads and encrypts in place.
    pub(super) fn encrypt(&self, iv: [u8; 16], data: &mut Vec<u8>) -> Result<(), KeyError> {
        let n = BLOCK - data.len() % BLOCK;
        data.resize(data.len() + n, n as u8);
        let fail = |_| KeyError::Failed("AES encryption");
        let key = UnboundCipherKey::new(&AES_128, &*self.key).map_err(fail)?;
        EncryptingKey::cbc(key)
            .and_then(|k| {
                k.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv)))
            })
            .map_err(fail)?;
        Ok(())
    }

    /// Decrypts in place and returns the length without padding.
    pub(super) fn decrypt(
        &self,
        field: &'static str,
        iv: [u8; 16],
        data: &mut [u8],
    ) -> Result<usize, EnvelopeError> {
        let fail = |_| KeyError::Failed("AES decryption");
        let key = UnboundCipherKey::new(&AES_128, &*self.key).map_err(fail)?;
        let plain = DecryptingKey::cbc(key)
            .and_then(|k| k.decrypt(data, DecryptionContext::Iv128(FixedLength::from(iv))))
            .map_err(fail)?;
        unpad(plain).ok_or(EnvelopeError::Padding(field))
    }
}

/// Length without padding: the last byte, 1 to 16, repeated as often as it says.
pub(in crate::crypto) fn unpad(plain: &[u8]) -> Option<usize> {
    let n = usize::from(*plain.last()?);
    if !plain.len().is_multiple_of(BLOCK) || !(1..=BLOCK).contains(&n) {
        return None;
    }
    let (head, tail) = plain.split_at(plain.len() - n);
    tail.iter().all(|b| usize::from(*b) == n).then_some(head.len())
}
