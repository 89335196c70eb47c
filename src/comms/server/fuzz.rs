//! The parsers of this room for the fuzz targets, which are a crate of their own.
//! Not an interface for anyone else.

use std::io::Cursor;

use bytes::BytesMut;

use super::body::{Budget, Wire, read};
use super::head::{self, Framing};
use super::limits::HttpLimits;
use super::proxy::read_header;

/// Takes a request head: the bytes it was, `None` if it is not complete, or the
/// status it is refused with.
pub fn head(data: &[u8]) -> Result<Option<usize>, u16> {
    let mut input = BytesMut::from(data);
    match head::take(&mut input, Some("X-Real-IP")) {
        Ok(head) => Ok(head.map(|_| data.len() - input.len())),
        Err(e) => Err(e.0),
    }
}

/// Reads a chunked body: its length, or `None` if it is not whole.
pub fn chunked_body(data: &[u8]) -> Option<usize> {
    let limits = HttpLimits { max_body: 1 << 16, body_budget: 1 << 20, ..HttpLimits::default() };
    let mut wire = Wire::new(Box::pin(Cursor::new(data.to_vec())));
    let budget = Budget::new(&limits);
    let body = block_on(read(&mut wire, Framing::Chunked, &limits, &budget))?;
    Some(body.ok()?.0.len())
}

/// Reads a load balancer's header; whether there was one.
pub fn proxy_header(mut data: &[u8]) -> bool {
    block_on(read_header(&mut data)).is_some_and(|r| r.is_ok())
}

fn block_on<F: Future>(f: F) -> Option<F::Output> {
    let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
    Some(rt.block_on(f))
}
