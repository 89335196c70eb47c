//! What the tests of this room share.

use super::{StoreRoot, Tree};

/// An empty datastore that vanishes with its guard.
pub fn scratch() -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let root = StoreRoot::single(dir.path().to_str().unwrap());
    let tree = Tree::new(&crate::env::real::env(), root);
    (dir, tree)
}

/// The sample tree of a stock server, when it lies beside the checkout.
pub fn fixture() -> Option<Tree> {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let dirs = [here.join("../shared/fixtures/datastore"), here.join("shared/fixtures/datastore")];
    let Some(dir) = dirs.iter().find(|d| d.is_dir()) else {
        println!("skipped: no sample datastore beside the checkout");
        return None;
    };
    let root = StoreRoot::single(dir.to_str()?);
    Some(Tree::new(&crate::env::real::env(), root))
}
