#!/usr/bin/env python3
"""Carries out file operations on a real NFS mount, one a line, for lab.py.

Runs inside a lab host. Each operation is made of the system calls that the
production file system makes for it, so that results can be compared.
"""

import errno
import json
import os
import socket
import subprocess
import sys
import time

MOUNT = "/run/nfs"
NAMES = {
    errno.ENOENT: "NotFound",
    errno.EEXIST: "AlreadyExists",
    errno.ESTALE: "StaleNetworkFileHandle",
    errno.ENOTDIR: "NotADirectory",
    errno.EISDIR: "IsADirectory",
    errno.ENOTEMPTY: "DirectoryNotEmpty",
    errno.ENOSPC: "StorageFull",
    errno.EROFS: "ReadOnlyFilesystem",
    errno.EPERM: "PermissionDenied",
    errno.EINVAL: "InvalidInput",
}

handles = {}


def with_parent(path, work):
    try:
        return work()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return work()


def opened(path, how):
    """`read`, `write`, or `create`: a new file with its directories."""
    flags = {"read": os.O_RDONLY, "write": os.O_RDWR}.get(how)
    if flags is not None:
        return os.open(path, flags | os.O_CLOEXEC)
    make = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return with_parent(path, lambda: os.open(path, make, 0o600))


def read_at(fd, off, size):
    os.fstat(fd)  # production asks for the length first
    out = b""
    while len(out) < size:
        piece = os.pread(fd, size - len(out), off + len(out))
        if not piece:
            break
        out += piece
    return out


def data(spec):
    """`abc` or `x*300`."""
    text, _, times = spec.partition("*")
    return (text * int(times or 1)).encode()


def shown(data):
    """Bytes in short: four and more of one as `x*300`, NUL as `0`."""
    out, i = "", 0
    text = data.decode("latin-1").replace("\0", "0")
    while i < len(text):
        j = i
        while j < len(text) and text[j] == text[i]:
            j += 1
        out += text[i] * (j - i) if j - i < 4 else f" {text[i]}*{j - i} "
        i = j
    return " ".join(out.split())


def run(words, base):
    op, args = words[0], words[1:]
    at = lambda p: base + p
    if op in ("create", "open-read", "open-write"):
        fd = opened(at(args[1]), op.removeprefix("open-"))
        if args[0] in handles:
            os.close(handles[args[0]])
        handles[args[0]] = fd
    elif op == "close":
        os.close(handles.pop(args[0]))
    elif op == "write":
        os.pwrite(handles[args[0]], data(args[2]), int(args[1]))
    elif op == "append":
        fd = handles[args[0]]
        os.pwrite(fd, data(args[1]), os.fstat(fd).st_size)
    elif op == "read":
        return shown(read_at(handles[args[0]], int(args[1]), int(args[2])))
    elif op == "size":
        return str(os.fstat(handles[args[0]]).st_size)
    elif op == "sync":
        os.fdatasync(handles[args[0]])
    elif op == "text":
        fd = opened(at(args[0]), "read")
        try:
            return shown(read_at(fd, 0, 1 << 20))
        finally:
            os.close(fd)
    elif op == "stat":
        s = os.stat(at(args[0]))
        return "dir" if os.path.isdir(at(args[0])) else str(s.st_size)
    elif op == "same":
        return str(os.stat(at(args[0])).st_ino == os.stat(at(args[1])).st_ino).lower()
    elif op == "list":
        try:
            names = sorted(os.listdir(at(args[0] if args else "")))
        except FileNotFoundError:
            names = []  # as production has it
        return " ".join(".nfs*" if n.startswith(".nfs") else n for n in names)
    elif op == "rename":
        with_parent(at(args[1]), lambda: os.rename(at(args[0]), at(args[1])))
    elif op == "link":
        with_parent(at(args[1]), lambda: os.link(at(args[0]), at(args[1])))
    elif op == "remove":
        os.unlink(at(args[0]))
    elif op == "rmdir":
        os.rmdir(at(args[0]))
    elif op == "mkdir":
        os.makedirs(at(args[0]), mode=0o700, exist_ok=True)
    elif op == "syncdir":
        fd = os.open(at(args[0] if args else ""), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    elif op == "sleep":
        time.sleep(float(args[0]))
    else:
        raise ValueError(f"no operation {op}")
    return ""


def server_calls():
    """Calls this mount has made so far, by kind."""
    out, here = {}, False
    for line in open("/proc/self/mountstats"):
        if line.startswith("device "):
            here = f" mounted on {MOUNT} " in line
        elif here and ":" in line and line.startswith("\t ") and line.strip()[0].isupper():
            name, numbers = line.split(":", 1)
            fields = numbers.split()
            if len(fields) >= 7 and fields[0] != "0":
                out[name.strip()] = int(fields[0])
    return out


def mount(options, source):
    os.makedirs(MOUNT, exist_ok=True)
    subprocess.run(["mount", "-i", "-t", "nfs", "-o", options, source, MOUNT], check=True)


def close_all():
    for fd in handles.values():
        os.close(fd)
    handles.clear()


def unmount():
    subprocess.run(["umount", MOUNT], check=True)


def answer(request):
    if "mount" in request:
        return mount(*request["mount"])
    if "unmount" in request:
        return unmount()
    if "close" in request:
        return close_all()
    if "calls" in request:
        return server_calls()
    try:
        return run(request["op"], MOUNT + request["base"])
    except OSError as e:
        return NAMES.get(e.errno, errno.errorcode.get(e.errno, str(e.errno)))


def main():
    host, port, name = sys.argv[1:]
    s = socket.create_connection((host, int(port)), timeout=30)
    s.settimeout(None)
    lines = s.makefile("rw")
    print(name, file=lines, flush=True)
    for line in lines:
        try:
            reply = {"is": answer(json.loads(line))}
        except Exception as e:  # told, not swallowed: lab.py fails on it
            reply = {"failed": f"{type(e).__name__}: {e}"}
        print(json.dumps(reply), file=lines, flush=True)


main()
