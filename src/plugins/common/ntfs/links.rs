//! Paths of file records: each name of a file names the record of its directory, up to the
//! root. A record may have been used again since, and directories may go round.

use std::collections::BTreeMap;
use std::sync::Arc;

use vql::Scope;

use super::attribute::FILE_NAME;
use super::index::FileName;
use super::volume::Volume;

/// Names of records that are kept; all are forgotten when there are more.
const KEPT: usize = 1 << 16;
/// Names from elsewhere that are kept.
const TOLD: usize = 1 << 21;
/// Paths of one record, and directories above it, unless the query says otherwise.
const LIMITS: usize = 20;
/// The largest of both that a query may ask for.
const MOST: usize = 1024;
/// Largest attribute that is read for a name.
const NAME: u64 = 1024;
/// The record of the root directory.
const ROOT: u64 = 5;

/// What a query sets for paths.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directories above a file.
    pub depth: usize,
    /// Paths of a file.
    pub links: usize,
    /// Whether short names of DOS count as names.
    pub short: bool,
    /// Only the name itself is wanted.
    pub names_only: bool,
    /// Put before each path, innermost first.
    pub prefix: Vec<String>,
}

impl Options {
    /// Those of the query's variables.
    pub fn of(scope: &Scope) -> Options {
        let number = |name: &str| {
            let given = scope.resolve(name).and_then(|v| v.as_int());
            given.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(LIMITS)
        };
        let yes = |name: &str| match scope.resolve(name) {
            None | Some(vql::Value::Null) => false,
            Some(value) => !matches!(value.to_text().as_str(), "" | "0" | "false" | "N"),
        };
        Options {
            depth: number("NTFS_MAX_DIRECTORY_DEPTH").min(MOST),
            links: number("NTFS_MAX_LINKS").min(MOST),
            short: yes("NTFS_INCLUDE_SHORT_NAMES"),
            names_only: yes("NTFS_DISABLE_FULL_PATH_RESOLUTION"),
            prefix: Vec::new(),
        }
    }
}

/// A name of a record.
#[derive(Clone, Debug)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Whether it is a short name of DOS only.
    pub short: bool,
    /// The record of its directory and which use of it.
    pub parent: (u64, u16),
}

impl From<&FileName> for Name {
    fn from(name: &FileName) -> Name {
        Name { name: name.name.clone(), short: name.space == 2, parent: name.parent }
    }
}

/// What is known of a record.
#[derive(Clone, Debug)]
struct Known {
    sequence: u16,
    names: Vec<Name>,
}

/// See the module.
pub struct Links {
    volume: Arc<Volume>,
    options: Options,
    known: BTreeMap<u64, Option<Arc<Known>>>,
    /// What a journal says of uses of records that are over.
    told: BTreeMap<(u64, u16), Arc<Known>>,
}

impl Links {
    /// Paths in a volume.
    pub fn new(volume: Arc<Volume>, options: Options) -> Links {
        Links { volume, options, known: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// Whether only names are wanted.
    pub fn names_only(&self) -> bool {
        self.options.names_only
    }

    /// Adds what is told of a use of a record; the first word counts.
    pub fn tell(&mut self, record: u64, sequence: u16, name: impl FnOnce() -> Name) {
        if self.told.len() < TOLD {
            self.told
                .entry((record, sequence))
                .or_insert_with(|| Arc::new(Known { sequence, names: vec![name()] }));
        }
    }

    fn known(&mut self, record: u64, sequence: u16) -> Option<Arc<Known>> {
        if self.known.len() >= KEPT {
            self.known.clear();
        }
        let volume = &self.volume;
        let found = self.known.entry(record).or_insert_with(|| {
            let (head, attributes) = volume.parts(record).ok()?;
            let names = attributes.iter().filter(|a| a.kind == FILE_NAME);
            let names = names.filter_map(|a| FileName::read(&volume.content(a, NAME).ok()?));
            let names = names.map(|n| Name::from(&n)).collect();
            Some(Arc::new(Known { sequence: head.sequence, names }))
        });
        let found = found.clone()?;
        // A journal knows names of uses that are over; better than those of another file.
        match found.sequence == sequence {
            true => Some(found),
            false => Some(self.told.get(&(record, sequence)).cloned().unwrap_or(found)),
        }
    }

    /// The paths of a record, outermost directory first; `most` zero is as the query says.
    pub fn paths(&mut self, record: u64, sequence: u16, most: usize) -> Vec<Vec<String>> {
        let most = if most == 0 { self.options.links } else { most };
        let Some(known) = self.known(record, sequence) else { return Vec::new() };
        let mut paths = vec![Vec::new()];
        self.walk(&known, &mut paths, 0, 0, most);
        let prefix = &self.options.prefix;
        let whole = |mut path: Vec<String>| {
            path.extend(prefix.iter().cloned());
            path.reverse();
            path
        };
        paths.into_iter().map(whole).filter(|p| !p.is_empty()).collect()
    }

    /// Whether a record is in that use now, or was by what is told; if not, in which it is.
    pub fn in_use(&mut self, record: u64, sequence: u16) -> Result<(), Option<u16>> {
        match self.known(record, sequence) {
            Some(known) if known.sequence == sequence => Ok(()),
            other => Err(other.map(|k| k.sequence)),
        }
    }

    /// Adds the names of a record to path `index`, which is `depth` long so far.
    fn walk(
        &mut self,
        known: &Known,
        paths: &mut Vec<Vec<String>>,
        index: usize,
        depth: usize,
        most: usize,
    ) {
        let mut fault = |text: String| paths[index].extend([text, "<Err>".to_owned()]);
        if depth > self.options.depth {
            return fault("<DirTooDeep>".into());
        }
        if known.names.is_empty() {
            return fault("<UnknownEntry>".into());
        }
        let long: Vec<&Name> =
            known.names.iter().filter(|n| self.options.short || !n.short).collect();
        let mut names = if long.is_empty() { known.names.iter().collect() } else { long };
        if names.len() > 1 && names[0].short {
            names.swap(0, 1);
        }
        for (i, name) in names.into_iter().enumerate() {
            let mut index = index;
            if i > 0 {
                // Another path that is the same so far.
                if paths.len() > most {
                    break;
                }
                let same = paths[index][..depth.min(paths[index].len())].to_vec();
                paths.push(same);
                index = paths.len() - 1;
            }
            paths[index].push(name.name.clone());
            let (parent, sequence) = name.parent;
            if parent == ROOT || parent == 0 {
                continue;
            }
            let text = match self.known(parent, sequence) {
                Some(above) if above.sequence == sequence => {
                    self.walk(&above, paths, index, depth + 1, most);
                    continue;
                }
                Some(above) => format!("<Parent {parent}-{} need {sequence}>", above.sequence),
                None => format!("<Parent {parent} is no record>"),
            };
            paths[index].extend([text, "<Err>".to_owned()]);
        }
    }
}
