use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;

use super::super::certs::verify_server_pem;
use super::*;

struct Fixed(u8);

impl Entropy for Fixed {
    fn fill(&self, buf: &mut [u8]) {
        buf.iter_mut().enumerate().for_each(|(i, b)| *b = self.0 ^ i as u8);
    }
}

const NOW: u64 = 1_780_000_000;
const DAY: u64 = 86_400;

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

/// A deployment, and a key for anybody who needs one.
static CA: LazyLock<Authority> = LazyLock::new(|| Authority::generate(&Fixed(1), at(NOW)).unwrap());
static KEY: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::generate().unwrap());

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn issue(text: &str, serial: u8) -> (NodeIdentity, Certificate) {
    let id = NodeIdentity::issue_for(&CA, &Fixed(serial), at(NOW), 10, &name(text), &KEY).unwrap();
    let cert = Certificate::from_pem(&id.certificate_pem).unwrap();
    (id, cert)
}

fn verify(cert: &Certificate, revoked: &[&str]) -> Result<NodePeer, NodeError> {
    verify_node(&[cert.der()], CA.certificate(), at(NOW), &Revocations::parse(revoked).unwrap())
}

#[test]
fn a_node_is_known_by_its_certificate() {
    let (id, cert) = issue("b.example.org-8000", 0x7f);
    let peer = verify(&cert, &[]).unwrap();
    assert_eq!(peer.name, id.name);
    assert_eq!(peer.serial, id.serial);
    assert_eq!(peer.serial, "7f7e7d7c7b7a79787776757473727170");
    assert_eq!((peer.not_after, id.not_after), ((NOW + 10 * DAY) as i64, peer.not_after));
    assert_eq!(cert.name(), Some("node:b.example.org-8000"));
    // What follows the leaf does not matter; nothing at all does.
    let chain = [cert.der(), b"junk"];
    verify_node(&chain, CA.certificate(), at(NOW), &Revocations::default()).unwrap();
    let none: [&[u8]; 0] = [];
    let r = verify_node(&none, CA.certificate(), at(NOW), &Revocations::default());
    assert_eq!(r, Err(NodeError::Missing));
    for t in [NOW - 1, NOW + 10 * DAY + 1] {
        let r = verify_node(&[cert.der()], CA.certificate(), at(t), &Revocations::default());
        assert!(matches!(r, Err(NodeError::Cert(CertError::OutOfDate { .. }))), "{r:?}");
    }
    let other = Authority::generate(&Fixed(1), at(NOW)).unwrap();
    let r = verify_node(&[cert.der()], other.certificate(), at(NOW), &Revocations::default());
    assert_eq!(r, Err(NodeError::Cert(CertError::NotOurs)));
}

/// Nobody may take it for a server: an agent checks usage and name, TLS the usage.
#[test]
fn it_is_for_clients_alone() {
    let (_, cert) = issue("VelociraptorServer", 2);
    let wrong = Err(CertError::WrongUsage("a server"));
    assert_eq!(cert.verify(CA.certificate(), at(NOW), Usage::Server), wrong);
    let pinned = verify_server_pem(&cert.to_pem(), CA.certificate(), cert.name().unwrap(), at(NOW));
    assert_eq!(pinned.map(|_| ()), wrong);
}

/// What else the CA issues is no node, whatever it is called.
#[test]
fn others_are_no_nodes() {
    let (e, now) = (Fixed(3), at(NOW));
    for cn in ["VelociraptorServer", "GRPC_GW", "bob", "node-bob"] {
        let cert = CA.issue(&e, now, 10, cn, KEY.public()).unwrap();
        let r = verify(&cert, &[]);
        assert!(matches!(r, Err(NodeError::NotANode(w)) if w.contains("not that of")), "{r:?}");
    }
    // An API client's of that very name has a DNS alternative name, and both usages.
    let cert = CA.issue(&e, now, 10, "node:b-8000", KEY.public()).unwrap();
    let r = verify(&cert, &[]);
    assert!(matches!(r, Err(NodeError::NotANode(w)) if w.contains("alternative")), "{r:?}");
    let twisted = |cn: &str, uri: &str| {
        let cert = CA.issue_client(&e, now, 10, cn, uri, KEY.public()).unwrap();
        verify(&cert, &[])
    };
    twisted("node:b-8000", "velociraptor-node:b-8000").unwrap();
    for (cn, uri) in [
        ("node:b-8000", "velociraptor-node:c-8000"),
        ("node:b-8000", "https://b-8000/"),
        ("node:", "velociraptor-node:"),
        ("node:../b", "velociraptor-node:..%2Fb"),
        ("bob", "velociraptor-node:bob"),
    ] {
        assert!(twisted(cn, uri).is_err(), "{cn} {uri}");
    }
}

#[test]
fn revoked_by_name_serial_or_fingerprint() {
    let (id, cert) = issue("b-8000", 0x0f);
    let (_, same_name) = issue("b-8000", 0x4f);
    assert_eq!(id.serial, "f0e0d0c0b0a09080706050403020100");
    let colons: Vec<String> = cert
        .fingerprint()
        .to_uppercase()
        .as_bytes()
        .chunks(2)
        .map(|c| String::from_utf8_lossy(c).into_owned())
        .collect();
    for entry in [
        id.serial.clone(),
        format!("0{}", id.serial.to_uppercase()),
        format!("00:{}", id.serial),
        cert.fingerprint(),
        colons.join(":"),
    ] {
        let r = verify(&cert, &["other", entry.as_str()]);
        assert!(matches!(r, Err(NodeError::Revoked { .. })), "{entry}: {r:?}");
        assert!(r.unwrap_err().to_string().contains("b-8000"));
        verify(&same_name, &[entry.as_str()]).unwrap();
    }
    assert!(verify(&cert, &["b-8000"]).is_err() && verify(&same_name, &[" b-8000 "]).is_err());
    verify(&cert, &["b-80", "b-8000x", "B-8000", "f0e0", "ff"]).unwrap();
    // A name of hex digits is taken as a name too.
    let (_, cafe) = issue("cafe", 0x33);
    assert!(verify(&cafe, &["cafe"]).is_err());
    assert_eq!(Revocations::parse(&["a", "  "]), Err("  ".to_owned()));
    assert!(Revocations::parse::<&str>(&[]).unwrap().is_empty());
    assert!(Revocations::parse(&["b-8000"]).unwrap().has_name(&name("b-8000")));
}

#[test]
fn an_identity_is_read_back() {
    let (id, _) = issue("b-8000", 9);
    let read = |cert: &str, key: &str| NodeIdentity::from_pem(cert, key, CA.certificate(), at(NOW));
    let again = read(&id.certificate_pem, &id.private_key_pem).unwrap();
    assert_eq!((&again.name, &again.serial), (&id.name, &id.serial));
    assert!(!format!("{id:?}").contains("KEY"));
    let other = PrivateKey::generate().unwrap().to_pem();
    assert_eq!(
        read(&id.certificate_pem, &other).unwrap_err(),
        NodeError::Cert(CertError::KeyMismatch)
    );
    assert!(read("", &id.private_key_pem).is_err() && read(&id.certificate_pem, "").is_err());
    let server = CA.issue(&Fixed(7), at(NOW), 10, "VelociraptorServer", KEY.public()).unwrap();
    let r = read(&server.to_pem(), &id.private_key_pem);
    assert!(matches!(r, Err(NodeError::NotANode(_))), "{r:?}");
}

#[test]
fn names_that_cannot_be_directories_are_refused() {
    for good in ["b-8000", "::1-8000", "B_1", "a.b.c-1", "knoten-ü", "x@y~z"] {
        assert_eq!(name(good).to_string(), good);
    }
    for bad in ["", ".", "..", ".x", "a/b", "a\\b", "a b", "a\nb", "a\0", &"x".repeat(201)] {
        let e = NodeName::parse(bad).unwrap_err().to_string();
        assert!(e.contains("node's name"), "{e}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let (id, cert) = issue("b-8000", 0x21);
    for byte in 0..cert.der().len() {
        let mut der = cert.der().to_vec();
        der[byte] ^= 1 << (byte % 8);
        let r = verify_node(&[&der], CA.certificate(), at(NOW), &Revocations::default());
        // As for every certificate: framing and the unsigned copy of the algorithm
        // may be read leniently, what is certified may not change.
        if let Ok(peer) = r {
            assert_eq!((peer.name, peer.serial), (id.name.clone(), id.serial.clone()), "{byte}");
        }
    }
}

/// The library behind it panics at a question mark in a string of that kind.
#[test]
fn a_question_mark_in_a_name_is_no_panic() {
    let n = name("a?-1");
    let id = NodeIdentity::issue_for(&CA, &Fixed(5), at(NOW), 1, &n, &KEY).unwrap();
    let cert = Certificate::from_pem(&id.certificate_pem).unwrap();
    assert_eq!(verify(&cert, &[]).unwrap().name, n);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any name that is taken comes back from its certificate, and no other one does.
    #[test]
    fn names_come_back(text in "\\PC{1,40}", other in "[a-z:%.-]{1,8}") {
        let Ok(n) = NodeName::parse(&text) else { return Ok(()) };
        let id = NodeIdentity::issue_for(&CA, &Fixed(5), at(NOW), 1, &n, &KEY).unwrap();
        let cert = Certificate::from_pem(&id.certificate_pem).unwrap();
        prop_assert_eq!(verify(&cert, &[]).unwrap().name, n.clone());
        prop_assert!(n.uri().is_ascii());
        if let Ok(o) = NodeName::parse(&other) {
            prop_assert_eq!(o.uri() == n.uri(), o == n);
        }
    }

    #[test]
    fn noise_is_no_node(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let r = verify_node(&[&bytes], CA.certificate(), at(NOW), &Revocations::default());
        prop_assert!(r.is_err());
    }

    /// The spelling of a number does not matter.
    #[test]
    fn numbers_match_in_any_spelling(n in 1u128.., zeros in 0usize..4, upper: bool) {
        let (n, other) = (format!("{n:x}"), format!("{:x}", n ^ 1));
        let mut text = "0".repeat(zeros) + &n;
        if upper { text = text.to_uppercase(); }
        let r = Revocations::parse(&[&text]).unwrap();
        let x = name("x-1");
        prop_assert!(r.contains(&x, &n, "") && r.contains(&x, "", &n));
        prop_assert!(!r.contains(&x, &other, ""));
    }
}
