use bytes::Bytes;

use super::*;

const T: Duration = Duration::ZERO;

fn b(s: &'static str) -> Bytes {
    Bytes::from_static(s.as_bytes())
}

fn data(t: &mut Tree, path: &str) -> Option<String> {
    Some(String::from_utf8_lossy(&t.get(path)?).into_owned())
}

#[test]
fn power_loss_keeps_what_was_committed() {
    let mut t = Tree::new(false);
    let f = t.create(ROOT, "f", T).unwrap().ino;
    t.write(f, 0, b("one"), false, T).unwrap();
    t.commit(f).unwrap();
    t.write(f, 3, b("two"), false, T).unwrap();
    t.write(f, 0, b("X"), false, T).unwrap();
    assert_eq!(data(&mut t, "/f").unwrap(), "Xnetwo");
    t.power_loss(Loss::All);
    assert_eq!(data(&mut t, "/f").unwrap(), "one");
    assert_eq!(t.used(), 3);
}

#[test]
fn power_loss_may_keep_a_later_write_and_lose_an_earlier() {
    let mut t = Tree::new(false);
    let f = t.create(ROOT, "f", T).unwrap().ino;
    t.write(f, 0, b("aa"), false, T).unwrap();
    t.write(f, 2, b("bb"), false, T).unwrap();
    let mut keep = [false, true].into_iter();
    t.power_loss(Loss::Some(&mut || keep.next().unwrap()));
    assert_eq!(data(&mut t, "/f").unwrap(), "\0\0bb");
}

#[test]
fn a_stable_write_over_an_unstable_one_stays() {
    let mut t = Tree::new(false);
    let f = t.create(ROOT, "f", T).unwrap().ino;
    t.write(f, 0, b("aaaa"), false, T).unwrap();
    t.write(f, 4, b("SS"), true, T).unwrap();
    t.power_loss(Loss::All);
    assert_eq!(data(&mut t, "/f").unwrap(), "\0\0\0\0SS");
}

#[test]
fn a_local_disk_loses_names_that_were_not_synced() {
    let mut t = Tree::new(true);
    let f = t.create(ROOT, "tmp", T).unwrap().ino;
    t.write(f, 0, b("new"), true, T).unwrap();
    let old = t.create(ROOT, "name", T).unwrap().ino;
    t.write(old, 0, b("old"), true, T).unwrap();
    t.commit_names();
    t.rename((ROOT, "tmp"), (ROOT, "name"), T).unwrap();
    assert_eq!(data(&mut t, "/name").unwrap(), "new");
    t.power_loss(Loss::All);
    assert_eq!(data(&mut t, "/name").unwrap(), "old");
    assert_eq!(data(&mut t, "/tmp").unwrap(), "new");
    t.rename((ROOT, "tmp"), (ROOT, "name"), T).unwrap();
    t.commit_names();
    t.power_loss(Loss::All);
    assert_eq!(t.files(), ["/name"]);
    assert_eq!(t.used(), 3);
}

#[test]
fn a_file_lives_while_it_has_a_name_or_a_handle() {
    let mut t = Tree::new(false);
    let f = t.create(ROOT, "a", T).unwrap().ino;
    t.link(f, ROOT, "b", T).unwrap();
    assert_eq!(t.link(f, ROOT, "b", T), Err(ErrorKind::AlreadyExists));
    t.remove(ROOT, "a", T).unwrap();
    assert_eq!(t.paths(f), ["/b"]);
    t.pin(f);
    t.remove(ROOT, "b", T).unwrap();
    assert!(t.attr(f).is_ok());
    t.unpin(f);
    assert_eq!(t.attr(f), Err(ErrorKind::StaleNetworkFileHandle));
}

#[test]
fn renames_follow_posix() {
    let mut t = Tree::new(false);
    let d = t.mkdir(ROOT, "d", T).unwrap().ino;
    let e = t.mkdir(d, "e", T).unwrap().ino;
    t.create(ROOT, "f", T).unwrap();
    assert_eq!(t.rename((ROOT, "d"), (e, "x"), T), Err(ErrorKind::InvalidInput));
    assert_eq!(t.rename((ROOT, "f"), (d, "e"), T), Err(ErrorKind::IsADirectory));
    assert_eq!(t.rename((d, "e"), (ROOT, "f"), T), Err(ErrorKind::NotADirectory));
    assert_eq!(t.rmdir(ROOT, "d", T), Err(ErrorKind::DirectoryNotEmpty));
    assert_eq!(t.remove(ROOT, "d", T), Err(ErrorKind::IsADirectory));
    assert_eq!(t.walk("/f/x"), Err(ErrorKind::NotADirectory));
    let f = t.walk("/f").unwrap();
    t.link(f, ROOT, "g", T).unwrap();
    t.rename((ROOT, "f"), (ROOT, "g"), T).unwrap();
    assert_eq!(t.files(), ["/f", "/g"], "two names of one file: nothing happens");
    t.rename((ROOT, "f"), (d, "f"), T).unwrap();
    assert_eq!(t.files(), ["/d/f", "/g"]);
}

#[test]
fn a_full_tree_refuses_to_grow_and_takes_overwrites() {
    let mut t = Tree::new(false);
    t.capacity = Some(4);
    let f = t.create(ROOT, "f", T).unwrap().ino;
    t.write(f, 0, b("1234"), true, T).unwrap();
    assert_eq!(t.write(f, 4, b("5"), true, T), Err(ErrorKind::StorageFull));
    t.write(f, 0, b("5678"), true, T).unwrap();
    t.remove(ROOT, "f", T).unwrap();
    assert_eq!(t.free(), 4);
}

#[test]
fn a_listing_comes_in_pages() {
    let mut t = Tree::new(false);
    for n in ["a", "b", "c"] {
        t.create(ROOT, n, T).unwrap();
    }
    let (page, all) = t.names_after(ROOT, "", 2).unwrap();
    assert_eq!((page.len(), all), (2, false));
    let (page, all) = t.names_after(ROOT, "b", 2).unwrap();
    assert_eq!((page, all), (vec![("c".to_owned(), false)], true));
}

/// Bytes in one piece, as simple as can be.
#[derive(Default)]
struct Plain {
    data: Vec<u8>,
    pending: Vec<(usize, Vec<u8>, Vec<u8>, usize)>,
}

impl Plain {
    fn write(&mut self, off: usize, new: &[u8], stable: bool) {
        let (before, end) = (self.data.len(), off + new.len());
        let old = self.data[off.min(before)..end.min(before)].to_vec();
        self.data.resize(before.max(end), 0);
        self.data[off..end].copy_from_slice(new);
        if !stable {
            self.pending.push((off, new.to_vec(), old, before));
        } else if self.pending.iter().any(|p| p.0 < end && off < p.0 + p.1.len()) {
            self.pending.clear();
        } else {
            self.pending.iter_mut().for_each(|p| p.3 = p.3.max(end));
        }
    }

    fn lose(&mut self, kept: &[bool]) {
        let pending = std::mem::take(&mut self.pending);
        if kept.iter().take(pending.len()).all(|k| *k) {
            return;
        }
        for (off, new, old, len) in pending.iter().rev() {
            self.data[*off..off + old.len()].copy_from_slice(old);
            self.data[off + old.len()..off + new.len()].fill(0);
            self.data.truncate(*len);
        }
        for ((off, new, ..), _) in pending.into_iter().zip(kept).filter(|p| *p.1) {
            self.write(off, &new, true);
        }
    }
}

proptest::proptest! {
    #[test]
    fn a_file_in_pieces_is_a_file(
        writes in proptest::collection::vec((0usize..40, 1usize..30, proptest::bool::ANY), 1..20),
        kept in proptest::collection::vec(proptest::bool::ANY, 20),
        (from, len) in (0u64..50, 0usize..50),
    ) {
        let (mut t, mut plain) = (Tree::new(false), Plain::default());
        let f = t.create(ROOT, "f", T).unwrap().ino;
        for (n, (off, len, stable)) in writes.into_iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|i| (n * 31 + i) as u8).collect();
            plain.write(off, &bytes, stable);
            t.write(f, off as u64, bytes.into(), stable, T).unwrap();
        }
        let part = |all: &[u8]| all[all.len().min(from as usize)..].iter().take(len).copied().collect::<Vec<u8>>();
        for _ in 0..2 {
            assert_eq!(t.get("/f").unwrap(), plain.data);
            assert_eq!(t.read(f, from, len).unwrap().0[..], part(&plain.data)[..]);
            assert_eq!(t.used(), plain.data.len() as u64);
            let mut fate = kept.iter();
            t.power_loss(Loss::Some(&mut || *fate.next().unwrap()));
            plain.lose(&kept);
        }
        assert_eq!(t.get("/f").unwrap(), plain.data);
    }
}
