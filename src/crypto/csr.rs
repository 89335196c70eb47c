//! Enrolment requests: PKCS#10 with the client id as its only name.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::authority;
use super::certs::{self, CertError};
use super::keys::{pem_block, to_pem};
use super::{ClientId, PrivateKey, PublicKey};

/// PEM type of requests.
pub const REQUEST_TAG: &str = "CERTIFICATE REQUEST";

/// A parsed request whose own signature matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Subject CN as sent.
    pub common_name: String,
    /// The key it asks to enrol.
    pub public_key: PublicKey,
}

impl Request {
    /// From the first `CERTIFICATE REQUEST` block. The signature is checked,
    /// which proves that the sender holds the key.
    pub fn from_pem(text: &str) -> Result<Self, CertError> {
        let der = pem_block(text, REQUEST_TAG)?;
        let csr = match X509CertificationRequest::from_der(&der) {
            Ok(([], csr)) => csr,
            _ => return Err(CertError::Malformed("certificate request")),
        };
        let info = &csr.certification_request_info;
        let public_key = certs::rsa_key(&info.subject_pki)?;
        let signature = &csr.signature_value.data;
        if !certs::signed_by(&public_key, &csr.signature_algorithm, info.raw, signature) {
            return Err(CertError::Malformed("certificate request (signature)"));
        }
        let common_name = certs::common_name(&info.subject).ok_or(CertError::NoName)?;
        Ok(Self { common_name, public_key })
    }

    /// The client that asks: its CN must be the id of its key.
    pub fn client_id(&self) -> Result<ClientId, CertError> {
        let id = ClientId::of(&self.public_key);
        if id.to_string() == self.common_name {
            Ok(id)
        } else {
            Err(CertError::WrongName { found: self.common_name.clone(), wanted: id.to_string() })
        }
    }
}

/// The request by which the holder of `key` enrols.
pub fn request_pem(key: &PrivateKey) -> Result<String, CertError> {
    let id = ClientId::of(key.public());
    Ok(to_pem(REQUEST_TAG, &authority::csr_der(&id.to_string(), key)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_request() {
        let v: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/data/wire-vectors.json")).unwrap();
        let r = Request::from_pem(v["csr"].as_str().unwrap()).unwrap();
        assert_eq!(r.client_id().unwrap().to_string(), v["client_id"].as_str().unwrap());
    }

    #[test]
    fn ours_round_trips_and_lies_are_caught() {
        let key = PrivateKey::generate().unwrap();
        let pem = request_pem(&key).unwrap();
        assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
        let r = Request::from_pem(&pem).unwrap();
        assert_eq!(&r.public_key, key.public());
        assert_eq!(r.client_id().unwrap(), ClientId::of(key.public()));

        let der = authority::csr_der("C.0123456789abcdef", &key).unwrap();
        let lie = Request::from_pem(&to_pem(REQUEST_TAG, &der)).unwrap();
        assert!(matches!(lie.client_id(), Err(CertError::WrongName { .. })));

        // No extensions or attributes: the request ends with an empty set [0].
        let der = pem_block(&pem, REQUEST_TAG).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
        assert!(csr.certification_request_info.attributes().is_empty());
        assert_eq!(csr.certification_request_info.subject.iter().count(), 1);
        for byte in 0..der.len() {
            let mut bad = der.clone();
            bad[byte] ^= 0x20;
            // A bit of the framing may be read leniently; what is asked for may not change.
            if let Ok(read) = Request::from_pem(&to_pem(REQUEST_TAG, &bad)) {
                assert_eq!(read, r, "byte {byte}");
            }
        }
    }
}
