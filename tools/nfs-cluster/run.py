#!/usr/bin/env python3
"""A cluster on hosts with kernels of their own over a real NFS server, and what becomes of
it when they are cut off, killed and stalled. See README.md.

Exit status: 0 if everything is exact, 1 if not, 77 if the lab cannot run here.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import costs
import hosts
import story

# Command, and the package that has it.
NEEDED = {
    "ip": "iproute2", "rpcbind": "rpcbind", "ganesha.nfsd": "nfs-ganesha", "mount.nfs": "nfs-common",
    "modinfo": "kmod", "unshare": "util-linux", "dpkg-deb": "dpkg",
}


def quiet(*words, cwd=None):
    """Runs a command whose failure shows by what is missing then."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        pass


def install(uml):
    """Fetches packages that are missing, where there is a package manager."""
    lacks = sorted({p for c, p in NEEDED.items() if shutil.which(c) is None})
    if not list(pathlib.Path("/usr/lib").glob("*/ganesha/libfsalvfs.so")):
        lacks.append("nfs-ganesha-vfs")
    kernel = (uml / "usr/bin/linux.uml").exists()
    if os.geteuid() != 0 or (kernel and not lacks):
        return
    quiet("apt-get", "update", "-qq")
    if lacks:
        quiet("apt-get", "install", "-y", "-qq", "--no-install-recommends", *lacks)
    if not kernel:
        # Unpacked and not installed: its scripts would set up things that are not needed.
        uml.mkdir(parents=True, exist_ok=True)
        quiet("apt-get", "download", "user-mode-linux", cwd=uml)
        for deb in uml.glob("user-mode-linux_*.deb"):
            quiet("dpkg-deb", "-x", deb, uml)


def missing(uml):
    """What is not there, in words."""
    out = [c for c in NEEDED if shutil.which(c) is None]
    if os.geteuid() != 0:
        out.append("root rights")
    if not (uml / "usr/bin/linux.uml").exists():
        out.append("the package user-mode-linux")
    if not pathlib.Path("/dev/net/tun").exists():
        out.append("/dev/net/tun")
    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if not out and subprocess.run(own, stderr=subprocess.DEVNULL).returncode != 0:
        out.append("namespaces")
    return out


def lines(r):
    """The result of a story, to be read."""
    out = [f"NFS {r['nfs']}: {r['clients']} clients, {r['collections']} collections, "
           f"{r['rows']} rows, {r['files']} files of {r['file_bytes']} bytes, {r['event_rows']} "
           f"event rows; {r['seconds']} s"]
    for f in r["faults"]:
        out.append(f"  {f['fault']}: {f['seconds']} s; all well after {f['whole_after']} s")
    if r["hung_mounts"]:
        out.append(f"  hosts switched off and on because their mount hung: {r['hung_mounts']}")
    out.append("  exact" if not r["wrong"] else f"  NOT EXACT: {len(r['wrong'])} differences")
    out += [f"    {w}" for w in r["wrong"][:20]]
    return "\n".join(out)


def inside(a):
    """The runs, in the namespaces."""
    results = []
    for version in a.nfs or ["4.2"]:
        with hosts.Lab(a.uml, a.work / f"nfs-{version}", version, 3) as lab:
            if a.costs:
                results.append({"nfs": version, "costs": costs.measure(lab, a.binary), "wrong": []})
            else:
                results.append(story.play(lab, a.binary, a.stock))
                print(lines(results[-1]), flush=True)
    if a.report:
        a.report.write_text(json.dumps(results, indent=1) + "\n")
    return 1 if any(r["wrong"] for r in results) else 0


def main():
    """Reads the command line, installs, and starts itself again in namespaces of its own."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    path = lambda text: pathlib.Path(text).resolve()
    p.add_argument("--binary", type=path, required=True, help="the program under test")
    p.add_argument("--nfs", action="append", choices=["4.2", "4.1", "4.0", "3"],
                   help="version of NFS; may be repeated; default 4.2")
    p.add_argument("--work", type=path, default=path("/tmp/nfs-cluster"), help="scratch directory")
    p.add_argument("--uml", type=path, help="unpacked user-mode-linux package; default: below --work")
    p.add_argument("--stock", type=path, help="a stock program: its agent takes part, and its "
                   "server reads the tree at the end")
    p.add_argument("--costs", action="store_true", help="count calls to the file server instead")
    p.add_argument("--report", type=path, help="write what came of it here, as JSON")
    a = p.parse_args()
    a.uml = a.uml or a.work / "uml"
    if "NFS_CLUSTER_INSIDE" in os.environ:
        try:
            return inside(a)
        except hosts.NotHere as e:
            print(f"the NFS cluster cannot run here: {e}", file=sys.stderr)
            return 77
    install(a.uml)
    lacks = missing(a.uml)
    if lacks:
        print("the NFS cluster cannot run here; missing: " + ", ".join(lacks), file=sys.stderr)
        return 77
    own = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.run(own + [sys.executable, *sys.argv],
                          env={**os.environ, "NFS_CLUSTER_INSIDE": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
