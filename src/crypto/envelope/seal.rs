//! Writing packets.

use std::io::Write;

use flate2::write::ZlibEncoder;

use super::cipher::SessionKeys;
use super::wire::{put_bytes, put_number};
use super::{API_VERSION, Compression, EnvelopeError};
use crate::crypto::{KeyError, PrivateKey, PublicKey};
use crate::env::Entropy;

/// A session towards one receiver: the RSA work done once, reused for every
/// packet. About 700 bytes.
#[derive(Clone, Debug)]
pub struct SessionCipher {
    keys: SessionKeys,
    encrypted_cipher: Box<[u8]>,
    metadata: Box<[u8]>,
}

impl SessionCipher {
    /// Fresh session keys, signed by `signing` in the name of `source` and
    /// encrypted to `receiver`. One RSA signature and one encryption.
    ///
    /// `source` is a client id, or for a server the CN of its certificate.
    pub fn new(
        entropy: &dyn Entropy,
        source: &str,
        signing: &PrivateKey,
        receiver: &PublicKey,
    ) -> Result<Self, EnvelopeError> {
        let keys = SessionKeys::random(entropy);
        let properties = keys.to_properties();
        let signature = signing.sign(&properties)?;
        let encrypted_cipher = receiver.encrypt_oaep(&properties)?;
        let mut metadata = Vec::with_capacity(source.len() + signature.len() + 32);
        put_bytes(&mut metadata, 1, source.as_bytes());
        put_bytes(&mut metadata, 2, &signature);
        keys.encrypt(*keys.metadata_iv(), &mut metadata)?;
        Ok(Self { keys, encrypted_cipher: encrypted_cipher.into(), metadata: metadata.into() })
    }

    /// What a receiver caches this session under.
    pub fn cipher_id(&self) -> &[u8] {
        &self.encrypted_cipher
    }

    /// One packet with these serialised `MessageList`s, as an HTTP body or
    /// WebSocket frame. `timestamp_us` is in microseconds since 1970.
    ///
    /// A server sends exactly one list, uncompressed and possibly empty.
    pub fn seal<L: AsRef<[u8]>>(
        &self,
        entropy: &dyn Entropy,
        lists: &[L],
        compression: Compression,
        nonce: &str,
        timestamp_us: u64,
    ) -> Result<Vec<u8>, EnvelopeError> {
        self.finish(entropy, packed(lists, compression, nonce, timestamp_us)?, API_VERSION)
    }

    /// As [`Self::seal`], the way an agent of protocol 3 does.
    #[cfg(test)]
    pub(crate) fn seal_old<L: AsRef<[u8]>>(
        &self,
        entropy: &dyn Entropy,
        lists: &[L],
        nonce: &str,
        timestamp_us: u64,
    ) -> Result<Vec<u8>, EnvelopeError> {
        self.finish(entropy, packed(lists, Compression::Zlib, nonce, timestamp_us)?, 3)
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> SessionKeys {
        self.keys.clone()
    }

    pub(super) fn finish(
        &self,
        entropy: &dyn Entropy,
        mut inner: Vec<u8>,
        api_version: u32,
    ) -> Result<Vec<u8>, EnvelopeError> {
        let mut iv = [0; 16];
        entropy.fill(&mut iv);
        self.keys.encrypt(iv, &mut inner)?;
        let parts = [&inner[..], &self.encrypted_cipher, &self.metadata, &iv];
        let hmac = self.keys.hmac(parts, api_version);
        let mut out = Vec::with_capacity(
            inner.len() + self.encrypted_cipher.len() + self.metadata.len() + 64,
        );
        put_bytes(&mut out, 1, &inner);
        put_bytes(&mut out, 2, &self.encrypted_cipher);
        put_number(&mut out, 6, u64::from(api_version));
        put_bytes(&mut out, 8, &iv);
        put_bytes(&mut out, 9, &self.metadata);
        put_bytes(&mut out, 10, &hmac);
        Ok(out)
    }
}

/// The serialised lists of a packet, not encrypted yet.
fn packed<L: AsRef<[u8]>>(
    lists: &[L],
    compression: Compression,
    nonce: &str,
    timestamp_us: u64,
) -> Result<Vec<u8>, EnvelopeError> {
    let size: usize = lists.iter().map(|l| l.as_ref().len() + 12).sum();
    let mut inner = Vec::with_capacity(size + nonce.len() + 48);
    for list in lists {
        match compression {
            Compression::None => put_bytes(&mut inner, 1, list.as_ref()),
            Compression::Zlib => put_bytes(&mut inner, 1, &deflate(list.as_ref())?),
        }
    }
    put_number(&mut inner, 4, u64::from(compression == Compression::Zlib));
    put_number(&mut inner, 6, timestamp_us);
    put_bytes(&mut inner, 7, nonce.as_bytes());
    Ok(inner)
}

fn deflate(data: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let out = Vec::with_capacity(data.len() / 4 + 64);
    let mut z = ZlibEncoder::new(out, flate2::Compression::fast());
    z.write_all(data).and_then(|()| z.finish()).map_err(|_| KeyError::Failed("compression").into())
}

/// Appends one serialised `VeloMessage` to a serialised `MessageList`.
pub fn pack_job(list: &mut Vec<u8>, job: &[u8]) {
    put_bytes(list, 1, job);
}
