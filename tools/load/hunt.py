#!/usr/bin/env python3
"""A hunt over many clients while nodes are killed: hunt.py BINARY [CLIENTS]

A master and two minions; one hunt; a minion is killed at a third, the master at two thirds, and both
are started again. Prints the recruitment curve as the flows' own times tell it, and the counts."""

import collections
import sys
import time

from rig import Deployment, load, query, say, wait

binary = sys.argv[1]
clients = int((sys.argv[2:] or ["3000"])[0])
ONE = "name: Custom.One\nsources:\n- query: SELECT 1 AS A FROM scope()\n"
RATE = 100
d = Deployment(binary)
try:
    d.start()
    for scheme in ("https", "wss"):
        d.pool(scheme, clients // 2, "--ramp", 100)
    wait("all clients", lambda: d.held() >= 0.98 * clients, 1200, 0.5)
    say(f"{clients} clients held, load {load():.1f}")
    query(d, "SELECT artifact_set(definition=D) FROM scope()", D=ONE)
    vql = "SELECT hunt(artifacts='Custom.One', description='load').HuntId AS H FROM scope()"
    hunt = query(d, vql)[0]["H"]
    began = time.monotonic()
    recruited = lambda: d.master.metrics().get("velociraptor_hunt_recruits_total", 0)
    wait("a third", lambda: recruited() >= clients / 3, 600)
    d.nodes[2].process.kill()
    say(f"minion killed after {time.monotonic() - began:.1f} s")
    d.nodes[2].start(d.binary)
    wait("two thirds", lambda: recruited() >= clients * 2 / 3, 600)
    d.master.process.kill()
    say(f"master killed after {time.monotonic() - began:.1f} s")
    down = time.monotonic()
    d.master.start(d.binary)
    say(f"master up again after {time.monotonic() - down:.1f} s")

    def stats():
        rows = query(d, f"SELECT stats FROM hunts(hunt_id='{hunt}')")
        return rows and rows[0]["stats"]

    def done():
        s = stats() or {}
        return s if s.get("total_clients_with_results", 0) >= clients else None

    end = wait("all results", done, 900, 2)
    say(f"all {clients} have results after {time.monotonic() - began:.1f} s: {end}")
    rows = query(d, f"SELECT ClientId, FlowId, Flow.create_time AS T, Flow.state AS S FROM hunt_flows(hunt_id='{hunt}')")
    flows = collections.Counter(r["ClientId"] for r in rows)
    say(f"flows: {len(rows)} of {len(flows)} clients, most of one client {max(flows.values())}, "
        f"states {dict(collections.Counter(r['S'] for r in rows))}")
    times = sorted(float(r["T"]) / 1e6 if float(r["T"]) > 1e12 else float(r["T"]) for r in rows)
    worst, i = 0, 0
    for j, t in enumerate(times):
        while t - times[i] >= 1:
            i += 1
        worst = max(worst, j - i + 1)
    say(f"most recruited in any one second: {worst} (limit {RATE})")
    curve = collections.Counter(int(t - times[0]) for t in times)
    say("a second each: " + " ".join(str(curve.get(s, 0)) for s in range(int(times[-1] - times[0]) + 1)))
    ok = len(rows) == len(flows) == clients and worst <= RATE
    say("exact" if ok else "NOT EXACT")
    sys.exit(0 if ok else 1)
finally:
    d.stop()
