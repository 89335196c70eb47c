//! Keys of virtual clients: made once, since making one costs more than all a
//! client does in minutes, and kept in one file of PEM blocks.

use std::io;

use crate::crypto::{KeyError, PrivateKey};
use crate::env::{Env, fs};

/// Largest file of keys: room for 60,000.
const LIMIT: usize = 128 << 20;
/// Keys made between two saves.
const BATCH: usize = 200;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file.
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
    /// One of its blocks.
    #[error("{path}: key number {number}: {source}")]
    Key {
        /// The file.
        path: String,
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        source: KeyError,
    },
    /// Making one.
    #[error("making a key: {0}")]
    Make(String),
}

/// `n` keys: those of the file first, then new ones, which are added to it.
/// `progress` is told how many there are.
pub async fn keys(
    env: &Env,
    path: &str,
    n: usize,
    mut progress: impl FnMut(usize),
) -> Result<Vec<PrivateKey>, KeysError> {
    let failed = |e| KeysError::File(path.to_owned(), e);
    let mut text = match fs::read_limited(&*env.fs, path, LIMIT).await {
        Ok(data) => String::from_utf8_lossy(&data).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(failed(e)),
    };
    let mut keys = Vec::with_capacity(n);
    for block in blocks(&text).take(n) {
        let number = keys.len() + 1;
        let key = PrivateKey::from_pem(block);
        let bad = |source| KeysError::Key { path: path.to_owned(), number, source };
        keys.push(key.map_err(bad)?);
    }
    while keys.len() < n {
        progress(keys.len());
        let more = BATCH.min(n - keys.len());
        let made = (0..more).map(|_| env.offload(PrivateKey::generate));
        for key in futures::future::join_all(made).await {
            let key = key.ok_or_else(|| KeysError::Make("aborted".into()))?;
            let key = key.map_err(|e| KeysError::Make(e.to_string()))?;
            text += &key.to_pem();
            keys.push(key);
        }
        let new = format!("{path}.new");
        fs::replace(&*env.fs, &new, path, text.as_bytes()).await.map_err(failed)?;
    }
    progress(keys.len());
    Ok(keys)
}

/// The PEM blocks of a text, end lines included.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END RSA PRIVATE KEY-----";
    text.split_inclusive(END).filter(|b| b.contains(END))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::env::real;

    #[tokio::test]
    async fn made_once() {
        let env = real::env();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.pem").display().to_string();
        let ids = |k: &[PrivateKey]| -> Vec<String> {
            k.iter().map(|k| crate::crypto::ClientId::of(k.public()).to_string()).collect()
        };
        let two = keys(&env, &path, 2, |_| ()).await.unwrap();
        let three = keys(&env, &path, 3, |_| ()).await.unwrap();
        let one = keys(&env, &path, 1, |_| ()).await.unwrap();
        assert_eq!(ids(&three)[..2], ids(&two)[..]);
        assert_eq!(ids(&one), ids(&two)[..1]);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("MII", "MIJ", 2).replacen("MIJ", "MII", 1)).unwrap();
        let e = keys(&env, &path, 3, |_| ()).await.unwrap_err().to_string();
        assert!(e.contains("keys.pem: key number 2:"), "{e}");
    }
}
