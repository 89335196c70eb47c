//! Client ids: a hash of the client's RSA modulus.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

use super::PublicKey;

/// `C.` and 16 lowercase hexadecimal digits, held as eight bytes.
///
/// Parsing is strict: what a packet claims as its source must have exactly this
/// form before an organisation suffix is ever added to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId([u8; 8]);

impl ClientId {
    /// The id of a key: SHA-256 over a big-endian 32-bit length (modulus + 1),
    /// a zero byte that is always there, and the modulus; first eight bytes.
    pub fn of(key: &PublicKey) -> Self {
        let n = key.modulus();
        let mut h = digest::Context::new(&digest::SHA256);
        h.update(&(n.len() as u32 + 1).to_be_bytes());
        h.update(&[0]);
        h.update(n);
        let full = h.finish();
        let mut id = [0; 8];
        id.copy_from_slice(&full.as_ref()[..8]);
        Self(id)
    }

    /// The hash part.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    /// From the hash part.
    pub fn from_bytes(id: [u8; 8]) -> Self {
        Self(id)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "C.{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `C.` and 16 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a client id: want C. and 16 lowercase hexadecimal digits")]
pub struct NotAClientId;

impl FromStr for ClientId {
    type Err = NotAClientId;

    fn from_str(s: &str) -> Result<Self, NotAClientId> {
        let hex = s.strip_prefix("C.").ok_or(NotAClientId)?;
        if hex.len() != 16 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NotAClientId);
        }
        let n = u64::from_str_radix(hex, 16).map_err(|_| NotAClientId)?;
        Ok(Self(n.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_the_published_modulus() {
        let n: Vec<u8> = (0..256u32).map(|i| (0x80 + i) as u8).collect();
        let key = PublicKey::from_components(&n, &[1, 0, 1]).unwrap();
        assert_eq!(ClientId::of(&key).to_string(), "C.aec004f54078ed3b");
    }

    #[test]
    fn strict_parse() {
        let id: ClientId = "C.0123456789abcdef".parse().unwrap();
        assert_eq!(id.to_string(), "C.0123456789abcdef");
        for bad in [
            "",
            "C.",
            "server",
            "C.0123456789abcde",
            "C.0123456789abcdef0",
            "C.0123456789ABCDEF",
            "C.+123456789abcdef",
            "C.0123456789abcdef-O123",
            "c.0123456789abcdef",
            "C.0123456789abcde\u{e9}",
        ] {
            assert_eq!(bad.parse::<ClientId>(), Err(NotAClientId), "{bad}");
        }
    }
}
