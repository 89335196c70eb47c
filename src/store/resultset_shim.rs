//! shim
use super::{FilePath, StoreError, Tree};
use bytes::Bytes;
pub async fn row_count(tree: &Tree, path: &FilePath) -> Result<u64, StoreError> {
    Ok(tree.get_file(&path.index(), 1 << 30).await?.map_or(0, |d| d.len() as u64 / 8))
}
pub async fn read_rows(
    tree: &Tree,
    path: &FilePath,
    start: u64,
    count: u64,
) -> Result<Vec<Bytes>, StoreError> {
    let Some(d) = tree.get_file(path, 1 << 30).await? else { return Ok(vec![]) };
    let d = Bytes::from(d);
    Ok(d.split(|b| *b == b'\n')
        .filter(|l| l.len() > 1)
        .skip(start as usize)
        .take(count as usize)
        .map(|l| d.slice_ref(l))
        .collect())
}
