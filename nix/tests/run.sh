#!/usr/bin/env bash
# Evaluates everything Nix in the project without a network: each file parses, the
# module's tests hold, every output of the flake evaluates for both systems, and
# the units are ones systemd takes. Needs nix (2.8 or later), git and python3.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export NIX_CONFIG=$'experimental-features = nix-command flakes\nbuild-users-group =\nsandbox = false\nsubstitute = false\n'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0

# Nix sees a copy of what git knows, so that no work tree state leaks in.
git ls-files -z -co --exclude-standard | while IFS= read -r -d '' f; do
    [ -e "$f" ] && printf '%s\0' "$f"
done | tar c --null -T - | tar x -C "$work" || exit 1
cd "$work" || exit 1
git init -q . && git add -A || exit 1

while IFS= read -r f; do
    nix-instantiate --parse "$f" >/dev/null || bad=1
done < <(git ls-files '*.nix')

lib=${NIXPKGS_LIB:-$work/nix/tests/stub-nixpkgs/lib}
if nix-instantiate --eval --strict --json nix/tests/eval.nix --arg libPath "$lib" >out.json; then
    python3 - <<'PY' || bad=1
import json, pathlib, sys

out = json.load(open("out.json"))
for name, text in out["units"].items():
    # verify wants the programs to exist.
    text = text.replace("/nix/store/00000000000000000000000000000000-velociraptor/bin/velociraptor", "/bin/true")
    pathlib.Path(f"{name}.service").write_text(text)
for name in out["failed"]:
    print("failed:", name)
print(f"module (lib: {out['lib']}): {out['passed']} passed, {len(out['failed'])} failed")
sys.exit(bool(out["failed"] or not out["passed"]))
PY
else
    bad=1
fi

rm -f out.json
flags=(--override-input nixpkgs "path:$work/nix/tests/stub-nixpkgs" --no-write-lock-file)
nix flake show "${flags[@]}" >show.out 2>&1 || { cat show.out; bad=1; }
nix flake check --no-build "${flags[@]}" 2>&1 | grep -v '^warning' | tail -20
[ "${PIPESTATUS[0]}" = 0 ] || { echo "nix flake check failed"; bad=1; }

if command -v systemd-analyze >/dev/null 2>&1; then
    version=$(systemd-analyze --version | awk 'NR == 1 { print $2 }')
    for unit in *.service; do
        [ -e "$unit" ] || continue
        systemd-analyze verify --man=no "./$unit" >verify.err 2>&1
        # The exit status is 0 for unknown keys too, so the messages are judged.
        # Keys newer than systemd 254 and 256 are known to be right.
        if [ "$version" -lt 256 ]; then
            grep -vE "Unknown key( name)? '(WantsMountsFor|RestartSteps|RestartMaxDelaySec)'" verify.err >judged.err
        else
            cp verify.err judged.err
        fi
        grep -E "$unit" judged.err && { echo "$unit: systemd does not take it"; bad=1; }
        case $unit in
        frontend*)
            # The scale is times ten: 20 is an exposure of 2.0, "OK".
            systemd-analyze security --offline=true --threshold=20 "./$unit" 2>/dev/null | tail -1
            [ "${PIPESTATUS[0]}" = 0 ] || { echo "$unit: exposure too high"; bad=1; }
            ;;
        esac
    done
    echo "units: judged by systemd $version"
else
    echo "systemd-analyze is not here: the units were not judged"
fi
exit $bad
