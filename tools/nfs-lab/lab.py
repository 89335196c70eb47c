#!/usr/bin/env python3
"""Runs the scripts of this directory on two hosts with real NFS clients.

Two User Mode Linux kernels mount one export of nfs-ganesha inside a network
namespace of their own. What every step of every script gave is written to
`recorded/<options>.json`; the test `sim/tests/nfs_differential.rs` compares the
simulator's model with it. Needs root, and from the distribution: user-mode-linux
(unpacked anywhere), nfs-ganesha, nfs-ganesha-vfs, rpcbind, nfs-common, iproute2,
kmod, python3. See README.md.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
NETNS = "nfslab"
SERVER = "10.77.0.1"
MODULES = ["sunrpc", "nfs", "nfsv3", "nfsv4"]
V4 = f"vers=4.2,addr={SERVER},clientaddr=10.77.0.1%s"
V3 = (
    f"vers=3,nolock,addr={SERVER},port=2049,proto=tcp,"
    f"mountaddr={SERVER},mountport=12050,mountproto=tcp"
)
OPTIONS = {
    "v4-kernel": V4,
    "v4-positive": V4 + ",lookupcache=positive,actimeo=1",
    "v4-noac": V4 + ",noac,lookupcache=none",
    "v3-kernel": V3,
    "v3-positive": V3 + ",lookupcache=positive,actimeo=1",
}
GANESHA = """
NFS_CORE_PARAM {{ Bind_addr = 10.77.0.1; NFS_Port = 2049; MNT_Port = 12050;
  NLM_Port = 12051; Rquota_Port = 12052; Protocols = 3, 4; Enable_NLM = false;
  Enable_RQUOTA = false; }}
NFSV4 {{ Graceless = true; Minor_Versions = 0, 1, 2; Lease_Lifetime = 20; }}
EXPORT_DEFAULTS {{ Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  Transports = TCP; }}
EXPORT {{ Export_Id = 1; Path = {export}; Pseudo = /export; FSAL {{ Name = VFS; }} }}
LOG {{ Default_Log_Level = WARN; }}
"""


def missing(uml):
    """What the lab lacks on this machine."""
    tools = ["ip", "rpcbind", "ganesha.nfsd", "mount.nfs", "modinfo"]
    out = [t for t in tools if shutil.which(t) is None]
    if os.geteuid() != 0:
        out.append("root rights")
    if not (uml / "usr/bin/linux.uml").exists():
        out.append(f"an unpacked user-mode-linux package at {uml}")
    return out


def sh(*words, **kw):
    return subprocess.run([str(w) for w in words], check=True, **kw)


def module_order(uml):
    found = {p.stem.replace("-", "_"): p for p in uml.glob("usr/lib/uml/modules/**/*.ko")}
    order = []

    def add(name):
        if found[name] in order:
            return
        deps = sh("modinfo", "-F", "depends", found[name], capture_output=True, text=True)
        for d in filter(None, deps.stdout.strip().split(",")):
            add(d.replace("-", "_"))
        order.append(found[name])

    for m in MODULES:
        add(m)
    return order


class Lab:
    def __init__(self, uml, work):
        self.uml, self.work, self.running, self.hosts = uml, work, [], {}
        self.export = work / "export"

    def start(self, *words, log):
        out = open(self.work / log, "wb")
        p = subprocess.Popen(
            ["ip", "netns", "exec", NETNS, *map(str, words)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
        )
        self.running.append(p)

    def __enter__(self):
        try:
            self.set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def set_up(self):
        shutil.rmtree(self.work, ignore_errors=True)
        self.export.mkdir(parents=True)
        for name in ("agent.py", "init.sh"):
            shutil.copy(HERE / name, self.work / name)
        (self.work / "modules").write_text("".join(f"{m}\n" for m in module_order(self.uml)))
        (self.work / "ganesha.conf").write_text(GANESHA.format(export=self.export))
        sh("ip", "netns", "add", NETNS)
        n = ["ip", "-n", NETNS]
        sh(*n, "link", "set", "lo", "up")
        sh(*n, "link", "add", "br0", "type", "bridge")
        sh(*n, "addr", "add", f"{SERVER}/24", "dev", "br0")
        sh(*n, "link", "set", "br0", "up")
        for i in (1, 2):
            sh(*n, "tuntap", "add", "dev", f"tap{i}", "mode", "tap")
            sh(*n, "link", "set", f"tap{i}", "master", "br0")
            sh(*n, "link", "set", f"tap{i}", "up")
        self.start("rpcbind", "-f", "-w", log="rpcbind.log")
        self.start(
            "ganesha.nfsd", "-F", "-f", self.work / "ganesha.conf",
            "-L", self.work / "ganesha.log", "-p", self.work / "ganesha.pid", log="ganesha.out",
        )
        self.boot()

    def boot(self):
        # The listening socket must be in the namespace: made by a helper there.
        ready = subprocess.Popen(
            ["ip", "netns", "exec", NETNS, sys.executable, str(HERE / "relay.py"), SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        self.running.append(ready)
        port = int(ready.stdout.readline())
        self.relay = ready
        for i in (1, 2):
            self.start(
                self.uml / "usr/bin/linux.uml", "mem=256M", "root=/dev/root",
                "rootfstype=hostfs", "rootflags=/", "ro", f"init={self.work}/init.sh",
                f"labdir={self.work}", f"hostno={i}", f"port={port}",
                f"eth0=tuntap,tap{i}", "con=null", "con0=null,fd:1", "quiet",
                f"umid=nfslab{i}.{os.getpid()}", log=f"host{i}.log",
            )
        for _ in (1, 2):
            line = ready.stdout.readline().strip()
            if not line.startswith("connected"):
                raise SystemExit(f"a lab host did not come up: {line}; see {self.work}/host*.log")

    def ask(self, host, **request):
        print(json.dumps({"host": host, "request": request}), file=self.relay.stdin, flush=True)
        reply = json.loads(self.relay.stdout.readline())
        if "failed" in reply:
            raise SystemExit(f"host {host}, {request}: {reply['failed']}")
        return reply["is"]

    def __exit__(self, *_):
        for p in reversed(self.running):
            if p.poll() is None:
                try:
                    os.killpg(p.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            p.wait()
        subprocess.run(["ip", "netns", "del", NETNS])


def steps(path):
    """`(host, words)` of a script; blank lines and comments are left out."""
    for line in path.read_text().splitlines():
        line = line.split("#", 1)[0].split()
        if line:
            yield line[0], line[1:]


def play(lab, path, base):
    before = {h: lab.ask(h, calls=True) for h in "ab"}
    out = []
    for host, words in steps(path):
        got = lab.ask(host, op=words, base=base)
        out.append(f"{host} {' '.join(words)} -> {got}".rstrip())
    calls = {}
    for h in "ab":
        now = lab.ask(h, calls=True)
        grown = {k: n - before[h].get(k, 0) for k, n in sorted(now.items())}
        calls[h] = {k: n for k, n in grown.items() if n}
    for h in "ab":
        lab.ask(h, close=True)
    return {"steps": out, "calls": calls}


def record(lab, name, options, scripts):
    dirs = {s.stem: f"/{name}.{s.stem}.{int(time.time())}" for s in scripts}
    source = f"{SERVER}:{'/export' if 'v4' in name else lab.export}"
    mount = lambda i: [options % i if "%s" in options else options, source]
    lab.ask("a", mount=mount(1))
    for d in dirs.values():
        lab.ask("a", op=["mkdir", d], base="")
    lab.ask("a", unmount=True)
    lab.ask("a", mount=mount(1))
    lab.ask("b", mount=mount(2))
    out = {}
    for s in scripts:
        start = time.time()
        out[s.stem] = play(lab, s, dirs[s.stem])
        print(f"{name}: {s.stem}: {time.time() - start:.1f} s", flush=True)
    lab.ask("a", unmount=True)
    lab.ask("b", unmount=True)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--uml", type=pathlib.Path, required=True, help="unpacked user-mode-linux package")
    p.add_argument("--work", type=pathlib.Path, required=True, help="scratch directory, emptied")
    p.add_argument("--out", type=pathlib.Path, default=HERE / "recorded")
    p.add_argument("--options", nargs="*", default=list(OPTIONS), choices=list(OPTIONS))
    p.add_argument("--scripts", nargs="*", default=[], help="names; all if none is given")
    a = p.parse_args()
    lacks = missing(a.uml.resolve())
    if lacks:
        print("the NFS lab cannot run here; missing: " + ", ".join(lacks), file=sys.stderr)
        return 77
    scripts = sorted((HERE / "scripts").glob("*.txt"))
    scripts = [s for s in scripts if not a.scripts or s.stem in a.scripts]
    a.out.mkdir(parents=True, exist_ok=True)
    with Lab(a.uml.resolve(), a.work.resolve()) as lab:
        for name in a.options:
            got = record(lab, name, OPTIONS[name], scripts)
            file = a.out / f"{name}.json"
            old = json.loads(file.read_text()) if file.exists() and a.scripts else {}
            merged = dict(sorted({**old, **got}.items()))
            file.write_text(json.dumps(merged, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
