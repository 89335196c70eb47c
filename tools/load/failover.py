#!/usr/bin/env python3
"""How long until clients of a killed node have a live reader:
failover.py BINARY [CLIENTS [ours|stock|balanced [IDLE-SECONDS]]]

A master and two minions at default settings, CLIENTS (default 3000) virtual clients, half of them on
WebSockets, every one with the URLs of all three nodes, or (`balanced`) with that of a HAProxy. When all are held, one minion is killed with
signal 9. Counts the readers on the nodes that are left, five times a second, and prints when 95 % and
all of the killed node's clients were held again, and what the nodes say of their queues. A client of
HTTP comes again a second after each poll of 60 to 90, so a few are never held: "all" is when no more
are missing than 2 % of all clients of HTTP."""

import sys
import threading
import time

from rig import Deployment, here, histogram_bound, load, query, say, wait

binary = sys.argv[1]
clients = int((sys.argv[2:] or ["3000"])[0])
backoff = (sys.argv[3:] or ["ours"])[0]
rest = float((sys.argv[4:] or ["20"])[0])
d = Deployment(binary)
try:
    d.start()
    flags = ["--ramp", 100, "--backoff", "stock" if backoff == "stock" else "ours"]
    if backoff == "balanced":
        # A balancer has two files open for a connection, and a WebSocket client two connections:
        # more than one process may have here.
        for name, scheme, share, skip in (("b1", "https", 2, 0), ("b2", "wss", 4, 0), ("b3", "wss", 4, clients // 4)):
            config = d.client_config(scheme, [d.balancer(name)], name)
            d.pool(scheme, clients // share, "--skip", skip, *flags, config=config)
    else:
        for scheme in ("https", "wss"):
            d.pool(scheme, clients // 2, *flags)
    began = time.monotonic()
    wait("all clients", lambda: d.held() >= 0.98 * clients, 1200, 0.5)
    say(f"{clients} clients held after {time.monotonic() - began:.0f} s, load {load():.1f}")
    time.sleep(rest / 2)
    usual, until = [], time.monotonic() + rest
    while time.monotonic() < until:
        usual.append(d.held())
        time.sleep(0.5)
    say(f"held at any moment: {min(usual)} to {max(usual)}")
    left, dead = d.nodes[:2], d.nodes[2]
    lost = here(dead.metrics())
    before = [n.metrics() for n in left]
    held = sum(map(here, before))
    cpu = [n.process.cpu() for n in left] + [p.cpu() for p in d.pools]
    say(f"held by node: {[here(m) for m in before] + [lost]}")
    # People go on meanwhile: what they ask for at once must not wait behind those who return.
    urgent = ("SELECT collect_client(client_id=client_id, artifacts='Generic.Client.Info', urgent=TRUE, "
              "env=dict()).flow_id AS F FROM clients() LIMIT 300")
    asked = threading.Thread(target=lambda: query(d, urgent))
    dead.process.kill()
    asked.start()
    t0, marks, shown = time.monotonic(), {}, -1
    while len(marks) < 3 and time.monotonic() - t0 < 400:
        now = sum(here(n.metrics()) for n in left)
        back, at = now - held, time.monotonic() - t0
        for share in (0.5, 0.95):
            if back >= share * lost:
                marks.setdefault(share, at)
        if now >= clients - max(1, clients // 100):
            marks.setdefault(1.0, at)
        if int(at) // 5 != shown:
            shown = int(at) // 5
            say(f"  {at:5.1f} s: {back} of {lost} back")
        time.sleep(0.2)
    asked.join()
    for share, at in marks.items():
        say(f"{share:4.0%} of {lost} clients held again after {at:.1f} s")
    after = [n.process.cpu() for n in left] + [p.cpu() for p in d.pools]
    say("CPU seconds since: " + ", ".join(f"{n} {b - a:.1f}" for n, a, b in
        zip(["master", "minion"] + [p.name for p in d.pools], cpu, after)))
    for n, was in zip(left, before):
        now = n.metrics()
        delta = {k: now.get(k, 0) - was.get(k, 0) for k in now}
        bound = lambda limit, q: histogram_bound(now, "velociraptor_admission_wait_seconds", limit, q, was)
        say(f"{n.role}: connections {delta['velociraptor_connections_total']:.0f}, shed "
            f"{delta['frontend_loadshed_count']:.0f}, handshakes failed "
            f"{delta['velociraptor_handshake_failures_total']:.0f}; turn of a connection p99 <= "
            f"{bound('connection', .99)} s, key look-up p99 <= {bound('lookup', .99)} s, urgent p99 <= "
            f"{bound('urgent', .99)} s")
    say(f"load {load():.1f}")
finally:
    d.stop()
