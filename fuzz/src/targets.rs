//! The targets, by name.

use std::sync::{Arc, LazyLock};
use std::time::UNIX_EPOCH;

use bytes::{Bytes, BytesMut};
use velociraptor::comms::{server, ws};
use velociraptor::config::{Document, Role, Settings, check};
use velociraptor::crypto::{PrivateKey, certs, csr, envelope};
use velociraptor::services::flows::job;
use velociraptor::store::journal::{self, Extent, Segment};
use velociraptor::store::{client_path, escape, resultset, snapshot, uploads};

use crate::seeds;

/// One parser, or a few that belong together.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Feeds it one input; must return.
    pub run: fn(&[u8]),
    /// Inputs that go through, to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "envelope", run: envelope, seeds: seeds::packets },
    Target { name: "lists", run: lists, seeds: seeds::lists },
    Target { name: "enrolment", run: enrolment, seeds: seeds::enrolment },
    Target { name: "job", run: job, seeds: seeds::jobs },
    Target { name: "http", run: http, seeds: seeds::http },
    Target { name: "proxy", run: proxy, seeds: seeds::proxy },
    Target { name: "websocket", run: websocket, seeds: seeds::websocket },
    Target { name: "ws_json", run: ws_json, seeds: seeds::ws_json },
    Target { name: "config", run: config, seeds: seeds::config },
    Target { name: "resultset", run: resultset, seeds: seeds::resultset },
    Target { name: "paths", run: paths, seeds: seeds::paths },
    Target { name: "journal", run: journal, seeds: seeds::journal },
    Target { name: "vql", run: vql, seeds: seeds::vql },
];

/// The target of a name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}

static SERVER: LazyLock<Option<PrivateKey>> =
    LazyLock::new(|| PrivateKey::from_pem(&seeds::vector("server_key")?).ok());

/// What an unauthenticated POST reaches: the outer message, then one RSA decryption.
fn envelope(data: &[u8]) {
    let Ok(envelope::Packet::Sealed(packet)) = envelope::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    assert!(packet.payload_len() <= data.len());
    let keys = SERVER.as_slice();
    if let Ok(session) = envelope::unwrap_session(keys, &packet) {
        let _ = session.source.parse::<velociraptor::crypto::ClientId>();
        if let Ok(opened) = envelope::open_with(&session.keys, packet) {
            let _ = envelope::inflate_lists(&opened, &LIMITS);
        }
    }
}

const LIMITS: envelope::Limits =
    envelope::Limits { list_bytes: 1 << 20, total_bytes: 4 << 20, jobs: 1 << 12 };

/// The lists inside a packet; the first byte picks the compression.
fn lists(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let compression =
        if first & 1 == 1 { envelope::Compression::Zlib } else { envelope::Compression::None };
    let list = Bytes::copy_from_slice(rest);
    let Ok(plain) = envelope::inflate_list(&list, compression, LIMITS.list_bytes) else { return };
    assert!(plain.len() <= LIMITS.list_bytes);
    for j in envelope::jobs(&plain).take(LIMITS.jobs).flatten() {
        job(&j);
    }
}

/// Certificate requests, certificates and keys in PEM.
fn enrolment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(request) = csr::Request::from_pem(&text) {
        let _ = request.client_id();
    }
    if let Ok(c) = certs::Certificate::from_pem(&text) {
        let _ = c.name();
    }
    let _ = certs::Certificate::from_der(data);
    let _ = text.parse::<velociraptor::crypto::ClientId>();
}

/// One job of an enrolled client.
fn job(data: &[u8]) {
    let extent =
        Extent { segment: Arc::new(Segment::of_path("/fuzz")), offset: 0, len: data.len() as u64 };
    if let Ok(j) = job::parse(data, job::hash(data), extent, None) {
        assert!(j.rows <= job::MAX_ROWS);
        let _ = velociraptor::services::ids::Session::parse(&j.message.session_id);
    }
}

/// A request head, then a chunked body.
fn http(data: &[u8]) {
    if let Ok(Some(used)) = server::fuzz::head(data) {
        assert!(used <= data.len());
        let body = &data[used..];
        if let Some(n) = server::fuzz::chunked_body(body) {
            assert!(n <= body.len(), "a body of {n} bytes out of {}", body.len());
        }
    }
}

/// The header a load balancer puts in front.
fn proxy(data: &[u8]) {
    let _ = server::fuzz::proxy_header(data);
}

/// Frames, as a server and as a client reads them.
fn websocket(data: &[u8]) {
    for from in [ws::Role::Client, ws::Role::Server] {
        let mut r = ws::WsReader::new(data, from, BytesMut::new(), 1 << 12, None);
        let mut events = 0;
        while let Ok(e) = futures::executor::block_on(r.next()) {
            if let ws::Event::Message(m, _) = e {
                assert!(m.len() <= 1 << 12);
            }
            events += 1;
            assert!(events <= data.len(), "more events than bytes");
        }
    }
}

/// The JSON that WebSocket messages are wrapped in.
fn ws_json(data: &[u8]) {
    if let Ok(e) = ws::Envelope::decode(data) {
        assert_eq!(ws::Envelope::decode(&e.encode()).ok().as_ref(), Some(&e));
    }
}

/// Configuration and settings files.
fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let settings = Settings::parse(&text).unwrap_or_default();
    let _ = Document::parse_api_client(&text, "fuzz");
    let Ok(doc) = Document::parse(&text, "fuzz") else { return };
    let findings = check::check(&doc, &settings, Role::Server, UNIX_EPOCH);
    let again = doc.to_yaml();
    let second = Document::parse(&again, "fuzz");
    if doc.problems().is_empty() {
        match second {
            Ok(second) => assert_eq!(second.value, doc.value, "written as {again:?}"),
            Err(e) => panic!("what was written cannot be read: {e}\n{again}"),
        }
        let _ = check::model(&doc);
    }
    drop(findings);
}

/// Files of result sets and uploads as stock or a crash left them.
fn resultset(data: &[u8]) {
    for p in resultset::index::parse(data) {
        assert!(p.encode().is_some());
    }
    let list = resultset::chunk::parse(data, data.len() as u64);
    for at in [0, 1, data.len() as u64, u64::MAX] {
        let i = resultset::chunk::locate(&list, at);
        assert!(list.get(i).is_none_or(|c| c.end() > at));
    }
    for c in &list {
        let (from, to) = (c.at as usize, (c.at + c.compressed) as usize);
        let small = resultset::chunk::Chunk { uncompressed: c.uncompressed.min(1 << 16), ..*c };
        let _ = resultset::chunk::inflate(&small, &data[from..to]);
    }
    assert!(resultset::tidx::parse(data).is_sorted_by(|a, b| a.offset < b.offset));
    let block = Bytes::copy_from_slice(data);
    let (lines, rest) = resultset::lines::split(&block);
    assert_eq!(lines.iter().map(|l| l.1.len() + 1).sum::<usize>() + rest.len(), data.len());
    for (_, line) in lines {
        let _ = resultset::lines::judge(&line);
        let _ = resultset::lines::moved_row(&line);
        let _ = snapshot::decode_row(&line);
        let _ = uploads::UploadRow::decode(&line);
    }
    let _ = uploads::parse_map(data);
}

/// Names that clients choose and the store turns into file names.
fn paths(data: &[u8]) {
    let name = escape::encode(data);
    assert!(!name.contains('/') && name != "." && name != "..", "{name}");
    let text = String::from_utf8_lossy(data);
    for c in client_path::split(&text).into_iter().chain(client_path::split_endpoint(&text)) {
        let name = escape::encode(c.as_bytes());
        assert!(!name.contains('/') && name != "." && name != "..", "{name}");
    }
    let _ = escape::decode(data);
}

/// A journal after a crash: records up to the first that is not whole.
fn journal(data: &[u8]) {
    let mut at = 0;
    while let Ok(f) = journal::decode_frame(&data[at..]) {
        assert!(f.len > 0 && f.payload <= f.len && at + f.len <= data.len());
        at += f.len;
    }
}

/// Queries, which people and artifacts bring.
fn vql(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = vql::parse(&text);
}
