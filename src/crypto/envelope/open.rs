//! Reading packets, in stages of rising cost.

use aws_lc_rs::{constant_time, digest};
use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::cipher::{BLOCK, HMAC_LEN, SessionKeys};
use super::lists::MAX_JOBS;
use super::wire::{Value, fields};
use super::{Compression, EnvelopeError};
use crate::crypto::{PrivateKey, PublicKey};

/// What a body holds.
#[derive(Debug)]
pub enum Packet {
    /// Nothing, or only padding. Not an error for an agent; a server treats it as
    /// a packet without jobs from nobody.
    Empty,
    /// An encrypted packet.
    Sealed(Sealed),
}

/// A packet whose fields have the right shape; nothing about it is proved yet.
#[derive(Debug)]
pub struct Sealed {
    encrypted: Bytes,
    encrypted_cipher: Bytes,
    metadata: Bytes,
    iv: [u8; 16],
    hmac: [u8; HMAC_LEN],
    api_version: u32,
}

impl Sealed {
    /// The session's block, which is what open sessions are cached under.
    pub fn cipher_id(&self) -> &Bytes {
        &self.encrypted_cipher
    }

    /// Protocol version as sent; covered by the HMAC once opened.
    pub fn api_version(&self) -> u32 {
        self.api_version
    }

    /// Bytes of ciphertext, for budgets.
    pub fn payload_len(&self) -> usize {
        self.encrypted.len()
    }

    fn check_hmac(&self, keys: &SessionKeys) -> Result<(), EnvelopeError> {
        let parts = [&self.encrypted[..], &self.encrypted_cipher, &self.metadata, &self.iv];
        let ours = keys.hmac(parts, self.api_version);
        constant_time::verify_slices_are_equal(&ours, &self.hmac).map_err(|_| EnvelopeError::Hmac)
    }
}

/// Reads the outer message. The payload is not copied; padding is skipped.
pub fn parse(body: Bytes) -> Result<Packet, EnvelopeError> {
    const WHAT: &str = "ClientCommunication";
    let (mut encrypted, mut cipher, mut metadata, mut iv, mut hmac) =
        (None, None, None, None, None);
    let mut api_version = 0;
    for field in fields(&body) {
        let (number, value) = field.ok_or(EnvelopeError::Malformed(WHAT))?;
        let slot = match (number, value) {
            (1, Value::Span(s)) => (&mut encrypted, s),
            (2, Value::Span(s)) => (&mut cipher, s),
            (8, Value::Span(s)) => (&mut iv, s),
            (9, Value::Span(s)) => (&mut metadata, s),
            (10, Value::Span(s)) => (&mut hmac, s),
            (6, Value::Number(n)) => {
                api_version = n as u32;
                continue;
            }
            (1 | 2 | 6 | 8 | 9 | 10, _) => return Err(EnvelopeError::Malformed(WHAT)),
            _ => continue,
        };
        *slot.0 = Some(slot.1);
    }
    if encrypted.is_none()
        && cipher.is_none()
        && metadata.is_none()
        && iv.is_none()
        && hmac.is_none()
    {
        return Ok(Packet::Empty);
    }
    let need = |span: Option<std::ops::Range<usize>>, name| {
        span.filter(|s| !s.is_empty()).ok_or(EnvelopeError::Missing(name))
    };
    let blocks = |span: std::ops::Range<usize>, name| {
        if span.len().is_multiple_of(BLOCK) {
            Ok(span)
        } else {
            Err(EnvelopeError::Length(name, span.len()))
        }
    };
    let encrypted = blocks(need(encrypted, "encrypted")?, "encrypted")?;
    let cipher = need(cipher, "encrypted_cipher")?;
    let metadata = need(metadata, "encrypted_cipher_metadata")?;
    let metadata = blocks(metadata, "encrypted_cipher_metadata")?;
    let iv = need(iv, "packet_iv")?;
    let hmac = need(hmac, "full_hmac")?;
    Ok(Packet::Sealed(Sealed {
        iv: body[iv.clone()]
            .try_into()
            .map_err(|_| EnvelopeError::Length("packet_iv", iv.len()))?,
        hmac: body[hmac.clone()]
            .try_into()
            .map_err(|_| EnvelopeError::Length("full_hmac", hmac.len()))?,
        // Small ones are copied, so that the payload is the only owner of the body
        // and can be decrypted where it lies.
        encrypted_cipher: Bytes::copy_from_slice(&body[cipher]),
        metadata: Bytes::copy_from_slice(&body[metadata]),
        encrypted: body.slice(encrypted),
        api_version,
    }))
}

/// The contents of a packet that passed its HMAC.
#[derive(Debug)]
pub struct Opened {
    /// `MessageList`s, still compressed if `compression` says so.
    pub lists: Vec<Bytes>,
    /// How the lists are compressed.
    pub compression: Compression,
    /// The sender's clock, microseconds since 1970; not to be trusted.
    pub timestamp_us: u64,
    /// The deployment's or organisation's nonce as sent.
    pub nonce: String,
}

impl Opened {
    /// An agent's check: the nonce must be its own.
    pub fn check_nonce(&self, ours: &str) -> Result<(), EnvelopeError> {
        constant_time::verify_slices_are_equal(self.nonce.as_bytes(), ours.as_bytes())
            .map_err(|_| EnvelopeError::Nonce)
    }
}

/// Opens a packet of a known session: HMAC first, then AES. No RSA.
pub fn open_with(keys: &SessionKeys, packet: Sealed) -> Result<Opened, EnvelopeError> {
    packet.check_hmac(keys)?;
    let Sealed { encrypted, iv, .. } = packet;
    let mut data = encrypted.try_into_mut().unwrap_or_else(|b| BytesMut::from(&b[..]));
    let len = keys.decrypt("encrypted", iv, &mut data)?;
    data.truncate(len);
    let data = data.freeze();

    const WHAT: &str = "PackedMessageList";
    let mut opened = Opened {
        lists: Vec::new(),
        compression: Compression::None,
        timestamp_us: 0,
        nonce: String::new(),
    };
    for field in fields(&data) {
        match field.ok_or(EnvelopeError::Malformed(WHAT))? {
            (1, Value::Span(s)) => {
                if opened.lists.len() == MAX_JOBS {
                    return Err(EnvelopeError::TooLarge(MAX_JOBS, "lists"));
                }
                opened.lists.push(data.slice(s));
            }
            (4, Value::Number(0)) => opened.compression = Compression::None,
            (4, Value::Number(1)) => opened.compression = Compression::Zlib,
            (4, Value::Number(n)) => return Err(EnvelopeError::Compression(n)),
            (6, Value::Number(n)) => opened.timestamp_us = n,
            (7, Value::Span(s)) => {
                opened.nonce = text("nonce", &data[s])?;
            }
            (1 | 4 | 6 | 7, _) => return Err(EnvelopeError::Malformed(WHAT)),
            _ => {}
        }
    }
    Ok(opened)
}

fn text(field: &'static str, raw: &[u8]) -> Result<String, EnvelopeError> {
    std::str::from_utf8(raw).map(str::to_owned).map_err(|_| EnvelopeError::Utf8(field))
}

/// A session as its first packet announces it. The sender is only a claim until
/// [`Session::verify`] says otherwise.
#[derive(Debug)]
pub struct Session {
    /// For [`open_with`], now and later.
    pub keys: SessionKeys,
    /// Whom the sender claims to be: to be parsed strictly before any use.
    pub source: String,
    /// Which of the given private keys opened it.
    pub key_index: usize,
    signature: Vec<u8>,
    properties: Zeroizing<Vec<u8>>,
}

impl Session {
    /// Whether the holder of `key` made this session. One RSA verification.
    pub fn verify(&self, key: &PublicKey) -> bool {
        key.verify(&self.properties, &self.signature)
    }

    /// SHA-256 of the session block, which is what the sender signs.
    pub fn p_digest(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest::digest(&digest::SHA256, &self.properties).as_ref());
        out
    }
}

/// Opens a new session: one RSA decryption for each key tried (the current one
/// first, then those of earlier rotations), then the HMAC, then who sent it.
pub fn unwrap_session(keys: &[PrivateKey], packet: &Sealed) -> Result<Session, EnvelopeError> {
    let mut error = EnvelopeError::Key;
    for (key_index, key) in keys.iter().enumerate() {
        let Ok(properties) = key.decrypt_oaep(&packet.encrypted_cipher) else { continue };
        match open_session(properties, key_index, packet) {
            Ok(session) => return Ok(session),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn open_session(
    properties: Zeroizing<Vec<u8>>,
    key_index: usize,
    packet: &Sealed,
) -> Result<Session, EnvelopeError> {
    const FIELD: &str = "encrypted_cipher_metadata";
    let keys = SessionKeys::from_properties(&properties)?;
    packet.check_hmac(&keys)?;
    let mut metadata = packet.metadata.to_vec();
    let len = keys.decrypt(FIELD, *keys.metadata_iv(), &mut metadata)?;
    metadata.truncate(len);
    let (mut source, mut signature) = (String::new(), Vec::new());
    for field in fields(&metadata) {
        match field.ok_or(EnvelopeError::Malformed(FIELD))? {
            (1, Value::Span(s)) => source = text("source", &metadata[s])?,
            (2, Value::Span(s)) => signature = metadata[s].to_vec(),
            (1 | 2, _) => return Err(EnvelopeError::Malformed(FIELD)),
            _ => {}
        }
    }
    Ok(Session { keys, source, key_index, signature, properties })
}
