//! Bytes of a file at any place, read in pages that are kept for a while.

use std::collections::BTreeMap;
use std::io::{Read, SeekFrom};

use vql::{Error, Scope};

use crate::plugins::common::accessor::ReadSeek;
use crate::plugins::common::blocking;

/// Bytes of a page.
const PAGE: u64 = 64 << 10;
/// Pages kept.
const KEPT: usize = 64;

pub(super) struct Reader {
    /// Away while a page is being read.
    file: Option<Box<dyn ReadSeek>>,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Reader {
    pub(super) fn new(file: Box<dyn ReadSeek>) -> Reader {
        Reader { file: Some(file), pages: BTreeMap::new() }
    }

    /// As many bytes as there are, at most `length`.
    pub(super) async fn bytes_there(
        &mut self,
        scope: &Scope,
        offset: i64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let Ok(mut at) = u64::try_from(offset) else { return Ok(Vec::new()) };
        let mut out = Vec::new();
        while out.len() < length {
            let page = self.page(scope, at / PAGE).await?;
            let start = (at % PAGE) as usize;
            let rest = page.get(start..).unwrap_or_default();
            let take = rest.len().min(length - out.len());
            if take == 0 {
                break;
            }
            out.extend_from_slice(&rest[..take]);
            at += take as u64;
        }
        Ok(out)
    }

    /// Exactly so many bytes; zeros where the file has none.
    pub(super) async fn bytes(
        &mut self,
        scope: &Scope,
        offset: i64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = self.bytes_there(scope, offset, length).await?;
        bytes.resize(length, 0);
        Ok(bytes)
    }

    async fn page(&mut self, scope: &Scope, number: u64) -> Result<&[u8], Error> {
        if !self.pages.contains_key(&number) {
            let file = self.file.take();
            let mut file = file.ok_or_else(|| Error::failed("the file was lost"))?;
            let read = move || {
                let mut data = Vec::new();
                let sought = file.seek(SeekFrom::Start(number.saturating_mul(PAGE)));
                let done = sought.and_then(|_| (&mut file).take(PAGE).read_to_end(&mut data));
                (done.map(|_| data), file)
            };
            let (data, file) = blocking(scope, read).await?;
            self.file = Some(file);
            if self.pages.len() >= KEPT {
                self.pages.clear();
            }
            self.pages.insert(number, data.map_err(Error::failed)?);
        }
        Ok(self.pages.get(&number).map(Vec::as_slice).unwrap_or_default())
    }
}
