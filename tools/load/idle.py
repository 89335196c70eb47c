#!/usr/bin/env python3
"""What idle clients cost: idle.py BINARY [CLIENTS ...]

One server. For each number of clients (default 500 2000 6000), half of them on WebSockets, waits
until all are held, lets it rest, and prints resident memory, connections and CPU time; then the
slope between the first and the last. These are new clients, which enrol and are asked who they are.
Then the server is started again, and the same is seen of clients that come back."""

import sys
import time

from rig import Deployment, load, say, wait

binary, steps = sys.argv[1], [int(n) for n in sys.argv[2:]] or [500, 2000, 6000]
REST = 40
d = Deployment(binary, minions=0)
try:
    d.start()
    server, rows = d.master, []
    say(f"{'clients':>8} {'held':>7} {'connections':>11} {'RSS MB':>8} {'CPU ms/s':>9} {'load':>5}")
    before = 0
    for n in steps:
        began = time.monotonic()
        for scheme in ("https", "wss"):
            d.pool(scheme, (n - before) // 2, "--skip", before // 2, "--ramp", 100,
                   name=f"{scheme}-{n}")
        wait(f"{n} clients", lambda: d.held() >= 0.98 * n, 900, 0.5)
        came = time.monotonic() - began
        time.sleep(REST)
        cpu, at = server.process.cpu(), time.monotonic()
        time.sleep(20)
        spent = (server.process.cpu() - cpu) / (time.monotonic() - at)
        m = server.metrics()
        row = (n, d.held(), m["client_comms_current_connections"], server.process.rss(), spent)
        rows.append(row)
        say(f"{n:>8} {row[1]:>7} {row[2]:>11.0f} {row[3] / 1e6:>8.1f} {row[4] * 1e3:>9.1f} {load():>5.1f}"
            f"   ({(n - before) / came:.0f} clients/s came)")
        before = n
    (a, b) = rows[0], rows[-1]
    say(f"slope: {(b[3] - a[3]) / (b[0] - a[0]) / 1024:.1f} KiB a client, "
        f"{(b[3] - a[3]) / (b[2] - a[2]) / 1024:.1f} KiB a connection; "
        f"{(b[4] - a[4]) / (b[0] - a[0]) * 1e6:.1f} us of CPU a client and second")
    server.process.stop()
    server.start(d.binary)
    say("the same clients come back after a restart:")
    samples, until = [], time.monotonic() + 300
    while time.monotonic() < until:
        m = server.metrics()
        now = (m["client_comms_current_connections"], d.held(), server.process.rss(), server.process.cpu())
        if not samples or now[0] >= samples[-1][0] + steps[-1] / 10 or now[1] >= 0.98 * steps[-1]:
            samples.append(now)
            say(f"  {now[0]:>7.0f} connections, {now[1]:>6} held, {now[2] / 1e6:>7.1f} MB, {now[3]:.1f} s of CPU")
        if now[1] >= 0.98 * steps[-1]:
            break
        time.sleep(1)
    a, b = samples[0], samples[-1]
    n = max(1, b[0] - a[0])
    say(f"slope: {(b[2] - a[2]) / n / 1024:.1f} KiB and {(b[3] - a[3]) / n * 1e3:.1f} ms of CPU a connection; load {load():.1f}")
finally:
    d.stop()
