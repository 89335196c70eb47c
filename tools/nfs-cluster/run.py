#!/usr/bin/env python3
"""A cluster on hosts with kernels of their own over a real NFS server, and what becomes of
it when they are cut off, killed and stalled. See README.md.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import hosts
import story


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--binary", type=pathlib.Path, required=True, help="the program under test")
    p.add_argument("--nfs", action="append", choices=["4.2", "4.1", "4.0", "3"])
    p.add_argument("--uml", type=pathlib.Path, required=True)
    p.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/tmp/nfs-cluster"))
    a = p.parse_args()
    if "NFS_CLUSTER_INSIDE" not in os.environ:
        own = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        os.environ["NFS_CLUSTER_INSIDE"] = "1"
        os.execvp(own[0], own + [sys.executable, *sys.argv])
    for version in a.nfs or ["4.2"]:
        with hosts.Lab(a.uml.resolve(), a.work.resolve() / version, version, 3) as l:
            story.play(l, a.binary.resolve())


if __name__ == "__main__":
    sys.exit(main())
