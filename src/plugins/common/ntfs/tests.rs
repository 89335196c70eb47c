//! Volumes made by hand, of small clusters.

use super::*;
use std::io::{Cursor, Read, Seek, SeekFrom};

const CLUSTER: usize = 512;

fn put(data: &mut [u8], at: usize, bytes: &[u8]) {
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn attribute(kind: u32, id: u16, name: &str, rest: &[u8], resident: bool) -> Vec<u8> {
    let name = utf16(name);
    let head = if resident { 24 } else { 64 };
    let content = (head + name.len()).next_multiple_of(8);
    let mut out = vec![0; (content + rest.len()).next_multiple_of(8)];
    let length = out.len() as u32;
    put(&mut out, 0, &kind.to_le_bytes());
    put(&mut out, 4, &length.to_le_bytes());
    out[8] = u8::from(!resident);
    out[9] = (name.len() / 2) as u8;
    out[10] = head as u8;
    put(&mut out, 14, &id.to_le_bytes());
    put(&mut out, head, &name);
    if resident {
        put(&mut out, 16, &(rest.len() as u32).to_le_bytes());
        put(&mut out, 20, &(content as u16).to_le_bytes());
    } else {
        put(&mut out, 32, &(content as u16).to_le_bytes());
    }
    put(&mut out, content, rest);
    out
}

fn on_disk(kind: u32, id: u16, name: &str, sizes: [u64; 2], runs: &[u8]) -> Vec<u8> {
    let mut out = attribute(kind, id, name, runs, false);
    put(&mut out, 48, &sizes[0].to_le_bytes());
    put(&mut out, 56, &sizes[1].to_le_bytes());
    out
}

fn file_name(name: &str, space: u8) -> Vec<u8> {
    let mut out = vec![0; 66];
    put(&mut out, 8, &132_444_736_000_000_000u64.to_le_bytes());
    put(&mut out, 16, &132_444_736_010_000_000u64.to_le_bytes());
    out[64] = name.encode_utf16().count() as u8;
    out[65] = space;
    out.extend(utf16(name));
    out
}

fn entry(record: u64, name: &str, space: u8, below: Option<u64>) -> Vec<u8> {
    let key = if name.is_empty() { Vec::new() } else { file_name(name, space) };
    let mut out = vec![0; (16 + key.len()).next_multiple_of(8)];
    put(&mut out, 16, &key);
    out.extend(below.iter().flat_map(|b| b.to_le_bytes()));
    let length = out.len() as u16;
    put(&mut out, 0, &record.to_le_bytes());
    put(&mut out, 8, &length.to_le_bytes());
    out[12] = u8::from(below.is_some()) | if name.is_empty() { 2 } else { 0 };
    out
}

fn node(entries: &[Vec<u8>]) -> Vec<u8> {
    let all = entries.concat();
    let mut out = vec![0; 16];
    put(&mut out, 0, &16u32.to_le_bytes());
    put(&mut out, 4, &(16 + all.len() as u32).to_le_bytes());
    out.extend(all);
    out
}

fn sealed(magic: &[u8; 4], head: usize, content: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 1024];
    put(&mut out, 0, magic);
    put(&mut out, 4, &[0x30, 0, 3, 0]);
    put(&mut out, head, content);
    let ends = [out[510], out[511], out[1022], out[1023]];
    put(&mut out, 0x32, &ends);
    for end in [510, 1022] {
        put(&mut out, end, &[9, 9]);
    }
    put(&mut out, 0x30, &[9, 9]);
    out
}

fn record(attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut content = attributes.concat();
    content.extend(u32::MAX.to_le_bytes());
    let mut out = sealed(b"FILE", 0x38, &content);
    (out[16], out[18], out[20], out[22]) = (3, 1, 0x38, 1);
    put(&mut out, 24, &(0x38 + content.len() as u32 + 4).to_le_bytes());
    out
}

/// A volume of small clusters: the table of records from cluster 4, an index record at
/// cluster 40, content at cluster 50.
fn image() -> Vec<u8> {
    let mut data = vec![0; 60 * CLUSTER];
    put(&mut data, 3, b"NTFS    ");
    put(&mut data, 11, &(CLUSTER as u16).to_le_bytes());
    data[13] = 1;
    data[48] = 4;
    data[64] = 2;
    data[68] = 2;
    let mut times = vec![0; 48];
    for (at, second) in [(0, 1u64), (8, 2), (16, 3), (24, 4)] {
        let ticks = 132_444_736_000_000_000 + second * 10_000_000;
        put(&mut times, at, &ticks.to_le_bytes());
    }
    let times = || attribute(0x10, 0, "", &times, true);
    let mut root = vec![0; 16];
    root.extend(node(&[entry(6, "b.txt", 0, Some(0)), entry(0, "", 0, None)]));
    let block = sealed(b"INDX", 24, &{
        // The list of sector ends stands behind the head of the node.
        let mut inner =
            node(&[entry(7, "A dir", 1, None), entry(7, "ADIR~1", 2, None), entry(0, "", 0, None)]);
        let entries = inner.split_off(16);
        put(&mut inner, 0, &40u32.to_le_bytes());
        put(&mut inner, 4, &(40 + entries.len() as u32).to_le_bytes());
        inner.resize(40, 0);
        inner.extend(entries);
        inner
    });
    let mut inner = vec![0; 16];
    inner.extend(node(&[
        entry(8, "\u{e9}", 0, None),
        entry(99, "lost", 0, None),
        entry(0, "", 0, None),
    ]));
    let records = [
        (0, record(&[on_disk(0x80, 1, "", [20 << 10, 20 << 10], &[0x11, 36, 4, 0])])),
        (
            5,
            record(&[
                times(),
                attribute(0x90, 1, "$I30", &root, true),
                on_disk(0xa0, 2, "$I30", [1024, 1024], &[0x11, 2, 40, 0]),
            ]),
        ),
        (
            6,
            record(&[
                times(),
                attribute(0x30, 3, "", &file_name("b.txt", 0), true),
                attribute(0x80, 1, "", b"hello", true),
                // A cluster, two that are not there, and content that was never written.
                on_disk(0x80, 2, "more", [2000, 1100], &[0x11, 1, 50, 0x01, 3, 0]),
            ]),
        ),
        (7, record(&[times(), attribute(0x90, 1, "$I30", &inner, true)])),
        (8, record(&[times(), attribute(0x80, 1, "", b"", true)])),
    ];
    for (number, mut record) in records {
        record[44] = number as u8;
        put(&mut data, 4 * CLUSTER + number * 1024, &record);
    }
    put(&mut data, 40 * CLUSTER, &block);
    data[50 * CLUSTER..51 * CLUSTER].fill(b'x');
    data
}

#[test]
fn packed_content() {
    let mut data = image();
    data.resize(76 * CLUSTER, b'r');
    put(&mut data, 51 * CLUSTER, &[5, 0xb0, 8, b'a', b'b', b'c', 9, 0x20]);
    // Units of 16 clusters: one packed in one, one as it is, one that was never written.
    let list = [0x11, 1, 51, 0x01, 15, 0x11, 16, 9, 0x01, 16, 0];
    let size = 32 * CLUSTER as u64 + 9;
    let mut content = on_disk(0x80, 1, "", [size; 2], &list);
    (content[12], content[34]) = (1, 4);
    put(&mut data, 4 * CLUSTER + 8 * 1024, &record(&[content]));
    let volume = Volume::open(Box::new(Cursor::new(data))).unwrap();
    let content = volume.attributes(8).unwrap().pop().unwrap();
    let mut out = Vec::new();
    volume.stream(content.clone()).read_to_end(&mut out).unwrap();
    assert_eq!(out.len() as u64, size);
    let (first, rest) = out.split_at(16 * CLUSTER);
    assert_eq!(&first[..17], b"abcabcabcabcabc\0\0");
    assert!(rest[..16 * CLUSTER].iter().all(|b| *b == b'r'));
    assert_eq!(rest[16 * CLUSTER..], [0; 9]);
    let mut part = [0; 4];
    let mut file = volume.stream(content);
    file.seek(SeekFrom::Start(2)).unwrap();
    file.read_exact(&mut part).unwrap();
    assert_eq!(&part, b"cabc");
}

#[tokio::test]
async fn files_of_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("disk");
    std::fs::write(&at, image()).unwrap();
    let mut registry = vql::Registry::standard();
    super::super::register(&mut registry);
    let env = Arc::new(crate::env::real::env());
    let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
    scope.set("Disk", at.to_str().unwrap());
    let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
    let walk = "SELECT OSPath.Path AS P, Size, IsDir, Data.mft AS I, Data.error != NULL AS E FROM glob(\
        globs='/**', accessor='raw_ntfs', root=pathspec(DelegatePath=Disk))";
    let expected = [
        r#"{"P":"A dir","Size":0,"IsDir":true,"I":"7-144-1","E":false}"#,
        r#"{"P":"b.txt","Size":5,"IsDir":false,"I":"6-128-1","E":false}"#,
        r#"{"P":"b.txt:more","Size":2000,"IsDir":false,"I":"6-128-2","E":false}"#,
        r#"{"P":"A dir\\lost","Size":0,"IsDir":false,"I":null,"E":true}"#,
        r#"{"P":"A dir\\é","Size":0,"IsDir":false,"I":"8-128-1","E":false}"#,
    ];
    assert_eq!(query(walk).await, format!("[{}]", expected.join(",")));
    let facts = "SELECT Mtime, Atime, Ctime, Btime, Mode.String AS M, Data FROM stat(accessor='raw_ntfs', \
        filename=pathspec(DelegatePath=Disk, Path='B.TXT'))";
    let named = "LET S(P) = stat(accessor='raw_ntfs', filename=pathspec(DelegatePath=Disk, Path=P)).OSPath.Path \
        SELECT S(P='/B.TXT') AS A, S(P='a DIR/\u{c9}') AS B, S(P='b.txt:MORE') AS C, \
        hash(accessor='raw_ntfs', path=pathspec(DelegatePath=Disk, Path='A dir')) AS D FROM scope()";
    let expected = r#"[{"A":"/b.txt","B":"/a DIR/é","C":"/b.txt:MORE","D":null}]"#;
    assert_eq!(query(named).await, expected);
    let expected = concat!(
        r#"[{"Mtime":"2020-09-13T12:26:42Z","Atime":"2020-09-13T12:26:44Z","Ctime":"2020-09-13T12:26:43Z","#,
        r#""Btime":"2020-09-13T12:26:41Z","M":"-rwxr-xr-x","Data":{"mft":"6-128-1","name_type":"POSIX","#,
        r#""fn_btime":"2020-09-13T12:26:40Z","fn_mtime":"2020-09-13T12:26:41Z"}}]"#
    );
    assert_eq!(query(facts).await, expected);
    let read = "LET R(P) = read_file(accessor='raw_ntfs', filename=pathspec(DelegatePath=Disk, Path=P)) \
        SELECT R(P='b.txt') AS A, len(list=R(P='b.txt:more')) AS L, R(P='b.txt:more')[510:514] =~ 'xx' AS X, \
        R(P='b.txt:none') AS N, R(P='A dir') AS D, R(P='a dir/é') AS E FROM scope()";
    let expected = r#"[{"A":"hello","L":2000,"X":true,"N":"","D":"","E":""}]"#;
    assert_eq!(query(read).await, expected);
    let read = "LET R(P) = read_file(accessor='mft', filename=pathspec(DelegatePath=Disk, Path=P)) \
        SELECT R(P='6') AS A, len(list=R(P='6-128-2')) AS L, R(P='6-128-9') AS N, R(P='x') AS X, \
        stat(accessor='mft', filename=pathspec(DelegatePath=Disk, Path='C:/6')).Size AS S, \
        stat(accessor='mft', filename=pathspec(DelegatePath=Disk, Path='6-128-9')).Size AS T FROM scope()";
    assert_eq!(query(read).await, r#"[{"A":"hello","L":2000,"N":"","X":"","S":5,"T":5}]"#);
}

async fn on_disk_of(disk: &[u8], journal: &[u8], text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (at, beside) = (dir.path().join("disk"), dir.path().join("journal"));
    std::fs::write(&at, disk).unwrap();
    std::fs::write(&beside, journal).unwrap();
    let mut registry = vql::Registry::standard();
    super::super::register(&mut registry);
    let env = Arc::new(crate::env::real::env());
    let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
    scope.set("Disk", at.to_str().unwrap());
    scope.set("Journal", beside.to_str().unwrap());
    Value::from(vql::run(text, &scope).await.unwrap()).to_json()
}

#[tokio::test]
async fn records_of_files() {
    let text = "SELECT * FROM foreach(row=parse_ntfs(filename=Disk, inode='6-128-2'))";
    let expected = concat!(
        r#"[{"FullPath":"/b.txt","MFTID":6,"SequenceNumber":3,"Size":5,"Allocated":true,"IsDir":false,"#,
        r#""SI_Times":{"CreateTime":"2020-09-13T12:26:41Z","FileModifiedTime":"2020-09-13T12:26:42Z","#,
        r#""MFTModifiedTime":"2020-09-13T12:26:43Z","AccessedTime":"2020-09-13T12:26:44Z"},"#,
        r#""Filenames":[{"Times":{"CreateTime":"2020-09-13T12:26:40Z","FileModifiedTime":"2020-09-13T12:26:41Z","#,
        r#""MFTModifiedTime":"1601-01-01T00:00:00Z","AccessedTime":"1601-01-01T00:00:00Z"},"#,
        r#""Type":"POSIX","Name":"b.txt","ParentEntryNumber":0,"ParentSequenceNumber":0}],"#,
        r#""Attributes":[{"Type":"$STANDARD_INFORMATION","TypeId":16,"Id":0,"Inode":"6-16-0","Size":48,"Name":"","Resident":true},"#,
        r#"{"Type":"$FILE_NAME","TypeId":48,"Id":3,"Inode":"6-48-3","Size":76,"Name":"","Resident":true},"#,
        r#"{"Type":"$DATA","TypeId":128,"Id":1,"Inode":"6-128-1","Size":5,"Name":"","Resident":true},"#,
        r#"{"Type":"$DATA","TypeId":128,"Id":2,"Inode":"6-128-2","Size":2000,"Name":"more","Resident":false}],"#,
        r#""Hardlinks":["b.txt"]"#
    );
    let rows = on_disk_of(&image(), &[], text).await;
    assert!(rows.starts_with(expected), "{rows}");
    let text = "SELECT parse_ntfs(filename=Disk, mft=99) AS A, parse_ntfs(filename=Disk, inode='x') AS B, \
        parse_ntfs(mft=6) AS C, parse_ntfs(filename=Disk, mft=6).OSPath.Path AS D FROM scope()";
    let expected = r#"[{"A":null,"B":null,"C":null,"D":"b.txt"}]"#;
    assert_eq!(on_disk_of(&image(), &[], text).await, expected);
    let text = "SELECT EntryNumber AS E, Inode AS I, OSPath.Components AS P, FullPath AS F, FileNames AS N, Components[1] AS O, \
        FileSize AS S, HasADS AS H, SIFlags AS G, USecZeros AS U, Created0x10 AS C, LastModified0x30 AS M \
        FROM parse_mft(accessor='mft', filename=pathspec(DelegatePath=Disk, Path='0'), prefix='C:')";
    let expected = concat!(
        r#"[{"E":6,"I":"6","P":["\\\\.\\C:","b.txt"],"F":"\\\\.\\C:\\b.txt","N":["b.txt"],"O":"b.txt","S":5,"H":true,"G":"0 ()","U":true,"#,
        r#""C":"2020-09-13T12:26:41Z","M":"2020-09-13T12:26:41Z"},"#,
        r#"{"E":6,"I":"6:more","P":["\\\\.\\C:","b.txt:more"],"F":"\\\\.\\C:\\b.txt:more","N":["b.txt:more"],"O":"b.txt:more","S":64,"H":true,"#,
        r#""G":"0 ()","U":true,"C":"2020-09-13T12:26:41Z","M":"2020-09-13T12:26:41Z"}]"#
    );
    assert_eq!(on_disk_of(&image(), &[], text).await, expected);
}

#[tokio::test]
async fn where_content_lies() {
    let text = "SELECT Level AS L, FromOffset AS F, ToOffset AS T, Length AS N, CompressedLength AS C, \
        IsSparse AS S, ClusterSize AS U, Reader AS R, String =~ 'FileOffset' AS Told \
        FROM parse_ntfs_ranges(filename=Disk, inode=";
    let of = async |inode: &str| on_disk_of(&image(), &[], &format!("{text}'{inode}')")).await;
    let expected =
        r#"[{"L":0,"F":0,"T":0,"N":5,"C":0,"S":false,"U":1,"R":"*bytes.Reader","Told":true}]"#;
    assert_eq!(of("6-128-1").await, expected);
    let expected = [
        r#"{"L":0,"F":0,"T":0,"N":1100,"C":0,"S":false,"U":1,"R":"*parser.RangeReader","Told":true}"#,
        r#"{"L":1,"F":0,"T":50,"N":1,"C":0,"S":false,"U":512,"R":"*readers.AccessorReader","Told":true}"#,
        r#"{"L":1,"F":1,"T":0,"N":3,"C":0,"S":false,"U":512,"R":"*readers.AccessorReader","Told":true}"#,
        r#"{"L":0,"F":1100,"T":0,"N":900,"C":0,"S":true,"U":1,"R":"*parser.NullReader","Told":true}"#,
    ];
    assert_eq!(of("6-128-2").await, format!("[{}]", expected.join(",")));
    assert_eq!(of("6-128-9").await, "[]");
    assert_eq!(of("x").await, "[]");
}

#[tokio::test]
async fn entries_of_directories() {
    let text = "SELECT MFTId AS R, Name AS N, NameType AS T, IsSlack AS S \
        FROM parse_ntfs_i30(filename=Disk, mft=7)";
    let expected =
        r#"[{"R":"8","N":"é","T":"POSIX","S":false},{"R":"99","N":"lost","T":"POSIX","S":false}]"#;
    assert_eq!(on_disk_of(&image(), &[], text).await, expected);
}

/// A change of a file in a directory, each with a use of its record.
fn change(usn: u64, file: (u64, u16), parent: (u64, u16), name: &str) -> Vec<u8> {
    let mut out = vec![0; (60 + name.len() * 2).next_multiple_of(8)];
    let length = out.len() as u32;
    put(&mut out, 0, &length.to_le_bytes());
    out[4] = 2;
    for (at, (record, sequence)) in [(8, file), (16, parent)] {
        put(&mut out, at, &(record | u64::from(sequence) << 48).to_le_bytes());
    }
    put(&mut out, 24, &usn.to_le_bytes());
    put(&mut out, 32, &132_444_736_000_000_000u64.to_le_bytes());
    put(&mut out, 40, &0x8000_0100u32.to_le_bytes());
    put(&mut out, 52, &0x20u32.to_le_bytes());
    put(&mut out, 56, &[(name.len() * 2) as u8, 0, 60, 0]);
    put(&mut out, 60, &utf16(name));
    out
}

#[tokio::test]
async fn journals_of_changes() {
    let parts = [
        vec![0; 64],
        change(64, (20, 1), (6, 3), "new"),
        vec![0; 4096],
        vec![0xee; 40],
        // A directory that is gone, and what was in it.
        change(72, (20, 2), (8, 1), "child"),
        change(80, (8, 1), (6, 3), "gone"),
        change(88, (21, 1), (6, 9), "lost"),
    ];
    let journal = parts.concat();
    let text = "SELECT * FROM parse_usn(usn_filename=Journal, image_filename=Disk) LIMIT 1";
    let expected = concat!(
        r#"[{"Usn":64,"Timestamp":"2020-09-13T12:26:40Z","Filename":"new","_Links":["b.txt\\new"],"#,
        r#""OSPath":"b.txt\\new","FileAttributes":["ARCHIVE"],"Reason":["FILE_CREATE","CLOSE"],"#,
        r#""SourceInfo":[],"_FileMFTID":20,"_FileMFTSequence":1,"_ParentMFTID":6,"_ParentMFTSequence":3}]"#
    );
    assert_eq!(on_disk_of(&image(), &journal, text).await, expected);
    let text = "SELECT OSPath AS P FROM parse_usn(usn_filename=Journal, image_filename=Disk, start_offset=72)";
    let expected = r#"[{"P":"b.txt\\gone\\child"},{"P":"b.txt\\gone"},{"P":"\u003cErr\u003e\\\u003cParent 6-3 need 9\u003e\\lost"}]"#;
    assert_eq!(on_disk_of(&image(), &journal, text).await, expected);
    let text = "SELECT OSPath AS P FROM parse_usn(usn_filename=Journal)";
    let expected = r#"[{"P":"new"},{"P":"child"},{"P":"gone"},{"P":"lost"}]"#;
    assert_eq!(on_disk_of(&image(), &journal, text).await, expected);
    // There is none in the image.
    assert_eq!(
        on_disk_of(&image(), &[], "SELECT * FROM parse_usn(image_filename=Disk)").await,
        "[]"
    );
}

#[test]
fn volumes_that_lie() {
    let good = image();
    let look = |data: Vec<u8>| {
        let Ok(volume) = Volume::open(Box::new(Cursor::new(data))) else { return };
        let options = links::Options::of(
            &vql::ScopeBuilder::new(Arc::new(vql::Registry::standard())).build(),
        );
        let mut links = links::Links::new(volume.clone(), options);
        for record in 0..10 {
            let Ok(attributes) = volume.attributes(record) else { continue };
            let _ = index::entries(&volume, &attributes);
            index::every_entry(&volume, &attributes);
            links.paths(record, 3, 0);
            for a in attributes {
                let _ = volume.content(&a, 1 << 16);
            }
        }
    };
    let places = (0..100).chain(4 * CLUSTER..22 * CLUSTER).chain(40 * CLUSTER..41 * CLUSTER);
    for at in places.filter(|at| good[*at] != 0) {
        for bits in [0xff, 0x01, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bits;
            look(bad);
        }
    }
    for length in (0..good.len()).step_by(300) {
        look(good[..length].to_vec());
    }
}
