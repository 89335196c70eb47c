//! Signed data (PKCS #7) as a dict: who signed, with which certificates, and what: the hash
//! of a program, or the hashes of a catalogue. Nothing is verified.

use vql::{Dict, Value};

use super::certificate::{Certificate, names};
use super::der::{Element, INTEGER, OID, SEQUENCE, SET, first};

/// Identifiers of hashes, and the algorithms that use one.
const HASHES: [(&str, &str); 11] = [
    ("1.3.14.3.2.26", "SHA1"),
    ("1.2.840.10045.4.1", "SHA1"),
    ("1.2.840.10040.4.1", "SHA1"),
    ("1.2.840.10040.4.3", "SHA1"),
    ("1.2.840.113549.1.1.1", "SHA1"),
    ("2.16.840.1.101.3.4.2.1", "SHA256"),
    ("1.2.840.10045.4.3.2", "SHA256"),
    ("2.16.840.1.101.3.4.2.2", "SHA384"),
    ("1.2.840.10045.4.3.3", "SHA384"),
    ("2.16.840.1.101.3.4.2.3", "SHA512"),
    ("1.2.840.10045.4.3.4", "SHA512"),
];
/// Kinds of what is signed: the hash of a program, and a list of trust.
const INDIRECT: &str = "1.3.6.1.4.1.311.2.1.4";
const TRUST_LIST: &str = "1.3.6.1.4.1.311.10.1";
/// Kinds of data in a catalogue that are hashes, and a name with a value.
const CABINET: &str = "1.3.6.1.4.1.311.2.1.25";
const PROGRAM: &str = "1.3.6.1.4.1.311.2.1.15";
const NAME_VALUE: &str = "1.3.6.1.4.1.311.12.2.1";
/// Signatures on signatures.
const DEPTH: usize = 4;

fn hash_name(oid: &str) -> &'static str {
    HASHES.iter().find(|(known, _)| *known == oid).map_or("Unknown", |(_, n)| n)
}

/// What a signature is for.
pub struct Signed<'a> {
    kind: String,
    content: Option<Element<'a>>,
    certificates: Vec<Certificate<'a>>,
    signers: Vec<Element<'a>>,
}

impl<'a> Signed<'a> {
    /// Reads signed data.
    pub fn of(data: &'a [u8]) -> Option<Signed<'a>> {
        let outer = first(data)?.0.parts();
        let [kind, content, ..] = outer.as_slice() else { return None };
        if kind.oid() != "1.2.840.113549.1.7.2" {
            return None;
        }
        let parts = content.inner()?.parts();
        let [version, algorithms, inner, rest @ ..] = parts.as_slice() else { return None };
        if version.tag != INTEGER || algorithms.tag != SET {
            return None;
        }
        let inner = inner.parts();
        let certificates = rest.iter().find(|e| e.tag == 0xa0).map(|e| e.parts());
        let signers = rest.iter().find(|e| e.tag == SET).map(|e| e.parts());
        Some(Signed {
            kind: inner.first()?.oid(),
            content: inner.get(1).and_then(Element::inner),
            certificates: certificates
                .unwrap_or_default()
                .into_iter()
                .filter_map(Certificate::of)
                .collect(),
            signers: signers.unwrap_or_default(),
        })
    }

    /// The name of the hash of a program, and the hash.
    pub fn program_hash(&self) -> Option<(&'static str, Vec<u8>)> {
        let parts = self.content.filter(|_| self.kind == INDIRECT)?.parts();
        let info = parts.get(1)?.parts();
        let [algorithm, digest, ..] = info.as_slice() else { return None };
        Some((hash_name(&algorithm.inner()?.oid()), digest.octets()))
    }

    /// Who signed.
    pub fn signer(&self) -> Option<Dict> {
        let info = self.signers.first()?;
        let mut signer = signer(info, 0)?;
        let serial = info.parts().get(1)?.parts().get(1)?.hex();
        if let Some(known) = self.certificates.iter().find(|c| c.serial.hex() == serial) {
            signer.set("Subject", known.subject());
        }
        Some(signer)
    }

    /// All of it.
    pub fn dict(&self) -> Dict {
        let certificates: Value = self.certificates.iter().map(|c| Value::from(c.dict())).collect();
        let mut out = Dict::new().with("Signer", self.signer()).with("Certificates", certificates);
        if let Some((name, hash)) = self.program_hash() {
            out.set("HashType", name);
            out.set("ExpectedHash", Value::Bytes(hash.as_slice().into()));
            out.set("ExpectedHashHex", hex::encode(hash));
        } else if self.kind == TRUST_LIST
            && let Some(list) = self.content
        {
            trust_list(&list, &mut out);
        }
        out
    }
}

/// Who signed, and what is said of it.
fn signer(info: &Element<'_>, depth: usize) -> Option<Dict> {
    let parts = info.parts();
    let [_, from, algorithm, rest @ ..] = parts.as_slice() else { return None };
    let from = from.parts();
    let [issuer, serial, ..] = from.as_slice() else { return None };
    let mut out = Dict::new()
        .with("IssuerName", names(issuer, 1))
        .with("SerialNumber", serial.hex())
        .with("DigestAlgorithm", hash_name(&algorithm.inner()?.oid()));
    let attributes = |tag: u8| {
        let found = rest.iter().find(|e| e.tag == tag).map(|e| e.parts());
        let pairs = found.unwrap_or_default().into_iter();
        pairs
            .filter_map(|a| Some((a.inner()?.oid(), a.parts().get(1)?.inner()?)))
            .collect::<Vec<_>>()
    };
    let mut authenticated = Dict::new();
    for (kind, value) in attributes(0xa0) {
        match kind.as_str() {
            "1.3.6.1.4.1.311.2.1.12" => {
                let parts = value.parts();
                let text = |tag: u8| {
                    let found = parts.iter().find(|e| e.tag == tag).and_then(Element::inner);
                    found.map(|e| guessed(e.content)).unwrap_or_default()
                };
                authenticated.set("ProgramName", text(0xa0));
                authenticated.set("MoreInfo", text(0xa1));
            }
            "1.3.6.1.4.1.311.2.1.11" => {}
            "1.2.840.113549.1.9.5" => authenticated.set("SigningTime", value.time()),
            "1.2.840.113549.1.9.4" => {
                let digest = value.octets();
                authenticated.set("MessageDigest", Value::Bytes(digest.as_slice().into()));
                authenticated.set("MessageDigestHex", hex::encode(digest));
            }
            "1.2.840.113549.1.9.3" => authenticated.set(
                "ContentType",
                match value.oid() {
                    oid if oid == TRUST_LIST => "Certificate Trust List".to_owned(),
                    oid => oid,
                },
            ),
            other => authenticated.set(format!("Oid: {other}"), "Unknown"),
        }
    }
    out.set("AuthenticatedAttributes", authenticated);
    let mut further = Dict::new();
    for (kind, value) in attributes(0xa1) {
        if kind == "1.2.840.113549.1.9.6" && depth < DEPTH {
            further.set("CounterSignature", signer(&value, depth + 1));
        }
    }
    out.set("UnauthenticatedAttributes", further);
    Some(out)
}

/// Text of one or two bytes a character, whichever it looks like.
fn guessed(bytes: &[u8]) -> String {
    let tag = if bytes.len().is_multiple_of(2) && bytes.first() == Some(&0) { 0x1e } else { 0x0c };
    Element { tag, content: bytes }.text()
}

/// A name and its value, which is text of two bytes a character.
fn name_value(data: &Element<'_>, out: &mut Dict) {
    let parts = data.parts();
    if let [name, _, value, ..] = parts.as_slice() {
        let mut text = crate::plugins::common::fields::wide(&value.octets());
        if text.ends_with('\0') {
            text.pop();
        }
        out.set(name.text(), text);
    }
}

/// The hashes of a catalogue.
fn trust_list(list: &Element<'_>, out: &mut Dict) {
    let parts = list.parts();
    let members =
        parts.iter().filter(|e| e.tag == SEQUENCE && e.inner().is_some_and(|i| i.tag != OID));
    let members = members.flat_map(|e| e.parts()).filter_map(|member| {
        let parts = member.parts();
        let mut dict = Dict::new().with("Hash", hex::encode(parts.first()?.octets()));
        for fact in parts.get(1).map(|e| e.parts()).unwrap_or_default() {
            let fact = fact.parts();
            let [kind, values, ..] = fact.as_slice() else { continue };
            let Some(value) = values.inner() else { continue };
            match kind.oid().as_str() {
                NAME_VALUE => name_value(&value, &mut dict),
                INDIRECT => {
                    let parts = value.parts();
                    let [kind, info, ..] = parts.as_slice() else { continue };
                    let kind = kind.inner().map(|k| k.oid()).unwrap_or_default();
                    let info = info.parts();
                    if let [algorithm, digest, ..] = info.as_slice()
                        && (kind == CABINET || kind == PROGRAM)
                    {
                        let oid = algorithm.inner().map(|a| a.oid()).unwrap_or_default();
                        dict.set("HashType", hash_name(&oid));
                        dict.set("Hash", hex::encode(digest.octets()));
                    }
                }
                _ => {}
            }
        }
        Some(Value::from(dict))
    });
    let members: Value = members.collect();
    let extensions = parts.iter().find(|e| e.tag == 0xa0).and_then(Element::inner);
    for extension in extensions.map(|e| e.parts()).unwrap_or_default() {
        let parts = extension.parts();
        let (Some(kind), Some(value)) = (parts.first(), parts.last()) else { continue };
        if kind.oid() == NAME_VALUE
            && let Some((pair, _)) = first(value.content)
        {
            name_value(&pair, out);
        }
    }
    out.set("CertificateTrustList", members);
}
