{ lib, rustPlatform }:
rustPlatform.buildRustPackage {
  pname = "velociraptor";
  version = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).workspace.package.version;
  # Only what the build reads: editing documents or Nix files does not rebuild.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../Cargo.toml
      ../Cargo.lock
      ../artifacts
      ../build.rs
      ../fuzz
      ../proto
      ../sim
      ../src
      ../tests
      ../vql
    ];
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [ "--package" "velociraptor" "--bin" "velociraptor" ];
  # The whole test suite is CI's; it opens sockets and takes minutes.
  doCheck = false;
  meta = {
    description = "An independent implementation of the Velociraptor multi-frontend server";
    mainProgram = "velociraptor";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
  };
}
