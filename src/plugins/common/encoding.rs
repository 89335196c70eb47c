//! `gunzip`, `base85decode`, `crypto_rc4` and `utf16_encode`: text as programs write it.

use std::io::Read;

use vql::{ArgType, Error, Registry, Signature, Value};

/// Most bytes a text may have after decompression.
const LIMIT: u64 = 100 << 20;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let gunzip = Signature::new("gunzip", "Decompresses what gzip compressed.").refused(false);
    registry.function_sync(
        gunzip.required("string", ArgType::String, "The compressed text."),
        |_, args| {
            let data = args.bytes("string")?;
            let mut out = Vec::new();
            let stream = flate2::read::MultiGzDecoder::new(data.as_bytes());
            stream.take(LIMIT + 1).read_to_end(&mut out).map_err(Error::failed)?;
            match out.len() as u64 > LIMIT {
                true => Err(Error::failed(format!("more than {LIMIT} bytes"))),
                false => Ok(out.into()),
            }
        },
    );
    let base85 = Signature::new("base85decode", "Decodes base85, as Ascii85 writes it.");
    registry.function_sync(base85.required("string", ArgType::String, "The text."), |_, args| {
        Ok(base85_of(args.bytes("string")?.as_bytes()).into())
    });
    let utf16 = Signature::new("utf16_encode", "Encodes text as UTF-16, low byte first.");
    registry.function_sync(utf16.required("string", ArgType::Any, "The text."), |_, args| {
        let text = args.any("string").to_text();
        Ok(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>().into())
    });
    let rc4 = Signature::new("crypto_rc4", "RC4; what encrypts also decrypts.")
        .refused(false)
        .required("string", ArgType::String, "The text.")
        .required("key", ArgType::String, "The key, of 1 to 256 bytes.");
    registry.function_sync(rc4, |_, args| {
        let (text, key) = (args.bytes("string")?, args.bytes("key")?);
        let out = rc4_of(text.as_bytes(), key.as_bytes());
        out.map(Value::from).ok_or_else(|| Error::failed("a key has 1 to 256 bytes"))
    });
}

/// What Ascii85 encodes, up to the first fault.
fn base85_of(text: &[u8]) -> Vec<u8> {
    let text = text.strip_prefix(b"<~").unwrap_or(text);
    let (mut out, mut digits) = (Vec::new(), Vec::new());
    // A group of less than five digits stands for a byte less than it has digits.
    let flush = |digits: &[u32], out: &mut Vec<u8>| {
        let padded = digits.iter().copied().chain(std::iter::repeat(84)).take(5);
        let number = padded.fold(0u64, |n, digit| n * 85 + u64::from(digit));
        let bytes = (number as u32).to_be_bytes();
        out.extend_from_slice(&bytes[..digits.len().saturating_sub(1)]);
        number <= u64::from(u32::MAX)
    };
    for byte in text {
        match byte {
            b'z' if digits.is_empty() => out.extend_from_slice(&[0; 4]),
            b'!'..=b'u' => digits.push(u32::from(byte - b'!')),
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => break,
        }
        if digits.len() == 5 {
            if !flush(&digits, &mut out) {
                return out;
            }
            digits.clear();
        }
    }
    if !digits.is_empty() {
        flush(&digits, &mut out);
    }
    out
}

/// Old and broken as a cipher; here it only reads what others wrote.
fn rc4_of(text: &[u8], key: &[u8]) -> Option<Vec<u8>> {
    if !(1..=256).contains(&key.len()) {
        return None;
    }
    let mut state: Vec<u8> = (0..=255).collect();
    let mut j = 0u8;
    for i in 0..256 {
        j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len()]);
        state.swap(i, usize::from(j));
    }
    let (mut i, mut j) = (0u8, 0u8);
    let next = |byte: &u8| {
        i = i.wrapping_add(1);
        j = j.wrapping_add(state[usize::from(i)]);
        state.swap(usize::from(i), usize::from(j));
        let at = state[usize::from(i)].wrapping_add(state[usize::from(j)]);
        byte ^ state[usize::from(at)]
    };
    Some(text.iter().map(next).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn rc4_of_a_known_text() {
        let cipher = rc4_of(b"Plaintext", b"Key").unwrap();
        assert_eq!(hex::encode(&cipher), "bbf316e8d940af0ad3");
        assert_eq!(rc4_of(&cipher, b"Key").unwrap(), b"Plaintext");
        assert!(rc4_of(b"x", b"").is_none());
    }

    #[test]
    fn base85_of_a_known_text() {
        assert_eq!(base85_of(b"9jqo^BlbD-BleB1DJ"), b"Man is distin");
        assert_eq!(base85_of(b"<~87cURD]i,\"Ebo80~>"), b"Hello World!");
        assert_eq!((base85_of(b"z"), base85_of(b"!!")), (vec![0; 4], vec![0]));
    }

    #[tokio::test]
    async fn gzip() {
        let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(b"hello\n").unwrap();
        let mut registry = Registry::standard();
        register(&mut registry);
        let scope = vql::ScopeBuilder::new(std::sync::Arc::new(registry)).build();
        scope.set("Zip", zip.finish().unwrap());
        let text = "SELECT gunzip(string=Zip) AS G, gunzip(string='no') AS N, \
            encode(string=utf16_encode(string='aé😀'), type='hex') AS U FROM scope()";
        let rows = vql::run(text, &scope).await.unwrap();
        assert_eq!(
            Value::from(rows).to_json(),
            r#"[{"G":"hello\n","N":null,"U":"6100e9003dd800de"}]"#
        );
    }
}
