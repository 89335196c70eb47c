//! A certificate (X.509) as a dict.

use vql::{Dict, Value};

use super::der::{BITS, Element, INTEGER, OCTETS, SEQUENCE};

/// Names of algorithms of signatures by their identifiers.
const SIGNATURES: [(&str, &str); 16] = [
    ("1.2.840.113549.1.1.2", "MD2-RSA"),
    ("1.2.840.113549.1.1.4", "MD5-RSA"),
    ("1.2.840.113549.1.1.5", "SHA1-RSA"),
    ("1.3.14.3.2.29", "SHA1-RSA"),
    ("1.2.840.113549.1.1.11", "SHA256-RSA"),
    ("1.2.840.113549.1.1.12", "SHA384-RSA"),
    ("1.2.840.113549.1.1.13", "SHA512-RSA"),
    ("1.2.840.10040.4.3", "DSA-SHA1"),
    ("2.16.840.1.101.3.4.3.2", "DSA-SHA256"),
    ("1.2.840.10045.4.1", "ECDSA-SHA1"),
    ("1.2.840.10045.4.3.2", "ECDSA-SHA256"),
    ("1.2.840.10045.4.3.3", "ECDSA-SHA384"),
    ("1.2.840.10045.4.3.4", "ECDSA-SHA512"),
    ("1.3.101.112", "Ed25519"),
    ("1.2.840.113549.1.1.14", "0"),
    ("1.2.840.10045.4.3.1", "0"),
];
/// What a key may be used for, by the bits of the extension.
const USAGES: [&str; 9] = [
    "Digital Signature",
    "Content Commitment",
    "Key Encipherment",
    "Data Encipherment",
    "Key Agreement",
    "Certificate Sign",
    "CRL Sign",
    "Encipher Only",
    "Decipher Only",
];
/// Further uses by their identifiers; those that are known without a name are `UNKNOWN`.
const PURPOSES: [(&str, &str); 14] = [
    ("2.5.29.37.0", "Any Usage"),
    ("1.3.6.1.5.5.7.3.1", "TLS Web Server Authentication"),
    ("1.3.6.1.5.5.7.3.2", "TLS Web Client Authentication"),
    ("1.3.6.1.5.5.7.3.3", "Code Signing"),
    ("1.3.6.1.5.5.7.3.4", "E-mail Protection"),
    ("1.3.6.1.5.5.7.3.5", "IPSec End System"),
    ("1.3.6.1.5.5.7.3.6", "IPSec Tunnel"),
    ("1.3.6.1.5.5.7.3.7", "IPSec User"),
    ("1.3.6.1.5.5.7.3.8", "Time Stamping"),
    ("1.3.6.1.5.5.7.3.9", "OCSP Signing"),
    ("1.3.6.1.4.1.311.10.3.3", "UNKNOWN"),
    ("2.16.840.1.113730.4.1", "UNKNOWN"),
    ("1.3.6.1.4.1.311.2.1.22", "UNKNOWN"),
    ("1.3.6.1.4.1.311.61.1.1", "UNKNOWN"),
];
/// Names of policies.
const POLICIES: [(&str, &str); 4] = [
    ("1.3.6.1.4.1.6449.1.2.1.3.2", "Software Publisher"),
    ("2.23.140.1.4.1", "Code Signing"),
    ("2.5.29.32.0", "Any Policy"),
    ("1.3.6.1.4.1.6449.1.2.1.3.8", "Timestamping Certificate"),
];
/// Curves, their names and bits.
const CURVES: [(&str, &str, usize); 4] = [
    ("1.3.132.0.33", "P-224", 224),
    ("1.2.840.10045.3.1.7", "P-256", 256),
    ("1.3.132.0.34", "P-384", 384),
    ("1.3.132.0.35", "P-521", 521),
];

/// What is needed of a certificate.
pub struct Certificate<'a> {
    /// Its number.
    pub serial: Element<'a>,
    subject: Element<'a>,
    issuer: Element<'a>,
    validity: Vec<Element<'a>>,
    algorithm: String,
    key: Vec<Element<'a>>,
    extensions: Vec<Element<'a>>,
}

impl<'a> Certificate<'a> {
    /// The certificate that an element is.
    pub fn of(element: Element<'a>) -> Option<Certificate<'a>> {
        let outer = element.parts();
        let parts = outer.first().filter(|_| element.tag == SEQUENCE)?.parts();
        // A version may come first.
        let parts = if parts.first()?.tag == 0xa0 { &parts[1..] } else { &parts[..] };
        let [serial, _, issuer, validity, subject, key, rest @ ..] = parts else { return None };
        let extensions = rest.iter().find(|e| e.tag == 0xa3).and_then(Element::inner);
        (serial.tag == INTEGER && key.tag == SEQUENCE).then(|| Certificate {
            serial: *serial,
            subject: *subject,
            issuer: *issuer,
            validity: validity.parts(),
            algorithm: outer.get(1).and_then(Element::inner).map(|a| a.oid()).unwrap_or_default(),
            key: key.parts(),
            extensions: extensions.map(|e| e.parts()).unwrap_or_default(),
        })
    }

    /// Whom it is for.
    pub fn subject(&self) -> String {
        names(&self.subject, usize::MAX)
    }

    /// All of it.
    pub fn dict(&self) -> Dict {
        let algorithm = SIGNATURES.iter().find(|(oid, _)| *oid == self.algorithm);
        let time = |i: usize| self.validity.get(i).map(Element::time);
        let mut extensions = Dict::new();
        for extension in &self.extensions {
            add_extension(extension, &mut extensions);
        }
        Dict::new()
            .with("SerialNumber", self.serial.hex())
            .with("SignatureAlgorithm", algorithm.map_or("0", |(_, name)| name))
            .with("Subject", self.subject())
            .with("Issuer", names(&self.issuer, usize::MAX))
            .with("NotBefore", time(0))
            .with("NotAfter", time(1))
            .with("PublicKey", self.key_text().unwrap_or_else(|| "Unknown public key type".into()))
            .with("Extensions", extensions)
    }

    fn key_text(&self) -> Option<String> {
        let [algorithm, key, ..] = self.key.as_slice() else { return None };
        let (algorithm, bits) =
            (algorithm.parts(), key.content.get(1..).filter(|_| key.tag == BITS)?);
        let pad = " ".repeat(16);
        match algorithm.first()?.oid().as_str() {
            "1.2.840.113549.1.1.1" => {
                let numbers = super::der::first(bits)?.0.parts();
                let [modulus, exponent, ..] = numbers.as_slice() else { return None };
                let bytes = modulus.unsigned();
                let size =
                    (bytes.len() * 8).saturating_sub(bytes.first()?.leading_zeros() as usize);
                let e = exponent
                    .unsigned()
                    .iter()
                    .try_fold(0u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b)))?;
                Some(format!(
                    "RSA\n{pad}Public-Key: ({size} bit)\n{}{pad}Exponent: {e} ({e:#x})\n",
                    number("Modulus", bytes)
                ))
            }
            "1.2.840.10040.4.1" => {
                let public = super::der::first(bits)?.0;
                let parameters = algorithm.get(1)?.parts();
                let [p, q, g, ..] = parameters.as_slice() else { return None };
                let all = [("pub", &public), ("P", p), ("Q", q), ("G", g)];
                let all = all.map(|(name, value)| number(name, value.unsigned()));
                Some(format!("DSA\n{}", all.concat()))
            }
            "1.2.840.10045.2.1" => {
                let curve = algorithm.get(1)?.oid();
                let (_, name, size) = CURVES.iter().find(|(oid, ..)| *oid == curve)?;
                let half = size.div_ceil(8);
                // Both numbers of the point, after a byte that says so.
                let point = bits.strip_prefix(&[4]).filter(|p| p.len() == half * 2)?;
                let trimmed = |b: &'a [u8]| Element { tag: INTEGER, content: b }.unsigned();
                let (x, y) = point.split_at(half);
                Some(format!(
                    "ECDSA\n{pad}Public-Key: ({size} bit)\n{}{}{pad}Curve: {name}\n",
                    number("X", trimmed(x)),
                    number("Y", trimmed(y))
                ))
            }
            _ => None,
        }
    }
}

/// A number in lines of fifteen bytes.
fn number(name: &str, bytes: &[u8]) -> String {
    let mut out = format!("{}{name}:", " ".repeat(16));
    for (i, line) in bytes.chunks(15).enumerate() {
        let digits: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let more = if (i + 1) * 15 < bytes.len() { ":" } else { "" };
        out.push_str(&format!("\n{}{}{more}", " ".repeat(20), digits.join(":")));
    }
    out.push('\n');
    out
}

/// A name: up to `each` parts of every of its sets.
pub fn names(name: &Element<'_>, each: usize) -> String {
    let parts = name.parts();
    let pairs = parts.iter().flat_map(|set| set.parts().into_iter().take(each));
    let shown = pairs.filter_map(|pair| {
        let pair = pair.parts();
        let [kind, value, ..] = pair.as_slice() else { return None };
        let kind = kind.oid();
        let short = match kind.as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.5" => "SN",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.9" => "street",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            "2.5.4.17" => "postalCode",
            "1.2.840.113549.1.9.1" => "emailAddress",
            _ => return Some(format!("UnknownOID={kind}")),
        };
        Some(format!("{short}={}", value.text()))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The list, or null when there is nothing in it.
fn some(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { Value::list(list) }
}

/// Names of an alternative name or a distribution point: those of that tag, as text.
fn general(names: &[Element<'_>], tag: u8) -> Value {
    some(names.iter().filter(|n| n.tag == tag).map(|n| n.text().into()).collect())
}

/// Bytes in hexadecimal, if they are a string of bytes.
fn key_id(data: &[u8]) -> String {
    let octets = super::der::first(data).map(|(e, _)| e).filter(|e| e.tag == OCTETS);
    let digits = octets.iter().flat_map(|e| e.content).map(|b| format!("{b:02X}"));
    digits.collect::<Vec<_>>().join(":")
}

fn address(bytes: &[u8]) -> Option<Value> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from));
    address.ok().map(|a| a.to_string().into())
}

fn add_extension(extension: &Element<'_>, out: &mut Dict) {
    let parts = extension.parts();
    let (Some(id), Some(value)) = (parts.first(), parts.last()) else { return };
    let critical = parts.get(1).is_some_and(|c| c.tag == 1 && c.content != [0]);
    let (id, value) = (id.oid(), value.octets());
    let Some(number) = id.strip_prefix("2.5.29.").filter(|n| !n.contains('.')) else { return };
    let inner = super::der::first(&value).map(|(e, _)| e);
    let parts = inner.map(|e| e.parts()).unwrap_or_default();
    let with = Dict::new().with("Critical", critical);
    match number {
        "14" => out.set("SubjectKeyId", with.with("Value", key_id(&value))),
        "15" => {
            let bits = inner.map(|e| e.content).unwrap_or_default();
            let set = |i: usize| bits.get(1 + i / 8).is_some_and(|b| b >> (7 - i % 8) & 1 == 1);
            let usages: Value =
                USAGES.iter().enumerate().filter(|(i, _)| set(*i)).map(|(_, n)| *n).collect();
            out.set("KeyUsage", with.with("KeyUsage", usages));
        }
        "17" => {
            let addresses = parts.iter().filter(|p| p.tag == 0x87);
            let addresses = some(addresses.filter_map(|p| address(p.content)).collect());
            let names =
                with.with("DNS", general(&parts, 0x82)).with("Email", general(&parts, 0x81));
            out.set("SubjectAlternativeName", names.with("IP", addresses));
        }
        "19" => {
            let authority = parts.iter().any(|p| p.tag == 1 && p.content != [0]);
            let length = parts.iter().find(|p| p.tag == INTEGER);
            let length = length.map_or(-1, |l| {
                l.unsigned().iter().take(4).fold(0i64, |n, b| n << 8 | i64::from(*b))
            });
            out.set("BasicConstraints", with.with("IsCA", authority).with("MaxPathLen", length));
        }
        "30" => {
            let permitted = parts.iter().find(|p| p.tag == 0xa0).map(|p| p.parts());
            let names: Vec<Element<'_>> =
                permitted.iter().flatten().filter_map(Element::inner).collect();
            out.set("NameConstraints", with.with("Permitted", general(&names, 0x82)));
        }
        "31" => {
            // A point, its name, the full one.
            let points = parts.iter().flat_map(|p| p.parts()).filter(|p| p.tag == 0xa0);
            let full = points.flat_map(|p| p.parts()).filter(|p| p.tag == 0xa0);
            let names: Vec<Element<'_>> = full.flat_map(|p| p.parts()).collect();
            out.set("CRLDistributionPoints", with.with("URI", general(&names, 0x86)));
        }
        "32" => {
            let policies = parts.iter().filter_map(Element::inner).map(|p| {
                let oid = p.oid();
                match POLICIES.iter().find(|(known, _)| *known == oid) {
                    Some((_, name)) => format!("{name} ({oid})"),
                    None => oid,
                }
            });
            out.set("CertificatePolicies", with.with("Policy", policies.collect::<Value>()));
        }
        "35" => {
            // The id is looked at as if it were encoded once more, which it hardly ever is.
            let id = parts.iter().find(|p| p.tag == 0x80).map(|p| key_id(p.content));
            out.set("AuthorityKeyIdentifier", with.with("KeyId", id.unwrap_or_default()));
        }
        "37" => {
            let named = parts.iter().filter_map(|p| {
                let oid = p.oid();
                PURPOSES.iter().find(|(known, _)| *known == oid).map(|(_, n)| Value::from(*n))
            });
            out.set("Extended Key Usage", with.with("KeyUsage", some(named.collect())));
        }
        other => out.set(format!("Unknown extension 2.5.29.{other}\n"), true),
    }
}
