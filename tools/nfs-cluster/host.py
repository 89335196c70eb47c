#!/usr/bin/env python3
"""What hosts.py has done inside a host: one request a connection, JSON both ways.

Runs inside a lab host, and listens on the network that is never cut.
"""

import json
import os
import signal
import socketserver
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request

PORT = 7000
# Certificates of the deployment are for names that only agents know.
TRUSTING = ssl._create_unverified_context()
running = {}


def calls(at):
    """Calls of the mount at `at` to its server so far: by kind, and bytes written and read."""
    out, here = {}, False
    with open("/proc/self/mountstats") as f:
        for line in f:
            if line.startswith("device "):
                here = f" mounted on {at} " in line
            elif here and line.startswith("\t ") and ":" in line:
                name, numbers = line.split(":", 1)
                fields = numbers.split()
                if len(fields) >= 7 and fields[0] != "0":
                    out[name.strip()] = int(fields[0])
    return out


def blocked(pid):
    """Threads of a process that wait in the kernel for a file: which one, how often it gave up
    the processor so far, and where it is. The same twice: the call has not returned meanwhile."""
    out = []
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/stack") as f:
                stack = [line.split()[1].split("+")[0] for line in f if line.startswith("[<0>]")]
            with open(f"/proc/{pid}/task/{task}/status") as f:
                switches = [line.split()[1] for line in f if "ctxt_switches" in line]
        except OSError:
            continue
        if any(name.startswith(("nfs", "rpc_", "rwsem_", "d_alloc")) for name in stack):
            out.append([task, "+".join(switches), " < ".join(stack)])
    return out


def answer(r):
    """Does what request `r` says."""
    op = r["op"]
    if op == "mount":
        os.makedirs(r["at"], exist_ok=True)
        words = ["mount", "-i", "-t", "nfs", "-o", r["options"], r["source"], r["at"]]
        subprocess.run(words, check=True)
        # On a directory that is not mounted everything would seem to work, and quickly.
        if not os.path.ismount(r["at"]):
            raise OSError(f"{r['at']} is not mounted")
        return None
    if op == "run":
        out = subprocess.run(
            r["argv"], cwd=r.get("cwd"), timeout=r["timeout"], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        return {"status": out.returncode, "out": out.stdout}
    if op == "spawn":
        log = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY)
        p = subprocess.Popen(
            r["argv"], cwd=r.get("cwd"), env={**os.environ, **r.get("env", {})},
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )
        os.close(log)
        running[r["name"]] = p
        return p.pid
    if op == "signal":
        p = running[r["name"]]
        p.send_signal(getattr(signal, r["signal"]))
        return None
    if op == "ended":
        return running[r["name"]].poll()
    if op == "blocked":
        return blocked(running[r["name"]].pid)
    if op == "calls":
        return calls(r["at"])
    if op == "get":
        try:
            with urllib.request.urlopen(r["url"], timeout=10, context=TRUSTING) as page:
                return {"status": page.status, "body": page.read().decode()}
        except urllib.error.HTTPError as e:
            return {"status": e.code, "body": e.read().decode(errors="replace")}
    if op == "poweroff":
        threading.Timer(0.1, lambda: open("/proc/sysrq-trigger", "w").write("o")).start()
        return None
    raise ValueError(f"no operation {op}")


class Handler(socketserver.StreamRequestHandler):
    """One request."""

    def handle(self):
        """Answers it; an error is told, not swallowed."""
        line = self.rfile.readline()
        if not line:
            return
        try:
            reply = {"is": answer(json.loads(line))}
        except Exception as e:
            reply = {"failed": f"{type(e).__name__}: {e}"}
        self.wfile.write(json.dumps(reply).encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    """Serves requests side by side."""

    allow_reuse_address = True
    daemon_threads = True


Server((sys.argv[1], PORT), Handler).serve_forever()
