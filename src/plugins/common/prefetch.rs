//! `prefetch`: what Windows noted of a program it started: when, how often, which files it
//! loaded.

use std::io::Read;

use vql::{ArgType, Args, Dict, Error, Registry, Scope, Signature, Time, Value};

use super::blocking;
use super::fields::{Fields, wide};
use super::file::named;

/// Largest file that is read, in bytes.
const LIMIT: u64 = 64 << 20;
/// What a packed file begins with; its size unpacked follows.
const PACKED: &[u8] = b"MAM\x04";
/// 1970 in ticks of 100 ns since 1601.
const EPOCH: i128 = 116_444_736_000_000_000;

/// Adds `prefetch`.
pub fn register(registry: &mut Registry) {
    let signature = Signature::new("prefetch", "The content of a prefetch file.")
        .required("filename", ArgType::Path, "The file.")
        .arg("accessor", ArgType::String, "An accessor to use.");
    registry.plugin_async(signature, |scope, args, emitter| async move {
        emitter.send(run(&scope, &args).await?).await
    });
}

async fn run(scope: &Scope, args: &Args) -> Result<Dict, Error> {
    let (accessor, path) = named(scope, args, "filename")?;
    let shown = path.to_text();
    let read = move || {
        let mut data = Vec::new();
        accessor.open(&path)?.take(LIMIT).read_to_end(&mut data)?;
        Ok::<_, std::io::Error>(parse(data))
    };
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("{shown}: {e}"));
    let row = blocking(scope, read).await?.map_err(|e| failed(&e))?;
    row.ok_or_else(|| failed(&"not a prefetch file"))
}

/// The row of a file, packed or not.
fn parse(mut data: Vec<u8>) -> Option<Dict> {
    if data.starts_with(PACKED) {
        data = vql::lzxpress_decompress(data.get(8..)?)?;
    }
    let data = &*data;
    if data.get(4..8)? != b"SCCA" {
        return None;
    }
    let version = data.u32(0)?;
    let (name, runs_at, times, count_at) = match version {
        17 => ("WinXP", 0x78, 1, 0x90),
        23 => ("Vista", 0x80, 1, 0x98),
        26 => ("Win8.1", 0x80, 8, 0xd0),
        // There are two forms of these; in the shorter one the count stands earlier.
        30 | 31 => {
            let name = if version == 30 { "Win10" } else { "Win11" };
            (name, 0x80, 8, if data.u32(0x54)? == 0x128 { 0xc8 } else { 0xd0 })
        }
        _ => return None,
    };
    let executable = wide(data.get(16..76)?);
    let executable = executable.split('\0').next().unwrap_or_default().to_owned();
    let (start, size) = (data.u32(0x64)? as usize, data.u32(0x68)? as usize);
    let names = data.get(start..start.checked_add(size)?.min(data.len())).map(wide);
    let names = names.unwrap_or_default();
    let files: Vec<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    let base = |path: &&&str| path.rsplit('\\').next().is_some_and(|b| b.starts_with(&executable));
    // Newer forms have the path of the program itself, behind the count.
    let own = (times > 1 && version > 26).then(|| {
        let (at, size) = (data.u32(count_at + 12)? as usize, data.u32(count_at + 16)? as usize);
        let text = wide(data.get(at..at.checked_add(size)?)?);
        Some(text.split('\0').next()?.to_owned()).filter(|text| !text.is_empty())
    });
    let path = match own.flatten() {
        Some(path) => path,
        None => files.iter().find(base).copied().unwrap_or_default().to_owned(),
    };
    let runs = (0..times).filter_map(|i| data.u64(runs_at + i * 8)).filter(|ticks| *ticks > 0);
    let runs = runs.map(|ticks| {
        // The fraction is not shown.
        let seconds = (i128::from(ticks) - EPOCH).div_euclid(10_000_000);
        let time = i64::try_from(seconds).ok().and_then(|s| Time::from_second(s).ok());
        time.map_or(Value::Null, Value::Time)
    });
    Some(
        Dict::new()
            .with("Executable", executable.as_str())
            .with("Path", path)
            .with("FileSize", data.u32(12)?)
            .with("Hash", format!("0x{:X}", data.u32(76)?))
            .with("Version", name)
            .with("LastRunTimes", runs.collect::<Value>())
            .with("FilesAccessed", files.iter().copied().collect::<Value>())
            .with("RunCount", data.u32(count_at)?),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_windows_10() {
        let mut data = vec![0; 0x130];
        let mut put = |at: usize, bytes: &[u8]| data[at..at + bytes.len()].copy_from_slice(bytes);
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let files = utf16("\\VOLUME{1}\\X.DLL\0\\VOLUME{1}\\A.EXE\0");
        put(0, &30u32.to_le_bytes());
        put(4, b"SCCA");
        put(12, &77u32.to_le_bytes());
        put(16, &utf16("A.EXE"));
        put(76, &0xabcdu32.to_le_bytes());
        put(0x54, &0x130u32.to_le_bytes());
        put(0x64, &0x130u32.to_le_bytes());
        put(0x68, &(files.len() as u32).to_le_bytes());
        put(0x80, &(EPOCH as u64 + 15_000_000).to_le_bytes());
        put(0xd0, &5u32.to_le_bytes());
        data.extend(files);
        let row = Value::from(parse(data.clone()).unwrap()).to_json();
        let expected = concat!(
            r#"{"Executable":"A.EXE","Path":"\\VOLUME{1}\\A.EXE","FileSize":77,"Hash":"0xABCD","#,
            r#""Version":"Win10","LastRunTimes":["1970-01-01T00:00:01Z"],"#,
            r#""FilesAccessed":["\\VOLUME{1}\\X.DLL","\\VOLUME{1}\\A.EXE"],"RunCount":5}"#
        );
        assert_eq!(row, expected);
        // Nothing that is cut off or changed does harm.
        for cut in 0..data.len() {
            let _ = parse(data[..cut].to_vec());
        }
        assert!(parse(b"MAM\x04\0\0\0\0".to_vec()).is_none());
    }
}
