"""Reading Rust sources for the checks: comments, strings and test code blanked."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent


def rust_files(*folders):
    """Rust files below `folders` that git knows or would add, sorted."""
    out = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *folders],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    return sorted(p for p in set(out) if p.endswith(".rs") and (ROOT / p).is_file())


TOKEN = re.compile(
    r"""
      //[^\n]*
    | /\*.*?\*/
    | \b(?:b|c)?r(?P<hash>\#*)"(?:.*?)"(?P=hash)
    | \b(?:b|c)?"(?:\\.|[^"\\])*"
    | "(?:\\.|[^"\\])*"
    | '(?:\\(?:x[0-9a-fA-F]{2}|u\{[0-9a-fA-F_]+\}|.)|[^'\\])'
    """,
    re.VERBOSE | re.DOTALL,
)


def blank(match):
    """The same number of characters and lines, with nothing in them."""
    return re.sub(r"[^\n]", " ", match.group(0))


def code(path):
    """The text of a file with comments and literals blanked; offsets are kept."""
    return TOKEN.sub(blank, (ROOT / path).read_text(encoding="utf-8"))


def without_tests(text):
    """Blanks every item under `#[cfg(test)]`."""
    at = 0
    while True:
        m = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]").search(text, at)
        if m is None:
            return text
        depth, i = 0, m.end()
        while i < len(text):
            c = text[i]
            if c in "{([":
                depth += 1
            elif c in "})]":
                depth -= 1
                if depth == 0 and c == "}":
                    i += 1
                    break
            elif c == ";" and depth == 0:
                i += 1
                break
            i += 1
        text = text[: m.start()] + re.sub(r"[^\n]", " ", text[m.start() : i]) + text[i:]
        at = m.start() + 1


def is_test(path):
    """Whether the whole file is test code, by the project's naming."""
    name = path.rsplit("/", 1)[-1]
    return name in ("tests.rs", "testing.rs") or name.endswith("_tests.rs") or "/tests/" in path


def line_of(text, offset):
    """Line number of an offset, from 1."""
    return text.count("\n", 0, offset) + 1
