//! Production's own readers on NFS.

use super::*;
use sim::nfs::Removed;
use velociraptor::store::objects::read_whole;

/// Somebody on the reader's host has the old object open, as a slow reader has.
#[tokio::test(start_paused = true)]
async fn an_object_that_is_replaced_is_read_whole_and_new() {
    for removed in [Removed::Hollow, Removed::Gone(Duration::from_millis(5)), Removed::Any] {
        for options in
            [MountOptions::default(), MountOptions::kernel(), MountOptions::default().v3()]
        {
            for seed in 0..10 {
                let nas =
                    FileServer::on_tokio(seed, ServerOptions { removed, ..Default::default() });
                let (a, b) = (nas.mount("a", options.clone()), nas.mount("b", options.clone()));
                create(&a, "/o", "old").await;
                create(&a, "/t", "new").await;
                let slow = b.open("/o", Open::Read).await.unwrap();
                a.rename("/t", "/o").await.unwrap();
                for _ in 0..3 {
                    let got = read_whole(&*b, "/o", 100).await;
                    let got =
                        got.unwrap_or_else(|e| panic!("{removed:?}, {options:?}: {e}")).unwrap();
                    assert!(got == b"new" || got == b"old", "{got:?}");
                }
                drop(slow);
            }
        }
    }
}
