//! One job as the services see it: parsed, measured, and where its bytes lie.

use std::io::Read;

use bytes::Bytes;
use prost::Message;
use velociraptor_proto::proto::{FileBuffer, VeloMessage, VqlResponse};

use crate::store::journal::Extent;

/// Identity of a message: the first 16 bytes of SHA-256 over its raw bytes.
///
/// An agent serialises a job once, so this is stable over retries, regrouping
/// and re-encryption.
pub type Hash = [u8; 16];

pub use crate::crypto::job_hash as hash;

/// Longest a compressed payload may inflate to (stock's own limit).
pub const MAX_INFLATED: u64 = 100 << 20;

/// Most rows in one part (stock refuses more).
pub const MAX_ROWS: u64 = 1_000_000;

/// Why a job can never be stored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JobError {
    /// Not a message.
    #[error("job is not a message: {0}")]
    Decode(String),
    /// A compressed payload that is damaged or too large.
    #[error("{what}: {why}")]
    Inflate {
        /// Which field.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// More rows than a part may hold.
    #[error("part claims {0} rows, more than {MAX_ROWS}")]
    TooManyRows(u64),
}

/// A job with its payload measured. Bulk bytes are not kept.
#[derive(Clone, Debug)]
pub struct Job {
    /// Identity.
    pub hash: Hash,
    /// The message; row text and file data are emptied after measuring.
    pub message: VeloMessage,
    /// Rows in the payload (result rows or log rows).
    pub rows: u64,
    /// Uncompressed payload bytes.
    pub bytes: u64,
    /// The raw job.
    pub extent: Extent,
    /// Uncompressed file data that was moved out of the job.
    pub spill: Option<Extent>,
    /// What an agent of protocol 3 logged as an error, as far as that was looked for.
    pub log_error: Option<String>,
}

/// Inflates a zlib payload within [`MAX_INFLATED`].
pub fn inflate(what: &'static str, data: &[u8]) -> Result<Bytes, JobError> {
    let mut out = Vec::new();
    let mut z = flate2::read::ZlibDecoder::new(data).take(MAX_INFLATED + 1);
    z.read_to_end(&mut out).map_err(|e| JobError::Inflate { what, why: e.to_string() })?;
    if out.len() as u64 > MAX_INFLATED {
        return Err(JobError::Inflate { what, why: format!("inflates past {MAX_INFLATED} bytes") });
    }
    Ok(out.into())
}

/// The rows of a response as JSON lines, whichever way the agent sent them.
pub fn response_rows(r: &VqlResponse) -> Result<Bytes, JobError> {
    if r.uncompressed_size > 0 || !r.compressed_json_response.is_empty() {
        return inflate("VQLResponse.CompressedJsonResponse", &r.compressed_json_response);
    }
    if !r.jsonl_response.is_empty() {
        return Ok(Bytes::copy_from_slice(r.jsonl_response.as_bytes()));
    }
    if r.response.is_empty() {
        return Ok(Bytes::new());
    }
    // Agents before JSONL send one array; its rows keep their spelling.
    let rows: Vec<&serde_json::value::RawValue> = serde_json::from_str(&r.response)
        .map_err(|e| JobError::Inflate { what: "VQLResponse.Response", why: e.to_string() })?;
    let mut out = String::with_capacity(r.response.len());
    for row in rows {
        out.push_str(&row.get().replace('\n', " "));
        out.push('\n');
    }
    Ok(out.into())
}

/// The data of a file buffer, uncompressed.
pub fn buffer_data(b: &FileBuffer) -> Result<Bytes, JobError> {
    if b.uncompressed_length > 0 { inflate("FileBuffer.data", &b.data) } else { Ok(b.data.clone()) }
}

/// Lines that hold a row: stock ignores lines shorter than two bytes.
pub fn lines(blob: &[u8]) -> impl Iterator<Item = &[u8]> {
    blob.split(|b| *b == b'\n')
        .filter(|l| !l.is_empty() && l.iter().any(|b| !b.is_ascii_whitespace()))
}

/// The log rows of a message as JSON lines.
pub fn log_rows(m: &velociraptor_proto::proto::LogMessage) -> Bytes {
    if !m.jsonl.is_empty() {
        return Bytes::copy_from_slice(m.jsonl.as_bytes());
    }
    let text = if m.message.is_empty() { &m.error_message } else { &m.message };
    if text.is_empty() {
        return Bytes::new();
    }
    let level = match m.level.as_str() {
        "" if m.message.is_empty() => "ERROR",
        "" => "DEFAULT",
        l => l,
    };
    let row = serde_json::json!({
        "client_time": m.timestamp / 1_000_000, "level": level, "message": format!("{}\n", text.trim_end_matches('\n')),
    });
    Bytes::from(format!("{row}\n"))
}

/// Parses and measures the raw bytes of a job.
///
/// `spill` says that a file buffer's data was moved out before journaling.
pub fn parse(
    raw: &[u8],
    hash: Hash,
    extent: Extent,
    spill: Option<Extent>,
) -> Result<Job, JobError> {
    let mut message = VeloMessage::decode(raw).map_err(|e| JobError::Decode(e.to_string()))?;
    let (mut rows, mut bytes) = (0, 0);
    if let Some(r) = &mut message.vql_response {
        let blob = response_rows(r)?;
        rows = lines(&blob).count() as u64;
        if rows.max(r.total_rows) > MAX_ROWS {
            return Err(JobError::TooManyRows(rows.max(r.total_rows)));
        }
        bytes = blob.len() as u64;
        r.jsonl_response = String::new();
        r.compressed_json_response = Vec::new();
        r.response = String::new();
    }
    if let Some(l) = &mut message.log_message {
        let blob = log_rows(l);
        rows = lines(&blob).count() as u64;
        bytes = blob.len() as u64;
    }
    if let Some(b) = &mut message.file_buffer {
        bytes = match &spill {
            Some(s) => s.len,
            None => buffer_data(b)?.len() as u64,
        };
        b.data = Bytes::new();
    }
    Ok(Job { hash, message, rows, bytes, extent, spill, log_error: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::journal::Segment;
    use std::sync::Arc;

    fn extent() -> Extent {
        Extent { segment: Arc::new(Segment::of_path("x")), offset: 0, len: 0 }
    }

    #[test]
    fn rows_of_every_form() {
        let new =
            VqlResponse { jsonl_response: "{\"a\":1}\n{\"a\":2}\n".into(), ..Default::default() };
        let old = VqlResponse { response: "[{\"a\":1},\n{\"a\":2}]".into(), ..Default::default() };
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut z, b"{\"a\":1}\n{\"a\":2}\n").unwrap();
        let zip = VqlResponse {
            uncompressed_size: 16,
            compressed_json_response: z.finish().unwrap(),
            ..Default::default()
        };
        for r in [new, old, zip] {
            assert_eq!(response_rows(&r).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
            let m = VeloMessage { vql_response: Some(r), ..Default::default() };
            let raw = m.encode_to_vec();
            let j = parse(&raw, hash(&raw), extent(), None).unwrap();
            assert_eq!((j.rows, j.bytes), (2, 16));
        }
    }

    #[test]
    fn damage_is_named() {
        let r = VqlResponse {
            uncompressed_size: 5,
            compressed_json_response: vec![1, 2, 3],
            ..Default::default()
        };
        let e = response_rows(&r).unwrap_err().to_string();
        assert!(e.starts_with("VQLResponse.CompressedJsonResponse: "), "{e}");
        assert!(parse(&[0xff; 4], [0; 16], extent(), None).is_err());
    }
}
