{
  description = "An independent implementation of the Velociraptor multi-frontend server, in Rust";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forAll = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      package = pkgs: pkgs.callPackage ./nix/package.nix { };
    in
    {
      packages = forAll (pkgs: {
        default = package pkgs;
        velociraptor = package pkgs;
      });
      apps = forAll (pkgs: {
        default = {
          type = "app";
          program = "${package pkgs}/bin/velociraptor";
          meta.description = "Run velociraptor; `-- gui` for everything in one process";
        };
      });
      overlays.default = final: _: { velociraptor = package final; };
      nixosModules = {
        velociraptor = { pkgs, lib, ... }: {
          imports = [ ./nixos-module ];
          services.velociraptor.package = lib.mkDefault (package pkgs);
        };
        default = self.nixosModules.velociraptor;
      };
      devShells = forAll (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (package pkgs) ];
          packages = [ pkgs.clippy pkgs.rustfmt pkgs.rust-analyzer ];
        };
      });
      formatter = forAll (pkgs: pkgs.nixpkgs-fmt);
      checks = forAll (pkgs: {
        package = package pkgs;
        module =
          let r = import ./nix/tests/eval.nix { libPath = nixpkgs + "/lib"; }; in
          assert lib.assertMsg (r.failed == [ ]) "module tests failed: ${toString r.failed}";
          pkgs.writeText "module-tests" "${toString r.passed} passed, 0 failed\n";
      });
    };
}
