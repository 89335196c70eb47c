#!/usr/bin/env python3
"""This server and the stock program under the same clients: beside.py BINARY STOCK-BINARY [SMALL LARGE]

Each alone, one after the other, as one node with the same configuration and the same virtual clients:
memory of an idle client (slope between SMALL and LARGE, default 300 and 1500), CPU per byte that
clients posted, time from the call for a task to the client having it. Ratios at the end."""

import json
import subprocess
import sys
import time

from rig import Deployment, Process, load, say, wait

binary, stock = sys.argv[1:3]
small, large = (int(x) for x in (sys.argv[3:] or ["300", "1500"]))
POST, FLOODING, FLOOD_SECONDS, TASKS = 64 << 10, 64, 30, 500


def start_stock(d):
    config = f"{d.d}/server.config.yaml"
    run = lambda *a: subprocess.run([stock, "--config", config, *a], capture_output=True, text=True, cwd=d.d)
    r = run("user", "add", "load", "load-password", "--role", "administrator")
    if r.returncode:
        raise SystemExit(r.stderr)
    d.master.process = Process("stock", [stock, "--config", config, "frontend"], f"{d.d}/stock.log", cwd=d.d)
    wait("the stock server", lambda: d.master.metrics(), 120)
    time.sleep(5)


def connections(d):
    m = d.master.metrics()
    return m.get("client_comms_current_connections", 0) + (
        m.get("client_comms_current_ws_connections", 0) if "velociraptor_websockets" not in m else 0)


def posted(r):
    return r.get("event_bytes") or 87 * r["event_rows"]


def delivered(d):
    """From a durable task to its client's socket: share within 10 ms, and how many; None for stock. What a
    task takes besides is mostly the second that an agent rests between two polls."""
    name, m = "velociraptor_task_delivery_seconds", d.master.metrics()
    n = m.get(f"{name}_count", 0)
    return (m[f'{name}_bucket{{le="0.01"}}'] / n, n) if n else None


def measure(name, start):
    d = Deployment(binary, minions=0, schemes=["https"])
    out = {}
    try:
        start(d)
        server = d.master.process
        rss, before = [], 0
        for n in (small, large):
            d.pool("https", n - before, "--skip", before, "--ramp", 50)
            wait(f"{n} clients", lambda: connections(d) >= n, 600, 0.5)
            time.sleep(45)
            cpu, t0 = server.cpu(), time.monotonic()
            time.sleep(15)
            out["idle_us"] = (server.cpu() - cpu) / (time.monotonic() - t0) / n * 1e6
            rss.append(server.rss())
            say(f"  {name}: {n} clients idle: {rss[-1] / 1e6:.1f} MB, {connections(d):.0f} connections, "
                f"{out['idle_us']:.0f} us of CPU a client and second, load {load():.1f}")
            before = n
        out["idle"] = (rss[1] - rss[0]) / (large - small)
        for p in d.pools:
            p.stop()
        report = f"{d.d}/tasks.json"
        # Clients that the server has not seen: to the stock program those of before are still connected
        # for a while, and who is refused for that stays away for a minute and more.
        p = d.pool("https", 200, "--skip", large, "--ramp", 50, "--collect", "Generic.Client.Info", "--tasks", TASKS,
                   "--rate", 20, "--duration", 180, "--report", report)
        p.p.wait()
        try:
            r = json.load(open(report))
            out["task"], out["task99"] = r["receipt"]["p50_ms"], r["receipt"]["p99_ms"]
            say(f"  {name}: {r['receipt']['count']} tasks, call to receipt p50 {out['task']:.1f}, p99 "
                f"{out['task99']:.1f} ms; {r['collections_complete']} complete; audit: "
                f"{(r['audit'] or {}).get('lost_rows')} rows lost, {(r['audit'] or {}).get('doubled_rows')} doubled")
            if served := delivered(d):
                say(f"  {name}: {served[0]:.1%} of {served[1]:.0f} tasks on the socket within 10 ms of being durable")
        except OSError:
            say(f"  {name}: no report of tasks: {open(p.log).read()[-400:]}")
        report = f"{d.d}/flood.json"
        cpu = server.cpu()
        d.pool("https", FLOODING, "--ramp", 0, "--flood", POST, "--duration", FLOOD_SECONDS, "--report",
               report).p.wait()
        time.sleep(5)
        r = json.load(open(report))
        out["byte"] = (server.cpu() - cpu) / max(1, posted(r)) * 1e9
        say(f"  {name}: {posted(r) / 1e6:.0f} MB of rows acknowledged in {FLOOD_SECONDS} s, "
            f"{out['byte']:.1f} CPU seconds a GB, {server.rss() / 1e6:.0f} MB, load {load():.1f}")
        return out
    finally:
        d.stop()


ours = measure("ours", lambda d: d.start())
theirs = measure("stock", start_stock)
for key, what in (("idle", "memory of an idle client, bytes"), ("idle_us", "CPU of an idle client, us/s"),
                  ("byte", "CPU seconds a GB posted"), ("task", "task p50, ms"), ("task99", "task p99, ms")):
    a, b = ours.get(key), theirs.get(key)
    if a and b:
        say(f"{what:<32} ours {a:10.1f}  stock {b:10.1f}  stock/ours {b / a:6.1f}")
