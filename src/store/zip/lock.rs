//! Locking a member with a password: AES with keys of 256 bits, as archivers know
//! it. Bytes in, bytes out; the salt is the caller's.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::{hmac, pbkdf2};
use zeroize::Zeroizing;

/// Bytes of the salt.
pub const SALT: usize = 16;
/// Bytes that tell a wrong password.
const CHECK: usize = 2;
/// Bytes of the seal at the end.
const SEAL: usize = 10;
/// Rounds that make keys of a password; the format says so.
const ROUNDS: NonZeroU32 = NonZeroU32::new(1000).expect("not zero");
const BLOCK: usize = 16;
/// Blocks of key stream made at once.
const BATCH: usize = 4096;

/// Bytes of the content of a locked member of so many bytes.
pub(super) fn opened(locked: u64) -> u64 {
    locked.saturating_sub((SALT + CHECK + SEAL) as u64)
}

/// Something went wrong inside of the cryptography.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the archive could not be locked")]
pub struct LockError;

/// A member being locked.
pub struct Lock {
    key: EncryptingKey,
    seal: hmac::Context,
    /// Number of the next block; counting begins with 1.
    next: u64,
    /// Key stream that is not used yet.
    stream: Vec<u8>,
    used: usize,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock(secret)")
    }
}

impl Lock {
    /// With this password; gives what the member begins with.
    pub fn new(password: &str, salt: [u8; SALT]) -> Result<(Self, Vec<u8>), LockError> {
        let mut keys = Zeroizing::new([0u8; 32 + 32 + CHECK]);
        let secret = password.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA1, ROUNDS, &salt, secret, &mut *keys);
        let key = UnboundCipherKey::new(&AES_256, &keys[..32]).and_then(EncryptingKey::ecb);
        let key = key.map_err(|_| LockError)?;
        let seal = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &keys[32..64]);
        let seal = hmac::Context::with_key(&seal);
        let mut head = salt.to_vec();
        head.extend_from_slice(&keys[64..]);
        Ok((Self { key, seal, next: 1, stream: Vec::new(), used: 0 }, head))
    }

    /// Locks the next bytes in place.
    pub fn apply(&mut self, data: &mut [u8]) -> Result<(), LockError> {
        let mut at = 0;
        while at < data.len() {
            if self.used == self.stream.len() {
                self.refill(data.len() - at)?;
            }
            let n = (data.len() - at).min(self.stream.len() - self.used);
            let stream = &self.stream[self.used..self.used + n];
            data[at..at + n].iter_mut().zip(stream).for_each(|(d, s)| *d ^= s);
            (at, self.used) = (at + n, self.used + n);
        }
        self.seal.update(data);
        Ok(())
    }

    /// What the member ends with.
    pub fn end(self) -> Vec<u8> {
        self.seal.sign().as_ref()[..SEAL].to_vec()
    }

    fn refill(&mut self, want: usize) -> Result<(), LockError> {
        let blocks = want.div_ceil(BLOCK).min(BATCH);
        self.stream.clear();
        for _ in 0..blocks {
            self.stream.extend(u128::from(self.next).to_le_bytes());
            self.next += 1;
        }
        self.used = 0;
        let done = self.key.less_safe_encrypt(&mut self.stream, EncryptionContext::None);
        done.map(drop).map_err(|_| LockError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locking_piece_by_piece_is_the_same() {
        let data: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let lock = |pieces: usize| {
            let (mut lock, mut out) = Lock::new("secret", [7; SALT]).unwrap();
            for piece in data.chunks(pieces) {
                let mut piece = piece.to_vec();
                lock.apply(&mut piece).unwrap();
                out.extend(piece);
            }
            out.extend(lock.end());
            out
        };
        let whole = lock(data.len());
        assert_eq!(opened(whole.len() as u64), data.len() as u64);
        assert_eq!(lock(1), whole);
        assert_eq!(lock(70_001), whole);
        assert!(!whole.windows(32).any(|w| w == &data[..32]));
        // Another password gives another check and other bytes.
        let (_, other) = Lock::new("Secret", [7; SALT]).unwrap();
        assert_ne!(other[SALT..], whole[SALT..SALT + CHECK]);
    }
}
