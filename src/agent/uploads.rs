//! Sending files: an announcement, chunks of 1 MiB in order, an end. Files with
//! holes are sent without them, with an index. Each (accessor, name) goes once
//! in a query.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context as Sha, SHA256};
use futures::FutureExt;
use futures::future::BoxFuture;
use md5::Digest;
use tokio::sync::OnceCell;
use velociraptor_proto::proto::{
    FileBuffer, Index, PathSpec, Range as WireRange, UploadTransaction, VeloMessage,
};
use vql::{Error, Level, Scope};

use super::flow::UPLOAD_SINK;
use super::responder::Responder;
use crate::env::Env;
use crate::plugins::common::accessor::{ReadSeek, accessor};
use crate::plugins::common::{OsPath, Range, UploadFile, UploadResult, UploadSink};

/// Largest chunk before compression, in bytes; the stock size.
const CHUNK: usize = 1 << 20;
/// Uploads that may wait behind a query.
const MAX_QUEUED: usize = 10_000;

type Key = (String, Vec<u8>);

/// The uploads of one query.
pub struct FlowUploader {
    env: Env,
    responder: Arc<dyn Responder>,
    done: Mutex<BTreeMap<Key, Arc<OnceCell<UploadResult>>>>,
    queue: Mutex<VecDeque<(UploadFile, UploadTransaction)>>,
}

impl std::fmt::Debug for FlowUploader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowUploader")
    }
}

impl FlowUploader {
    /// Nothing uploaded yet.
    pub fn new(env: Env, responder: Arc<dyn Responder>) -> FlowUploader {
        FlowUploader { env, responder, done: Mutex::default(), queue: Mutex::default() }
    }

    async fn start(&self, scope: &Scope, file: UploadFile) -> Result<UploadResult, Error> {
        let announcement = announcement(&file, self.responder.next_upload());
        self.send(|m| m.upload_transaction = Some(announcement.clone())).await?;
        if file.resumable {
            let result = outcome(&file, &announcement);
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.len() >= MAX_QUEUED {
                return Err(Error::failed("too many uploads are waiting"));
            }
            queue.push_back((file, announcement));
            drop(queue);
            self.responder.outstanding(1);
            return Ok(UploadResult { path: String::new(), ..result });
        }
        self.content(scope, &file, &announcement).await
    }

    /// Does the uploads that were put off, in order.
    pub async fn drain(&self, scope: &Scope) {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((file, transaction)) = next else { return };
            let stopped = self.finish_one(scope, &file, transaction).await.is_err();
            self.responder.outstanding(-1);
            if stopped {
                return;
            }
        }
    }

    async fn finish_one(
        &self,
        scope: &Scope,
        file: &UploadFile,
        mut transaction: UploadTransaction,
    ) -> Result<(), Error> {
        let result = match self.content(scope, file, &transaction).await {
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(e) => {
                self.responder.log(Level::Default, &format!("Client Uploader: {e}"));
                UploadResult { error: e.to_string(), ..outcome(file, &transaction) }
            }
            Ok(r) => r,
        };
        transaction.response = result.row().to_json();
        self.send(|m| m.upload_transaction = Some(transaction)).await
    }

    /// Takes up an upload of an earlier run where the server has got to.
    pub async fn resume(&self, scope: &Scope, t: UploadTransaction) -> Result<(), Error> {
        let by = accessor(scope, &t.accessor)?;
        let path = by.parse(scope, &t.filename.as_str().into());
        let store_as = match t.components.is_empty() {
            true if t.store_as_name.is_empty() => path.clone(),
            true => by.parse(scope, &t.store_as_name.as_str().into()),
            false => OsPath {
                components: t.components.iter().map(|c| c.as_str().into()).collect(),
                kind: path.kind,
                delegate: None,
            },
        };
        let (a, p) = (by.clone(), path.clone());
        let mut info = self.blocking(move || a.stat(&p)).await??;
        info.times = [t.mtime, t.atime, t.ctime, t.btime];
        let file = UploadFile {
            accessor: by,
            accessor_name: t.accessor.clone(),
            info,
            store_as,
            resumable: false,
        };
        self.finish_one(scope, &file, t).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.env.offload(work).await.ok_or_else(|| Error::failed("reading was aborted"))
    }

    async fn send(&self, fill: impl FnOnce(&mut VeloMessage)) -> Result<(), Error> {
        let mut m = VeloMessage { request_id: UPLOAD_SINK, ..VeloMessage::default() };
        fill(&mut m);
        self.responder.upload(m).await.map_err(|_| Error::Stopped)
    }

    async fn content(
        &self,
        scope: &Scope,
        file: &UploadFile,
        t: &UploadTransaction,
    ) -> Result<UploadResult, Error> {
        let (a, p) = (file.accessor.clone(), file.info.path.clone());
        let opened = self.blocking(move || Ok((a.ranges(&p)?, a.open(&p)?))).await?;
        let (ranges, reader): (Option<Vec<Range>>, _) = opened.map_err(|e: std::io::Error| e)?;
        let reading = Reading { reader, md5: md5::Md5::new(), sha256: Sha::new(&SHA256) };
        match ranges {
            Some(ranges) => self.sparse(scope, file, t, ranges, reading).await,
            None => self.dense(scope, file, t, reading).await,
        }
    }

    async fn dense(
        &self,
        scope: &Scope,
        file: &UploadFile,
        t: &UploadTransaction,
        mut reading: Reading,
    ) -> Result<UploadResult, Error> {
        let mut offset = u64::try_from(t.start_offset).unwrap_or(0);
        let mut seek = Some(offset).filter(|o| *o > 0);
        loop {
            scope.charge_op().await;
            let at = seek.take();
            let (data, back) = self.blocking(move || reading.chunk(at, CHUNK)).await??;
            reading = back;
            let len = data.len() as u64;
            let [mtime, atime, ctime, btime] = file.info.times;
            let buffer = FileBuffer {
                pathspec: Some(pathspec(file)),
                offset,
                size: u64::try_from(t.expected_size).unwrap_or(0),
                stored_size: offset + len,
                mtime,
                atime,
                ctime,
                btime,
                data: data.into(),
                data_length: len,
                upload_number: t.upload_id,
                eof: len == 0,
                ..FileBuffer::default()
            };
            self.send(|m| m.file_buffer = Some(buffer)).await?;
            offset += len;
            if len == 0 {
                return Ok(reading.result(offset, offset, outcome(file, t)));
            }
        }
    }

    async fn sparse(
        &self,
        scope: &Scope,
        file: &UploadFile,
        t: &UploadTransaction,
        ranges: Vec<Range>,
        mut reading: Reading,
    ) -> Result<UploadResult, Error> {
        let mut index = Index::default();
        let (mut stored, mut size) = (0, 0);
        for r in &ranges {
            let kept = if r.hole { 0 } else { r.length };
            index.ranges.push(WireRange {
                file_offset: stored as i64,
                original_offset: r.offset as i64,
                file_length: kept as i64,
                length: r.length as i64,
            });
            stored += kept;
            size = size.max(r.offset + r.length);
        }
        let packet = |offset: u64| FileBuffer {
            pathspec: Some(pathspec(file)),
            offset,
            size,
            stored_size: stored,
            is_sparse: true,
            upload_number: t.upload_id,
            ..FileBuffer::default()
        };
        let mut offset = 0;
        for r in ranges.iter().filter(|r| !r.hole) {
            let mut at = r.offset;
            while at < r.offset + r.length {
                scope.charge_op().await;
                let want = (r.offset + r.length - at).min(CHUNK as u64) as usize;
                let (mut data, back) =
                    self.blocking(move || reading.chunk(Some(at), want)).await??;
                reading = back;
                // The file shrank meanwhile: the index promised these bytes.
                data.resize(want, 0);
                at += want as u64;
                let buffer = FileBuffer {
                    data: data.into(),
                    data_length: want as u64,
                    mtime: file.info.times[0],
                    ..packet(offset)
                };
                self.send(|m| m.file_buffer = Some(buffer)).await?;
                offset += want as u64;
            }
        }
        let mut end = FileBuffer { eof: true, index: Some(index), ..packet(offset) };
        if offset == 0 {
            end.mtime = file.info.times[0];
        }
        self.send(|m| m.file_buffer = Some(end)).await?;
        Ok(reading.result(size, stored, outcome(file, t)))
    }
}

impl UploadSink for FlowUploader {
    fn upload(
        &self,
        scope: &Scope,
        file: UploadFile,
    ) -> BoxFuture<'_, Result<UploadResult, Error>> {
        let scope = scope.clone();
        async move {
            let key = (file.accessor_name.clone(), file.store_as.bytes());
            let cell = {
                let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
                done.entry(key).or_default().clone()
            };
            cell.get_or_try_init(|| self.start(&scope, file)).await.cloned()
        }
        .boxed()
    }
}

/// A file being read and hashed.
struct Reading {
    reader: Box<dyn ReadSeek>,
    md5: md5::Md5,
    sha256: Sha,
}

impl Reading {
    /// Up to `want` bytes, from `at` or where the last chunk ended; fewer only
    /// at the end of the file.
    fn chunk(mut self, at: Option<u64>, want: usize) -> std::io::Result<(Vec<u8>, Reading)> {
        if let Some(at) = at {
            self.reader.seek(SeekFrom::Start(at))?;
        }
        let mut data = Vec::with_capacity(want);
        (&mut self.reader).take(want as u64).read_to_end(&mut data)?;
        self.md5.update(&data);
        self.sha256.update(&data);
        Ok((data, self))
    }

    fn result(self, size: u64, stored: u64, result: UploadResult) -> UploadResult {
        UploadResult {
            size,
            stored_size: stored,
            sha256: hex::encode(self.sha256.finish()),
            md5: hex::encode(self.md5.finalize()),
            ..result
        }
    }
}

fn pathspec(file: &UploadFile) -> PathSpec {
    PathSpec {
        path: file.store_as.to_text(),
        components: file.store_as.texts(),
        accessor: file.accessor_name.clone(),
    }
}

fn announcement(file: &UploadFile, upload_id: i64) -> UploadTransaction {
    let [mtime, atime, ctime, btime] = file.info.times;
    UploadTransaction {
        filename: file.info.path.to_text(),
        accessor: file.accessor_name.clone(),
        store_as_name: file.store_as.to_text(),
        components: file.store_as.texts(),
        expected_size: i64::try_from(file.info.size).unwrap_or(i64::MAX),
        mtime,
        atime,
        ctime,
        btime,
        // The stock client sends permission bits; the type is a plain file's.
        mode: i64::from(file.info.mode & 0o777),
        upload_id,
        ..UploadTransaction::default()
    }
}

/// The result before anything is known of the content.
fn outcome(file: &UploadFile, t: &UploadTransaction) -> UploadResult {
    let is_content = file.accessor_name == "data";
    UploadResult {
        path: if is_content { String::new() } else { file.info.path.to_text() },
        stored_name: file.store_as.to_text(),
        components: file.store_as.texts(),
        accessor: file.accessor_name.clone(),
        id: t.upload_id,
        ..UploadResult::default()
    }
}
