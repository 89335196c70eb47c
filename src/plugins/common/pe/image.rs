//! Headers, sections and tables of an image. Every number in it may be wrong.

use super::super::fields::Fields;

/// Most sections, libraries, functions of one library, and exports.
const MOST: usize = 16 << 10;
/// Longest name.
const NAME: usize = 1024;

/// An image.
pub(super) struct Image<'a> {
    pub(super) data: &'a [u8],
    pub(super) machine: u16,
    pub(super) stamp: u32,
    pub(super) characteristics: u16,
    pub(super) base: u64,
    pub(super) sections: Vec<Section>,
    /// Where the optional header begins.
    pub(super) optional: usize,
    /// Where the table of directories begins.
    pub(super) directories: usize,
    wide: bool,
    /// Laid out as in memory: addresses are places.
    mapped: bool,
}

pub(super) struct Section {
    pub(super) name: String,
    pub(super) address: u32,
    pub(super) offset: u32,
    /// Where it is in the file, even of an image that is laid out as in memory.
    pub(super) stored: u32,
    pub(super) size: u32,
    memory: u32,
    flags: u32,
}

impl Section {
    pub(super) fn permissions(&self) -> String {
        [(1 << 29, 'x'), (1 << 30, 'r'), (1 << 31, 'w')]
            .map(|(bit, c)| if self.flags & bit != 0 { c } else { '-' })
            .into_iter()
            .collect()
    }
}

/// A function others may use.
pub(super) struct Export {
    pub(super) ordinal: u32,
    pub(super) name: String,
    pub(super) library: String,
    /// The function of another library it stands for.
    pub(super) forward: Option<String>,
    pub(super) address: u32,
}

impl<'a> Image<'a> {
    pub(super) fn new(data: &'a [u8], mapped: bool) -> Option<Image<'a>> {
        let mut image = Image {
            data,
            machine: 0,
            stamp: 0,
            characteristics: 0,
            base: 0,
            sections: Vec::new(),
            optional: 0,
            directories: 0,
            wide: false,
            mapped,
        };
        let header = image.u32(0x3c)? as usize;
        if data.get(header..header.checked_add(4)?)? != b"PE\0\0" {
            return None;
        }
        image.machine = image.u16(header + 4)?;
        let count = usize::from(image.u16(header + 6)?);
        image.stamp = image.u32(header + 8)?;
        let optional = usize::from(image.u16(header + 20)?);
        image.characteristics = image.u16(header + 22)?;
        image.optional = header + 24;
        image.wide = match image.u16(image.optional)? {
            0x10b => false,
            0x20b => true,
            _ => return None,
        };
        (image.base, image.directories) = match image.wide {
            true => (image.data.u64(image.optional + 24)?, image.optional + 112),
            false => (image.u32(image.optional + 28)?.into(), image.optional + 96),
        };
        for i in 0..count.min(MOST) {
            let at = image.optional + optional + i * 40;
            let Some(name) = data.get(at..at + 8) else { break };
            let end = name.iter().position(|b| *b == 0).unwrap_or(8);
            let (address, stored) = (image.u32(at + 12)?, image.u32(at + 20)?);
            image.sections.push(Section {
                name: vql::lossy(&name[..end]).into_owned(),
                address,
                offset: if mapped { address } else { stored },
                stored,
                size: image.u32(at + 16)?,
                memory: image.u32(at + 8)?,
                flags: image.u32(at + 36)?,
            });
        }
        Some(image)
    }

    pub(super) fn u16(&self, at: usize) -> Option<u16> {
        self.data.u16(at)
    }

    pub(super) fn u32(&self, at: usize) -> Option<u32> {
        self.data.u32(at)
    }

    /// Address and size of a directory.
    pub(super) fn directory(&self, index: usize) -> (u32, u32) {
        let at = self.directories + index * 8;
        let count = self.u32(self.directories - 4).unwrap_or(0) as usize;
        match index < count {
            true => (self.u32(at).unwrap_or(0), self.u32(at + 4).unwrap_or(0)),
            false => (0, 0),
        }
    }

    /// The place in the data of an address.
    pub(super) fn place(&self, address: u32) -> Option<usize> {
        if self.mapped {
            return Some(address as usize);
        }
        let inside =
            |s: &&Section| address.checked_sub(s.address).is_some_and(|d| d < s.size.max(s.memory));
        let section = self.sections.iter().find(inside)?;
        Some((address - section.address) as usize + section.offset as usize)
    }

    fn name(&self, address: u32) -> Option<String> {
        let text = self.data.get(self.place(address)?..)?;
        let end = text.iter().take(NAME).position(|b| *b == 0)?;
        Some(vql::lossy(&text[..end]).into_owned())
    }

    /// `library!function` of everything it needs.
    pub(super) fn imports(&self) -> Vec<String> {
        let mut out = Vec::new();
        let (address, size) = self.directory(1);
        let Some(start) = self.place(address).filter(|_| size > 0) else { return out };
        for i in 0..MOST {
            let at = start + i * 20;
            let (Some(lookup), Some(name)) = (self.u32(at), self.u32(at + 12)) else { break };
            if name == 0 && lookup == 0 {
                break;
            }
            let Some(library) = self.name(name) else { continue };
            let table = if lookup == 0 { self.u32(at + 16).unwrap_or(0) } else { lookup };
            self.functions(table, &library, &mut out);
            if out.len() > MOST {
                break;
            }
        }
        out
    }

    fn functions(&self, table: u32, library: &str, out: &mut Vec<String>) -> Option<()> {
        let start = self.place(table)?;
        for i in 0..MOST {
            let (entry, by_number) = match self.wide {
                true => {
                    let entry = self.data.u64(start + i * 8)?;
                    (entry, entry >> 63 == 1)
                }
                false => {
                    let entry = self.u32(start + i * 4)?;
                    (entry.into(), entry >> 31 == 1)
                }
            };
            if entry == 0 {
                break;
            }
            if by_number {
                out.push(format!("{library}!{:#x}", entry & 0xff_ffff));
            } else {
                // A hint stands before the name.
                let name = self.name(u32::try_from(entry).ok()?.checked_add(2)?)?;
                out.push(format!("{library}!{name}"));
            }
        }
        Some(())
    }

    /// What it offers; `None` without a table.
    pub(super) fn exports(&self) -> Option<Vec<Export>> {
        let (address, size) = self.directory(0);
        let at = self.place(address).filter(|_| size > 0)?;
        let library = self.name(self.u32(at + 12)?).unwrap_or_default();
        let base = self.u32(at + 16)?;
        let (functions, names) = (self.u32(at + 20)? as usize, self.u32(at + 24)? as usize);
        let table = |field: usize| self.u32(at + field).and_then(|a| self.place(a));
        let (addresses, name_table, ordinals) = (table(28)?, table(32), table(36));
        let mut named = std::collections::BTreeMap::new();
        for i in 0..names.min(MOST) {
            let name = name_table.and_then(|t| self.name(self.u32(t + i * 4)?));
            let index = ordinals.and_then(|t| self.u16(t + i * 2));
            if let (Some(name), Some(index)) = (name, index) {
                named.entry(usize::from(index)).or_insert((i, name));
            }
        }
        let mut out = Vec::new();
        for i in 0..functions.min(MOST) {
            let Some(function) = self.u32(addresses + i * 4) else { break };
            if function == 0 {
                continue;
            }
            let inside = function.checked_sub(address).is_some_and(|d| d < size);
            let forward = if inside { self.name(function) } else { None };
            let (order, name) = named.get(&i).cloned().unwrap_or((usize::MAX, String::new()));
            let ordinal = if name.is_empty() { base.saturating_add(i as u32) } else { i as u32 };
            let export =
                Export { ordinal, name, library: library.clone(), forward, address: function };
            out.push((export.forward.is_none(), order, export));
        }
        // Those that lead elsewhere first, then by name, then those with a number alone.
        out.sort_by_key(|(own, order, e)| (*own, if *own { *order } else { 0 }, e.ordinal));
        Some(out.into_iter().map(|(_, _, e)| e).collect())
    }

    /// The identity of its debug file, and the file's name.
    pub(super) fn debug(&self) -> Option<(String, String)> {
        let (address, size) = self.directory(6);
        let start = self.place(address)?;
        for i in 0..(size as usize / 28).min(64) {
            let at = start + i * 28;
            if self.u32(at + 12)? != 2 {
                continue;
            }
            let at = if self.mapped { self.u32(at + 20)? } else { self.u32(at + 24)? } as usize;
            let data = self.data.get(at..)?;
            let b = data.get(..24).filter(|b| b.starts_with(b"RSDS"))?;
            let (one, two, three) = (self.u32(at + 4)?, self.u16(at + 8)?, self.u16(at + 10)?);
            let rest: String = b[12..20].iter().map(|x| format!("{x:02X}")).collect();
            let guid = format!("{one:08X}{two:04X}{three:04X}{rest}{:X}", self.u32(at + 20)?);
            let name = &data[24..];
            let end = name.iter().take(NAME).position(|b| *b == 0)?;
            return Some((guid, vql::lossy(&name[..end]).into_owned()));
        }
        None
    }
}

/// A small program with one section, for tests: imports, exports, a version.
#[cfg(test)]
pub(super) fn example() -> Vec<u8> {
    let mut data = vec![0u8; 512 + 1024];
    let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(0x40, b"PE\0\0\x4c\x01\x01\0");
    put(0x48, &1_000_000_000u32.to_le_bytes());
    put(0x54, &[0xe0, 0, 0x02, 0x21]);
    put(0x58, &[0x0b, 0x01]);
    put(0x58 + 28, &0x40_0000u32.to_le_bytes());
    put(0x58 + 92, &[16]);
    let directories = 0x58 + 96;
    for (index, address, size) in
        [(0usize, 0x1100u32, 0x80u32), (1, 0x1000, 40), (2, 0x1180, 0x100)]
    {
        put(directories + index * 8, &address.to_le_bytes());
        put(directories + index * 8 + 4, &size.to_le_bytes());
    }
    let section = 0x58 + 0xe0;
    put(section, b".all");
    for (at, n) in [(8, 1024u32), (12, 0x1000), (16, 1024), (20, 512), (36, 0x6000_0020)] {
        put(section + at, &n.to_le_bytes());
    }
    // Imports at 0x1000: K.dll with a name and a number.
    let at = |address: usize| address - 0x1000 + 512;
    put(at(0x1000), &0x1040u32.to_le_bytes());
    put(at(0x100c), &0x1060u32.to_le_bytes());
    put(at(0x1040), &0x1070u32.to_le_bytes());
    put(at(0x1044), &0x8000_0007u32.to_le_bytes());
    put(at(0x1060), b"K.dll\0");
    put(at(0x1070), b"\0\0Open\0");
    // Exports at 0x1100: one of its own, one of another library's.
    for (offset, n) in
        [(12, 0x1150u32), (16, 1), (20, 2), (24, 2), (28, 0x1130), (32, 0x1138), (36, 0x1140)]
    {
        put(at(0x1100 + offset), &n.to_le_bytes());
    }
    put(at(0x1130), &0x1010u32.to_le_bytes());
    put(at(0x1134), &0x1170u32.to_le_bytes());
    put(at(0x1138), &0x1158u32.to_le_bytes());
    put(at(0x113c), &0x1160u32.to_le_bytes());
    put(at(0x1140), &[0, 0, 1, 0]);
    put(at(0x1150), b"me.dll\0");
    put(at(0x1158), b"Own\0");
    put(at(0x1160), b"Thing\0");
    put(at(0x1170), b"other.Thing\0");
    // Resources at 0x1180: type 16, name 1, language 0x409, the data at 0x1200.
    for (level, id, next) in
        [(0x1180usize, 16u32, 0x8000_0018u32), (0x1198, 1, 0x8000_0030), (0x11b0, 0x409, 0x48)]
    {
        put(at(level + 14), &[1]);
        put(at(level + 16), &id.to_le_bytes());
        put(at(level + 20), &next.to_le_bytes());
    }
    for (offset, n) in [(0usize, 0x1200u32), (4, 144), (8, 1252)] {
        put(at(0x1180 + 0x48 + offset), &n.to_le_bytes());
    }
    put(at(0x1200), &super::resources::example());
    data
}
