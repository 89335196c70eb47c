//! The resources of an image: a tree of three levels, and the version in it.

use vql::{Dict, Key, Value};

use super::super::fields::{Fields, wide};
use super::super::records::Records;
use super::image::Image;

/// Most resources listed, and strings of a version.
const MOST: usize = 4096;
/// Type of the version.
const VERSION: u32 = 16;

/// A leaf of the tree.
struct Resource {
    kind: u32,
    name: String,
    place: usize,
    size: u32,
    page: u32,
}

fn type_name(kind: u32) -> String {
    let name = match kind {
        1 => "RT_CURSOR",
        2 => "RT_BITMAP",
        3 => "RT_ICON",
        4 => "RT_MENU",
        5 => "RT_DIALOG",
        6 => "RT_STRING",
        7 => "RT_FONTDIR",
        8 => "RT_FONT",
        9 => "RT_ACCELERATOR",
        10 => "RT_RCDATA",
        11 => "RT_MESSAGETABLE",
        12 => "RT_GROUP_CURSOR",
        14 => "RT_GROUP_ICON",
        16 => "RT_VERSION",
        17 => "RT_DLGINCLUDE",
        19 => "RT_PLUGPLAY",
        20 => "RT_VXD",
        21 => "RT_ANICURSOR",
        22 => "RT_ANIICON",
        23 => "RT_HTML",
        24 => "RT_MANIFEST",
        other => return format!("{other}"),
    };
    name.to_owned()
}

/// Type and place of the entries of a directory of the tree.
fn entries(image: &Image<'_>, at: usize) -> Vec<(u32, u32)> {
    let count = |field: usize| image.u16(at + field).map_or(0, usize::from);
    let all = (0..(count(12) + count(14)).min(MOST)).map(|i| {
        let entry = at + 16 + i * 8;
        Some((image.u32(entry)?, image.u32(entry + 4)?))
    });
    all.map_while(|e| e).collect()
}

fn leaves(image: &Image<'_>) -> Vec<Resource> {
    let mut out = Vec::new();
    let (address, size) = image.directory(2);
    let Some(base) = image.place(address).filter(|_| size > 0) else { return out };
    for (kind, next) in entries(image, base) {
        let name = match kind >> 31 {
            0 => type_name(kind),
            _ => counted(image, base + (kind & 0x7fff_ffff) as usize).unwrap_or_default(),
        };
        walk(image, base, next, 0, &mut |entry| {
            let fact = |field: usize| image.u32(entry + field);
            if let (Some(address), Some(size), Some(page)) = (fact(0), fact(4), fact(8)) {
                let place = image.place(address).unwrap_or(0);
                out.push(Resource { kind, name: name.clone(), place, size, page });
            }
            out.len() < MOST
        });
    }
    out
}

/// Calls `found` for each leaf below an entry, until it wants no more.
fn walk(
    image: &Image<'_>,
    base: usize,
    entry: u32,
    depth: usize,
    found: &mut impl FnMut(usize) -> bool,
) -> bool {
    let at = base.saturating_add((entry & 0x7fff_ffff) as usize);
    if entry >> 31 == 0 {
        return found(at);
    }
    depth < 4
        && entries(image, at).into_iter().all(|(_, next)| walk(image, base, next, depth + 1, found))
}

/// A text with its length before it.
fn counted(image: &Image<'_>, at: usize) -> Option<String> {
    let length = usize::from(image.u16(at)?).min(MOST) * 2;
    let bytes = image.data.get(at + 2..at + 2 + length)?;
    Some(ended(bytes))
}

/// Text of two bytes a character, up to its end.
fn ended(bytes: &[u8]) -> String {
    let all = wide(bytes);
    all.split('\0').next().unwrap_or_default().to_owned()
}

/// What there is, as rows; NULL without resources.
pub(super) fn list(image: &Image<'_>) -> Value {
    if image.directory(2).1 == 0 {
        return Value::Null;
    }
    let row = |r: Resource| {
        Dict::new()
            .with("Type", r.name)
            // The highest bit only says that there is a name.
            .with("TypeId", r.kind & 0x7fff_ffff)
            .with("FileOffset", r.place)
            .with("DataSize", r.size)
            .with("CodePage", r.page)
    };
    Value::object(Records(leaves(image).into_iter().map(row).map(Value::from).collect()))
}

/// The texts of the version; none without one.
pub(super) fn version(image: &Image<'_>) -> Value {
    let Some(found) = leaves(image).into_iter().find(|r| r.kind == VERSION) else {
        return Dict::new().into();
    };
    let end = found.place.saturating_add(found.size as usize).min(image.data.len());
    let data = image.data.get(found.place..end).unwrap_or_default();
    let mut out = Dict::new();
    // The version, its parts, the tables of the part with texts, the texts.
    if let Some(top) = Block::read(data, 0) {
        for part in top.children(data).filter(|b| b.key == "StringFileInfo") {
            for text in part.children(data).flat_map(|table| table.children(data)).take(MOST) {
                out.set(
                    Key::new(&text.key),
                    ended(data.get(text.value..text.end).unwrap_or_default()),
                );
            }
        }
    }
    out.into()
}

/// A block of a version: a length, a name, a value and further blocks.
struct Block {
    key: String,
    value: usize,
    /// Where the blocks in it begin.
    inner: usize,
    end: usize,
}

impl Block {
    fn read(data: &[u8], at: usize) -> Option<Block> {
        let (length, value) = (usize::from(data.u16(at)?), usize::from(data.u16(at + 2)?));
        let text = data.u16(at + 4)? == 1;
        if length < 6 || at + length > data.len() {
            return None;
        }
        let key = ended(&data[at + 6..at + length]);
        let behind = at + 6 + (key.encode_utf16().count() + 1) * 2;
        let value_at = behind.next_multiple_of(4).min(at + length);
        // Texts are counted in characters, all else in bytes.
        let value = if text { value * 2 } else { value };
        let inner = (value_at + value).next_multiple_of(4).min(at + length);
        Some(Block { key, value: value_at, inner, end: at + length })
    }

    fn children<'d>(&self, data: &'d [u8]) -> impl Iterator<Item = Block> + use<'d> {
        let (mut at, end) = (self.inner, self.end);
        std::iter::from_fn(move || {
            let block = (at < end).then(|| Block::read(data, at)).flatten()?;
            at = block.end.next_multiple_of(4);
            Some(block)
        })
    }
}

/// A version that names a company, for tests.
#[cfg(test)]
pub(super) fn example() -> Vec<u8> {
    fn block(key: &str, text: Option<&str>, inner: &[u8]) -> Vec<u8> {
        let units =
            |t: &str| t.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let count = text.map_or(0, |t| t.encode_utf16().count() as u16 + 1);
        let mut out = [0, count, u16::from(text.is_some() || !inner.is_empty())]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .collect::<Vec<u8>>();
        out.extend(units(key));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(text.map(units).unwrap_or_default());
        out.extend(inner);
        let length = out.len() as u16;
        out[..2].copy_from_slice(&length.to_le_bytes());
        out
    }
    let text = block("CompanyName", Some("Us"), &[]);
    let mut all =
        block("VS_VERSION", None, &block("StringFileInfo", None, &block("040904b0", None, &text)));
    all.resize(144, 0);
    all
}
