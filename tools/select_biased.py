#!/usr/bin/env python3
"""Checks that every `select!` begins with `biased;`.

An unbiased one picks its branch at random from a generator no seed reaches, so
one run of the simulator would not be like the next.
"""

import re
import sys

from source import code, line_of, rust_files


def main():
    found, problems = 0, []
    for path in rust_files("src", "vql/src", "proto/src", "sim"):
        text = code(path)
        for m in re.finditer(r"\bselect!\s*[\{\(]", text):
            found += 1
            if not re.match(r"\s*biased\s*;", text[m.end():]):
                problems.append(f"{path}:{line_of(text, m.start())}: select! without biased;")
    for p in problems:
        print(p)
    print(f"select!: {found} places, {len(problems)} problems")
    return 1 if problems or not found else 0


if __name__ == "__main__":
    sys.exit(main())
