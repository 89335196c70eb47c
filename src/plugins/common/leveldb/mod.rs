//! `leveldb`: keys and values of a LevelDB directory, as browsers keep them.

mod read;
mod snappy;
mod table;

use std::io::{self, Read};
use std::sync::Arc;

use vql::{ArgType, Dict, Error, Registry, Signature};

use super::accessor::Accessor;
use super::blocking;
use super::file::named;
use super::path::OsPath;

/// Largest file of a database that is read, in bytes.
const FILE: u64 = 256 << 20;

/// Adds `leveldb`.
pub fn register(registry: &mut Registry) {
    let leveldb = Signature::new("leveldb", "The keys and values of a LevelDB directory.")
        .required("file", ArgType::Path, "The directory.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    registry.plugin_async(leveldb, |scope, args, emitter| async move {
        let (accessor, path) = named(&scope, &args, "file")?;
        let shown = path.to_text();
        let read = move || read::all(&mut Directory { accessor, path });
        let found = blocking(&scope, read).await?;
        let found = found.map_err(|e| Error::failed(format!("{shown}: {e}")))?;
        for (key, value) in found {
            scope.charge_op().await;
            emitter.send(Dict::new().with("Key", key).with("Value", value)).await?;
        }
        Ok(())
    });
}

/// The files of a database by name.
struct Directory {
    accessor: Arc<dyn Accessor>,
    path: OsPath,
}

impl read::Files for Directory {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        let file = self.accessor.open(&self.path.join(name.as_bytes()))?;
        file.take(FILE + 1).read_to_end(&mut data)?;
        match data.len() as u64 > FILE {
            true => Err(io::Error::other(format!("{name}: larger than {FILE} bytes"))),
            false => Ok(data),
        }
    }

    fn names(&mut self) -> io::Result<Vec<String>> {
        let entries = self.accessor.read_dir(&self.path)?;
        let name = |i: super::FileInfo| Some(i.path.components.last()?.to_text().into_owned());
        Ok(entries.into_iter().filter_map(name).collect())
    }
}
