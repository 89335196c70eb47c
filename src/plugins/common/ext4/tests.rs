//! Images made by hand: blocks of 1024 bytes, 16 inodes of 128 or 256.

use std::io::{Read, Seek, SeekFrom};

use vql::Value;

use super::inode::EXTENTS;
use super::*;
use crate::plugins::common::fields::Fields;

const BLOCK: usize = 1024;
/// Where the inodes are.
const TABLE: usize = 5;

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn put32(data: &mut [u8], at: usize, n: u32) {
    put(data, at, &n.to_le_bytes());
}

/// An empty volume.
fn blank(inode_size: usize, blocks: usize) -> Vec<u8> {
    let mut out = vec![0; blocks * BLOCK];
    for (at, n) in [(0, 16), (20, 1), (40, 16), (76, 1)] {
        put32(&mut out, BLOCK + at, n);
    }
    put(&mut out, BLOCK + 56, &0xef53u16.to_le_bytes());
    put(&mut out, BLOCK + 88, &(inode_size as u16).to_le_bytes());
    put32(&mut out, 2 * BLOCK + 8, TABLE as u32);
    out
}

fn size_of(out: &[u8]) -> usize {
    usize::from(out.u16(BLOCK + 88).unwrap())
}

/// Writes an inode with that list of blocks, or tree of them.
fn put_inode(out: &mut [u8], number: usize, mode: u16, size: u32, flags: u32, list: &[u32]) {
    let length = size_of(out);
    let at = TABLE * BLOCK + (number - 1) * length;
    put(out, at, &mode.to_le_bytes());
    put(out, at + 2, &7u16.to_le_bytes());
    put(out, at + 24, &8u16.to_le_bytes());
    for (field, n) in [(4, size), (8, 100), (12, 200), (16, 300), (32, flags)] {
        put32(out, at + field, n);
    }
    for (i, n) in list.iter().enumerate() {
        put32(out, at + 40 + i * 4, *n);
    }
    if length > 128 {
        put(out, at + 128, &28u16.to_le_bytes());
        // Half a second; the second turn of the seconds.
        put32(out, at + 136, 500_000_000 << 2);
        put32(out, at + 132, 1);
        put32(out, at + 144, 400);
    }
}

fn entries(all: &[(&str, u32)]) -> Vec<u8> {
    let mut out = vec![0; BLOCK];
    let mut at = 0;
    for (i, (name, number)) in all.iter().enumerate() {
        let length =
            if i + 1 == all.len() { BLOCK - at } else { (8 + name.len()).next_multiple_of(4) };
        put32(&mut out, at, *number);
        put(&mut out, at + 4, &(length as u16).to_le_bytes());
        out[at + 6] = name.len() as u8;
        put(&mut out, at + 8, name.as_bytes());
        at += length;
    }
    out
}

/// A tree of one leaf or node: `(start, length, block)`.
fn tree(depth: u32, all: &[(u32, u32, u32)]) -> Vec<u32> {
    let mut out = vec![0xf30a | (all.len() as u32) << 16, 4 | depth << 16, 0];
    for (start, length, block) in all {
        match depth {
            0 => out.extend([*start, *length, *block]),
            _ => out.extend([*start, *block, 0]),
        }
    }
    out
}

/// A folder; in it a file with a hole and blocks that are not written, one whose blocks are
/// told by a node, one with a list of blocks, and a link.
fn image(inode_size: usize) -> Vec<u8> {
    let mut out = blank(inode_size, 320);
    put_inode(&mut out, 2, 0o040_755, 1024, 0, &[20]);
    put(&mut out, 20 * BLOCK, &entries(&[(".", 2), ("..", 2), ("dir", 11), ("gone", 0)]));
    put_inode(&mut out, 11, 0o040_700, 1024, EXTENTS, &tree(0, &[(0, 1, 21)]));
    let names = [
        (".", 11),
        ("..", 2),
        ("Holes", 12),
        ("list", 13),
        ("node", 14),
        ("link", 15),
        ("bad", 99),
    ];
    put(&mut out, 21 * BLOCK, &entries(&names));
    let holes = tree(0, &[(0, 1, 22), (2, 0x8001, 23), (3, 1, 24)]);
    put_inode(&mut out, 12, 0o100_644, 3 * 1024 + 4, EXTENTS, &holes);
    out[22 * BLOCK..23 * BLOCK].fill(b'a');
    out[23 * BLOCK..24 * BLOCK].fill(b'x');
    put(&mut out, 24 * BLOCK, b"tail");
    // Twelve blocks, then one that is named by a block, and behind that by one two removes off.
    let list: Vec<u32> = (30..42).chain([50, 51]).collect();
    put_inode(&mut out, 13, 0o100_600, 269 * 1024, 0, &list);
    for n in 30..42 {
        out[n * BLOCK..(n + 1) * BLOCK].fill(b'0' + (n - 30) as u8);
    }
    put32(&mut out, 50 * BLOCK, 53);
    put(&mut out, 53 * BLOCK, b"one remove");
    put32(&mut out, 51 * BLOCK, 52);
    put32(&mut out, 52 * BLOCK, 54);
    put(&mut out, 54 * BLOCK, b"two removes");
    put_inode(&mut out, 14, 0o100_644, 4, EXTENTS, &tree(1, &[(0, 0, 55)]));
    for (i, n) in tree(0, &[(0, 1, 56)]).iter().enumerate() {
        put32(&mut out, 55 * BLOCK + i * 4, *n);
    }
    put(&mut out, 56 * BLOCK, b"leaf");
    put_inode(&mut out, 15, 0o120_777, 4, 0, &[u32::from_le_bytes(*b"list")]);
    out
}

async fn query(image: &[u8], text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("disk");
    std::fs::write(&at, image).unwrap();
    let mut registry = vql::Registry::standard();
    super::super::register(&mut registry);
    let env = Arc::new(crate::env::real::env());
    let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
    scope.set("Image", at.to_str().unwrap());
    Value::from(vql::run(text, &scope).await.unwrap()).to_json()
}

#[tokio::test]
async fn files_and_their_facts() {
    let walk = "SELECT OSPath.Path AS P, Size, Mode.String AS M, Data.Inode AS I, Data.error AS E \
        FROM glob(globs='/**', accessor='raw_ext4', root=pathspec(DelegatePath=Image))";
    let expected = [
        r#"{"P":"/dir","Size":1024,"M":"drwx------","I":11,"E":null}"#,
        r#"{"P":"/dir/Holes","Size":3076,"M":"-rw-r--r--","I":12,"E":null}"#,
        r#"{"P":"/dir/bad","Size":0,"M":"-r--r--r--","I":null,"E":"an entry names no inode"}"#,
        r#"{"P":"/dir/link","Size":4,"M":"Lrwxrwxrwx","I":15,"E":null}"#,
        r#"{"P":"/dir/list","Size":275456,"M":"-rw-------","I":13,"E":null}"#,
        r#"{"P":"/dir/node","Size":4,"M":"-rw-r--r--","I":14,"E":null}"#,
    ];
    assert_eq!(query(&image(128), walk).await, format!("[{}]", expected.join(",")));
    let facts = "SELECT Mtime, Atime, Ctime, Btime, Data FROM glob(globs='/dir', accessor='raw_ext4', \
        root=pathspec(DelegatePath=Image))";
    let data = r#""Data":{"Inode":11,"Uid":7,"Gid":8}"#;
    let small = r#""Mtime":"1970-01-01T00:05:00Z","Atime":"1970-01-01T00:01:40Z","Ctime":"1970-01-01T00:03:20Z","Btime":"1970-01-01T00:00:00Z""#;
    assert_eq!(query(&image(128), facts).await, format!("[{{{small},{data}}}]"));
    let large = r#""Mtime":"1970-01-01T00:05:00.5Z","Atime":"1970-01-01T00:01:40Z","Ctime":"2106-02-07T06:31:36Z","Btime":"1970-01-01T00:06:40Z""#;
    assert_eq!(query(&image(256), facts).await, format!("[{{{large},{data}}}]"));
}

#[tokio::test]
async fn content_wherever_its_blocks_are() {
    let text = "LET R(P, O, L) = read_file(accessor='raw_ext4', offset=O, length=L, \
        filename=pathspec(DelegatePath=Image, Path=P)) \
        SELECT R(P='/DIR/holes', O=1022, L=4) = 'aa\\x00\\x00' AS Hole, \
        R(P='/dir/Holes', O=2048, L=2) = '\\x00\\x00' AS Kept, R(P='/dir/Holes', O=3072, L=9) AS Tail, \
        R(P='/dir/list', O=11263, L=3) AS Direct, R(P='/dir/list', O=12288, L=10) AS One, \
        R(P='/dir/list', O=274432, L=11) AS Two, R(P='/dir/node', O=0, L=9) AS Node, \
        R(P='/dir/link', O=0, L=9) AS Link, R(P='/dir/none', O=0, L=9) AS None, \
        R(P='/dir/node/x', O=0, L=9) AS Below, R(P='/dir', O=8, L=1) AS Entries FROM scope()";
    let expected = r#"[{"Hole":true,"Kept":true,"Tail":"tail","Direct":":;;","One":"one remove","Two":"two removes","Node":"leaf","Link":"list","None":"","Below":"","Entries":"."}]"#;
    assert_eq!(query(&image(256), text).await, expected);
}

#[test]
fn images_that_lie() {
    let look = |data: Vec<u8>| {
        let Ok(volume) = Volume::open(Box::new(io::Cursor::new(data))) else { return };
        let volume = Arc::new(volume);
        for number in [2, 11, 12, 13, 14, 15] {
            let Ok(inode) = volume.inode(number) else { continue };
            let _ = volume.entries(&inode);
            if let Ok(mut file) = volume.open_file(&inode) {
                let _ = file.read(&mut [0; 64]);
                let _ = file.seek(SeekFrom::Start(13 * 1024));
                let _ = file.read(&mut [0; 64]);
            }
        }
    };
    let good = image(128);
    let places = (BLOCK..BLOCK + 110)
        .chain(2 * BLOCK..2 * BLOCK + 64)
        .chain(TABLE * BLOCK + 10 * 128..TABLE * BLOCK + 15 * 128);
    for at in places.chain(20 * BLOCK..20 * BLOCK + 64).chain(55 * BLOCK..55 * BLOCK + 24) {
        for change in [0xff, 0x01, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= change;
            look(bad);
        }
    }
}
