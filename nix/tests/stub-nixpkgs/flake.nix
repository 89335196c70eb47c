# A nixpkgs just large enough to evaluate, and on this machine to run, the
# project's flake where the real one cannot be had.
{
  outputs = { self }:
    let
      lib = import ./lib // {
        assertMsg = c: m: c || throw m;
        licenses.asl20 = "asl20";
        platforms.linux = [ "x86_64-linux" "aarch64-linux" ];
        fileset = { unions = xs: xs; toSource = { root, fileset }: root; };
      };
      pkgsFor = system: rec {
        inherit lib system;
        callPackage = f: extra: let fn = if builtins.isFunction f then f else import f; in fn (builtins.intersectAttrs (builtins.functionArgs fn) { inherit lib rustPlatform; } // extra);
        # Uses the host's cargo; only for a machine without nixpkgs.
        rustPlatform.buildRustPackage = a: derivation
          {
            name = "${a.pname}-${a.version}"; inherit system; builder = "/bin/bash"; src = a.src; PATH = "/root/.cargo/bin:/usr/bin:/bin";
            args = [ "-uc" "export HOME=/root CARGO_TARGET_DIR=$TMPDIR/t; cd $src; ls -la; cargo build --offline --locked --release --quiet; mkdir -p $out/bin; find $TMPDIR/t/release -maxdepth 1 -type f -executable -exec cp {} $out/bin/ ';'" ];
          } // { inherit (a) pname version meta; };
        mkShell = a: derivation { name = "shell"; inherit system; builder = "/bin/bash"; args = [ "-c" "echo > $out" ]; };
        writeText = name: text: derivation { inherit name system text; builder = "/bin/bash"; args = [ "-c" "printf %s \"$text\" > $out" ]; };
        clippy = null; rustfmt = null; rust-analyzer = null;
        nixpkgs-fmt = derivation { name = "nixpkgs-fmt"; inherit system; builder = "/bin/bash"; args = [ "-c" "echo > $out" ]; };
      };
    in
    { inherit lib; legacyPackages = builtins.listToAttrs (map (name: { inherit name; value = pkgsFor name; }) [ "x86_64-linux" "aarch64-linux" ]); };
}
