//! Lists the built-in artifacts and the GUI's files so that the binary carries them.
#![allow(clippy::disallowed_methods)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=artifacts");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("artifacts");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "yaml") {
            names.push(path);
        }
    }
    names.sort();
    let mut out = String::from("&[\n");
    for path in names {
        let name = path.file_name().and_then(|n| n.to_str()).ok_or("artifact file name")?;
        let full = path.to_str().ok_or("artifact path")?;
        writeln!(out, "    ({name:?}, include_str!({full:?})),")?;
    }
    out.push_str("]\n");
    let target = PathBuf::from(std::env::var("OUT_DIR")?).join("builtin_artifacts.rs");
    std::fs::write(target, out)?;
    assets()
}

/// The GUI's files: name and content, in order of name.
fn assets() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src/gui/assets");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("src/gui/assets");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut out = String::from("&[\n");
    for path in files {
        let name = path.strip_prefix(&root)?.to_str().ok_or("asset name")?;
        let full = path.to_str().ok_or("asset path")?;
        writeln!(out, "    ({name:?}, include_bytes!({full:?})),")?;
    }
    out.push_str("]\n");
    let target = PathBuf::from(std::env::var("OUT_DIR")?).join("gui_assets.rs");
    std::fs::write(target, out)?;
    Ok(())
}
