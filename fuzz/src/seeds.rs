//! Inputs that go through, made by the project's own writers or recorded once.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use prost::Message;
use serde_json::Value;
use velociraptor::crypto::envelope;
use velociraptor::store::journal;
use velociraptor_proto::journal as records;
use velociraptor_proto::proto::{FileBuffer, LogMessage, VeloMessage, VeloStatus, VqlResponse};

const VECTORS: &str = include_str!("../../tests/data/wire-vectors.json");
const PACKETS: [&str; 5] =
    ["client_checkin", "client_enrol", "client_stats_plain", "server_cancel", "server_empty"];

fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap_or_default()
}

/// A text among the recorded vectors.
pub(crate) fn vector(name: &str) -> Option<String> {
    Some(vectors()[name].as_str()?.to_owned())
}

fn recorded(field: &str) -> Vec<Vec<u8>> {
    let all = vectors();
    PACKETS.iter().filter_map(|p| vql::base64_decode(all[p][field].as_str()?.as_bytes())).collect()
}

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    match z.write_all(data).and_then(|()| z.finish()) {
        Ok(out) => out,
        Err(e) => panic!("deflate: {e}"),
    }
}

/// Whole packets.
pub(crate) fn packets() -> Vec<Vec<u8>> {
    let mut out = recorded("body");
    let padded: Vec<Vec<u8>> = out.iter().map(|p| [&envelope::PAD[..], p].concat()).collect();
    out.extend(padded);
    out.push(envelope::PAD.to_vec());
    out
}

/// Lists, each behind a byte that says how it is compressed.
pub(crate) fn lists() -> Vec<Vec<u8>> {
    let plain = recorded("message_list");
    let mut out = Vec::new();
    for list in plain {
        out.push([&[0][..], &list].concat());
        out.push([&[1][..], &deflate(&list)].concat());
    }
    out
}

/// PEM texts.
pub(crate) fn enrolment() -> Vec<Vec<u8>> {
    ["csr", "ca_cert", "server_cert", "server_key", "client_id"]
        .iter()
        .filter_map(|n| Some(vector(n)?.into_bytes()))
        .collect()
}

/// One job of each kind.
pub(crate) fn jobs() -> Vec<Vec<u8>> {
    let rows = "{\"A\":1}\n{\"A\":2}\n";
    let base = VeloMessage { session_id: "F.FUZZ1".into(), request_id: 1, ..Default::default() };
    let all = [
        VeloMessage {
            vql_response: Some(VqlResponse {
                jsonl_response: rows.into(),
                columns: vec!["A".into()],
                total_rows: 2,
                ..Default::default()
            }),
            ..base.clone()
        },
        VeloMessage {
            vql_response: Some(VqlResponse {
                compressed_json_response: deflate(rows.as_bytes()),
                uncompressed_size: rows.len() as u64,
                total_rows: 2,
                ..Default::default()
            }),
            ..base.clone()
        },
        VeloMessage {
            vql_response: Some(VqlResponse {
                response: "[{\"A\":1},{\"A\":2}]".into(),
                ..Default::default()
            }),
            ..base.clone()
        },
        VeloMessage {
            log_message: Some(LogMessage {
                jsonl: "{\"client_time\":1,\"level\":\"INFO\",\"message\":\"x\"}\n".into(),
                ..Default::default()
            }),
            ..base.clone()
        },
        VeloMessage {
            file_buffer: Some(FileBuffer {
                data: Bytes::from(deflate(b"some file data")),
                uncompressed_length: 14,
                ..Default::default()
            }),
            ..base.clone()
        },
        VeloMessage { status: Some(VeloStatus::default()), ..base },
    ];
    let mut out: Vec<Vec<u8>> = all.iter().map(Message::encode_to_vec).collect();
    for list in recorded("message_list") {
        let list = Bytes::from(list);
        out.extend(envelope::jobs(&list).flatten().map(|j| j.to_vec()));
    }
    out
}

/// Requests.
pub(crate) fn http() -> Vec<Vec<u8>> {
    [
        "POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nX-Priority: urgent\r\n\r\nBODY",
        "POST /control HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nBODY\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /reader?r=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
        "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        "\r\nHEAD http://host/healthz HTTP/1.0\r\nVia: 1.0 a, 1.1 b\r\nX-Real-IP: ::1\r\n\
         Expect: 100-continue\r\nConnection: close\r\n\r\n",
    ]
    .iter()
    .map(|t| t.as_bytes().to_vec())
    .collect()
}

/// PROXY protocol headers, version 2.
pub(crate) fn proxy() -> Vec<Vec<u8>> {
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x10, 0x00, 0x1f, 0x40];
    let mut v6 = vec![0; 32];
    v6.extend_from_slice(&[0x10, 0x00, 0x1f, 0x40]);
    vec![
        [SIGNATURE, &[0x21, 0x11, 0, 12], &v4].concat(),
        [SIGNATURE, &[0x21, 0x21, 0, 36], &v6].concat(),
        [SIGNATURE, &[0x20, 0x00, 0, 0]].concat(),
        [SIGNATURE, &[0x21, 0x11, 0, 17], &v4, &[4, 0, 2, 0, 0]].concat(),
    ]
}

/// Frames, masked and not.
pub(crate) fn websocket() -> Vec<Vec<u8>> {
    let key = [1, 2, 3, 4];
    let masked = |op: u8, data: &[u8]| {
        let mut out = vec![op];
        match u8::try_from(data.len()) {
            Ok(n) if n < 126 => out.push(0x80 | n),
            _ => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(data.len() as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(&key);
        out.extend(data.iter().enumerate().map(|(i, b)| b ^ key[i % 4]));
        out
    };
    vec![
        masked(0x82, b"a message"),
        [masked(0x02, b"first"), masked(0x89, b"ping"), masked(0x80, b"rest")].concat(),
        [masked(0x82, &[7; 300]), masked(0x88, &[3, 232])].concat(),
        [&[0x82, 5][..], b"plain", &[0x8a, 0], &[0x88, 0]].concat(),
        [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &[9; 2000]].concat(),
    ]
}

/// What travels in them.
pub(crate) fn ws_json() -> Vec<Vec<u8>> {
    [r#"{"code":200,"data":"WgEA"}"#, r#"{"code":406,"err":"Please \u0045nrol"}"#, "{}"]
        .iter()
        .map(|t| t.as_bytes().to_vec())
        .collect()
}

/// Configuration files.
pub(crate) fn config() -> Vec<Vec<u8>> {
    [
        "version:\n  name: velociraptor\nClient:\n  server_urls:\n    - https://localhost:8000/\n  \
         nonce: abc\n  max_poll: 600\n  use_self_signed_ssl: true\n",
        "Frontend: {bind_port: 8000, resources: {connections_per_second: 100, concurrency: 0}}\n\
         GUI:\n  bind_address: 127.0.0.1\n  initial_users: [{name: a, password_hash: '00'}]\n",
        "Datastore:\n  location: /tmp\nLogging: &l\n  debug: {disabled: true}\n  info: *l\n",
        "CA:\n  private_key: |\n    -----BEGIN X-----\n    AAAA\n    -----END X-----\n",
        "{\"Client\": {\"labels\": [\"a\", \"b\"], \"nanny_max_connection_delay\": 600}}",
        "journal:\n  group_bytes: 5\nlimits:\n  connections: 3\nrotation:\n  old_private_keys: []\n",
        "ca_certificate: x\nclient_cert: y\nclient_private_key: z\napi_connection_string: a:1\n",
    ]
    .iter()
    .map(|t| t.as_bytes().to_vec())
    .collect()
}

/// Indexes and lines.
pub(crate) fn resultset() -> Vec<Vec<u8>> {
    let words = |all: &[u64]| all.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let stream = deflate(b"{\"A\":1}\n");
    let n = stream.len() as u64;
    let mut chunked = words(&[0, 40, n, 8, 0]);
    chunked.extend_from_slice(&stream);
    vec![
        words(&[0, 1 << 40, 2 << 40 | 7, 7]),
        words(&[1_700_000_000_000_000_000, 0, 0, 1_700_000_001_000_000_000, 9, 0]),
        words(&[0, 0, 10, 100, 0, 100, 10, 5, 50, 0]),
        chunked,
        b"{\"A\":1}\n@17 padding\n@{\"Data\":\"eyJBIjoxfQ==\"}\n\n{\"torn".to_vec(),
        b"{\"ranges\":[{\"file_offset\":0,\"original_offset\":0,\"length\":5}]}\n".to_vec(),
    ]
}

/// Names.
pub(crate) fn paths() -> Vec<Vec<u8>> {
    [
        "/usr/bin/true",
        "\\\\.\\C:\\Windows\\\"a b\"\\x",
        "..",
        "a/../b",
        "%2E%2e",
        "x.db_",
        "\u{e9}#.",
    ]
    .iter()
    .map(|t| t.as_bytes().to_vec())
    .collect()
}

/// Records of a journal file, without the file's header.
pub(crate) fn journal() -> Vec<Vec<u8>> {
    use records::record::Kind;
    let post = records::Post { client_id: "C.627d340c27f93796".into(), ..Default::default() };
    let record = records::Record { kind: Some(Kind::Post(post)) };
    let mut one = BytesMut::new();
    journal::encode_frame(&mut one, &record, &[Bytes::from_static(b"payload")]);
    let mut two = one.clone();
    journal::encode_frame(&mut two, &records::Record::default(), &[]);
    vec![one.to_vec(), two.to_vec()]
}

/// Queries.
pub(crate) fn vql() -> Vec<Vec<u8>> {
    [
        "SELECT *, a.b[1].c AS D, func(x=1, y={SELECT * FROM info()}) FROM pslist(pid=2) \
         WHERE Name =~ '(?i)x' AND NOT (a + 2 * 3 > 4 OR b IN (1, 2)) GROUP BY D ORDER BY D DESC LIMIT 5",
        "LET X(a, b) = a + b LET Y <= SELECT X(a=1, b=dict(`k`=NULL, j=[1, 2.5, 0x1F, TRUE])) FROM scope()",
        "EXPLAIN SELECT x=>x+1, if(condition=a, then=b, else=c), \"t\\n\\x41\", '''raw''' FROM foreach(row=a, query=b) -- end",
    ]
    .iter()
    .map(|t| t.as_bytes().to_vec())
    .collect()
}
