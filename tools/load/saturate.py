"""A server saturated by clients that flood it, and what it did meanwhile."""

import time

from rig import load, say, wait

POST = 128 << 10


def cpu0():
    """What CPU 0 has done so far, and has not, in ticks: the kernel's work for the server included."""
    line = next(l for l in open("/proc/stat") if l.startswith("cpu0 "))
    user, nice, system, idle, wait_, irq, soft, *_ = map(int, line.split()[1:])
    return user + nice + system + irq + soft, idle + wait_


def counts(m):
    refused = sum(v for k, v in m.items() if k.startswith("velociraptor_admission_refused_total"))
    return {"bytes": m["velociraptor_journal_bytes_total"], "rows": m["velociraptor_rows_total"],
            "refused": refused + m["velociraptor_body_budget_refusals_total"]}


def saturate(d, n, seconds, probe=None, idle=200):
    """Floods for so long, or until `probe`, given the end of that time, returns: beside so many clients
    that are there already. Returns goodput, the share of CPU 0 that was used, refusals, and what the
    probe returned."""
    server = d.master
    pool = d.pool("https", n, "--ramp", 0, "--flood", POST, cpu=1, nice=5)
    # All have enrolled, which costs more than what is to be measured, and send.
    wait("the flood", lambda: d.held() >= 0.95 * (n + idle), 180)
    time.sleep(8)
    a, cpu, t0, (did, not_) = counts(server.metrics()), server.process.cpu(), time.monotonic(), cpu0()
    times = probe(t0 + seconds) if probe else time.sleep(seconds)
    spent, took = server.process.cpu() - cpu, time.monotonic() - t0
    b, (done, rested) = counts(server.metrics()), cpu0()
    pool.stop()
    good = (b["bytes"] - a["bytes"]) / took
    say(f"  {n} clients, {took:.0f} s: {good / 1e6:.1f} MB/s journaled, {(b['rows'] - a['rows']) / took:.0f} "
        f"rows/s, server {spent / took:.0%} of CPU 0 "
        f"({(done - did) / (done - did + rested - not_):.0%} busy), {b['refused'] - a['refused']:.0f} refused, "
        f"{server.process.rss() / 1e6:.0f} MB, load {load():.1f}")
    return good, spent / took, b["refused"] - a["refused"], times
