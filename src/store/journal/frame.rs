//! The byte form of a journal file. Pure.
//!
//! A file starts with [`HEADER`]. Then records follow, each
//! `u32 length, u32 crc32, u32 header length, header, payload` (little endian;
//! length and checksum cover everything after the checksum). The header is a
//! protobuf `Record`; the payload is the raw bytes it describes.

use bytes::{Bytes, BytesMut};
use prost::Message;
use velociraptor_proto::journal::Record;

/// Magic and format version 1.
pub const HEADER: [u8; 16] = *b"VELOJRNL\x01\0\0\0\0\0\0\0";

/// Longest record accepted, so that a damaged length cannot ask for the moon.
/// A POST is at most 64 MiB inflated per the ingest limits; this leaves room.
pub const MAX_RECORD: usize = 1 << 30;

/// Bytes before the protobuf header.
const PREFIX: usize = 12;

/// Why bytes at some offset are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The bytes end inside a record: the usual torn tail after a crash.
    #[error("record is cut short")]
    Short,
    /// The checksum differs: a torn tail, or damage if more records follow.
    #[error("record checksum differs")]
    Checksum,
    /// The length field cannot be right.
    #[error("record length {0} is impossible")]
    Length(u64),
    /// The header is not a protobuf record.
    #[error("record header: {0}")]
    Header(String),
}

/// A decoded record and where its payload lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What the record says.
    pub record: Record,
    /// Offset of the payload from the start of the frame.
    pub payload: usize,
    /// Length of the whole frame.
    pub len: usize,
}

/// Appends one record to `out`; returns the payload's offset from the frame's start.
pub fn encode_frame(out: &mut BytesMut, record: &Record, payload: &[Bytes]) -> usize {
    let header = record.encode_to_vec();
    let body: usize = payload.iter().map(Bytes::len).sum();
    let len = 4 + header.len() + body;
    let mut crc = crc32fast::Hasher::new();
    let header_len = (header.len() as u32).to_le_bytes();
    crc.update(&header_len);
    crc.update(&header);
    for p in payload {
        crc.update(p);
    }
    out.reserve(8 + len);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&header_len);
    out.extend_from_slice(&header);
    for p in payload {
        out.extend_from_slice(p);
    }
    PREFIX + header.len()
}

/// Decodes the record at the start of `bytes`.
pub fn decode_frame(bytes: &[u8]) -> Result<Frame, FrameError> {
    let word = |i: usize| -> Result<u32, FrameError> {
        let b = bytes.get(i..i + 4).ok_or(FrameError::Short)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    };
    let len = word(0)? as usize;
    if !(4..=MAX_RECORD).contains(&len) {
        return Err(FrameError::Length(len as u64));
    }
    let crc = word(4)?;
    let body = bytes.get(8..8 + len).ok_or(FrameError::Short)?;
    if crc32fast::hash(body) != crc {
        return Err(FrameError::Checksum);
    }
    let header_len = word(8)? as usize;
    let header = (body.get(4..4usize.saturating_add(header_len)))
        .ok_or_else(|| FrameError::Header("longer than its record".into()))?;
    let record = Record::decode(header).map_err(|e| FrameError::Header(e.to_string()))?;
    Ok(Frame { record, payload: PREFIX + header_len, len: 8 + len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use velociraptor_proto::journal::{Post, record::Kind};

    fn post(client: &str) -> Record {
        Record { kind: Some(Kind::Post(Post { client_id: client.into(), ..Default::default() })) }
    }

    proptest! {
        #[test]
        fn round_trip(client in ".{0,40}", payload in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..100), 0..5)) {
            let parts: Vec<Bytes> = payload.iter().cloned().map(Bytes::from).collect();
            let mut out = BytesMut::new();
            let at = encode_frame(&mut out, &post(&client), &parts);
            let f = decode_frame(&out).unwrap();
            prop_assert_eq!(f.payload, at);
            prop_assert_eq!(f.len, out.len());
            prop_assert_eq!(&out[at..], &payload.concat()[..]);
            prop_assert_eq!(f.record, post(&client));
        }

        #[test]
        fn every_cut_and_every_flip_is_refused(cut in 0usize..64, bit in 0usize..512) {
            let mut out = BytesMut::new();
            encode_frame(&mut out, &post("C.1"), &[Bytes::from_static(b"some payload bytes here")]);
            let n = out.len();
            prop_assert!(decode_frame(&out[..n - 1 - cut % n]).is_err());
            let i = bit % (n * 8);
            out[i / 8] ^= 1 << (i % 8);
            prop_assert!(decode_frame(&out).is_err());
        }

        #[test]
        fn noise_never_panics(b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_frame(&b);
        }
    }
}
