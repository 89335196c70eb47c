//! The JSON envelope of server messages: `{"code":200,"err":"…","data":"…"}`,
//! every key optional, `data` in standard base64.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;

/// A server message on a WebSocket: what status and body are over HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// HTTP status; 0 when absent.
    pub code: u16,
    /// Text for logs.
    pub err: String,
    /// The body.
    pub data: Bytes,
}

/// Why an envelope cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON of this shape.
    #[error("WebSocket envelope: {0}")]
    Json(#[from] serde_json::Error),
    /// Not a JSON object.
    #[error("WebSocket envelope is not an object")]
    Shape,
    /// `data` is not base64.
    #[error("WebSocket envelope data: {0}")]
    Base64(#[from] base64::DecodeError),
}

impl Envelope {
    /// A success with a body, perhaps empty.
    pub fn ok(data: Bytes) -> Self {
        Self { code: 200, err: String::new(), data }
    }

    /// A status with a text.
    pub fn status(code: u16, err: impl Into<String>) -> Self {
        Self { code, err: err.into(), data: Bytes::new() }
    }

    /// The JSON text; absent keys for default values.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.data.len().div_ceil(3) * 4 + self.err.len() + 40);
        let mut sep = b'{';
        let mut key = |out: &mut Vec<u8>, k: &str| {
            out.push(std::mem::replace(&mut sep, b','));
            out.extend_from_slice(k.as_bytes());
        };
        if self.code != 0 {
            key(&mut out, "\"code\":");
            out.extend_from_slice(self.code.to_string().as_bytes());
        }
        if !self.err.is_empty() {
            key(&mut out, "\"err\":");
            out.extend_from_slice(serde_json::Value::from(&*self.err).to_string().as_bytes());
        }
        if !self.data.is_empty() {
            key(&mut out, "\"data\":\"");
            let start = out.len();
            out.resize(start + self.data.len().div_ceil(3) * 4, 0);
            if BASE64_STANDARD.encode_slice(&self.data, &mut out[start..]).is_err() {
                out.truncate(start); // cannot be: the room is exact
            }
            out.push(b'"');
        }
        if sep == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
        out
    }

    /// Reads the JSON text.
    pub fn decode(text: &[u8]) -> Result<Self, EnvelopeError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default)]
            code: Option<u16>,
            #[serde(default)]
            err: Option<String>,
            #[serde(default)]
            data: Option<String>,
        }
        // The derived reader would take an array for the fields in order.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(EnvelopeError::Shape);
        }
        let raw: Raw = serde_json::from_slice(text)?;
        Ok(Self {
            code: raw.code.unwrap_or_default(),
            err: raw.err.unwrap_or_default(),
            data: BASE64_STANDARD.decode(raw.data.unwrap_or_default())?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stock_texts() {
        assert_eq!(Envelope::ok(Bytes::new()).encode(), br#"{"code":200}"#);
        let e = Envelope::status(406, "Please Enrol");
        assert_eq!(e.encode(), br#"{"code":406,"err":"Please Enrol"}"#);
        assert_eq!(Envelope::default().encode(), b"{}");
        assert_eq!(Envelope::decode(b"{}").unwrap(), Envelope::default());
        let e = Envelope::decode(br#"{"x":1,"data":"WgEA","err":null}"#).unwrap();
        assert_eq!((e.code, &e.data[..]), (0, &crate::comms::PAD[..]));
        for bad in [&b""[..], b"[]", b"{\"data\":\"*\"}", b"{\"code\":-1}", b"nope"] {
            assert!(Envelope::decode(bad).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]
        #[test]
        fn round_trip(code in any::<u16>(), err in any::<String>(),
                      data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let e = Envelope { code, err, data: data.into() };
            let text = e.encode();
            prop_assert_eq!(Envelope::decode(&text).unwrap(), e);
            // What we write is JSON to an ordinary reader, too.
            let v: serde_json::Value = serde_json::from_slice(&text).unwrap();
            prop_assert!(v.is_object());
        }

        #[test]
        fn never_panics(b in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Envelope::decode(&b);
        }
    }
}
