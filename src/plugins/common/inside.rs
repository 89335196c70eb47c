//! Accessors that give one file out of another: `gzip` its content unpacked (or as it is where
//! nothing is packed), `offset` what follows a place in it.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use vql::{Scope, Str};

use super::accessor::{Accessor, Accessors, FileInfo, ReadSeek};
use super::path::OsPath;

/// Largest content that is unpacked, in bytes; it is held in memory.
const LIMIT: u64 = 512 << 20;

/// See the module.
pub struct Gzip(pub Accessors);

impl Accessor for Gzip {
    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let mut packed = self.0.open_outer(path)?;
        let mut magic = Vec::new();
        (&mut packed).take(2).read_to_end(&mut magic)?;
        packed.seek(SeekFrom::Start(0))?;
        // Of files like those of a log some are packed and some not yet.
        if magic != [0x1f, 0x8b] {
            return Ok(packed);
        }
        let mut out = Vec::new();
        let unpacked =
            flate2::read::MultiGzDecoder::new(packed).take(LIMIT + 1).read_to_end(&mut out);
        // What there is before a damaged place can be read.
        if let Err(e) = unpacked
            && out.is_empty()
        {
            return Err(e);
        }
        match out.len() as u64 > LIMIT {
            true => Err(io::Error::other(format!("more than {LIMIT} bytes unpacked"))),
            false => Ok(Box::new(Cursor::new(out))),
        }
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let mut file = self.open(path)?;
        let packed = self.0.stat_outer(path)?;
        let mut info = FileInfo::plain(path.clone(), file.seek(SeekFrom::End(0))?);
        (info.mode, info.times) = (packed.mode, packed.times);
        // When what is packed was written, if it says.
        let mut head = Vec::new();
        self.0.open_outer(path)?.take(8).read_to_end(&mut head)?;
        if let [0x1f, 0x8b, _, _, when @ ..] = head.as_slice()
            && let Ok(when) = when.try_into().map(u32::from_le_bytes)
            && when != 0
        {
            info.times[0] = i64::from(when) * 1_000_000_000;
        }
        Ok(info)
    }
}

/// See the module. The path is the place, a number; what it is inside of the file.
pub struct Offset(pub Accessors);

impl Offset {
    fn place(&self, path: &OsPath) -> io::Result<u64> {
        if path.delegate.is_none() {
            return Ok(0);
        }
        let text = vql::lossy(&path.inner_bytes()).trim_start_matches('/').to_owned();
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None if text.is_empty() => Some(0),
            None => text.parse().ok(),
        };
        number.ok_or_else(|| io::Error::other(format!("{text} is no place in a file")))
    }
}

impl Accessor for Offset {
    fn parse(&self, _scope: &Scope, text: &Str) -> OsPath {
        self.read(text.as_bytes())
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        let (base, mut file) = (self.place(path)?, self.0.open_outer(path)?);
        file.seek(SeekFrom::Start(base))?;
        Ok(Box::new(Behind { file, base }))
    }
}

/// A file from some place on.
struct Behind {
    file: Box<dyn ReadSeek>,
    base: u64,
}

impl Read for Behind {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for Behind {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(n) => self.file.seek(SeekFrom::Start(self.base.saturating_add(n)))?,
            other => self.file.seek(other)?,
        };
        match at.checked_sub(self.base) {
            Some(at) => Ok(at),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "before the beginning")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;
    use vql::Value;

    #[tokio::test]
    async fn files_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(b"0123456789").unwrap();
        std::fs::write(dir.path().join("a.gz"), packer.finish().unwrap()).unwrap();
        std::fs::write(dir.path().join("plain.gz"), b"no").unwrap();
        std::fs::write(dir.path().join("broken.gz"), b"\x1f\x8bno").unwrap();
        let mut registry = vql::Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Dir", dir.path().to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let text = "SELECT read_file(accessor='gzip', filename=Dir + '/a.gz') AS A, \
            read_file(accessor='offset', filename=pathspec(DelegateAccessor='gzip', \
              DelegatePath=Dir + '/a.gz', Path='/4'), length=3) AS B, \
            stat(accessor='offset', filename=pathspec(DelegateAccessor='data', \
              DelegatePath='abcdef', Path='0x2')).Size AS C, \
            read_file(accessor='gzip', filename=Dir + '/broken.gz') AS D, \
            read_file(accessor='gzip', filename=Dir + '/plain.gz') AS E FROM scope()";
        let expected = r#"[{"A":"0123456789","B":"456","C":4,"D":"","E":"no"}]"#;
        assert_eq!(query(text).await, expected);
        // What is known of the file holds for its content, but for the size.
        let text = "LET P = Dir + '/a.gz' LET A = stat(accessor='gzip', filename=P) \
            LET B = stat(filename=P) \
            SELECT A.Size AS S, A.Mode.String = B.Mode.String AS M, A.Mtime = B.Mtime AS T FROM scope()";
        assert_eq!(query(text).await, r#"[{"S":10,"M":true,"T":true}]"#);
        // It may say itself when it was written.
        let packer = flate2::GzBuilder::new().mtime(1_577_934_245);
        let packer = packer.write(Vec::new(), flate2::Compression::fast());
        std::fs::write(dir.path().join("dated.gz"), packer.finish().unwrap()).unwrap();
        let text =
            "SELECT stat(accessor='gzip', filename=Dir + '/dated.gz').Mtime AS T FROM scope()";
        assert_eq!(query(text).await, r#"[{"T":"2020-01-02T03:04:05Z"}]"#);
    }
}
