use bytes::Bytes;
use data_encoding::BASE64;
use proptest::prelude::*;
use serde_json::Value;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::crypto::{PrivateKey, PublicKey};
use crate::env::Entropy;

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap()
});

const PACKETS: [&str; 5] =
    ["client_checkin", "client_enrol", "client_stats_plain", "server_cancel", "server_empty"];

fn blob(packet: &str, field: &str) -> Vec<u8> {
    BASE64.decode(VECTORS[packet][field].as_str().unwrap().as_bytes()).unwrap()
}

fn private(name: &str) -> PrivateKey {
    PrivateKey::from_pem(VECTORS[name].as_str().unwrap()).unwrap()
}

static SERVER: LazyLock<PrivateKey> = LazyLock::new(|| private("server_key"));
static CLIENT: LazyLock<PrivateKey> = LazyLock::new(|| private("client_key"));

/// Receiver's and sender's keys of a published packet.
fn ends(packet: &str) -> (&'static PrivateKey, &'static PublicKey, &'static str) {
    if packet.starts_with("client") {
        (&SERVER, CLIENT.public(), "C.627d340c27f93796")
    } else {
        (&CLIENT, SERVER.public(), "VelociraptorServer")
    }
}

struct Seeded(AtomicU64);

impl Entropy for Seeded {
    fn fill(&self, buf: &mut [u8]) {
        for b in buf {
            let x =
                self.0.load(Ordering::Relaxed).wrapping_mul(6364136223846793005).wrapping_add(1);
            self.0.store(x, Ordering::Relaxed);
            *b = (x >> 56) as u8;
        }
    }
}

fn seeded(seed: u64) -> Seeded {
    Seeded(seed.into())
}

fn sealed(body: Vec<u8>) -> Result<Sealed, EnvelopeError> {
    match parse(body.into())? {
        Packet::Sealed(s) => Ok(s),
        Packet::Empty => Err(EnvelopeError::Missing("everything")),
    }
}

/// The slow path from body to opened packet.
fn open(body: Vec<u8>, key: &PrivateKey) -> Result<(Session, Opened), EnvelopeError> {
    let packet = sealed(body)?;
    let session = unwrap_session(std::slice::from_ref(key), &packet)?;
    let opened = open_with(&session.keys, packet)?;
    Ok((session, opened))
}

#[test]
fn published_packets_open_in_every_stage() {
    for (name, len) in PACKETS.iter().zip([658, 1379, 658, 658, 626]) {
        let (key, sender, source) = ends(name);
        let body = blob(name, "body");
        assert_eq!(body.len(), len, "{name}");
        let packet = sealed(body.clone()).unwrap();
        assert_eq!(packet.api_version(), 4);
        let session = unwrap_session(std::slice::from_ref(key), &packet).unwrap();
        assert_eq!(session.source, source, "{name}");
        let properties = blob(name, "cipher_properties");
        assert_eq!(properties.len(), 69);
        assert_eq!(*session.keys.to_properties(), properties, "{name}");
        assert!(session.verify(sender), "{name}");
        assert!(sender.verify(&properties, &blob(name, "signature")), "{name}");
        let opened = open_with(&session.keys, packet).unwrap();
        assert_eq!(opened.timestamp_us, 1_767_225_600_000_000);
        opened.check_nonce(VECTORS["nonce"].as_str().unwrap()).unwrap();
        assert_eq!(opened.check_nonce("dGVzdG5vbmM"), Err(EnvelopeError::Nonce));
        let compressed = matches!(*name, "client_checkin" | "client_enrol");
        assert_eq!(opened.compression == Compression::Zlib, compressed, "{name}");
        assert_eq!(opened.lists.len(), 1);
        let list = inflate_list(&opened.lists[0], opened.compression, MAX_LIST_BYTES).unwrap();
        assert_eq!(list, blob(name, "message_list"), "{name}");
        let jobs = inflate_lists(&opened, &Limits::default()).unwrap();
        assert_eq!(jobs.len(), usize::from(*name != "server_empty"));
        // Packed again from the raw job, the list is the same.
        let mut again = Vec::new();
        jobs.iter().for_each(|j| pack_job(&mut again, j));
        assert_eq!(again, list);
        // A second packet of the session takes the cached path.
        assert!(open_with(&session.keys, sealed(body).unwrap()).is_ok());
    }
}

#[test]
fn check_in_job_reads_as_the_published_message() {
    use prost::Message;
    let (_, opened) = open(blob("client_checkin", "body"), &SERVER).unwrap();
    let jobs = inflate_lists(&opened, &Limits::default()).unwrap();
    let m = velociraptor_proto::proto::VeloMessage::decode(&jobs[0][..]).unwrap();
    assert_eq!(m.session_id, "E.Foreman");
    assert_eq!(crate::crypto::job_hash(&jobs[0]).len(), 16);
    assert_eq!(hex::encode(crate::crypto::job_hash(b"abc")), "ba7816bf8f01cfea414140de5dae2223");
}

#[test]
fn pads_before_a_packet_and_empty_bodies() {
    let mut body = PAD.repeat(3);
    body.extend(blob("server_cancel", "body"));
    let (session, _) = open(body, &CLIENT).unwrap();
    assert_eq!(session.source, "VelociraptorServer");
    for empty in [vec![], PAD.to_vec(), PAD.repeat(50)] {
        assert!(matches!(parse(empty.into()), Ok(Packet::Empty)));
    }
    // Not empty, but useless: an error that names the field.
    let e = parse(Bytes::from_static(b"\x0a\x02\x00\x00")).unwrap_err();
    assert_eq!(e, EnvelopeError::Length("encrypted", 2));
    let e = parse(Bytes::from(blob("server_cancel", "body")[..194].to_vec())).unwrap_err();
    assert_eq!(e, EnvelopeError::Malformed("ClientCommunication"));
    let e = parse(Bytes::from(blob("server_cancel", "body")[..66].to_vec())).unwrap_err();
    assert_eq!(e, EnvelopeError::Missing("encrypted_cipher"));
}

/// Value spans of the fields of a body.
fn spans(body: &[u8]) -> Vec<(u32, std::ops::Range<usize>)> {
    super::wire::fields(body)
        .filter_map(|f| match f.unwrap() {
            (n, super::wire::Value::Span(s)) => Some((n, s)),
            _ => None,
        })
        .collect()
}

#[test]
fn one_flipped_bit_in_each_field_is_refused_by_name() {
    let body = blob("client_stats_plain", "body");
    let (session, _) = open(body.clone(), &SERVER).unwrap();
    let found = spans(&body);
    assert_eq!(found.iter().map(|f| f.0).collect::<Vec<_>>(), [1, 2, 8, 9, 10]);
    for (field, span) in found {
        let mut bad = body.clone();
        bad[span.start + span.len() / 2] ^= 4;
        let slow = open(bad.clone(), &SERVER).unwrap_err();
        let want = if field == 2 { EnvelopeError::Key } else { EnvelopeError::Hmac };
        assert_eq!(slow, want, "field {field}");
        let fast = open_with(&session.keys, sealed(bad).unwrap()).unwrap_err();
        assert_eq!(fast, EnvelopeError::Hmac, "field {field}");
    }
    // api_version 4 -> 3: tag 0x30 stands behind the first two fields.
    let at = spans(&body)[1].1.end;
    assert_eq!(body[at..at + 2], [0x30, 4]);
    let mut old = body.clone();
    old[at + 1] = 3;
    assert_eq!(open(old, &SERVER).unwrap_err(), EnvelopeError::Hmac);
}

#[test]
fn every_truncation_is_an_error() {
    let body = blob("client_checkin", "body");
    for n in 1..body.len() {
        assert!(open(body[..n].to_vec(), &SERVER).is_err(), "{n}");
    }
}

#[test]
fn worked_example_with_known_keys() {
    let run = |from: u8| (from..from + 16).collect::<Vec<u8>>();
    let mut p = Vec::new();
    for (field, value) in
        [(1, b"aes_128_cbc".to_vec()), (2, run(0)), (3, run(0x10)), (5, run(0x20))]
    {
        super::wire::put_bytes(&mut p, field, &value);
    }
    super::wire::put_number(&mut p, 6, 1);
    let keys = SessionKeys::from_properties(&p).unwrap();
    assert_eq!(*keys.to_properties(), p);
    assert_eq!(
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &p)),
        "16c27ed8b21245ea20c261a57d817287228ed123422d45732a61a9791d61cb22"
    );
    let mut inner = Vec::new();
    let list = hex::decode("0a100a09452e466f72656d616eda01021005").unwrap();
    super::wire::put_bytes(&mut inner, 1, &list);
    super::wire::put_number(&mut inner, 6, 1_700_000_000_000_000);
    super::wire::put_bytes(&mut inner, 7, b"nonce123");
    let iv: [u8; 16] = run(0x30).try_into().unwrap();
    keys.encrypt(iv, &mut inner).unwrap();
    let cipher_text = "3f2ffc33621f2a1755b6b96f7c341339bab6f9bba73abc11984af10ab53ed977\
                       013be1d7fbed6a5ef941729070d4a632";
    assert_eq!(hex::encode(&inner), cipher_text);
    let mac = keys.hmac([&inner, &[0xaa; 256], &[0xbb; 16], &iv], 4);
    assert_eq!(hex::encode(mac), "debb11ea52776699c66caa4eba94c291325f9e82");
}

#[test]
fn a_wrong_signer_is_seen_only_by_verify() {
    let other = PrivateKey::generate().unwrap();
    let cipher = SessionCipher::new(&seeded(1), "VelociraptorServer", &other, CLIENT.public());
    let none: [&[u8]; 1] = [b""];
    let body = cipher.unwrap().seal(&seeded(2), &none, Compression::None, "n", 5).unwrap();
    let (session, opened) = open(body, &CLIENT).unwrap();
    assert_eq!(opened.lists, [Bytes::new()]);
    assert!(!session.verify(SERVER.public()));
    assert!(session.verify(other.public()));
}

#[test]
fn earlier_keys_still_open_sessions() {
    let new = PrivateKey::generate().unwrap();
    let body = blob("client_checkin", "body");
    let packet = sealed(body.clone()).unwrap();
    assert_eq!(
        unwrap_session(std::slice::from_ref(&new), &packet).unwrap_err(),
        EnvelopeError::Key
    );
    assert_eq!(unwrap_session(&[], &packet).unwrap_err(), EnvelopeError::Key);
    let session = unwrap_session(&[new, SERVER.clone()], &packet).unwrap();
    assert_eq!(session.key_index, 1);
}

#[test]
fn padding_is_strict() {
    let mut block = [16u8; 16];
    assert_eq!(unpad(&block), Some(0));
    for last in [0, 17, 32, 255] {
        block[15] = last;
        assert_eq!(unpad(&block), None, "{last}");
    }
    assert_eq!(unpad(&[]), None);
    assert_eq!(unpad(&[1]), None);
    let mut two = [7u8; 32];
    two[31] = 1;
    assert_eq!(unpad(&two), Some(31));
    two[30] = 2;
    two[31] = 3;
    assert_eq!(unpad(&two), None);
}

fn opened(lists: Vec<Bytes>, compression: Compression) -> Opened {
    Opened { lists, compression, timestamp_us: 0, nonce: String::new() }
}

#[test]
fn bombs_and_damaged_lists_are_refused() {
    let cipher =
        SessionCipher::new(&seeded(3), "C.627d340c27f93796", &CLIENT, SERVER.public()).unwrap();
    let zeros = [0x0au8, 0].repeat(600_000);
    let body = cipher.seal(&seeded(4), &[zeros], Compression::Zlib, "n", 1).unwrap();
    assert!(body.len() < 40_000);
    let (_, o) = open(body, &SERVER).unwrap();
    let tight = Limits { list_bytes: 1_199_999, ..Limits::default() };
    assert_eq!(inflate_lists(&o, &tight), Err(EnvelopeError::TooLarge(1_199_999, "bytes")));
    let few = Limits { jobs: 599_999, ..Limits::default() };
    assert_eq!(inflate_lists(&o, &few), Err(EnvelopeError::TooLarge(599_999, "jobs")));
    let fits = Limits { list_bytes: 1_200_000, jobs: 600_000, total_bytes: 1_200_000 };
    assert_eq!(inflate_lists(&o, &fits).unwrap().len(), 600_000);
    let twice = opened(vec![o.lists[0].clone(), o.lists[0].clone()], Compression::Zlib);
    assert_eq!(
        inflate_lists(&twice, &Limits { jobs: 1 << 30, ..fits }),
        Err(EnvelopeError::TooLarge(1_200_000, "bytes"))
    );

    let whole = o.lists[0].clone();
    for bad in [whole.slice(..whole.len() - 1), whole.slice(1..), Bytes::from_static(b"x")] {
        let e = inflate_lists(&opened(vec![bad], Compression::Zlib), &Limits::default());
        assert_eq!(e, Err(EnvelopeError::Inflate));
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    let e = inflate_lists(&opened(vec![longer.into()], Compression::Zlib), &Limits::default());
    assert_eq!(e, Err(EnvelopeError::Inflate));
    let e = inflate_lists(
        &opened(vec![Bytes::from_static(b"\x0a\x05ab")], Compression::None),
        &Limits::default(),
    );
    assert_eq!(e, Err(EnvelopeError::Malformed("MessageList")));
    // Fields other than jobs are skipped; glued lists are one list.
    let list = Bytes::from_static(b"\x0a\x01a\x10\x07\x0a\x01b");
    let o = opened(vec![list, Bytes::new()], Compression::None);
    assert_eq!(inflate_lists(&o, &Limits::default()).unwrap(), ["a", "b"]);
}

#[test]
fn the_payload_is_decrypted_where_it_lies() {
    let list = vec![7u8; 100_000];
    let body = TO_SERVER.seal(&seeded(1), &[list], Compression::None, "n", 1).unwrap();
    let body = Bytes::from(body);
    let place = body.as_ptr_range();
    let Ok(Packet::Sealed(packet)) = parse(body) else { panic!("not sealed") };
    let opened = open_with(&TO_SERVER.keys(), packet).unwrap();
    assert_eq!(opened.lists[0], [7u8; 100_000][..]);
    assert!(place.contains(&opened.lists[0].as_ptr()), "the body was copied");
}

#[test]
fn unknown_compression_and_wrong_types_are_errors() {
    let cipher =
        SessionCipher::new(&seeded(3), "C.627d340c27f93796", &CLIENT, SERVER.public()).unwrap();
    let send = |inner: &[u8]| {
        let body = cipher.finish(&seeded(9), inner.to_vec(), 4).unwrap();
        open(body, &SERVER).map(|(_, o)| o)
    };
    assert_eq!(send(b"\x20\x02").unwrap_err(), EnvelopeError::Compression(2));
    assert_eq!(send(b"\x38\x02").unwrap_err(), EnvelopeError::Malformed("PackedMessageList"));
    assert_eq!(send(b"\x3a\x01\xff").unwrap_err(), EnvelopeError::Utf8("nonce"));
    assert_eq!(send(b"\x0a").unwrap_err(), EnvelopeError::Malformed("PackedMessageList"));
    assert!(send(b"").unwrap().lists.is_empty());
    // Unknown fields are skipped, the last of two values counts.
    assert_eq!(send(b"\x3a\x01a\x50\x01\x3a\x01b").unwrap().nonce, "b");
}

static TO_SERVER: LazyLock<SessionCipher> = LazyLock::new(|| {
    SessionCipher::new(&seeded(7), "C.627d340c27f93796", &CLIENT, SERVER.public()).unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn open_undoes_seal(
        jobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        per_list in 1usize..4,
        zlib: bool,
        nonce in "[a-zA-Z0-9=+/ ]{0,20}",
        time: u64,
        seed: u64,
    ) {
        let lists: Vec<Vec<u8>> = jobs.chunks(per_list).map(|c| {
            let mut l = Vec::new();
            c.iter().for_each(|j| pack_job(&mut l, j));
            l
        }).collect();
        let how = if zlib { Compression::Zlib } else { Compression::None };
        let body = TO_SERVER.seal(&seeded(seed), &lists, how, &nonce, time).unwrap();
        let (session, o) = open(body, &SERVER).unwrap();
        prop_assert!(session.verify(CLIENT.public()));
        prop_assert_eq!(session.source, "C.627d340c27f93796");
        prop_assert_eq!(o.timestamp_us, time);
        prop_assert_eq!(&o.nonce, &nonce);
        let got = inflate_lists(&o, &Limits::default()).unwrap();
        prop_assert_eq!(got, jobs);
    }

    #[test]
    fn any_flipped_bit_is_refused(
        data in prop::collection::vec(any::<u8>(), 0..300), at: prop::sample::Index, bit in 0u8..8,
    ) {
        let mut body = TO_SERVER.seal(&seeded(1), &[data], Compression::None, "n", 1).unwrap();
        let i = at.index(body.len());
        body[i] ^= 1 << bit;
        prop_assert!(open(body.clone(), &SERVER).is_err());
        if let Ok(p) = sealed(body) {
            prop_assert!(open_with(&TO_SERVER.keys(), p).is_err());
        }
    }

    #[test]
    fn random_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = open(data.clone(), &SERVER);
        let _ = SessionKeys::from_properties(&data);
        let list = Bytes::from(data);
        let _ = jobs(&list).count();
        let _ = inflate_list(&list, Compression::Zlib, 1000);
    }
}
