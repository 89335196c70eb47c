#!/usr/bin/env python3
"""Measures the web GUI of a server that runs here: server time of every screen, idle and
while agents saturate it, first paint, content and weight of each screen, and a set of ten million rows.

    velociraptor gui --datastore demo &          # prints the administrator's password
    tools/gui_figures.py --gui https://127.0.0.1:8889 --password PW --datastore demo \\
        --program target/release/velociraptor

Server time is from sending a request on an open connection to the last byte of its answer; a
screen is the calls it makes when it is opened, one after the other. `--load N` clients of
`pool_client` are the load (0: idle alone). The big set is written into the datastore as a
settled result set below a client of its own, and stays there.

Only the standard library is used; the browser is `chromium`, spoken to over DevTools.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

BIG_CLIENT, BIG_FLOW, BIG_SET = "C.00000000000b1600", "F.BIG", "Custom.Big"


class Server:
    """One connection, used again for each call, as a browser does."""

    def __init__(self, base, user, password):
        url = urllib.parse.urlsplit(base)
        self.url, self.path = url, url.path.rstrip("/")
        self.auth = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.open()

    def open(self):
        if self.url.scheme == "https":
            tls = ssl._create_unverified_context()
            self.conn = http.client.HTTPSConnection(self.url.hostname, self.url.port, context=tls)
        else:
            self.conn = http.client.HTTPConnection(self.url.hostname, self.url.port)
        self.conn.connect()
        self.conn.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path, **headers):
        self.conn.request("GET", self.path + path, headers={"Authorization": self.auth, **headers})
        answer = self.conn.getresponse()
        body = answer.read()
        if answer.status >= 400:
            sys.exit(f"{path}: {answer.status} {body[:300]!r}")
        return body, answer

    def json(self, path):
        return json.loads(self.get(path)[0])

    def timed(self, paths):
        """Milliseconds of these calls, one after the other."""
        began = time.perf_counter()
        for path in paths:
            self.get(path)
        return (time.perf_counter() - began) * 1000


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]


def screens(server):
    """What each screen asks for when it is opened."""
    clients = server.json("/api/fleet/clients?rows=50")["items"]
    if not clients:
        sys.exit("no client has enrolled: let one, and collect something from it")
    client = clients[0]["client_id"]
    table = server.json(f"/api/v1/GetClientFlows?client_id={client}&rows=50")
    at = table.get("columns", []).index("_Flow") if table.get("columns") else 0
    flows = [json.loads(r["json"])[at] for r in table.get("rows", [])]
    flow = next((f for f in flows if f.get("artifacts_with_results")), None)
    host = [f"/api/v1/GetClient/{client}", f"/api/v1/GetClientMetadata/{client}"]
    of = f"client_id={client}"
    out = {
        "clients": ["/api/fleet/clients?rows=50"],
        "host": host + [f"/api/v1/GetClientFlows?{of}&rows=10", "/api/fleet/artifacts"],
        "collections": [f"/api/v1/GetClientFlows?{of}&rows=50"],
        "collect": ["/api/fleet/artifacts"],
        "files": [f"/api/v1/VFSStatDirectory?{of}&vfs_components=auto",
                  f"/api/v1/VFSListDirectory/{client}?vfs_components=auto",
                  f"/api/fleet/fetched?{of}&vfs_components=auto"],
        "shell": [host[0], "/api/fleet/artifacts", f"/api/v1/GetClientFlows?{of}&rows=100"],
        "events": [f"/api/fleet/events?{of}"],
        "server events": ["/api/fleet/events?client_id=server",
                          "/api/fleet/event_days?client_id=server&name=Server.Audit.Logs"],
        "hunts": ["/api/v1/ListHunts?count=500&summary=true"],
        "artifacts": ["/api/fleet/artifacts", "/api/fleet/artifact/Generic.Client.Info"],
        "cluster": ["/api/fleet/cluster"],
        "users": ["/api/fleet/users"],
    }
    if flow:
        name = urllib.parse.quote(flow["artifacts_with_results"][0])
        one = f"{of}&flow_id={flow['session_id']}"
        out["collection"] = [f"/api/v1/GetFlowDetails?{one}", f"/api/fleet/table?{one}&name={name}&rows=50"]
    for hunt in server.json("/api/v1/ListHunts?count=1&summary=true").get("items", [])[:1]:
        h = f"hunt_id={hunt['hunt_id']}"
        out["hunt"] = [f"/api/v1/GetHunt?{h}", f"/api/v1/GetHuntFlows?{h}&rows=50"]
        out["hunt results"] = [f"/api/fleet/hunt_sets?{h}", f"/api/fleet/table?{h}&rows=50"]
    return out


def measure(server, all_screens, times):
    """p50 and p99 of each screen; the screens take turns."""
    found = {name: [] for name in all_screens}
    for name, paths in all_screens.items():
        server.timed(paths)
    for _ in range(times):
        for name, paths in all_screens.items():
            found[name].append(server.timed(paths))
    return found


def load(args):
    """Clients that check in and send rows as fast as they are answered."""
    folder = pathlib.Path(args.datastore)
    keys = pathlib.Path(tempfile.gettempdir()) / f"gui-figures-{args.load}.pem"
    command = [args.program, "-c", str(folder / "client.config.yaml"), "-a", str(folder / "api.config.yaml"),
               "pool_client", "--number", str(args.load), "--keys", str(keys), "--collect", args.collect,
               "--tasks", "100000"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def write_big(folder, rows):
    """A settled set, as the server writes them: rows and an index of their places."""
    at = pathlib.Path(folder) / "clients" / BIG_CLIENT / "artifacts" / BIG_SET
    at.mkdir(parents=True, exist_ok=True)
    data, index = at / f"{BIG_FLOW}.json", at / f"{BIG_FLOW}.json.index"
    if index.exists() and index.stat().st_size == rows * 8:
        return
    names = ["svchost.exe", "sshd", "bash", "chrome.exe", "systemd"]
    place = 0
    with open(data, "wb") as d, open(index, "wb") as i:
        for start in range(0, rows, 100_000):
            lines, places = [], []
            for n in range(start, min(rows, start + 100_000)):
                line = b'{"N":%d,"Pid":%d,"Name":"%s","Path":"/opt/app/%d"}\n' % (
                    n, n * 7919 % 65536, names[n % 5].encode(), n % 977)
                places.append(place)
                place += len(line)
                lines.append(line)
            d.write(b"".join(lines))
            i.write(struct.pack(f"<{len(places)}Q", *places))


def spent(pid):
    """Seconds of CPU that the server has used, all threads; 0 without its number."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid):
    """Most memory the server ever had, MB."""
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmHWM"))


def big(server, args):
    """Open, page, filter, sort, count: milliseconds, and of CPU."""
    write_big(args.datastore, args.rows)
    of = f"/api/fleet/table?client_id={BIG_CLIENT}&flow_id={BIG_FLOW}&name={BIG_SET}&rows=50"
    total = server.json(of)["total"]
    if total != args.rows:
        sys.exit(f"the big set has {total} rows, not {args.rows}")
    before = spent(args.pid)
    pages = [server.timed([f"{of}&start={n * (args.rows // 200)}"]) for n in range(200)]
    each = (spent(args.pid) - before) * 1000 / len(pages)
    out = {"page p50": (quantile(pages, 0.5), each), "page p99": (quantile(pages, 0.99), each)}
    for name, more in [("filter", "&f=Name:^ssh"), ("filter, next page", "&f=Name:^ssh&start=50"),
                       ("filter, anywhere in a row", "&f=:app/97"), ("filter that finds nothing", "&f=Path:nowhere"),
                       ("sort", "&sort=-Pid"), ("sort, next page", "&sort=-Pid&start=50"),
                       ("count values", None)]:
        path = of + more if more else of.replace("/table", "/count") + "&column=Name"
        before = spent(args.pid)
        out[name] = (server.timed([path]), (spent(args.pid) - before) * 1000)
    return out


class Browser:
    """Chromium over its DevTools socket."""

    def __init__(self, program):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--disable-dev-shm-usage", "--remote-debugging-port=0", "--ignore-certificate-errors",
             f"--user-data-dir={self.profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if line.startswith("DevTools listening on "):
                url = urllib.parse.urlsplit(line.split()[-1])
                break
        self.sock = socket.create_connection((url.hostname, url.port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.sock.sendall((f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nUpgrade: websocket\r\n"
                           f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.sock.recv(4096)
        self.buffer = self.buffer.split(b"\r\n\r\n", 1)[1]
        self.next, self.session, self.bytes = 0, None, 0
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network"]:
            self.call(f"{domain}.enable")

    def take(self, n):
        while len(self.buffer) < n:
            self.buffer += self.sock.recv(65536)
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def message(self):
        text = b""
        while True:
            first, length = self.take(2)
            length &= 127
            if length == 126:
                (length,) = struct.unpack(">H", self.take(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.take(8))
            text += self.take(length)
            if first & 128:
                return json.loads(text)

    def call(self, method, **params):
        self.next += 1
        message = {"id": self.next, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data, mask = json.dumps(message).encode(), os.urandom(4)
        size = struct.pack("!BH", 254, len(data)) if 125 < len(data) < 65536 else (
            struct.pack("!B", 128 | len(data)) if len(data) <= 125 else struct.pack("!BQ", 255, len(data)))
        self.sock.sendall(b"\x81" + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))
        while True:
            answer = self.message()
            if answer.get("method") == "Network.loadingFinished":
                self.bytes += answer["params"]["encodedDataLength"]
            if answer.get("id") == self.next:
                return answer.get("result", answer)

    def value(self, script):
        return self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get("value")

    def until(self, script, seconds=60):
        end = time.time() + seconds
        while not self.value(f"(() => {{ try {{ return !!({script}) }} catch {{ return false }} }})()"):
            if time.time() > end:
                sys.exit(f"the browser never saw {script}")
            time.sleep(0.02)

    def close(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.profile.cleanup()


# Resolves with the time of the largest thing that was painted, milliseconds.
LARGEST = """new Promise(done => {
  let last = 0;
  new PerformanceObserver(l => { for (const e of l.getEntries()) last = Math.max(last, e.startTime); })
    .observe({ type: "largest-contentful-paint", buffered: true });
  setTimeout(() => done(last), 50);
})"""


def screen_addresses(server):
    """The screens as somebody opens them by their address."""
    asked = screens(server)
    client = asked["host"][0].rsplit("/", 1)[1]
    host = f"/app/host/{client}"
    out = {
        "clients": "/app/clients", "host": host, "collections": f"{host}/collections", "files": f"{host}/files",
        "shell": f"{host}/shell", "events": f"{host}/events", "collect": f"/app/collect?c={client}",
        "hunts": "/app/hunts", "notebooks": "/app/notebooks", "artifacts": "/app/artifacts",
        "server events": "/app/events/server", "cluster": "/app/cluster", "users": "/app/users", "help": "/app/help",
    }
    for path in asked.get("collection", [])[:1]:
        flow = urllib.parse.parse_qs(path.split("?")[1])["flow_id"][0]
        for tab in ["overview", "results", "logs", "uploads", "request", "notebook"]:
            out[f"collection, {tab}"] = f"/app/flow/{client}/{flow}?tab={tab}"
    for path in asked.get("hunt", [])[:1]:
        out["hunt"] = "/app/hunt/" + path.split("=")[1]
    for one in server.json("/api/fleet/notebooks")["items"][:1]:
        out["notebook"] = "/app/notebook/" + one["id"]
    return out


def screen_paints(args, server):
    """Of each screen: first paint, when its content is there, and what a browser fetches for it."""
    b = Browser(args.browser)
    log_in(b, args)
    out = {}
    try:
        for name, path in screen_addresses(server).items():
            firsts, useful, weights = [], [], []
            b.call("Network.clearBrowserCache")
            for _ in range(args.paints + 1):
                b.call("Page.navigate", url="about:blank")
                b.bytes = 0
                b.call("Page.navigate", url=args.gui + path)
                b.until("document.querySelector('main h1') && !document.querySelector('main .skel')")
                b.until("performance.getEntriesByName('first-contentful-paint').length")
                largest = b.value(LARGEST)
                firsts.append(b.value("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                useful.append(largest)
                weights.append(b.bytes / 1024)
            # The first visit is the one without anything kept.
            out[name] = (quantile(firsts[1:], 0.5), quantile(useful[1:], 0.5), useful[0], weights[0], quantile(weights[1:], 0.5))
    finally:
        b.close()
    return out


def log_in(b, args):
    b.call("Page.navigate", url=args.gui + "/app/clients")
    b.until("document.getElementById('user')")
    b.value(f"document.getElementById('user').value = {json.dumps(args.user)}; "
            f"document.getElementById('password').value = {json.dumps(args.password)}; "
            "document.querySelector('button[type=submit]').click()")
    b.until("document.querySelector('tbody a')")


def pages(args):
    """Weight of the first visit; first paint and first rows of later ones."""
    b = Browser(args.browser)
    try:
        log_in(b, args)
        first, paints, useful = b.bytes, [], []
        for _ in range(args.paints):
            b.bytes = 0
            b.call("Page.navigate", url="about:blank")
            b.call("Page.navigate", url=args.gui + "/app/clients")
            b.until("document.querySelector('tbody a')")
            b.until("performance.getEntriesByName('first-contentful-paint').length")
            paints.append(b.value("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            useful.append(b.value("Math.max(...performance.getEntriesByType('resource').filter(r => r.name.includes('/fleet/clients')).map(r => r.responseEnd))"))
        return {"first visit, log-in included, KB": first / 1024, "later visit, KB": b.bytes / 1024,
                "first contentful paint p50, ms": quantile(paints, 0.5), "rows there p50, ms": quantile(useful, 0.5)}
    finally:
        b.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--gui", default="https://127.0.0.1:8889")
    p.add_argument("--user", default="admin")
    p.add_argument("--password", required=True)
    p.add_argument("--datastore", required=True, help="the folder of `gui --datastore`")
    p.add_argument("--program", default="velociraptor", help="for the load")
    p.add_argument("--browser", default="chromium", help="empty for none")
    p.add_argument("--times", type=int, default=200, help="each screen is opened so often; 0: not at all")
    p.add_argument("--paints", type=int, default=20)
    p.add_argument("--load", type=int, default=200, help="clients")
    p.add_argument("--settle", type=float, default=20, help="seconds until the load is under way")
    p.add_argument("--collect", default="Linux.Sys.Users")
    p.add_argument("--pid", type=int, help="of the server: its CPU time and memory are shown for the big set")
    p.add_argument("--rows", type=int, default=10_000_000, help="of the big set; 0 for none")
    args = p.parse_args()
    server = Server(args.gui, args.user, args.password)
    all_screens = screens(server) if args.times else {}
    idle = measure(server, all_screens, args.times)
    busy = None
    if args.load:
        running = load(args)
        try:
            time.sleep(args.settle)
            busy = measure(server, all_screens, args.times)
            if running.poll() is not None:
                sys.exit(f"the load ended by itself ({running.returncode})")
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
                running.wait()
    if all_screens:
        print(f"{'screen':15} {'calls':>5} {'idle p50':>9} {'idle p99':>9} {'busy p99':>9} {'ratio':>6}   ms, {args.times} times, {args.load} clients")
    for name, values in idle.items():
        line = f"{name:15} {len(all_screens[name]):5} {quantile(values, .5):9.2f} {quantile(values, .99):9.2f}"
        if busy:
            now = quantile(busy[name], 0.99)
            line += f" {now:9.2f} {now / quantile(values, .99):6.2f}"
        print(line)
    if args.browser:
        for name, value in pages(args).items():
            print(f"{name:34} {value:9.1f}")
        print(f"{'screen':24} {'paint':>6} {'content':>8} {'first':>6} {'KB':>6} {'later':>6}   ms p50 of {args.paints}; content at the first visit; KB then and later")
        for name, (paint, useful, first, cold, warm) in screen_paints(args, server).items():
            print(f"{name:24} {paint:6.0f} {useful:8.0f} {first:6.0f} {cold:6.1f} {warm:6.1f}")
    if args.rows:
        print(f"a set of {args.rows:,} rows")
        for name, (took, cpu) in big(server, args).items():
            print(f"{name:34} {took:9.1f} ms" + (f" {cpu:9.1f} ms of CPU" if args.pid else ""))
        if args.pid:
            print(f"{'most memory of the server':34} {memory(args.pid):9.1f} MB")


if __name__ == "__main__":
    main()
