//! The accessor `ewf`: the disk in an image of the Expert Witness format, whose files
//! are named `.E01`, `.E02` and so on. Checksums are not looked at.

use std::io::{self, Read, Seek, SeekFrom};

use super::accessor::{Accessor, Accessors, ReadSeek, sought};
use super::fields::Fields;
use super::path::OsPath;

/// How a file of an image begins.
const MAGIC: &[u8] = b"EVF\x09\x0d\x0a\xff\x00";
/// Bytes of the head of a section.
const HEAD: u64 = 76;
/// Files of one image, as far as their names have two digits.
const FILES: usize = 99;
/// Largest chunk, and most chunks of an image.
const LARGEST: u64 = 64 << 20;
const CHUNKS: u64 = 1 << 28;

/// See the module.
pub struct Ewf(pub Accessors);

impl Accessor for Ewf {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let mut files = vec![self.0.open_outer(path)?];
        let (accessor, first) = match &path.delegate {
            Some(d) => (d.accessor.clone(), d.path.clone()),
            None => (String::new(), path.to_text()),
        };
        // Further files lie beside the first.
        if let Some(base) = first.strip_suffix("01") {
            for n in 2..=FILES {
                let next = OsPath::linux(b"").inside(&accessor, &format!("{base}{n:02}"));
                match self.0.open_outer(&next) {
                    Ok(file) => files.push(file),
                    Err(_) => break,
                }
            }
        }
        Ok(Box::new(Image::open(files)?))
    }
}

/// Where a chunk of the disk is.
struct Chunk {
    file: u32,
    packed: bool,
    at: u64,
    length: u64,
}

/// An image, read chunk by chunk.
struct Image {
    files: Vec<Box<dyn ReadSeek>>,
    chunks: Vec<Chunk>,
    chunk: u64,
    size: u64,
    at: u64,
    /// The chunk read last, and its number.
    last: Option<(u64, Vec<u8>)>,
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

fn read_at(file: &mut dyn ReadSeek, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut out = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut out)?;
    Ok(out)
}

/// Zero where there is none: what is read has the size of its structure.
fn u32_at(b: &[u8], at: usize) -> u64 {
    b.u32(at).unwrap_or(0).into()
}

impl Image {
    fn open(files: Vec<Box<dyn ReadSeek>>) -> io::Result<Image> {
        let (chunks, last) = (Vec::new(), None);
        let mut image = Image { files, chunks, chunk: 0, size: 0, at: 0, last };
        for file in 0..image.files.len() {
            image.sections(file)?;
        }
        match image.chunk {
            0 => Err(bad("the image does not say how large its disk is")),
            _ => Ok(image),
        }
    }

    /// Reads the sections of one file, each of which names the next.
    fn sections(&mut self, number: usize) -> io::Result<()> {
        let file = &mut self.files[number];
        if read_at(file, 0, 13)?.get(..8) != Some(MAGIC) {
            return Err(bad("this is no image of the Expert Witness format"));
        }
        let (mut at, mut data_end) = (13, 0);
        loop {
            let head = read_at(file, at, HEAD)?;
            let kind = head[..16].split(|b| *b == 0).next().unwrap_or_default();
            let (next, size) = (head.u64(16).unwrap_or(0), head.u64(24).unwrap_or(0));
            match kind {
                b"volume" | b"disk" => {
                    let b = read_at(file, at + HEAD, 24)?;
                    let (sectors, bytes) = (u32_at(&b, 8), u32_at(&b, 12));
                    self.chunk = sectors.saturating_mul(bytes);
                    self.size = b.u64(16).unwrap_or(0).saturating_mul(bytes);
                    if self.chunk == 0 || self.chunk > LARGEST {
                        return Err(bad("chunks of the image have an impossible size"));
                    }
                }
                b"sectors" => data_end = at.saturating_add(size),
                b"table" => {
                    let b = read_at(file, at + HEAD, 24)?;
                    let (count, base) = (u32_at(&b, 0), b.u64(8).unwrap_or(0));
                    if count + self.chunks.len() as u64 > CHUNKS {
                        return Err(bad("the image has too many chunks"));
                    }
                    let end = file.seek(SeekFrom::End(0))?;
                    if at + HEAD + 24 + count * 4 > end {
                        return Err(bad("a table of the image is cut off"));
                    }
                    let table = read_at(file, at + HEAD + 24, count * 4)?;
                    // A chunk ends where the next begins, the last where its section does.
                    let place =
                        |i: u64| base.saturating_add(u32_at(&table, i as usize * 4) & 0x7fff_ffff);
                    for i in 0..count {
                        let behind = match i + 1 < count {
                            true => place(i + 1),
                            false if data_end > place(i) => data_end,
                            false => at,
                        };
                        let packed = u32_at(&table, i as usize * 4) >> 31 == 1;
                        let length = behind.saturating_sub(place(i));
                        self.chunks.push(Chunk {
                            file: number as u32,
                            packed,
                            at: place(i),
                            length,
                        });
                    }
                }
                _ => {}
            }
            // The last section names itself.
            if next <= at {
                return Ok(());
            }
            at = next;
        }
    }

    /// A chunk of the disk.
    fn chunk(&mut self, number: u64) -> io::Result<&[u8]> {
        if self.last.as_ref().is_none_or(|(n, _)| *n != number) {
            let chunk = usize::try_from(number).ok().and_then(|n| self.chunks.get(n));
            let chunk = chunk.ok_or_else(|| bad("a chunk of the image is missing"))?;
            let file = &mut self.files[chunk.file as usize];
            let data = match chunk.packed {
                // The checksum that follows is not part of it.
                false => read_at(file, chunk.at, self.chunk.min(chunk.length))?,
                true => {
                    let packed = read_at(file, chunk.at, chunk.length.min(LARGEST * 2))?;
                    let mut out = Vec::new();
                    let unpack = flate2::read::ZlibDecoder::new(&packed[..]);
                    unpack.take(self.chunk).read_to_end(&mut out)?;
                    out
                }
            };
            self.last = Some((number, data));
        }
        Ok(self.last.as_ref().map_or(&[][..], |(_, data)| data))
    }
}

impl Read for Image {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.size.saturating_sub(self.at);
        let length = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let (number, inside) = (self.at / self.chunk, (self.at % self.chunk) as usize);
        let data = self.chunk(number)?.get(inside..).unwrap_or_default();
        let length = length.min(data.len());
        if length == 0 {
            return Err(bad("a chunk of the image is too short"));
        }
        into[..length].copy_from_slice(&data[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Image {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = sought(to, self.size, self.at)?;
        Ok(self.at)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use vql::Value;

    fn section(out: &mut Vec<u8>, kind: &str, content: &[u8], last: bool) {
        let at = out.len();
        let size = HEAD as usize + content.len();
        let mut head = vec![0; HEAD as usize];
        head[..kind.len()].copy_from_slice(kind.as_bytes());
        let next = if last { at } else { at + size };
        head[16..24].copy_from_slice(&(next as u64).to_le_bytes());
        head[24..32].copy_from_slice(&(size as u64).to_le_bytes());
        out.extend(head);
        out.extend(content);
    }

    /// One file of an image: chunks of 1024 bytes, packed or not.
    fn file(chunks: &[(&[u8], bool)], volume: Option<u64>) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([1, 1, 0, 0, 0]);
        if let Some(sectors) = volume {
            let mut b = vec![0; 94];
            b[8..12].copy_from_slice(&2u32.to_le_bytes());
            b[12..16].copy_from_slice(&512u32.to_le_bytes());
            b[16..24].copy_from_slice(&sectors.to_le_bytes());
            section(&mut out, "volume", &b, false);
        }
        let base = out.len() as u64 + HEAD;
        let (mut data, mut table) = (Vec::new(), Vec::new());
        for (chunk, packed) in chunks {
            let flag = if *packed { 1u32 << 31 } else { 0 };
            table.extend((data.len() as u32 | flag).to_le_bytes());
            if *packed {
                let level = flate2::Compression::fast();
                let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), level);
                packer.write_all(chunk).unwrap();
                data.extend(packer.finish().unwrap());
            } else {
                data.extend(*chunk);
                data.extend([1, 2, 3, 4]);
            }
        }
        section(&mut out, "sectors", &data, false);
        let mut head = vec![0; 24];
        head[..4].copy_from_slice(&(chunks.len() as u32).to_le_bytes());
        head[8..16].copy_from_slice(&base.to_le_bytes());
        head.extend(table);
        section(&mut out, "table", &head, false);
        section(&mut out, "done", &[], true);
        out
    }

    #[tokio::test]
    async fn a_disk_in_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = [b'a', b'b', b'c'].map(|l| vec![l; 1024]);
        let one = file(&[(&a, true), (&b, false)], Some(5));
        std::fs::write(dir.path().join("d.E01"), &one).unwrap();
        std::fs::write(dir.path().join("d.E02"), file(&[(&c, true)], None)).unwrap();
        std::fs::write(dir.path().join("cut.E01"), &one[..one.len() - 100]).unwrap();
        let mut registry = vql::Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Dir", dir.path().to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let text = "LET R(F, O) = read_file(accessor='ewf', filename=Dir + F, offset=O, length=4) \
            SELECT R(F='/d.E01', O=1022) AS A, R(F='/d.E01', O=2046) AS B, R(F='/d.E01', O=2558) AS C, \
            stat(accessor='ewf', filename=Dir + '/d.E01').Size AS S, R(F='/cut.E01', O=0) AS D FROM scope()";
        assert_eq!(query(text).await, r#"[{"A":"aabb","B":"bbcc","C":"cc","S":2560,"D":""}]"#);
    }

    #[test]
    fn images_that_lie() {
        let good = file(&[(&[7; 1024], true), (&[8; 1024], false)], Some(4));
        let look = |data: Vec<u8>| {
            if let Ok(mut image) = Image::open(vec![Box::new(io::Cursor::new(data))]) {
                let _ = io::copy(&mut (&mut image).take(1 << 16), &mut io::sink());
            }
        };
        for at in 0..good.len() {
            for bits in [0xff, 0x01] {
                let mut bad = good.clone();
                bad[at] ^= bits;
                look(bad);
            }
            look(good[..at].to_vec());
        }
    }
}
