#!/usr/bin/env python3
"""Checks that rooms import only downward, and that nothing imports `sim` or `tests`.

A room is a module directly below `src/`; `vql`, `proto` and `sim` are crates. What
the rooms are for: docs/ARCHITECTURE.md. Test code may look anywhere.
"""

import collections
import re
import sys
import tomllib

from source import ROOT, code, is_test, line_of, rust_files, without_tests

# A room may import rooms of lower levels, and itself. Rooms of one level do not
# know each other.
LEVELS = {
    "env": 0,
    "crypto": 1,
    "comms": 1,
    "vql": 1,
    "config": 2,
    "store": 2,
    "cluster": 2,
    "services": 3,
    # Callables of the query language. They work on services, and reach the rooms
    # that run queries as a value (a registry), so services know none of them.
    "plugins": 4,
    "api": 5,
    "gui": 5,
    "frontend": 5,
    "agent": 5,
    "node": 6,
    "pool": 6,
    "demo": 7,
    "cli": 8,
    "main": 9,
}

# Imports that the levels forbid and that stand all the same: (from, to) -> why.
# One that is no longer needed is an error.
EXCEPTIONS = {}

# Names of the crate root that are not rooms.
ROOT_ITEMS = {"PRODUCT", "AGENT_NAME", "ABOUT"}

PATH = re.compile(r"\b(crate|velociraptor|(?:super::)*super)::(\{|[A-Za-z_][A-Za-z0-9_]*)")
CRATES = re.compile(r"\b(vql|sim|turmoil)::")


def room_of(path):
    """`src/store/ops.rs` -> (`store`, depth of the module below the crate root)."""
    parts = path.removeprefix("src/").removesuffix(".rs").split("/")
    depth = len(parts) - (parts[-1] == "mod")
    return parts[0], depth


def group(text, at):
    """First names inside `crate::{a::b, c}`, `at` just after the brace."""
    depth, name, fresh = 1, "", True
    while at < len(text) and depth:
        c = text[at]
        if c == "{":
            depth += 1
        elif c == "}":
            depth -= 1
        if depth == 1 and c == "," or depth == 0:
            if name:
                yield name
            name, fresh = "", True
        elif depth == 1 and fresh and (c.isalnum() or c == "_"):
            name += c
        elif name:
            fresh = False
        at += 1


def imports(path, text):
    """(room, line) for everything a file names outside its own room's modules."""
    _, depth = room_of(path)
    for m in PATH.finditer(text):
        if m.group(1).startswith("super") and m.group(1).count("super") != depth:
            continue
        names = group(text, m.end()) if m.group(2) == "{" else [m.group(2)]
        for name in names:
            yield name, line_of(text, m.start())
    for m in CRATES.finditer(text):
        yield m.group(1), line_of(text, m.start())


def crates():
    """Which crates of the workspace depend on which, outside of tests."""
    own = {}
    for manifest in ["Cargo.toml", *(str(p.relative_to(ROOT)) for p in ROOT.glob("*/Cargo.toml"))]:
        data = tomllib.loads((ROOT / manifest).read_text())
        if "package" in data:
            deps = set(data.get("dependencies", {})) | set(data.get("build-dependencies", {}))
            own[data["package"]["name"]] = deps
    allowed = {
        "velociraptor": {"vql", "velociraptor-proto"},
        "vql": set(),
        "velociraptor-proto": set(),
        "velociraptor-fuzz": {"velociraptor", "velociraptor-proto", "vql"},
        "sim": {"velociraptor", "velociraptor-proto", "vql"},
    }
    for name, deps in sorted(own.items()):
        if name not in allowed:
            yield f"crate {name} is not in tools/rooms.py"
        for bad in sorted((deps & set(own)) - allowed.get(name, set())):
            yield f"crate {name} may not depend on {bad}"


def main():
    problems, used = list(crates()), set()
    edges = collections.Counter()
    files = rust_files("src")
    for path in files:
        room, _ = room_of(path)
        if room == "lib":
            continue
        if room not in LEVELS:
            problems.append(f"{path}: room {room} has no level in tools/rooms.py")
            continue
        if is_test(path):
            continue
        for name, line in imports(path, without_tests(code(path))):
            if name in ROOT_ITEMS or name == room:
                continue
            edges[room, name] += 1
            if (room, name) in EXCEPTIONS:
                used.add((room, name))
            elif name not in LEVELS:
                problems.append(f"{path}:{line}: {room} imports {name}, which is no room below it")
            elif LEVELS[name] >= LEVELS[room]:
                problems.append(f"{path}:{line}: {room} (level {LEVELS[room]}) imports "
                                f"{name} (level {LEVELS[name]})")
    for pair in sorted(set(EXCEPTIONS) - used):
        problems.append(f"the exception {pair[0]} -> {pair[1]} is no longer needed")
    for p in problems:
        print(p)
    print(f"rooms: {len(files)} files, {len(edges)} kinds of import, "
          f"{len(EXCEPTIONS)} exceptions, {len(problems)} problems")
    return 1 if problems or not edges else 0


if __name__ == "__main__":
    sys.exit(main())
