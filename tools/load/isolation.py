#!/usr/bin/env python3
"""Whether people wait for clients: isolation.py BINARY [CLIENTS [CALLS [SECONDS]]]

One server on CPU 0, virtual clients and the probe on CPU 1. CALLS (default 2000) calls of the API that
the GUI makes, while idle and while CLIENTS (default 800, twice what saturates it) clients send event rows
as fast as they are taken; then goodput with half of them. Then the same with a server whose people and clients share
threads, on which long work is done in place (`frontend --danger_no_isolation`), and with one that besides
takes what all its clients send at once: what the separation is worth, and what the limit. Exit status 1 if
the server was not saturated, so that nothing was shown."""

import sys
import time

from rig import Api, Deployment, at_once, percentile, say, wait
from saturate import saturate

binary = sys.argv[1]
clients, calls, seconds = (int(x) for x in (sys.argv[2:] + ["800", "2000", "60"][len(sys.argv) - 2:]))
PATHS = ["/api/fleet/clients?limit=50", "/api/v1/GetArtifacts?number_of_results=20",
         "/api/fleet/cluster", "/api/v1/SearchClients?query=all&limit=50"]


def probe(api, n, until=0):
    """Times of n calls, at an even pace of a person's page: one every 20 ms or slower."""
    times = []
    with at_once():
        while len(times) < n or time.monotonic() < until:
            t0 = time.perf_counter()
            api.get(PATHS[len(times) % len(PATHS)])
            times.append(time.perf_counter() - t0)
            time.sleep(max(0.0, 0.02 - times[-1]))
    return times


def show(what, times):
    for i, path in enumerate(PATHS):
        own = times[i::len(PATHS)]
        say(f"    {path:<48} p50 {percentile(own, 50) * 1e3:6.1f}  p99 {percentile(own, 99) * 1e3:6.1f}  "
            f"worst {max(own) * 1e3:6.1f} ms")
    say(f"  {what:<10} {len(times)} calls: p50 {percentile(times, 50) * 1e3:6.1f}  p99 "
        f"{percentile(times, 99) * 1e3:6.1f}  worst {max(times) * 1e3:6.1f} ms")
    return percentile(times, 99), max(times)


def run(flags, merge={}):
    # A second of patience: whoever would wait longer is refused, which is overload made visible.
    d = Deployment(binary, minions=0, schemes=["https"], merge={
        "Frontend.resources.concurrency_timeout": 1, **merge})
    try:
        d.master.start(d.binary, cpu=0, extra=flags)
        api = Api(d.master.ports["gui"])
        # The same clients are there before and during the flood: idle, and then sending.
        quiet = d.pool("https", 200, "--skip", 2 * clients, "--ramp", 50, cpu=1, nice=5)
        idlers = d.pool("https", clients, "--ramp", 50, cpu=1, nice=5)
        wait("idle clients", lambda: d.held() >= 0.95 * (clients + 200), 120)
        # What enrolling leaves to be put in order is done.
        time.sleep(40)
        probe(api, 50)
        idle = show("idle", probe(api, calls))
        idlers.kill()
        wait("the idle clients to leave", lambda: d.held() < 0.6 * (clients + 200), 120)
        good, share, refused, times = saturate(d, clients, seconds, lambda until: probe(api, calls, until))
        busy = show("saturated", times)
        say(f"  p99 saturated/idle {busy[0] / idle[0]:.1f}, worst/idle p99 {busy[1] / idle[0]:.1f}")
        if not flags:
            half, *_ = saturate(d, clients // 2, 20)
            say(f"  goodput at half and all of this load: {half / 1e6:.1f}, {good / 1e6:.1f} MB/s; "
                f"all/best {good / max(half, good):.0%}")
        quiet.stop()
        return busy[0] / idle[0], share, refused
    finally:
        d.stop()


say("people and clients apart:")
apart = run([])
say("people and clients on the same threads:")
together = run(["--danger_no_isolation"])
say("the same, and as many of them at once as there are clients:")
open_ = run(["--danger_no_isolation"], {"Frontend.resources.concurrency": clients})
shown = apart[1] >= 0.95 and apart[2] > 0
say(f"saturated: {'yes' if shown else 'NO'}; ratio apart {apart[0]:.1f}, together {together[0]:.1f}, "
    f"together and without limit {open_[0]:.1f}")
sys.exit(0 if shown else 1)
