//! Every row of a set, once, in pieces: the next are read while the CPU pool looks at
//! those before.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;

use super::look::{Looker, Taken};
use super::{AT_ONCE, CHUNK, CHUNK_BYTES, Set, stopped};
use crate::services::server::ServiceError;
use crate::store::resultset::{ResultSet, Rows, Span};

/// Some rows of a set.
enum Piece {
    /// As they lie in a file: how many, and what is looked at on the CPU pool.
    Span(Span),
    /// Rows that were read one by one; `broken` if there may be some that are none.
    Rows { rows: Vec<Bytes>, broken: bool },
}

/// How the rows of a set are come by.
enum Way {
    /// From one file, from this of its rows on.
    Stored(ResultSet, u64),
    /// From one without an index: from its beginning on.
    Unindexed(Rows),
    /// By asking the set.
    Asked,
}

struct Walk<'a> {
    set: &'a Set,
    way: Way,
    at: u64,
    total: u64,
}

impl<'a> Walk<'a> {
    async fn open(set: &'a Set, total: u64) -> Result<Self, ServiceError> {
        let way = match set.stored().await? {
            None => Way::Asked,
            Some((file, from)) => match file.total_rows() {
                Some(_) => Way::Stored(file, from),
                None if from == 0 => Way::Unindexed(file.rows(0).await?),
                None => Way::Asked,
            },
        };
        Ok(Self { set, way, at: 0, total })
    }

    /// The next piece and the number of its first row; `None` at the end.
    async fn next(&mut self) -> Result<Option<(u64, Piece)>, ServiceError> {
        let first = self.at;
        let most = CHUNK.min(self.total.saturating_sub(first));
        if most == 0 {
            return Ok(None);
        }
        let (piece, count) = match &mut self.way {
            Way::Stored(file, from) => {
                let start = from.saturating_add(first);
                let want = usize::try_from(most).unwrap_or(usize::MAX);
                let span = match file.span(start, want, CHUNK_BYTES).await {
                    // Replaced meanwhile: whoever asks for rows opens it again.
                    Err(e) if e.is_stale() => None,
                    r => r?,
                };
                match span.filter(|s| !s.is_empty()) {
                    Some(span) => {
                        let count = span.len() as u64;
                        (Piece::Span(span), count)
                    }
                    None => self.asked(first, most).await?,
                }
            }
            Way::Unindexed(file) => {
                let mut rows = Vec::new();
                while (rows.len() as u64) < most {
                    match file.next().await? {
                        Some(row) => rows.push(row),
                        None => break,
                    }
                }
                let count = rows.len() as u64;
                (Piece::Rows { rows, broken: false }, count)
            }
            Way::Asked => self.asked(first, most).await?,
        };
        self.at += count;
        Ok((count > 0).then_some((first, piece)))
    }

    async fn asked(&self, first: u64, most: u64) -> Result<(Piece, u64), ServiceError> {
        let rows = self.set.rows(first, most).await?;
        let count = rows.len() as u64;
        Ok((Piece::Rows { rows, broken: true }, count))
    }
}

/// Looks at every row of a set; `each` gets what was found in a piece, in order.
pub(super) async fn each_piece(
    set: &Set,
    total: u64,
    looker: Looker,
    mut each: impl FnMut(Vec<(u32, Taken)>),
) -> Result<(), ServiceError> {
    let looker = Arc::new(looker);
    let mut walk = Walk::open(set, total).await?;
    let mut going = FuturesOrdered::new();
    let mut done = false;
    loop {
        while !done && going.len() < AT_ONCE {
            match walk.next().await? {
                Some((first, piece)) => {
                    going.push_back(look_at(set, looker.clone(), first, piece));
                }
                None => done = true,
            }
        }
        match going.next().await {
            Some(found) => each(found?),
            None => return Ok(()),
        }
    }
}

async fn look_at(
    set: &Set,
    looker: Arc<Looker>,
    first: u64,
    piece: Piece,
) -> Result<Vec<(u32, Taken)>, ServiceError> {
    // Whoever looks at rows has made sure that there are no more than this holds.
    let number = u32::try_from(first).unwrap_or(u32::MAX);
    let count = match &piece {
        Piece::Span(span) => span.len() as u64,
        Piece::Rows { .. } => 0,
    };
    let shared = looker.clone();
    let found = set.server.env.offload(move || match &piece {
        Piece::Span(span) => {
            span.lines().map(|lines| shared.look_at(number, lines.into_iter(), false))
        }
        Piece::Rows { rows, broken } => {
            Some(shared.look_at(number, rows.iter().map(|r| &r[..]), *broken))
        }
    });
    if let Some(found) = found.await.ok_or_else(stopped)? {
        return Ok(found);
    }
    // Its index does not say where its rows are.
    let rows = set.rows(first, count).await?;
    let found =
        set.server.env.offload(move || looker.look_at(number, rows.iter().map(|r| &r[..]), true));
    found.await.ok_or_else(stopped)
}
