#!/usr/bin/env python3
"""Keys for virtual clients in seconds instead of an hour: keys.py FILE NUMBER [FILE NUMBER ...]

Every key is a pair of a few primes, so these are worthless as keys: whoever has two of them has both.
For load alone. No pair is used twice, within or between the files of one call."""

import base64
import itertools
import math
import os
import secrets
import sys

E = 65537
SMALL = [p for p in range(3, 2000, 2) if all(p % q for q in range(3, int(p ** 0.5) + 1, 2))]


def is_prime(n):
    if any(n % p == 0 for p in SMALL):
        return False
    d, r = n - 1, 0
    while d % 2 == 0:
        d, r = d // 2, r + 1
    for _ in range(4):
        x = pow(secrets.randbelow(n - 3) + 2, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(r - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def prime():
    while True:
        # Two bits set at the top, so that every product has 2048.
        n = secrets.randbits(1024) | (3 << 1022) | 1
        if (n - 1) % E and is_prime(n):
            return n


def length(n):
    if n < 128:
        return bytes([n])
    b = n.to_bytes((n.bit_length() + 7) // 8, "big")
    return bytes([128 | len(b)]) + b


def integer(n):
    b = n.to_bytes(n.bit_length() // 8 + 1, "big")
    return b"\x02" + length(len(b)) + b


def pem(p, q):
    p, q = max(p, q), min(p, q)
    d = pow(E, -1, math.lcm(p - 1, q - 1))
    parts = [0, p * q, E, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)]
    body = b"".join(map(integer, parts))
    text = base64.b64encode(b"\x30" + length(len(body)) + body).decode()
    lines = [text[i:i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *lines, "-----END RSA PRIVATE KEY-----", ""])


def make(files):
    """`files`: (path, number of keys)."""
    need = sum(n for _, n in files)
    count = next(k for k in itertools.count(2) if k * (k - 1) // 2 >= need)
    primes = sorted({prime() for _ in range(count)})
    pairs = itertools.combinations(primes, 2)
    for path, n in files:
        with open(path + ".new", "w", opener=lambda p, f: os.open(p, f, 0o600)) as f:
            for p, q in itertools.islice(pairs, n):
                f.write(pem(p, q))
        os.replace(path + ".new", path)


if __name__ == "__main__":
    args = sys.argv[1:]
    if not args or len(args) % 2:
        sys.exit(__doc__)
    make([(path, int(n)) for path, n in zip(args[::2], args[1::2])])
