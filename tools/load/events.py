#!/usr/bin/env python3
"""A million event rows over three frontends that are killed: events.py BINARY [CLIENTS [SECONDS [ROWS]]]

A master and two minions. An event query on each of CLIENTS (default 200) virtual clients, half of them
on WebSockets, gives ROWS (default 50) numbered rows a second for SECONDS (default 100). Meanwhile each
minion and the master are killed with signal 9 and started again, twice around. Then everything is killed,
`datastore settle` runs, and the files are read: every run of the query from its first row on, each row
once, and no fewer than were acknowledged. Exit status 1 if not."""

import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "nfs-cluster"))
from audit import Events
from rig import Deployment, load, query, say, wait

binary = sys.argv[1]
clients, seconds, each = (int(x) for x in (sys.argv[2:] + ["200", "100", "50"][len(sys.argv) - 2:]))
BEATS = f"""name: Load.Beats
type: CLIENT_EVENT
sources:
  - query: |
      LET Run <= rand(range=1000000000)
      SELECT Run, N FROM foreach(
        row={{ SELECT _value AS A, sleep(ms=1000) AS S FROM range(start=0, end={seconds}, step=1) }},
        query={{ SELECT Run, A * {each} + _value AS N FROM range(start=0, end={each}, step=1) }})
"""
d = Deployment(binary, merge={"defaults.event_max_wait": 1, "defaults.event_max_wait_jitter": 1})
try:
    d.start()
    reports = {s: f"{d.d}/{s}.report.json" for s in ("https", "wss")}
    for scheme, report in reports.items():
        d.pool(scheme, clients // 2, "--ramp", 50, "--report", report)
    wait("all clients", lambda: d.held() >= 0.98 * clients, 300, 0.5)
    say(f"{clients} clients held, load {load():.1f}")
    query(d, "SELECT artifact_set(definition=D) FROM scope()", D=BEATS)
    query(d, "SELECT set_client_monitoring(value=dict(artifacts=dict(artifacts=['Load.Beats',]))) FROM scope()")
    began = time.monotonic()
    for i in range(6):
        node = d.nodes[(i + 1) % 3]
        time.sleep(max(0.0, began + seconds * (i + 1) / 7 - time.monotonic()))
        node.process.kill()
        at = time.monotonic()
        time.sleep(2)
        node.start(d.binary)
        say(f"  {at - began:5.1f} s: {node.role} killed; up again after {time.monotonic() - at:.1f} s")
    time.sleep(max(0.0, began + seconds + 90 - time.monotonic()))
    for p in d.pools:
        p.stop(300)
    acknowledged = sum(json.load(open(r))["event_rows"] for r in reports.values())
    for n in d.nodes:
        n.process.kill()
    t0 = time.monotonic()
    d.run("--config", "nodes/server.config.yaml", "datastore", "settle")
    e = Events(pathlib.Path(d.d) / "ds", "Load.Beats")
    say(f"settled in {time.monotonic() - t0:.0f} s; {acknowledged} event rows acknowledged, of all artifacts; "
        f"{e.rows} of {e.runs} runs on {e.clients} clients found, {e.full(seconds * each)} runs whole")
    ok = not e.wrong and e.clients == clients and e.rows >= clients * seconds * each
    for w in e.wrong[:20]:
        say(f"  {w}")
    say(f"{'exact' if ok else 'NOT EXACT'}, load {load():.1f}")
    sys.exit(0 if ok else 1)
finally:
    d.stop()
