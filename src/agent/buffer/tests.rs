//! The queue against a model, with crashes at any byte.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)] // damages real files

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn open(dir: &std::path::Path, segment: u64) -> Buffer {
    let base = dir.join("b.bin").to_string_lossy().into_owned();
    let disk = Disk::open_sized(crate::env::real::env().fs, &base, segment).await.unwrap();
    let state = State { disk: Some(disk), ..State::default() };
    Buffer { state: Mutex::new(state), disk_limit: u64::MAX, ..Buffer::memory(u64::MAX) }
}

fn last_segment(dir: &std::path::Path) -> Option<std::path::PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names.pop()
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<u8>),
    Commit(u64),
    LetGo(u64),
    Restart,
    /// Cuts this many bytes off the newest file, then restarts.
    Crash(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 1..80).prop_map(Step::Push),
        3 => (1u64..300).prop_map(Step::Commit),
        1 => (1u64..300).prop_map(Step::LetGo),
        1 => Just(Step::Restart),
        1 => (0u64..120).prop_map(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_a_queue(steps in prop::collection::vec(step(), 1..60)) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut queue = open(dir.path(), 200).await;
            let mut model: VecDeque<Vec<u8>> = VecDeque::new();
            for s in steps {
                match s {
                    Step::Push(item) => {
                        queue.push(item.clone().into()).await;
                        model.push_back(item);
                    }
                    Step::Commit(max) | Step::LetGo(max) => {
                        let lease = queue.lease(max).await;
                        prop_assert_eq!(lease.is_empty(), model.is_empty());
                        for (i, item) in lease.items.iter().enumerate() {
                            prop_assert_eq!(&item[..], &model[i][..]);
                        }
                        let sum: usize = lease.items.iter().map(|i| i.len()).sum();
                        prop_assert!(lease.items.len() <= 1 || sum as u64 <= max);
                        if matches!(s, Step::Commit(_)) {
                            model.drain(..lease.items.len());
                            queue.commit(lease).await;
                        }
                    }
                    Step::Restart => queue = open(dir.path(), 200).await,
                    Step::Crash(cut) => {
                        drop(queue);
                        if let Some(path) = last_segment(dir.path()) {
                            let f = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                            let len = f.metadata().unwrap().len();
                            f.set_len(len.saturating_sub(cut)).unwrap();
                        }
                        queue = open(dir.path(), 200).await;
                        // What is left is a prefix of what was unsent; only the
                        // newest items may be gone.
                        let all = queue.lease(u64::MAX).await;
                        prop_assert!(all.items.len() <= model.len());
                        if cut == 0 {
                            prop_assert_eq!(all.items.len(), model.len());
                        }
                        model.truncate(all.items.len());
                        for (item, want) in all.items.iter().zip(&model) {
                            prop_assert_eq!(&item[..], &want[..]);
                        }
                    }
                }
                let bytes: usize = model.iter().map(Vec::len).sum();
                prop_assert_eq!(queue.bytes().await, bytes as u64);
            }
            Ok(())
        })?;
    }

    #[test]
    fn damage_never_yields_wrong_items(at in 0usize..600, flip in 1u8..=255) {
        runtime().block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let queue = open(dir.path(), 1000).await;
            let items: Vec<Vec<u8>> = (0..10u8).map(|i| vec![i; 30]).collect();
            for i in &items {
                queue.push(i.clone().into()).await;
            }
            drop(queue);
            let path = last_segment(dir.path()).unwrap();
            let mut data = std::fs::read(&path).unwrap();
            let at = at % data.len();
            data[at] ^= flip;
            std::fs::write(&path, data).unwrap();
            let got = open(dir.path(), 1000).await.lease(u64::MAX).await;
            for (item, want) in got.items.iter().zip(&items) {
                prop_assert_eq!(&item[..], &want[..]);
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_full_queue_holds_its_writer_and_loses_nothing() {
    let queue = std::sync::Arc::new(Buffer::memory(10));
    queue.push(Bytes::from_static(b"0123456789")).await;
    let q = queue.clone();
    let writer = tokio::spawn(async move { q.push(Bytes::from_static(b"x")).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!writer.is_finished());
    let lease = queue.lease(100).await;
    assert_eq!(lease.items.len(), 2);
    queue.commit(lease).await;
    writer.await.unwrap();
    assert_eq!(queue.bytes().await, 0);
}

#[tokio::test]
async fn without_a_usable_directory_memory_serves() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), b"").unwrap();
    let base = dir.path().join("f/b.bin");
    let env = crate::env::real::env();
    let queue = Buffer::on_disk(&env, &base.to_string_lossy(), 100, 100).await;
    queue.push(Bytes::from_static(b"a")).await;
    queue.push(Bytes::from_static(b"b")).await;
    let lease = queue.lease(1).await;
    assert_eq!(lease.items, [Bytes::from_static(b"a")]);
    queue.commit(lease).await;
    assert_eq!(queue.lease(9).await.items, [Bytes::from_static(b"b")]);
}
