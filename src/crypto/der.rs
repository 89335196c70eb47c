//! The few DER shapes that RSA keys need; knows nothing of certificates.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const BIT_STRING: u8 = 0x03;

/// `AlgorithmIdentifier` of rsaEncryption (1.2.840.113549.1.1.1, NULL), whole.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

fn tlv(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let n = content.len();
    if n < 0x80 {
        out.push(n as u8);
    } else {
        let bytes = n.to_be_bytes();
        let skip = bytes.iter().take_while(|b| **b == 0).count();
        out.push(0x80 | (bytes.len() - skip) as u8);
        out.extend_from_slice(&bytes[skip..]);
    }
    out.extend_from_slice(content);
}

fn uint(out: &mut Vec<u8>, big_endian: &[u8]) {
    let start = big_endian.iter().take_while(|b| **b == 0).count();
    let digits = &big_endian[start.min(big_endian.len().saturating_sub(1))..];
    let mut content = Vec::with_capacity(digits.len() + 1);
    if digits.first().is_none_or(|b| b & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(digits);
    tlv(out, INTEGER, &content);
}

/// One definite-length element: its content and what follows it.
fn read(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&t, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    if t != tag {
        return None;
    }
    let mut len = usize::from(first);
    if first >= 0x80 {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count || rest[0] == 0 {
            return None;
        }
        let (digits, tail) = rest.split_at(count);
        len = digits.iter().fold(0, |n, b| n << 8 | usize::from(*b));
        if len < 0x80 {
            return None;
        }
        rest = tail;
    }
    (rest.len() >= len).then(|| rest.split_at(len))
}

/// A non-negative integer without its leading zero.
fn read_uint(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, rest) = read(input, INTEGER)?;
    let (&first, tail) = content.split_first()?;
    if first & 0x80 != 0 {
        return None;
    }
    Some((if first == 0 && !tail.is_empty() { tail } else { content }, rest))
}

/// `RSAPublicKey` (PKCS#1) from big-endian numbers.
pub(super) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(modulus.len() + 16);
    uint(&mut body, modulus);
    uint(&mut body, exponent);
    let mut out = Vec::with_capacity(body.len() + 4);
    tlv(&mut out, SEQUENCE, &body);
    out
}

/// Modulus and exponent of an `RSAPublicKey`; `None` if anything is left over.
pub(super) fn parse_rsa_public_key(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (body, rest) = read(der, SEQUENCE)?;
    let (n, body) = read_uint(body)?;
    let (e, body) = read_uint(body)?;
    (rest.is_empty() && body.is_empty()).then_some((n, e))
}

/// `SubjectPublicKeyInfo` around an `RSAPublicKey`.
pub(super) fn subject_public_key_info(pkcs1: &[u8]) -> Vec<u8> {
    let mut bits = Vec::with_capacity(pkcs1.len() + 1);
    bits.push(0);
    bits.extend_from_slice(pkcs1);
    let mut body = RSA_ALGORITHM.to_vec();
    tlv(&mut body, BIT_STRING, &bits);
    let mut out = Vec::with_capacity(body.len() + 4);
    tlv(&mut out, SEQUENCE, &body);
    out
}

/// PKCS#8 around an `RSAPrivateKey` (PKCS#1).
pub(super) fn pkcs8(pkcs1: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    let mut body = zeroize::Zeroizing::new(Vec::with_capacity(pkcs1.len() + 32));
    uint(&mut body, &[0]);
    body.extend_from_slice(&RSA_ALGORITHM);
    tlv(&mut body, OCTET_STRING, pkcs1);
    let mut out = zeroize::Zeroizing::new(Vec::with_capacity(body.len() + 8));
    tlv(&mut out, SEQUENCE, &body);
    out
}

/// The `RSAPrivateKey` inside a PKCS#8 document.
pub(super) fn pkcs8_inner(der: &[u8]) -> Option<&[u8]> {
    let (body, _) = read(der, SEQUENCE)?;
    let (_, body) = read_uint(body)?;
    let body = body.strip_prefix(&RSA_ALGORITHM)?;
    Some(read(body, OCTET_STRING)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_key_round_trip() {
        for n in [&[0x80u8, 1][..], &[0x7f, 1], &[9; 200]] {
            let der = rsa_public_key(n, &[1, 0, 1]);
            assert_eq!(parse_rsa_public_key(&der), Some((n, &[1u8, 0, 1][..])));
            for cut in 0..der.len() {
                assert_eq!(parse_rsa_public_key(&der[..cut]), None);
            }
            let mut long = der.clone();
            long.push(0);
            assert_eq!(parse_rsa_public_key(&long), None);
        }
    }

    #[test]
    fn pkcs8_round_trip() {
        let inner = vec![7u8; 300];
        let doc = pkcs8(&inner);
        assert_eq!(pkcs8_inner(&doc), Some(&inner[..]));
        assert_eq!(pkcs8_inner(&doc[..20]), None);
    }

    #[test]
    fn refuses_bad_lengths() {
        // Indefinite, five length bytes, non-minimal, negative integer.
        for bad in [&[0x30u8, 0x80, 0][..], &[0x30, 0x85, 0, 0, 0, 0, 1], &[0x30, 0x81, 0x02, 2, 0]]
        {
            assert!(read(bad, SEQUENCE).is_none());
        }
        assert!(read_uint(&[2, 1, 0x80]).is_none());
    }
}
