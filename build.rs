//! Lists the built-in artifacts so that the binary carries them.
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
    Ok(())
}
