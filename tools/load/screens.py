#!/usr/bin/env python3
"""How long each screen of the web GUI waits for the server, idle and saturated:
screens.py BINARY [CLIENTS [ROUNDS [SECONDS]]]

One server on CPU 0, virtual clients and the probe on CPU 1. An agent of ours gives it something to show:
collections with rows, logs and uploads, listed folders, a shell, a hunt, events, a notebook. Then every
screen is opened ROUNDS (default 200) times, the screens in turn: the calls that the page makes, those that
it makes at once on connections of their own, with the stream of news that each page holds open beside them.
Once while nothing else happens, once while CLIENTS (default 400) clients send event rows as fast as they are
taken, for SECONDS (default 60) or as long as the rounds take. A screen's time is from its first request to
the last byte of its last answer. Exit status 1 if the server was not saturated, so that nothing was shown."""

import concurrent.futures
import http.client
import sys
import threading
import time
import urllib.parse

from rig import Api, Deployment, Process, at_once, before_others, load, percentile, say, wait
from saturate import saturate

binary = sys.argv[1]
clients, rounds, seconds = (int(x) for x in (sys.argv[2:] + ["400", "200", "60"][len(sys.argv) - 2:]))
GOAL = 2
# A person does not open screens faster than this, seconds.
PACE = 0.02
ARTIFACTS = ["Linux.Sys.Pslist", "Linux.Sys.Users", "Linux.Sys.BashShell"]


class Pages:
    """The connections of a browser, kept, one for each call that it makes at once."""

    def __init__(self, port, most=6):
        self.free = [Api(port) for _ in range(most)]
        self.pool = concurrent.futures.ThreadPoolExecutor(most, initializer=before_others)

    def one(self, path):
        api = self.free.pop()
        try:
            return api.get(path)
        finally:
            self.free.append(api)

    def open(self, stages):
        """Seconds that a screen waits: stages one after the other, the calls of one at once."""
        began = time.perf_counter()
        for calls in stages:
            if len(calls) == 1:
                self.one(calls[0])
            else:
                list(self.pool.map(self.one, calls))
        return time.perf_counter() - began


def news(port, path, stop):
    """The stream that an open page reads."""
    api = Api(port, timeout=5)
    api.c.request("GET", path, headers=api.headers)
    answer = api.c.getresponse()
    while not stop.is_set():
        try:
            if not answer.read1(65536):
                return
        except TimeoutError:
            pass
        except (OSError, http.client.HTTPException):
            return  # the server is stopped


def prepare(d, api):
    """Something to show; returns the stages of each screen."""
    agent = Process("agent", [d.binary, "--config", d.configs["https"], "client", "--writeback", f"{d.d}/agent.yaml"],
                    f"{d.d}/agent.log", cwd=d.d, cpu=1, nice=5)
    d.pools.append(agent)
    enrolled = lambda: api.json("/api/fleet/clients?rows=50").get("items")
    client = wait("the agent", enrolled, 120)[0]["client_id"]
    quote = urllib.parse.quote
    of = f"client_id={client}"

    def collect(artifact, env=()):
        ask = {"client_id": client, "artifacts": [artifact], "urgent": True,
               "specs": [{"artifact": artifact, "parameters": {"env": [{"key": k, "value": v} for k, v in env]}}]}
        return api.post("/api/v1/CollectArtifact", ask)["flow_id"]

    flows = [collect(ARTIFACTS[0]), collect(ARTIFACTS[1]), collect(ARTIFACTS[2], [("Command", "id; ls /")])]
    listing = api.post("/api/v1/VFSRefreshDirectory", {"client_id": client, "vfs_components": ["auto"], "depth": 0})["flow_id"]

    def state(flow):
        return api.json(f"/api/v1/GetFlowDetails?{of}&flow_id={flow}")["context"]["state"]

    for flow in [*flows, listing]:
        wait(f"collection {flow}", lambda: state(flow) == "FINISHED", 120)
    hunt = api.post("/api/v1/CreateHunt", {"hunt_description": "load", "state": "RUNNING",
                                           "start_request": {"artifacts": [ARTIFACTS[1]]}})["flow_id"]
    book = api.post("/api/v1/NewNotebook", {"name": "load"})["notebook_id"]
    api.post("/api/v1/NewNotebookCell", {"notebook_id": book, "type": "vql", "input": "SELECT _value FROM range(end=200)"})
    wait("the hunt", lambda: api.json(f"/api/v1/GetHuntFlows?hunt_id={hunt}&rows=5").get("rows"), 120)
    cells = [c["cell_id"] for c in api.json(f"/api/v1/GetNotebooks?notebook_id={book}")["items"][0]["cell_metadata"]]
    host, artifacts = f"/api/v1/GetClient/{client}", "/api/fleet/artifacts"
    details = f"/api/v1/GetFlowDetails?{of}&flow_id={flows[0]}"
    table = f"/api/fleet/table?{of}&flow_id={flows[0]}"
    rows = f"&name={quote(ARTIFACTS[0])}&rows=50"
    h = f"hunt_id={hunt}"
    return client, {
        "clients": [["/api/fleet/clients?rows=50"]],
        "host": [[host, f"/api/v1/GetClientMetadata/{client}", f"/api/v1/GetClientFlows?{of}&rows=10", artifacts]],
        "collections": [[f"/api/v1/GetClientFlows?{of}&start_row=0&rows=50"]],
        "collect": [[artifacts], [f"/api/fleet/artifact/{ARTIFACTS[0]}"]],
        "collection": [[details], [table + rows]],
        "collection, sorted": [[details], [table + rows + "&sort=-Pid"]],
        "collection, filtered": [[details], [table + rows + "&f=Name:sh"]],
        "collection, log": [[details], [f"{table}&kind=log&start=0&rows=1000"]],
        "collection, uploads": [[details], [f"/api/v1/GetTable?{of}&flow_id={flows[0]}&type=uploads&rows=2000"]],
        "collection, request": [[details], [f"/api/v1/GetFlowRequests?{of}&flow_id={flows[0]}"]],
        "files": [[host], [f"/api/v1/VFSStatDirectory?{of}&vfs_components=auto", f"/api/v1/VFSListDirectory/{client}?vfs_components=auto",
                           f"/api/fleet/fetched?{of}&vfs_components=auto"]],
        "shell": [[host, artifacts], [f"/api/v1/GetClientFlows?{of}&start_row=0&rows=100"],
                  [f"/api/fleet/table?{of}&flow_id={flows[2]}&name={quote(ARTIFACTS[2])}&rows=2000"]],
        "events": [[f"/api/fleet/events?{of}"]],
        "server events": [["/api/fleet/events?client_id=server"], ["/api/fleet/event_days?client_id=server&name=Server.Audit.Logs"],
                          ["/api/fleet/table?client_id=server&kind=events&name=Server.Audit.Logs&rows=50&sort=-_ts&day="
                           + time.strftime("%Y-%m-%d", time.gmtime())]],
        "event tables": [["/api/v1/GetClientMonitoringState", artifacts]],
        "hunts": [["/api/v1/ListHunts?count=500&summary=true"]],
        "hunt": [[f"/api/v1/GetHunt?{h}", f"/api/v1/GetHuntFlows?{h}&start_row=0&rows=50"]],
        "hunt results": [[f"/api/v1/GetHunt?{h}", f"/api/fleet/hunt_sets?{h}"], [f"/api/fleet/table?{h}&rows=50"]],
        "notebooks": [["/api/fleet/notebooks"]],
        "notebook": [[f"/api/v1/GetNotebooks?notebook_id={book}"],
                     [f"/api/fleet/notebook_cell?notebook_id={book}&cell_id={c}" for c in cells]],
        "artifacts": [[artifacts], [f"/api/fleet/artifact/{ARTIFACTS[0]}"]],
        "cluster": [["/api/fleet/cluster"]],
        "users": [["/api/fleet/users"]],
    }


def probe(pages, screens, n, until=0.0):
    times = {name: [] for name in screens}
    done = 0
    with at_once():
        while done < n or time.monotonic() < until:
            for name, stages in screens.items():
                took = pages.open(stages)
                times[name].append(took)
                time.sleep(max(0.0, PACE - took))
            done += 1
    return times


d = Deployment(binary, minions=0, schemes=["https"], merge={"Frontend.resources.concurrency_timeout": 1})
stop = threading.Event()
try:
    d.master.start(d.binary, cpu=0)
    port = d.master.ports["gui"]
    client, screens = prepare(d, Api(port))
    quiet = d.pool("https", 200, "--skip", 2 * clients, "--ramp", 50, cpu=1, nice=5)
    wait("idle clients", lambda: d.held() >= 190, 180)
    threading.Thread(target=news, args=(port, f"/api/fleet/live?client_id={client}", stop), daemon=True).start()
    pages = Pages(port)
    probe(pages, screens, 3)
    say(f"{len(screens)} screens, {sum(len(c) for s in screens.values() for c in s)} calls, load {load():.1f}")
    idle = probe(pages, screens, rounds)
    good, share, refused, busy = saturate(d, clients, seconds, lambda until: probe(pages, screens, rounds, until), idle=201)
    say(f"{'ms':<22} {'calls':>5} {'idle p50':>9} {'p99':>7} {'worst':>7} {'busy p50':>9} {'p99':>7} {'worst':>7} {'p99 ratio':>10}")
    over = []
    for name, stages in screens.items():
        a, b = idle[name], busy[name]
        figures = [x * 1e3 for v in (a, b) for x in (percentile(v, 50), percentile(v, 99), max(v))]
        ratio = figures[4] / figures[1]
        over += [name] if ratio > GOAL else []
        say(f"{name:<22} {sum(map(len, stages)):5} " + " ".join(f"{x:{w}.1f}" for x, w in zip(figures, (9, 7, 7) * 2))
            + f" {ratio:10.1f}")
    both = [[percentile([t for v in x.values() for t in v], q) * 1e3 for q in (50, 99)] for x in (idle, busy)]
    say(f"all screens: idle p50 {both[0][0]:.1f} p99 {both[0][1]:.1f} ms, busy p50 {both[1][0]:.1f} p99 {both[1][1]:.1f} ms, "
        f"ratio of p99 {both[1][1] / both[0][1]:.1f}")
    shown = share >= 0.95 and refused > 0
    say(f"saturated: {'yes' if shown else 'NO'}; over a ratio of {GOAL}: {', '.join(over) or 'none'}")
    sys.exit(0 if shown else 1)
finally:
    stop.set()
    d.stop()
