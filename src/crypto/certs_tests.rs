use std::time::Duration;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer};

use super::super::PrivateKey;
use super::super::authority::{CA_DNS, DAY, Signer, Subject, params};
use super::*;
use crate::env::Entropy;

struct Counter(std::sync::atomic::AtomicU8);

impl Entropy for Counter {
    fn fill(&self, buf: &mut [u8]) {
        let n = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        buf.iter_mut().enumerate().for_each(|(i, b)| *b = 0x90 ^ n ^ i as u8);
    }
}

fn entropy() -> Counter {
    Counter(0.into())
}

fn at(secs: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(secs)
}

const NOW: u64 = 1_780_000_000;

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../tests/data/wire-vectors.json")).unwrap()
}

#[test]
fn the_ca_has_the_stock_shape() {
    let ca = Authority::generate(&entropy(), at(NOW)).unwrap();
    let der = ca.certificate().der().to_vec();
    let c = parse(&der).unwrap();
    assert_eq!(c.subject().to_string(), "O=Velociraptor CA");
    assert_eq!(c.subject().as_raw(), c.issuer().as_raw());
    assert_eq!(ca.certificate().name(), Some(CA_DNS));
    let usage = c.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    // digitalSignature, keyEncipherment, keyCertSign and nothing else.
    assert_eq!(usage.value.flags, 0b10_0101);
    let basic = c.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && basic.value.ca && basic.value.path_len_constraint.is_none());
    let eku = c.extended_key_usage().unwrap().unwrap();
    assert!(!eku.critical && eku.value.server_auth && eku.value.client_auth);
    assert!(!c.subject_alternative_name().unwrap().unwrap().critical);
    assert_eq!(ca.certificate().validity(), (NOW as i64, (NOW + 3650 * DAY) as i64));
    assert_eq!(c.signature_algorithm.algorithm, SHA256_RSA);
    assert!(
        c.extensions()
            .iter()
            .any(|e| matches!(e.parsed_extension(), ParsedExtension::SubjectKeyIdentifier(_)))
    );
}

#[test]
fn leafs_have_the_stock_shape() {
    let e = entropy();
    let ca = Authority::generate(&e, at(NOW)).unwrap();
    let key = PrivateKey::generate().unwrap();
    let cert = ca.issue(&e, at(NOW), LEAF_DAYS, DEFAULT_PINNED_NAME, key.public()).unwrap();
    let der = cert.der().to_vec();
    let c = parse(&der).unwrap();
    assert_eq!(c.subject().to_string(), "O=Velociraptor, CN=VelociraptorServer");
    assert_eq!(cert.public_key(), key.public());
    let usage = c.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 0b101);
    let basic = c.basic_constraints().unwrap().unwrap();
    assert!(basic.critical && !basic.value.ca);
    let san = c.subject_alternative_name().unwrap().unwrap();
    assert_eq!(san.value.general_names, [GeneralName::DNSName("VelociraptorServer")]);
    assert_eq!(cert.validity().1 - cert.validity().0, (365 * DAY) as i64);
    // A serial with its top bit set gets a leading zero: still 128 bits, positive.
    let serial = c.raw_serial();
    assert_eq!((serial.len(), serial[0]), (17, 0));
    assert_eq!(c.serial.bits(), 128);
    let other = ca.issue(&e, at(NOW), 1, "10.1.2.3", key.public()).unwrap();
    let der = other.der().to_vec();
    let o = parse(&der).unwrap();
    assert_ne!(o.raw_serial(), c.raw_serial());
    let san = o.subject_alternative_name().unwrap().unwrap();
    assert_eq!(san.value.general_names, [GeneralName::IPAddress(&[10, 1, 2, 3])]);
    // The authority key id is the CA's subject key id.
    let ca_der = ca.certificate().der().to_vec();
    let ca_cert = parse(&ca_der).unwrap();
    let ski = ca_cert.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(k) => Some(k.0),
        _ => None,
    });
    let aki = c.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(k) => k.key_identifier.as_ref().map(|k| k.0),
        _ => None,
    });
    assert!(ski.is_some());
    assert_eq!(ski, aki);
}

#[test]
fn server_pem_rules() {
    let e = entropy();
    let ca = Authority::generate(&e, at(NOW)).unwrap();
    let key = PrivateKey::generate().unwrap();
    let cert = ca.issue(&e, at(NOW), 10, "VelociraptorServer", key.public()).unwrap();
    let pem = format!("{}{}", key.public().to_pem(), cert.to_pem());
    let root = ca.certificate();
    let check = |text: &str, ca: &Certificate, name: &str, t: u64| {
        verify_server_pem(text, ca, name, at(t)).map(|_| ())
    };
    assert_eq!(check(&pem, root, "VelociraptorServer", NOW), Ok(()));
    assert_eq!(check(&pem, root, "VelociraptorServer", NOW + 10 * DAY), Ok(()));
    let late = check(&pem, root, "VelociraptorServer", NOW + 10 * DAY + 1);
    assert!(matches!(late, Err(CertError::OutOfDate { .. })), "{late:?}");
    let early = check(&pem, root, "VelociraptorServer", NOW - 1);
    assert!(matches!(early, Err(CertError::OutOfDate { .. })), "{early:?}");
    let name = check(&pem, root, "Other", NOW);
    assert!(matches!(name, Err(CertError::WrongName { .. })), "{name:?}");
    // Another CA of the same subject name.
    let twin = Authority::generate(&e, at(NOW)).unwrap();
    assert_eq!(check(&pem, twin.certificate(), "VelociraptorServer", NOW), Err(CertError::NotOurs));
    // A leaf is no issuer, even for its own key.
    let rogue = Authority::new(cert.clone(), key.clone()).unwrap();
    let forged = rogue.issue(&e, at(NOW), 5, "VelociraptorServer", key.public()).unwrap();
    assert_eq!(
        check(&forged.to_pem(), &cert, "VelociraptorServer", NOW),
        Err(CertError::IssuerNotCa)
    );
    assert_eq!(check(&forged.to_pem(), root, "VelociraptorServer", NOW), Err(CertError::NotOurs));
    assert!(matches!(check("", root, "x", NOW), Err(CertError::Key(KeyError::NoBlock(_)))));
}

#[test]
fn every_flipped_bit_of_a_certificate_is_refused() {
    let v = vectors();
    let ca = Certificate::from_pem(v["ca_cert"].as_str().unwrap()).unwrap();
    let good = Certificate::from_pem(v["server_cert"].as_str().unwrap()).unwrap();
    good.verify(&ca, at(NOW), Usage::Server).unwrap();
    for byte in 0..good.der().len() {
        let mut der = good.der().to_vec();
        der[byte] ^= 1 << (byte % 8);
        let Ok(bad) = Certificate::from_der(&der) else { continue };
        // The outermost framing and the unsigned copy of the algorithm (15 bytes
        // before the signature's 5 + 256) may be read leniently; nothing that is
        // certified may change.
        let algorithm = good.der().len() - 276..good.der().len() - 261;
        if bad.verify(&ca, at(NOW), Usage::Server).is_ok() {
            assert!(byte < 4 || algorithm.contains(&byte), "byte {byte}");
            assert_eq!((bad.name(), bad.public_key()), (good.name(), good.public_key()));
        }
    }
}

#[test]
fn published_certificates_verify() {
    let v = vectors();
    let ca = Authority::from_pem(v["ca_cert"].as_str().unwrap(), v["server_key"].as_str().unwrap());
    assert_eq!(ca.unwrap_err(), CertError::KeyMismatch);
    let ca = Certificate::from_pem(v["ca_cert"].as_str().unwrap()).unwrap();
    let server = v["server_cert"].as_str().unwrap();
    let cert = verify_server_pem(server, &ca, "VelociraptorServer", at(NOW)).unwrap();
    let key = PrivateKey::from_pem(v["server_key"].as_str().unwrap()).unwrap();
    assert_eq!(cert.public_key(), key.public());
}

#[test]
fn impossible_names_and_dates_are_errors() {
    let e = entropy();
    let ca = Authority::generate(&e, at(NOW)).unwrap();
    let key = ca.private_key().public().clone();
    assert_eq!(ca.issue(&e, at(NOW), 1, "", &key).unwrap_err(), CertError::NoName);
    assert!(matches!(ca.issue(&e, at(NOW), 1, "j\u{fc}rgen", &key), Err(CertError::Issue(_))));
    assert!(matches!(ca.issue(&e, at(NOW), u32::MAX, "x", &key), Err(CertError::Issue(_))));
}

/// A leaf with the given twist, signed by `ca`.
fn twisted(
    ca: &Authority,
    key: &PrivateKey,
    twist: impl Fn(&mut CertificateParams),
) -> Certificate {
    let mut p = params(&entropy(), at(NOW), 5000).unwrap();
    p.distinguished_name.push(DnType::CommonName, "VelociraptorServer");
    twist(&mut p);
    let der = ca.certificate().der().to_vec().into();
    let issuer = Issuer::from_ca_cert_der(&der, Signer(ca.private_key())).unwrap();
    Certificate::from_der(p.signed_by(&Subject(key.public()), &issuer).unwrap().der()).unwrap()
}

#[test]
fn usage_extensions_and_the_cas_own_dates_count() {
    let ca = Authority::generate(&entropy(), at(NOW)).unwrap();
    let key = PrivateKey::generate().unwrap();
    let root = ca.certificate();
    let plain = twisted(&ca, &key, |_| ());
    plain.verify(root, at(NOW), Usage::Server).unwrap();
    // The leaf outlives its CA.
    let late = at(NOW + 3651 * DAY);
    assert!(plain.check_dates(late).is_ok());
    assert!(matches!(plain.verify(root, late, Usage::Server), Err(CertError::OutOfDate { .. })));
    let only_client =
        twisted(&ca, &key, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert!(matches!(
        only_client.verify(root, at(NOW), Usage::Server),
        Err(CertError::WrongUsage(_))
    ));
    only_client.verify(root, at(NOW), Usage::Client).unwrap();
    twisted(&ca, &key, |p| p.extended_key_usages = vec![])
        .verify(root, at(NOW), Usage::Server)
        .unwrap();
    for critical in [false, true] {
        let odd = twisted(&ca, &key, |p| {
            let mut e = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            e.set_criticality(critical);
            p.custom_extensions.push(e);
        });
        assert_eq!(odd.verify(root, at(NOW), Usage::Server).is_ok(), !critical);
    }
}
