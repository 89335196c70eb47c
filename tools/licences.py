#!/usr/bin/env python3
"""Checks the licence of every crate in the dependency tree, without network.

Reads `cargo metadata --locked --offline`, so the crates must have been fetched.
A crate passes if its SPDX expression can be met with licences in ALLOWED alone.
"""

import json
import re
import subprocess
import sys

from source import ROOT

# Permissive licences whose terms a binary distribution can meet by a notice.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-1-Clause", "BSD-2-Clause",
    "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "Unicode-3.0", "Unlicense",
    "Zlib",
}

# Crates accepted although the expression does not pass: name -> why.
EXCEPTIONS = {}


def tokens(expression):
    # Old crates separate alternatives with a slash.
    expression = re.sub(r"\s*/\s*", " OR ", expression)
    return re.findall(r"[()]|[A-Za-z0-9.+-]+", expression)


def allowed(expression):
    """Whether the expression can be met; AND binds more tightly than OR."""
    todo = tokens(expression)

    def either():
        ok = both()
        while todo and todo[0] == "OR":
            todo.pop(0)
            ok = both() or ok
        return ok

    def both():
        ok = one()
        while todo and todo[0] == "AND":
            todo.pop(0)
            ok = one() and ok
        return ok

    def one():
        if not todo:
            raise ValueError(f"{expression!r} ends too early")
        t = todo.pop(0)
        if t == "(":
            ok = either()
            if not todo or todo.pop(0) != ")":
                raise ValueError(f"{expression!r} misses a parenthesis")
            return ok
        if todo[:1] == ["WITH"]:
            t = f"{t} WITH {todo[1]}"
            del todo[:2]
        return t in ALLOWED

    ok = either()
    if todo:
        raise ValueError(f"{expression!r} goes on with {todo[0]!r}")
    return ok


def self_test():
    for text, want in [
        ("MIT", True), ("GPL-3.0-only", False), ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False), ("GPL-3.0-only OR MIT AND ISC", True),
        ("(GPL-3.0-only OR MIT) AND ISC", True), ("MIT/Apache-2.0", True),
        ("Apache-2.0 WITH LLVM-exception", True), ("Apache-2.0 WITH other", False),
    ]:
        assert allowed(text) == want, text


def main():
    self_test()
    data = json.loads(subprocess.run(
        ["cargo", "metadata", "--locked", "--offline", "--format-version", "1"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout)
    problems, used = [], set()
    for p in data["packages"]:
        name = f"{p['name']} {p['version']}"
        if p["source"] is not None and not p["source"].startswith("registry+"):
            problems.append(f"{name}: comes from {p['source']}, not from a registry")
        try:
            ok = p["license"] is not None and allowed(p["license"])
        except (ValueError, IndexError) as e:
            ok, p["license"] = False, f"not readable: {e}"
        if not ok and p["name"] in EXCEPTIONS:
            used.add(p["name"])
        elif not ok:
            problems.append(f"{name}: licence {p['license']}")
    for name in sorted(set(EXCEPTIONS) - used):
        problems.append(f"the exception {name} is no longer needed")
    for line in problems:
        print(line)
    print(f"licences: {len(data['packages'])} crates, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
