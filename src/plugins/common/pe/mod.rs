//! `parse_pe`: what a Windows program says of itself. `pe_dump` makes a file of one that is
//! in memory.

mod dump;
mod image;
mod resources;

use std::io::{Read, SeekFrom};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use md5::{Digest, Md5};
use vql::{ArgType, Args, Dict, Error, Registry, Scope, Signature, Time, Value};

use super::accessor::ReadSeek;
use super::file::named;
use super::records::Records;
use super::signed::Signed;
use image::Image;

/// Most bytes of a file that are looked at; it is held in memory.
const LIMIT: u64 = 256 << 20;

/// Bytes in which the heads of a program are.
const HEADS: u64 = 0x2000;

/// Directories of an image, in the order of their names.
const DIRECTORIES: [(usize, &str); 15] = [
    (7, "Architecture_Directory"),
    (5, "Base_Relocation_Directory"),
    (11, "Bound_Import_Directory"),
    (14, "DotNet_Directory"),
    (6, "Debug_Directory"),
    (13, "Delay_Imports_Directory"),
    (3, "Exception_Directory"),
    (0, "Export_Directory"),
    (8, "Global_Ptr_Directory"),
    (12, "IAT_Directory"),
    (1, "Import_Directory"),
    (10, "Load_Config_Directory"),
    (2, "Resource_Directory"),
    (4, "Security_Directory"),
    (9, "TLS_Directory"),
];

/// Adds `parse_pe`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("parse_pe", "What a Windows program says of itself.")
        .required("file", ArgType::Path, "The program.")
        .arg("accessor", ArgType::String, "An accessor to use.")
        .arg("base_offset", ArgType::Int, "Where in the file it is, laid out as in memory.");
    registry.function_async(signature, |scope, args| async move { run(&scope, &args).await });
    dump::register(registry);
}

async fn run(scope: &Scope, args: &Args) -> Result<Value, Error> {
    let (accessor, path) = named(scope, args, "file")?;
    let base = u64::try_from(args.int("base_offset")?).unwrap_or(0);
    let look = move || -> std::io::Result<Option<Dict>> {
        let data = read(&mut *accessor.open(&path)?, base)?;
        Ok(data.and_then(|data| describe(&data, base > 0)))
    };
    let found = super::blocking(scope, look).await?.map_err(Error::failed)?;
    Ok(found.map_or(Value::Null, Value::from))
}

/// What of a file is looked at, from `base` on; `None` when it does not begin like a program.
pub fn read(mut file: &mut dyn ReadSeek, base: u64) -> std::io::Result<Option<Vec<u8>>> {
    file.seek(SeekFrom::Start(base))?;
    let mut data = Vec::new();
    // Most files are no programs, which their first bytes tell.
    (&mut file).take(2).read_to_end(&mut data)?;
    if data != b"MZ" {
        return Ok(None);
    }
    let mut limit = LIMIT;
    if base > 0 {
        // In memory other things follow it: its heads say how long it is.
        let heads = (&mut file).take(HEADS).read_to_end(&mut data);
        let image = Image::new(&data, true).filter(|_| heads.is_ok());
        let size = image.and_then(|image| image.u32(image.optional + 56)).unwrap_or(0);
        limit = limit.min(u64::from(size)).saturating_sub(data.len() as u64);
    }
    // Memory may end in a hole; what is before it counts.
    match file.take(limit).read_to_end(&mut data) {
        Err(e) if base == 0 => Err(e),
        _ => Ok(Some(data)),
    }
}

/// The signature in a program's file.
pub fn signature(data: &[u8]) -> Option<&[u8]> {
    signature_of(&Image::new(data, false)?)
}

fn signature_of<'a>(image: &Image<'a>) -> Option<&'a [u8]> {
    // Its address is a place in the file.
    let (at, size) = image.directory(4);
    let length = image.u32(at as usize).filter(|_| size > 0)?;
    let rest = image.data.get((at as usize).checked_add(8)?..)?;
    Some(&rest[..rest.len().min(length as usize)])
}

/// All facts of an image; `None` when it is none.
fn describe(data: &[u8], mapped: bool) -> Option<Dict> {
    let image = Image::new(data, mapped)?;
    let time = |seconds: u32| Time::new(seconds.into(), 0).map_or(Value::Null, Value::Time);
    let mut directories = Dict::new();
    for (index, name) in DIRECTORIES {
        let (at, size) = image.directory(index);
        if size == 0 {
            continue;
        }
        // The address is shown, and looked up, as if it were a place in the file.
        let stamp = image.u32(at as usize + 4).unwrap_or(0);
        let holds = |s: &&image::Section| (s.offset..s.offset.saturating_add(s.size)).contains(&at);
        let section = image.sections.iter().find(holds);
        let facts = Dict::new()
            .with("Timestamp", time(stamp))
            .with("TimestampRaw", stamp)
            .with("Size", size)
            .with("FileAddress", at)
            .with("SectionName", section.map_or("", |s| s.name.as_str()));
        directories.set(name, facts);
    }
    let sections = image.sections.iter().map(|s| {
        Dict::new()
            .with("Perm", s.permissions())
            .with("Name", s.name.as_str())
            .with("FileOffset", s.stored)
            .with("VMA", image.base.saturating_add(s.address.into()))
            .with("RVA", s.address)
            .with("Size", s.size)
    });
    let (guid, pdb) = image.debug().unwrap_or_default();
    let imports = image.imports();
    let exports = image.exports();
    let (own, forwarded): (Vec<_>, Vec<_>) =
        exports.iter().flatten().partition(|e| e.forward.is_none());
    let named = |e: &&image::Export| match e.name.is_empty() {
        true => format!("{}:#{}", e.library, e.ordinal),
        false => format!("{}:{}", e.library, e.name),
    };
    let rows = exports.as_ref().map(|all| {
        let row = |e: &image::Export| {
            Dict::new()
                .with("Ordinal", e.ordinal)
                .with("Forwarder", e.forward.clone().unwrap_or_default())
                .with("Name", e.name.as_str())
                .with("DLLName", e.library.as_str())
                .with("RVA", e.address)
        };
        Value::object(Records(all.iter().map(row).map(Value::from).collect()))
    });
    let signed = signature_of(&image).and_then(Signed::of);
    let header = Dict::new()
        .with("Machine", machine(image.machine))
        .with("TimeDateStamp", time(image.stamp))
        .with("TimeDateStampRaw", image.stamp)
        .with("Characteristics", image.characteristics)
        .with("ImageBase", image.base);
    Some(
        Dict::new()
            .with("FileHeader", header)
            .with("GUIDAge", guid)
            .with("PDB", pdb)
            .with("Directories", directories)
            .with("Sections", Value::object(Records(sections.map(Value::from).collect())))
            .with("Resources", resources::list(&image))
            .with("VersionInformation", resources::version(&image))
            .with("Imports", imports.iter().collect::<Value>())
            .with("Exports", own.iter().map(named).collect::<Value>())
            .with("ExportRVAs", rows.unwrap_or_default())
            .with("Forwards", forwarded.iter().filter_map(|e| e.forward.clone()).collect::<Value>())
            .with("ImpHash", import_hash(&imports))
            .with("Authenticode", signed.as_ref().map(Signed::dict))
            .with("AuthenticodeHash", signed_hashes(&image, signed.as_ref())),
    )
}

fn machine(kind: u16) -> String {
    let name = match kind {
        0x14c => "IMAGE_FILE_MACHINE_I386",
        0x8664 => "IMAGE_FILE_MACHINE_AMD64",
        0x200 => "IMAGE_FILE_MACHINE_IA64",
        0x1c0 => "IMAGE_FILE_MACHINE_ARM",
        0x1c4 => "IMAGE_FILE_MACHINE_ARMNT",
        0xaa64 => "IMAGE_FILE_MACHINE_ARM64",
        other => return format!("{other:#x}"),
    };
    name.to_owned()
}

/// The hash by which programs with the same imports are known.
fn import_hash(imports: &[String]) -> String {
    let one = |text: &String| {
        let text = text.to_lowercase();
        let (library, function) = text.split_once('!').unwrap_or((text.as_str(), ""));
        let library = [".ocx", ".sys", ".dll"]
            .iter()
            .find_map(|e| library.strip_suffix(e))
            .unwrap_or(library);
        let ordinal = function.strip_prefix("0x").and_then(|d| u32::from_str_radix(d, 16).ok());
        match ordinal {
            Some(n) => format!("{library}.ord{n}"),
            None => format!("{library}.{function}"),
        }
    };
    let all: Vec<String> = imports.iter().map(one).collect();
    hex::encode(Md5::digest(all.join(",")))
}

/// Hashes of what a signature is for: everything but itself and the checksum.
fn signed_hashes(image: &Image<'_>, signature: Option<&Signed<'_>>) -> Value {
    let (certificates, size) = image.directory(4);
    let end = match size {
        0 => image.data.len(),
        _ => (certificates as usize).min(image.data.len()),
    };
    let (checksum, entry) = (image.optional + 64, image.directories + 4 * 8);
    let part = |from: usize, to: usize| image.data.get(from..to.min(end)).unwrap_or_default();
    let rest = image.data.get((end + size as usize).min(image.data.len())..).unwrap_or_default();
    let rest = if size == 0 { &[][..] } else { rest };
    let signed =
        [part(0, checksum), part(checksum + 4, entry), part(entry + 8, end), rest].concat();
    let sha1 = digest(&SHA1_FOR_LEGACY_USE_ONLY, &signed);
    let sha256 = digest(&SHA256, &signed);
    let matches = signature.and_then(Signed::program_hash).is_some_and(|(name, hash)| match name {
        "SHA1" => hash == sha1.as_ref(),
        "SHA256" => hash == sha256.as_ref(),
        _ => false,
    });
    Dict::new()
        .with("MD5", hex::encode(Md5::digest(&signed)))
        .with("SHA1", hex::encode(sha1))
        .with("SHA256", hex::encode(sha256))
        .with("HashMatches", matches)
        .into()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_small_program() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.dll"), image::example()).unwrap();
        std::fs::write(dir.path().join("b.txt"), "text").unwrap();
        let mut registry = Registry::standard();
        super::super::register(&mut registry);
        let env = Arc::new(crate::env::real::env());
        let scope = vql::ScopeBuilder::new(Arc::new(registry)).extension(env).build();
        scope.set("Dir", dir.path().to_str().unwrap());
        let query = async |text: &str| Value::from(vql::run(text, &scope).await.unwrap()).to_json();
        let text = "LET P <= parse_pe(file=Dir + '/a.dll') SELECT P.FileHeader AS H, P.Sections AS S, \
            P.Imports AS I, P.Exports AS E, P.Forwards AS F, P.ImpHash AS M, P.VersionInformation AS V, \
            P.Resources AS R, P.PDB AS D, parse_pe(file=Dir + '/b.txt') AS N FROM scope()";
        let hash = hex::encode(Md5::digest("k.open,k.ord7"));
        let expected = format!(
            r#"[{{"H":{{"Machine":"IMAGE_FILE_MACHINE_I386","TimeDateStamp":"2001-09-09T01:46:40Z","TimeDateStampRaw":1000000000,"Characteristics":8450,"ImageBase":4194304}},"S":[{{"Perm":"xr-","Name":".all","FileOffset":512,"VMA":4198400,"RVA":4096,"Size":1024}}],"I":["K.dll!Open","K.dll!0x7"],"E":["me.dll:Own"],"F":["other.Thing"],"M":"{hash}","V":{{"CompanyName":"Us"}},"R":[{{"Type":"RT_VERSION","TypeId":16,"FileOffset":1024,"DataSize":144,"CodePage":1252}}],"D":"","N":null}}]"#
        );
        assert_eq!(query(text).await, expected);
        let text =
            "SELECT _value.Name AS N FROM foreach(row=parse_pe(file=Dir + '/a.dll').Sections)";
        assert_eq!(query(text).await, r#"[{"N":".all"}]"#);
        // For callables and operators they are lists.
        let text = "LET S <= parse_pe(file=Dir + '/a.dll').Sections SELECT len(list=S) AS L, \
            filter(list=S, condition='x=>x.Size').Name AS F, S[0] IN S AS I, \
            join(array=S.Name) AS J, { SELECT V.RVA FROM flatten(query={ SELECT S AS V FROM scope() }) } \
            AS V FROM scope()";
        let expected = r#"[{"L":1,"F":[".all"],"I":true,"J":".all","V":4096}]"#;
        assert_eq!(query(text).await, expected);
    }

    #[test]
    fn programs_that_lie() {
        let good = image::example();
        assert!(describe(&good, true).is_some());
        for at in 0..good.len() {
            for bits in [0xff, 0x01, 0x80] {
                let mut bad = good.clone();
                bad[at] ^= bits;
                describe(&bad, at % 2 == 0);
            }
        }
        for length in 0..good.len() {
            describe(&good[..length], false);
        }
    }
}
