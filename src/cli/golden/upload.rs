//! Where a recorded case uploads to: nowhere. What is told of an upload is what a container of
//! collected files would tell.

use std::io::{Read, Seek, SeekFrom};

use aws_lc_rs::digest::{Context, SHA256};
use futures::FutureExt;
use futures::future::BoxFuture;
use md5::Digest;
use vql::{Error, Scope};

use crate::plugins::common::{Range, UploadFile, UploadResult, UploadSink, blocking};
use crate::store::zip::write::member_name;

/// See the module.
pub(super) struct Container;

impl UploadSink for Container {
    fn upload(
        &self,
        scope: &Scope,
        file: UploadFile,
    ) -> BoxFuture<'_, Result<UploadResult, Error>> {
        let scope = scope.clone();
        async move { blocking(&scope, move || read(&file)).await?.map_err(Error::failed) }.boxed()
    }
}

fn read(file: &UploadFile) -> std::io::Result<UploadResult> {
    let path = &file.info.path;
    let whole = |_| vec![Range { offset: 0, length: u64::MAX, hole: false }];
    let ranges = file.accessor.ranges(path)?.ok_or(()).unwrap_or_else(whole);
    let mut reader = file.accessor.open(path)?;
    let (mut md5, mut sha256) = (md5::Md5::new(), Context::new(&SHA256));
    let (mut size, mut stored) = (0, 0);
    for range in &ranges {
        if range.hole {
            size = size.max(range.offset + range.length);
            continue;
        }
        if range.offset > 0 {
            reader.seek(SeekFrom::Start(range.offset))?;
        }
        let mut part = (&mut reader).take(range.length);
        let mut buffer = vec![0; 1 << 16];
        let mut at = range.offset;
        loop {
            let n = part.read(&mut buffer)?;
            let Some(data) = buffer.get(..n).filter(|data| !data.is_empty()) else { break };
            md5.update(data);
            sha256.update(data);
            at += n as u64;
            stored += n as u64;
        }
        size = size.max(at);
    }
    let mut components = vec!["uploads".to_owned(), file.accessor_name.clone()];
    components.extend(file.store_as.texts());
    Ok(UploadResult {
        // The content itself is no name of it.
        path: if file.accessor_name == "data" { "data".into() } else { path.to_text() },
        size,
        stored_size: stored,
        sha256: hex::encode(sha256.finish()),
        md5: hex::encode(md5.finalize()),
        stored_name: format!("/{}", member_name(&components)),
        components,
        ..UploadResult::default()
    })
}
