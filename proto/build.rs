//! Compiles the .proto files beside this script in pure Rust and keeps the
//! descriptors, which JSON mapping needs at run time.

#![allow(clippy::disallowed_methods)] // a build script: it is not part of the server

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "envelope",
        "jobs",
        "vql",
        "artifacts",
        "flows",
        "clients",
        "hunts",
        "notebooks",
        "users",
        "datastore",
        "api",
        "journal",
        "cluster",
    ]
    .map(|n| format!("{n}.proto"));
    for f in &files {
        println!("cargo:rerun-if-changed={f}");
    }
    let set = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&set))?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    // What is written of a map is the same every time.
    config.btree_map([".journal"]);
    tonic_prost_build::configure()
        .bytes(".proto.FileBuffer.data")
        .bytes(".proto.ClientCommunication")
        .bytes(".proto.PackedMessageList.message_list")
        .bytes(".fleet.Records.data")
        .compile_fds_with_config(set, config)?;
    Ok(())
}
