//! Files of the unauthenticated `public` directory: tools that agents fetch.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use crate::comms::server::PublicFile;
use crate::env::{File, Open};
use crate::services::Server;
use crate::store::{Org, PathSpec};

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// Opens a public file of the root organisation.
pub(super) async fn open(server: &Server, path: &[String]) -> Option<PublicFile> {
    let name = path.last()?.clone();
    let mut components = vec!["public".to_owned()];
    components.extend(path.iter().cloned());
    let spec = PathSpec::from_components(&Org::root(), &components);
    let at = server.tree.root.resolve(&spec).ok()?;
    let file: Arc<dyn File> = server.env.fs.open(&at, Open::Read).await.ok()?.into();
    let len = file.size().await.ok()?;
    let body = futures::stream::unfold((file, 0u64), |(file, at)| async move {
        match file.read_at(at, BLOCK).await {
            Ok(b) if b.is_empty() => None,
            Ok(b) => {
                let next = at + b.len() as u64;
                Some((Ok(Bytes::from(b)), (file, next)))
            }
            Err(e) => Some((Err(e), (file, u64::MAX))),
        }
    });
    Some(PublicFile { name, len, body: body.boxed() })
}
